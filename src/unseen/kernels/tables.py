"""Functions looked up in tables, and random rounding: what every row of a vertical linear model goes through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

_SHIFT = np.uint64(11)
_UNIT = 2.0**-53
_ROWS = 1 << 16


def looked_up(table: Floats, values: Floats, low: float, high: float) -> Floats:
    """Return functions (R, n) at values clipped to [low, high], linear between equidistant points: table (m, R)."""
    out = np.empty((table.shape[1], len(values)))
    pieces = ranges(len(values), max(threads(), len(values) // _ROWS))
    scale = (len(table) - 1) / (high - low)

    def work(index: int) -> None:
        _look_up(table, values[pieces[index]], low, scale, out[:, pieces[index]])

    in_parallel(work, len(pieces))
    return out


def rounded_at_random(values: Floats, scale: float, words: Words) -> Integers:
    """Return values · scale (n,) rounded up or down so that it is right on average; one random word a value."""
    out = np.empty(len(values), np.int64)
    _round_at_random(values, scale, words, out)
    return out


@compiled
def _look_up(table: Floats, values: Floats, low: float, scale: float, out: Floats) -> None:
    last = len(table) - 1
    for row in range(len(values)):
        place = (values[row] - low) * scale
        # NaN compares as false, and becomes the first place: never an address outside the table.
        place = min(place, float(last)) if place > 0.0 else 0.0
        left = min(int(place), last - 1)
        share = place - left
        for index in range(table.shape[1]):
            start = table[left, index]
            out[index, row] = start + share * (table[left + 1, index] - start)


@compiled
def _round_at_random(values: Floats, scale: float, words: Words, out: Integers) -> None:
    for row in range(len(values)):
        out[row] = np.int64(np.floor(values[row] * scale + np.float64(words[row] >> _SHIFT) * _UNIT))
