"""Ternary and discrete Gaussian integers from a ``Prg``, without floating point in the sampling.

The discrete Gaussian of variance σ² gives the integer x a probability in proportion to exp(−x²/(2σ²)); it is
σ-sub-Gaussian, as the continuous one is (Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy",
NeurIPS 2020, fact 19). None of this runs in constant time.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg

Integers = NDArray[np.int64]

_PRECISION = 128


def ternary(prg: Prg, count: int) -> Integers:
    """Return ``count`` integers, uniform in {−1, 0, 1}."""
    return prg.below(3, count).astype(np.int64) - 1


class CumulativeTable:
    """Discrete Gaussian integers of one small deviation, by inverting the cumulative distribution.

    Thresholds have 128 bits (C. Peikert, "An Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010,
    section 4.1), so that a sample is within 2^-118 of the distribution. A draw takes 64 bits; only one that equals
    the upper half of a threshold, which happens once in 2^56 draws, takes 64 more.
    """

    def __init__(self, deviation: float) -> None:
        self.tail = math.ceil(deviation * math.sqrt(2 * math.log(2) * (_PRECISION + 2)))
        thresholds = _thresholds(Decimal(str(deviation)), self.tail)
        self._high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
        self._low = [threshold & ((1 << 64) - 1) for threshold in thresholds]

    def sample(self, prg: Prg, count: int) -> Integers:
        """Return ``count`` integers, in [−tail, tail]."""
        return self.invert(prg.words(count), prg)

    def invert(self, words: NDArray[np.uint64], prg: Prg) -> Integers:
        """Return the integers that belong to uniform words; ``prg`` settles those that 64 bits leave open."""
        found = np.searchsorted(self._high, words, side="left")
        open_ = np.flatnonzero(self._high[np.minimum(found, len(self._high) - 1)] == words)
        for index in open_:
            low = int(prg.words(1)[0])
            ties = range(found[index], np.searchsorted(self._high, words[index], side="right"))
            found[index] += sum(self._low[tie] <= low for tie in ties)
        return found.astype(np.int64) - self.tail


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
    """Return ``count`` discrete Gaussian integers of any variance ≥ 1, exactly distributed, at some 50 µs each.

    Canonne, Kamath, Steinke (NeurIPS 2020), algorithms 1 to 3.
    """
    return [_gaussian(prg, variance) for _ in range(count)]


def _gaussian(prg: Prg, variance: int) -> int:
    scale = math.isqrt(variance) + 1
    while True:
        candidate = _laplace(prg, scale)
        distance = abs(abs(candidate) * scale - variance)
        if _bernoulli_exp(prg, distance**2, 2 * variance * scale**2):
            return candidate


def _laplace(prg: Prg, scale: int) -> int:
    """Return an integer x with a probability in proportion to exp(−|x|/scale)."""
    while True:
        remainder = _below(prg, scale)
        if not _bernoulli_exp(prg, remainder, scale):
            continue
        quotient = 0
        while _bernoulli_exp(prg, 1, 1):
            quotient += 1
        size = remainder + scale * quotient
        negative = _below(prg, 2) == 1
        if size or not negative:
            return -size if negative else size


def _bernoulli_exp(prg: Prg, numerator: int, denominator: int) -> bool:
    """Return true with probability exp(−numerator/denominator)."""
    while numerator > denominator:
        if not _bernoulli_exp_below_one(prg, 1, 1):
            return False
        numerator -= denominator
    return _bernoulli_exp_below_one(prg, numerator, denominator)


def _bernoulli_exp_below_one(prg: Prg, numerator: int, denominator: int) -> bool:
    """Return true with probability exp(−numerator/denominator), for a fraction of at most one."""
    trial = 1
    while _below(prg, denominator * trial) < numerator:
        trial += 1
    return trial % 2 == 1


def _below(prg: Prg, bound: int) -> int:
    """Return a uniform integer in [0, bound), of any size."""
    bits = (bound - 1).bit_length()
    while True:
        value = int.from_bytes(prg.bytes((bits + 7) // 8)) >> (-bits % 8)
        if value < bound:
            return value
