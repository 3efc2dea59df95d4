"""Models of PyTorch, Keras, Hugging Face and scikit-learn as flat vectors, and the base for adapters of others."""

from coterie.training.frameworks.base import Figures, Functions, ModelAdapter
from coterie.training.frameworks.choose import adapter_for

__all__ = ["ModelAdapter", "Functions", "Figures", "adapter_for"]
