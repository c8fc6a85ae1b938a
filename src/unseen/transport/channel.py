"""The port through which a session talks to its peers.

A channel carries whole messages of any size between one party and each of its peers: in order, exactly once, and
never half. Below a session nothing else is known about the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from unseen.codec import Buffer
from unseen.ids import PartyId

Waiting: TypeAlias = Callable[[], None]
"""Called several times a second while a call blocks; what it raises ends the call."""

NOTICE_BYTES = 1 << 16
POLL_SECONDS = 0.1


class Channel(Protocol):
    """One party's links to all its peers; safe to use from several threads."""

    @property
    def party(self) -> PartyId:
        """The party on this side."""
        ...

    @property
    def peers(self) -> frozenset[PartyId]:
        """Everyone this channel leads to."""
        ...

    def send(self, peer: PartyId, parts: Sequence[Buffer], *, waiting: Waiting | None = None) -> None:
        """Queue one message, the concatenation of ``parts``; they may be changed as soon as the call returns.

        Blocks only while the peer is too far behind. If ``waiting`` raises then, the peer never sees the message.

        Raises:
            PeerUnreachable: The link has been down for longer than the configured grace, or the peer has left.
            UsageError: There is no link to ``peer``, the message is too large, or the channel is closed.
        """
        ...

    def receive(self, peer: PartyId, timeout: float) -> memoryview | bytes:
        """Return the next message of ``peer``; its buffer starts at an address divisible by eight.

        Raises:
            DeadlineExceeded: No message came within ``timeout`` seconds.
            PeerUnreachable: The link has been down for longer than the configured grace, or the peer has left.
            HandshakeRefused: The two parties could not authenticate each other.
            RemoteProtocolError: The peer broke the rules of the link.
        """
        ...

    def notify(self, peer: PartyId, notice: bytes) -> None:
        """Queue a short notice, which is not held back by a full inbox and overtakes messages that nobody has read."""
        ...

    def notices(self) -> Sequence[tuple[PartyId, bytes]]:
        """Return and forget the notices that have arrived from any peer."""
        ...

    def traffic(self, peer: PartyId) -> int:
        """Return a number of bytes that grows as long as anything moves to or from ``peer``."""
        ...

    def flush(self, timeout: float) -> None:
        """Return once every peer has taken in all that was sent to it; meanwhile take in whatever peers send.

        Raises:
            DeadlineExceeded: That took longer than ``timeout`` seconds; the message names the peers.
            PeerUnreachable: A peer stayed away for longer than the configured grace.
        """
        ...

    def close(self) -> None:
        """Say goodbye to every peer and give everything back; may be called twice."""
        ...

    def __enter__(self) -> Self:
        """Return the channel; leaving the block closes it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        ...
