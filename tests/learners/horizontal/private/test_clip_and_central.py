"""Clipping and noise at the server: bounds hold exactly, nothing else leaves, runs repeat themselves, budgets stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.learners.horizontal.private.central import Central, Plan, Sum
from unseen.learners.horizontal.private.clip import CLIP, WITHIN, AdaptiveClip, Announce, Clip, Quantile, clipped
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.private.noise import LOW, total
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Broadcast,
    ClientId,
    Examples,
    Memory,
    Process,
    State,
    Trainer,
    Update,
)
from unseen.privacy.epsilon import Budget, Limit, Unlimited
from unseen.privacy.events import Everyone, Gaussian, Poisson, Spend

SIZE = 20_000
SECRET = Prg(bytes(32))


def add(state: State, aggregate: Aggregate) -> State:
    return State(state.round + 1, state.model + aggregate.delta, {"momentum": aggregate.delta})


def assignment(client: str = "ann", number: int = 0, **extra: float) -> Assignment:
    named = {f"dp/{name}": np.array([value], np.float32) for name, value in extra.items()}
    broadcast = Broadcast(number, np.zeros(3, np.float32), named)
    return Assignment(ClientId(client), broadcast, Examples(np.zeros(1), np.zeros(1)), {}, np.random.default_rng(0))


def plan(**change: object) -> Plan:
    base = Plan(clip=2.0, noise_multiplier=1.5, expected=10.0, sampling=Everyone(), run="run", about="phones")
    return replace(base, **change)  # type: ignore[arg-type]  # any field


# --- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1e-6, 0.5, 1.0, 1.0000001, 3.0, 1e6])
def test_no_update_is_longer_than_the_bound_in_exact_arithmetic(length: float) -> None:
    direction = np.random.default_rng(1).standard_normal(SIZE)
    delta = (direction / np.linalg.norm(direction) * length).astype(np.float32)
    found, within = clipped(delta, 1.0, "ann")
    assert math.fsum(float(x) ** 2 for x in found) <= 1.0
    assert within == (float(np.linalg.norm(delta.astype(np.float64))) <= 1)
    np.testing.assert_allclose(found, delta * min(1.0, 1.0 / length), rtol=2e-6)


def test_nothing_but_the_change_leaves_a_client() -> None:
    update = Update(np.ones(3, np.float32), 317.0, {}, {"loss": 0.25})
    left = Clip(1.0)(update, assignment())
    assert (left.weight, dict(left.extra), dict(left.metrics)) == (1.0, {}, {})
    with pytest.raises(UsageError, match="client ann carries control beside"):
        Clip(1.0)(replace(update, extra={"control": update.delta}), assignment())


def test_a_diverged_update_is_refused() -> None:
    with pytest.raises(DataError, match="client ann holds numbers that are not finite"):
        Clip(1.0)(Update(np.array([1.0, np.nan], np.float32), 1.0), assignment())


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bounds_that_bound_nothing_are_refused(bound: float) -> None:
    with pytest.raises(UsageError, match="the bound on an update's length"):
        Clip(bound)


def test_adaptive_clipping_follows_the_quantile_of_the_norms() -> None:
    """60 % of clients' updates are not longer than the bound that it settles at."""
    quantile = Quantile(initial=0.1, target=0.6, rate=0.3, deviation=5.0)
    norms = np.random.default_rng(3).lognormal(1.0, 0.7, 200)
    finish = Central(add, plan(clip=quantile, noise_multiplier=1.0, expected=200.0), Unlimited(), SECRET)
    announce = Announce(lambda state: Broadcast(state.round, state.model), quantile)
    state, bounds = State(0, np.zeros(1, np.float32)), []
    for _ in range(60):
        given = replace(assignment(), broadcast=announce(state))
        updates = [AdaptiveClip()(Update(np.array([norm], np.float32), 1.0), given) for norm in norms]
        state = finish(state, Sum()(updates))
        bounds.append(float(state.extra[CLIP][0]))
    settled = float(np.mean(bounds[-20:]))
    assert 0.5 < np.mean(norms <= settled) < 0.7
    assert "momentum" in state.extra, "what the other finalizer keeps is kept"


def test_sum_and_count_together_spend_what_is_stated() -> None:
    quantile = Quantile(deviation=6.0)
    left = quantile.left_for_sums(1.2)
    assert left**-2 + (2 * 6.0) ** -2 == pytest.approx(1.2**-2)
    with pytest.raises(UsageError, match=r"set the deviation above 0\.6"):
        replace(quantile, deviation=0.6).left_for_sums(1.2)
    with pytest.raises(UsageError, match="set the deviation above"):
        plan(clip=replace(quantile, deviation=0.5))
    with pytest.raises(UsageError, match="put Announce around the distributor"):
        AdaptiveClip()(Update(np.ones(3, np.float32), 1.0), assignment())


# --- sums and noise ----------------------------------------------------------------------------------------------


def updates(seed: int, count: int = 4) -> list[Update]:
    rng = np.random.default_rng(seed)
    return [Update(rng.standard_normal(SIZE).astype(np.float32) / 200, 1.0) for _ in range(count)]


def test_sums_keep_what_32_bits_would_lose() -> None:
    given = updates(1, 50)
    exact = np.sum([update.delta.astype(np.float64) for update in given], axis=0)
    aggregate = Sum()(given)
    assert np.abs(total(aggregate) - exact).max() < 2.0**-46
    assert np.abs(aggregate.delta - exact).max() > 2.0**-30
    assert set(aggregate.extra) == {LOW}
    assert (aggregate.clients, aggregate.weight, dict(aggregate.metrics)) == (50, 50.0, {})


def test_updates_that_were_not_clipped_are_refused() -> None:
    for update in (replace(updates(1)[0], weight=3.0), replace(updates(1)[0], metrics={"loss": 1.0})):
        with pytest.raises(UsageError, match="clip updates with Clip or AdaptiveClip"):
            Sum()([*updates(1), update])


def test_noise_has_the_stated_deviation_around_the_mean_over_expected_clients() -> None:
    given = updates(1)
    after = Central(add, plan(), Unlimited(), SECRET)(State(0, np.zeros(SIZE, np.float32)), Sum()(given))
    rest = after.model * 10 - np.sum([update.delta for update in given], axis=0)
    assert rest.std() == pytest.approx(1.5 * 2.0, rel=0.02)
    assert abs(rest.mean()) < 4.5 * 3 / math.sqrt(SIZE)
    assert after.round == 1


def test_an_empty_cohort_is_released_like_any_other() -> None:
    nobody = Aggregate(np.zeros(SIZE, np.float32), 0, 0.0)
    after = Central(add, plan(), Unlimited(), SECRET)(State(4, np.zeros(SIZE, np.float32)), nobody)
    assert after.model.std() * 10 == pytest.approx(3.0, rel=0.02)


def test_a_round_repeats_itself_and_other_sums_get_other_noise() -> None:
    finish = Central(add, plan(), Unlimited(), SECRET)
    state = State(3, np.zeros(SIZE, np.float32))
    first, again, other = (finish(state, Sum()(updates(seed))).model.astype(np.float64) * 10 for seed in (1, 1, 2))
    assert (first == again).all()
    rests = [
        model - np.sum([update.delta for update in updates(seed)], axis=0) for model, seed in ((first, 1), (other, 2))
    ]
    assert abs(np.corrcoef(*rests)[0, 1]) < 4.5 / math.sqrt(SIZE)
    later = finish(replace(state, round=4), Sum()(updates(1))).model.astype(np.float64) * 10
    assert abs(np.corrcoef(later, first)[0, 1]) < 4.5 / math.sqrt(SIZE)


def test_the_secret_does_not_show() -> None:
    shown = repr(Central(add, plan(), Unlimited(), SECRET)) + repr(LocalNoise(1.0, 1.0, 1, SECRET))
    assert "prg" not in shown.lower()


def per_round(facts: Sequence[Spend], delta: float) -> float:
    del delta
    return float(sum(fact.rounds for fact in facts))


def test_the_round_that_would_pass_the_budget_is_not_released() -> None:
    seen: list[int] = []

    def inner(state: State, aggregate: Aggregate) -> State:
        seen.append(state.round)
        return add(state, aggregate)

    finish = Central(inner, plan(), Budget(Limit("phones", 3.0, 1e-5), per_round), SECRET)
    state = State(0, np.zeros(SIZE, np.float32))
    for _ in range(3):
        state = finish(state, Sum()(updates(1)))
    with pytest.raises(PermissionDenied, match="round 4 with gaussian noise would pass the limit"):
        finish(state, Sum()(updates(1)))
    assert seen == [0, 1, 2]


def test_a_run_that_goes_on_from_a_later_round_is_charged_for_all() -> None:
    finish = Central(add, plan(), Budget(Limit("phones", 3.0, 1e-5), per_round), SECRET)
    with pytest.raises(PermissionDenied):
        finish(State(3, np.zeros(SIZE, np.float32)), Sum()(updates(1)))


def test_plans_say_what_they_spend() -> None:
    fact = plan(sampling=Poisson(rate=0.1)).spend(7)
    assert (fact.rounds, fact.mechanism, fact.sampling) == (7, Gaussian(noise_multiplier=1.5), Poisson(rate=0.1))
    for change in ({"noise_multiplier": 0.0}, {"expected": 0.0}, {"clip": -1.0}):
        with pytest.raises(UsageError):
            plan(**change)


# --- a whole process ---------------------------------------------------------------------------------------------


def towards(trainer: Trainer, given: Assignment) -> tuple[Update, Memory]:
    """Half of the way to the mean of the client's examples."""
    del trainer
    goal = given.examples.inputs.mean(axis=0, dtype=np.float64)
    return Update(((goal - given.broadcast.model) / 2).astype(np.float32), float(len(given.examples))), {}


def test_a_private_process_finds_the_mean_of_its_clients() -> None:
    """Mean estimation: 400 clients around (1, …, 1); the distance is what the noise of the last rounds leaves."""
    goals = 1 + 0.2 * np.random.default_rng(5).standard_normal((400, 10, 10)).astype(np.float32)
    process = Process(
        "private mean",
        lambda state: Broadcast(state.round, state.model),
        towards,
        Sum(),
        Central(add, plan(clip=1.0, noise_multiplier=1.0, expected=400.0), Unlimited(), SECRET),
        (Clip(1.0),),
    )
    state = process.start(np.zeros(10, np.float32))
    for _ in range(15):
        broadcast = process.distributor(state)
        given = [
            Assignment(ClientId(str(n)), broadcast, Examples(rows, np.zeros(10)), {}, np.random.default_rng(0))
            for n, rows in enumerate(goals)
        ]
        state, _ = process.next(state, [process.client_round(None, one)[0] for one in given])  # type: ignore[arg-type]
    error = np.linalg.norm(state.model - goals.mean(axis=(0, 1)))
    # In equilibrium the noise of a round, 1/400 a coordinate, adds up to 1/√(1 − ¼) of itself.
    assert 0.2 < error / (math.sqrt(10) / 400 * math.sqrt(4 / 3)) < 2


# --- local noise -------------------------------------------------------------------------------------------------


def test_local_noise_is_the_clients_own_and_ends_with_its_rounds() -> None:
    noise = LocalNoise(2.0, 1.5, 5, SECRET)
    update = Update(np.full(SIZE, 100.0, np.float32), 9.0, {}, {"loss": 1.0})
    ann, again, bob = (noise(update, assignment(name)) for name in ("ann", "ann", "bob"))
    assert (ann.weight, dict(ann.metrics)) == (1.0, {})
    assert (ann.delta == again.delta).all()
    mean = 2.0 / math.sqrt(SIZE)
    assert ann.delta.std() == pytest.approx(3.0, rel=0.02)
    assert abs(np.corrcoef(ann.delta - mean, bob.delta - mean)[0, 1]) < 4.5 / math.sqrt(SIZE)
    noise(update, assignment("ann", 4))
    with pytest.raises(PermissionDenied, match="client ann: round 6 is beyond the 5"):
        noise(update, assignment("ann", 5))


def test_bits_are_summed_with_the_updates() -> None:
    bit = [replace(update, extra={WITHIN: np.array([0.5], np.float32)}) for update in updates(1, 3)]
    assert Sum()(bit).extra[WITHIN].tolist() == [1.5]
