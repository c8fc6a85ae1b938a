"""Gradients and hessians as integers that a linear map carries: both in one word where there is room.

A row's word is h·2^k + g, with g a signed and h a non-negative fixed-point number; every sum over rows has the same
form and is taken apart exactly. The capacity 2^bits of a linear map, a public constant, bounds the sum of magnitudes of
all rows' words; scales are chosen for each tree so that it holds, whatever rows are summed: no sum of some rows' g is
larger than that of all positive ones, or of all negative ones. One scale serves all nodes of a tree: a node's sums less
its child's are exactly those of the other child.

Numbers are rounded up or down at random, so that sums have no bias though many rows have equal gradients (Shi and
others, Quantized Training of GBDT, NeurIPS 2022: 2 to 3 bits lose nothing). What rounding changes are splits whose
gains are nearly equal, for better or worse; measured, fewest change if g and h get equally many bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.protocols.linear_map.port import Bounds, LinearMap, Recipient

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_BITS = 62
_EXACT_BITS = 52
"""Sums of fixed-point numbers stay below 2^52, so that they are exact as floating-point numbers too."""
_MEAN_BITS = 1
"""Numbers are 2 units in the mean or more, else they get words of their own; LightGBM's four bins are coarser."""
_ENOUGH_BITS = 8
"""Numbers need not be finer than 2^8 units in the mean: what a scheme could carry beyond is left to its noise."""
_FINE_UNITS = 65536.0
"""Units in the mean from which on it does not matter how numbers are rounded."""


def bounds_for(rows: int, columns: int, bits: int) -> Bounds:
    """Return the bounds of a linear map for histograms with capacity 2^``bits``."""
    # A little less, or the lattice would need one bit more to tell 2^bits and −2^bits apart.
    capacity = 2.0**bits - max(4.0, 2.0 ** (bits - 36))
    return Bounds(
        rows=rows,
        columns=columns,
        column_norm=math.sqrt(rows),
        vector_norm=capacity,
        entry=1.0,
        vector_sum=capacity,
        recipient=Recipient.VECTOR_HOLDER,
    )


def capacity_bits(scheme: LinearMap, rows: int, columns: int) -> int:
    """Return for how many bits the scheme is to carry sums over so many rows: as many as are of use, or as it can.

    A scheme that carries ``LARGEST_BITS`` has no use for room. One that does not (``lattice``) hides rounding errors in
    the room that is left: some 2 · 8 + 2 · log2(rows) bits are asked of it, which leaves room up to some 30,000 rows.

    Raises:
        UsageError: It does not even carry their number.
    """
    enough = min(2 * (rows.bit_length() + _ENOUGH_BITS), LARGEST_BITS - 1)
    choices: list[int] = [LARGEST_BITS, *range(enough, rows.bit_length() + _MEAN_BITS + 1, -1)]
    for bits in choices:
        try:
            scheme.check(bounds_for(rows, columns, bits))
        except UsageError:
            continue
        return bits
    raise UsageError(f"the scheme {scheme.name} carries no histograms of {rows} rows × {columns} bins: take fewer rows")


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The words of all rows, shape (words, rows), and how sums of them are taken apart."""

    vectors: Integers
    shift: int
    """k, or 0 if g and h have words of their own."""
    gradient_scale: float
    hessian_scale: float

    def unpack(self, sums: Integers) -> tuple[Integers, Integers]:
        """Return the sums of g and of h for sums of words, shape (words, columns)."""
        if not self.shift:
            return sums[0], sums[1]
        half, mask = np.int64(1 << (self.shift - 1)), np.int64((1 << self.shift) - 1)
        gradients = ((sums[0] + half) & mask) - half
        return gradients, (sums[0] - gradients) >> np.int64(self.shift)


def pack(gradients: Floats, hessians: Floats, bits: int, prg: Prg) -> Packed:
    """Return the words of all rows for a capacity of 2^``bits``; rows that are left out have zeros in both arrays."""
    rows = int(np.count_nonzero((gradients != 0) | (hessians != 0)))
    constant = _constant(hessians)
    needed = math.ceil(math.log2(max(1, rows))) + _MEAN_BITS
    hessian_bits = (rows + 1).bit_length() if constant else max(needed, bits // 2)
    shift = bits - hessian_bits
    if shift < max(2, needed):
        shift, hessian_bits = 0, bits - 1
    gradient_limit = (1 << min((shift or bits - 1) - 1, _EXACT_BITS)) - 1
    hessian_limit = (1 << min(hessian_bits, _EXACT_BITS)) - 2
    g, gradient_scale = _fixed(gradients, gradient_limit, prg.derive("gradients"))
    h, hessian_scale = _fixed(hessians, hessian_limit, prg.derive("hessians"))
    vectors = ((h << np.int64(shift)) + g)[None, :] if shift else np.stack([g, h])
    return Packed(vectors, shift, gradient_scale, hessian_scale)


def _constant(hessians: Floats) -> bool:
    """Return whether all that are not zero are equal, so that sums of them are numbers of rows."""
    largest = float(hessians.max(initial=0.0))
    return bool(((hessians == 0) | (hessians == largest)).all())


def _fixed(values: Floats, limit: int, prg: Prg) -> tuple[Integers, float]:
    """Return integers near values · scale, and the scale; no sum of some of them has a magnitude above ``limit``."""
    total, rows = _largest_sum(values), int(np.count_nonzero(values))
    if not total > 0:
        return np.zeros(len(values), np.int64), 1.0
    if rows <= limit and _constant(magnitudes := np.abs(values)):
        scale = (limit // rows) / float(magnitudes.max())
        return np.rint(values * scale).astype(np.int64), scale
    if limit >= _FINE_UNITS * rows:
        scale = (limit - rows) / total
        return np.rint(values * scale).astype(np.int64), scale
    # Of rows · ½ roundings at most as many go up by chance as leave room for a few deviations; if not, once more.
    scale, draw = (limit - 4 * math.sqrt(rows)) / total, 0
    while True:
        words = prg.derive("rounding", draw.to_bytes(4, "little")).words(len(values))
        integers = np.floor(values * scale + (words >> np.uint64(11)) * 2.0**-53).astype(np.int64)
        if _largest_sum(integers) <= limit:
            return integers, scale
        scale, draw = scale * 0.97, draw + 1


def _largest_sum(values: Floats | Integers) -> float:
    """Return the largest magnitude that a sum of some values can have; integers are summed exactly."""
    above = values.sum(where=values > 0)
    return float(max(above, above - values.sum()))
