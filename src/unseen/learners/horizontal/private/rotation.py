"""Random rotations that spread a vector over its coordinates: Walsh–Hadamard transforms after random signs.

Source: N. Ailon, B. Chazelle, "The Fast Johnson–Lindenstrauss Transform", SIAM J. Computing 39 (2009); used before
rounding by A. Suresh and others, "Distributed Mean Estimation with Limited Communication", ICML 2017. A vector whose
size is no power of two is not padded: two transforms, of its longest beginning and its longest end of such a size,
cover all of it, and two rotations make one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unseen.learners.horizontal.process import Vector, stream

Reals = NDArray[np.float64]

_RADIX_BITS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """An orthonormal map of vectors of one size; it is public, and lengths are kept within 2^-45."""

    first: Reals = field(repr=False)
    """Signs of the beginning, as many as the greatest power of two that fits."""
    second: Reals = field(repr=False)
    """Signs of the end; none if the beginning is everything."""

    @classmethod
    def of(cls, size: int, seed: int, round_number: int) -> Self:
        """Return the rotation of a round."""
        whole = 1 << (size.bit_length() - 1)
        bits = stream(seed, round_number, "rotation").integers(0, 2, 2 * whole)
        signs = 1 - 2 * bits.astype(np.float64)
        return cls(signs[:whole], signs[whole:] if whole < size else signs[:0])

    def turn(self, values: Vector | Reals) -> Reals:
        """Return the rotated vector."""
        out = values.astype(np.float64)
        whole = len(self.first)
        out[:whole] = hadamard(out[:whole] * self.first)
        if len(self.second):
            out[-whole:] = hadamard(out[-whole:] * self.second)
        return out

    def back(self, values: Vector | Reals) -> Reals:
        """Return the vector that ``turn`` takes to ``values``."""
        out = values.astype(np.float64)
        whole = len(self.first)
        if len(self.second):
            out[-whole:] = hadamard(out[-whole:]) * self.second
        out[:whole] = hadamard(out[:whole]) * self.first
        return out


def hadamard(values: Reals) -> Reals:
    """Return the orthonormal Walsh–Hadamard transform of 2^k numbers; it is its own inverse."""
    bits = len(values).bit_length() - 1
    out = values
    while bits > 0:
        # The matrix is a Kronecker product: every factor is applied to the last digit, which then becomes the first.
        part = min(bits, _RADIX_BITS)
        out = (_matrix(part) @ out.reshape(-1, 1 << part).T).reshape(-1)
        bits -= part
    return out


def _matrix(bits: int) -> Reals:
    """Return the transform of 2^bits numbers as an orthonormal matrix."""
    places = np.arange(1 << bits)
    odd = (np.bitwise_count(places[:, None] & places) & 1).astype(np.float64)
    return np.asarray((1 - 2 * odd) / math.sqrt(1 << bits))
