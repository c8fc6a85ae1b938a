"""Where a node's workers come in: a Unix socket, a token for each job, and connections to be joined with the network.

Nobody but this node's own user can reach the socket. A newer worker of a job takes the place of an older one, whose
token is then worth nothing.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from unseen.codec import decode, shown
from unseen.errors import LocalProtocolError, UnseenError, UsageError
from unseen.ids import JobId, PartyId
from unseen.transport.link import Why, refusal
from unseen.transport.relay import SOCKET_FILE, WORDS_BYTES, Call, Frame, hang_up, read_frame, short, write_frame
from unseen.transport.traffic import Traffic
from unseen.transport.visits import Attempt

_TOKEN_BYTES = 32
_LAST_WORDS = 2.0
_PATIENCE = struct.pack("ll", 5, 0)
_FOREVER = struct.pack("ll", 0, 0)
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR

_log = logging.getLogger(__name__)


class Worker:
    """A worker's connection for one peer of its job; joined with one stream of the network, they end together."""

    def __init__(self, connection: socket.socket, job: JobId, peer: PartyId, traffic: Traffic) -> None:
        self._traffic = traffic
        self.job = job
        self.peer = peer
        self.taken = False
        """Whether somebody joins it with a stream."""
        self.certificate = b""
        """Under which the peer's node is on the stream of the network."""
        self._connection = connection
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._cut: Callable[[], object] | None = None
        self._refusal = ""
        self._until = math.inf
        self._over = False

    @property
    def fields(self) -> dict[str, str]:
        """What lines of the log about it are about."""
        return {"job": self.job, "partner": self.peer}

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    @property
    def overdue(self) -> bool:
        """Whether this side has refused to go on, long enough ago for both to have heard it."""
        return time.monotonic() > self._until

    def join(self, cut: Callable[[], object], certificate_pem: bytes) -> None:
        """Note how the stream of the network is ended, and under which certificate the peer's node is on it."""
        self._cut, self.certificate = cut, certificate_pem
        if self._over:
            cut()

    def packets(self) -> Iterator[bytes]:
        """Yield what the worker sends, then what the peer is told if this side refuses to go on."""
        with suppress(OSError):
            while (packet := self._read()) is not None:
                self._traffic.sent(self.peer, len(packet))
                yield packet
        if self._refusal:
            yield refusal(Why.IDENTITY, self._refusal)

    def carry(self, packets: Iterable[bytes]) -> None:
        """Hand what the peer sends to the worker; at its end the worker is told that nothing more comes."""
        with suppress(OSError):
            for packet in packets:
                self._traffic.received(self.peer, len(packet))
                with self._writing:
                    write_frame(self._connection, Frame.PACKET, packet)
            if not self._refusal:
                with self._writing:
                    self._connection.shutdown(socket.SHUT_WR)
                return
        if self._refusal:
            self.end()

    def refuse(self, reason: str) -> None:
        """End both sides for good and tell them why; who takes nothing in is cut by ``end`` once it is ``overdue``."""
        if self._refusal:
            return
        self._refusal, self._until = reason, time.monotonic() + _LAST_WORDS
        if self._cut is None:
            self.end(Frame.REFUSED, reason)
        else:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)

    def end(self, kind: Frame = Frame.LATER, words: str = "") -> None:
        """Tell the worker why, and give the connection and the stream of the network back; may be called twice."""
        if self._refusal:
            kind, words = Frame.REFUSED, self._refusal
        if words and self._writing.acquire(timeout=0.1):
            try:
                self._last_words(kind, words)
            finally:
                self._writing.release()
        self._over = True
        hang_up(self._connection)
        if self._cut is not None:
            self._cut()
        with self._reading, self._writing:
            self._connection.close()

    def hung_up(self) -> bool:
        """Return whether the worker has gone."""
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLRDHUP)
        except ValueError:  # closed here
            return True
        return any(event & _GONE for _, event in poll.poll(0))

    def _last_words(self, kind: Frame, words: str) -> None:
        with suppress(OSError):
            # Whoever does not read is told nothing.
            self._connection.setblocking(False)
            write_frame(self._connection, kind, words.encode()[:WORDS_BYTES])

    def _read(self) -> bytes | None:
        with self._reading:
            frame = read_frame(self._connection)
        return frame[1] if frame is not None and frame[0] is Frame.PACKET else None


class Workers:
    """The node's side of its workers' connections.

    Args:
        folder: Where the socket is, readable by its owner only.
        objection: Why a worker of a job may not talk to a peer, or ``None``.
        came: Is called, in a thread of its own, with every new connection.
        traffic: Counts what goes through.

    Raises:
        UsageError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        objection: Callable[[PartyId, JobId], str | None],
        came: Callable[[Worker], None],
        traffic: Traffic,
    ) -> None:
        self._traffic = traffic
        self.path = folder / SOCKET_FILE
        self._objection = objection
        self._came = came
        self._changed = threading.Condition()
        self._tokens: dict[JobId, tuple[int, str]] = {}
        self._newest: dict[tuple[JobId, PartyId], Worker] = {}
        self._turns: dict[tuple[JobId, PartyId], object] = {}
        self._closed = False
        self._listener = _listen(self.path)
        self._accepting = threading.Thread(target=self._accept, name="workers", daemon=True)
        self._accepting.start()

    def admit(self, job: JobId, fence: int) -> str:
        """Return the token of the worker with this fence, which takes the place of older ones.

        Raises:
            LocalProtocolError: There was one with the same fence or a newer one.
        """
        token = secrets.token_hex(_TOKEN_BYTES)
        with self._changed:
            if job in self._tokens and self._tokens[job][0] >= fence:
                raise LocalProtocolError(
                    f"job {job}: a worker with fence {fence} comes after one with {self._tokens[job][0]}"
                )
            self._tokens[job] = (fence, token)
        self._end_all(job, "a newer worker runs this job")
        return token

    def forget(self, job: JobId) -> None:
        """End every connection of a job and admit no more."""
        with self._changed:
            self._tokens.pop(job, None)
        self._end_all(job, "the job is over at this node")

    def wait(self, job: JobId, peer: PartyId, timeout: float, alive: Callable[[], bool]) -> Worker | None:
        """Return the worker's connection for ``peer``, or ``None`` if none comes while the caller is the newest.

        A connection that is joined with an older stream is ended: the worker comes again.
        """
        key, turn, deadline = (job, peer), object(), time.monotonic() + timeout
        with self._changed:
            self._turns[key] = turn
            self._changed.notify_all()
            older = self._newest.get(key)
        if older is not None and older.taken:
            older.end(Frame.LATER, f"{peer} has connected anew")
        with self._changed:
            while not self._closed and self._turns.get(key) is turn and alive():
                worker = self._newest.get(key)
                if worker is not None and not worker.taken and not worker.hung_up():
                    worker.taken = True
                    del self._turns[key]
                    return worker
                if time.monotonic() > deadline:
                    break
                self._changed.wait(0.2)
            if self._turns.get(key) is turn:
                del self._turns[key]
        return None

    def claim(self, worker: Worker) -> bool:
        """Return whether the caller is the one who joins a connection with a stream."""
        with self._changed:
            first, worker.taken = not worker.taken, True
            return first

    def all(self) -> list[Worker]:
        """Return every connection; those that ended are forgotten."""
        with self._changed:
            for key, worker in list(self._newest.items()):
                if not worker.over and not worker.taken and worker.hung_up():
                    worker.end()
                if worker.over:
                    del self._newest[key]
            return list(self._newest.values())

    def close(self) -> None:
        """End everything and remove the socket."""
        with self._changed:
            self._closed = True
            self._tokens.clear()
            self._changed.notify_all()
        hang_up(self._listener)
        self._accepting.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for worker in self.all():
            worker.end(Frame.LATER, "the node stops")

    def _end_all(self, job: JobId, reason: str) -> None:
        for worker in self.all():
            if worker.job == job:
                worker.end(Frame.REFUSED, reason)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), name="worker", daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        try:
            frame = read_frame(connection)
            call = decode(Call, frame[1] if frame else b"", sender="a worker")
            worker = Worker(connection, JobId(call.job), PartyId(call.peer), self._traffic)
        except (OSError, UnseenError) as error:
            _log.warning("somebody at the socket for workers did not say who it is: %s", error)
            connection.close()
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _FOREVER)
        with Attempt() as attempt:
            self._let_in(worker, call.token)
        if attempt.error is not None:
            _log.error(
                "a worker of job %s that calls %s", worker.job, worker.peer, exc_info=attempt.error, extra=worker.fields
            )
            worker.end(Frame.LATER, "an error at its node, which its log tells")

    def _let_in(self, worker: Worker, token: str) -> None:
        reason = self._register(worker, token) or self._objection(worker.peer, worker.job)
        if reason is None:
            self._came(worker)
            return
        _log.warning(
            "a worker of job %s that calls %s was refused: %s", worker.job, worker.peer, reason, extra=worker.fields
        )
        worker.end(Frame.REFUSED, reason)

    def _register(self, worker: Worker, token: str) -> str | None:
        key = (worker.job, worker.peer)
        with self._changed:
            _, known = self._tokens.get(worker.job, (0, ""))
            if not hmac.compare_digest(token.encode(), known.encode()) or not known or self._closed:
                return f"the token is not (any more) that of the worker of job {worker.job}"
            older = self._newest.get(key)
            self._newest[key] = worker
            self._changed.notify_all()
        if older is not None:
            older.end(Frame.LATER, "a newer connection took its place")
        return None


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        # One is left over if the node was killed; the network's port tells two nodes of one folder apart.
        path.unlink(missing_ok=True)
        with short(path) as address:
            listener.bind(address)
        os.chmod(path, 0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"no worker could connect at {shown(str(path), limit=400)}: {error.strerror or error}"
        ) from error
    return listener
