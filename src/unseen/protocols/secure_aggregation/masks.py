"""Pseudo-random masks, added to a vector and taken off again: many streams, one pass over the vector.

A mask is the stream of a ``Prg`` (AES-256 in counter mode): as many words as the vector has, then one of 64 bits for
the weight. Addition is modulo 2^32 or 2^64, so that masks of opposite signs cancel exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.kernels.blocks import pieces
from unseen.protocols.secure_aggregation.port import Words

_PIECE_BYTES = 1 << 16
"""What of the vector is worked on at a time: it and a mask's piece stay in the nearest caches."""


def apply(words: Words, weight: NDArray[np.uint64], added: Sequence[Prg], taken: Sequence[Prg]) -> None:
    """Add some masks to ``words`` and ``weight``, shape (1,), and subtract others, in place.

    Every generator has to be at its beginning, and is spent afterwards.
    """
    buffer = np.empty(min(len(words), _PIECE_BYTES // words.itemsize), words.dtype)
    signed = [(np.add, prg) for prg in added] + [(np.subtract, prg) for prg in taken]
    for piece in pieces(len(words), len(buffer)):
        part = words[piece]
        mask = buffer[: len(part)]
        for combine, prg in signed:
            prg.fill(mask.view(np.uint8))
            combine(part, mask, out=part)
    buffer.fill(0)
    for combine, prg in signed:
        combine(weight, prg.words(1), out=weight)


def expand(prg: Prg, words: Words) -> int:
    """Overwrite ``words`` with a generator's mask; return that of the weight."""
    prg.fill(words.view(np.uint8))
    return int(prg.words(1)[0])
