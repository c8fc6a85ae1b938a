"""Gossip between processes over mutual TLS, one of which is killed: it comes back or not, and the others go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.topology import Topology
from unseen.rounds.neighbours import NeighbourSettings, exchange_models, neighbours_of

# First of what imports gRPC: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.tls import Identity, issue, make_authority

NODES = tuple(PartyId(f"node-{number}") for number in range(4))
ROUNDS, FATAL, PATIENCE = 40, 3, 30.0
POINTS = np.random.default_rng(1).normal(2, 1, (4, 5)).astype(np.float32)


class Means:
    """A model that is a point, which is drawn to the mean of a node's inputs."""

    size = POINTS.shape[1]

    def __init__(self, before):
        self.before = before

    def settle(self):
        pass

    def initial(self, seed):
        return np.zeros(self.size, np.float32)

    def fit(self, model, examples, plan, rng, correction):
        self.before()
        return Fit(model - plan.learning_rate * (model - examples.inputs.mean(axis=0)), 1, 0.0)

    def evaluate(self, model, examples):
        return {}


def settings(folder):
    return NeighbourSettings(JobId("gossip"), NODES, Topology("ring"), ROUNDS, deadline=2.0, folder=folder)


# --- one process -------------------------------------------------------------------------------------------------


def play(folder, me, addresses, kind):
    """Play one node. ``fatal`` kills itself in a training; ``waiting`` waits after that round for one that returns."""
    calls, back, here = [], folder / "back", NODES.index(me)

    def before():
        calls.append(None)
        if kind == "fatal" and len(calls) == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "back":
            back.touch()
        end = time.monotonic() + PATIENCE
        while kind == "waiting" and len(calls) == FATAL + 2 and not back.exists() and time.monotonic() < end:
            time.sleep(0.01)

    mine = settings(folder / f"{me}-run")
    # Of two nodes the later one by name dials.
    others = {
        peer: f"127.0.0.1:{addresses[NODES.index(peer)]}" if NODES.index(peer) < here else None
        for peer in neighbours_of(mine, me)
    }
    options = Options(connect_grace=2.0, close_grace=0.5)
    channel = GrpcChannel(Identity.load(folder / me), others, listen=f"127.0.0.1:{addresses[here]}", options=options)
    process, own = strategy("fed_avg", learning_rate=0.1), Examples(POINTS[[here]], np.zeros(1, np.int64))
    done = exchange_models(channel, process, Means(before), own, mine)
    history = done.run.history
    told = {
        "rounds": [one.number for one in history],
        "model": done.run.state.model.tolist(),
        "mass": history[-1].training["mass"],
        "missed": done.missed,
        "refused": done.refused,
    }
    sys.stdout.write(json.dumps(told))


# --- all of them -------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path):
    """Return what starts a node as a process; all are ended afterwards."""
    now = datetime.now(UTC)
    authority = make_authority("Test", days=1, now=now)
    for me in NODES:
        issue(authority, me, days=1, now=now).save(tmp_path / me)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in NODES]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = ",".join(str(one.getsockname()[1]) for one in sockets)
    started = []

    def start(number, kind):
        command = [sys.executable, __file__, str(tmp_path), NODES[number], addresses, kind]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(processes):
    """Return what they say at their ends."""
    said = [process.communicate(timeout=2 * PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [json.loads(out) for out, _ in said]


@pytest.mark.evidence
def test_a_killed_node_comes_back_and_all_end_at_the_optimum_of_all(nodes):
    processes = [nodes(number, "fatal" if number == 3 else "waiting") for number in range(4)]
    assert processes[3].wait(PATIENCE) == -signal.SIGKILL
    processes[3] = nodes(3, "back")
    found = ends(processes)
    for one in found:
        assert one["rounds"] == list(range(1, ROUNDS + 1))
        assert not one["refused"]
        np.testing.assert_allclose(one["model"], POINTS.mean(axis=0), atol=0.35)
    # Its neighbours did without it, and had it back; what was on its way when it ended is lost, and no more.
    for number in (0, 2):
        assert 1 <= found[number]["missed"][NODES[3]] < ROUNDS / 2
    assert NODES[3] not in found[1]["missed"]
    assert 4 - 5 / 3 < sum(one["mass"] for one in found) < 4 + 1e-5


@pytest.mark.evidence
def test_the_others_end_at_their_own_optimum_when_a_node_is_lost_for_good(nodes):
    processes = [nodes(number, "fatal" if number == 1 else "") for number in range(4)]
    assert processes.pop(1).wait(PATIENCE) == -signal.SIGKILL
    found = ends(processes)
    optimum = POINTS[[0, 2, 3]].mean(axis=0)
    np.testing.assert_allclose(np.mean([one["model"] for one in found], axis=0), optimum, atol=0.1)
    for one in found:
        assert one["rounds"] == list(range(1, ROUNDS + 1))
        np.testing.assert_allclose(one["model"], optimum, atol=0.5)
    # Both of its neighbours say who was missed; the others fall out of step for some rounds at most.
    assert [one["missed"].pop(NODES[1], 0) for one in found] == [ROUNDS - FATAL + 1] * 2 + [0]
    assert max((count for one in found for count in one["missed"].values()), default=0) < ROUNDS / 4
    # Each of them lost its share of the round in which it was killed, and gave none afterwards.
    assert 3 - 5 / 3 < sum(one["mass"] for one in found) < 3 + 1e-5


if __name__ == "__main__":
    play(Path(sys.argv[1]), PartyId(sys.argv[2]), list(map(int, sys.argv[3].split(","))), sys.argv[4])
