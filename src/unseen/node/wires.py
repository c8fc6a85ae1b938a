"""What a pairing's messages travel on: a TLS connection of its own, or a stream of gRPC to a node that runs."""

from __future__ import annotations

import queue
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from unseen.codec import shown
from unseen.errors import HandshakeRefused, PeerFailed, RemoteProtocolError, TransportError
from unseen.transport.visits import Attempt

PATIENCE = 10.0
"""Seconds for one message, unless people have to be waited for."""
FRAME_BYTES = 1 << 14
_FRAME = struct.Struct(">IB")
_SAID, _REFUSED = 0, 1
# Three in each direction, and one more that is one too many.
_MOST_PACKETS = 4
_END = b""
# For the last words to arrive.
_LINGER = 2.0


class Wire(Protocol):
    """Carries messages of a pairing between two sides, in order."""

    def send(self, data: bytes, *, refused: bool = False) -> None:
        """Send a message, or the words of a refusal.

        Raises:
            TransportError: The other side is gone.
        """
        ...

    def receive(self, peer: str, patience: float | None = None) -> bytes:
        """Return the next message of ``peer``, or of whoever calls itself so.

        Raises:
            TransportError: It is gone, or says nothing for so many seconds, ``PATIENCE`` if none are said.
            RemoteProtocolError: It sends what is no message.
            PeerFailed: It refuses, and says why.
        """
        ...

    def close(self) -> None:
        """Hang up, after what was sent has left; may be called twice."""
        ...


class SocketWire:
    """A TLS connection; every message has four bytes of length and one of kind before it."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        connection.settimeout(PATIENCE)

    def send(self, data: bytes, *, refused: bool = False) -> None:
        """Send a message."""
        with translated("the other side"):
            self._connection.sendall(_FRAME.pack(len(data), _REFUSED if refused else _SAID) + data)

    def receive(self, peer: str, patience: float | None = None) -> bytes:
        """Return the next message."""
        with translated(peer):
            size, kind = _FRAME.unpack(self._exactly(_FRAME.size, peer, patience or PATIENCE))
            return _message(
                kind, self._exactly(size, peer, patience or PATIENCE) if size <= FRAME_BYTES else b"", size, peer
            )

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._connection.close()

    def _exactly(self, count: int, peer: str, patience: float) -> bytes:
        data, deadline = b"", time.monotonic() + patience
        while len(data) < count:
            # One limit for all of it, so that nobody holds a place by one byte now and then.
            self._connection.settimeout(max(deadline - time.monotonic(), 0.01))
            more = self._connection.recv(count - len(data))
            if not more:
                raise _hung_up(peer)
            data += more
        self._connection.settimeout(PATIENCE)
        return data


class StreamWire:
    """A stream of packets, each one byte of kind and a message.

    Args:
        hang_up: Is called when both sides have said all; for the one who dialled.
    """

    def __init__(self, hang_up: Callable[[], object] | None = None) -> None:
        self._hang_up = hang_up
        self._out: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read, name="pairing", daemon=True)
        self._packets: Iterable[bytes] = ()

    def follow(self, packets: Iterable[bytes]) -> None:
        """Take in what the other side sends from now on."""
        self._packets = packets
        self._reading.start()

    def outgoing(self) -> Iterator[bytes]:
        """Yield the packets that are to be sent, until this side hangs up."""
        while packet := self._out.get():
            yield packet

    def send(self, data: bytes, *, refused: bool = False) -> None:
        """Send a message."""
        self._out.put(bytes([_REFUSED if refused else _SAID]) + data)

    def receive(self, peer: str, patience: float | None = None) -> bytes:
        """Return the next message."""
        try:
            packet = self._in.get(timeout=patience or PATIENCE)
        except queue.Empty:
            raise _silent(peer) from None
        if packet == _END:
            self._in.put(_END)
            raise _hung_up(peer)
        return _message(packet[0], packet[1:], len(packet) - 1, peer)

    def close(self) -> None:
        """Hang up."""
        self._out.put(_END)
        if self._hang_up is not None:
            self._reading.join(_LINGER)
            hang_up, self._hang_up = self._hang_up, None
            hang_up()

    def _read(self) -> None:
        # However the stream ends, there is no more.
        with Attempt():
            for _, packet in zip(range(_MOST_PACKETS), self._packets, strict=False):
                self._in.put(packet)
        self._in.put(_END)


class translated:  # noqa: N801  # reads as a phrase
    """Says what a broken connection means."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise _silent(self._peer) from error
        if isinstance(error, ssl.SSLError):
            raise HandshakeRefused(f"{self._peer}: no TLS 1.3 at its port ({error.reason or error})") from error
        if isinstance(error, OSError):
            raise TransportError(f"{self._peer} went away ({error}): nothing was kept; invite again") from error


def _message(kind: int, data: bytes, size: int, peer: str) -> bytes:
    if size > FRAME_BYTES or kind not in (_SAID, _REFUSED):
        raise RemoteProtocolError(f"{peer}: a frame of {size} bytes and kind {kind}; this is no pairing")
    if kind == _REFUSED:
        raise PeerFailed(f"{peer} refused: {shown(data.decode('utf-8', 'replace'), limit=500)}")
    return data


def _silent(peer: str) -> TransportError:
    return TransportError(f"{peer} said nothing for too long: nothing was kept; invite again")


def _hung_up(peer: str) -> TransportError:
    return TransportError(f"{peer} hung up: nothing was kept; invite again")
