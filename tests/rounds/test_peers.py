"""Rounds without a server: the same bits at all peers and after a resume, and nobody parts from the others unseen."""

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.dialogue import MemoryCheckpoints, Send, converse
from unseen.errors import DataError, DeadlineExceeded, PeerFailed, RemoteProtocolError, TransportError, UsageError
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import scaffold, strategy
from unseen.protocols.secure_aggregation.shares import PartSum
from unseen.rounds.cohort import Uniform
from unseen.rounds.peers import Part, PeerFolder, PeerSettings, Stands, peer_rounds, simulate_peers, take_part
from unseen.rounds.simulate import Settings, Simulation

# First of what imports gRPC: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.memory import MemoryNetwork
from unseen.transport.tls import Identity, issue, make_authority

SIZE, SEED = 6, 3
PEERS = tuple(PartyId(f"peer-{number}") for number in range(4))
MEAN = SecureMean(clip=8.0, clients=len(PEERS), max_weight=16, bits=48, extras={"control": 8.0})
SCAFFOLD = secure(strategy("scaffold", clients=len(PEERS), learning_rate=0.1, epochs=2), MEAN)
TEST = Examples(np.full((5, SIZE), 1.5, np.float32), np.zeros(5, np.int64))


class Means:
    """A model that is a point; a client draws it to the mean of its inputs, with some noise."""

    size = SIZE

    def __init__(self, before=lambda: None):
        self.before = before

    def settle(self):
        pass

    def initial(self, seed):
        return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)

    def fit(self, model, examples, plan, rng, correction):
        self.before()
        drift = 0 if correction.drift is None else correction.drift
        for _ in range(plan.epochs):
            noise = rng.normal(size=SIZE).astype(np.float32)
            model = model - plan.learning_rate * (model - examples.inputs.mean(axis=0) + drift + 0.01 * noise)
        return Fit(model.astype(np.float32), plan.epochs, float(np.square(model - examples.inputs).mean()))

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).mean())}


class People:
    """A few points for each peer."""

    ids = PEERS
    sizes = (3, 4, 5, 6)

    def client(self, name):
        number = PEERS.index(name)
        inputs = np.random.default_rng(number).normal(number, 1, (self.sizes[number], SIZE)).astype(np.float32)
        return inputs, np.zeros(len(inputs), np.int64)


def settings(**changes):
    return PeerSettings(**{"run": JobId("digits"), "peers": PEERS, "rounds": 3, "seed": SEED, "test": TEST, **changes})


def part(me, process=SCAFFOLD, trainer=None):
    secret = Prg(b"rounds".ljust(32, b"-")).derive("of", me.encode())
    return Part(me, process, trainer or Means(), Examples(*People().client(me)), secret)


def dialogue(me, process=SCAFFOLD, trainer=None, **changes):
    return peer_rounds(part(me, process, trainer), settings(**changes), Prg(me.encode().ljust(32, b"+")))


def played(stores=None, **changes):
    return converse({me: dialogue(me, **changes) for me in PEERS}, checkpoints=stores)


def states(runs):
    return {(run.state.round, run.state.model.tobytes(), *map(bytes, run.state.extra.values())) for run in runs}


# --- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fed_avg", "fed_avg_m", "fed_adam", "scaffold"])
def test_all_peers_end_with_one_state_which_is_that_of_a_server_but_for_rounding(name):
    own = {"clients": len(PEERS)} if name == "scaffold" else {}
    process = strategy(name, learning_rate=0.1, epochs=2, **own)
    with Simulation(People(), Means(), process, Settings(Uniform(4), SEED, workers=1), test=TEST) as simulation:
        expected = simulation.rounds(3)
    for scheme in ("shares", "ring"):
        runs = list(played(process=secure(process, MEAN), scheme=scheme).values())
        assert len(states(runs)) == 1
        np.testing.assert_allclose(runs[0].state.model, expected.state.model, atol=2e-4 if name == "fed_adam" else 1e-6)
        assert runs[0].history[-1].test["loss"] == pytest.approx(expected.test["loss"], abs=1e-3)


def test_the_schemes_take_the_same_sums():
    assert states(played(scheme="ring").values()) == states(played().values())


def test_a_simulation_plays_all_peers():
    seen = []
    run = simulate_peers(People(), Means(), SCAFFOLD, settings(observe=seen.append))
    assert [one.number for one in seen] == [1, 2, 3]
    assert seen[-1].test["loss"] == run.test["loss"]
    np.testing.assert_allclose(run.state.model, played()[PEERS[0]].state.model, atol=1e-6)
    with pytest.raises(UsageError, match="a client for each of 3 peers, found 4"):
        simulate_peers(People(), Means(), SCAFFOLD, settings(peers=PEERS[:3]))


def test_peers_that_stopped_at_different_rounds_go_on_from_the_last_common_one():
    stores, behind = {me: MemoryCheckpoints() for me in PEERS}, {me: MemoryCheckpoints() for me in PEERS}
    played(stores, rounds=3)
    played(behind, rounds=2)
    mixed = {me: stores[me] if me == PEERS[0] else behind[me] for me in PEERS}
    assert states(played(mixed, rounds=5).values()) == states(played(rounds=5).values())
    lost = {me: MemoryCheckpoints() if me == PEERS[1] else mixed[me] for me in PEERS}
    with pytest.raises(RemoteProtocolError, match=r"peer-1 holds 0 rounds and others 5"):
        played(lost, rounds=6)


def test_what_was_kept_of_another_run_is_refused():
    stores = {me: MemoryCheckpoints() for me in PEERS}
    played(stores, rounds=1)
    with pytest.raises(DataError, match="holds another run"):
        played(stores, rounds=2, seed=4)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_process_that_needs_single_updates_is_refused():
    with pytest.raises(UsageError, match=r"FedAvg needs every single update.*secure\(process"):
        played(process=strategy("fed_avg"))


class Picky:
    """A finalizer that is right for coins that nobody sees."""

    def check_cohort(self, cohort, population):
        raise UsageError(f"cohorts of {population} are drawn by {cohort}")

    def __call__(self, state, aggregate):
        raise AssertionError("nothing may be released")


def test_a_process_whose_privacy_rests_on_drawn_cohorts_is_refused():
    with pytest.raises(UsageError, match="of 4 are drawn by nothing: all peers are in every round"):
        played(process=replace(SCAFFOLD, finalizer=Picky()))


@pytest.mark.parametrize(
    "changes", [{"scheme": "star"}, {"peers": PEERS[:2]}, {"peers": PEERS[::-1]}, {"rounds": 0}, {"deadline": 0}]
)
def test_settings_that_cannot_be(changes):
    with pytest.raises(UsageError):
        settings(**changes)


class Bigger(Means):
    size = SIZE + 1


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"process": secure(strategy("fed_avg"), MEAN)}, "expected process"),
        ({"trainer": Bigger()}, "expected size"),
        ({"scheme": "ring"}, "expected scheme"),
        ({"rounds": 9}, "expected rounds"),
        ({"seed": 4}, "expected seed"),
    ],
)
def test_peers_that_do_not_run_the_same_are_named(odd, words):
    with pytest.raises(RemoteProtocolError, match=words):
        converse({me: dialogue(me, **(odd if me == PEERS[3] else {})) for me in PEERS})


class Diverging(Means):
    def fit(self, model, examples, plan, rng, correction):
        return Fit(np.full(SIZE, np.nan, np.float32), 1, 0.0)


def test_a_peer_whose_training_diverges_sends_nothing():
    with pytest.raises(DataError, match="training of peer-2 diverged in round 1"):
        converse({me: dialogue(me, trainer=Diverging() if me == PEERS[2] else None) for me in PEERS})


def lying(honest, kind, change, times=1):
    """Play a dialogue, but change the messages of one kind from the given one on."""
    answer, seen = None, 0
    while True:
        try:
            effect = honest.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send) and isinstance(effect.message, kind):
            seen += 1
            if seen >= times:
                effect = replace(effect, message=change(effect.message))
        answer = yield effect


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Stands, lambda told: replace(told, digest=np.zeros(32, np.uint8)), r"after round 1 peer-1 has another state"),
        (Stands, lambda told: replace(told, round=7), r"after round 1 peer-1 has another state"),
        (PartSum, lambda told: replace(told, words=told.words[:-8]), r"peer-1: expected a vector of"),
        (PartSum, lambda told: replace(told, weight=told.weight + np.uint64(1 << 40)), "one of them cheats"),
        (PartSum, lambda told: replace(told, words=told.words ^ np.uint8(1)), r"peer-1: a vector holds|another state"),
    ],
)
def test_a_peer_that_lies_ends_the_run_for_all(kind, change, words):
    dialogues = {me: dialogue(me) for me in PEERS}
    dialogues[PEERS[1]] = lying(dialogues[PEERS[1]], kind, change)
    with pytest.raises(RemoteProtocolError, match=words):
        converse(dialogues)


@dataclass(frozen=True)
class ControlStep(scaffold.ControlStep):
    """A step that looks like all others' and is not."""

    def __call__(self, state, aggregate):
        after = super().__call__(state, aggregate)
        return replace(after, model=after.model + np.float32(1e-6))


def test_a_fork_of_the_state_is_found_where_it_is_made():
    forked = replace(SCAFFOLD, finalizer=ControlStep(len(PEERS), 1.0))
    with pytest.raises(RemoteProtocolError, match="after round 1 peer-2 has another state than most"):
        converse({me: dialogue(me, forked if me == PEERS[2] else SCAFFOLD) for me in PEERS})


# --- over channels -----------------------------------------------------------------------------------------------


def over_memory(trainers, **changes):
    """Play all peers in threads; return what became of each."""
    network = MemoryNetwork(PEERS)
    barrier = threading.Barrier(len(trainers))

    def one(me):
        channel = network.channel(me)
        barrier.wait(10)
        try:
            people = Examples(*People().client(me))
            return take_part(channel, SCAFFOLD, trainers[me], people, settings(**changes))
        except (TransportError, PeerFailed, DataError, RemoteProtocolError) as error:
            return error

    with ThreadPoolExecutor(len(trainers)) as pool:
        return dict(zip(trainers, pool.map(one, trainers), strict=True))


def test_everybody_ends_with_the_cause_when_one_peer_fails():
    ends = over_memory({me: Diverging() if me == PEERS[2] else Means() for me in PEERS})
    assert isinstance(ends[PEERS[2]], DataError)
    for me in (PEERS[0], PEERS[1], PEERS[3]):
        assert "peer-2 stopped" in str(ends[me])


def test_a_silent_peer_ends_the_run():
    ends = over_memory({me: Means() for me in PEERS[:3]}, deadline=0.3)
    assert all(isinstance(end, DeadlineExceeded | PeerFailed) for end in ends.values())
    assert any("peer-3 is connected, and nothing has moved" in str(end) for end in ends.values())


# --- real processes, of which one is killed ----------------------------------------------------------------------


def ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(folder, me, addresses, fatal=0):
    command = [sys.executable, __file__, str(folder), me, ",".join(map(str, addresses)), str(fatal)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def play(folder, me, addresses, fatal):
    """Play one peer of three as a process; it kills itself in the training of round ``fatal``."""
    names, calls = PEERS[:3], []

    def before():
        calls.append(None)
        if len(calls) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    here = names.index(me)
    # Of two peers the later one by name dials.
    others = {peer: f"127.0.0.1:{addresses[n]}" if n < here else None for n, peer in enumerate(names) if n != here}
    listen = f"127.0.0.1:{addresses[here]}" if here < len(names) - 1 else None
    channel = GrpcChannel(
        Identity.load(folder / me), others, listen=listen, options=Options(connect_grace=5.0, close_grace=0.2)
    )
    mine = settings(peers=names, rounds=4, folder=folder / f"{me}-run", deadline=20.0)
    (folder / f"{me}-run").mkdir(exist_ok=True)
    (folder / f"{me}-run" / "secret.bin").write_bytes(me.encode().ljust(32, b"*"))
    (folder / f"{me}-run" / "secret.bin").chmod(0o600)
    three = secure(strategy("scaffold", clients=3, learning_rate=0.1, epochs=2), MEAN)
    run = take_part(channel, three, Means(before), Examples(*People().client(me)), mine)
    sys.stdout.write(f"{run.state.round} {run.state.model.tobytes().hex()}\n")


@pytest.mark.evidence
def test_a_killed_peer_and_a_resume_give_the_bits_of_an_undisturbed_run(tmp_path):
    authority, now, names = make_authority("Test", days=1, now=datetime.now(UTC)), datetime.now(UTC), PEERS[:3]
    for me in names:
        issue(authority, me, days=1, now=now).save(tmp_path / me)
    addresses = ports(2)
    first = [start(tmp_path, me, addresses, fatal=3 if me == names[1] else 0) for me in names]
    said = [process.communicate(timeout=60) for process in first]
    assert first[1].returncode == -signal.SIGKILL
    for process, (_, errors) in zip(first, said, strict=True):
        assert process.returncode != 0
        assert process is first[1] or "peer-1" in errors.splitlines()[-2] + errors.splitlines()[-1]
    again = [start(tmp_path, me, addresses) for me in names]
    ends = [process.communicate(timeout=60) for process in again]
    assert [process.returncode for process in again] == [0, 0, 0], ends
    expected = undisturbed()
    assert {out.strip() for out, _ in ends} == {f"4 {expected.state.model.tobytes().hex()}"}


def undisturbed():
    names = PEERS[:3]
    three = secure(strategy("scaffold", clients=3, learning_rate=0.1, epochs=2), MEAN)
    parts = {
        me: Part(me, three, Means(), Examples(*People().client(me)), Prg(me.encode().ljust(32, b"*"))) for me in names
    }
    runs = converse({me: peer_rounds(one, settings(peers=names, rounds=4), Prg.fresh()) for me, one in parts.items()})
    return runs[names[0]]


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        play(Path(sys.argv[1]), PartyId(sys.argv[2]), list(map(int, sys.argv[3].split(","))), int(sys.argv[4]))


def test_a_folder_that_is_cleared_holds_no_round(tmp_path):
    folder = PeerFolder(tmp_path)
    for index in (1, 2):
        folder.save(None, index, b"round")
    folder.secret()
    folder.clear(None)
    assert folder.held(None) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["secret.bin"]
