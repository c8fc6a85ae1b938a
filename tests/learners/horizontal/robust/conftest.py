"""Tests of strategies, robust aggregators and compression share a convex problem, which lies one folder up."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
