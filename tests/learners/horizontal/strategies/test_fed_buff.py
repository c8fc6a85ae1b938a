"""FedBuff: old updates count less, and a federation in which nobody waits still learns."""

from dataclasses import replace

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum

from unseen.learners.horizontal.process import Update, stream
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.fed_buff import StaleMean, aged

SIZE = 5
PEOPLE = clients_of(8, SIZE, seed=4, apart=0.0)
TRAINER = Ridge(SIZE)


def updates(*values, weight=1.0):
    return [Update(np.full(3, value, np.float32), weight) for value in values]


def test_an_update_counts_by_the_root_of_its_age():
    """Nguyen et al., section 5: s(τ) = 1/√(1 + τ), and the sum is divided by the number of updates."""
    fresh, old = updates(1.0, 1.0)
    found = StaleMean(0.5)([aged(fresh, 0), aged(old, 3)])
    np.testing.assert_allclose(found.delta, (1 + 1 / 2) / 2)
    assert found.metrics["staleness"] == 1.5
    assert found.extra == {}


def test_with_exponent_0_age_is_nothing_and_weights_never_count():
    old, heavy = aged(updates(1.0)[0], 9), updates(3.0, weight=100.0)[0]
    np.testing.assert_allclose(StaleMean(0.0)([old, heavy]).delta, 2.0)


def test_the_server_decides_how_old_an_update_is():
    boasting = replace(updates(1.0)[0], extra={"staleness": np.array([-5], np.float32)})
    assert StaleMean(0.5)([boasting]).delta[0] == 1
    assert StaleMean(0.5)([aged(boasting, 3)]).delta[0] == 0.5


def test_without_old_updates_it_is_fed_avg_with_equal_weights_bit_for_bit():
    plan = {"learning_rate": 0.03, "epochs": 3, "batch": 6}
    buff, plain = (Federation(strategy(name, **plan), TRAINER, PEOPLE).play(4) for name in ("fed_buff", "fed_avg"))
    assert np.array_equal(buff, plain)


def asynchronous(process, *, goal=2, flight=8, steps=300, slowest=12):
    """Return the model after so many server steps, and the oldest update, when no client waits for another one."""
    federation = Federation(process, TRAINER, PEOPLE)
    state, rng, queue, buffer = federation.begin(), stream(0, "clock"), [], []
    oldest = clock = sent = 0
    names = sorted(PEOPLE)
    while state.round < steps:
        while len(queue) < flight:
            name = names[int(rng.integers(len(names)))]
            task = federation.assignment(name, process.distributor(state), clock)
            update, _ = process.client_round(TRAINER, task)
            sent += 1
            queue.append((clock + int(rng.integers(1, slowest)), sent, state.round, update))
        clock += 1
        buffer += sorted(job for job in queue if job[0] <= clock)
        queue = [job for job in queue if job[0] > clock]
        if len(buffer) >= goal:
            ages = [state.round - began for _, _, began, _ in buffer]
            oldest = max(oldest, *ages)
            state, _ = process.next(state, [aged(job[3], age) for job, age in zip(buffer, ages, strict=True)])
            buffer = []
    return state.model, oldest


def test_it_reaches_the_optimum_though_updates_are_many_rounds_old():
    process = strategy("fed_buff", learning_rate=0.05, epochs=2, batch=EVERYTHING, server_learning_rate=0.5)
    model, oldest = asynchronous(process)
    assert oldest >= 5
    assert distance(model, optimum(PEOPLE)) < 0.05


@pytest.mark.parametrize(("exponent", "stable"), [(0.0, False), (0.5, True)])
def test_discounting_old_updates_keeps_stable_what_diverges_without(exponent, stable):
    rate = {"learning_rate": 0.1, "epochs": 4, "batch": EVERYTHING, "server_learning_rate": 2.0}
    model, _ = asynchronous(strategy("fed_buff", exponent=exponent, **rate), steps=150)
    assert (distance(model, optimum(PEOPLE)) < 0.5) == stable
