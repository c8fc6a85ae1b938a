"""Carries a pairing over the node's one port: the inviter waits there, the joiner dials, people compare a code.

TLS 1.3 with the inviter's node certificate; frames of four bytes of length, one of kind, and a message. The port is
busy with that only as long as somebody is invited.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization

from unseen.codec import decode, encode_bytes, message, shown
from unseen.errors import (
    HandshakeRefused,
    PeerFailed,
    PeerUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.invitation import SECRET_BYTES, Door, Invitation
from unseen.node.pairing import NONCE_BYTES, Found, Inviter, Joiner
from unseen.transport.diagnosis import Finding, connect, in_memory, split_endpoint
from unseen.transport.tls import Identity, host_name, read_certificate

PROTOCOL = "unseen-pairing/1"
_FRAME = struct.Struct(">IB")
_FRAME_BYTES = 1 << 14
_SAID, _REFUSED = 0, 1
_PATIENCE = 10.0
# For people who call each other.
_TALK_SECONDS = 900.0
_MOST_GUESTS = 16


@message("node/pairing/verdict")
class Verdict:
    """Whether the person at this side heard the right code."""

    agreed: bool


class Encounter:
    """Two nodes that know the same secret, while their people compare codes."""

    def __init__(self, node: Node, connection: ssl.SSLSocket, found: Found, endpoint: str | None) -> None:
        self.found = found
        self._node = node
        self._connection = connection
        self._endpoint = endpoint
        self._over = False

    def conclude(self, heard: str) -> None:
        """Keep the partner, if both people heard the right codes.

        Raises:
            PermissionDenied: The codes differ; nothing was kept.
            TransportError: The other side went away; nothing was kept.
        """
        agreed, peer = self.found.is_heard(heard), self.found.peer
        self._node.partners.check_root(peer, self.found.root_pem)
        theirs = self._exchange(agreed)
        if not agreed:
            raise PermissionDenied(
                f"the code is not the one that {peer} has to read: nothing was kept. Was it misheard, or is somebody "
                "between? Invite again; if it differs again, do not go on"
            )
        if not theirs:
            raise PermissionDenied(f"at {peer} the code was not confirmed: nothing was kept; invite again")
        self._node.partners.add(peer, self.found.root_pem, self._endpoint, datetime.now(UTC))

    def _exchange(self, agreed: bool) -> bool:
        self._over = True
        peer = self.found.peer
        with self._connection, _translated(peer):
            self._connection.settimeout(_TALK_SECONDS)
            _send(self._connection, encode_bytes(Verdict(agreed)))
            return decode(Verdict, _receive(self._connection, peer), sender=peer).agreed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the other side if nothing came of it."""
        if not self._over:
            with self._connection, suppress(OSError):
                _send(self._connection, encode_bytes(Verdict(agreed=False)))


class Host:
    """The inviter, waiting at the node's port; leaving the block ends the invitation.

    Raises:
        UsageError: The node has no port, or it is taken.
    """

    def __init__(
        self, node: Node, *, lifetime: timedelta, joiner: PartyId | None = None, address: str | None = None
    ) -> None:
        self._node = node
        self._identity = node.identity()
        if node.config.listen is None:
            raise UsageError(
                f"{node.name} does not listen, so nobody can join it: let the partner invite, or name a port as "
                f"`listen` in {node.folder / 'node.yaml'}"
            )
        self._listener = _listen(node.config.listen)
        try:
            self.invitation = Invitation(
                endpoint=_reachable(node.config.listen, address),
                inviter=node.name,
                joiner=joiner,
                root=_fingerprint(self._identity),
                expires=datetime.now(UTC).replace(microsecond=0) + lifetime,
                secret=secrets.token_bytes(SECRET_BYTES),
            )
        except UsageError:
            self._listener.close()
            raise
        self.door = Door(self.invitation)
        self._context = _server_context(self._identity)
        self._guests = threading.BoundedSemaphore(_MOST_GUESTS)
        self._met: queue.Queue[Encounter] = queue.Queue()
        self._over = threading.Event()
        threading.Thread(target=self._accept, name="invite", daemon=True).start()

    def wait(self) -> Encounter:
        """Return when somebody has joined who knows the secret.

        Raises:
            PermissionDenied: The invitation is over and nobody was paired with: it expired, has answered as many as it
                may, or was used by somebody who then went away.
        """
        while True:
            try:
                return self._met.get(timeout=0.2)
            except queue.Empty:
                reason = self.door.closed(datetime.now(UTC))
                # In this order: whoever comes in is in the queue before its conversation is over.
                if reason is not None and not self.door.talking and self._met.empty():
                    raise PermissionDenied(f"{reason}; nobody was paired with") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._over.set()
        self._dismiss()

    def _dismiss(self) -> None:
        """Tell those who came when nobody waited any more."""
        with suppress(queue.Empty), self._met.get_nowait():
            pass

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ConnectionError:
                continue  # whoever dialled has hung up before
            except OSError:
                return
            if not self._guests.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._receive_guest, args=(connection,), name="guest", daemon=True).start()

    def _receive_guest(self, connection: socket.socket) -> None:
        """Let one who dialled go through the messages; whatever it does, nothing but its own connection suffers."""
        try:
            with suppress(OSError, UnseenError):
                connection.settimeout(_PATIENCE)
                self._meet(self._context.wrap_socket(connection, server_side=True))
        finally:
            self._guests.release()

    def _meet(self, secured: ssl.SSLSocket) -> None:
        with Inviter(self.door, self._identity, secrets.token_bytes(NONCE_BYTES)) as side:
            try:
                found = self._talk(secured, side)
            except BaseException:
                secured.close()
                raise
            # Whoever could reach this node will dial it.
            self._met.put(Encounter(self._node, secured, found, None))
            if self._over.is_set():
                self._dismiss()

    def _talk(self, secured: ssl.SSLSocket, side: Inviter) -> Found:
        try:
            _send(secured, side.answer(_receive(secured, "the joiner"), datetime.now(UTC)))
            welcome, found = side.welcome(_receive(secured, "the joiner"), datetime.now(UTC))
        except UnseenError as error:
            _send(secured, str(error).encode()[:_FRAME_BYTES], kind=_REFUSED)
            raise
        _send(secured, welcome)
        return found


def join(node: Node, invitation: Invitation) -> Encounter:
    """Dial the inviter and return the encounter with it.

    Raises:
        PeerUnreachable: Nobody answers at the invitation's endpoint.
        HandshakeRefused: Whoever answers is not the inviter.
        PermissionDenied: The invitation is over, or for somebody else.
        PeerFailed: The inviter refused, and said why.
    """
    identity, inviter = node.identity(), invitation.inviter
    side = Joiner(invitation, identity, secrets.token_bytes(NONCE_BYTES))
    commitment = side.commitment(datetime.now(UTC))
    connection = connect(invitation.endpoint, inviter)
    if isinstance(connection, Finding):
        raise PeerUnreachable(f"{connection.text}; does `unseen node invite` still wait there?")
    with _translated(inviter):
        secured = _client_context().wrap_socket(connection, server_hostname=host_name(inviter))
        try:
            secured.settimeout(_PATIENCE)
            _check_pairing(secured, invitation.endpoint)
            _send(secured, commitment)
            shown_certificate = secured.getpeercert(binary_form=True) or b""
            _send(secured, side.opening(_receive(secured, inviter), shown_certificate, datetime.now(UTC)))
            found = side.found(_receive(secured, inviter))
        except BaseException:
            secured.close()
            raise
    return Encounter(node, secured, found, invitation.endpoint)


def _check_pairing(secured: ssl.SSLSocket, endpoint: str) -> None:
    if secured.selected_alpn_protocol() != PROTOCOL:
        raise HandshakeRefused(f"{endpoint} does not wait for a partner: does `unseen node invite` still run there?")


class _translated:  # noqa: N801  # reads as a phrase
    """Says what a broken connection means."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise TransportError(f"{self._peer} said nothing for too long: nothing was kept; invite again") from error
        if isinstance(error, ssl.SSLError):
            raise HandshakeRefused(f"{self._peer}: no TLS 1.3 at its port ({error.reason or error})") from error
        if isinstance(error, OSError):
            raise TransportError(f"{self._peer} went away ({error}): nothing was kept; invite again") from error


def _send(connection: ssl.SSLSocket, data: bytes, *, kind: int = _SAID) -> None:
    connection.sendall(_FRAME.pack(len(data), kind) + data)


def _receive(connection: ssl.SSLSocket, peer: str) -> bytes:
    size, kind = _FRAME.unpack(_exactly(connection, _FRAME.size, peer))
    if size > _FRAME_BYTES or kind not in (_SAID, _REFUSED):
        raise RemoteProtocolError(f"{peer}: a frame of {size} bytes and kind {kind}; this is no pairing")
    data = _exactly(connection, size, peer)
    if kind == _REFUSED:
        raise PeerFailed(f"{peer} refused: {shown(data.decode('utf-8', 'replace'), limit=500)}")
    return data


def _exactly(connection: ssl.SSLSocket, count: int, peer: str) -> bytes:
    data, patience = b"", connection.gettimeout() or _PATIENCE
    deadline = time.monotonic() + patience
    while len(data) < count:
        # One limit for all of it, so that nobody holds a place by one byte now and then.
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        more = connection.recv(count - len(data))
        if not more:
            raise TransportError(f"{peer} hung up: nothing was kept; invite again")
        data += more
    connection.settimeout(patience)
    return data


def _listen(endpoint: str) -> socket.socket:
    host, port = split_endpoint(endpoint)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot wait at {endpoint}: {error.strerror or error}; nobody can be invited while the node or a job uses "
            "the port: stop it, invite, and start it again"
        ) from error


def _reachable(listen: str, address: str | None) -> str:
    """Return the endpoint that the partner has to dial."""
    endpoint = address or listen
    host, _ = split_endpoint(endpoint)
    if host in ("0.0.0.0", "::"):  # noqa: S104  # asked about, not bound to
        raise UsageError(f"{endpoint} is no address that a partner can dial: say --address HOST:PORT")
    if not endpoint.isascii() or len(endpoint) > 255:
        raise UsageError(f"{endpoint} is no address for an invitation: write its name in ASCII (punycode), and short")
    return endpoint


def _server_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols([PROTOCOL])
    with in_memory(identity.certificate_pem + identity.key_pem) as path:
        context.load_cert_chain(path)
    return context


def _client_context() -> ssl.SSLContext:
    """Return a context that proves who holds a certificate and trusts none: ``Joiner`` judges it by the invitation."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    return context


def _fingerprint(identity: Identity) -> bytes:
    root = read_certificate(identity.ca_pem)
    return hashlib.sha256(root.public_bytes(serialization.Encoding.DER)).digest()
