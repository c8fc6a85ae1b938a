"""Nodes of the example project; ``trust_example`` has the rest."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trust_example import BANK, INSURER, Node  # found through the line above


@pytest.fixture
def insurer() -> Node:
    return Node(INSURER)


@pytest.fixture
def bank() -> Node:
    return Node(BANK)
