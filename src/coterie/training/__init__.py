"""What one peer does alone: a model as one flat vector, learners, reference models and losses."""

from coterie.training import losses, models
from coterie.training.figures import Tally
from coterie.training.learner import Evaluation, FitReport, FitState, Learner
from coterie.training.vector import VectorModule

__all__ = ["Evaluation", "FitReport", "FitState", "Learner", "Tally", "VectorModule", "losses", "models"]
