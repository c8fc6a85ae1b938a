"""Loops of expand-convolute codes (``crypto.expand_convolute``) over vectors of 128-bit elements.

Elements may come in pairs, which are treated alike: an array has shape (n, 2) or (n, 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled, inlined

Words = NDArray[np.uint64]
Taps = NDArray[np.uint32]

STATE = 24
"""How far back a convolution looks at random (RRT23: the state size m)."""
CHOICES = 7
"""Elements that an expansion adds to each output (RRT23: the row weight w)."""


@inlined
def _mask(bits: Any, back: Any) -> Any:
    """Return all ones if the tap for the element so far back is set, else zero; without a branch."""
    return np.uint64((bits << np.int64(64 - back)) >> np.int64(63))


@compiled
def _convolute_single(x: Words, taps: Taps, first: int) -> None:
    for row in range(first, len(x)):
        bits = np.int64(taps[row])
        low, high = x[row, 0] ^ x[row - STATE - 1, 0], x[row, 1] ^ x[row - STATE - 1, 1]
        for back in range(STATE, 0, -1):
            chosen = _mask(bits, back)
            low ^= chosen & x[row - back, 0]
            high ^= chosen & x[row - back, 1]
        x[row, 0], x[row, 1] = low, high


@compiled
def _convolute_pair(x: Words, taps: Taps, first: int) -> None:
    for row in range(first, len(x)):
        bits = np.int64(taps[row])
        a, b = x[row, 0] ^ x[row - STATE - 1, 0], x[row, 1] ^ x[row - STATE - 1, 1]
        c, d = x[row, 2] ^ x[row - STATE - 1, 2], x[row, 3] ^ x[row - STATE - 1, 3]
        for back in range(STATE, 0, -1):
            chosen = _mask(bits, back)
            a ^= chosen & x[row - back, 0]
            b ^= chosen & x[row - back, 1]
            c ^= chosen & x[row - back, 2]
            d ^= chosen & x[row - back, 3]
        x[row, 0], x[row, 1], x[row, 2], x[row, 3] = a, b, c, d


@compiled
def _convolute_ends(x: Words, taps: Taps, over: bool) -> None:
    """Add to each of the first rows what those before it bring, or, if ``over``, those behind which the end lies."""
    size = len(x)
    for row in range(STATE + 1):
        bits = np.int64(taps[row]) | np.int64(1 << STATE)
        for back in range(1, STATE + 2):
            if (back > row) == over and (bits >> np.int64(back - 1)) & 1:
                for word in range(x.shape[1]):
                    x[row, word] ^= x[(row - back) % size, word]


@compiled
def _expand_single(source: Words, choices: NDArray[np.uint32], target: Words) -> None:
    size = np.uint64(len(source))
    for row in range(len(target)):
        low, high = target[row, 0], target[row, 1]
        for k in range(CHOICES):
            place = (np.uint64(choices[row, k]) * size) >> np.uint64(32)
            low ^= source[place, 0]
            high ^= source[place, 1]
        target[row, 0], target[row, 1] = low, high


@compiled
def _expand_pair(source: Words, choices: NDArray[np.uint32], target: Words) -> None:
    size = np.uint64(len(source))
    for row in range(len(target)):
        a, b, c, d = target[row, 0], target[row, 1], target[row, 2], target[row, 3]
        for k in range(CHOICES):
            place = (np.uint64(choices[row, k]) * size) >> np.uint64(32)
            a ^= source[place, 0]
            b ^= source[place, 1]
            c ^= source[place, 2]
            d ^= source[place, 3]
        target[row, 0], target[row, 1], target[row, 2], target[row, 3] = a, b, c, d


_CONVOLUTE = {2: _convolute_single, 4: _convolute_pair}
_EXPAND = {2: _expand_single, 4: _expand_pair}


def convolute(x: Words, taps: Taps) -> None:
    """Replace x by the y with y_i = x_i + y_{i-25} + Σ_{k=1..24} taps_{i,k} · y_{i-k}; then add what runs over the end.

    ``x`` has more than 25 rows, ``taps`` one word for each, of which the 24 lowest bits count. The 25 places before
    the first row are empty; what the last 25 rows would have added behind the end is added to the first rows.
    """
    _convolute_ends(x, taps, over=False)
    _CONVOLUTE[x.shape[1]](x, taps, STATE + 1)
    _convolute_ends(x, taps, over=True)


def expand(source: Words, choices: NDArray[np.uint32], target: Words) -> None:
    """Add to each row of ``target`` the rows of ``source`` that the first seven of its random words choose."""
    _EXPAND[source.shape[1]](source, choices, target)
