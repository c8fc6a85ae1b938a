"""Facts to (ε, δ): composition by privacy loss distributions, with Rényi differential privacy as a cross-check.

Both are ``dp_accounting``'s: privacy loss distributions (A. Koskela, J. Jälkö, A. Honkela, AISTATS 2020; rounded up as
V. Doroshenko and others do, "Connect the Dots", PoPETs 2022) for Gaussian and Laplace noise with Poisson sampling or
without; Rényi orders (I. Mironov, CSF 2017) for everything. What only has a Rényi bound makes the whole
composition a Rényi one. All bounds hold for adaptive choices of later rounds.

The library means different things by a noise multiplier where one unit replaces another: its distributions double the
sensitivity, its Rényi orders do not. Here both get the doubled one spelt out, so that neither has to.

This is the only module that imports ``dp_accounting`` (a second and 60 MB with SciPy): whatever needs ε takes a
function as an argument. It is the optional extra ``dp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import dp_accounting
import numpy as np
from dp_accounting import dp_event, pld, rdp
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.privacy.events import (
    DiscreteLaplace,
    DistributedGaussian,
    Everyone,
    Fixed,
    Gaussian,
    Laplace,
    Mechanism,
    Relation,
    Spend,
    Tree,
    Unit,
    covered,
)

Reals = NDArray[np.float64]

_FINE, _COARSE = 1e-4, 1e-3
"""Widths of the steps to which privacy losses are rounded up: for answers, and for searches (which need many)."""
_MOST_ROUNDS = 1 << 24
_MOST_NOISE = 1 << 20
_MOST_LOSS = 1000.0


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a list of facts is worth: (``epsilon``, ``delta``)-differential privacy of a unit under a relation."""

    epsilon: float
    delta: float
    unit: Unit
    relation: Relation
    method: str
    """``PLD`` or ``RDP``: what the smaller bound came from."""
    rdp: float
    """The bound by Rényi orders alone."""

    def __str__(self) -> str:
        shown = math.ceil(self.epsilon * 1000) / 1000
        return f"(ε = {shown:g}, δ = {self.delta:g}) for one {self.unit}, {self.relation}, by {self.method}"


# --- composition -------------------------------------------------------------------------------------------------


def guarantee(facts: Sequence[Spend], delta: float) -> Guarantee:
    """Return what the facts are worth together; a fact that another one covers counts nothing.

    Raises:
        UsageError: ``delta`` is not between 0 and 1, there are no facts, or they mix units, relations or data.
    """
    return _guarantee(facts, delta, _FINE)


def epsilon(facts: Sequence[Spend], delta: float) -> float:
    """Return the ε of ``guarantee``, and 0 of no facts: what ``epsilon.Budget`` asks for."""
    return guarantee(facts, delta).epsilon if facts else 0.0


def _guarantee(facts: Sequence[Spend], delta: float, width: float) -> Guarantee:
    if not 0 < delta < 1:
        raise UsageError(f"δ is {delta}, expected a number between 0 and 1, far below one over the number of people")
    unit, relation = _one_kind(facts)
    spends = covered(facts)
    renyi = _by_orders(spends, delta)
    # Large losses need no finer steps than small ones do, in proportion; beyond 1000, no exact ones.
    known = renyi < _MOST_LOSS and all(map(_has_losses, spends))
    losses = _by_losses(spends, delta, width * max(1.0, renyi)) if known else math.inf
    method = "PLD" if losses <= renyi else "RDP"
    return Guarantee(min(losses, renyi), delta, unit, relation, method, renyi)


def _one_kind(facts: Sequence[Spend]) -> tuple[Unit, Relation]:
    if not facts:
        raise UsageError("nothing has been spent: there is nothing to account for")
    found = {(fact.unit, fact.relation, fact.about) for fact in facts}
    if len(found) > 1:
        listed = "; ".join(sorted(f"{unit} of {about}, {relation}" for unit, relation, about in found))
        raise UsageError(
            f"spends of different kinds do not add up to one ε, found {listed}: account for each kind of its own"
        )
    unit, relation, _ = found.pop()
    return unit, relation


def _has_losses(fact: Spend) -> bool:
    """Return whether the privacy loss distribution of a spend is known."""
    known = isinstance(fact.mechanism, Gaussian | Laplace | DiscreteLaplace | Tree)
    return known and not isinstance(fact.sampling, Fixed)


def _by_losses(spends: Sequence[Spend], delta: float, width: float) -> float:
    accountant = pld.PLDAccountant(value_discretization_interval=width)
    for fact in spends:
        accountant.compose(_plain(fact), fact.rounds)
    return float(accountant.get_epsilon(delta))


def _by_orders(spends: Sequence[Spend], delta: float) -> float:
    summed = any(isinstance(fact.mechanism, DistributedGaussian) for fact in spends)
    return min(_by_form(spends, delta, form) for form in (_FORMS if summed else _FORMS[:1]))


def _by_form(spends: Sequence[Spend], delta: float, form: Form) -> float:
    # Replacing is in the numbers already: this only lets the library take subsets of fixed size.
    replacing = spends[0].relation == Relation.REPLACE
    relation = dp_accounting.NeighboringRelation
    accountant = _Orders(neighboring_relation=relation.REPLACE_ONE if replacing else relation.ADD_OR_REMOVE_ONE)
    for fact in spends:
        if isinstance(fact.mechanism, DistributedGaussian):
            event = _Curve(_distributed(fact, form))
        elif isinstance(fact.mechanism, DiscreteLaplace):
            event = _Curve(partial(pure, fact.mechanism.sensitivity * _doubled(fact) / fact.mechanism.scale))
        else:
            event = _plain(fact)
        accountant.compose(event, fact.rounds)
    return float(accountant.get_epsilon(delta))


def _doubled(fact: Spend) -> int:
    """Return how many norms of one contribution apart two neighbours are."""
    return 2 if fact.relation == Relation.REPLACE else 1


def _plain(fact: Spend) -> dp_accounting.DpEvent:
    """Return the library's event for one round, with the sensitivity of the relation in its noise multiplier."""
    event = _unsampled(fact.mechanism, _doubled(fact))
    sampling = fact.sampling
    if isinstance(sampling, Everyone):
        return event
    if isinstance(sampling, Fixed):
        return dp_accounting.SampledWithoutReplacementDpEvent(sampling.population, sampling.size, event)
    return dp_accounting.PoissonSampledDpEvent(sampling.rate, event)


def _unsampled(mechanism: Mechanism, doubled: int) -> dp_accounting.DpEvent:
    if isinstance(mechanism, Laplace):
        return dp_accounting.LaplaceDpEvent(mechanism.noise_multiplier / doubled)
    if isinstance(mechanism, DiscreteLaplace):
        return dp_event.DiscreteLaplaceDpEvent(1 / mechanism.scale, mechanism.sensitivity * doubled)
    if isinstance(mechanism, DistributedGaussian):
        raise UsageError(f"{mechanism.kind} noise has no event of the library")
    # All nodes that a leaf is in are one Gaussian mechanism of that many coordinates.
    nodes = mechanism.height if isinstance(mechanism, Tree) else 1
    return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier / math.sqrt(nodes) / doubled)


# --- Rényi orders beyond the library's ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Curve(dp_accounting.DpEvent):  # type: ignore[misc]  # the library is not typed
    """A mechanism known by its Rényi divergences: a function of the orders."""

    curve: Callable[[Reals], Reals]


class _Orders(rdp.RdpAccountant):  # type: ignore[misc]  # the library is not typed
    """The library's accountant, which takes curves as well."""

    def _maybe_compose(self, event: dp_accounting.DpEvent, count: int, do_compose: bool) -> object:
        # Repetitions reach this method as such, and come back to it as what is repeated.
        if not isinstance(event, _Curve):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            self._rdp += count * event.curve(self._orders)
        return None


Form = Callable[[DistributedGaussian, float, Reals], Reals]
"""One of the bounds on the divergence of sums of discrete Gaussians: of noise, sensitivity and orders."""


def distance(mechanism: DistributedGaussian) -> float:
    """Return τ, a bound on how far a coordinate of the summed noise is from one discrete Gaussian.

    τ = 10 Σ_{k=1}^{n−1} exp(−2π²σ²·k/(k+1)) (Kairouz, Liu, Steinke, proposition 14).
    """
    k = np.arange(1, mechanism.clients, dtype=np.float64)
    return float(10 * np.exp(-2 * (math.pi * mechanism.deviation) ** 2 * k / (k + 1)).sum())


def _added(mechanism: DistributedGaussian, norm: float, orders: Reals) -> Reals:
    """α·Δ²/(2nσ²) + τ·d, the first bound of proposition 14."""
    return orders / 2 * _ratio(mechanism, norm) ** 2 + distance(mechanism) * mechanism.size


def _within(mechanism: DistributedGaussian, norm: float, orders: Reals) -> Reals:
    """α/2 · (Δ/(√n·σ) + τ·√d)², the third bound of proposition 14."""
    return orders / 2 * (_ratio(mechanism, norm) + distance(mechanism) * math.sqrt(mechanism.size)) ** 2


def _ratio(mechanism: DistributedGaussian, norm: float) -> float:
    return norm / (math.sqrt(mechanism.clients) * mechanism.deviation)


_FORMS: tuple[Form, ...] = (_added, _within)


def _distributed(fact: Spend, form: Form) -> Callable[[Reals], Reals]:
    mechanism, sampling = fact.mechanism, fact.sampling
    if not isinstance(mechanism, DistributedGaussian):
        raise UsageError(f"expected distributed noise, found {mechanism.kind}")

    def whole(orders: Reals) -> Reals:
        return form(mechanism, mechanism.norm * _doubled(fact), orders)

    if not isinstance(sampling, Fixed):
        return whole
    return lambda orders: without_replacement(sampling.size / sampling.population, whole, orders)


def pure(loss: float, orders: Reals) -> Reals:
    """Return Rényi divergences that no mechanism of ε = ``loss`` and δ = 0 passes: those of a randomised response.

    Source: M. Bun, T. Steinke, "Concentrated Differential Privacy", TCC 2016, proposition 3.3.
    """
    yes, no = -math.log1p(math.exp(-loss)), -loss - math.log1p(math.exp(-loss))
    ahead, back = orders * yes + (1 - orders) * no, orders * no + (1 - orders) * yes
    return np.asarray(np.logaddexp(ahead, back) / (orders - 1), np.float64)


def without_replacement(rate: float, whole: Callable[[Reals], Reals], orders: Reals) -> Reals:
    """Return Rényi divergences of a mechanism on a uniform subset, from those on everyone; one unit replaces another.

    Source: Y. Wang, B. Balle, S. Kasiviswanathan, "Subsampled Rényi Differential Privacy and Analytical Moments
    Accountant", AISTATS 2019: theorem 9 for integer orders (with an unbounded loss), corollary 10 between them.
    """
    grid = np.arange(2, math.ceil(orders.max()) + 1)
    losses = whole(grid.astype(np.float64))
    moments = {1: 0.0} | {int(order): _moment(rate, losses, int(order)) for order in grid}
    low, high = np.floor(orders).astype(int), np.ceil(orders).astype(int)
    part = orders - low
    between = np.array([moments[a] for a in low]) * (1 - part) + np.array([moments[b] for b in high]) * part
    return np.asarray(np.minimum(between / (orders - 1), whole(orders)), np.float64)


def _moment(rate: float, losses: Reals, order: int) -> float:
    """Return (α − 1)·ε'(α) of theorem 9; ``losses`` are those of orders 2, 3 and so on."""
    j = np.arange(2, order + 1)
    terms = j * math.log(rate) + _log_choose(order, j) + (j - 1) * losses[: order - 1] + math.log(2)
    terms[0] += min(0.0, math.log(2) + math.log(-math.expm1(-losses[0])))
    return float(np.logaddexp(0.0, np.logaddexp.reduce(terms)))


def _log_choose(n: int, k: NDArray[np.int64]) -> Reals:
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return np.asarray(factorials[n] - factorials[k] - factorials[n - k], np.float64)


# --- calibration -------------------------------------------------------------------------------------------------


def calibrate(make: Callable[[float], Sequence[Spend]], epsilon: float, delta: float) -> float:
    """Return the least noise, to four digits rounded up, for which ``make(noise)`` stays within (ε, δ).

    Raises:
        UsageError: No noise is enough.
    """

    def enough(noise: float) -> bool:
        return _guarantee(make(noise), delta, _COARSE).epsilon <= epsilon

    high = 1.0
    while not enough(high):
        high *= 2
        if high > _MOST_NOISE:
            raise UsageError(f"no noise is enough for ε = {epsilon}, δ = {delta}: allow fewer rounds, or more ε")
    low = high / 2
    while low > 2**-10 and enough(low):
        low, high = low / 2, low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    digits = 3 - math.floor(math.log10(high))
    return float(math.ceil(high * 10.0**digits) / 10.0**digits)


def affordable(fact: Spend, epsilon: float, delta: float, before: Sequence[Spend] = ()) -> int:
    """Return how many rounds of a spend's kind stay within (ε, δ), on top of what was spent ``before``; maybe 0."""

    def within(rounds: int) -> bool:
        facts = [*before, fact.after(rounds)] if rounds else before
        return not facts or _guarantee(facts, delta, _COARSE).epsilon <= epsilon

    if not within(1):
        return 0
    low, high = 1, 2
    while within(high):
        low, high = high, high * 2
        if high > _MOST_ROUNDS:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low
