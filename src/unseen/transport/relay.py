"""A worker's channel: a job's packets go through the party's own node, which alone has keys and network.

The worker connects to a Unix socket of its node's ``Port``, once for every peer and life of a stream, says with a token
which job it runs, and then both write frames: length and kind (5 bytes, little-endian), and a body.

=============  ==========================================================================================
``PACKET``     a packet of ``link``, at most ``MAX_PACKET_BYTES``
``LATER``      from the node only, the last one: why the stream ended; trying again may help
``REFUSED``    from the node only, the last one: why trying again cannot help
=============  ==========================================================================================
"""

from __future__ import annotations

import enum
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unseen.codec import Buffer, encode_bytes, message
from unseen.errors import HandshakeRefused
from unseen.ids import JobId, PartyId
from unseen.transport.line import Line, Stream
from unseen.transport.lines import FIRST_PAUSE, LINGER, LONGEST_PAUSE, LineChannel, Options, pause_after
from unseen.transport.link import MAX_PACKET_BYTES

SOCKET_FILE = "jobs.sock"
WORDS_BYTES = 2000
_HEADER = struct.Struct("<IB")


class Frame(enum.IntEnum):
    """Kinds of frames."""

    PACKET = 0
    LATER = 1
    REFUSED = 2


_KINDS = frozenset(int(kind) for kind in Frame)


@message("transport/relay/call")
class Call:
    """A worker's first frame: for which peer of which job the connection is, and that it may."""

    token: str
    job: str
    peer: str


class RelayChannel(LineChannel):
    """The channel of a job's worker, which has no keys and no network.

    Args:
        party: The node's party.
        peers: Everyone the job needs.
        path: The socket of the node's ``Port``.
        token: What ``Port.admit_worker`` returned.
        job: The job.
        options: Patience and limits.
    """

    def __init__(
        self,
        party: PartyId,
        peers: Iterable[PartyId],
        path: Path,
        token: str,
        job: JobId,
        *,
        options: Options | None = None,
    ) -> None:
        super().__init__(party, peers, options or Options())
        self._path = path
        self._token = token
        self._job = job
        self._callers = [
            threading.Thread(target=self._keep_calling, args=(line,), name=f"relay {peer}", daemon=True)
            for peer, line in self._lines.items()
        ]
        for caller in self._callers:
            caller.start()

    def _release(self) -> None:
        for caller in self._callers:
            caller.join(timeout=self._options.close_grace)

    def _keep_calling(self, line: Line) -> None:
        pause = FIRST_PAUSE
        while not line.dead:
            pause = FIRST_PAUSE if self._talk(line) else min(2 * pause, LONGEST_PAUSE)
            line.wait_dead(pause_after(pause))

    def _talk(self, line: Line) -> bool:
        """Carry one stream to its end; return whether the two workers greeted each other on it."""
        try:
            connection = connect(self._path)
        except OSError as error:
            line.blame(f"the node of {self.party} does not answer at {self._path} ({error.strerror or error})")
            return False
        with connection:
            stream = line.attach(lambda: hang_up(connection))
            writer = threading.Thread(target=self._write, args=(connection, line, stream), daemon=True)
            writer.start()
            cause = _read(connection, line, stream)
            greeted = line.detach(stream, cause)
            hang_up(connection)
            writer.join()
        if not greeted:
            line.blame(cause)
        return greeted

    def _write(self, connection: socket.socket, line: Line, stream: Stream) -> None:
        with suppress(OSError):  # the reader finds out, too
            write_frame(connection, Frame.PACKET, encode_bytes(Call(self._token, self._job, line.peer)))
            for packet in line.outgoing(stream):
                write_frame(connection, Frame.PACKET, packet)
            connection.shutdown(socket.SHUT_WR)


def _read(connection: socket.socket, line: Line, stream: Stream) -> str:
    """Take what the node hands over until the stream ends; return why it did."""
    with suppress(OSError):
        while (frame := read_frame(connection)) is not None:
            kind, body = frame
            if kind is Frame.PACKET:
                if not line.take(stream, body):
                    stream.drained.wait(LINGER)
                    break
                continue
            words = body.decode("utf-8", "replace")
            if kind is Frame.REFUSED:
                line.fail(HandshakeRefused(words))
            return words
    return "its node closed the connection"


def connect(path: Path) -> socket.socket:
    """Return a connection to a Unix socket, however long its path is."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def short(path: Path) -> Iterator[str]:
    """Yield a short name of ``path``: the address of a Unix socket has at most 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def hang_up(connection: socket.socket) -> None:
    """Make every call that blocks on a connection return."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def write_frame(connection: socket.socket, kind: Frame, body: Buffer) -> None:
    """Write a frame to a blocking socket.

    Raises:
        OSError: The connection is gone.
    """
    parts = [memoryview(_HEADER.pack(len(body), kind)), memoryview(body)]
    sent = connection.sendmsg(parts)
    if sent < _HEADER.size + len(body):
        connection.sendall(b"".join(parts)[sent:])


def read_frame(connection: socket.socket) -> tuple[Frame, bytes] | None:
    """Return the next frame of a blocking socket, or ``None`` at its end, or where no frame can be."""
    header = connection.recv(_HEADER.size, socket.MSG_WAITALL)
    if len(header) < _HEADER.size:
        return None
    size, kind = _HEADER.unpack(header)
    if size > MAX_PACKET_BYTES or kind not in _KINDS:
        return None
    # The kernel fills one object of the right size: nothing is put together.
    body = connection.recv(size, socket.MSG_WAITALL) if size else b""
    return (Frame(kind), body) if len(body) == size else None
