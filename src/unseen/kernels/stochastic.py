"""Reals to words by stochastic rounding: up or down at random, so that the mean is the real itself.

Every result depends on its own value and its own random word alone, so that the same stream gives the same words
everywhere. None of this runs in constant time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled

_UNIT = 2.0**-53
_DOWN = np.uint64(11)


@compiled
def to_words(
    values: NDArray[Any], factor: float, limit: float, random: NDArray[np.uint64], mask: np.uint64, out: NDArray[Any]
) -> int:
    """Write clip(x, ±limit)·factor, rounded down or up, to ``out``, modulo mask + 1; return how many x are no numbers.

    With f the fractional part it is rounded up with probability ⌈2^53·f⌉/2^53. ``factor``·``limit`` < 2^62.
    """
    wrong = 0
    for i in range(len(values)):
        value = np.float64(values[i])
        wrong += value != value  # noqa: PLR0124  # true of NaN only
        scaled = min(max(value, -limit), limit) * factor
        floor = np.floor(scaled)
        up = np.float64(random[i] >> _DOWN) * _UNIT < scaled - floor
        out[i] = (np.uint64(np.int64(floor)) + np.uint64(up)) & mask
    return wrong


@compiled
def from_words(words: NDArray[Any], bits: int, factor: float, out: NDArray[np.float64]) -> None:
    """Write words modulo 2^bits, read as signed integers, times ``factor`` to ``out``."""
    shift = np.uint64(64 - bits)
    for i in range(len(words)):
        out[i] = np.float64(np.int64(np.uint64(words[i]) << shift) >> np.int64(shift)) * factor
