"""A server that lies about rounds, models and runs gets no answer more of a client than its ε allows."""

from dataclasses import replace

import numpy as np
import pytest
from halls import KEYS, NAMES, ROSTER, RUN, SERVER, SIZE, Hall, Means, examples_of, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import DataError, DeadlineExceeded, PermissionDenied, UsageError
from unseen.ids import JobId
from unseen.learners.horizontal.compression.compressed import Compressed
from unseen.learners.horizontal.private.central import Central, Plan
from unseen.learners.horizontal.private.distributed import Code, Encode, ModularSum
from unseen.learners.horizontal.private.dp_sgd import DpSgd, ExamplePlan
from unseen.learners.horizontal.private.limit import limited_parts
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.topology import Topology
from unseen.privacy.epsilon import Budget, Limit, Unlimited
from unseen.privacy.events import Poisson
from unseen.rounds.answered import Answers
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.identities import Signer
from unseen.rounds.messages import (
    Answer,
    Assigned,
    Failed,
    Finished,
    Ready,
    Summing,
    SumStep,
    client_word,
    said_by_server,
)
from unseen.rounds.neighbours import NeighbourSettings, exchange_models
from unseen.rounds.peers import PeerSettings, take_part
from unseen.rounds.serve import Server
from unseen.transport.memory import MemoryNetwork

ME, SECRET = NAMES[0], Prg(bytes(32))
PLAIN = strategy("fed_avg", learning_rate=0.1)
CODE = Code(size=SIZE, bound=30.0, step=0.01, deviation=0.1, clients=4, bits=20)


class Pull:
    """Gradients of the squared distance to each example."""

    def example_gradients(self, model, examples):
        yield (model - examples.inputs).astype(np.float32)


def local(answers, noise=2.0):
    return replace(PLAIN, postprocessors=(LocalNoise(1.0, noise, answers, SECRET),))


def dp_sgd(answers):
    plan = ExamplePlan(bound=1.0, noise_multiplier=1.0, rate=0.5, nominal=4, steps=2, learning_rate=0.1, rounds=answers)
    return replace(PLAIN, work=DpSgd(plan, Pull(), SECRET))


def distributed(answers):
    return replace(PLAIN, postprocessors=(Encode(CODE, 5, answers, SECRET),), aggregator=ModularSum(CODE))


PRIVATE = pytest.mark.parametrize("private", [local, dp_sgd, distributed])


class Liar:
    """A server that says what a test wants, and keeps what it hears; in the same thread."""

    party, peers = ME, frozenset({SERVER})

    def __init__(self, *words, before=lambda: None):
        self.words, self.before, self.heard = [*words], before, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def send(self, peer, parts, *, waiting=None):
        self.heard.append(client_word(b"".join(parts), sender=ME))

    def receive(self, peer, timeout):
        if not timeout:
            raise DeadlineExceeded("nothing waits")
        self.before()
        word = self.words.pop(0) if self.words else Finished(RUN, 1)
        return b"".join(said_by_server(word))

    def answers(self):
        return [word for word in self.heard if isinstance(word, Answer | Ready)]

    def refusals(self):
        return [word.reason for word in self.heard if isinstance(word, Failed)]


def asked(round_number, model=0.0, run=RUN, attempt=0):
    return Assigned(run, round_number, attempt, np.full(SIZE, model, np.float32), ())


def ask(process, folder, *words, run=RUN, trainer=None, before=lambda: None, **more):
    liar = Liar(*(replace(word, run=run) for word in words), Finished(run, 1), before=before)
    signer = Signer(KEYS[ME], ROSTER)
    given = AttendSettings(run, 7, folder=folder, signer=signer, patience=0.0, **more)
    attend(lambda: liar, process, trainer or Means(), examples_of(ME), given)
    return liar


# --- the limit holds, whatever the server says -------------------------------------------------------------------


@PRIVATE
def test_rounds_that_are_named_anew_get_one_answer(private, tmp_path):
    liar = ask(private(1), tmp_path, *(asked(0, model) for model in range(10)))
    assert len(liar.answers()) == 1
    assert len(liar.refusals()) == 9
    assert "has answered round 1 of this run with another model" in liar.refusals()[0]


@PRIVATE
def test_answers_are_counted_over_restarts_and_never_backwards(private, tmp_path):
    process = private(3)
    got = []
    for first, second in ((1, 0), (0, 2), (2, 1), (1, 0)):
        liar = ask(process, tmp_path, asked(first, 5 + first), asked(second, 5 + second))
        got += [word.round for word in liar.answers()]
    # What was answered last is answered again, whoever asks; nothing before it is.
    assert got == [1, 2, 2]


def test_a_limit_that_is_reached_is_said(tmp_path):
    liar = ask(dp_sgd(2), tmp_path, asked(0), asked(4), asked(5), asked(6))
    assert len(liar.answers()) == 2
    assert all("has given all 2 answers that its ε allows" in reason for reason in liar.refusals())


def test_another_run_on_the_same_budget_goes_on_with_its_count(tmp_path):
    budget, process = tmp_path / "budget", local(2)
    first = ask(process, tmp_path / "a", asked(0), budget=budget)
    second = ask(process, tmp_path / "b", asked(0), asked(1), run=JobId("digits-2"), budget=budget)
    assert [len(first.answers()), len(second.answers())] == [1, 1]
    with pytest.raises(UsageError, match="answers of client-0 in run digits that cost something else"):
        ask(local(2, noise=9.0), tmp_path / "c", asked(0), budget=budget)
    with pytest.raises(UsageError, match="a client with a budget needs a folder"):
        AttendSettings(RUN, 7, budget=budget)


# --- what is asked again -----------------------------------------------------------------------------------------


def test_an_assignment_that_comes_again_gets_the_same_bytes_and_costs_nothing(tmp_path):
    once = ask(local(2), tmp_path, asked(0), asked(0, attempt=1))
    again = ask(local(2), tmp_path, asked(0))
    found = [word.delta.tobytes() for word in (*once.answers(), *again.answers())]
    assert len(found) == 3
    assert len(set(found)) == 1
    (tmp_path / "answer.bin").unlink()
    lost = ask(local(2), tmp_path, asked(0), asked(1))
    assert [word.round for word in lost.answers()] == [1]
    assert "has not kept the answer" in lost.refusals()[0]


def test_an_answer_that_a_kill_kept_from_being_noted_has_not_left_and_is_made_anew(tmp_path):
    """Killed between the two writings, and in mid-line: neither costs more than one answer, nor comes for nothing."""
    note = tmp_path / "answered.jsonl"
    for number, left in ((0, 0), (1, 40)):
        ask(local(9), tmp_path, asked(number))
        whole = note.read_bytes()
        kept = whole.rstrip(b"\n").rfind(b"\n") + 1
        note.write_bytes(whole[: kept + left])
        before = len(note.read_bytes().split(b"\n")) - 1
        liar = ask(local(9), tmp_path, asked(number))
        assert len(liar.answers()) == 1
        assert len(note.read_bytes().splitlines()) == before + 1


def test_a_sum_is_not_begun_with_an_answer_that_was_not_noted(tmp_path):
    def sums(*words):
        heard = ask(distributed(2), tmp_path, *words, Summing(RUN, 0, 0, bytes(16), tuple(NAMES))).heard
        return any(isinstance(word, SumStep) for word in heard)

    assert sums(asked(0))
    assert sums()
    (tmp_path / "answered.jsonl").write_bytes(b"")
    assert not sums()


def test_a_round_that_a_part_itself_refuses_costs_nothing(tmp_path):
    liar = ask(local(2), tmp_path, asked(5), asked(0), asked(1))
    assert [word.round for word in liar.answers()] == [0, 1]
    assert "round 6 is beyond the 2 that its ε allows" in liar.refusals()[0]


def test_a_failure_is_an_answer_and_does_not_say_why(tmp_path):
    """A model may be made to fail for some examples and not for others."""

    def fail():
        raise DataError("labels of row 17")

    liar = ask(local(1), tmp_path, asked(0), asked(0), asked(1, 3.0), trainer=Means(fail))
    assert not liar.answers()
    assert liar.refusals()[0] == "it cannot play this round; the details stay at that client"
    assert "has given all 1 answers" in liar.refusals()[2]


@pytest.mark.parametrize("private", [local, distributed])
def test_a_training_that_diverges_is_answered_with_noise(private, tmp_path):
    """A server may send a model that does so for some examples only, and would see who fails."""

    class Diverging(Means):
        def fit(self, model, examples, plan, rng, correction):
            return replace(super().fit(model, examples, plan, rng, correction), model=np.full(SIZE, np.inf, np.float32))

    liar = ask(private(1), tmp_path, asked(0), trainer=Diverging())
    assert len(liar.answers()) == 1
    assert not liar.refusals()


# --- folders -----------------------------------------------------------------------------------------------------


@PRIVATE
def test_a_client_whose_answers_cost_something_needs_a_folder(private):
    with pytest.raises(UsageError, match="there is no folder to remember it in"):
        ask(private(1), None, asked(0))


def test_a_share_of_noise_does_not_leave_a_client_but_for_its_sum(tmp_path):
    for other in (PLAIN.aggregator, ModularSum(replace(CODE, clients=3))):
        with pytest.raises(UsageError, match="does not take the sum that it is for"):
            ask(replace(distributed(1), aggregator=other), tmp_path, asked(0))


def test_a_peer_and_a_node_whose_answers_cost_something_need_a_folder():
    channel = MemoryNetwork(NAMES[:3]).channel(ME)
    peers = PeerSettings(RUN, tuple(NAMES[:3]), 1)
    with pytest.raises(UsageError, match="there is no folder to remember it in"):
        take_part(channel, distributed(1), Means(), examples_of(ME), peers)
    nodes = NeighbourSettings(RUN, tuple(NAMES[:3]), Topology("ring"), 1)
    with pytest.raises(UsageError, match="there is no folder to remember it in"):
        exchange_models(channel, local(1), Means(), examples_of(ME), nodes)


def test_a_server_that_spends_a_budget_needs_a_folder():
    budget = Budget(Limit("people", 1.0, 1e-5), lambda facts, delta: 0.5)
    plan = Plan(clip=1.0, noise_multiplier=1.0, expected=2.0, sampling=Poisson(rate=0.4), run="digits", about="people")
    process = replace(PLAIN, finalizer=Central(PLAIN.finalizer, plan, budget, SECRET))
    with pytest.raises(UsageError, match="spends a budget of privacy, and has no folder"):
        Server(Hall().serve(), process, Means(), serving())


def test_two_servers_do_not_play_one_run(tmp_path):
    """Each would release a model of every round, and one would be charged."""
    first = Server(Hall().serve(), PLAIN, Means(), serving(folder=tmp_path))
    with first, pytest.raises(UsageError, match="another process works in"):
        Server(Hall().serve(), PLAIN, Means(), serving(folder=tmp_path))
    Server(Hall().serve(), PLAIN, Means(), serving(folder=tmp_path)).close()


def test_a_folder_has_one_process_at_a_time(tmp_path):
    """Two of them, each with the count of the beginning, would answer twice as often."""
    refused = []

    def intrude():
        if not refused:
            with pytest.raises(UsageError, match="another process works in"):
                ask(local(1), tmp_path / "other", asked(0, 2.0), budget=tmp_path)
            refused.append(True)

    liar = ask(local(1), tmp_path, asked(0), before=intrude)
    assert refused
    assert len(liar.answers()) == 1


def test_a_budget_is_one_clients_and_whole(tmp_path):
    ask(local(3), tmp_path, asked(0))
    with pytest.raises(UsageError, match="counts answers of client-0"):
        Answers(tmp_path, RUN, NAMES[1], limited_parts(local(3)))
    with pytest.raises(DataError, match=r"answered.jsonl is missing, .* and run digits was begun here"):
        ask(local(3), tmp_path, asked(1), budget=tmp_path / "new")
    note = tmp_path / "answered.jsonl"
    note.write_bytes(note.read_bytes().replace(b'"round":0', b'"round":"0"'))
    with pytest.raises(DataError, match=r"answered.jsonl, line 1 is not an answer: round"):
        ask(local(3), tmp_path, asked(1))


def test_limits_are_found_inside_of_a_compression():
    inner = local(3)
    outer = replace(PLAIN, work=Compressed(inner.work, inner.postprocessors, None, feedback=False))
    assert [part.answers for part in limited_parts(outer)] == [3]
    assert not limited_parts(replace(PLAIN, finalizer=Central(PLAIN.finalizer, None, Unlimited(), SECRET)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.booleans()), max_size=12), st.integers(1, 3))
def test_no_order_of_questions_and_restarts_gets_more(tmp_path_factory, questions, most):
    folder = tmp_path_factory.mktemp("budget")
    parts = limited_parts(local(most))
    answers, given_to = Answers(folder, RUN, ME, parts, new=True), []
    for number, model, restart in questions:
        key = bytes([number, model])
        if restart:
            answers = Answers(folder, RUN, ME, parts)
        try:
            answers.check(number, key, kept=False)
        except PermissionDenied:
            continue
        answers.add(number, key)
        given_to.append(number)
    assert len(given_to) <= most
    assert given_to == sorted(set(given_to))
    assert len(Answers(folder, RUN, ME, parts)) == len(given_to)
