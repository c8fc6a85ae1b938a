"""Uniform words and bytes to integers of other distributions: inverted cumulative tables, ternary digits.

Every draw depends on its own word alone and floating point is not used, so that the same stream gives the same
integers everywhere. None of this runs in constant time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled

Words = NDArray[np.uint64]

# A guide has an entry for every value of a word's upper bits, so that few words have to look further than one entry.
GUIDE_BITS = 12
_SHIFT = np.uint64(64 - GUIDE_BITS)
# 3^5: the digits of a byte below it are uniform.
_FIVE_DIGITS = np.uint8(243)
_THREE = np.uint8(3)


def guide(thresholds: Words) -> NDArray[np.uint16]:
    """Return, for each value of a word's upper bits, how many of the ascending thresholds lie below all such words."""
    starts = np.arange(1 << GUIDE_BITS, dtype=np.uint64) << _SHIFT
    return np.searchsorted(thresholds, starts, side="left").astype(np.uint16)


@compiled
def invert(words: Words, thresholds: Words, start: NDArray[np.uint16], least: int, out: NDArray[np.int8]) -> int:
    """Write ``least`` + the number of thresholds below each word to ``out``; return how many words equal a threshold.

    ``thresholds`` ascend, and the last one is the largest word; ``start`` is their guide.
    """
    ties = 0
    for i in range(len(words)):
        word = words[i]
        found = np.intp(start[word >> _SHIFT])
        while thresholds[found] < word:
            found += 1
        ties += thresholds[found] == word
        out[i] = found + least
    return ties


@compiled
def ternary(source: NDArray[np.uint8], out: NDArray[np.int64]) -> int:
    """Write uniform integers of {−1, 0, 1} to ``out``, five for a byte below 243; return how many were written."""
    written = 0
    for byte in source:
        if byte < _FIVE_DIGITS:
            for _ in range(min(5, len(out) - written)):
                out[written] = np.int64(byte % _THREE) - 1
                byte //= _THREE  # noqa: PLW2901  # the digits that are left
                written += 1
    return written
