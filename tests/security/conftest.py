"""A bank's node behind its HTTP, as its own tests have it."""

from tests.node.http.conftest import allied, bare, quick_hashes, staffed

__all__ = ["allied", "bare", "quick_hashes", "staffed"]
