"""Noise: exact discrete samplers for released statistics, and floating Gaussian noise for training.

The discrete Laplace and Gaussian distributions are sampled as C. Canonne, G. Kamath, T. Steinke do ("The Discrete
Gaussian for Differential Privacy", NeurIPS 2020, algorithms 2 and 3): a geometric magnitude with a sign, kept or not
by a coin. Their exactness is kept, their coins of one bit are not (algorithm 1): a geometric variable is ⌊−t·ln U⌋, and
a coin of probability exp(−γ) is U < exp(−γ), for a uniform real U of which 63 bits are drawn first. Floating point
decides where its error, and the bits not yet drawn, cannot change the answer; where they could, which happens once in
2^17 draws or less for scales up to 2^20, further bits of U are drawn, and decimal arithmetic with error bounds decides
as soon as it can. So every integer has exactly its probability, given uniform words.

None of this runs in constant time: whoever can time it learns something about the noise (J. Jin and others, "Are We
There Yet? Timing and Floating-Point Attacks on Differential Privacy Systems", IEEE S&P 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import UsageError

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]

_BITS = 63
"""Of a uniform real, drawn at first; the 64th of a word is a sign."""
_SIGN = np.uint64(1 << _BITS)
_FEW = np.uint64(1 << 40)
"""Uniform reals below 2^40/2^63 are known to too few digits for floating point."""
_LARGEST_SCALE = 1 << 48
_PIECE = 1 << 13
"""Pairs of floating Gaussian numbers that are made at a time: they stay in the cache."""

# --- exact integers ----------------------------------------------------------------------------------------------


def geometric(prg: Prg, scale: float | Fraction, count: int) -> Integers:
    """Return ``count`` integers x ≥ 0 with probabilities in proportion to exp(−x/``scale``), exactly.

    Raises:
        UsageError: ``scale`` is not positive, or above 2^48.
    """
    return _geometric(prg, prg.words(count) & ~_SIGN, _checked(scale, "scale"))


def discrete_laplace(prg: Prg, scale: float | Fraction, count: int) -> Integers:
    """Return ``count`` integers x with probabilities in proportion to exp(−|x|/``scale``), exactly.

    A floating ``scale`` stands for its exact binary value. Added to an integer of sensitivity Δ, this is
    Δ/``scale``-differentially private (A. Ghosh, T. Roughgarden, M. Sundararajan, STOC 2009).

    Raises:
        UsageError: ``scale`` is not positive, or above 2^48.
    """
    exact = _checked(scale, "scale")
    return _collected(count, lambda missing: _laplace(prg, exact, missing))


def discrete_gaussian(prg: Prg, variance: float | Fraction, count: int) -> Integers:
    """Return ``count`` integers x with probabilities in proportion to exp(−x²/(2·``variance``)), exactly.

    A floating ``variance`` stands for its exact binary value. Added to an integer vector of L2 sensitivity Δ, this is
    Δ²/(2·``variance``)-zero-concentrated differentially private (Canonne, Kamath, Steinke, theorem 4).

    Raises:
        UsageError: ``variance`` is not positive, or above 2^96.
    """
    exact = _checked(variance, "variance", _LARGEST_SCALE**2)
    scale = Fraction(math.isqrt(math.floor(exact)) + 1)
    return _collected(count, lambda missing: _gaussian(prg, exact, scale, missing))


def _checked(number: float | Fraction, name: str, most: int = _LARGEST_SCALE) -> Fraction:
    if not (0 < number <= most):
        raise UsageError(f"{name} of the noise is {number}, expected more than 0 and at most 2^{most.bit_length() - 1}")
    return Fraction(number)


def _collected(count: int, draw: Callable[[int], Integers]) -> Integers:
    """Return the first ``count`` of what draws keep, of which each keeps more than a third."""
    found = [np.empty(0, np.int64)]
    have = 0
    while have < count:
        kept = draw((count - have) * 4 // 3 + 16)
        found.append(kept)
        have += len(kept)
    return np.concatenate(found)[:count]


def _laplace(prg: Prg, scale: Fraction, count: int) -> Integers:
    """Return at most ``count`` samples: a magnitude of zero with a minus is dropped, so that zero is not twice there.

    Source: Canonne, Kamath, Steinke, algorithm 2.
    """
    words = prg.words(count)
    negative = words >= _SIGN
    sizes = _geometric(prg, words & ~_SIGN, scale)
    return np.where(negative, -sizes, sizes)[~negative | (sizes > 0)]


def _gaussian(prg: Prg, variance: Fraction, scale: Fraction, count: int) -> Integers:
    """Return what is kept of ``count`` discrete Laplace integers y: each with probability exp(−(|y| − σ²/t)²/(2σ²)).

    Source: Canonne, Kamath, Steinke, algorithm 3.
    """
    values = _laplace(prg, scale, count)
    centre = variance / scale
    gaps = np.abs(values).astype(np.float64) - float(centre)
    chances = np.exp(-gaps * gaps / (2 * float(variance)))
    coins = prg.words(len(values)) & ~_SIGN
    # Exponent, exponential and coin are each within 2^-49.
    differences = chances - coins.astype(np.float64) * 2.0**-_BITS
    kept = differences > 0
    for index in np.flatnonzero(np.abs(differences) < 2.0**-45):
        gap = abs(int(values[index])) - centre
        kept[index] = _is_below(prg, int(coins[index]), gap * gap / (2 * variance))
    return values[kept]


def _geometric(prg: Prg, uniform: NDArray[np.uint64], scale: Fraction) -> Integers:
    """Return ⌊−``scale``·ln U⌋ for uniform reals that begin with 63 given bits."""
    width = float(scale)
    products = -width * np.log((uniform.astype(np.float64) + 0.5) * 2.0**-_BITS)
    whole = np.floor(products)
    # From 2^40 on, −ln U is below 16 and within 2^-39 of what is computed, the bits not drawn included.
    margin = width * 2.0**-38
    past = products - whole
    unsure = (uniform < _FEW) | (past < margin) | (past > 1 - margin)
    sizes = whole.astype(np.int64)
    for index in np.flatnonzero(unsure):
        sizes[index] = _floor_of_log(prg, int(uniform[index]), scale)
    return sizes


# --- where floating point cannot decide --------------------------------------------------------------------------


def _floor_of_log(prg: Prg, start: int, scale: Fraction) -> int:
    """Return ⌊−``scale``·ln U⌋ for a uniform real U that begins with the 63 bits of ``start``."""
    bits, digits = _BITS, 40
    while True:
        if start > 0:
            # U < 1: its logarithm is on this side of zero, whatever the bound says.
            least = max(0, math.floor(_scaled_log(start + 1, bits, scale, digits, up=False)))
            if least == math.floor(_scaled_log(start, bits, scale, digits, up=True)):
                return least
        start, bits, digits = _longer(prg, start), bits + 64, digits + 40


def _scaled_log(number: int, bits: int, scale: Fraction, digits: int, *, up: bool) -> Fraction:
    """Return a bound on −``scale``·ln(``number``/2^``bits``)."""
    with localcontext(Context(prec=digits)) as context:
        # Logarithms are correctly rounded: with one more step outwards each, the difference is on the safe side.
        whole = Decimal(2).ln() * bits
        part = Decimal(number).ln() if number > 1 else Decimal(0)
        error = (whole + part + 1) * Decimal(10) ** (3 - digits)
        context.rounding = ROUND_CEILING if up else ROUND_FLOOR
        value = whole - part + (error if up else -error)
    return Fraction(value) * scale


def _is_below(prg: Prg, start: int, exponent: Fraction) -> bool:
    """Return whether U < exp(−``exponent``) for a uniform real U that begins with the 63 bits of ``start``."""
    bits, digits = _BITS, 40
    while True:
        with localcontext(Context(prec=digits)):
            chance = (-Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
            error = chance * (1 + Decimal(math.ceil(exponent))) * Decimal(10) ** (3 - digits)
        middle, spread = Fraction(chance) * (1 << bits), Fraction(error) * (1 << bits)
        if start + 1 <= middle - spread:
            return True
        if start >= middle + spread:
            return False
        start, bits, digits = _longer(prg, start), bits + 64, digits + 40


def _longer(prg: Prg, start: int) -> int:
    """Return a beginning of a uniform real with 64 more bits."""
    return start << 64 | int(prg.words(1)[0])


# --- floating point ----------------------------------------------------------------------------------------------


def gaussian(prg: Prg, count: int) -> Reals:
    """Return ``count`` standard Gaussian numbers, for training noise; none is further out than 9.42.

    Floating point numbers are unevenly spaced, so that the lowest bits of a number plus such noise can tell what the
    number was (I. Mironov, "On Significance of the Least Significant Bits for Differential Privacy", CCS 2012, for
    Laplace noise; Jin and others 2022 for this). Whoever releases a sum rounds it to a coarse grid (``noisy``);
    statistics that are released take a discrete sampler instead.

    Source: G. Box, M. Muller, "A Note on the Generation of Random Normal Deviates", Annals of Mathematical Statistics
    29 (1958), from 64 and 53 bits.
    """
    out = np.empty(count + count % 2)
    for start in range(0, len(out), 2 * _PIECE):
        piece = out[start : start + 2 * _PIECE]
        half = len(piece) // 2
        words = prg.words(2 * half)
        radii = words[:half].astype(np.float64)
        radii += 0.5
        radii *= 2.0**-64
        np.log(radii, out=radii)
        radii *= -2
        np.sqrt(radii, out=radii)
        angles = (words[half:] >> np.uint64(11)).astype(np.float64)
        angles *= 2 * math.pi * 2.0**-53
        np.cos(angles, out=piece[:half])
        np.sin(angles, out=piece[half:])
        piece.reshape(2, half)[:] *= radii
    return out[:count]


def noisy(values: Reals, deviation: float, prg: Prg) -> Reals:
    """Return ``values`` plus Gaussian noise of a deviation, on the grid that belongs to it (``on_grid``).

    Raises:
        UsageError: ``deviation`` is not positive.
    """
    if not (deviation > 0 and math.isfinite(deviation)):
        raise UsageError(f"deviation of the noise is {deviation}, expected a number above 0")
    out = gaussian(prg, len(values))
    out *= deviation
    out += values
    return on_grid(out, deviation)


def on_grid(values: Reals, deviation: float) -> Reals:
    """Round ``values`` that hold noise of a deviation σ to multiples of a power of two near σ/2^20, in place.

    Every multiple can come from any sum, with a probability that floating point changes by less than about 2^-30 of
    itself: that is what is left of the attacks on low bits. A proof of it is not claimed.
    """
    step = 2.0 ** (math.floor(math.log2(deviation)) - 20)
    values /= step
    np.rint(values, out=values)
    values *= step
    return values
