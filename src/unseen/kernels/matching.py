"""Sorted lists of tags, two words each, and where two of them hold the same ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled

Tags = NDArray[np.uint64]


def arranged(tags: Tags) -> tuple[Tags, NDArray[np.int64]]:
    """Return ``tags``, shape (n, 2), sorted by their first words, and where each one stood."""
    order, found = np.argsort(tags[:, 0]), np.empty_like(tags)
    _gather(tags, order, found)
    return found, order


def matches(left: Tags, right: Tags) -> NDArray[np.int64]:
    """Return the pairs (i, k) with left[i] == right[k], shape (matches, 2), in the order of k.

    Both have shape (n, 2) and are sorted by their first words; ``left`` holds no tag twice.
    """
    found = np.empty((len(right), 2), np.int64)
    return found[: _matches(left, right, found)]


@compiled
def _gather(tags: Tags, order: NDArray[np.int64], found: Tags) -> None:
    for row in range(len(order)):
        found[row, 0], found[row, 1] = tags[order[row], 0], tags[order[row], 1]


@compiled
def _matches(left: Tags, right: Tags, found: NDArray[np.int64]) -> int:
    count, place = 0, 0
    for row in range(len(right)):
        head, tail = right[row, 0], right[row, 1]
        while place < len(left) and left[place, 0] < head:
            place += 1
        # First words are as good as unique, so that this looks at one tag.
        here = place
        while here < len(left) and left[here, 0] == head:
            if left[here, 1] == tail:
                found[count, 0], found[count, 1] = here, row
                count += 1
                break
            here += 1
    return count
