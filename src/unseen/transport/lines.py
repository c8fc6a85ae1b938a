"""What all channels over lines have in common: a line for every peer, whatever the connections are made of."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from unseen.codec import Buffer
from unseen.errors import DeadlineExceeded, PeerUnreachable, TransportError, UsageError
from unseen.ids import PartyId
from unseen.transport.channel import Waiting
from unseen.transport.line import Line
from unseen.transport.link import EPOCH_BYTES, Limits, cut

LINGER = 0.5
"""Seconds for which a connection stays open so that last words are read."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between attempts to connect; each is twice as long as the one before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How patient a channel is, in seconds, and how much it holds."""

    connect_grace: float = 30.0
    """For how long a link may be down before callers are told."""
    close_grace: float = 5.0
    """For how long ``close`` waits for the goodbye to be heard."""
    keepalive: float = 10.0
    """How often an idle connection is probed."""
    recheck: float = 2.0
    """How often the certificates of connected peers are judged anew, if the identity has a trust."""
    limits: Limits = field(default_factory=Limits)


class LineChannel:
    """A ``Channel`` over lines; whoever inherits from it connects them, and gives back in ``_release`` what it took."""

    def __init__(self, party: PartyId, peers: Iterable[PartyId], options: Options) -> None:
        self.party = party
        self._options = options
        epoch = secrets.token_bytes(EPOCH_BYTES)
        self._lines = {peer: self._new_line(peer, epoch) for peer in peers}
        self.peers = frozenset(self._lines)
        self._blocked = 0
        self._blocked_lock = threading.Lock()
        self._stopping = threading.Event()

    def send(self, peer: PartyId, parts: Sequence[Buffer], *, waiting: Waiting | None = None) -> None:
        """Queue one message; blocks while more than the window is not acknowledged."""
        line, limits = self._line(peer), self._options.limits
        waiting = waiting or _nothing
        total = sum(memoryview(part).nbytes for part in parts)
        if total > limits.message_bytes:
            raise UsageError(f"a message of {total} bytes for {peer}: at most {limits.message_bytes} are allowed")
        offset = 0
        with line.turn(waiting):
            for piece in cut(parts, limits.packet_bytes):
                if not line.has_room():
                    with self._accepting_everything():
                        line.wait_for_room(waiting)
                line.queue_piece(total, offset, piece)
                offset += sum(len(view) for view in piece)

    def receive(self, peer: PartyId, timeout: float) -> memoryview | bytes:
        """Return the next message of ``peer``."""
        return self._line(peer).receive(timeout)

    def notify(self, peer: PartyId, notice: bytes) -> None:
        """Queue a short notice, even if the window is full."""
        self._line(peer).notify(notice)

    def notices(self) -> Sequence[tuple[PartyId, bytes]]:
        """Return and forget the notices that have arrived."""
        found = []
        for peer, line in self._lines.items():
            while (notice := line.pop_notice()) is not None:
                found.append((peer, notice))
        return found

    def traffic(self, peer: PartyId) -> int:
        """Return the bytes that came in from ``peer`` or were acknowledged by it."""
        return self._line(peer).traffic

    def flush(self, timeout: float) -> None:
        """Return once every peer has taken in all that was sent to it."""
        deadline = time.monotonic() + timeout
        with self._accepting_everything():
            late = [peer for peer, line in self._lines.items() if not line.settle(deadline)]
        if late:
            raise DeadlineExceeded(f"{', '.join(late)} did not take in everything within {timeout:g} s")

    def close(self) -> None:
        """Say goodbye to every peer and give threads and connections back."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for line in self._lines.values():
            line.accept(everything=True)
            line.say_goodbye()
        deadline = time.monotonic() + self._options.close_grace
        for peer, line in self._lines.items():
            with suppress(TransportError):
                if not line.settle(deadline):
                    _log.warning("%s left before %s had said that nothing is missing", self.party, peer)
        for line in self._lines.values():
            line.hang_up(LINGER)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- for whoever connects the lines

    def _release(self) -> None:
        """Give back what carried the lines, now that all of them have ended."""
        raise NotImplementedError

    def _line(self, peer: PartyId) -> Line:
        line = self._lines.get(peer)
        if line is None:
            raise UsageError(f"{self.party} has no link to {peer}: its peers are {', '.join(sorted(self.peers))}")
        return line

    def _new_line(self, peer: PartyId, epoch: bytes) -> Line:
        options = self._options
        return Line(self.party, peer, epoch=epoch, limits=options.limits, grace=options.connect_grace)

    def _begin_anew(self, peer: PartyId) -> None:
        """Put a line for another life of ``peer`` in place, and end the one before with all that is on its way."""
        old, fresh = self._line(peer), self._new_line(peer, secrets.token_bytes(EPOCH_BYTES))
        with self._blocked_lock:
            fresh.accept(everything=self._blocked > 0)
            self._lines[peer] = fresh
        old.fail(PeerUnreachable(f"the link to {peer} has begun anew"))
        old.hang_up(0)

    @contextmanager
    def _accepting_everything(self) -> Iterator[None]:
        """Take in whatever peers send while this side waits for one of them."""
        self._count_blocked(1)
        try:
            yield
        finally:
            self._count_blocked(-1)

    def _count_blocked(self, change: int) -> None:
        with self._blocked_lock:
            self._blocked += change
            for line in self._lines.values():
                line.accept(everything=self._blocked > 0 or self._stopping.is_set())


def pause_after(pause: float) -> float:
    """Return for how long to wait: half of it is random, so that many dialers do not come back in step."""
    return pause * (0.5 + secrets.randbelow(1000) / 2000)


def _nothing() -> None:
    """Wait on."""
