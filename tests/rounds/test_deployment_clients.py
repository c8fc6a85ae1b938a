"""No client can stop the others: those that lie, those that are late, those that fail."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from halls import (
    NAMES,
    ORDERED,
    PROCESS,
    RUN,
    SERVER,
    SIZE,
    TEST,
    Hall,
    Means,
    Script,
    assert_same,
    attending,
    serve,
    serving,
    simulated,
    simulated_cohort,
    with_scripts,
)

from unseen.errors import (
    Cancelled,
    DataError,
    DeadlineExceeded,
    PeerFailed,
    PeerUnreachable,
    RemoteProtocolError,
)
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.robust import Krum, robust
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.checkpoint import NamedVector
from unseen.rounds.cohort import Uniform
from unseen.rounds.events import What
from unseen.rounds.messages import (
    Answer,
    Assigned,
    Finished,
    Metric,
    Refusal,
    Standing,
    odd_ones,
)
from unseen.rounds.next_state import culprit, next_state
from unseen.rounds.serve import Server

# --- clients that do not do what they should ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"delta": np.ones(SIZE - 1, np.float32)}, "39 numbers: expected a model of 40"),
        ({"delta": np.full(SIZE, np.nan, np.float32)}, "not finite, or beyond 2^60, in delta"),
        ({"weight": float("inf")}, "counts inf"),
        ({"weight": 0.0}, "counts 0.0"),
        ({"delta": np.full(SIZE, 3e38, np.float32)}, "beyond 2^60, in delta"),
        ({"extra": (NamedVector("control", np.full(SIZE, -3e38, np.float32)),)}, "beyond 2^60, in control"),
        ({"metrics": (Metric("loss", -1e308),)}, "beyond 2^60, in loss"),
        ({"metrics": tuple(Metric(str(n), 1.0) for n in range(64))}, "has 65 further vectors and metrics"),
        ({"weight": 1e300 / 2}, "counts 5e+299: expected a number from 2^-40 to 2^40"),
        ({"weight": 1e-300}, "counts 1e-300"),
        ({"extra": ()}, "other vectors than those of most"),
        ({"metrics": (Metric("loss", float("nan")),)}, "beyond 2^60, in loss"),
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


@dataclass(frozen=True)
class Picky:
    """An aggregator that takes numbers below 1000, as one that adds limbs does."""

    def check_update(self, update):
        if np.abs(update.delta).max() >= 1000:
            raise RemoteProtocolError("its update holds a number that is none")

    def __call__(self, updates):
        [self.check_update(update) for update in updates]
        return PROCESS.aggregator(updates)


def bounded(state, aggregate):
    """A finalizer that cannot do anything with large means, as one that plants trees cannot."""
    if np.abs(aggregate.delta).max() > 50:
        raise RemoteProtocolError("leaves beyond all bounds")
    return PROCESS.finalizer(state, aggregate)


@pytest.mark.parametrize(
    ("process", "complaint"),
    [
        (replace(PROCESS, aggregator=Picky()), "a number that is none"),
        (replace(PROCESS, finalizer=bounded), "without it there is"),
    ],
    ids=["aggregator", "finalizer"],
)
def test_an_update_that_would_end_every_attempt_costs_its_client_the_round_and_nobody_else(process, complaint):
    def play(script):
        script.hello()
        for _ in range(2):
            script.say(script.answer(delta=np.full(SIZE, 1000, np.float32)))
            reason = script.wait_for(Refusal).reason
            assert complaint in reason
            assert "leaves" not in reason  # of what others have sent
        script.wait_for(Finished)

    run, counts, events = with_scripts(play, process=process)
    assert [one.dropped for one in run.history] == [1, 1]
    assert counts[What.AGAIN] == 0
    assert all(complaint in event.note for event in events if event.what is What.REFUSED)


def test_who_is_to_blame_is_found_by_halves():
    updates = {name: Update(np.full(SIZE, 60 * (name == NAMES[3]), np.float32), 1.0) for name in NAMES}
    state, process = PROCESS.start(np.zeros(SIZE, np.float32)), replace(PROCESS, finalizer=limit_of_ten)
    assert culprit(process, state, updates) == NAMES[3]
    # Two at once, a model that nobody can have learnt, nobody beside: no single one is to blame.
    twice = updates | {NAMES[0]: updates[NAMES[3]]}
    assert culprit(process, state, twice) is None
    assert culprit(process, state, {NAMES[3]: updates[NAMES[3]]}) is None
    assert culprit(process, state, {}) is None
    with pytest.raises(RemoteProtocolError, match="model after round 1 holds numbers that are not finite"):
        next_state(replace(PROCESS, finalizer=infinite), state, PROCESS.aggregate(state, list(updates.values())))


def limit_of_ten(state, aggregate):
    if np.abs(aggregate.delta).max() > 10:
        raise DataError("too much")
    return PROCESS.finalizer(state, aggregate)


def infinite(state, aggregate):
    return replace(state, round=1, model=np.full(SIZE, np.inf, np.float32))


def test_nonsense_is_refused_and_stops_nobody():
    def play(script):
        script.hello()
        script.wait_for(Assigned)
        for text in (b"", b"nonsense", os.urandom(1000)):
            script.channel.send(SERVER, [text])
            assert "malformed" in script.wait_for(Refusal).reason
        script.wait_for(Finished)

    run, counts, _ = with_scripts(play, deadline=0.4, minimum=4)
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

    run, _, _ = with_scripts(play, deadline=0.3, minimum=4)
    assert [one.dropped for one in run.history] == [1, 1]


def test_a_round_ends_with_enough_answers_and_the_slowest_is_late():
    def play(script):
        script.hello()
        first = script.answer()
        second = script.answer()
        script.say(first)
        script.say(second)
        script.wait_for(Finished)

    run, counts, _ = with_scripts(play, cohort=Uniform(5), enough=4, deadline=30.0)
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

    run, _, _ = with_scripts(play, deadline=0.3, minimum=4)
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


def test_a_robust_rule_with_too_few_updates_is_an_attempt_that_failed():
    process, hall = robust(strategy("fed_avg", learning_rate=0.1), Krum(byzantine=2)), Hall()
    with attending(hall, process=process), pytest.raises(PeerFailed, match=r"2 attempts.*cannot be aggregated: .*Krum"):
        serve(hall, 1, process, attempts=2)


def test_the_most_decide_which_vectors_an_update_has():
    assert odd_ones({"a": "plain", "b": "odd", "c": "plain"}) == ["b"]
    assert odd_ones({"a": "odd", "b": "odd", "c": "plain"}) == ["c"]
    assert odd_ones({"a": "odd", "b": "plain"}) == ["b"]
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
