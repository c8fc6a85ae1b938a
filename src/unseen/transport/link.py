"""Reliability of one link as a state machine without I/O: what was sent arrives once, in order, whatever is cut.

A *link* joins two processes for as long as both live; a *stream* is one connection that carries it and may break at any
byte. Each process draws a random *epoch*. On a new stream both sides greet each other with their epoch, the epoch they
know of the other side, and the number of the packet they expect next; whatever the other side lacks is sent again.

==========  ========  ==========================================================================================
packet      numbered  meaning
==========  ========  ==========================================================================================
``HELLO``   no        first packet of a stream: names, epochs, next expected number, window
``PIECE``   yes       bytes [offset, offset + n) of a message of ``total`` bytes; a piece with offset 0 begins a new
                      message, and an unfinished one before it was given up by its sender
``NOTICE``  yes       a short out-of-band notice: delivered at once, however full the inbox is
``BYE``     yes       nothing more will follow
``ACK``     no        all numbered packets before ``sequence`` are in the inbox
``REFUSAL`` no        last packet of a stream: why it is ended
==========  ========  ==========================================================================================

Back-pressure: a side keeps at most ``window_bytes`` unacknowledged (then ``has_room`` is false), and a side whose inbox
holds ``inbox_bytes`` withholds its acknowledgements, unless it is ``accepting``: a party that is itself blocked in
sending takes in everything, so that no ring of parties can wait for each other, up to ``most_bytes`` on top. A party
that ignores the window is cut, and so is one that sends beyond all these bounds.

A header is 32 bytes, little-endian: ``b"UL"``, format, kind, 4 zero bytes, sequence, total, offset. Together with the
layout of ``bytes`` objects it keeps the body at an address divisible by eight.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unseen.codec import Buffer, decode, encode, message, shown
from unseen.errors import PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.transport.channel import NOTICE_BYTES

EPOCH_BYTES = 16
MAX_PACKET_BYTES = (1 << 22) - 1024
MIN_PIECE_BYTES = 1 << 12
MAX_WINDOW_BYTES = 1 << 30
MAX_NOTICES = 16

_HEADER = struct.Struct("<2sBB4xQQQ")
_MAGIC = b"UL"
FORMAT = 1
"""The version of all this; both sides need the same."""
# What a packet costs beyond its bytes, so that many small ones cannot hide in a limit on bytes.
_OVERHEAD = 256
# A peer checks its window before it adds a packet, and notices are exempt from it.
_WINDOW_SLACK = MAX_PACKET_BYTES + MAX_NOTICES * (NOTICE_BYTES + _OVERHEAD) + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes that one side of a link keeps to."""

    packet_bytes: int = 1 << 20
    window_bytes: int = 64 << 20
    inbox_bytes: int = 256 << 20
    message_bytes: int = 4 << 30
    most_bytes: int = 4 << 30
    """What may wait to be read, beyond the other limits, while this side is blocked in sending."""

    def __post_init__(self) -> None:
        if not MIN_PIECE_BYTES <= self.packet_bytes <= MAX_PACKET_BYTES - _HEADER.size:
            raise UsageError(f"packets have between {MIN_PIECE_BYTES} and {MAX_PACKET_BYTES} bytes, found {self}")
        smallest = min(self.inbox_bytes, self.message_bytes, self.most_bytes)
        if not 1 <= self.window_bytes <= MAX_WINDOW_BYTES or smallest < 1:
            raise UsageError(f"a window has between 1 and {MAX_WINDOW_BYTES} bytes, other limits at least 1: {self}")


class Kind(enum.IntEnum):
    """Kinds of packets."""

    HELLO = 1
    PIECE = 2
    NOTICE = 3
    BYE = 4
    ACK = 5
    REFUSAL = 6


class Why(enum.IntEnum):
    """Reasons for a refusal."""

    IDENTITY = 1
    """The other side is not who it has to be."""
    RESTARTED = 2
    """The other side knows an earlier process of this party: the link is lost."""
    STALE = 3
    """This side knows an earlier process of the other party: a fresh process here may take its place."""
    PROTOCOL = 4
    """The other side broke the rules of the link."""


_KINDS = frozenset(int(kind) for kind in Kind)
_REASONS = frozenset(int(why) for why in Why)


@message("transport/hello")
class Hello:
    """Begins a stream: who speaks to whom, and where each of them stands."""

    sender: str
    receiver: str
    epoch: bytes
    known: bytes
    """Epoch that the sender knows of the receiver, or empty."""
    expected: int
    window: int


@message("transport/refusal")
class Refusal:
    """Ends a stream with a reason."""

    why: int
    reason: str


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that came in, its header checked."""

    kind: Kind
    sequence: int
    total: int
    offset: int
    body: memoryview


def pack(kind: Kind, body: Sequence[Buffer] = (), *, sequence: int = 0, total: int = 0, offset: int = 0) -> bytes:
    """Return the bytes of a packet."""
    return b"".join([_HEADER.pack(_MAGIC, FORMAT, kind, sequence, total, offset), *body])


def unpack(data: bytes, *, sender: str) -> Packet:
    """Return the packet in ``data``.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    if not _HEADER.size <= len(data) <= MAX_PACKET_BYTES:
        raise RemoteProtocolError(
            f"{sender}: a packet has {len(data)} bytes, allowed are {_HEADER.size} to {MAX_PACKET_BYTES}"
        )
    magic, form, kind, sequence, total, offset = _HEADER.unpack_from(data)
    if (magic, form) != (_MAGIC, FORMAT) or kind not in _KINDS:
        raise RemoteProtocolError(
            f"{sender}: malformed packet: starts with {data[:4].hex()}; both parties need the same major version"
        )
    return Packet(Kind(kind), sequence, total, offset, memoryview(data)[_HEADER.size :])


def refusal(why: Why, reason: str) -> bytes:
    """Return the packet that ends a stream."""
    return pack(Kind.REFUSAL, encode(Refusal(int(why), reason[:500])))


def read_refusal(packet: Packet, *, sender: str) -> tuple[Why, str]:
    """Return reason and text of a refusal, the text cleaned of unprintable characters."""
    found = decode(Refusal, packet.body, sender=sender)
    if found.why not in _REASONS:
        raise RemoteProtocolError(f"{sender}: a stream was ended for the unknown reason {found.why}")
    return Why(found.why), "".join(char for char in found.reason[:500] if char.isprintable())


def cut(parts: Sequence[Buffer], size: int) -> Iterator[list[memoryview]]:
    """Yield the concatenation of ``parts`` in pieces of ``size`` bytes, the last one shorter; at least one piece."""
    piece: list[memoryview] = []
    space = size
    for part in parts:
        rest = memoryview(part)
        # An empty view cannot be cast.
        rest = rest.cast("B") if rest.nbytes else memoryview(b"")
        while len(rest) > space:
            yield [*piece, rest[:space]]
            rest, piece, space = rest[space:], [], size
        piece.append(rest)
        space -= len(rest)
    yield piece


class _Outbox:
    """Numbered packets until they are acknowledged."""

    def __init__(self) -> None:
        self.bytes = 0
        self.acknowledged = 0
        self._first = 0
        self._cursor = 0
        self._known = 0
        self._packets: deque[bytes] = deque()

    @property
    def written(self) -> bool:
        """Whether every packet has been written to the current stream."""
        return self._cursor == self.end

    @property
    def end(self) -> int:
        """The number of the next new packet."""
        return self._first + len(self._packets)

    def add(self, packet: bytes) -> None:
        self._packets.append(packet)
        self.bytes += len(packet) + _OVERHEAD

    def next(self) -> bytes | None:
        if self.written:
            return None
        packet = self._packets[self._cursor - self._first]
        self._cursor += 1
        self._known = max(self._known, self._cursor)
        return packet

    def acknowledge(self, expected: int) -> bool:
        """Forget packets before ``expected``; return whether such a number makes sense."""
        while self._first < min(expected, self._known):
            size = len(self._packets.popleft())
            self.bytes -= size + _OVERHEAD
            self.acknowledged += size
            self._first += 1
        self._cursor = max(self._cursor, self._first)
        return expected <= self._known

    def rewind(self) -> None:
        """Write again, on a new stream, whatever is not acknowledged."""
        self._cursor = self._first


class _Assembly:
    """A message of several pieces that is still coming in."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.filled = 0
        # Memory that is not touched is not taken: an announcement alone costs the receiver nothing.
        self._buffer = np.empty(total, np.uint8).data

    def add(self, body: memoryview) -> None:
        self._buffer[self.filled : self.filled + len(body)] = body
        self.filled += len(body)

    def whole(self) -> memoryview:
        return self._buffer.toreadonly()


class Link:
    """One side of a link. Not safe for several threads: whoever does the I/O holds a lock around it.

    The driver calls ``open`` for a new stream, then passes what ``next_packet`` returns to the stream and what comes
    from the stream to ``take``.
    """

    def __init__(self, party: PartyId, peer: PartyId, *, epoch: bytes, limits: Limits) -> None:
        self.party = party
        self.peer = peer
        self.limits = limits
        self.accepting = False
        self.welcomed = False
        """Whether the peer has greeted on the current stream."""
        self.peer_left = False
        self.bytes_in = 0
        self._epoch = epoch
        self._peer_epoch = b""
        self._peer_window = 0
        self._greeting_due = False
        self._outbox = _Outbox()
        self._expected = 0
        self._greeted = 0
        self._confirmed = 0
        self._ack_sent = 0
        self._withheld = 0
        self._assembly: _Assembly | None = None
        self._messages: deque[memoryview] = deque()
        self._held = 0
        self._notices: deque[bytes] = deque()

    # --- what this side sends

    @property
    def settled(self) -> bool:
        """Whether the peer has taken in everything."""
        return self._outbox.bytes == 0

    @property
    def peer_lacks_nothing(self) -> bool:
        """Whether the peer knows for sure that all it sent has arrived: an acknowledgement is lost with its stream."""
        return self._expected == self._confirmed

    @property
    def silent(self) -> bool:
        """Whether there is nothing to write on the current stream."""
        return not (self._greeting_due or self.ack_due) and self._outbox.written

    @property
    def ack_due(self) -> bool:
        """Whether something that came in may be acknowledged now."""
        inbox_open = self.accepting or not self._messages or self._held < self.limits.inbox_bytes
        return inbox_open and self._expected > self._ack_sent

    @property
    def traffic(self) -> int:
        """Bytes that came in or were acknowledged."""
        return self.bytes_in + self._outbox.acknowledged

    def has_room(self) -> bool:
        """Return whether the next piece may be queued."""
        return self._outbox.bytes < self.limits.window_bytes

    def queue_piece(self, total: int, offset: int, piece: Sequence[Buffer]) -> None:
        """Queue a piece of a message of ``total`` bytes."""
        self._outbox.add(pack(Kind.PIECE, piece, sequence=self._outbox.end, total=total, offset=offset))

    def queue_notice(self, notice: bytes) -> None:
        """Queue a notice."""
        if len(notice) > NOTICE_BYTES:
            raise UsageError(f"a notice has at most {NOTICE_BYTES} bytes, found {len(notice)}")
        self._outbox.add(pack(Kind.NOTICE, [notice], sequence=self._outbox.end))

    def queue_bye(self) -> None:
        """Queue the goodbye."""
        self._outbox.add(pack(Kind.BYE, sequence=self._outbox.end))

    # --- the stream

    def open(self) -> None:
        """Begin a new stream; an earlier one is over."""
        self._greeting_due = True
        self.welcomed = False

    def next_packet(self, *, idle: bool = True) -> bytes | None:
        """Return what has to be written next, or ``None`` if there is nothing for now.

        Unless the stream has been ``idle`` for a moment, acknowledgements wait until they are worth a packet.
        """
        if self._greeting_due:
            self._greeting_due = False
            return self._greeting()
        if not self.welcomed:
            return None
        if self.ack_due and (idle or self._withheld >= self._peer_window // 4):
            self._ack_sent = self._expected
            self._withheld = 0
            return pack(Kind.ACK, sequence=self._expected)
        return self._outbox.next()

    def take(self, packet: Packet) -> bool:
        """Act on a packet of the current stream; return whether the stream may go on.

        ``False`` means that the peer still talks to an earlier process of this party; the link itself is unharmed.

        Raises:
            RemoteProtocolError: The packet breaks the rules.
            PeerUnreachable: The peer's process is another one than before, so that the link cannot be continued.
        """
        if packet.kind is Kind.HELLO:
            return self._welcome(decode(Hello, packet.body, sender=self.peer))
        if not self.welcomed:
            raise self._bad(f"{packet.kind.name} came before the greeting")
        # It has heard the greeting of this side, or it would not go on.
        self._confirmed = self._greeted
        if packet.kind is Kind.ACK:
            if not self._outbox.acknowledge(packet.sequence):
                raise self._bad(f"packet {packet.sequence} was acknowledged and never sent")
        elif packet.kind is not Kind.REFUSAL:
            self._take_numbered(packet)
        return True

    def _greeting(self) -> bytes:
        self._ack_sent = self._greeted = self._expected
        self._withheld = 0
        return pack(
            Kind.HELLO,
            encode(
                Hello(self.party, self.peer, self._epoch, self._peer_epoch, self._expected, self.limits.window_bytes)
            ),
        )

    def _welcome(self, hello: Hello) -> bool:
        if (hello.sender, hello.receiver) != (self.peer, self.party):
            raise self._bad(f"it calls itself '{shown(hello.sender)}' and speaks to '{shown(hello.receiver)}'")
        if len(hello.epoch) != EPOCH_BYTES or not 1 <= hello.window <= MAX_WINDOW_BYTES or hello.expected < 0:
            raise self._bad("its greeting has impossible values")
        if hello.known not in (b"", self._epoch):
            return False
        if self._peer_epoch not in (b"", hello.epoch):
            raise PeerUnreachable(f"{self.peer} restarted; resume the job")
        if self.welcomed or not self._outbox.acknowledge(hello.expected):
            raise self._bad("its greeting does not fit what was said before")
        self._peer_epoch, self._peer_window = hello.epoch, hello.window
        self._outbox.rewind()
        self.welcomed = True
        return True

    # --- what this side receives

    def pop(self) -> memoryview | None:
        """Return the next whole message, or ``None``."""
        if not self._messages:
            return None
        whole = self._messages.popleft()
        self._held -= len(whole) + _OVERHEAD
        return whole

    def pop_notice(self) -> bytes | None:
        """Return the next notice, or ``None``."""
        return self._notices.popleft() if self._notices else None

    def _take_numbered(self, packet: Packet) -> None:
        if packet.sequence < self._expected:
            return  # it came on an earlier stream already
        if packet.sequence > self._expected:
            raise self._bad(f"packet {packet.sequence} came where {self._expected} was due")
        if self.peer_left:
            raise self._bad("it went on after its goodbye")
        self._expected += 1
        size = len(packet.body) + _HEADER.size
        self.bytes_in += size
        self._withheld += size + _OVERHEAD
        if self._withheld > self._peer_window + _WINDOW_SLACK:
            raise self._bad(f"it ignores back-pressure: {self._withheld} bytes are not acknowledged")
        if packet.kind is Kind.PIECE:
            self._assemble(packet)
        elif packet.kind is Kind.NOTICE:
            self._keep_notice(packet.body)
        else:
            self.peer_left = True

    def _keep_notice(self, body: memoryview) -> None:
        if len(body) > NOTICE_BYTES or len(self._notices) >= MAX_NOTICES:
            raise self._bad(f"at most {MAX_NOTICES} notices of {NOTICE_BYTES} bytes may wait to be read")
        self._notices.append(bytes(body))

    def _assemble(self, packet: Packet) -> None:
        total, size = packet.total, len(packet.body)
        if total > self.limits.message_bytes:
            raise self._bad(f"a message of {total} bytes, allowed are {self.limits.message_bytes}")
        if packet.offset == 0:
            self._assembly = None
            if size == total:
                self._keep(packet.body)
                return
            self._assembly = _Assembly(total)
        assembly = self._assembly
        if assembly is None or (assembly.total, assembly.filled) != (total, packet.offset):
            raise self._bad(f"a piece at byte {packet.offset} of {total} does not continue the message before it")
        left = total - assembly.filled
        if size > left or (size < left and size < MIN_PIECE_BYTES):
            raise self._bad(f"a piece of {size} bytes where {left} are missing")
        assembly.add(packet.body)
        if size == left:
            self._assembly = None
            self._keep(assembly.whole())

    def _keep(self, whole: memoryview) -> None:
        if self._held > self.limits.most_bytes + self.limits.inbox_bytes + self._peer_window:
            raise self._bad(f"{self._held} bytes wait to be read: it sends without end and takes in nothing")
        self._messages.append(whole)
        self._held += len(whole) + _OVERHEAD

    def _bad(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.peer} broke the rules of the link: {what}")
