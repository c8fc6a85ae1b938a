"""Ascending places as bytes: the gap before each, seven bits a byte, the low ones first (LEB128).

A gap is how many places lie between one and the one before. With one place in a hundred it takes one byte on average
(1.3), a third of a 32-bit place. The highest bit of a byte says that another one follows; numbers are as short as
possible, so that there is one way to write a list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

_LONGEST = 5
"""Bytes of a gap: 35 bits, more than any model has numbers."""


def write_places(places: Places) -> Bytes:
    """Return ascending places, none twice, as bytes."""
    gaps = np.diff(places, prepend=-1) - 1
    lengths = np.ones(len(gaps), np.int64)
    for more in range(1, _LONGEST):
        lengths += gaps >= 1 << 7 * more
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for step in range(_LONGEST):
        having = lengths > step
        digit = (gaps[having] >> 7 * step) & 127
        out[starts[having] + step] = digit | np.where(lengths[having] > step + 1, 128, 0)
    return out


def read_places(data: Bytes, size: int) -> Places:
    """Return the places below ``size`` that were written.

    Raises:
        RemoteProtocolError: The bytes are no list of such places.
    """
    ends = np.flatnonzero(data < 128)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise RemoteProtocolError("the last of the places breaks off")
    lengths = np.diff(ends, prepend=-1)
    if (lengths > _LONGEST).any() or (data[ends[lengths > 1]] == 0).any():
        raise RemoteProtocolError("a gap between places is longer than it has to be")
    steps = np.arange(len(data)) - np.repeat(ends - lengths + 1, lengths)
    digits = (data & 127).astype(np.int64) << (7 * steps)
    gaps = np.add.reduceat(digits, ends - lengths + 1) if len(ends) else np.zeros(0, np.int64)
    places: Places = np.cumsum(gaps + 1) - 1
    if len(places) and (gaps.max() >= size or places[-1] >= size):
        raise RemoteProtocolError(f"expected places below {size}, found {places[-1]}")
    return places
