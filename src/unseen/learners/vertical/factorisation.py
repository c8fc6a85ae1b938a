"""σ(a + b) as a short sum of products f_r(a)·g_r(b) on a rectangle: the best there is, up to a small factor.

The values of σ(a + b) − ½ on a tensor grid of Chebyshev nodes are decomposed by singular values; the error falls
geometrically with the number of terms, since σ is analytic in a strip of half-width π. Singular vectors at the nodes
become Chebyshev series (Trefethen, Approximation Theory and Practice, SIAM 2013, chapter 3), these dense tables, and
scores are looked up with linear interpolation between 2^14 points (error below 1e-7).

Scores mostly crowd in the middle of their range, which the largest one decides. If both parties' ranges are at least
2.8 times as wide, on either side, as their scores' root mean square (``Interval.narrow``), errors count by a density,
normal with a deviation of a third of the half-width on top of a tenth of its height everywhere, and the rank follows
from root mean squares: two to four products fewer. So it is where the active party's range is centred within ±3.

Otherwise it follows from the largest error. Where the classes are unbalanced, scores are far from 0 and σ (or 1 − σ)
small for nearly all rows. Such errors are therefore weighed by e^(−tilt·z), which is a product of functions of a and b
too, with a tilt between −½ and ½ that follows from the middle of the active party's range.

The error stated is measured on a grid three times as fine, off the nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.tables import looked_up

Floats = NDArray[np.float64]

MAX_RANK = 16
"""Products that slot-wise arithmetic sums at once."""
TARGET_ERROR = 2e-4
"""The largest relative to the largest value, both times e^(−tilt·z); root mean squares may be twice as far off."""
LEAST_HALF = 0.25
"""No range is told to be narrower to either side."""
LARGEST_HALF = 8.0
"""Scores further than this from the middle of their range are clipped: more would need more than ``MAX_RANK``."""

_NODES = 128
_TABLE = 1 << 14
_NARROW = 2.8
_DEVIATION, _FLOOR = 1 / 3, 0.1
# Further from 0, a root mean square is that of a few large σ, and coefficients need more.
_BALANCED = 3.0
# Chebyshev coefficients below this are not worth sending.
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """The scores of one party: middle ± half, and whether half is at least 2.8 times their root mean square there."""

    middle: float
    half: float
    narrow: bool = False

    @classmethod
    def around(cls, scores: Floats, *, centred: bool, largest: float = LARGEST_HALF) -> Interval:
        """Return a range that holds the scores: its half-width is a power of √2, its middle 0 if ``centred``.

        Else the middle is a multiple of half the half-width, so that both tell little. It reaches
        no further than ``largest``.
        """
        low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
        if centred:
            return cls(0.0, _rounded_up(max(-low, high), largest))._measured(scores)
        # Where the range is too wide, it has to hold most scores, not to lie between the outliers.
        centre = float(np.median(scores)) if len(scores) else 0.0
        low, high = max(low, centre - LARGEST_HALF), min(high, centre + LARGEST_HALF)
        half = _rounded_up((high - low) / 2, largest)
        step = half / 2
        middle = step * round((low + high) / 2 / step)
        # The middle moved by up to a quarter of the half-width, so that the range may have to grow once or twice.
        return cls(middle, _rounded_up(max(middle - low, high - middle), largest))._measured(scores)

    def _measured(self, scores: Floats) -> Interval:
        # Σ(s − m)² without a copy; the cancellation is that of a few digits out of sixteen.
        squares = float(scores @ scores) - 2 * self.middle * float(scores.sum()) + self.middle**2 * len(scores)
        return replace(self, narrow=_NARROW**2 * squares <= self.half**2 * len(scores))

    def exceeded(self, scores: Floats) -> bool:
        """Return whether more than one score in a thousand lies outside."""
        return int(np.count_nonzero(np.abs(scores - self.middle) > self.half * (1 + 1e-9))) > len(scores) // 1000

    def density(self, places: Floats) -> Floats:
        """Return how much errors count at scores middle + half·places, up to a factor."""
        density: Floats = np.exp(-np.square(places / _DEVIATION) / 2) + _FLOOR
        return density

    def clip(self, scores: Floats) -> Floats:
        """Return scores within the range."""
        return np.clip(scores, self.middle - self.half, self.middle + self.half)

    def nodes(self, count: int) -> Floats:
        """Return the Chebyshev nodes (of the first kind) of the range."""
        return self.middle + self.half * np.cos(np.pi * (np.arange(count) + 0.5) / count)

    def evaluate(self, coefficients: Floats, scores: Floats) -> Floats:
        """Return the Chebyshev series (R, degree + 1) at clipped scores, shape (R, n)."""
        grid = np.polynomial.chebyshev.chebval(np.linspace(-1, 1, _TABLE + 1), coefficients.T)
        return looked_up(np.ascontiguousarray(grid.T), scores, self.middle - self.half, self.middle + self.half)


@dataclass(frozen=True, slots=True, eq=False)
class Factorisation:
    """σ(a + b) ≈ Σ_r f_r(a)·g_r(b), |g_r| ≤ 1, as Chebyshev coefficients (R, degree + 1); the constant ½ among f·g."""

    active: Interval
    passive: Interval
    active_table: Floats
    passive_table: Floats
    error: float
    """Largest absolute error on the rectangle."""
    tilt: float
    """The rank was chosen for the error times e^(−tilt·(a + b))."""

    @property
    def rank(self) -> int:
        """Number of products."""
        return len(self.active_table)

    @property
    def largest(self) -> float:
        """The largest value of σ on the rectangle."""
        top = self.active.middle + self.active.half + self.passive.middle + self.passive.half
        return float(sigmoid(np.array([top]))[0])

    @classmethod
    def of(cls, active: Interval, passive: Interval) -> Factorisation:
        """Return the factorisation of the least rank whose error is at most ``TARGET_ERROR``, or rank 16."""
        # Where nearly all rows have a small σ, an error that is small beside 1 is not small beside σ.
        if active.narrow and passive.narrow and abs(active.middle) <= _BALANCED:
            return _factorise(active, passive, 0.0)
        active, passive = replace(active, narrow=False), replace(passive, narrow=False)
        return _factorise(active, passive, -0.5 * math.tanh(active.middle / 3))

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """Return Σ_r f_r(a)·g_r(b) row by row."""
        f = self.active.evaluate(self.active_table, a)
        products: Floats = np.einsum("rn,rn->n", f, self.passive.evaluate(self.passive_table, b))
        return products


def sigmoid(scores: Floats) -> Floats:
    """Return 1 / (1 + exp(−score)) without overflow."""
    chances: Floats = 0.5 * (1.0 + np.tanh(scores / 2))
    return chances


@lru_cache(maxsize=8)
def _factorise(active: Interval, passive: Interval, tilt: float) -> Factorisation:
    a, b = active.nodes(_NODES), passive.nodes(_NODES)
    rise_a, rise_b = np.exp(tilt * (a - active.middle)) / _emphasis(active), np.exp(tilt * b) / _emphasis(passive)
    left, sizes, right = np.linalg.svd(sigmoid(a[:, None] + b) / (rise_a[:, None] * rise_b))
    f = _series(((left * sizes) * rise_a[:, None])[:, :MAX_RANK].T)
    g = _series((right * rise_b)[:MAX_RANK])
    fine = np.linspace(-1, 1, 3 * _NODES)
    scores = active.middle + active.half * fine[:, None] + passive.middle + passive.half * fine
    exact, rise = sigmoid(scores), np.exp(tilt * (scores - active.middle))
    at_a, at_b = np.polynomial.chebyshev.chebval(fine, f.T), np.polynomial.chebyshev.chebval(fine, g.T)
    # Factors of the passive party stay below 1 (between grid points, too), those of the active one make up for it.
    scale = 1.01 * np.abs(at_b).max(axis=1)
    for rank in range(1, MAX_RANK + 1):
        errors = np.abs(at_a[:rank].T @ at_b[:rank] - exact)
        if active.narrow:
            close = _size(errors, active, passive) <= 2 * TARGET_ERROR * _size(exact, active, passive)
        else:
            close = bool((errors / rise).max() <= TARGET_ERROR * (exact / rise).max())
        if close:
            break
    f, g = f[:rank] * scale[:rank, None], g[:rank] / scale[:rank, None]
    return Factorisation(active, passive, _shortened(f), _shortened(g), float(errors.max()), tilt)


def _emphasis(interval: Interval) -> Floats:
    """Return by what to multiply values at the nodes for their squares to count by the interval's density."""
    if not interval.narrow:
        return np.ones(_NODES)
    places = Interval(0.0, 1.0).nodes(_NODES)
    # The nodes themselves are denser towards the ends.
    emphasis: Floats = np.sqrt(np.sqrt(1 - np.square(places)) * interval.density(places))
    return emphasis


def _size(errors: Floats, active: Interval, passive: Interval) -> float:
    """Return the root mean square of values on a grid, by both intervals' densities."""
    places = np.linspace(-1, 1, 3 * _NODES)
    left, right = active.density(places), passive.density(places)
    return math.sqrt(float(left @ np.square(errors) @ right) / float(left.sum() * right.sum()))


def _shortened(series: Floats) -> Floats:
    """Return Chebyshev series without the last coefficients that make no difference."""
    used = np.flatnonzero(np.abs(series).max(axis=0) > _NEGLIGIBLE)
    return series[:, : used[-1] + 1 if len(used) else 1]


def _series(values: Floats) -> Floats:
    """Return the Chebyshev coefficients of functions given at the nodes, one a row."""
    count = values.shape[1]
    order, place = np.arange(count), np.pi * (np.arange(count) + 0.5) / count
    coefficients: Floats = 2 / count * values @ np.cos(place[:, None] * order)
    coefficients[:, 0] /= 2
    return coefficients


def _rounded_up(size: float, largest: float) -> float:
    """Return the least power of √2 that is at least ``size`` and at least ¼, capped at ``largest``."""
    power = math.ceil(2 * math.log2(max(size, LEAST_HALF)) - 1e-9)
    return float(min(2.0 ** (power / 2), largest))
