"""Tests of the trainer share pictures, and the plain PyTorch that it is compared with, which lie in this folder."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
