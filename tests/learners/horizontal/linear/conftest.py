"""Tests of learners on tables share a way to play their rounds, which lies one folder up."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
