"""Dialogues under ``converse``: order, deadlock, leftovers, cancelling, arrays, accounting, checkpoints."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unseen.codec import Shape, encode_bytes, message
from unseen.dialogue import (
    ArrayChunk,
    ArrayHeader,
    Desk,
    Dialogue,
    Enter,
    Event,
    Leave,
    MemoryCheckpoints,
    Usage,
    checkpoint,
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
from unseen.errors import Cancelled, DataError, Deadlock, LocalProtocolError, RemoteProtocolError
from unseen.ids import PartyId, StepId

ANN, BEN, CAT = PartyId("ann"), PartyId("ben"), PartyId("cat")
STEP = StepId("count")


@message("test/dialogue-number")
class Number:
    value: int


@message("test/dialogue-word")
class Word:
    text: str


def say(peer: PartyId, *values: int) -> Dialogue[None]:
    for value in values:
        yield from send(peer, Number(value))


def hear(peer: PartyId, count: int) -> Dialogue[list[int]]:
    heard: list[int] = []
    while len(heard) < count:
        found = yield from receive(peer, Number)
        heard.append(found.value)
    return heard


# --- converse ----------------------------------------------------------------------------------------------------


def test_results_come_back_by_party_and_messages_in_order() -> None:
    assert converse({ANN: say(BEN, 1, 2, 3), BEN: hear(ANN, 3)}) == {ANN: None, BEN: [1, 2, 3]}


def test_who_speaks_first_does_not_matter() -> None:
    assert converse({BEN: hear(ANN, 2), ANN: say(BEN, 7, 8)}) == {BEN: [7, 8], ANN: None}


def test_a_party_without_peers_runs_through() -> None:
    def alone() -> Dialogue[int]:
        yield from progress(1, 1)
        return 5

    assert converse({ANN: alone()}) == {ANN: 5}
    assert converse({}) == {}


def test_every_message_is_coded_as_on_a_link() -> None:
    def speaker() -> Dialogue[None]:
        yield from send(BEN, Number("five"))  # type: ignore[arg-type]  # that it is refused is the point

    with pytest.raises(LocalProtocolError, match=r"Number.value: expected int, found str"):
        converse({ANN: speaker(), BEN: hear(ANN, 1)})


def test_three_parties_exchange_with_all() -> None:
    def party(me: int, peers: list[PartyId]) -> Dialogue[dict[PartyId, int]]:
        yield from send_all(peers, Number(me))
        answers = yield from receive_all(peers, Number)
        return {peer: answer.value for peer, answer in answers.items()}

    found = converse({ANN: party(1, [BEN, CAT]), BEN: party(2, [ANN, CAT]), CAT: party(3, [ANN, BEN])})
    assert found == {ANN: {BEN: 2, CAT: 3}, BEN: {ANN: 1, CAT: 3}, CAT: {ANN: 1, BEN: 2}}


def test_two_runs_go_the_same_way() -> None:
    def trace() -> list[tuple[PartyId, int]]:
        seen: list[tuple[PartyId, int]] = []

        def talk(me: PartyId, peer: PartyId) -> Dialogue[None]:
            for turn in range(5):
                yield from send(peer, Number(turn))
                seen.append((me, (yield from receive(peer, Number)).value))

        converse({ANN: talk(ANN, BEN), BEN: talk(BEN, ANN)})
        return seen

    assert trace() == trace()


def test_a_deadlock_names_who_waits_for_what() -> None:
    def word(peer: PartyId) -> Dialogue[Word]:
        return (yield from receive(peer, Word))

    expected = "ann waits for test/dialogue-number from ben; ben waits for test/dialogue-word from cat"
    with pytest.raises(Deadlock, match=f"nobody can go on: {expected}$"):
        converse({ANN: hear(BEN, 1), BEN: word(CAT), CAT: say(ANN)})


def test_messages_that_nobody_reads_are_an_error() -> None:
    with pytest.raises(LocalProtocolError, match=r"ben ended without reading 2 message\(s\) of ann"):
        converse({ANN: say(BEN, 1, 2, 3), BEN: hear(ANN, 1)})


def test_another_message_than_expected_names_both_and_the_place() -> None:
    def speaker() -> Dialogue[None]:
        yield from send(BEN, Word("x"))

    expected = "ann: expected message test/dialogue-number version 1, found test/dialogue-word version 1"
    with pytest.raises(RemoteProtocolError, match=f"^{expected}") as caught:
        converse({ANN: speaker(), BEN: in_step(hear(ANN, 1))})
    assert caught.value.__notes__ == ["at party ben, step count"]


def in_step(dialogue: Dialogue[Any]) -> Dialogue[tuple[Any, Usage]]:
    yield Enter(STEP)
    result = yield from dialogue
    return result, (yield Leave())


def failing(error: Exception) -> Dialogue[None]:
    yield from progress(0, 1)
    raise error


def test_our_errors_say_at_which_party_and_step_they_arose() -> None:
    with pytest.raises(DataError, match="no such column") as caught:
        converse({ANN: in_step(failing(DataError("no such column"))), BEN: say(ANN)})
    assert caught.value.__notes__ == ["at party ann, step count"]
    with pytest.raises(DataError) as caught:
        converse({BEN: failing(DataError("x"))})
    assert caught.value.__notes__ == ["at party ben"]


def test_foreign_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        converse({ANN: failing(ZeroDivisionError())})
    assert not hasattr(caught.value, "__notes__")


def test_all_dialogues_are_closed_when_one_fails() -> None:
    closed: list[PartyId] = []

    def waiting() -> Dialogue[None]:
        try:
            yield from receive(BEN, Number)
        finally:
            closed.append(ANN)

    with pytest.raises(DataError):
        converse({ANN: waiting(), BEN: failing(DataError("x"))})
    assert closed == [ANN]


def test_a_yield_that_is_no_effect_is_our_mistake() -> None:
    def odd() -> Iterator[Any]:
        yield "hello"

    with pytest.raises(LocalProtocolError, match="ann: a dialogue yielded 'hello', which is no effect"):
        converse({ANN: odd()})  # type: ignore[dict-item]  # that it is refused is the point


class After:
    """Says stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_cancelling_stops_between_two_effects() -> None:
    done: list[int] = []

    def long() -> Dialogue[None]:
        for step in range(1000):
            done.append(step)
            yield from progress(step, 1000)

    with pytest.raises(Cancelled, match="ann: stopped on request"):
        converse({ANN: long()}, cancel=After(10))
    assert done == list(range(10))


# --- arrays in chunks --------------------------------------------------------------------------------------------


def transfer(
    array: NDArray[Any], shape: Shape, *, chunk_bytes: int = 1 << 20, dtype: Any = None, each: Any = None
) -> NDArray[Any]:
    sender = send_array(BEN, array, chunk_bytes=chunk_bytes)
    receiver = receive_array(ANN, array.dtype if dtype is None else dtype, shape, each=each)
    found: NDArray[Any] = converse({ANN: sender, BEN: receiver})[BEN]  # type: ignore[type-var]  # two kinds of result
    return found


@given(
    st.sampled_from(["u1", "<i8", ">i8", "<f4", "?", "<u8"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(1, 100),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_arrays_of_any_shape_arrive(dtype: str, sizes: list[int], chunk_bytes: int) -> None:
    array = (np.arange(np.prod(sizes)) % 2).astype(dtype).reshape(sizes)
    found = transfer(array, Shape(None, *sizes[1:]), chunk_bytes=chunk_bytes)
    assert found.dtype == array.dtype.newbyteorder("<")
    assert found.shape == array.shape
    assert np.array_equal(found, array)


def test_large_arrays_travel_in_chunks_of_whole_rows() -> None:
    array = np.arange(30.0).reshape(10, 3)
    sent = [effect.message for effect in send_array(BEN, array, chunk_bytes=100)]
    assert [type(part) for part in sent] == [ArrayHeader, ArrayChunk, ArrayChunk, ArrayChunk]
    assert (sent[0].dtype, sent[0].shape, sent[0].rows_per_chunk) == ("<f8", (10, 3), 4)
    assert [chunk.data.nbytes for chunk in sent[1:]] == [96, 96, 48]


def test_a_row_larger_than_a_chunk_travels_whole() -> None:
    array = np.arange(40).reshape(2, 20)
    assert np.array_equal(transfer(array, Shape(2, 20), chunk_bytes=8), array)


def test_columns_and_strided_views_arrive() -> None:
    table = np.arange(24).reshape(4, 6)
    assert np.array_equal(transfer(table.T, Shape(None, 4)), table.T)
    assert np.array_equal(transfer(table[::2, 1], Shape(None)), table[::2, 1])


def test_rows_can_be_handed_over_as_they_arrive() -> None:
    array, seen = np.arange(20).reshape(10, 2), []
    left = transfer(array, Shape(None, 2), chunk_bytes=48, each=lambda start, rows: seen.append((start, rows.copy())))
    assert left.shape == (0, 2)
    assert [start for start, _ in seen] == [0, 3, 6, 9]
    assert np.array_equal(np.concatenate([rows for _, rows in seen]), array)


@pytest.mark.parametrize(
    ("dtype", "shape", "complaint"),
    [
        (np.float64, Shape(None, 2), r"ann: expected an array of <f8 \(\*, 2\), found <i8 \(10, 2\)"),
        (np.int64, Shape(None, 3), r"ann: expected an array of <i8 \(\*, 3\), found <i8 \(10, 2\)"),
        (np.int64, Shape(9, 2), r"ann: expected an array of <i8 \(9, 2\)"),
        (np.int64, Shape(20), r"ann: expected an array of <i8 \(20\)"),
    ],
)
def test_another_array_than_expected_is_refused(dtype: Any, shape: Shape, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        transfer(np.arange(20).reshape(10, 2), shape, dtype=dtype)


def deliver(*messages: object) -> None:
    """Let ben expect an array of shape (*, 2) and get ``messages`` instead."""

    def speaker() -> Dialogue[None]:
        for content in messages:
            yield from send(BEN, content)

    converse({ANN: speaker(), BEN: receive_array(ANN, np.int64, Shape(None, 2))})  # type: ignore[dict-item]  # as above


def chunk(size: int) -> ArrayChunk:
    return ArrayChunk(np.zeros(size, np.uint8))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([ArrayHeader("<i8", (-1, 2), 1)], "ann: expected an array"),
        ([ArrayHeader("<i8", (), 1)], "ann: expected an array"),
        ([ArrayHeader("|O", (1, 2), 1)], "ann: expected an array"),
        ([ArrayHeader("<i8", (1, 2), 0)], "ann: an array comes in chunks of 0 rows"),
        ([ArrayHeader("<i8", (1, 2), -1)], "ann: an array comes in chunks of -1 rows"),
        ([ArrayHeader("<i8", (2, 2), 2), chunk(31)], "ann: a chunk of 31 bytes does not hold 2 rows"),
        ([ArrayHeader("<i8", (2, 2), 2), chunk(33)], "ann: a chunk of 33 bytes does not hold 2 rows"),
        ([ArrayHeader("<i8", (3, 2), 2), chunk(32), chunk(32)], "ann: a chunk of 32 bytes does not hold 1 rows"),
        ([ArrayHeader("<i8", (2, 2), 2), Number(1)], "ann: expected message dialogue/array-chunk"),
        ([chunk(32)], "ann: expected message dialogue/array-header"),
    ],
)
def test_malformed_arrays_are_refused(messages: list[object], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        deliver(*messages)


def test_an_announced_array_takes_no_memory_before_it_comes() -> None:
    with pytest.raises(Deadlock):
        deliver(ArrayHeader("<i8", (1 << 62, 2), 1 << 62))


@pytest.mark.parametrize(
    "header", [ArrayHeader("\x1b[2J" * 10**5, (1, 2), 1), ArrayHeader("<i8", (1 << 40,) * 10**5, 1)]
)
def test_a_refused_header_is_shown_short_and_escaped(header: ArrayHeader) -> None:
    with pytest.raises(RemoteProtocolError, match="ann: expected an array") as refused:
        deliver(header)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


def test_an_array_does_not_come_row_by_row() -> None:
    with pytest.raises(RemoteProtocolError, match="1099511627776 rows comes in chunks of 1 rows: too many messages"):
        deliver(ArrayHeader("<i8", (1 << 40, 2), 1))
    deliver(ArrayHeader("<i8", (1024, 2), 1), *(chunk(16) for _ in range(1024)))


# --- accounting --------------------------------------------------------------------------------------------------


def usages(dialogues: dict[PartyId, Dialogue[Any]]) -> dict[PartyId, Usage]:
    return {party: usage for party, (_, usage) in converse({p: in_step(d) for p, d in dialogues.items()}).items()}


def test_bytes_are_those_of_the_frames() -> None:
    size = len(encode_bytes(Number(0)))
    found = usages({ANN: say(BEN, 1, 2, 3), BEN: hear(ANN, 3)})
    assert (found[ANN].bytes_sent, found[ANN].bytes_received, found[ANN].messages) == (3 * size, 0, 3)
    assert (found[BEN].bytes_sent, found[BEN].bytes_received, found[BEN].messages) == (0, 3 * size, 0)


def test_a_round_is_a_wait_after_having_spoken() -> None:
    def asker() -> Dialogue[None]:
        for _ in range(4):
            yield from say(BEN, 1, 2)
            yield from hear(BEN, 3)

    def answerer() -> Dialogue[None]:
        for _ in range(4):
            yield from hear(ANN, 2)
            yield from say(ANN, 1, 2, 3)

    found = usages({ANN: asker(), BEN: answerer()})
    assert found[ANN].rounds == 4
    assert found[BEN].rounds == 3


def test_every_step_is_counted_for_itself() -> None:
    def party(peer: PartyId) -> Dialogue[list[Usage]]:
        found = []
        for name, count in (("one", 1), ("two", 5)):
            yield Enter(StepId(name))
            yield from say(peer, *range(count))
            yield from hear(peer, count)
            found.append((yield Leave()))
        return found

    one, two = converse({ANN: party(BEN), BEN: party(ANN)})[ANN]
    assert (one.messages, two.messages) == (1, 5)
    assert two.bytes_sent == 5 * one.bytes_sent
    assert (one.rounds, two.rounds) == (1, 1)


def test_seconds_are_those_of_the_clock_that_was_given() -> None:
    ticks = iter([10.0, 100.0, 107.5])
    desk = Desk(ANN, seconds=lambda: next(ticks))
    desk.answer(Enter(STEP))
    assert desk.usage().seconds == 7.5


def test_usages_add_up() -> None:
    assert Usage(1, 2, 3, 4, 5.0) + Usage(10, 20, 30, 40, 50.0) == Usage(11, 22, 33, 44, 55.0)


def test_observers_hear_of_steps_and_progress() -> None:
    def work() -> Dialogue[None]:
        yield from progress(1, 2, "half")

    events: list[Event] = []
    converse({ANN: in_step(work())}, observe=events.append)
    told = [(event.party, event.step, event.what, event.done, event.total, event.note) for event in events]
    assert told == [
        (ANN, STEP, "enter", 0, 0, ""),
        (ANN, STEP, "progress", 1, 2, "half"),
        (ANN, STEP, "leave", 0, 0, ""),
    ]


# --- checkpoints -------------------------------------------------------------------------------------------------


class Crash(Exception):
    """What a lost machine does to a dialogue."""


def counting(peer: PartyId, *, crash_after: int | None = None, base: int = 0, until: int = 5) -> Dialogue[list[int]]:
    """Exchange numbers in ``until`` rounds, each with a checkpoint; return the states that were gone through."""
    yield Enter(STEP)
    state = yield from resume(Number, [peer])
    seen = [] if state is None else [state.value]
    for turn in range(0 if state is None else state.value % 100 + 1, until):
        yield from send(peer, Number(turn))
        yield from receive(peer, Number)
        yield from checkpoint(Number(base + turn))
        seen.append(base + turn)
        if turn == crash_after:
            raise Crash
    yield Leave()
    return seen


def stores() -> dict[PartyId, MemoryCheckpoints]:
    return {ANN: MemoryCheckpoints(), BEN: MemoryCheckpoints()}


def save(store: MemoryCheckpoints, *values: int) -> None:
    for index, value in enumerate(values, start=1):
        store.save(STEP, index, encode_bytes(Number(value)))


def test_without_checkpoints_a_step_begins_at_the_beginning() -> None:
    held = stores()
    found = converse({ANN: counting(BEN), BEN: counting(ANN)}, checkpoints=held)
    assert found == {ANN: [0, 1, 2, 3, 4], BEN: [0, 1, 2, 3, 4]}
    assert held[ANN].held(STEP) == held[BEN].held(STEP) == 5


def test_a_crashed_step_goes_on_where_both_can() -> None:
    held = stores()
    with pytest.raises(Crash):
        converse({ANN: counting(BEN), BEN: counting(ANN, crash_after=2)}, checkpoints=held)
    assert held[BEN].held(STEP) == 3
    found = converse({ANN: counting(BEN), BEN: counting(ANN)}, checkpoints=held)
    assert found[BEN] == [2, 3, 4]
    assert held[ANN].held(STEP) == held[BEN].held(STEP) == 5


@pytest.mark.parametrize(("anns", "bens"), [(1, 3), (3, 1), (4, 4), (2, 5)])
def test_parties_with_different_numbers_of_checkpoints_meet_at_the_last_common_one(anns: int, bens: int) -> None:
    held = stores()
    save(held[ANN], *range(anns))
    save(held[BEN], *range(100, 100 + bens))
    found = converse({ANN: counting(BEN), BEN: counting(ANN, base=100)}, checkpoints=held)
    common = min(anns, bens) - 1
    assert found == {ANN: list(range(common, 5)), BEN: list(range(100 + common, 105))}


def test_a_party_that_lost_all_checkpoints_makes_all_begin_anew() -> None:
    held = stores()
    save(held[ANN], 0, 1, 2)
    found = converse({ANN: counting(BEN), BEN: counting(ANN)}, checkpoints=held)
    assert found == {ANN: [0, 1, 2, 3, 4], BEN: [0, 1, 2, 3, 4]}
    assert held[ANN].held(STEP) == held[BEN].held(STEP) == 5


def test_going_back_forgets_the_later_checkpoints_at_once() -> None:
    """A second crash must not bring up a state of the run that was given up."""
    held = stores()
    save(held[ANN], 0, 1, 2, 3)
    save(held[BEN], 0)
    with pytest.raises(Deadlock):
        converse({ANN: counting(BEN), BEN: only_resume(ANN)}, checkpoints=held)
    assert held[ANN].held(STEP) == 1


def test_beginning_anew_forgets_all_checkpoints_at_once() -> None:
    """A peer that has none will soon hold a first one, which may not be kept here any more."""
    held = stores()
    save(held[ANN], 0, 1, 2, 3)
    with pytest.raises(Deadlock):
        converse({ANN: counting(BEN), BEN: only_resume(ANN)}, checkpoints=held)
    assert held[ANN].held(STEP) == 0


def only_resume(peer: PartyId) -> Dialogue[list[int]]:
    yield Enter(STEP)
    yield from resume(Number, [peer])
    yield from receive(peer, Number)
    yield from receive(peer, Number)
    return []


def test_checkpoints_belong_to_their_step() -> None:
    store = MemoryCheckpoints()
    save(store, 1, 2)
    assert store.held(STEP) == 2
    assert store.held(StepId("other")) == store.held(None) == 0


def test_saving_an_earlier_checkpoint_forgets_later_ones() -> None:
    store = MemoryCheckpoints()
    save(store, 1, 2, 3)
    store.save(STEP, 2, b"again")
    assert store.held(STEP) == 2
    assert store.load(STEP, 2) == b"again"


def test_three_parties_agree_on_a_checkpoint() -> None:
    def party(peers: list[PartyId]) -> Dialogue[int | None]:
        yield Enter(STEP)
        state = yield from resume(Number, peers)
        yield Leave()
        return None if state is None else state.value

    held = {**stores(), CAT: MemoryCheckpoints()}
    for store, count in zip(held.values(), (3, 2, 4), strict=True):
        save(store, *range(count))
    parties = {ANN: [CAT, BEN], BEN: [ANN, CAT], CAT: [ANN, BEN]}
    assert converse({me: party(peers) for me, peers in parties.items()}, checkpoints=held) == dict.fromkeys(parties, 1)


def test_a_checkpoint_of_another_kind_is_refused() -> None:
    held = stores()
    for store in held.values():
        store.save(STEP, 1, encode_bytes(Word("old version")))
    with pytest.raises(RemoteProtocolError, match="checkpoint: expected message test/dialogue-number"):
        converse({ANN: counting(BEN), BEN: counting(ANN)}, checkpoints=held)
