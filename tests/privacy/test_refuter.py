"""A refuter: it attacks what is claimed to be private, and states with 99 % confidence how large ε is at least.

Two worlds differ by one unit that does its worst. A mechanism runs many times in both; an attacker guesses the world
from one number. Were the mechanism (ε, δ)-private, no guess could be right more often than that allows: so the rates of
its hits and false alarms, each bounded as C. Clopper and E. Pearson do (Biometrika 26, 1934), bound ε from below
(M. Jagielski, J. Ullman, A. Oprea, "Auditing Differentially Private Machine Learning", NeurIPS 2020). Claims are
checked at several δ, since each fault shows best at another one. Honest mechanisms must pass, planted faults must not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from unseen.crypto.prg import Prg
from unseen.learners.horizontal.private import central, clip, dp_sgd, local, sampling
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Broadcast,
    ClientId,
    Examples,
    State,
    Update,
)
from unseen.privacy import accounting
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import Everyone, Gaussian, Poisson, Relation, Spend, Unit

DELTAS = (1e-5, 0.05, 0.3, 0.7)
CONFIDENCE = 0.99
TRIALS = 1500
SECRET = Prg(bytes(range(32)))

Statistics = NDArray[np.float64]
Mechanism = Callable[[bool, Prg], float]


# --- the refuter -------------------------------------------------------------------------------------------------


def least_epsilon(present: Statistics, absent: Statistics, delta: float) -> float:
    """Return a bound that lies below ε, with 99 % confidence over all thresholds and both directions."""
    both = np.concatenate([present, absent])
    thresholds = np.quantile(both, np.linspace(0.005, 0.995, 25))
    doubt = (1 - CONFIDENCE) / (4 * len(thresholds))
    bounds = [0.0]
    for threshold in thresholds:
        for hits, alarms in ((present > threshold, absent > threshold), (absent <= threshold, present <= threshold)):
            rate = lower(int(hits.sum()), len(hits), doubt) - delta
            if rate > 0:
                bounds.append(math.log(rate / upper(int(alarms.sum()), len(alarms), doubt)))
    return max(bounds)


def lower(count: int, of: int, doubt: float) -> float:
    return float(beta.ppf(doubt, count, of - count + 1)) if count else 0.0


def upper(count: int, of: int, doubt: float) -> float:
    return float(beta.ppf(1 - doubt, count + 1, of - count)) if count < of else 1.0


def measured(mechanism: Mechanism, trials: int = TRIALS) -> tuple[Statistics, Statistics]:
    """Return the statistics of both worlds, each run with randomness of its own."""
    runs = ((world, SECRET.derive("trial", bytes([world]), str(n).encode())) for world in (1, 0) for n in range(trials))
    values = np.array([mechanism(bool(world), prg) for world, prg in runs])
    return values[:trials], values[trials:]


@lru_cache
def epsilon(stated: Spend, delta: float) -> float:
    return accounting.epsilon([stated], delta)


def refuted(stated: Spend, mechanism: Mechanism, trials: int = TRIALS) -> bool:
    present, absent = measured(mechanism, trials)
    return any(least_epsilon(present, absent, delta) > epsilon(stated, delta) for delta in DELTAS)


def test_the_refuter_finds_most_of_what_there_is_to_find() -> None:
    # Randomised response of ε = 1: the truth with probability e/(1 + e).
    def answer(world: bool, prg: Prg) -> float:
        return float(world != (float(prg.words(1)[0]) * 2.0**-64 > math.e / (1 + math.e)))

    found = least_epsilon(*measured(answer, 4000), 1e-5)
    assert 0.75 < found <= 1.0


# --- a cohort with a canary at a server --------------------------------------------------------------------------


CANARY = np.array([25.0, 0.0, 0.0], np.float32)
NOTHING = np.zeros(3, np.float32)


def claim(noise_multiplier: float, rounds: int = 1, sampling: Everyone | Poisson | None = None) -> Spend:
    return Spend(
        run="claimed",
        about="people",
        mechanism=Gaussian(noise_multiplier=noise_multiplier),
        sampling=sampling or Everyone(),
        rounds=rounds,
        unit=Unit.CLIENT,
        relation=Relation.ADD_OR_REMOVE,
    )


def add(state: State, aggregate: Aggregate) -> State:
    return State(state.round + 1, state.model + aggregate.delta, state.extra)


def assignment(bound: float, name: str = "canary") -> Assignment:
    broadcast = Broadcast(0, NOTHING, {clip.CLIP: np.array([bound], np.float32)})
    return Assignment(ClientId(name), broadcast, Examples(NOTHING, NOTHING), {}, np.random.default_rng(0))


def plan(noise_multiplier: float, bound: float | clip.Quantile = 1.0, expected: float = 2.0) -> central.Plan:
    return central.Plan(
        clip=bound,
        noise_multiplier=noise_multiplier,
        expected=expected,
        sampling=Everyone(),
        run="run",
        about="people",
    )


@dataclass(frozen=True)
class Federation:
    """Rounds with a canary in some of them, and one client that sends nothing."""

    plan: central.Plan
    clips: Sequence[clip.Clip | clip.AdaptiveClip] = (clip.Clip(1.0),)
    finalizer: type[central.Central] = central.Central

    def models(self, canary_in: Sequence[bool], prg: Prg) -> list[float]:
        """Return the model's first number after every round, as sums over the cohort."""
        finish = self.finalizer(add, self.plan, Unlimited(), prg)
        state, values = State(0, NOTHING), [0.0]
        for here in canary_in:
            updates = [Update(NOTHING, 1.0), *([self.canary()] if here else [])]
            if clip.AdaptiveClip() in self.clips:
                updates[0] = replace(updates[0], extra={clip.WITHIN: np.array([0.5], np.float32)})
            state = finish(state, central.Sum()(updates))
            values.append(float(state.model[0]) * self.plan.expected)
        return values

    def canary(self) -> Update:
        update = Update(CANARY, 1.0)
        bound = self.plan.clip.initial if isinstance(self.plan.clip, clip.Quantile) else self.plan.clip
        for postprocess in self.clips:
            update = postprocess(update, assignment(bound))
        return update

    def once(self, world: bool, prg: Prg) -> float:
        return self.models([world], prg)[-1]


def test_honest_noise_is_not_refuted_and_not_by_much() -> None:
    honest = Federation(plan(1.0))
    present, absent = measured(honest.once)
    assert not refuted(claim(1.0), honest.once)
    for delta in DELTAS[:2]:
        # Not for want of power: a good part of ε is found.
        assert least_epsilon(present, absent, delta) > 0.25 * epsilon(claim(1.0), delta)


@pytest.mark.parametrize("bound", [1.0, 0.05])
def test_half_the_noise_is_refuted(bound: float) -> None:
    clips = (clip.Clip(bound),)
    assert refuted(claim(1.0), Federation(plan(0.5, bound), clips).once)
    assert not refuted(claim(1.0), Federation(plan(1.0, bound), clips).once)


def test_updates_that_were_not_clipped_are_refuted() -> None:
    assert refuted(claim(1.0), Federation(plan(1.0), clips=()).once, trials=300)


def test_clipping_to_twice_the_bound_is_refuted() -> None:
    assert refuted(claim(1.0), Federation(plan(1.0), clips=(clip.Clip(2.0),)).once)


class WrongDenominator(central.Central):
    """Divides by how many came, and measures the noise by how many were expected."""

    __slots__ = ()

    def _mean(self, state: State, aggregate: Aggregate, deviation: float) -> Aggregate:
        mean = central.total(aggregate) / aggregate.clients
        noised = self._noisy(state, "sum", mean, deviation / self.plan.expected)
        # What the others see as a sum.
        return Aggregate((noised * aggregate.clients / self.plan.expected).astype(np.float32), 1, 1.0)


def test_noise_measured_by_another_number_of_clients_is_refuted() -> None:
    faulty = Federation(plan(1.0, expected=8.0), finalizer=WrongDenominator)
    assert refuted(claim(1.0), faulty.once)
    assert not refuted(claim(1.0), Federation(plan(1.0, expected=8.0)).once)


def test_noise_that_is_used_again_in_another_round_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(plan(1.0))

    def difference(world: bool, prg: Prg) -> float:
        _, first, second = federation.models([world, False], prg)
        return first - (second - first)

    assert not refuted(claim(1.0, rounds=2), difference)
    monkeypatch.setattr(central, "fresh", lambda prg, purpose, place, values: prg.derive(purpose))
    assert refuted(claim(1.0, rounds=2), difference, trials=300)


def test_adaptive_clipping_tells_no_more_than_it_claims() -> None:
    quantile = clip.Quantile(initial=1.0, rate=2.0, deviation=0.6)
    honest = Federation(plan(1.0, quantile, expected=20.0), (clip.AdaptiveClip(),))
    sums = quantile.left_for_sums(1.0)

    def likelihood(world: bool, prg: Prg) -> float:
        finish = central.Central(add, honest.plan, Unlimited(), prg)
        others = replace(Update(NOTHING, 1.0), extra={clip.WITHIN: np.array([0.5], np.float32)})
        state = finish(State(0, NOTHING), central.Sum()([others, *([honest.canary()] if world else [])]))
        total = float(state.model[0]) * 20
        surplus = -math.log(float(state.extra[clip.CLIP][0])) / 2.0 * 20
        # Neyman and Pearson's best test: the canary moves the sum by 1, and the count by −½.
        return total / sums**2 - surplus * 0.5 / 0.6**2

    assert sums > 1.5
    assert not refuted(claim(1.0), likelihood)
    assert refuted(claim(1.5), likelihood), "all of the claim is used by sum and count together"


# --- sampling ----------------------------------------------------------------------------------------------------

RATE, ROUNDS = 0.2, 5


def sampled(choose: Callable[[int, Prg], bool]) -> Mechanism:
    federation = Federation(plan(0.25))

    def most(world: bool, prg: Prg) -> float:
        here = [world and choose(number, prg) for number in range(ROUNDS)]
        return float(np.diff(federation.models(here, prg)).max())

    return most


def by_poisson(number: int, prg: Prg) -> bool:
    cohort = sampling.PoissonCohort(RATE, prg)
    return ClientId("canary") in cohort.choose([ClientId("canary")], [1], number, 0)


def by_turns(number: int, prg: Prg) -> bool:
    """Shuffled once, and then taken in turn: everyone takes part exactly once."""
    return number == int(prg.derive("turn").below(ROUNDS, 1)[0])


def test_taking_turns_is_not_poisson_sampling() -> None:
    stated = claim(0.25, ROUNDS, Poisson(rate=RATE))
    assert refuted(stated, sampled(by_turns), trials=400)
    assert not refuted(stated, sampled(by_poisson), trials=400)


# --- examples of one client --------------------------------------------------------------------------------------


class Linear:
    """The loss of an example is its product with the model: its gradient is its input."""

    def example_gradients(self, model: NDArray[np.float32], examples: Examples) -> Iterator[NDArray[np.float32]]:
        del model
        yield np.asarray(examples.inputs, np.float32)


def trained(rate: float, noise_multiplier: float, bound: float = 1.0) -> Mechanism:
    example_plan = dp_sgd.ExamplePlan(
        bound=bound,
        noise_multiplier=noise_multiplier,
        rate=rate,
        nominal=20,
        steps=2,
        learning_rate=1.0,
        rounds=1,
    )

    def run(world: bool, prg: Prg) -> float:
        rows = np.stack([CANARY if world else NOTHING, *[NOTHING] * 3])[0 if world else 1 :]
        examples = Examples(rows, np.zeros(len(rows)))
        given = replace(assignment(1.0), examples=examples, broadcast=Broadcast(0, NOTHING))
        update, _ = dp_sgd.DpSgd(example_plan, Linear(), prg)(None, given)  # type: ignore[arg-type]  # not asked
        return -float(update.delta[0]) * rate * 20

    return run


def test_examples_are_hidden_as_claimed_and_a_wrong_batch_size_is_refuted() -> None:
    stated = claim(0.5, 2, Poisson(rate=0.1))
    assert not refuted(stated, trained(0.1, 0.5), trials=1000)
    assert refuted(stated, trained(0.4, 0.5), trials=1000)
    assert refuted(stated, trained(0.1, 0.2), trials=1000)


# --- clients that trust nobody -----------------------------------------------------------------------------------


def test_local_noise_hides_a_replaced_update_as_claimed() -> None:
    def report(noise_multiplier: float) -> Mechanism:
        def run(world: bool, prg: Prg) -> float:
            postprocess = local.LocalNoise(1.0, noise_multiplier, 1, prg)
            return float(postprocess(Update(CANARY if world else -CANARY, 7.0), assignment(1.0)).delta[0])

        return run

    stated = local.LocalNoise(1.0, 2.0, 1, SECRET).spend("run", "canary", 1)
    assert not refuted(stated, report(2.0))
    assert refuted(stated, report(1.0))
    assert refuted(replace(stated, relation=Relation.ADD_OR_REMOVE), report(2.0)), "replacing moves twice as far"
