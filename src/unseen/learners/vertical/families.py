"""Families of generalised linear models: losses, residuals, and residuals as sums of products over two parties.

With a score z, target y and weight w (mean 1 over the rows), every family has the mean loss of w·ℓ(z, y), the
residual d = w·∂ℓ/∂z and the curvature w·∂²ℓ/∂z². Where z = a + b lies with two parties, the *separation*

    d = Σ_r f_r(a, y, w) · g_r(b) + h(a, y, w),        |g_r| ≤ 1 on the range of b,

says what either has to contribute: the active party f and h, the passive one g.

* Gaussian: ℓ = (z − y)²/2. d = w·b + w·(a − y).
* Binomial with the logit link: ℓ = log(1 + e^z) − y·z. σ(a + b) has no finite separation; see ``factorisation``.
* Poisson with the log link: ℓ = e^z − y·z. d = w·e^a·e^b − w·y, exactly.
* Tweedie with the log link and power 1 < p < 2 (Jørgensen, J. R. Statist. Soc. B 49, 1987):
  ℓ = e^((2−p)z)/(2−p) − y·e^((1−p)z)/(1−p). d = w·e^((2−p)a)·e^((2−p)b) − w·y·e^((1−p)a)·e^((1−p)b), exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError
from unseen.learners.vertical.factorisation import LARGEST_HALF, Factorisation, Interval, sigmoid

Floats = NDArray[np.float64]

# exp of more overflows long before it means anything.
_LARGEST_LOG = 500.0


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What the active party knows of a separation: f (R, n), h (n,), and a bound on |Σ_r f_r·g_r|."""

    factors: Floats
    rest: Floats
    bound: float


class Separation(Protocol):
    """d = Σ_r f_r·g_r + h for scores within agreed ranges; scores beyond are clipped to them."""

    @property
    def rank(self) -> int:
        """Number of products."""
        ...

    @property
    def table(self) -> Floats:
        """What the passive party needs to compute g, shape (R, coefficients); R × 0 if nothing."""
        ...

    def active(self, scores: Floats, target: Floats, weights: Floats) -> Contribution:
        """Return the active party's contribution for its scores a, (n,)."""
        ...


class Family(Protocol):
    """One family with its canonical or log link."""

    @property
    def name(self) -> str:
        """Name in parameters and reports."""
        ...

    @property
    def largest_active(self) -> float:
        """How far from the middle of their range the active party's scores count; beyond, they are clipped."""
        ...

    @property
    def largest_passive(self) -> float:
        """How far from 0 the passive party's scores count."""
        ...

    def check(self, target: Floats) -> None:
        """Raise ``DataError`` unless these targets can be modelled."""
        ...

    def mean(self, scores: Floats) -> Floats:
        """Return the inverse link: expected targets."""
        ...

    def link(self, mean: float) -> float:
        """Return the score whose expected target is ``mean``."""
        ...

    def loss(self, scores: Floats, target: Floats) -> Floats:
        """Return ℓ for every row, up to terms that do not depend on the scores."""
        ...

    def slope(self, scores: Floats, target: Floats) -> Floats:
        """Return ∂ℓ/∂z."""
        ...

    def curvature(self, scores: Floats, target: Floats) -> Floats:
        """Return ∂²ℓ/∂z²."""
        ...

    def separation(self, active: Interval, passive: Interval) -> Separation:
        """Return the separation for scores in these ranges."""
        ...

    def passive_factors(self, scores: Floats, passive: Interval, table: Floats) -> Floats:
        """Return g (R, n) for the passive party's scores."""
        ...


@dataclass(frozen=True, slots=True)
class Exponentials:
    """A separation into exponentials: f_r = active_r(a, y, w)·e^(rate_r·reach), g_r = e^(rate_r·b − |rate_r|·reach)."""

    rates: tuple[float, ...]
    family: Gaussian | Poisson | Tweedie
    passive: Interval

    @property
    def rank(self) -> int:
        """Number of products."""
        return len(self.rates)

    @property
    def table(self) -> Floats:
        """Nothing: the functions are known."""
        return np.empty((self.rank, 0))

    def active(self, scores: Floats, target: Floats, weights: Floats) -> Contribution:
        """Return the active party's contribution."""
        factors, rest = self.family.split(scores, target, weights)
        reach = np.array([self.family.reach(rate, self.passive) for rate in self.rates])
        factors = factors * reach[:, None]
        return Contribution(factors, rest, float(np.abs(factors).sum(axis=0).max(initial=0.0)))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Least squares: the identity link."""

    @property
    def name(self) -> str:
        """Name in parameters and reports."""
        return "gaussian"

    @property
    def largest_active(self) -> float:
        """How far from the middle of their range the active party's scores count."""
        return math.inf

    @property
    def largest_passive(self) -> float:
        """How far from 0 the passive party's scores count."""
        return math.inf

    def check(self, target: Floats) -> None:
        """Raise ``DataError`` if all targets are equal."""
        _check_varied(target)

    def mean(self, scores: Floats) -> Floats:
        """Return the scores."""
        return scores

    def link(self, mean: float) -> float:
        """Return ``mean``."""
        return mean

    def loss(self, scores: Floats, target: Floats) -> Floats:
        """Return half the squared error."""
        return np.square(scores - target) / 2

    def slope(self, scores: Floats, target: Floats) -> Floats:
        """Return the error z − y."""
        return scores - target

    def curvature(self, scores: Floats, target: Floats) -> Floats:
        """Return 1."""
        del target
        return np.ones_like(scores)

    def separation(self, active: Interval, passive: Interval) -> Exponentials:
        """Return w·b + w·(a − y)."""
        del active
        return Exponentials((0.0,), self, passive)

    def reach(self, rate: float, passive: Interval) -> float:
        """Return the largest score of the passive party."""
        del rate
        return passive.half

    def split(self, scores: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Return f before scaling, and h."""
        return weights[None, :], weights * (scores - target)

    def passive_factors(self, scores: Floats, passive: Interval, table: Floats) -> Floats:
        """Return b as a share of the range."""
        del table
        return passive.clip(scores)[None, :] / passive.half


@dataclass(frozen=True, slots=True)
class Binomial:
    """Logistic regression: targets 0 and 1, the logit link."""

    @property
    def name(self) -> str:
        """Name in parameters and reports."""
        return "binomial"

    @property
    def largest_active(self) -> float:
        """How far from the middle of their range the active party's scores count."""
        return LARGEST_HALF

    @property
    def largest_passive(self) -> float:
        """How far from 0 the passive party's scores count."""
        return LARGEST_HALF

    def check(self, target: Floats) -> None:
        """Raise ``DataError`` unless targets are 0 and 1, both."""
        if not np.isin(target, (0.0, 1.0)).all():
            found = ", ".join(f"{value:g}" for value in np.unique(target)[:5])
            raise DataError(f"labels must be 0 or 1, found {found}: map other values first, drop rows without a label")
        if target.min() == target.max():
            raise DataError(f"all {len(target)} labels are {target[0]:g}: there is nothing to tell apart")

    def mean(self, scores: Floats) -> Floats:
        """Return the chance of label 1."""
        return sigmoid(scores)

    def link(self, mean: float) -> float:
        """Return the log odds."""
        return math.log(mean / (1 - mean))

    def loss(self, scores: Floats, target: Floats) -> Floats:
        """Return the log loss."""
        return np.logaddexp(0.0, scores) - target * scores

    def slope(self, scores: Floats, target: Floats) -> Floats:
        """Return σ(z) − y."""
        return sigmoid(scores) - target

    def curvature(self, scores: Floats, target: Floats) -> Floats:
        """Return σ'(z)."""
        del target
        chances = sigmoid(scores)
        return chances * (1 - chances)

    def separation(self, active: Interval, passive: Interval) -> SigmoidSeparation:
        """Return the factorisation of σ(a + b) on these ranges."""
        return SigmoidSeparation(Factorisation.of(active, passive))

    def passive_factors(self, scores: Floats, passive: Interval, table: Floats) -> Floats:
        """Return g from its Chebyshev coefficients."""
        return passive.evaluate(table, scores)


@dataclass(frozen=True, slots=True)
class SigmoidSeparation:
    """w·σ(a + b) as a sum of products, and −w·y."""

    factorisation: Factorisation

    @property
    def rank(self) -> int:
        """Number of products."""
        return self.factorisation.rank

    @property
    def table(self) -> Floats:
        """Chebyshev coefficients of g."""
        return self.factorisation.passive_table

    def active(self, scores: Floats, target: Floats, weights: Floats) -> Contribution:
        """Return the active party's contribution."""
        factors = self.factorisation.active.evaluate(self.factorisation.active_table, scores)
        factors *= weights
        bound = float(np.abs(weights).max(initial=0.0)) * (self.factorisation.largest + self.factorisation.error)
        return Contribution(factors, -weights * target, bound)


class _LogLink:
    """What families with the log link share."""

    __slots__ = ()

    @property
    def largest_active(self) -> float:
        """How far from the middle of their range the active party's scores count."""
        return math.inf

    @property
    def largest_passive(self) -> float:
        """How far from 0 the passive party's scores count."""
        return LARGEST_HALF

    def check(self, target: Floats) -> None:
        """Raise ``DataError`` unless targets are non-negative and not all equal."""
        _check_counts(target)

    def mean(self, scores: Floats) -> Floats:
        """Return e^z."""
        return _exp(scores)

    def link(self, mean: float) -> float:
        """Return log(mean)."""
        return math.log(mean)

    def reach(self, rate: float, passive: Interval) -> float:
        """Return the largest e^(rate·b)."""
        return math.exp(abs(rate) * passive.half)


@dataclass(frozen=True, slots=True)
class Poisson(_LogLink):
    """Counts: targets of at least 0, the log link."""

    @property
    def name(self) -> str:
        """Name in parameters and reports."""
        return "poisson"

    def loss(self, scores: Floats, target: Floats) -> Floats:
        """Return e^z − y·z."""
        return _exp(scores) - target * scores

    def slope(self, scores: Floats, target: Floats) -> Floats:
        """Return e^z − y."""
        return _exp(scores) - target

    def curvature(self, scores: Floats, target: Floats) -> Floats:
        """Return e^z."""
        del target
        return _exp(scores)

    def separation(self, active: Interval, passive: Interval) -> Exponentials:
        """Return w·e^a·e^b − w·y."""
        del active
        return Exponentials((1.0,), self, passive)

    def split(self, scores: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Return f before scaling, and h."""
        return (weights * _exp(scores))[None, :], -weights * target

    def passive_factors(self, scores: Floats, passive: Interval, table: Floats) -> Floats:
        """Return e^(b − reach)."""
        del table
        return np.exp(passive.clip(scores) - passive.half)[None, :]


@dataclass(frozen=True, slots=True)
class Tweedie(_LogLink):
    """Amounts that are often 0: compound Poisson–gamma of a power between 1 and 2, the log link.

    Raises:
        UsageError: The power is not strictly between 1 and 2.
    """

    power: float = 1.5

    def __post_init__(self) -> None:
        if not 1 < self.power < 2:
            raise UsageError(f"the Tweedie power lies strictly between 1 and 2, found {self.power}")

    @property
    def name(self) -> str:
        """Name in parameters and reports."""
        return "tweedie"

    def loss(self, scores: Floats, target: Floats) -> Floats:
        """Return half the unit deviance, up to a constant."""
        up, down = 2 - self.power, 1 - self.power
        loss: Floats = _exp(up * scores) / up - target * _exp(down * scores) / down
        return loss

    def slope(self, scores: Floats, target: Floats) -> Floats:
        """Return e^((2−p)z) − y·e^((1−p)z)."""
        return _exp((2 - self.power) * scores) - target * _exp((1 - self.power) * scores)

    def curvature(self, scores: Floats, target: Floats) -> Floats:
        """Return (2−p)·e^((2−p)z) + (p−1)·y·e^((1−p)z)."""
        up, down = 2 - self.power, 1 - self.power
        curvature: Floats = up * _exp(up * scores) - down * target * _exp(down * scores)
        return curvature

    def separation(self, active: Interval, passive: Interval) -> Exponentials:
        """Return two products of exponentials."""
        del active
        return Exponentials((2 - self.power, 1 - self.power), self, passive)

    def split(self, scores: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Return f before scaling, and h = 0."""
        up, down = _exp((2 - self.power) * scores), _exp((1 - self.power) * scores)
        return np.stack([weights * up, -weights * target * down]), np.zeros_like(scores)

    def passive_factors(self, scores: Floats, passive: Interval, table: Floats) -> Floats:
        """Return e^((2−p)b) and e^((1−p)b), each as a share of its largest value."""
        del table
        clipped, up, down = passive.clip(scores), 2 - self.power, 1 - self.power
        return np.stack([np.exp(up * (clipped - passive.half)), np.exp(down * (clipped + passive.half))])


def family_of(name: str, power: float) -> Family:
    """Return the family called ``name``; only Tweedie's has a power.

    Raises:
        UsageError: There is none.
    """
    known: dict[str, Family] = {"gaussian": Gaussian(), "binomial": Binomial(), "poisson": Poisson()}
    if name == "tweedie":
        return Tweedie(power)
    if name not in known:
        raise UsageError(f"a family is one of {', '.join(known)}, tweedie; found {name!r}")
    return known[name]


def _exp(values: Floats) -> Floats:
    return np.exp(np.clip(values, -_LARGEST_LOG, _LARGEST_LOG))


def _check_varied(target: Floats) -> None:
    if target.min() == target.max():
        raise DataError(f"all {len(target)} targets are {target[0]:g}: there is nothing to model")


def _check_counts(target: Floats) -> None:
    if target.min() < 0:
        row = int(target.argmin())
        raise DataError(f"the target of row {row} is {target[row]:g}: this family needs targets of at least 0")
    _check_varied(target)
