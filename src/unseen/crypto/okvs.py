"""An oblivious key-value store (OKVS): a vector from which each of n keys reads its value, and others read noise.

S. Raghuraman, P. Rindal, "Blazing Fast PSI from Improved OKVS and Subfield VOLE" (CCS 2022, eprint 2022/320), sections
3 and 4: keys are thrown into *clusters* small enough for a cache; each is a system of linear equations over bits, with
three random sparse columns and 64 dense bits a row, which is solved by elimination ("peeling"). Values are elements of
GF(2^128), so the system's coefficients are bits.

*Parameters* for failure below 2^-λ of all clusters together, λ = 40: each of c has to hold with λ' = λ + log2 c.
For w = 3 and n keys the paper's fit (section 4, equations 2 and 3) is an expansion of e = (λ' + 9.2 + 1.223 k)/k
with log2 k = 0.555 log2 n + 0.093 (log2 3)³ − 1.01 (log2 3)² + 2.925 log2 3 − 0.133. Then ĝ = ⌊λ'/log2(e n)⌋ ≤ 5 rows
at the most are left over, which λ' + ĝ dense columns solve. There are 64 of them here, and up to ``GAP`` rows left over
are accepted. Fewer than 2^10 keys in a cluster are treated as 2^10.

How many keys a cluster gets is bounded by Chernoff's inequality, P[Bin(n, p) ≥ b] ≤ exp(−n·KL(b/n ‖ p)).

A store tells something about its keys: ``encode`` leaves columns zero that no key needs. ``encode_uniform`` does not,
but whoever knows keys and values can still check that they are in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import DataError
from unseen.kernels.blocks import in_parallel
from unseen.kernels.okvs import decode, eliminate, reduce_gap, substitute

Words = NDArray[np.uint64]

STATISTICAL_BITS = 40
CLUSTER = 1 << 14
"""Keys that a cluster holds on average, if there are so many."""
LEAST = 1 << 10
DENSE = 64
GAP = 16
"""Rows left over that are accepted: 64 random bits a row leave 2^-(64 − 16) for a system without a solution."""


def expansion(keys: int, bits: float) -> float:
    """Return the sparse columns for each key of a cluster of ``keys``, so that it fails with less than 2^-bits."""
    weight = math.log2(3)
    log_slope = 0.555 * math.log2(keys) + 0.093 * weight**3 - 1.01 * weight**2 + 2.925 * weight - 0.133
    slope = math.exp2(log_slope)
    return (bits + 9.2 + 1.223 * slope) / slope


@cache
def most_in_a_part(count: int, parts: int, bits: float) -> int:
    """Return how many of ``count`` things none of ``parts`` parts exceeds, but for a probability below 2^-bits."""
    if parts == 1 or count == 0:
        return count
    share, wanted = 1 / parts, (bits + math.log2(parts)) * math.log(2)

    def exponent(bound: int) -> float:
        part = bound / count
        rest = (1 - part) * math.log((1 - part) / (1 - share)) if part < 1 else 0.0
        return count * (part * math.log(part / share) + rest)

    low, high = -(-count // parts), count  # the exponent grows from the mean on
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if exponent(middle + 1) >= wanted else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Shape:
    """How a store for ``count`` keys in ``parts`` clusters is laid out; all clusters are alike."""

    parts: int
    capacity: int
    """Keys that one cluster can hold."""
    sparse: int
    """Sparse columns of each cluster."""

    @classmethod
    def of(cls, count: int, parts: int) -> Shape:
        """Return the layout for ``count`` keys."""
        bits = STATISTICAL_BITS + math.log2(parts)
        capacity = most_in_a_part(count, parts, STATISTICAL_BITS)
        keys = max(capacity, LEAST)
        return cls(parts, capacity, math.ceil(keys * expansion(keys, bits)))

    @property
    def width(self) -> int:
        """Elements of one cluster."""
        return self.sparse + DENSE


def encode(keys: Words, places: Words, values: Words, starts: NDArray[np.int64], shape: Shape) -> Words:
    """Return a store in which keys read ``values``, shape (clusters · width, 2).

    ``keys``, ``places`` and ``values`` have shape (n, 2) and are sorted by cluster, as ``kernels.okvs`` describes;
    ``starts`` (clusters + 1) says where each begins. A store may hold some of the layout's clusters only.

    Raises:
        DataError: The random choices cannot be solved (once in 2^40 times, if keys are random).
    """
    clusters = len(starts) - 1
    store = np.zeros((clusters, shape.width, 2), np.uint64)

    def work(cluster: int) -> None:
        rows = slice(starts[cluster], starts[cluster + 1])
        _solve(keys[rows], places[rows], values[rows], store[cluster], shape)

    in_parallel(work, clusters)
    return store.reshape(-1, 2)


def encode_uniform(
    keys: Words, places: Words, values: Words, starts: NDArray[np.int64], shape: Shape, prg: Prg
) -> Words:
    """Return a store as ``encode`` does, uniform among all stores in which keys read ``values``.

    A random store plus one that corrects what keys read there is uniform among all that are right, since the correction
    of a store does not change if something is added to it that all keys read as zero.
    """
    store = prg.words(2 * (len(starts) - 1) * shape.width).reshape(-1, 2)
    wrong = read(keys, places, starts, store, shape) ^ values
    store ^= encode(keys, places, wrong, starts, shape)
    return store


def read(keys: Words, places: Words, starts: NDArray[np.int64], store: Words, shape: Shape) -> Words:
    """Return what ``store`` holds for ``keys``, which are sorted by cluster as for ``encode``; shape (n, 2)."""
    values = np.empty_like(keys)
    clusters = store.reshape(-1, shape.width, 2)

    def work(cluster: int) -> None:
        rows = slice(starts[cluster], starts[cluster + 1])
        decode(places[rows], keys[rows], clusters[cluster], values[rows])

    in_parallel(work, len(clusters))
    return values


def _solve(keys: Words, places: Words, values: Words, store: Words, shape: Shape) -> None:
    if len(keys) > shape.capacity:
        raise DataError(f"a cluster got {len(keys)} keys, of at most {shape.capacity}: {_AGAIN}")
    pivots, gaps = np.empty((len(keys), 2), np.int64), np.empty(GAP, np.int64)
    missing = eliminate(places, shape.sparse, pivots, gaps)
    if missing < 0:
        raise DataError(f"more than {GAP} of {len(keys)} keys of a cluster are left over: {_AGAIN}")
    pivots = pivots[: len(keys) - missing]
    rows = [reduce_gap(places, keys, values, pivots, row, shape.sparse) for row in gaps[:missing]]
    store[shape.sparse :] = _dense(rows)
    substitute(places, keys, values, pivots, store)


_AGAIN = "this happens once in 2^40 times; start the step again, with other random choices"


def _dense(rows: list[Words]) -> Words:
    """Return 64 elements so that those that each row's bits choose add up to the row's value (Gauss–Jordan)."""
    found = np.zeros((DENSE, 2), np.uint64)
    solved: list[tuple[int, Words]] = []
    for row in rows:
        left = row.copy()
        for column, other in solved:
            if int(left[0]) >> column & 1:
                left ^= other
        if not left[0]:
            raise DataError(f"two keys of a store depend on each other: {_AGAIN}")
        column = int(left[0]).bit_length() - 1
        solved = [(place, other ^ left if int(other[0]) >> column & 1 else other) for place, other in solved]
        solved.append((column, left))
    for column, row in solved:
        found[column] = row[1:]
    return found
