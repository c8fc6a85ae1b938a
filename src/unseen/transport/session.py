"""Runs dialogues over a channel: what ``converse`` does for all parties in one thread, for one in its own process.

Every message is preceded by an envelope that binds it to its place: job, step, sender, receiver, and its number between
the two. A message that belongs anywhere else is refused. Envelope and message share one buffer of the channel, the
message at an offset divisible by eight, so that its arrays are not copied.

A party that stops tells its peers why, by a notice that overtakes messages which nobody has read: whoever waits for
*any* peer raises ``PeerFailed``.
"""

from __future__ import annotations

import re
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from unseen.codec import ALIGNMENT, Buffer, decode, encode, encode_bytes, message, shown
from unseen.dialogue import CancelToken, CheckpointStore, Desk, Dialogue, Observer, Receive, Send
from unseen.errors import (
    Cancelled,
    DataError,
    DeadlineExceeded,
    LocalProtocolError,
    PeerFailed,
    RemoteProtocolError,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import JobId, PartyId
from unseen.transport.channel import Channel

R = TypeVar("R")

SILENCE_SECONDS = 600.0
REASON_CHARACTERS = 500
_WAIT_SECONDS = 0.2
_MAX_ENVELOPE_BYTES = 4096
# Where a third party's node stands in the network is not for every peer to know.
_ADDRESS = re.compile(r" at \S+:\d+\b")


@message("transport/envelope")
class Envelope:
    """The place of a message; ``step`` is empty outside of any."""

    job: str
    step: str
    sender: str
    receiver: str
    sequence: int


@message("transport/abort")
class Abort:
    """Tells a peer that the sender has stopped, and why; ``blame`` is the kind of error."""

    job: str
    step: str
    blame: str
    reason: str


def seal(envelope: Envelope) -> bytes:
    """Return what precedes a message in the channel: length and bytes of its envelope, padded to eight."""
    inside = encode_bytes(envelope)
    head = struct.pack("<Q", len(inside)) + inside
    return head + bytes(-len(head) % ALIGNMENT)


def unseal(whole: Buffer, *, sender: str) -> tuple[Envelope, memoryview]:
    """Return envelope and message.

    Raises:
        RemoteProtocolError: They cannot be told apart.
    """
    view = memoryview(whole)
    length = struct.unpack_from("<Q", view)[0] if len(view) >= 8 else _MAX_ENVELOPE_BYTES + 1
    end = 8 + length
    begin = end + -end % ALIGNMENT
    if length > _MAX_ENVELOPE_BYTES or begin > len(view) or any(view[end:begin]):
        raise RemoteProtocolError(f"{sender}: a message of {len(view)} bytes does not begin with an envelope")
    return decode(Envelope, view[8:end], sender=sender), view[begin:]


class Session:
    """Drives the dialogues of one job over a channel, which it closes at its end.

    Args:
        channel: Leads to every peer that the dialogues name.
        job: Binds all messages; the same at every party.
        checkpoints: Where this party keeps checkpoints; in memory if omitted.
        observe: Is told about progress.
        cancel: Looked at between effects and while waiting.
        silence: Seconds for which a peer may be connected and nothing move, before the job fails.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        job: JobId,
        checkpoints: CheckpointStore | None = None,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.party = channel.party
        self._channel = channel
        self._job = job
        self._checkpoints = checkpoints
        self._observe = observe
        self._cancel = cancel
        self._silence = silence
        self._sent: Counter[PartyId] = Counter()
        self._received: Counter[PartyId] = Counter()
        self._failed = False

    def run(self, dialogue: Dialogue[R]) -> R:
        """Run this party's dialogue to its end and return its result.

        If it fails, every peer is told, and the error carries a note with party and step. Afterwards the session is
        of no use.

        Raises:
            PeerFailed: A peer stopped; the message says where and why.
            DeadlineExceeded: A peer is connected, and nothing has moved for ``silence`` seconds.
            PeerUnreachable: A peer was out of reach for longer than the channel allows.
            RemoteProtocolError: A peer sent something that does not belong here.
            Cancelled: The token was set.
        """
        if self._failed:
            raise UsageError(f"{self.party}: this session has failed; resume the job in a new one")
        desk = Desk(self.party, checkpoints=self._checkpoints, observe=self._observe)
        with _Farewell(self, desk), closing(dialogue):
            return self._drive(dialogue, desk)

    def close(self) -> None:
        """Wait until the peers have taken in what was sent, then close the channel.

        Raises:
            DeadlineExceeded: They did not within ``silence`` seconds.
            PeerUnreachable: One of them stayed away for longer than the channel allows.
        """
        try:
            if not self._failed:
                self._channel.flush(self._silence)
        finally:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        if not self._failed:
            self.tell_peers("", error)
        self._channel.close()

    def tell_peers(self, step: str, error: BaseException) -> None:
        """Tell every peer that this party has stopped, and as much of the reason as they may know."""
        self._failed = True
        notice = encode_bytes(Abort(self._job, step, _blame(error), _reason(error)))
        for peer in sorted(self._channel.peers):
            # Whoever cannot be told will find out by itself; the first error is the one to report.
            with suppress(UnseenError):
                self._channel.notify(peer, notice)

    # --- driving

    def _drive(self, dialogue: Dialogue[R], desk: Desk) -> R:
        answer: Any = None
        while True:
            self._look_around()
            try:
                effect = dialogue.send(answer)
            except StopIteration as end:
                result: R = end.value
                return result
            match effect:
                case Send(peer, content):
                    self._send(desk, peer, content)
                    answer = None
                case Receive(peer, kind):
                    answer = self._receive(desk, peer, kind)
                case _:
                    answer = desk.answer(effect)

    def _send(self, desk: Desk, peer: PartyId, content: object) -> None:
        frame = encode(content)
        desk.sent(sum(len(part) for part in frame))
        place = Envelope(self._job, desk.step or "", self.party, peer, self._sent[peer])
        self._sent[peer] += 1
        try:
            self._channel.send(peer, [seal(place), *frame], waiting=self._patience(peer))
        except TransportError:
            # A peer that stopped may be gone already; what it said last is the better reason.
            self._look_around()
            raise

    def _receive(self, desk: Desk, peer: PartyId, kind: type[Any]) -> Any:
        envelope, body = unseal(self._wait_for(peer), sender=peer)
        expected = (self._job, desk.step or "", peer, self.party, self._received[peer])
        found = (envelope.job, envelope.step, envelope.sender, envelope.receiver, envelope.sequence)
        if envelope.job != self._job:
            raise RemoteProtocolError(
                f"{peer} runs job '{shown(envelope.job)}', this party runs {self._job}: give both the same name"
            )
        if found != expected:
            raise RemoteProtocolError(
                f"{peer}: a message came to the wrong place: expected (job, step, from, to, number) {expected}, "
                f"found {shown(found, limit=400)}; do both parties run the same flow?"
            )
        self._received[peer] += 1
        desk.received(len(body))
        return decode(kind, body, sender=peer)

    def _wait_for(self, peer: PartyId) -> Buffer:
        patience = self._patience(peer)
        while True:
            try:
                return self._channel.receive(peer, min(_WAIT_SECONDS, self._silence))
            except DeadlineExceeded:
                patience()
            except TransportError:
                self._look_around()
                raise

    def _patience(self, peer: PartyId) -> Callable[[], None]:
        """Return a check, to be made while waiting for ``peer``, that raises once waiting is pointless."""
        moved, since = self._channel.traffic(peer), time.monotonic()

        def check() -> None:
            nonlocal moved, since
            self._look_around()
            now, traffic = time.monotonic(), self._channel.traffic(peer)
            if traffic != moved:
                moved, since = traffic, now
            elif now - since >= self._silence:
                raise DeadlineExceeded(f"{peer} is connected, and nothing has moved for {self._silence:g} s")

        return check

    def _look_around(self) -> None:
        """Raise if somebody wants this party to stop."""
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"{self.party}: stopped on request")
        for peer, notice in self._channel.notices():
            self._stop_with(peer, notice)

    def _stop_with(self, peer: PartyId, notice: bytes) -> NoReturn:
        abort = decode(Abort, notice, sender=peer)
        if abort.job != self._job:
            raise RemoteProtocolError(f"{peer} stopped job '{shown(abort.job)}', this is job {self._job}")
        where = f" in step {_printable(abort.step)}" if abort.step else ""
        raise PeerFailed(f"{peer} stopped{where}: {_printable(abort.reason)} ({_printable(abort.blame)})")


class _Farewell:
    """Tells the peers when a dialogue fails, and notes the place in the error."""

    def __init__(self, session: Session, desk: Desk) -> None:
        self._session = session
        self._desk = desk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        step = self._desk.step or ""
        if isinstance(error, UnseenError):
            error.add_note(f"at party {self._desk.party}" + (f", step {step}" if step else ""))
        self._session.tell_peers(step, error)


def _blame(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, UnseenError) else LocalProtocolError.__name__


def _reason(error: BaseException) -> str:
    """Return what a peer may read about an error: nothing of our data, nothing of our program."""
    if isinstance(error, DataError):
        return "its data do not fit; the details stay at that party"
    if isinstance(error, UsageError):
        return "what it was asked to do cannot be done there; the details stay at that party"
    if isinstance(error, TransportError):
        return _ADDRESS.sub("", str(error))[:REASON_CHARACTERS]
    if isinstance(error, UnseenError):
        return str(error)[:REASON_CHARACTERS]
    return "an unexpected error; the details stay at that party"


def _printable(text: str) -> str:
    return "".join(char for char in text[:REASON_CHARACTERS] if char.isprintable())
