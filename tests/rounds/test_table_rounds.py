"""Trees and regressions on tables in simulated and in deployed rounds: the same bits, also after a stop."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from unseen.data.federated.clients import FederatedData
from unseen.ids import ClientId, JobId, PartyId
from unseen.learners.horizontal.boosting.forest import Forest
from unseen.learners.horizontal.boosting.process import horizontal_boosting
from unseen.learners.horizontal.boosting.setting import ForestPlan
from unseen.learners.horizontal.linear.process import horizontal_logistic
from unseen.learners.horizontal.process import Examples
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.serve import Server, ServeSettings
from unseen.rounds.simulate import Settings, Simulation
from unseen.transport.memory import MemoryNetwork

NAMES = ("a", "b", "c")
RNG = np.random.default_rng(4)
INPUTS = RNG.normal(size=(400, 3))
LABELS = (INPUTS @ [1.0, -1.0, 0.2] + RNG.logistic(size=400) > 0).astype(np.int64)
TEST = Examples(INPUTS[300:], LABELS[300:])
SITES = FederatedData.of(
    "sites", {f"site-{site}": (INPUTS[100 * site : 100 * site + 100], LABELS[100 * site :][:100]) for site in range(3)}
)
RUN, SERVER, COHORT = JobId("tables"), PartyId("server"), Uniform(3)


def boosting():
    return horizontal_boosting(NAMES, ForestPlan(trees=2, max_leaves=4, max_depth=2, min_rows=10, bins=16), clients=3)


def logistic():
    return horizontal_logistic(NAMES, clients=3, l2=0.01)


def simulated(learner, rounds, **settings):
    with Simulation(
        SITES, learner.trainer, learner.process, Settings(COHORT, **{"workers": 1, **settings}), test=TEST
    ) as simulation:
        return simulation.rounds(rounds)


@pytest.mark.parametrize("make", [boosting, logistic])
def test_a_simulation_with_any_number_of_workers_also_after_a_stop(make, tmp_path):
    learner = make()
    run = simulated(learner, learner.rounds)
    assert learner.complete(run.state)
    assert run.test["accuracy"] > 0.6
    simulated(make(), 5, workers=2, folder=tmp_path)
    again = simulated(make(), learner.rounds, workers=2, folder=tmp_path)
    np.testing.assert_array_equal(run.state.model, again.state.model)
    assert [one.test for one in run.history] == [one.test for one in again.history]


@pytest.mark.parametrize("make", [boosting, logistic])
def test_a_deployed_run_has_the_bits_of_a_simulation(make):
    learner, clients = make(), [PartyId(client) for client in SITES.ids]
    network, cancel = MemoryNetwork([SERVER, *clients]), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        for client in clients:
            own = make()
            connect = partial(narrow, network, client)
            examples = Examples(*SITES.client(ClientId(client)))
            pool.submit(attend, connect, own.process, own.trainer, examples, AttendSettings(RUN, 0), cancel=cancel)
        try:
            settings = ServeSettings(RUN, COHORT, deadline=20.0, evaluate_every=4)
            with Server(network.channel(SERVER), learner.process, learner.trainer, settings, test=TEST) as server:
                found = server.rounds(learner.rounds)
        finally:
            cancel.set()
    expected = simulated(make(), learner.rounds)
    np.testing.assert_array_equal(found.state.model, expected.state.model)
    assert found.test == expected.test
    assert learner.complete(found.state)


def narrow(network, client):
    """Return a client's channel, which leads to the server and nobody else."""
    channel = network.channel(client)
    channel.peers = frozenset([SERVER])
    return channel


def test_after_the_last_tree_rounds_do_nothing():
    learner = boosting()
    run = simulated(learner, learner.rounds + 2)
    np.testing.assert_array_equal(run.state.model, simulated(boosting(), learner.rounds).state.model)
    assert Forest.of(run.state.model).trees == 2
