"""DP-FTRL: the noise is that of a binary tree over rounds, drawn again rather than kept, and tied to the data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.learners.horizontal.private.ftrl import DIGESTS, Ftrl, TreePlan
from unseen.learners.horizontal.private.sampling import EpochCohort
from unseen.learners.horizontal.process import Aggregate, ClientId, State
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import Spend, Tree

SIZE = 20_000
PLAN = TreePlan(clip=2.0, noise_multiplier=1.5, steps=8, expected=10.0, run="run", about="phones")
SECRET = Prg(bytes(32))


def add(state: State, aggregate: Aggregate) -> State:
    return State(state.round + 1, state.model + aggregate.delta, {"momentum": aggregate.delta[:1]})


def played(rounds: int, plan: TreePlan = PLAN, *, start: State | None = None, value: float = 0.0) -> list[State]:
    """Return the states after each of the rounds, to which every client adds ``value``."""
    finish = Ftrl(add, plan, Unlimited(), SECRET)
    states = [start or State(0, np.zeros(SIZE, np.float32))]
    for _ in range(rounds):
        states.append(finish(states[-1], Aggregate(np.full(SIZE, value, np.float32), 1, 1.0)))
    return states


def noises(states: list[State]) -> NDArray[np.float64]:
    """Return the noise of every prefix, in deviations of a node."""
    return np.array([state.model.astype(np.float64) for state in states]) * PLAN.expected / 3.0


def test_prefix_sums_have_the_noise_of_the_nodes_that_make_them_up() -> None:
    """The covariance of the prefixes to s and to t is the number of nodes that both have."""
    found = np.cov(noises(played(8))[1:])
    nodes = [{(level, step >> level) for level in range(5) if step >> level & 1} for step in range(1, 9)]
    expected = np.array([[len(a & b) for b in nodes] for a in nodes])
    np.testing.assert_allclose(found, expected, atol=5 * 3 / math.sqrt(SIZE))


def test_sums_come_through_and_are_divided_by_expected_clients() -> None:
    quiet, loud = played(6), played(6, value=0.5)
    np.testing.assert_allclose(np.mean(loud[6].model - quiet[6].model), 6 * 0.5 / 10, atol=0.02)
    assert "momentum" in loud[6].extra


def test_a_new_tree_begins_after_its_steps_and_leaves_the_old_noise() -> None:
    all_noise = noises(played(11))
    fresh = all_noise[9:] - all_noise[8]
    assert np.abs(np.cov(fresh)[:2, :2] - [[1, 0], [0, 1]]).max() < 5 * 2 / math.sqrt(SIZE)
    assert np.abs(np.corrcoef(fresh[0], all_noise[1])[0, 1]) < 4.5 / math.sqrt(SIZE)


def test_a_run_that_goes_on_from_a_state_ends_as_if_undisturbed() -> None:
    whole = played(7, value=0.25)
    again = played(4, start=whole[3], value=0.25)
    assert (again[-1].model == whole[7].model).all()


def test_other_data_have_other_noise_in_every_later_node() -> None:
    whole = played(5)
    other = played(1, start=played(4)[4], value=1.0)
    rest = other[-1].model.astype(np.float64) - whole[5].model - 0.1
    assert rest.std() * 10 / 3 == pytest.approx(math.sqrt(2), rel=0.03), "the new node's noise is not the same"
    branch = played(3, start=played(1, value=1.0)[1])
    assert abs(np.corrcoef(noises(branch)[3], noises(whole)[4])[0, 1]) < 4.5 / math.sqrt(SIZE)


def test_a_state_of_another_process_is_refused() -> None:
    with pytest.raises(DataError, match="the state after round 3 lacks dp/tree"):
        played(1, start=State(3, np.zeros(SIZE, np.float32), {DIGESTS: np.zeros(3, np.float32)}))


def test_a_tree_is_charged_whole_when_it_begins() -> None:
    spent: list[Spend] = []

    class Book:
        def spend(self, fact: Spend) -> None:
            if fact.rounds > 2:
                raise PermissionDenied("a third tree")
            spent.append(fact)

    finish = Ftrl(add, PLAN, Book(), SECRET)
    state = State(0, np.zeros(SIZE, np.float32))
    nothing = Aggregate(np.zeros(SIZE, np.float32), 1, 1.0)
    for _ in range(16):
        state = finish(state, nothing)
    assert [fact.rounds for fact in spent] == [1] * 8 + [2] * 8
    assert spent[0].mechanism == Tree(noise_multiplier=1.5, steps=8)
    with pytest.raises(PermissionDenied, match="a third tree"):
        finish(state, nothing)


def test_plans_that_cannot_work_are_refused() -> None:
    for change in ({"clip": 0.0}, {"noise_multiplier": -1.0}, {"steps": 0}, {"expected": 0.0}, {"steps": 1 << 40}):
        with pytest.raises(UsageError):
            replace(PLAN, **change)  # type: ignore[arg-type]  # any field


def test_no_client_comes_twice_in_a_tree() -> None:
    cohort = EpochCohort(12, SECRET)
    clients = [ClientId(str(n)) for n in range(100)]
    assert cohort.rounds(100) == 8
    seen = [cohort.choose(clients, [], number, 0) for number in range(16)]
    for epoch in (seen[:8], seen[8:]):
        assert len({client for one in epoch for client in one}) == 96
    assert seen[:8] != seen[8:]
