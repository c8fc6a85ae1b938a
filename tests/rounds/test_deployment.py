"""A deployed run gives the bits of a simulation, whoever is killed and comes back, and no client can stop the others.

Most tests connect threads by links in memory that can be cut and made anew. Those with real processes run this file as
a program, over mutual TLS on loopback, and kill what they test with SIGKILL.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import (
    Cancelled,
    DataError,
    DeadlineExceeded,
    PeerFailed,
    PeerUnreachable,
    RemoteProtocolError,
    UsageError,
)
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.compression import TopK, compressed
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.process import Examples, Fit, Process, Update
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.checkpoint import NamedVector
from unseen.rounds.cohort import Poisson, Uniform
from unseen.rounds.events import Shelf, What
from unseen.rounds.messages import (
    Answer,
    Assigned,
    Finished,
    Hello,
    Metric,
    Refusal,
    Standing,
    client_word,
    digest_of,
    odd_ones,
    said_by_client,
    server_word,
)
from unseen.rounds.serve import Server, ServeSettings
from unseen.rounds.simulate import Settings, Simulation

# First of what imports gRPC: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.memory import MemoryNetwork
from unseen.transport.tls import Identity, issue, make_authority

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "deployment_of_rounds.md"
SIZE, SEED = 40, 3
RUN, SERVER = JobId("digits"), PartyId("server")
NAMES = [PartyId(f"client-{number}") for number in range(5)]
PROCESS = strategy("scaffold", clients=len(NAMES), learning_rate=0.1, epochs=2, batch=4)


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

    ids = NAMES
    sizes = (3, 4, 5, 6, 7)

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


def simulated(rounds, process=PROCESS, cohort=None):
    settings = Settings(cohort or Uniform(3), SEED, workers=1)
    with Simulation(People(), Means(), process, settings, test=TEST) as simulation:
        return simulation.rounds(rounds)


def assert_same(run, expected):
    """Every bit, of the model, of what the server keeps beside it, and of the metrics."""
    np.testing.assert_array_equal(run.state.model, expected.state.model)
    assert run.state.extra.keys() == expected.state.extra.keys()
    for name, vector in expected.state.extra.items():
        np.testing.assert_array_equal(run.state.extra[name], vector)
    assert [replace(one, seconds=0) for one in run.history] == [replace(one, seconds=0) for one in expected.history]


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
def attending(hall, names=NAMES, trainer=None, process=PROCESS, **settings):
    """Let clients attend in threads; yields their futures."""
    cancel = threading.Event()
    with ThreadPoolExecutor(len(names)) as pool:
        futures = {
            name: pool.submit(
                attend,
                partial(hall.connect, name),
                process,
                trainer or Means(),
                examples_of(name),
                AttendSettings(RUN, SEED, **{"patience": 5.0, **settings}),
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


# --- the same bits -----------------------------------------------------------------------------------------------


def test_a_deployed_run_has_the_bits_of_a_simulation():
    hall = Hall()
    with attending(hall) as clients:
        run, counts = serve(hall, 5)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(5))
    assert counts[What.ANSWERED] == 15 == sum(one.trained for one in done)
    assert {one.rounds for one in done} == {5}


def test_cohorts_that_may_be_empty():
    hall, cohort, process = Hall(), Poisson(0.3), strategy("fed_avg_m", learning_rate=0.1)
    expected = simulated(8, process, cohort)
    assert 0 in [one.cohort for one in expected.history]
    with attending(hall, process=process):
        run, _ = serve(hall, 8, process, cohort=cohort)
    assert_same(run, expected)


def test_who_answers_first_does_not_matter():
    hall, gates = Hall(), {name: threading.Event() for name in NAMES}
    order = list(reversed(simulated_cohort(0)))

    def watch(event):
        if event.what is What.ASSIGNED:
            gates[order[0]].set()
        if event.what is What.ANSWERED and event.round == 0 and event.done < 3:
            gates[order[event.done]].set()
        if event.round > 0:
            [gate.set() for gate in gates.values()]

    with ThreadPoolExecutor(5) as pool:
        hall.serve()
        for name in NAMES:
            trainer = Means(before=partial(gates[name].wait, 5))
            settings = AttendSettings(RUN, SEED)
            pool.submit(attend, partial(hall.connect, name), ORDERED, trainer, examples_of(name), settings)
        with Server(hall.desk, ORDERED, Means(), serving(watch=watch), test=TEST) as server:
            run = server.rounds(2)
    assert_same(run, simulated(2, ORDERED))


def simulated_cohort(round_number):
    return Uniform(3).choose(NAMES, [1] * 5, round_number, SEED)


def test_updates_that_wait_in_files_have_the_same_bits(tmp_path):
    hall = Hall()
    with attending(hall):
        run, _ = serve(hall, 3, held_bytes=200)
    assert_same(run, simulated(3))


def test_a_shelf_keeps_what_it_may_in_memory_and_the_rest_in_files(tmp_path):
    update = Update(np.arange(6, dtype=np.float32), 2.0, {"a": np.ones(2, np.float32), "b": np.zeros(0, np.float32)})
    shelf = Shelf(50, tmp_path)
    assert shelf.put(update) is update
    filed = shelf.put(update)
    assert filed.delta.base is not None
    assert not filed.delta.flags.writeable
    np.testing.assert_array_equal(filed.delta, update.delta)
    np.testing.assert_array_equal(filed.extra["a"], [1, 1])
    assert len(filed.extra["b"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_compressed_updates_travel_compressed():
    process = compressed(strategy("fed_avg", learning_rate=0.1), TopK(0.1))
    hall = Hall()
    sizes = []

    class Counting(Desk):
        def receive(self, peer, timeout):
            sizes.append(len(found := super().receive(peer, timeout)))
            return found

    hall.desk = Counting(hall)
    with attending(hall, process=process), Server(hall.desk, process, Means(), serving(), test=TEST) as server:
        run = server.rounds(4)
    assert_same(run, simulated(4, process))
    assert len(sizes) == 5 + 12
    assert sum(sizes) / len(sizes) < SIZE * 4 * 3


# --- clients that do not do what they should ---------------------------------------------------------------------


def with_scripts(play, names=NAMES[:1], **settings):
    """Run a server whose cohort is everyone; ``play`` is given scripted clients of these names, the others are good."""
    hall = Hall()
    hall.serve()
    good = [name for name in NAMES if name not in names]
    events = []
    settings = serving(**{"cohort": Uniform(5), "watch": events.append, **settings})
    with (
        attending(hall, good) as clients,
        ThreadPoolExecutor(1) as pool,
        Server(hall.desk, PROCESS, Means(), settings, test=TEST) as server,
    ):
        script = pool.submit(play, *(Script(hall, name) for name in names))
        run = server.rounds(2)
        server.finish()
        script.result(5)
        [client.result(5) for client in clients.values()]
    return run, server.counts, events


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"delta": np.ones(SIZE - 1, np.float32)}, "39 numbers: expected a model of 40"),
        ({"delta": np.full(SIZE, np.nan, np.float32)}, "not finite, in delta"),
        ({"weight": float("inf")}, "counts inf"),
        ({"weight": 0.0}, "counts 0.0"),
        ({"extra": ()}, "other vectors than those of most"),
        ({"metrics": (Metric("loss", float("nan")),)}, "not finite, in loss"),
        ({"metrics": (Metric("loss", 1.0), Metric("loss", 2.0))}, "two vectors or metrics"),
        ({"client": "client-3"}, "calls itself 'client-3'"),
        ({"run": "another"}, "takes part in run 'another'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_answer_that_is_none_is_refused_by_name_and_stops_nobody(changes, complaint):
    refusals = []

    def play(script):
        script.hello()
        script.say(script.answer(**changes))
        refusals.append(script.wait_for(Refusal))
        script.say(script.answer())
        script.wait_for(Finished)

    run, counts, events = with_scripts(play)
    assert [one.dropped for one in run.history] == [1, 0]
    (event,) = [event for event in events if event.what is What.REFUSED]
    assert event.client == NAMES[0]
    assert complaint in event.note
    assert complaint in refusals[0].reason
    assert not refusals[0].final
    assert counts[What.ANSWERED] >= 9


def test_nonsense_is_refused_and_stops_nobody():
    def play(script):
        script.hello()
        script.wait_for(Assigned)
        for text in (b"", b"nonsense", os.urandom(1000)):
            script.channel.send(SERVER, [text])
            assert "malformed" in script.wait_for(Refusal).reason
        script.wait_for(Finished)

    run, counts, _ = with_scripts(play, deadline=1.0)
    assert [one.dropped for one in run.history] == [1, 1]
    assert counts[What.REFUSED] == 3


def test_answers_that_come_twice_late_or_unasked_are_dropped_and_counted():
    def play(first, second):
        first.hello()
        second.hello()
        answer = first.answer()
        first.say(answer)
        first.say(answer)
        second.say(second.answer())
        first.say(first.answer())
        first.say(answer)
        first.say(replace(answer, round=1, attempt=7))
        second.say(second.answer())
        first.wait_for(Finished)

    run, counts, _ = with_scripts(play, NAMES[:2])
    assert [one.dropped for one in run.history] == [0, 0]
    assert (counts[What.DUPLICATE], counts[What.LATE]) == (1, 2)


def test_an_answer_of_a_client_that_was_not_asked_is_dropped():
    hall, gate = Hall(), threading.Event()
    hall.serve()
    stranger = next(name for name in NAMES if name not in simulated_cohort(0))

    def watch(event):
        if event.what is What.UNASKED:
            assert event.client == stranger
            gate.set()

    def intrude():
        script = Script(hall, stranger).hello()
        word = script.wait_for(Standing)
        extra = (NamedVector("control", np.zeros(SIZE, np.float32)),)
        delta = np.ones(SIZE, np.float32)
        script.say(Answer(RUN, word.round, word.attempt, stranger, delta, None, 1.0, extra, ()))

    with (
        attending(hall, [name for name in NAMES if name != stranger], Means(before=partial(gate.wait, 5))),
        ThreadPoolExecutor(1) as pool,
        Server(hall.desk, PROCESS, Means(), serving(watch=watch), test=TEST) as server,
    ):
        pool.submit(intrude)
        run = server.rounds(1)
    assert server.counts[What.UNASKED] == 1
    assert_same(run, simulated(1))


def test_a_client_that_never_answers_costs_a_deadline_and_no_more():
    def play(script):
        script.hello()
        script.wait_for(Finished)

    began = time.monotonic()
    run, _, _ = with_scripts(play, deadline=0.7, minimum=4)
    assert [one.dropped for one in run.history] == [1, 1]
    assert 1.4 < time.monotonic() - began < 4


def test_a_round_ends_with_enough_answers_and_the_slowest_is_late():
    def play(script):
        script.hello()
        first = script.answer()
        second = script.answer()
        script.say(first)
        script.say(second)
        script.wait_for(Finished)

    began = time.monotonic()
    run, counts, _ = with_scripts(play, cohort=Uniform(5), enough=4, deadline=30.0)
    assert time.monotonic() - began < 5
    assert run.history[0].dropped == 1
    assert counts[What.LATE] >= 1 or run.history[1].dropped == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"process": "0" * 64}, "runs process 000000000000 with a model of 40"),
        ({"size": 7}, "a model of 7 numbers"),
        ({"run": "other"}, "takes part in run 'other'"),
    ],
)
def test_who_runs_something_else_is_told_and_takes_no_part(changes, complaint):
    def play(script):
        script.hello(**changes)
        refusal = script.wait_for(Refusal)
        assert complaint in refusal.reason
        assert refusal.final == ("run" not in changes)
        script.say(Answer(RUN, 0, 0, script.name, np.ones(SIZE, np.float32), None, 1.0, (), ()))
        assert "before it has said hello" in script.wait_for(Refusal).reason

    run, _, _ = with_scripts(play, deadline=0.5)
    assert [one.dropped for one in run.history] == [1, 1]


def test_too_few_answers_end_the_run_with_the_story_of_each():
    hall = Hall()
    hall.serve()
    events = []
    with (
        attending(hall, NAMES[:2]),
        Server(
            hall.desk,
            PROCESS,
            Means(),
            serving(cohort=Uniform(5), minimum=4, deadline=0.4, attempts=2, watch=events.append),
        ) as server,
    ):
        Script(hall, NAMES[2]).hello()
        with pytest.raises(PeerFailed, match=r"round 1: 2 attempts have failed.* 2 of 5 clients answered") as caught:
            server.rounds(2)
    assert "client-2 has not answered (deadline 0.4 s)" in str(caught.value)
    assert "client-4 has not come" in str(caught.value)
    assert [event.attempt for event in events if event.what is What.AGAIN] == [0, 1]


def test_a_round_that_has_failed_is_tried_again_with_the_same_bits():
    """The clients are not there in time for the first attempt; the second has them all, in the order of the first."""
    hall, clients = Hall(), []

    def watch(event):
        if event.what is What.AGAIN:
            clients.append(attending(hall, process=ORDERED))
            clients[0].__enter__()

    settings = serving(cohort=Uniform(5), minimum=5, deadline=0.5, watch=watch)
    with Server(hall.serve(), ORDERED, Means(), settings, test=TEST) as server:
        run = server.rounds(2)
    clients[0].__exit__(None, None, None)
    assert_same(run, simulated(2, ORDERED, cohort=Uniform(5)))
    assert server.counts[What.AGAIN] == 1


def test_a_cohort_below_the_minimum_is_no_round():
    with pytest.raises(PeerFailed, match="the cohort has 3 clients, and at least 4 are needed"):
        serve(Hall(), 1, minimum=4)


def test_updates_that_cannot_be_aggregated_are_an_attempt_that_failed():
    def refuse(updates):
        raise RemoteProtocolError("update 1 of 3 is odd")

    process, hall = replace(PROCESS, aggregator=refuse), Hall()
    with attending(hall, process=process), pytest.raises(PeerFailed, match="cannot be aggregated: update 1 of 3"):
        serve(hall, 1, process, attempts=2)


def test_the_most_decide_which_vectors_an_update_has():
    plain, odd = Update(np.ones(2, np.float32), 1.0), Update(np.ones(2, np.float32), 1.0, {"x": np.ones(1, np.float32)})
    assert odd_ones({"a": plain, "b": odd, "c": plain}) == ["b"]
    assert odd_ones({"a": odd, "b": odd, "c": plain}) == ["c"]
    assert odd_ones({"a": odd, "b": plain}) == ["b"]
    assert odd_ones({}) == []


# --- clients that fail -------------------------------------------------------------------------------------------


def failing(error, times=1):
    left = [times]

    def before():
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return Means(before)


def test_a_client_whose_round_fails_says_so_and_plays_the_next():
    hall, events = Hall(), []
    hall.serve()
    trainer = failing(DataError("secret.csv, row 7"))
    settings = serving(cohort=Uniform(5), watch=events.append)
    with (
        attending(hall, NAMES[1:]),
        attending(hall, NAMES[:1], trainer) as clients,
        Server(hall.desk, PROCESS, Means(), settings, test=TEST) as server,
    ):
        run = server.rounds(2)
        server.finish()
        assert clients[NAMES[0]].result(5).trained == 1
    assert [one.dropped for one in run.history] == [1, 0]
    (event,) = [event for event in events if event.what is What.FAILED]
    assert event.client == NAMES[0]
    assert event.note == "its examples do not fit; the details stay at that client"


def test_a_training_that_diverges_is_told_and_not_sent():
    class Diverging(Means):
        def fit(self, model, examples, plan, rng, correction):
            return replace(super().fit(model, examples, plan, rng, correction), model=np.full(SIZE, np.inf, np.float32))

    hall = Hall()
    process = strategy("fed_avg", learning_rate=0.1)
    with (
        attending(hall, trainer=Diverging(), process=process),
        pytest.raises(PeerFailed, match=r"client-.* failed .its training diverged"),
    ):
        serve(hall, 1, process, attempts=1)


def test_a_bug_in_a_model_ends_its_client_and_nobody_else():
    hall = Hall()
    hall.serve()
    with (
        attending(hall, NAMES[1:]),
        attending(hall, NAMES[:1], failing(KeyError("weights"))) as clients,
        Server(hall.desk, PROCESS, Means(), serving(cohort=Uniform(5), deadline=1.0), test=TEST) as server,
    ):
        run = server.rounds(1)
        with pytest.raises(KeyError, match="weights"):
            clients[NAMES[0]].result(5)
    assert run.history[0].dropped == 1
    assert server.counts[What.FAILED] == 1


def test_a_client_that_is_refused_ends_with_the_reason():
    hall = Hall()
    hall.serve()
    other = strategy("scaffold", clients=len(NAMES), learning_rate=0.2, epochs=2, batch=4)
    with (
        attending(hall, NAMES[1:]),
        attending(hall, NAMES[:1], process=other) as clients,
        Server(hall.desk, PROCESS, Means(), serving(cohort=Uniform(5), deadline=1.0), test=TEST) as server,
    ):
        server.rounds(1)
        with pytest.raises(PeerFailed, match=r"server refuses client-0: it runs process .* give both sides the same"):
            clients[NAMES[0]].result(5)


def test_a_server_that_stays_away_ends_the_patience_of_a_client():
    hall = Hall()
    began = time.monotonic()
    with (
        attending(hall, NAMES[:1], patience=0.4) as clients,
        pytest.raises(PeerUnreachable, match=r"away for 0\.4 s, the patience of this client: nobody serves"),
    ):
        clients[NAMES[0]].result(5)
    assert 0.4 <= time.monotonic() - began < 3


def test_a_server_that_says_nothing_ends_a_client_too():
    hall = Hall()
    desk = hall.serve()
    with (
        attending(hall, NAMES[:1], silence=0.3) as clients,
        pytest.raises(DeadlineExceeded, match=r"said nothing for 0\.3 s"),
    ):
        clients[NAMES[0]].result(5)
    desk.close()


def test_everybody_can_be_cancelled():
    hall, cancel, gate = Hall(), threading.Event(), threading.Event()
    hall.serve()
    events = []

    def watch(event):
        events.append(event)
        if event.what is What.ANSWERED and event.round == 1:
            cancel.set()

    with attending(hall, trainer=Means(before=lambda: gate.wait(0.05))) as clients:
        with Server(hall.desk, PROCESS, Means(), serving(watch=watch)) as server:
            with pytest.raises(Cancelled):
                server.rounds(3, cancel=cancel)
            assert server.run.state.round == 1
            server.close()
        time.sleep(0.1)
    for client in clients.values():
        with pytest.raises((Cancelled, PeerUnreachable)):
            client.result(5)


def test_a_newer_assignment_takes_the_place_of_those_that_wait():
    """A slow client does not train for rounds that are over."""
    hall, gate, trained = Hall(), threading.Event(), []
    hall.serve()

    def before():
        trained.append(1)
        gate.wait(10)

    slow = NAMES[0]
    with (
        attending(hall, NAMES[1:]),
        attending(hall, [slow], Means(before)) as clients,
        Server(hall.desk, PROCESS, Means(), serving(cohort=Uniform(5), enough=4)) as server,
    ):
        server.rounds(1)
        while not trained:
            time.sleep(0.01)
        server.rounds(5)
        gate.set()
        server.finish()
        done = clients[slow].result(5)
    assert done.rounds == 5
    assert len(trained) <= 2


# --- comings and goings ------------------------------------------------------------------------------------------


def test_an_answer_that_is_lost_with_its_link_is_sent_again_and_not_trained_again():
    hall, lost = Hall(), []

    class Lossy(Desk):
        """Loses the first answer of the first two rounds, with its link."""

        def receive(self, peer, timeout):
            frame = super().receive(peer, timeout)
            word = client_word(frame, sender=peer)
            if isinstance(word, Answer) and word.round == len(lost) < 2:
                lost.append(peer)
                self.cut(peer)
                raise PeerUnreachable("cut")
            return frame

    hall.desk = Lossy(hall)
    with attending(hall) as clients:
        with Server(hall.desk, PROCESS, Means(), serving(), test=TEST) as server:
            run = server.rounds(4)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(4))
    assert len(lost) == 2
    assert sum(one.trained for one in done) == 12
    assert sum(one.repeated for one in done) == 2
    assert server.counts[What.LOST] == 2


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_server_that_is_gone_in_mid_round_and_comes_back_ends_with_the_same_bits(tmp_path, stop_at):
    """Clients attend through it; what they have answered before they answer again with the same bytes."""
    hall, gone = Hall(), []

    def watch(event):
        if event.what is What.ANSWERED and event.round == 1 and event.done == stop_at and not gone:
            gone.append(True)
            raise KeyboardInterrupt

    with attending(hall) as clients:
        with pytest.raises(KeyboardInterrupt):
            serve(hall, 4, folder=tmp_path, watch=watch)
        run, counts = serve(hall, 4, folder=tmp_path)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(4))
    assert counts[What.ANSWERED] == 9
    # Three were asked in round 1; all of them had been sent the assignment, and no one trained it twice.
    assert sum(one.trained for one in done) <= 12
    assert sum(one.repeated for one in done) >= stop_at


def test_a_client_that_is_started_again_answers_from_its_folder(tmp_path):
    """Killed after it had kept its answer and before it had sent it: the worst moment."""
    hall = Hall()
    hall.serve()
    folders = {name: tmp_path / name for name in NAMES}
    victim, killed, trained = simulated_cohort(1)[0], [], Counter()

    class Fragile:
        """A channel whose process dies instead of sending its second answer."""

        def __init__(self, inner):
            self.inner, self.party, self.peers = inner, inner.party, inner.peers

        def send(self, peer, parts, *, waiting=None):
            word = client_word(b"".join(parts), sender="me")
            if isinstance(word, Answer) and word.round == 1 and not killed:
                killed.append(word)
                raise KeyboardInterrupt
            self.inner.send(peer, parts)

        def receive(self, peer, timeout):
            return self.inner.receive(peer, timeout)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

    def start(name):
        trainer = Means(before=lambda: trained.update([name]))
        settings = AttendSettings(RUN, SEED, folder=folders[name], patience=5.0)
        return attend(lambda: Fragile(hall.connect(name)), PROCESS, trainer, examples_of(name), settings)

    def live(name):
        try:
            return start(name)
        except KeyboardInterrupt:
            return start(name)

    fragile = {victim}
    with (
        ThreadPoolExecutor(1) as pool,
        attending(hall, [name for name in NAMES if name not in fragile]),
        Server(hall.desk, PROCESS, Means(), serving(), test=TEST) as server,
    ):
        done = pool.submit(live, victim)
        run = server.rounds(4)
        server.finish()
        done.result(5)
    assert_same(run, simulated(4))
    assert len(killed) == 1
    assert trained[victim] == sum(victim in simulated_cohort(number) for number in range(4))


def test_memory_of_rounds_that_are_replaced_is_removed(tmp_path):
    hall = Hall(NAMES[:1])
    with attending(hall, NAMES[:1], folder=tmp_path):
        serve(hall, 6, cohort=Uniform(1))
    assert len(list((tmp_path / "memory").iterdir())) <= 2


def test_a_folder_belongs_to_one_run(tmp_path):
    hall = Hall()
    with attending(hall):
        serve(hall, 1, folder=tmp_path / "server")
    desk = hall.serve()
    with pytest.raises(UsageError, match="holds another run, with other seed"):
        Server(desk, PROCESS, Means(), serving(seed=8, folder=tmp_path / "server"))
    desk.close()
    with attending(hall, NAMES[:1], folder=tmp_path / "client") as clients:
        serve(hall, 1, minimum=1, deadline=0.5, cohort=Uniform(5))
        clients[NAMES[0]].result(5)
    hall.serve()
    with (
        attending(hall, NAMES[1:2], folder=tmp_path / "client") as clients,
        pytest.raises(UsageError, match="holds another run, with other client"),
    ):
        clients[NAMES[1]].result(5)


def test_a_damaged_answer_is_named(tmp_path):
    hall = Hall()
    hall.serve()
    (tmp_path / "answer.bin").write_bytes(b"half of it")
    with (
        attending(hall, NAMES[:1], folder=tmp_path) as clients,
        pytest.raises(DataError, match=r"answer\.bin.*damaged; remove it"),
    ):
        clients[NAMES[0]].result(5)


# --- settings and messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"minimum": 0}, "minimum"),
        ({"minimum": 4, "enough": 3}, "enough is not below"),
        ({"deadline": 0}, "deadline"),
        ({"attempts": 0}, "attempts"),
        ({"held_bytes": -1}, "held_bytes"),
    ],
)
def test_impossible_settings_are_refused(wrong, complaint):
    with pytest.raises(UsageError, match=complaint):
        serving(**wrong)
    with pytest.raises(UsageError, match="patience"):
        AttendSettings(RUN, 0, patience=-1)


def test_a_process_is_known_by_its_parts_and_parameters():
    def build(rate=0.1, secret=b"a" * 32, **parameters):
        process = strategy("scaffold", clients=5, learning_rate=rate, **parameters)
        return replace(process, postprocessors=(LocalNoise(1.0, 2.0, 3, Prg(secret)),))

    assert digest_of(build()) == digest_of(build())
    assert digest_of(build()) == digest_of(build(secret=b"b" * 32))
    assert digest_of(build()) != digest_of(build(rate=0.2))
    assert digest_of(build()) != digest_of(build(epochs=2))
    assert digest_of(build()) != digest_of(replace(build(), postprocessors=()))
    parts = Process("test", partial(max, 1), np.arange(3), {"a": {1, 2}, "b": b"x"}, serve, Means)
    assert digest_of(parts) == digest_of(replace(parts, work=np.arange(3)))
    for change in ({"distributor": partial(max, 2)}, {"work": np.arange(4)}, {"aggregator": {"a": {1, 3}, "b": b"x"}}):
        assert digest_of(parts) != digest_of(replace(parts, **change))


@given(st.binary(max_size=300), st.integers(0, 60))
def test_whatever_comes_is_a_word_or_a_protocol_error(noise, place):
    good = b"".join(said_by_client(Hello("run", "00", 3)))
    for frame in (noise, good[:place], good[:place] + noise, good + noise[:1]):
        for read in (client_word, server_word):
            with suppress(RemoteProtocolError):
                assert isinstance(read(frame, sender="peer"), Hello)


# --- the guide ---------------------------------------------------------------------------------------------------


def test_the_programs_of_the_guide_run(tmp_path, monkeypatch):
    """The server and its three clients, each with a module ``federation``, a folder and a trainer of its own."""
    shared, server, client = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    names = ["coordinator", "clinic-a", "clinic-b", "clinic-c"]
    now, port = datetime.now(UTC), free_port()
    authority = make_authority("Test", days=1, now=now)
    for number, name in enumerate(names):
        issue(authority, PartyId(name), days=1, now=now).save(tmp_path / name / "identity")
        (tmp_path / name / "federation.py").write_text(shared, encoding="utf-8")
        rng = np.random.default_rng(number)
        inputs, labels = rng.random((20, 64), np.float32), rng.integers(0, 10, 20)
        np.savez(tmp_path / name / "examples.npz", inputs=inputs, labels=labels)
    texts = [server.replace("0.0.0.0:7001", f"127.0.0.1:{port}")]
    texts += 3 * [client.replace("coordinator.example.org:7001", f"127.0.0.1:{port}")]
    started = [
        subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path / name, stdout=subprocess.PIPE, text=True)
        for text, name in zip(texts, names, strict=True)
    ]
    try:
        told = [process.communicate(timeout=60)[0].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    assert told[0][-1] == "5 rounds"
    assert told[0][0].startswith("Round(number=1, cohort=3, dropped=0")
    assert all(lines == ["Attendance(rounds=5, trained=5, repeated=0)"] for lines in told[1:])


# --- real processes ----------------------------------------------------------------------------------------------


def play_server(folder, port, rounds):
    identity = Identity.load(folder / SERVER)
    channel = GrpcChannel(identity, dict.fromkeys(NAMES), listen=f"127.0.0.1:{port}")
    settings = serving(folder=folder / "run", deadline=60.0, minimum=3)
    with Server(channel, PROCESS, Means(), settings, test=TEST) as server:
        run = server.rounds(rounds, observe=lambda one: tell(f"round {one.number}"))
    np.save(folder / "model.npy", run.state.model)
    (folder / "counts.json").write_text(json.dumps(server.counts))


def play_client(folder, port, name, pause):
    identity = Identity.load(folder / name)

    def connect():
        return GrpcChannel(identity, {SERVER: f"127.0.0.1:{port}"}, options=Options(connect_grace=10, close_grace=2))

    def before():
        tell("training")
        time.sleep(pause)

    settings = AttendSettings(RUN, SEED, folder=folder / f"{name}-run", patience=30.0)
    done = attend(connect, PROCESS, Means(before), examples_of(name), settings)
    tell(f"finished {done.rounds} {done.trained} {done.repeated}")


def tell(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@pytest.fixture
def federation(tmp_path):
    """Certificates, and a way to start the server and clients as processes; none of them outlives the test."""
    now = datetime.now(UTC)
    authority = make_authority("Test", days=1, now=now)
    for party in (SERVER, *NAMES):
        issue(authority, party, days=1, now=now).save(tmp_path / party)
    started = []

    def start(*words):
        command = [sys.executable, __file__, str(tmp_path), *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def lines_until(process, wanted):
    for line in process.stdout:
        if line.startswith(wanted):
            return line
    raise AssertionError(process.stderr.read())


def finish(process):
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


def test_a_server_and_a_client_that_are_killed_come_back_to_the_same_bits(federation, tmp_path):
    """SIGKILL in mid-training, of the server in round 2 and of a client in the last round."""
    rounds, port = 4, free_port()
    first, last = simulated_cohort(1)[0], simulated_cohort(3)[0]
    clients = {name: federation("client", port, name, 0.3) for name in NAMES}
    server = federation("server", port, rounds)
    lines_until(server, "round 1")
    seen = [lines_until(clients[first], "training") for _ in range(1 + (first in simulated_cohort(0)))]
    assert seen
    server.send_signal(signal.SIGKILL)
    assert server.wait(10) == -signal.SIGKILL
    server = federation("server", port, rounds)
    lines_until(server, "round 3")
    clients[last].send_signal(signal.SIGKILL)
    assert clients[last].wait(10) == -signal.SIGKILL
    clients[last] = federation("client", port, last, 0.0)
    finish(server)
    told = {name: finish(client).splitlines()[-1].split() for name, client in clients.items()}
    np.testing.assert_array_equal(np.load(tmp_path / "model.npy"), simulated(rounds).state.model)
    assert {words[:2] == ["finished", "4"] for words in told.values()} == {True}
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["answered"] == 9
    assert counts["joined"] == 6
    assert counts["lost"] >= 1


def main():
    folder, role, port, *rest = sys.argv[1:]
    if role == "server":
        play_server(Path(folder), int(port), int(rest[0]))
    else:
        play_client(Path(folder), int(port), PartyId(rest[0]), float(rest[1]))


if __name__ == "__main__":
    main()
