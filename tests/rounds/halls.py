"""A small federation: a model that is a point, clients with a few points each, links in memory that can be cut."""

import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unseen.crypto.prg import Prg
from unseen.errors import (
    DeadlineExceeded,
    PeerUnreachable,
    UsageError,
)
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.digest import digest_of, sum_of
from unseen.rounds.identities import public_key
from unseen.rounds.messages import (
    Answer,
    Assigned,
    Hello,
    Metric,
    said_by_client,
    server_word,
)
from unseen.rounds.serve import Server, ServeSettings
from unseen.rounds.simulate import Settings, Simulation
from unseen.transport.memory import MemoryNetwork

SIZE, SEED = 40, 3
RUN, SERVER = JobId("digits"), PartyId("server")
NAMES = [PartyId(f"client-{number}") for number in range(5)]
PROCESS = strategy("scaffold", clients=len(NAMES), learning_rate=0.1, epochs=2, batch=4)


MEAN = SecureMean(clip=8.0, clients=5, max_weight=10, extras={"control": 16.0}, prg=Prg(bytes(32)))
SECURE = secure(PROCESS, MEAN)
KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in NAMES}
ROSTER = {name: public_key(key) for name, key in KEYS.items()}


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
        start = model
        drift = 0 if correction.drift is None else correction.drift
        for _ in range(plan.epochs):
            noise = rng.normal(size=SIZE).astype(np.float32)
            model = model - plan.learning_rate * (model - examples.inputs.mean(axis=0) + drift + 0.01 * noise)
        return Fit(model.astype(np.float32), plan.epochs, float(np.square(start - examples.inputs).mean()))

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).mean())}


class People:
    """Clients with a few points each."""

    def __init__(self, names=NAMES):
        self.ids = names
        self.sizes = (3, 4, 5, 6, 7)[: len(names)]

    def client(self, name):
        number = self.ids.index(name)
        inputs = np.random.default_rng(number).normal(number, 1, (self.sizes[number], SIZE)).astype(np.float32)
        return inputs, np.zeros(len(inputs), np.int64)


def first_alone(updates):
    """Aggregate as nobody should: who comes first is all that counts, so that the order cannot hide."""
    return PROCESS.aggregator(updates[:1])


ORDERED = replace(PROCESS, aggregator=first_alone)
TEST = Examples(np.random.default_rng(9).normal(2, 1, (1500, SIZE)).astype(np.float32), np.zeros(1500, np.int64))


def examples_of(name):
    return Examples(*People().client(name))


def simulated(rounds, process=PROCESS, cohort=None, names=NAMES):
    settings = Settings(cohort or Uniform(3), SEED, workers=1)
    with Simulation(People(names), Means(), process, settings, test=TEST) as simulation:
        return simulation.rounds(rounds)


def assert_same(run, expected):
    """Every bit, of the model, of what the server keeps beside it, and of the metrics."""
    np.testing.assert_array_equal(run.state.model, expected.state.model)
    assert run.state.extra.keys() == expected.state.extra.keys()
    for name, vector in expected.state.extra.items():
        np.testing.assert_array_equal(run.state.extra[name], vector)
    assert [timeless(one) for one in run.history] == [timeless(one) for one in expected.history]


def timeless(one):
    return replace(one, seconds=0, bytes_up=0, bytes_down=0)


# --- links that can be cut ---------------------------------------------------------------------------------------


class Hall:
    """Where clients find the server of the moment."""

    def __init__(self, names=NAMES):
        self.names = names
        self.desk = None

    def serve(self):
        self.desk = Desk(self)
        return self.desk

    def connect(self, name):
        desk = self.desk
        if desk is None:
            raise PeerUnreachable("nobody serves")
        return desk.admit(name)


class Desk:
    """The server's channel: a network of two for every client, made anew when the client comes back."""

    party = SERVER

    def __init__(self, hall):
        self.peers = frozenset(hall.names)
        self.hall = hall
        self.changed = threading.Condition()
        self.links, self.next = {}, {}
        self.closed = False

    def admit(self, name):
        network = MemoryNetwork([SERVER, name])
        with self.changed:
            if name in self.links:
                self.next[name] = network
                self.links[name].channel(name).close()
            else:
                self.links[name] = network
            self.changed.notify_all()
        return network.channel(name)

    def renew(self, peer):
        with self.changed:
            self.links.pop(peer, None)
            if peer in self.next:
                self.links[peer] = self.next.pop(peer)

    def receive(self, peer, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: peer in self.links or self.closed, timeout):
                raise DeadlineExceeded("nobody came")
            if self.closed:
                raise UsageError("closed")
            link = self.links[peer]
        try:
            return link.channel(SERVER).receive(peer, timeout)
        except UsageError as error:
            raise error if self.closed else PeerUnreachable("cut") from error

    def cut(self, name):
        """Break the link to a client; what is on its way is lost."""
        self.links[name].channel(SERVER).close()

    def send(self, peer, parts, *, waiting=None):
        self.links[peer].channel(SERVER).send(peer, parts)

    def close(self):
        """Go, as a killed process does."""
        with self.changed:
            if self.hall.desk is self:
                self.hall.desk = None
            self.closed = True
            for link in [*self.links.values(), *self.next.values()]:
                link.channel(SERVER).close()
            self.changed.notify_all()


@contextmanager
def attending(hall, names=NAMES, trainer=None, process=PROCESS, each=lambda name: {}, **settings):
    """Let clients attend in threads, with settings of `each` of its own; yields their futures."""
    cancel = threading.Event()
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(len(names)) as pool:
        kept = sum_of(process) is not None
        futures = {
            name: pool.submit(
                attend,
                partial(hall.connect, name),
                process,
                trainer or Means(),
                examples_of(name),
                AttendSettings(
                    RUN,
                    SEED,
                    **{"patience": 5.0, "folder": Path(root) / name if kept else None, **settings, **each(name)},
                ),
                cancel=cancel,
            )
            for name in names
        }
        try:
            yield futures
        finally:
            cancel.set()


def serve(hall, rounds, process=PROCESS, **settings):
    with Server(hall.serve(), process, Means(), serving(**settings), test=TEST) as server:
        return server.rounds(rounds), server.counts


def serving(**settings):
    return ServeSettings(RUN, **{"cohort": Uniform(3), "seed": SEED, "deadline": 10.0, **settings})


class Script:
    """A client that says what a test tells it to."""

    def __init__(self, hall, name, process=PROCESS):
        self.name, self.process = name, process
        self.channel = hall.connect(name)

    def say(self, word):
        self.channel.send(SERVER, said_by_client(word))

    def hello(self, **changes):
        self.say(replace(Hello(RUN, digest_of(self.process), SIZE), **changes))
        return self

    def wait_for(self, kind):
        while not isinstance(word := server_word(self.channel.receive(SERVER, 5), sender=SERVER), kind):
            pass
        return word

    def answer(self, **changes):
        """Return a good answer to the next assignment, but for these changes."""
        word = self.wait_for(Assigned)
        extra = tuple(replace(vector, values=vector.values * 0) for vector in word.extra)
        delta = np.ones(SIZE, np.float32)
        good = Answer(RUN, word.round, word.attempt, self.name, delta, None, 1.0, extra, (Metric("loss", 1.0),))
        return replace(good, **changes)


def with_scripts(play, names=NAMES[:1], process=PROCESS, **settings):
    """Run a server whose cohort is everyone; ``play`` is given scripted clients of these names, the others are good."""
    hall = Hall()
    hall.serve()
    good = [name for name in NAMES if name not in names]
    events = []
    settings = serving(**{"cohort": Uniform(5), "watch": events.append, **settings})
    with (
        attending(hall, good, process=process) as clients,
        ThreadPoolExecutor(1) as pool,
        Server(hall.desk, process, Means(), settings, test=TEST) as server,
    ):
        script = pool.submit(play, *(Script(hall, name, process) for name in names))
        run = server.rounds(2)
        server.finish()
        script.result(5)
        [client.result(5) for client in clients.values()]
    return run, server.counts, events


def simulated_cohort(round_number):
    return Uniform(3).choose(NAMES, [1] * 5, round_number, SEED)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def kind_of(step):
    """Return what a step of SecAgg+ carries, by its name on the wire."""
    return bytes(step.frame[4 : 4 + step.frame[3]]).decode().removeprefix("secagg_plus/")
