"""Multi-party protocols as generators of effects, and ``converse``, which runs all parties in one thread.

A dialogue describes one party's part of a protocol. It never touches a socket, a clock or a file: it yields *effects*
and is sent their answers. Whoever drives it decides what they mean: ``converse`` here, for tests and simulation;
``transport.session`` over a channel, in production. The same generator runs under both.

==============  ==========================================  ======================================
effect          meaning                                     answer
==============  ==========================================  ======================================
``Send``        queue a message for a peer                  ``None``, at once: sends never wait
``Receive``     wait for the next message of a peer         the message, of exactly that type
``Checkpoint``  keep a state from which to go on            ``None``, once it is durable
``Held``        how many checkpoints does this step have?   ``int``
``Load``        go back to checkpoint k (1, 2, …); 0: to    its state; ``None`` for 0
                the beginning, without any checkpoint
``Progress``    tell people how far the step is             ``Usage`` of the step so far
``Enter``       what follows belongs to this step           ``None``
``Leave``       the step is over                            ``Usage``: its bytes, rounds, seconds
==============  ==========================================  ======================================

Messages between two parties arrive in the order in which they were sent, each exactly once.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unseen.codec import Shape, decode, encode_bytes, message, shown, wire_name
from unseen.errors import Cancelled, Deadlock, LocalProtocolError, RemoteProtocolError, UnseenError
from unseen.ids import PartyId, StepId

R = TypeVar("R")
M = TypeVar("M")

CHUNK_BYTES = 1 << 20
_SMALL_CHUNK_BYTES = 1 << 16
_MAX_SMALL_CHUNKS = 1 << 10


# --- effects -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Queue ``message`` for ``peer``."""

    peer: PartyId
    message: object


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for a message of type ``kind`` from ``peer``."""

    peer: PartyId
    kind: type


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Keep ``state`` (a message) durably; every party of the step does so at the same place of the protocol."""

    state: object


@dataclass(frozen=True, slots=True)
class Held:
    """Ask how many checkpoints this party holds for the current step."""


@dataclass(frozen=True, slots=True)
class Load:
    """Go back to checkpoint ``index``, counted from 1, or with 0 to the beginning; later ones are forgotten."""

    index: int
    kind: type


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell people that ``done`` of ``total`` is reached."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Enter:
    """Count what follows to ``step``."""

    step: StepId


@dataclass(frozen=True, slots=True)
class Leave:
    """End the current step; the answer is its ``Usage``."""

    note: str = ""


Effect: TypeAlias = Send | Receive | Checkpoint | Held | Load | Progress | Enter | Leave
Dialogue: TypeAlias = Generator[Effect, Any, R]


# --- what a dialogue writes --------------------------------------------------------------------------------------


def send(peer: PartyId, content: object) -> Dialogue[None]:
    """Queue a message for ``peer``."""
    yield Send(peer, content)


def send_all(peers: Iterable[PartyId], content: object) -> Dialogue[None]:
    """Queue the same message for each of ``peers``."""
    for peer in peers:
        yield Send(peer, content)


def receive(peer: PartyId, kind: type[M]) -> Dialogue[M]:
    """Return the next message of ``peer``.

    Raises:
        RemoteProtocolError: It is malformed, or not of type ``kind``.
    """
    answer: M = yield Receive(peer, kind)
    return answer


def receive_all(peers: Iterable[PartyId], kind: type[M]) -> Dialogue[dict[PartyId, M]]:
    """Return the next message of each of ``peers``, all of the same type."""
    answers: dict[PartyId, M] = {}
    for peer in peers:
        answers[peer] = yield Receive(peer, kind)
    return answers


def checkpoint(state: object) -> Dialogue[None]:
    """Keep ``state``, from which a restarted step can go on."""
    yield Checkpoint(state)


def progress(done: int, total: int, note: str = "") -> Dialogue[None]:
    """Tell people how far the step is."""
    yield Progress(done, total, note)


@message("dialogue/checkpoints-held")
class CheckpointsHeld:
    """How many checkpoints of the current step the sender holds."""

    count: int


def resume(kind: type[M], peers: Iterable[PartyId]) -> Dialogue[M | None]:
    """Return the newest state that every party still holds, or ``None`` for a fresh start.

    All parties of a step call this at the same place. Costs one message to and from each peer.
    """
    others = sorted(peers)
    held: int = yield Held()
    yield from send_all(others, CheckpointsHeld(held))
    answers = yield from receive_all(others, CheckpointsHeld)
    common = max(0, min([held, *(answer.count for answer in answers.values())]))
    if not held:
        return None
    # To 0, too: peers that begin anew will soon hold a first checkpoint, and this party may not have kept its own.
    state: M | None = yield Load(common, kind)
    return state


@message("dialogue/array-header")
class ArrayHeader:
    """Announces an array that follows in chunks of whole rows."""

    dtype: str
    shape: tuple[int, ...]
    rows_per_chunk: int


@message("dialogue/array-chunk")
class ArrayChunk:
    """The bytes of some rows of an announced array."""

    data: NDArray[np.uint8]


def send_array(peer: PartyId, array: NDArray[Any], *, chunk_bytes: int = CHUNK_BYTES) -> Dialogue[None]:
    """Send an array of any size in chunks of whole rows, each of about ``chunk_bytes``."""
    rows = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    row_bytes = max(1, rows[:1].nbytes)
    step = max(1, chunk_bytes // row_bytes)
    yield Send(peer, ArrayHeader(rows.dtype.str, tuple(rows.shape), step))
    for start in range(0, len(rows), step):
        yield Send(peer, ArrayChunk(rows[start : start + step].reshape(-1).view(np.uint8)))


def receive_array(
    peer: PartyId,
    dtype: DTypeLike,
    shape: Shape,
    *,
    most: int | None = None,
    each: Callable[[int, NDArray[Any]], None] | None = None,
) -> Dialogue[NDArray[Any]]:
    """Return an array sent by ``send_array``.

    ``shape`` must fix every axis after the first; where it leaves that one free, ``most`` bounds it. With ``each``,
    rows are handed over as ``each(first_row, rows)`` as soon as they arrive, and the array returned is empty: nothing
    is held.

    Raises:
        RemoteProtocolError: The array has another dtype or shape, too many rows, or its chunks do not add up.
    """
    header = yield from receive(peer, ArrayHeader)
    wanted = np.dtype(dtype).newbyteorder("<")
    if header.dtype != wanted.str or any(size < 0 for size in header.shape) or not shape.admits(header.shape):
        raise RemoteProtocolError(
            f"{peer}: expected an array of {wanted.str} {shape}, found {shown(header.dtype)} {shown(header.shape)}"
        )
    rows, row_shape = header.shape[0], header.shape[1:]
    if most is not None and rows > most:
        raise RemoteProtocolError(f"{peer}: expected an array of at most {most} rows, found {rows}")
    step = header.rows_per_chunk
    if step < 1:
        raise RemoteProtocolError(f"{peer}: an array comes in chunks of {step} rows")
    row_bytes = math.prod(row_shape) * wanted.itemsize
    # Every message costs some hundred bytes and 15 microseconds, however few it carries.
    if step * max(1, row_bytes) < _SMALL_CHUNK_BYTES and -(-rows // step) > _MAX_SMALL_CHUNKS:
        raise RemoteProtocolError(f"{peer}: an array of {rows} rows comes in chunks of {step} rows: too many messages")
    pieces = []
    for start in range(0, rows, step):
        piece = yield from receive(peer, ArrayChunk)
        count = min(step, rows - start)
        if piece.data.nbytes != count * row_bytes:
            raise RemoteProtocolError(f"{peer}: a chunk of {piece.data.nbytes} bytes does not hold {count} rows")
        values = piece.data.view(wanted).reshape(count, *row_shape)
        if each is None:
            pieces.append(values)
        else:
            each(start, values)
    return np.concatenate(pieces) if pieces else np.empty((0, *row_shape), wanted)


# --- accounting and checkpoints, the same under every driver -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What one step cost one party.

    A round is counted when the party has to wait for a message after having sent something since the last wait.
    Bytes are those of the messages, without the transport's own.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0
    rounds: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.messages + other.messages,
            self.rounds + other.rounds,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people who watch a job may want to see."""

    party: PartyId
    step: StepId | None
    what: str
    """``enter``, ``progress`` or ``leave``."""
    done: int = 0
    total: int = 0
    note: str = ""
    usage: Usage = field(default_factory=Usage)


Observer: TypeAlias = Callable[[Event], None]


class CheckpointStore(Protocol):
    """Where one party keeps the checkpoints of its steps; ``step`` is ``None`` outside of any."""

    def held(self, step: StepId | None) -> int:
        """Return how many checkpoints are held."""
        ...

    def save(self, step: StepId | None, index: int, state: bytes) -> None:
        """Keep checkpoint ``index`` durably and forget later ones."""
        ...

    def load(self, step: StepId | None, index: int) -> bytes:
        """Return checkpoint ``index``."""
        ...

    def clear(self, step: StepId | None) -> None:
        """Forget all checkpoints of a step."""
        ...


class MemoryCheckpoints:
    """Checkpoints in memory, for tests and simulation."""

    def __init__(self) -> None:
        self._states: dict[StepId | None, list[bytes]] = defaultdict(list)

    def held(self, step: StepId | None) -> int:
        """Return how many checkpoints are held."""
        return len(self._states[step])

    def save(self, step: StepId | None, index: int, state: bytes) -> None:
        """Keep checkpoint ``index`` and forget later ones."""
        self._states[step][index - 1 :] = [state]

    def load(self, step: StepId | None, index: int) -> bytes:
        """Return checkpoint ``index``."""
        return self._states[step][index - 1]

    def clear(self, step: StepId | None) -> None:
        """Forget all checkpoints of a step."""
        self._states[step].clear()


class Desk:
    """One party's side of a drive: answers every effect that needs no peer, and counts what the others cost."""

    def __init__(
        self,
        party: PartyId,
        *,
        checkpoints: CheckpointStore | None = None,
        observe: Observer | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.party = party
        self.step: StepId | None = None
        self._checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        self._observe = observe
        self._seconds = seconds
        self._index = 0
        self._restart()

    def _restart(self) -> None:
        self._usage = Usage()
        self._since = self._seconds()
        self._spoke = False

    def sent(self, size: int) -> None:
        """Count a message of ``size`` bytes that left."""
        self._spoke = True
        usage = self._usage
        self._usage = replace(usage, bytes_sent=usage.bytes_sent + size, messages=usage.messages + 1)

    def received(self, size: int) -> None:
        """Count a message of ``size`` bytes that came in."""
        usage = self._usage
        self._usage = replace(usage, bytes_received=usage.bytes_received + size, rounds=usage.rounds + self._spoke)
        self._spoke = False

    def usage(self) -> Usage:
        """Return what the current step has cost so far."""
        return replace(self._usage, seconds=self._seconds() - self._since)

    def answer(self, effect: object) -> Any:
        """Return the answer to any effect but ``Send`` and ``Receive``."""
        match effect:
            case Progress(done, total, note):
                self._tell("progress", done, total, note)
                return self.usage()
            case Checkpoint(state):
                self._index += 1
                self._checkpoints.save(self.step, self._index, encode_bytes(state))
            case Held():
                return self._checkpoints.held(self.step)
            case Load(0):
                self._index = 0
                self._checkpoints.clear(self.step)
            case Load(index, kind):
                self._index = index
                state = self._checkpoints.load(self.step, index)
                # Saving it again forgets the later ones, which belong to a run that the peers have left.
                self._checkpoints.save(self.step, index, state)
                return decode(kind, state, sender="checkpoint")
            case Enter(step):
                self.step, self._index = step, 0
                self._restart()
                self._tell("enter")
            case Leave(note):
                usage = self.usage()
                self._tell("leave", note=note)
                self.step, self._index = None, 0
                self._restart()
                return usage
            case _:
                raise LocalProtocolError(f"{self.party}: a dialogue yielded {effect!r}, which is no effect")
        return None

    def _tell(self, what: str, done: int = 0, total: int = 0, note: str = "") -> None:
        if self._observe is not None:
            self._observe(Event(self.party, self.step, what, done, total, note, self.usage()))


class CancelToken(Protocol):
    """Anything that can be asked whether to stop; ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Return whether the work is to stop."""
        ...


# --- all parties in one thread -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Speaker:
    """One party of a conversation: its dialogue, its desk, and what it waits for."""

    dialogue: Dialogue[Any]
    desk: Desk
    waits: Receive | None = None
    answer: Any = None
    over: bool = False
    result: Any = None


def converse(
    dialogues: Mapping[PartyId, Dialogue[R]],
    *,
    checkpoints: Mapping[PartyId, CheckpointStore] | None = None,
    observe: Observer | None = None,
    cancel: CancelToken | None = None,
) -> dict[PartyId, R]:
    """Run one dialogue per party to its end, in one thread and always in the same order; return their results.

    Every message is encoded and decoded, as it would be on a real link.

    Raises:
        Deadlock: Some parties wait, and nobody can go on; the message names who waits for what.
        LocalProtocolError: A message was sent that nobody read.
        Cancelled: ``cancel`` was set.
    """
    stores = checkpoints or {}
    speakers = {
        party: _Speaker(dialogue, Desk(party, checkpoints=stores.get(party), observe=observe))
        for party, dialogue in dialogues.items()
    }
    mail: dict[tuple[PartyId, PartyId], deque[bytes]] = defaultdict(deque)
    try:
        while not all(speaker.over for speaker in speakers.values()):
            moved = [_advance(speaker, mail, cancel) for speaker in speakers.values()]
            if not any(moved):
                raise Deadlock(_who_waits(speakers))
    finally:
        for speaker in speakers.values():
            speaker.dialogue.close()
    for (sender, receiver), frames in mail.items():
        if frames:
            raise LocalProtocolError(f"{receiver} ended without reading {len(frames)} message(s) of {sender}")
    return {party: speaker.result for party, speaker in speakers.items()}


def _advance(speaker: _Speaker, mail: dict[tuple[PartyId, PartyId], deque[bytes]], cancel: CancelToken | None) -> bool:
    """Let one party talk until it has to wait or is done; return whether it did anything."""
    moved = False
    while not speaker.over:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{speaker.desk.party}: stopped on request")
        if speaker.waits is not None:
            inbox = mail[speaker.waits.peer, speaker.desk.party]
            if not inbox:
                return moved
            frame = inbox.popleft()
            speaker.answer, speaker.waits = _open(speaker, speaker.waits, frame), None
        moved = True
        _talk(speaker, mail)
    return moved


def _talk(speaker: _Speaker, mail: dict[tuple[PartyId, PartyId], deque[bytes]]) -> None:
    """Give one answer to a dialogue and act on its next effect."""
    try:
        effect = speaker.dialogue.send(speaker.answer)
        speaker.answer = None
        match effect:
            case Send(peer, content):
                frame = encode_bytes(content)
                speaker.desk.sent(len(frame))
                mail[speaker.desk.party, peer].append(frame)
            case Receive():
                speaker.waits = effect
            case _:
                speaker.answer = speaker.desk.answer(effect)
    except StopIteration as end:
        speaker.over, speaker.result = True, end.value
    except UnseenError as error:
        error.add_note(_place(speaker.desk))
        raise


def _open(speaker: _Speaker, waits: Receive, frame: bytes) -> Any:
    speaker.desk.received(len(frame))
    try:
        return decode(waits.kind, frame, sender=waits.peer)
    except UnseenError as error:
        error.add_note(_place(speaker.desk))
        raise


def _place(desk: Desk) -> str:
    return f"at party {desk.party}" + (f", step {desk.step}" if desk.step else "")


def _who_waits(speakers: Mapping[PartyId, _Speaker]) -> str:
    waiting = [
        f"{party} waits for {wire_name(speaker.waits.kind)} from {speaker.waits.peer}"
        for party, speaker in speakers.items()
        if speaker.waits is not None
    ]
    return "nobody can go on: " + "; ".join(waiting)
