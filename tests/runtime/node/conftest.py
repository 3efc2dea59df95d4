"""The small federation of the simulation's tests is used here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "simulation"))
