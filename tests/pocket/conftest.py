"""The pretraining scripts import each other by plain names, as they do when they are run."""

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts" / "pocket"
sys.path.append(str(SCRIPTS))
