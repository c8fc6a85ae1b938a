"""Shared parts: sums that depend on nothing but their order, and refusals that say what is wrong."""

import dataclasses
import math

import numpy as np
import pytest
from convex import Federation, Ridge, clients_of
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.learners.horizontal.process import Assignment, Broadcast, Examples, State, Update, stream
from unseen.learners.horizontal.strategies import STRATEGIES, strategy
from unseen.learners.horizontal.strategies.parts import SendModel, ServerStep, WeightedMean, combination

NEEDED = {
    "fed_bn": {"local": ("b",)},
    "fed_rep": {"head": ("b",)},
    "scaffold": {"clients": 3},
    "fed_dyn": {"clients": 3},
}


@given(st.integers(1, 7), st.integers(1, 40_000), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_sum_is_that_of_doubles_in_order_rounded_once(count, size, seed):
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal(size, np.float32) * np.float32(10.0) ** rng.integers(-6, 6) for _ in range(count)]
    factors, total = rng.uniform(0.1, 50, count), np.zeros(size)
    for vector, factor in zip(vectors, factors, strict=True):
        total += vector.astype(np.float64) * factor
    expected = (total / factors.sum()).astype(np.float32)
    assert np.array_equal(combination(vectors, factors, factors.sum()), expected)


def test_what_32_bits_would_lose_is_kept():
    ones = [np.ones(1, np.float32)] * 100
    vectors = [np.full(1, 2.0**24, np.float32), *ones, np.full(1, -(2.0**24), np.float32)]
    assert combination(vectors, [1.0] * 102)[0] == 100


def test_the_mean_is_weighted_in_vectors_extra_vectors_and_metrics():
    first = Update(np.array([1, 2], np.float32), 1.0, {"c": np.array([4], np.float32)}, {"loss": 8.0, "mine": 1.0})
    second = Update(np.array([5, 2], np.float32), 3.0, {"c": np.array([0], np.float32)}, {"loss": 0.0})
    found = WeightedMean()([first, second])
    assert found.delta.tolist() == [4, 2]
    assert found.extra["c"].tolist() == [1]
    assert found.metrics == {"loss": 2.0}
    assert (found.clients, found.weight) == (2, 4.0)
    assert WeightedMean(equal=True)([first, second]).delta.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": np.zeros(3, np.float32)}, r"update 2 of 2: expected vectors of the lengths .*'delta': 2"),
        ({"extra": {"c": np.zeros(1, np.float32)}}, "both clients need the same model and strategy"),
        ({"weight": 0.0}, "update 2 of 2: expected a positive weight, found 0.0"),
        ({"weight": math.nan}, "expected a positive weight, found nan"),
        ({"weight": math.inf}, "expected a positive weight, found inf"),
        ({"delta": np.array([0, np.nan], np.float32)}, "update 2 of 2 holds numbers that are not finite"),
    ],
)
def test_updates_that_do_not_fit_are_refused_and_named(change, message):
    good = Update(np.ones(2, np.float32), 1.0)
    with pytest.raises(RemoteProtocolError, match=message):
        WeightedMean()([good, dataclasses.replace(good, **change)])


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one client"):
        WeightedMean()([])


def test_a_client_without_examples_is_refused_by_name():
    nothing = Examples(np.zeros((0, 2)), np.zeros(0))
    task = Assignment("paul", Broadcast(0, np.zeros(2, np.float32)), nothing, {}, stream(0))
    with pytest.raises(DataError, match="client paul has no examples"):
        strategy("fed_avg").work(Ridge(2), task)


def test_the_broadcast_has_zeros_for_what_is_not_there_yet():
    state = State(4, np.ones(3, np.float32), {"other": np.ones(1, np.float32)})
    found = SendModel(("control",))(state)
    assert found.round == 4
    assert {name: vector.tolist() for name, vector in found.extra.items()} == {"control": [0, 0, 0]}


def test_a_step_keeps_what_the_server_knows_beside_the_model():
    state = State(1, np.ones(2, np.float32), {"kept": np.ones(1, np.float32)})
    after = ServerStep(0.5)(state, WeightedMean()([Update(np.full(2, 2, np.float32), 1.0)]))
    assert after.model.tolist() == [2, 2]
    assert (after.round, list(after.extra)) == (2, ["kept"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_to_the_port(name):
    """Rounds count up, all is 32-bit, nothing given is changed, and the same seed gives the same bits."""
    people, trainer = clients_of(3, 4), Ridge(4, names=("a", "a", "a", "b"))
    process = strategy(name, **NEEDED.get(name, {}))
    one, again = Federation(process, trainer, people), Federation(process, trainer, people)
    start = one.begin()
    copy = start.model.copy()
    one.state = start
    one.play(2)
    again.play(2)
    assert one.state.round == 2
    assert np.array_equal(start.model, copy)
    assert np.array_equal(one.state.model, again.state.model)
    vectors = [one.state.model, one.aggregate.delta, *one.state.extra.values()]
    vectors += [vector for memory in one.memories.values() for vector in memory.values()]
    assert {vector.dtype for vector in vectors} == {np.dtype(np.float32)}
    assert np.isfinite(np.concatenate(vectors)).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_goes_on_after_a_resume_to_the_same_bits(name):
    people, trainer = clients_of(3, 4), Ridge(4, names=("a", "a", "a", "b"))
    process = strategy(name, **NEEDED.get(name, {}))
    whole = Federation(process, trainer, people, cohort=2)
    whole.play(4)
    first = Federation(process, trainer, people, cohort=2)
    first.play(2)
    again = strategy(name, **NEEDED.get(name, {}))
    assert repr(again) == repr(process)
    second = Federation(again, trainer, people, cohort=2, state=first.state, memories=dict(first.memories))
    assert np.array_equal(second.play(2), whole.state.model)
