"""Keeps up the correspondence with one peer that this node dials: one call waits for letters, another brings ours."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import EXCHANGE, SERVICE, dialled

import grpc  # isort: skip

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from unseen.codec import shown
from unseen.errors import HandshakeRefused, PeerUnreachable, UnseenError
from unseen.ids import PartyId
from unseen.transport.diagnosis import examine
from unseen.transport.guard import Guard
from unseen.transport.lines import FIRST_PAUSE, pause_after
from unseen.transport.mail import Clerk

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 10.0
_PATIENCE = 20.0


class Correspondence:
    """Two threads that exchange letters with a peer, over one connection, until it is closed.

    Args:
        guard: Judges the peer.
        peer: Who is dialled.
        endpoint: Where.
        clerk: Gives letters and takes them.
        complain: Logs a line about the peer.
        wait: For how many seconds the peer may wait with its answer until it has letters.
    """

    def __init__(
        self,
        guard: Guard,
        peer: PartyId,
        endpoint: str,
        *,
        clerk: Clerk,
        complain: Callable[[PartyId, str], None],
        wait: float,
    ) -> None:
        self.endpoint = endpoint
        self._guard = guard
        self._peer = peer
        self._clerk = clerk
        self._complain = complain
        self._wait = wait
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connection: Any = None
        self._trusted = b""
        self._threads = [
            threading.Thread(target=self._keep, args=(once,), name=f"{name} {peer}", daemon=True)
            for name, once in (("mail from", self._fetch), ("mail to", self._bring))
        ]
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        """End the connection; the next call needs a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def judge(self) -> None:
        """End the connection if its certificate is not accepted any more; the next one is judged anew."""
        with self._lock:
            trusted = self._trusted if self._connection is not None else b""
        if trusted and self._objection(trusted) is not None:
            self.cut()

    def stop(self) -> None:
        """Begin no further call, and end those on their way."""
        self._stopping.set()
        self.cut()

    def join(self, timeout: float) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join(timeout)

    def note(self, error: Exception) -> None:
        """Log why a call failed."""
        if self._stopping.is_set():
            return
        if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE:
            text = examine(self.endpoint, self._guard.identity, self._peer).text
        elif isinstance(error, grpc.RpcError):
            text = f"{error.code().name}: {shown(error.details(), limit=500)}"
        elif isinstance(error, (UnseenError, ValueError)):  # a connection that was closed here is a ValueError
            text = str(error)
        else:
            _log.error("mail with %s: an unexpected error", self._peer, exc_info=error)
            return
        self._complain(self._peer, f"no mail with {self._peer}: {text}")

    # --- the two threads

    def _keep(self, once: Callable[[], bool]) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            with _Noted(self) as noted:
                noted.fine = once()
            if noted.fine:
                pause = FIRST_PAUSE
                continue
            if noted.failed:
                self.cut()
            self._stopping.wait(pause_after(pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _fetch(self) -> bool:
        """Wait for letters of the peer; return whether all that came was taken."""
        self._exchange(letters=False, wait=self._wait)
        return not self._clerk.has_refused(self._peer)

    def _bring(self) -> bool:
        """Bring letters to the peer once there are any; return whether it took them."""
        self._clerk.wait(self._peer, self._wait, lambda: not self._stopping.is_set())
        if self._stopping.is_set():
            return True
        return self._exchange(letters=True)

    def _exchange(self, *, letters: bool, wait: float = 0.0) -> bool:
        """Make one call; return whether the peer took what it was brought."""
        connection, said = self._connected(), self._clerk.say(self._peer, letters=letters, wait=wait)
        call = connection.unary_unary(f"/{SERVICE}/{EXCHANGE}")
        answer, state = call.with_call(said, timeout=wait + _PATIENCE, metadata=self._guard.own_list())
        self._guard.learn(self._peer, state.initial_metadata())
        # The list that has just come may revoke the certificate of this very connection.
        objection = self._objection(self._trusted)
        if objection is not None:
            raise HandshakeRefused(objection)
        return not self._clerk.hear(self._peer, answer).complaint

    def _connected(self) -> Any:
        """Return a connection to whom the guard lets in."""
        with self._lock:
            if self._connection is None and not self._stopping.is_set():
                self._connection = self._connect()
            if self._connection is None:
                raise PeerUnreachable("this node stops")
            return self._connection

    def _connect(self) -> Any:
        trusted = self._guard.trusted_at(self.endpoint, self._peer)
        if trusted is None:
            raise HandshakeRefused(examine(self.endpoint, self._guard.identity, self._peer).text)
        self._trusted = trusted
        return dialled(self.endpoint, self._guard.identity, self._peer, trusted)

    def _objection(self, trusted: bytes) -> str | None:
        try:
            return self._guard.objection(self._peer, trusted)
        except UnseenError as error:  # by what to judge it cannot be read
            return str(error)


class _Noted:
    """Logs what one round of a thread failed of, so that the next can follow."""

    def __init__(self, correspondence: Correspondence) -> None:
        self.fine = False
        self.failed = False
        self._correspondence = correspondence

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.failed = isinstance(error, Exception)
        if isinstance(error, Exception):
            self._correspondence.note(error)
        return self.failed
