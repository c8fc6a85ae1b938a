"""Carries a pairing over the node's one port: the inviter waits there, the joiner dials, people compare a code.

TLS 1.3 with the inviter's node certificate. A node that does not run waits at its port in a process of its own
(``Host``). One that runs has gRPC there: the joiner, who sees that, makes a stream under the certificate that the
invitation gives to its guest (``usecases.pairings`` is the other side). The messages are the same.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization

from unseen.codec import decode, encode_bytes, message
from unseen.errors import (
    HandshakeRefused,
    PeerUnreachable,
    PermissionDenied,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.invitation import SECRET_BYTES, Door, Invitation
from unseen.node.pairing import NONCE_BYTES, Found, Inviter, Joiner
from unseen.node.partners import alone
from unseen.node.wires import FRAME_BYTES, PATIENCE, SocketWire, StreamWire, Wire, translated
from unseen.transport.diagnosis import Finding, connect, in_memory, split_endpoint

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import PAIR, SERVICE, dialled
from unseen.transport.tls import Identity, host_name, read_certificate

PROTOCOL = "unseen-pairing/1"
_OF_A_NODE = "h2"
TALK_SECONDS = 900.0
"""For people who call each other."""
_MOST_GUESTS = 16


@message("node/pairing/verdict")
class Verdict:
    """Whether the person at this side heard the right code."""

    agreed: bool


class Encounter:
    """Two nodes that know the same secret, while their people compare codes."""

    def __init__(self, node: Node, wire: Wire, found: Found, endpoint: str | None) -> None:
        self.found = found
        self._node = node
        self._wire = wire
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
        try:
            self._wire.send(encode_bytes(Verdict(agreed)))
            return decode(Verdict, self._wire.receive(peer, TALK_SECONDS), sender=peer).agreed
        finally:
            self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the other side if nothing came of it."""
        if not self._over:
            with suppress(TransportError):
                self._wire.send(encode_bytes(Verdict(agreed=False)))
            self._wire.close()


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
        self.invitation = new_invitation(node, lifetime=lifetime, joiner=joiner, address=address)
        self._place = ExitStack()
        try:
            # A node that runs leaves its port for a moment whenever it lets other partners in.
            self._place.enter_context(alone(node.folder))
        except UsageError as error:
            raise UsageError(
                f"the node in {node.folder} runs: let it invite by `unseen partner invite`, after `unseen login`; or "
                "stop it, and start it again afterwards"
            ) from error
        with self._place.pop_all() as place:
            self._listener = _listen(node.config.listen or "")
            self._place = place.pop_all()
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
        self._place.close()
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
                connection.settimeout(PATIENCE)
                # Raises if the other side has hung up already, for which Python's TLS would not close its socket.
                connection.getpeername()
                self._meet(SocketWire(self._context.wrap_socket(connection, server_side=True)))
        finally:
            connection.close()
            self._guests.release()

    def _meet(self, wire: Wire) -> None:
        with Inviter(self.door, self._identity, secrets.token_bytes(NONCE_BYTES)) as side:
            self._met.put(meet(self._node, wire, side))
            if self._over.is_set():
                self._dismiss()


def meet(node: Node, wire: Wire, side: Inviter) -> Encounter:
    """Return the encounter with a guest, who knows the secret; hang up on another one.

    Raises:
        UnseenError: It does not know it, or went away; if it is there, it was told.
    """
    try:
        found = _talk(wire, side)
    except BaseException:
        wire.close()
        raise
    # Whoever could reach this node will dial it.
    return Encounter(node, wire, found, None)


def _talk(wire: Wire, side: Inviter) -> Found:
    try:
        wire.send(side.answer(wire.receive("the joiner"), datetime.now(UTC)))
        welcome, found = side.welcome(wire.receive("the joiner"), datetime.now(UTC))
    except TransportError:  # nobody is there to be told
        raise
    except UnseenError as error:
        wire.send(str(error).encode()[:FRAME_BYTES], refused=True)
        raise
    wire.send(welcome)
    return found


def new_invitation(
    node: Node, *, lifetime: timedelta, joiner: PartyId | None = None, address: str | None = None
) -> Invitation:
    """Return an invitation to the port of a node.

    Raises:
        UsageError: It has none, or not at an address that a partner can dial.
    """
    if node.config.listen is None:
        raise UsageError(
            f"{node.name} does not listen, so nobody can join it: let the partner invite, or name a port as "
            f"`listen` in {node.folder / 'node.yaml'}"
        )
    return Invitation(
        endpoint=_reachable(node.config.listen, address),
        inviter=node.name,
        joiner=joiner,
        root=_fingerprint(node.identity()),
        expires=datetime.now(UTC).replace(microsecond=0) + lifetime,
        secret=secrets.token_bytes(SECRET_BYTES),
    )


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
        raise PeerUnreachable(f"{connection.text}; does {inviter} still wait there?")
    wire, certificate = _dialled(connection, invitation)
    try:
        wire.send(commitment)
        wire.send(side.opening(_answer(wire, invitation), certificate, datetime.now(UTC)))
        found = side.found(wire.receive(inviter))
    except BaseException:
        wire.close()
        raise
    return Encounter(node, wire, found, invitation.endpoint)


def _answer(wire: Wire, invitation: Invitation) -> bytes:
    try:
        return wire.receive(invitation.inviter)
    except TransportError as error:
        if not isinstance(wire, StreamWire):
            raise
        raise HandshakeRefused(
            f"the node of {invitation.inviter} at {invitation.endpoint} does not know the invitation (any more): "
            f"it has ended or was taken back; ask {invitation.inviter} for a new one"
        ) from error


def _dialled(connection: socket.socket, invitation: Invitation) -> tuple[Wire, bytes]:
    """Return what leads to whoever listens at the invitation's endpoint, and the certificate that it showed, DER."""
    inviter = invitation.inviter
    with translated(inviter):
        secured = _client_context().wrap_socket(connection, server_hostname=host_name(inviter))
    certificate, protocol = secured.getpeercert(binary_form=True) or b"", secured.selected_alpn_protocol()
    if protocol == PROTOCOL:
        return SocketWire(secured), certificate
    secured.close()
    if protocol != _OF_A_NODE:
        raise HandshakeRefused(f"{invitation.endpoint} does not wait for a partner: does {inviter} still wait there?")
    return _as_guest(invitation, ssl.DER_cert_to_PEM_cert(certificate).encode()), certificate


def _as_guest(invitation: Invitation, certificate_pem: bytes) -> Wire:
    """Return a stream to the node that showed this certificate and no other; it ends at once without an invitation."""
    guest = invitation.guest(datetime.now(UTC))
    connection = dialled(invitation.endpoint, guest, invitation.inviter, certificate_pem)
    wire = StreamWire(connection.close)
    wire.follow(connection.stream_stream(f"/{SERVICE}/{PAIR}")(wire.outgoing()))
    return wire


def _listen(endpoint: str) -> socket.socket:
    host, port = split_endpoint(endpoint)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot wait at {endpoint}: {error.strerror or error}; nobody can be invited while something else, as a "
            "job from a party file, uses the port"
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
    context.set_alpn_protocols([PROTOCOL, _OF_A_NODE])
    return context


def _fingerprint(identity: Identity) -> bytes:
    root = read_certificate(identity.ca_pem)
    return hashlib.sha256(root.public_bytes(serialization.Encoding.DER)).digest()
