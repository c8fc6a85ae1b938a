"""Keeps up the correspondence with one peer that this node dials: one call waits for letters, another brings ours."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import EXCHANGE, SERVICE, dialled

import grpc  # isort: skip

import threading
import time
from collections.abc import Callable
from typing import Any

from unseen.errors import HandshakeRefused, PeerUnreachable, UnseenError
from unseen.ids import PartyId
from unseen.transport.diagnosis import examine
from unseen.transport.guard import Guard
from unseen.transport.lines import FIRST_PAUSE, pause_after
from unseen.transport.mail import Clerk, Exchange
from unseen.transport.visits import Attempt, Complain

_LONGEST_PAUSE = 10.0
_PATIENCE = 20.0
_LATE = 1.0
# What says nothing against the connection.
_BUSY = (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)


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
        complain: Complain,
        wait: float,
    ) -> None:
        self.endpoint = endpoint
        self._guard = guard
        self._peer = peer
        self._clerk = clerk
        self._complain = complain
        self._wait = wait
        self._stopping = threading.Event()
        self._lock, self._connecting = threading.Lock(), threading.Lock()
        self._connection: Any = None
        self._trusted = b""
        self._acknowledged = 0
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
        self._clerk.stir(self._peer)
        self.cut()

    def join(self, timeout: float) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join(timeout)

    # --- the two threads

    def _keep(self, once: Callable[[], bool]) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            fine = False
            with Attempt() as attempt:
                fine = once()
            if attempt.error is not None and not self._stopping.is_set():
                self._note(attempt.error)
            if fine:
                pause = FIRST_PAUSE
                continue
            self._stopping.wait(pause_after(pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note(self, error: Exception) -> None:
        """Log why a call failed, and end a connection that may be of no use."""
        peer = self._peer
        if isinstance(error, grpc.RpcError):
            code = error.code()
            if code is grpc.StatusCode.CANCELLED:
                return  # by the other thread
            text = f"{code.name}: {error.details()}"
            if code not in _BUSY:
                before = self._trusted
                self.cut()
                if self._guard.trusted_at(self.endpoint, peer) not in {None, before}:
                    self._complain(peer, f"{peer} goes on with another certificate: the connection is made anew", None)
                    return
                text = f"{examine(self.endpoint, self._guard.identity, peer).text} ({text})"
            self._complain(peer, f"no mail with {peer}: {text}", None)
        elif isinstance(error, UnseenError):
            self.cut()
            self._complain(peer, f"no mail with {peer}: {error}", None)
        else:
            self._complain(peer, f"mail with {peer} fails here: {type(error).__name__}", error)

    def _fetch(self) -> bool:
        """Wait for letters of the peer; return whether to ask again at once.

        Not if it answers neither with new letters nor late: it could keep this node busy with that.
        """
        begin, before = time.monotonic(), self._clerk.received(self._peer)
        self._exchange(letters=False, wait=self._wait)
        late = time.monotonic() - begin >= _LATE
        return (late or self._clerk.received(self._peer) != before) and not self._clerk.has_refused(self._peer)

    def _bring(self) -> bool:
        """Bring letters to the peer once there are any; return whether it took some."""
        if not self._clerk.wait(self._peer, self._wait, lambda: not self._stopping.is_set()):
            return True
        before = self._acknowledged
        self._acknowledged = self._exchange(letters=True).received
        return self._acknowledged != before

    def _exchange(self, *, letters: bool, wait: float = 0.0) -> Exchange:
        """Make one call; return the answer, which was acted upon."""
        connection, said = self._connected(), self._clerk.say(self._peer, letters=letters, wait=wait)
        try:
            call = connection.unary_unary(f"/{SERVICE}/{EXCHANGE}")
            answer, state = call.with_call(said, timeout=wait + _PATIENCE, metadata=self._guard.own_list())
        except ValueError as error:
            raise PeerUnreachable("the connection was closed on this side") from error
        self._guard.learn(self._peer, state.initial_metadata())
        # The list that has just come may revoke the certificate of this very connection.
        objection = self._objection(self._trusted)
        if objection is not None:
            raise HandshakeRefused(objection)
        return self._clerk.hear(self._peer, answer)

    def _connected(self) -> Any:
        """Return a connection to whom the guard lets in."""
        with self._connecting:  # one thread connects, and the lock is free meanwhile
            with self._lock:
                if self._connection is not None:
                    return self._connection
            fresh = self._connect()
            with self._lock:
                if not self._stopping.is_set():
                    self._connection = fresh
                    return fresh
        fresh.close()
        raise PeerUnreachable("this node stops")

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
