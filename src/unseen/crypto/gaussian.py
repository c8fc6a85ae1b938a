"""Ternary and discrete Gaussian integers from a ``Prg``; floating point decides nothing that its error could change.

The discrete Gaussian of variance σ² gives the integer x a probability in proportion to exp(−x²/(2σ²)); it is
σ-sub-Gaussian, as the continuous one is (Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy",
NeurIPS 2020, fact 19). None of this runs in constant time.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.kernels import sampling

Integers = NDArray[np.int64]
Bytes = NDArray[np.int8]

_PRECISION = 128
# Words that are drawn at a time: they stay in the cache until they are used.
_DRAWS = 1 << 14


def ternary(prg: Prg, count: int) -> Integers:
    """Return ``count`` integers, uniform in {−1, 0, 1}."""
    out = np.empty(count, np.int64)
    written = 0
    while written < count:
        # 243 bytes in 256 give five digits each: mostly enough at the first attempt.
        source = np.empty((count - written) * 11 // 50 + 16, np.uint8)
        prg.fill(source)
        written += sampling.ternary(source, out[written:])
    return out


class CumulativeTable:
    """Discrete Gaussian integers of one small deviation, by inverting the cumulative distribution.

    Thresholds have 128 bits (C. Peikert, "An Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010,
    section 4.1), so that a sample is within 2^-118 of the distribution. A draw takes 64 bits; only one that equals
    the upper half of a threshold, which happens once in 2^56 draws, takes 64 more.

    Raises:
        UsageError: The samples of such a deviation do not fit into a byte.
    """

    def __init__(self, deviation: float | Decimal) -> None:
        self.tail = math.ceil(float(deviation) * math.sqrt(2 * math.log(2) * (_PRECISION + 2)))
        if self.tail > 127:
            raise UsageError(f"tables are for deviations up to 9.4, found {deviation}")
        thresholds = _thresholds(Decimal(str(deviation)), self.tail)
        self._high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
        self._low = [threshold & ((1 << 64) - 1) for threshold in thresholds]
        self._guide = sampling.guide(self._high)

    def sample(self, prg: Prg, count: int) -> Integers:
        """Return ``count`` integers, in [−tail, tail]."""
        return self.bytes(prg, count).astype(np.int64)

    def bytes(self, prg: Prg, count: int) -> Bytes:
        """Return ``count`` integers, in [−tail, tail], in a byte each."""
        out = np.empty(count, np.int8)
        buffer = np.empty(min(count, _DRAWS), np.uint64)
        for start in range(0, count, _DRAWS):
            words = buffer[: min(_DRAWS, count - start)]
            prg.fill(words)
            self._invert(words, prg, out[start : start + len(words)])
        buffer.fill(0)
        return out

    def invert(self, words: NDArray[np.uint64], prg: Prg) -> Integers:
        """Return the integers that belong to uniform words; ``prg`` settles those that 64 bits leave open."""
        out = np.empty(len(words), np.int8)
        self._invert(words, prg, out)
        return out.astype(np.int64)

    def _invert(self, words: NDArray[np.uint64], prg: Prg, out: Bytes) -> None:
        if sampling.invert(words, self._high, self._guide, -self.tail, out) == 0:
            return
        for index in np.flatnonzero(np.isin(words, self._high)):
            low = int(prg.words(1)[0])
            first, last = (int(np.searchsorted(self._high, words[index], side=side)) for side in ("left", "right"))
            out[index] += sum(self._low[tie] <= low for tie in range(first, last))


def _thresholds(deviation: Decimal, tail: int) -> list[int]:
    """Return 2^128·P(X ≤ x), at most 2^128 − 1, for x in [−tail, tail)."""
    one = 1 << _PRECISION
    with localcontext() as context:
        context.prec = 80
        weights = [(-((Decimal(x) / deviation) ** 2) / 2).exp() for x in range(-tail, tail + 1)]
        total = sum(weights)
        below = Decimal(0)
        thresholds = []
        for weight in weights[:-1]:
            below += weight
            thresholds.append(min(one - 1, int((below / total * one).to_integral_value())))
    return thresholds


def wide_gaussian(prg: Prg, variance: int, count: int) -> list[int]:
    """Return ``count`` discrete Gaussian integers of any variance ≥ 1, within 2^-100 of the distribution.

    A table gives x ≥ 0 with a probability in proportion to exp(−x²·k²/(2σ²)), and z = k·x + y with a uniform y < k is
    kept with probability exp(−(y² + 2k·x·y)/(2σ²)), so that z ≥ 0 has one in proportion to exp(−z²/(2σ²)); the sign is
    a coin, zero being kept once in two times (L. Ducas, A. Durmus, T. Lepoint, V. Lyubashevsky, "Lattice Signatures and
    Bimodal Gaussians", CRYPTO 2013, algorithms 11 and 12). More than one draw in four
    gives a sample, so that the table's distance of 2^-118 grows by less than 2^4.
    """
    width = math.isqrt(variance) // 8 + 1
    table = _base(variance, width)
    found: list[int] = []
    while len(found) < count:
        starts = table.sample(prg, 3 * (count - len(found)) + 16)
        candidates = (_above(prg, start, width, variance) for start in starts[starts >= 0].tolist())
        found += [candidate for candidate in candidates if candidate is not None]
    return found[:count]


@lru_cache(maxsize=64)
def _base(variance: int, width: int) -> CumulativeTable:
    """Return the table of deviation σ/``width``, which is at most 8."""
    with localcontext() as context:
        context.prec = 80
        return CumulativeTable(Decimal(variance).sqrt() / width)


def _above(prg: Prg, start: int, width: int, variance: int) -> int | None:
    """Return the candidate of a ``start``, with its sign, or nothing if it is not kept."""
    rest = _below(prg, width)
    size = start * width + rest
    negative = prg.bytes(1)[0] < 128
    if (size == 0 and negative) or not _bernoulli_exp(prg, rest * (rest + 2 * start * width), 2 * variance):
        return None
    return -size if negative else size


def _bernoulli_exp(prg: Prg, numerator: int, denominator: int) -> bool:
    """Return true with probability exp(−numerator/denominator), within 2^-120."""
    draw = int.from_bytes(prg.bytes(8))
    chance = math.exp(-(numerator / denominator))
    # The quotient and the exponential are within 2^-50: further from the border than 2^-40, nothing else can decide.
    if abs(draw / 2**64 - chance) > 2**-40:
        return draw / 2**64 < chance
    with localcontext() as context:
        context.prec = 60
        exact = (-Decimal(numerator) / Decimal(denominator)).exp()
        return Decimal(draw << 64 | int.from_bytes(prg.bytes(8))) / 2**128 < exact


def _below(prg: Prg, bound: int) -> int:
    """Return a uniform integer in [0, bound), of any size."""
    bits = (bound - 1).bit_length()
    while True:
        value = int.from_bytes(prg.bytes((bits + 7) // 8)) >> (-bits % 8)
        if value < bound:
            return value
