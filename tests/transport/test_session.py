"""Sessions run the dialogues that ``converse`` runs, with the same results and the same bytes."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unseen.codec import Shape, encode, message
from unseen.dialogue import (
    Checkpoint,
    Enter,
    Leave,
    MemoryCheckpoints,
    converse,
    progress,
    receive,
    receive_all,
    receive_array,
    resume,
    send,
    send_all,
    send_array,
)
from unseen.errors import (
    Cancelled,
    DataError,
    DeadlineExceeded,
    LocalProtocolError,
    PeerFailed,
    PeerUnreachable,
    RemoteProtocolError,
    UsageError,
)
from unseen.ids import JobId, PartyId, StepId
from unseen.transport.channel import POLL_SECONDS
from unseen.transport.memory import MemoryNetwork
from unseen.transport.session import Envelope, Session, seal, unseal

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
JOB, STEP = JobId("job-1"), StepId("sums")


@message("test-session/numbers")
class Numbers:
    values: Annotated[NDArray[np.int64], Shape(None)]


@message("test-session/state")
class State:
    round: int
    total: int


def sums(party, others, *, rounds=3, fail_at=None):
    """Send numbers to all others each round, add theirs, and keep checkpoints; a step with usage."""
    yield Enter(STEP)
    state = yield from resume(State, others)
    begin, total = (state.round, state.total) if state is not None else (0, 0)
    for number in range(begin, rounds):
        if fail_at == number:
            raise DataError(f"row 7 of {party}: secret value 1234")
        yield from send_all(others, Numbers(np.full(number + 1, len(party), np.int64)))
        answers = yield from receive_all(others, Numbers)
        total += sum(int(answer.values.sum()) for answer in answers.values())
        yield Checkpoint(State(number + 1, total))
        yield from progress(number + 1, rounds)
    for peer in others:
        yield from send_array(peer, np.arange(300_000), chunk_bytes=1 << 18)
    for peer in others:
        array = yield from receive_array(peer, np.int64, Shape(None))
        total += int(array.sum())
    usage = yield Leave()
    return total, usage


def others(party, parties):
    return [peer for peer in parties if peer != party]


def run_all(channels, together, dialogue, **options):
    """Run a dialogue at every party in its own session; return results or errors."""

    def one(party):
        arguments = {name: value[party] if isinstance(value, dict) else value for name, value in options.items()}
        try:
            with Session(channels[party], job=JOB, **arguments) as session:
                return session.run(dialogue(party))
        except Exception as error:  # noqa: BLE001  # the tests look at whatever it is
            return error

    return dict(zip(channels, together(*(lambda party=party: one(party) for party in channels)), strict=True))


def test_a_session_gives_what_converse_gives(channels, together):
    parties = list(channels)
    expected = converse({party: sums(party, others(party, parties)) for party in parties})
    got = run_all(channels, together, lambda party: sums(party, others(party, parties)))
    for party in parties:
        (total, usage), (right, accounted) = got[party], expected[party]
        assert total == right
        assert (usage.bytes_sent, usage.bytes_received) == (accounted.bytes_sent, accounted.bytes_received)
        assert (usage.messages, usage.rounds) == (accounted.messages, accounted.rounds)


def test_observers_see_the_same_events(together):
    def watch(events):
        return lambda event: events.append((event.party, event.step, event.what, event.done))

    parties, expected, got = [ALICE, BOB], [], []
    converse({party: sums(party, others(party, parties)) for party in parties}, observe=watch(expected))
    run_all(MemoryNetwork(parties).channels(), together, lambda party: sums(party, others(party, parties)),
            observe=watch(got))  # fmt: skip
    assert sorted(got) == sorted(expected)


def test_arrays_arrive_aligned_and_without_a_copy(together):
    def sender():
        yield from send(BOB, Numbers(np.arange(5)))

    def receiver():
        got = yield from receive(ALICE, Numbers)
        return got.values

    channels = MemoryNetwork([ALICE, BOB]).channels()
    values = run_all(channels, together, lambda party: sender() if party == ALICE else receiver())[BOB]
    assert values.ctypes.data % 8 == 0
    assert not values.flags.owndata
    assert values.tolist() == [0, 1, 2, 3, 4]


# --- giving up


def test_a_failure_reaches_everybody_without_its_details(channels, together):
    parties = list(channels)
    got = run_all(
        channels, together, lambda party: sums(party, others(party, parties), fail_at=1 if party == ALICE else None)
    )
    assert isinstance(got[ALICE], DataError)
    assert "at party alice, step sums" in got[ALICE].__notes__
    for party in parties[1:]:
        assert isinstance(got[party], PeerFailed)
        assert " stopped in step sums: " in str(got[party])
        assert "1234" not in str(got[party]), "what stands in a table stays with its owner"
        assert f"at party {party}, step sums" in got[party].__notes__
    assert any(str(got[party]).startswith("alice stopped") for party in parties[1:])


def test_an_abort_of_any_peer_is_noticed_while_waiting_for_another(mesh, together):
    channels = mesh([ALICE, BOB, CAROL])

    def dialogue(party):
        if party == ALICE:
            yield from send(BOB, Numbers(np.arange(3)))
            raise LocalProtocolError("alice changed her mind")
        if party == BOB:
            yield from receive(CAROL, Numbers)
        if party == CAROL:
            yield from receive(BOB, Numbers)

    begin = time.monotonic()
    got = run_all(channels, together, dialogue)
    assert time.monotonic() - begin < 10
    assert isinstance(got[ALICE], LocalProtocolError)
    assert all(isinstance(got[party], PeerFailed) for party in (BOB, CAROL))
    assert any("alice changed her mind (LocalProtocolError)" in str(got[party]) for party in (BOB, CAROL))


def test_a_bug_is_reported_without_internals(together):
    def dialogue(party):
        if party == ALICE:
            raise KeyError("private_column")
        yield from receive(ALICE, Numbers)

    got = run_all(MemoryNetwork([ALICE, BOB]).channels(), together, dialogue)
    assert isinstance(got[ALICE], KeyError)
    assert str(got[BOB]) == ("alice stopped: an unexpected error; the details stay at that party (LocalProtocolError)")


def test_a_failure_outside_of_any_dialogue_is_told_too(together):
    channels = MemoryNetwork([ALICE, BOB]).channels()

    def alice():
        with pytest.raises(UsageError), Session(channels[ALICE], job=JOB):
            raise UsageError("no such table at /home/alice")

    def bob():
        with (
            pytest.raises(PeerFailed, match=r"alice stopped: .* the details stay at that party .UsageError"),
            Session(channels[BOB], job=JOB) as session,
        ):
            session.run(receive(ALICE, Numbers))

    together(alice, bob)


def test_peers_are_not_told_addresses_of_others(together):
    def dialogue(party):
        if party == ALICE:
            raise PeerUnreachable("carol was out of reach for 30 s: carol at 10.1.2.3:7001: connection refused")
        yield from receive(ALICE, Numbers)

    got = run_all(MemoryNetwork([ALICE, BOB]).channels(), together, dialogue)
    assert "carol was out of reach for 30 s: carol: connection refused" in str(got[BOB])
    assert "10.1.2.3" not in str(got[BOB])


def test_a_failed_session_is_of_no_use():
    session = Session(MemoryNetwork([ALICE, BOB]).channel(ALICE), job=JOB, silence=0.1)
    with pytest.raises(DeadlineExceeded):
        session.run(receive(BOB, Numbers))
    with pytest.raises(UsageError, match="resume the job"):
        session.run(receive(BOB, Numbers))
    session.close()


def test_cancelling_wakes_those_who_wait_and_tells_the_peers(channels, together):
    parties = list(channels)
    tokens = {party: threading.Event() for party in parties}
    threading.Timer(0.2, tokens[BOB].set).start()

    def dialogue(party):
        yield from receive(others(party, parties)[0], Numbers)

    begin = time.monotonic()
    got = run_all(channels, together, dialogue, cancel=tokens)
    assert time.monotonic() - begin < 10
    assert isinstance(got[BOB], Cancelled)
    assert all(isinstance(got[party], PeerFailed) for party in parties if party != BOB)


def test_cancelling_ends_a_dialogue_that_never_waits():
    token = threading.Event()

    def endless():
        for number in range(10**9):
            if number == 5:
                token.set()
            yield from progress(number, 10**9)

    session = Session(MemoryNetwork([ALICE, BOB]).channel(ALICE), job=JOB, cancel=token)
    with pytest.raises(Cancelled, match="alice: stopped on request"):
        session.run(endless())


def test_cancelling_wakes_a_blocked_sender(mesh, together, quick):
    channels = mesh([ALICE, BOB])
    token = threading.Event()

    def dialogue(party):
        if party == BOB:
            yield from receive(ALICE, Numbers)
            token.set()
            time.sleep(10 * POLL_SECONDS)
            while True:
                yield from receive(ALICE, Numbers)
        for _ in range(100):
            yield from send(BOB, Numbers(np.zeros(quick.limits.window_bytes // 8, np.int64)))

    got = run_all(channels, together, dialogue, cancel={ALICE: token, BOB: None})
    assert isinstance(got[ALICE], Cancelled)
    assert isinstance(got[BOB], PeerFailed)


def test_silence_has_a_deadline(together):
    def dialogue(party):
        yield Enter(STEP)
        yield from receive(others(party, [ALICE, BOB])[0], Numbers)

    begin = time.monotonic()
    got = run_all(MemoryNetwork([ALICE, BOB]).channels(), together, dialogue, silence={ALICE: 0.3, BOB: 60.0})
    assert 0.2 < time.monotonic() - begin < 5
    assert "bob is connected, and nothing has moved for 0.3 s" in str(got[ALICE])
    assert isinstance(got[ALICE], DeadlineExceeded)
    assert str(got[BOB]).startswith("alice stopped in step sums: bob is connected")


def test_a_peer_that_ends_early_is_named(together):
    def dialogue(party):
        if party == BOB:
            yield from receive(ALICE, Numbers)
        yield from ()

    got = run_all(MemoryNetwork([ALICE, BOB]).channels(), together, dialogue)
    assert isinstance(got[BOB], PeerUnreachable)
    assert "alice has closed its channel" in str(got[BOB])


def test_the_slower_side_receives_everything(mesh, together, quick):
    count, size = 6, quick.limits.inbox_bytes // 16

    def dialogue(party):
        total = 0
        for number in range(count):
            if party == ALICE:
                yield from send(BOB, Numbers(np.full(size, number)))
            else:
                time.sleep(0.1)
                got = yield from receive(ALICE, Numbers)
                total += int(got.values.sum())
        return total

    got = run_all(mesh([ALICE, BOB]), together, dialogue)
    assert got == {ALICE: 0, BOB: size * sum(range(count))}


# --- the place of a message


GOOD = {"job": JOB, "step": "", "sender": ALICE, "receiver": BOB, "sequence": 0}


@pytest.mark.parametrize(
    "wrong",
    [{"step": "other"}, {"sender": CAROL}, {"receiver": CAROL}, {"sequence": 0}, {"sequence": 2}],
)
def test_a_message_from_another_place_is_refused(wrong):
    channels = MemoryNetwork([ALICE, BOB]).channels()
    body = encode(Numbers(np.arange(3)))
    session = Session(channels[BOB], job=JOB, silence=1)
    channels[ALICE].send(BOB, [seal(Envelope(**GOOD)), *body])
    assert session.run(receive(ALICE, Numbers)).values.tolist() == [0, 1, 2]
    channels[ALICE].send(BOB, [seal(Envelope(**(GOOD | {"sequence": 1} | wrong))), *body])
    with pytest.raises(RemoteProtocolError, match="alice: a message came to the wrong place"):
        session.run(receive(ALICE, Numbers))


def test_another_job_is_named():
    channels = MemoryNetwork([ALICE, BOB]).channels()
    other = seal(Envelope(**(GOOD | {"job": "job-2"})))
    channels[ALICE].send(BOB, [other, *encode(Numbers(np.arange(3)))])
    with pytest.raises(RemoteProtocolError, match="alice runs job 'job-2', this party runs job-1: give both the same"):
        Session(channels[BOB], job=JOB, silence=1).run(receive(ALICE, Numbers))


def test_a_wrong_place_is_shown_short_and_escaped():
    channels = MemoryNetwork([ALICE, BOB]).channels()
    channels[ALICE].send(BOB, [seal(Envelope(**(GOOD | {"step": "\x1b[2J" * 500}))), *encode(Numbers(np.arange(3)))])
    with pytest.raises(RemoteProtocolError, match="wrong place") as refused:
        Session(channels[BOB], job=JOB, silence=1).run(receive(ALICE, Numbers))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 800


def test_an_abort_of_another_job_is_refused(together):
    channels = MemoryNetwork([ALICE, BOB]).channels()
    with pytest.raises(DeadlineExceeded):
        Session(channels[ALICE], job=JobId("job-0"), silence=0.05).run(receive(BOB, Numbers))
    with pytest.raises(RemoteProtocolError, match="alice stopped job 'job-0', this is job job-1"):
        Session(channels[BOB], job=JOB, silence=5).run(receive(ALICE, Numbers))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=120) | st.binary(max_size=40).map(lambda tail: seal(Envelope(**GOOD))[:-3] + tail))
def test_garbage_has_no_envelope(data):
    try:
        envelope, body = unseal(data, sender="alice")
    except RemoteProtocolError:
        return
    assert seal(envelope) + bytes(body) == data


def test_envelopes_leave_the_message_aligned():
    for length in range(1, 12):
        head = seal(Envelope("j" * length, "", ALICE, BOB, 0))
        assert len(head) % 8 == 0
        assert bytes(unseal(head + b"body", sender="alice")[1]) == b"body"


# --- resuming


def test_a_job_resumes_from_the_last_checkpoint_that_both_hold(mesh, together):
    parties = [ALICE, BOB]
    stores = {party: MemoryCheckpoints() for party in parties}
    expected = converse({party: sums(party, others(party, parties), rounds=4) for party in parties})

    broken = run_all(
        mesh(parties),
        together,
        lambda party: sums(party, others(party, parties), rounds=4, fail_at=2 if party == BOB else None),
        checkpoints=stores,
    )
    assert isinstance(broken[ALICE], PeerFailed)
    assert stores[BOB].held(STEP) == 2
    resumed = run_all(
        mesh(parties), together, lambda party: sums(party, others(party, parties), rounds=4), checkpoints=stores
    )
    for party in parties:
        assert resumed[party][0] == expected[party][0]
        assert resumed[party][1].bytes_sent < expected[party][1].bytes_sent
