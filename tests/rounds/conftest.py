"""Tests of deployed runs share clients, servers and links that can be cut, which lie in this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
