"""A link shared by threads: blocking calls for the party above, a stream's packets in and out for the driver below.

Whoever has a connection *attaches* it, writes what ``outgoing`` yields to it, hands what comes from it to ``take``, and
*detaches* it when it ends. A newer stream takes the place of an older one. Nothing here knows what a stream is made of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from unseen.codec import Buffer
from unseen.errors import (
    DeadlineExceeded,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.transport.channel import POLL_SECONDS, Waiting
from unseen.transport.link import Kind, Limits, Link, Packet, Why, read_refusal, refusal, unpack

# An answer usually follows soon, and need not wait for an acknowledgement to be written before it.
_ACK_DELAY = 0.005
# A network that was cut is back sooner; a process that ended in haste is not.
_FAREWELL = 2.0

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Stream:
    """One connection of a line; ``end`` makes the connection's reader return."""

    end: Callable[[], None]
    last_words: bytes | None = None
    """A refusal to write before the stream ends."""
    over: bool = False
    drained: threading.Event = field(default_factory=threading.Event)
    """Set once nothing more will be written to it."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once the connection is gone."""


class Line:
    """One party's line to one peer.

    Args:
        grace: Seconds for which the line may be down before callers are told.
    """

    def __init__(self, party: PartyId, peer: PartyId, *, epoch: bytes, limits: Limits, grace: float) -> None:
        self.peer = peer
        self._party = party
        self._grace = grace
        self._link = Link(party, peer, epoch=epoch, limits=limits)
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._stream: Stream | None = None
        self._down_since: float | None = time.monotonic()
        self._cause = "it has not connected yet"
        self._failure: tuple[type[UnseenError], str] | None = None
        self._closed = False
        self._owes_nothing = False
        self._last_words: bytes | None = None

    # --- for the party

    @contextmanager
    def turn(self, waiting: Waiting) -> Iterator[None]:
        """Keep other threads from sending while one message is queued."""
        while not self._turn.acquire(timeout=POLL_SECONDS):
            waiting()
        try:
            yield
        finally:
            self._turn.release()

    def has_room(self) -> bool:
        """Return whether a piece can be queued without blocking."""
        with self._changed:
            self._check_sendable()
            return self._link.has_room()

    def wait_for_room(self, waiting: Waiting) -> None:
        """Return when a piece can be queued."""
        while not self.has_room():
            waiting()
            with self._changed:
                if not self._link.has_room():
                    self._changed.wait(POLL_SECONDS)

    def queue_piece(self, total: int, offset: int, piece: Sequence[Buffer]) -> None:
        """Queue a piece of a message of ``total`` bytes."""
        with self._changed:
            self._check_sendable()
            self._link.queue_piece(total, offset, piece)
            self._changed.notify_all()

    def notify(self, notice: bytes) -> None:
        """Queue a notice."""
        with self._changed:
            self._check_sendable()
            self._link.queue_notice(notice)
            self._changed.notify_all()

    def receive(self, timeout: float) -> memoryview:
        """Return the next message."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (whole := self._link.pop()) is None:
                self._check_receivable()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(f"{self.peer} sent nothing for {timeout:g} s")
                self._changed.wait(min(left, 2 * POLL_SECONDS))
            # An acknowledgement may have been withheld until now.
            self._changed.notify_all()
            return whole

    def pop_notice(self) -> bytes | None:
        """Return the next notice, or ``None``."""
        with self._changed:
            return self._link.pop_notice()

    @property
    def traffic(self) -> int:
        """Bytes that came in or were acknowledged."""
        return self._link.traffic

    @property
    def peer_left(self) -> bool:
        """Whether the peer said goodbye."""
        return self._link.peer_left

    def accept(self, everything: bool) -> None:
        """Take in all that comes (or stop doing so), however full the inbox is."""
        with self._changed:
            self._link.accepting = everything
            self._changed.notify_all()

    def settle(self, deadline: float) -> bool:
        """Return whether by ``deadline`` (monotonic) the peer has taken in everything, or has left.

        Raises:
            PeerUnreachable: It stayed away for longer than the grace.
        """
        with self._changed:
            while not (self._link.settled or self._nobody_listens()):
                self._check_alive()
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 2 * POLL_SECONDS))
            return True

    def _nobody_listens(self) -> bool:
        """Whether the peer has left (and was told that this was heard), or is away and would only get our goodbye.

        If it may still wait for a word that its last messages have arrived, it has some time to come back for that.
        """
        if self._stream is None or not self._link.welcomed:
            away = 0.0 if self._down_since is None else time.monotonic() - self._down_since
            told = self._link.peer_lacks_nothing or away > _FAREWELL
            return self._link.peer_left or (self._owes_nothing and told)
        return self._link.peer_left and self._link.silent

    def say_goodbye(self) -> None:
        """Queue the goodbye; from now on the party may not use the line."""
        with self._changed:
            if not self._closed and self._failure is None:
                self._owes_nothing = self._link.settled
                self._link.queue_bye()
            self._closed = True
            self._changed.notify_all()

    def hang_up(self, linger: float) -> None:
        """End the line, and its stream after at most ``linger`` seconds in which last words may be written."""
        self.fail(UsageError(f"the channel of {self._party} is closed"))
        with self._changed:
            stream = self._stream
        # Cutting it at once would discard what is still on its way to the peer.
        if stream is not None and not stream.ended.wait(linger):
            stream.end()

    def fail(self, error: UnseenError) -> None:
        """Make every call raise such an error from now on; the first one wins."""
        with self._changed:
            self._failure = self._failure or (type(error), str(error))
            if self._stream is not None:
                self._stream.over = True
            self._changed.notify_all()

    @property
    def dead(self) -> bool:
        """Whether no further stream can help."""
        return self._failure is not None or self._link.peer_left

    def wait_dead(self, timeout: float) -> None:
        """Return when no further stream can help, at the latest after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.dead, timeout)

    def blame(self, cause: str) -> None:
        """Remember why the line is down, for people to read."""
        with self._changed:
            self._cause = cause

    def _check_sendable(self) -> None:
        if self._closed:
            raise UsageError(f"the channel of {self._party} is closed")
        if self._link.peer_left:
            raise PeerUnreachable(f"{self.peer} has closed its channel")
        self._check_alive()

    def _check_receivable(self) -> None:
        self._check_sendable()

    def _check_alive(self) -> None:
        if self._failure is not None:
            kind, text = self._failure
            raise kind(text)
        if self._down_since is not None and time.monotonic() - self._down_since > self._grace:
            raise PeerUnreachable(f"{self.peer} was out of reach for {self._grace:g} s: {self._cause}")

    # --- for the driver

    def attach(self, end: Callable[[], None]) -> Stream:
        """Return a new stream, which takes the place of an older one."""
        stream = Stream(end)
        with self._changed:
            older, self._stream = self._stream, stream
            self._link.open()
            stream.over, stream.last_words = self._failure is not None, self._last_words
            self._changed.notify_all()
        if older is not None:
            older.end()
        return stream

    def detach(self, stream: Stream, cause: str) -> bool:
        """Take note that ``stream`` has ended; return whether the two sides had greeted each other on it."""
        stream.ended.set()
        with self._changed:
            stream.over = True
            self._changed.notify_all()
            if self._stream is not stream:
                return True
            greeted, self._stream = self._link.welcomed, None
            self._link.welcomed = False
            if greeted:
                self._down_since, self._cause = time.monotonic(), cause
            return greeted

    def outgoing(self, stream: Stream) -> Iterator[bytes]:
        """Yield the packets to write to ``stream`` until it is over."""
        while (packet := self._next_packet(stream)) is not None:
            yield packet
        if stream.last_words is not None:
            yield stream.last_words
        stream.drained.set()

    def _next_packet(self, stream: Stream) -> bytes | None:
        idle = False
        with self._changed:
            while not stream.over and self._stream is stream:
                packet = self._link.next_packet(idle=idle)
                if packet is not None:
                    return packet
                idle = not self._changed.wait(_ACK_DELAY if self._link.ack_due else None)
        return None

    def take(self, stream: Stream, data: bytes) -> bool:
        """Act on a packet that came from ``stream``; return whether its reader shall go on."""
        with self._changed:
            if stream.over or self._stream is not stream:
                return False
            try:
                packet = unpack(data, sender=self.peer)
                if packet.kind is Kind.REFUSAL:
                    self._refused(stream, packet)
                elif not self._link.take(packet):
                    stream.over = True
                    stream.last_words = refusal(Why.RESTARTED, f"{self._party} is a new process")
                    self._cause = f"its process still waits for an earlier run of {self._party}"
                elif packet.kind is Kind.HELLO:
                    self._down_since = None
            except PeerUnreachable as error:
                self._end(stream, error, refusal(Why.STALE, f"{self._party} waits for an earlier run of {self.peer}"))
            except RemoteProtocolError as error:
                self._end(stream, error, refusal(Why.PROTOCOL, str(error)))
            except MemoryError:
                full = RemoteProtocolError(f"{self.peer}: its message does not fit into this machine's memory")
                self._end(stream, full, refusal(Why.PROTOCOL, str(full)))
            self._changed.notify_all()
            return not stream.over

    def _end(self, stream: Stream, error: UnseenError, last_words: bytes) -> None:
        _log.warning("%s ends the link to %s: %s", self._party, self.peer, error)
        # Whoever connects again is told the same.
        stream.last_words = self._last_words = last_words
        self.fail(error)

    def _refused(self, stream: Stream, packet: Packet) -> None:
        why, reason = read_refusal(packet, sender=self.peer)
        _log.warning("%s: %s ended the link (%s): %s", self._party, self.peer, why.name, reason)
        stream.over = True
        match why:
            case Why.STALE:
                self._cause = reason
            case Why.RESTARTED:
                self.fail(PeerUnreachable(f"{self.peer} restarted; resume the job"))
            case Why.IDENTITY:
                self.fail(HandshakeRefused(f"{self.peer} refused {self._party}: {reason}"))
            case Why.PROTOCOL:
                self.fail(TransportError(f"{self.peer} ended the link: {reason}"))
