"""Links over gRPC with mutual TLS 1.3: one port a party, one stream a pair of parties, raw packets on it.

There is no other port and no unencrypted one. Who dials is a matter of firewalls only: give a peer's endpoint to dial
it, ``None`` to be dialled by it. The dialer checks that the listener's certificate names the peer, and the listener
that the dialer's certificate names one of its peers; what the greeting says must agree with that.

With an identity that has a ``trust`` each side also asks it at every handshake, and every few seconds while the link is
up, whether it objects to the other's certificate, and hands over its own revocation list.

Requires that gRPC has not been imported before this module: it reads its TLS settings once, see ``_REFUSE_TLS_1_2``.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from unseen.codec import Buffer, shown
from unseen.errors import (
    DeadlineExceeded,
    HandshakeRefused,
    PeerUnreachable,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.transport.channel import Waiting
from unseen.transport.diagnosis import Cause, examine, split_endpoint
from unseen.transport.facts import facts
from unseen.transport.guard import Guard
from unseen.transport.line import Line, Stream
from unseen.transport.link import EPOCH_BYTES, MAX_PACKET_BYTES, Limits, Why, cut, refusal
from unseen.transport.tls import Identity, host_name, party_named

# gRPC for Python has no setting for the lowest TLS version. Its list of cipher suites, though, concerns TLS 1.2 and
# below only, and with a single suite that needs a pre-shared key nobody can agree on anything but TLS 1.3.
_CIPHERS = "GRPC_SSL_CIPHER_SUITES"
_REFUSE_TLS_1_2 = "ECDHE-PSK-CHACHA20-POLY1305"
_TOO_LATE = "grpc" in sys.modules and os.environ.get(_CIPHERS) != _REFUSE_TLS_1_2
os.environ[_CIPHERS] = _REFUSE_TLS_1_2
# Its own words about failed handshakes go to stderr; `diagnosis` says it better.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402  # the two settings above are read when it is imported

_log = logging.getLogger(__name__)

SERVICE = "unseen.Link"
METHOD = "Stream"
FACTS = "Facts"
# A refusal of our certificate and a cut connection look alike; cuts do not come three times in a row at the same place.
_SUSPICIONS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LINGER = 0.5


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


class GrpcChannel:
    """One party's links to its peers over gRPC.

    Args:
        identity: Certificate, key and authority of this party.
        peers: The endpoint to dial for every peer, or ``None`` for a peer that dials us.
        listen: ``host:port`` to be dialled at, port 0 for any; needed if some peer has no endpoint.
        options: Patience and limits.

    Raises:
        UsageError: The arguments do not fit, or the port is not free.
    """

    def __init__(
        self,
        identity: Identity,
        peers: Mapping[PartyId, str | None],
        *,
        listen: str | None = None,
        options: Options | None = None,
    ) -> None:
        _check(identity, peers, listen)
        self.party = identity.party
        self.peers = frozenset(peers)
        self.port = 0
        """The port that peers can dial, 0 if there is none."""
        self._identity = identity
        self._endpoints = dict(peers)
        self._options = options or Options()
        epoch = secrets.token_bytes(EPOCH_BYTES)
        self._lines = {
            peer: Line(self.party, peer, epoch=epoch, limits=self._options.limits, grace=self._options.connect_grace)
            for peer in peers
        }
        self._guard = Guard(identity)
        self._blocked = 0
        self._blocked_lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = self._start_server(listen) if listen is not None else None
        self._dialers = [
            threading.Thread(target=self._dial, args=(self._lines[peer], endpoint), name=f"dial {peer}", daemon=True)
            for peer, endpoint in peers.items()
            if endpoint is not None
        ]
        if identity.trust is not None:
            self._dialers.append(threading.Thread(target=self._judge_again, name="judge", daemon=True))
        for dialer in self._dialers:
            dialer.start()

    # --- the port

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

    def renew(self, peer: PartyId) -> None:
        """Give the link to ``peer`` up with all that is on its way, and wait for a new one from a peer that dials us.

        A link is for one life of both parties; a server of many clients goes on with those that were started anew.

        Raises:
            UsageError: There is no link to ``peer``, or it is this party that dials: then a new channel is needed.
        """
        if self._endpoints.get(peer) is not None:
            raise UsageError(f"{self.party} dials {peer}: a new link needs a new channel")
        old, options = self._line(peer), self._options
        epoch = secrets.token_bytes(EPOCH_BYTES)
        fresh = Line(self.party, peer, epoch=epoch, limits=options.limits, grace=options.connect_grace)
        with self._blocked_lock:
            fresh.accept(everything=self._blocked > 0)
            self._lines[peer] = fresh
        old.fail(PeerUnreachable(f"the link to {peer} has begun anew"))
        old.hang_up(0)

    def close(self) -> None:
        """Say goodbye to every peer and give port, threads and connections back."""
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
                    _log.warning("%s left before %s had taken in everything", self.party, peer)
        for line in self._lines.values():
            line.hang_up(_LINGER)
        if self._server is not None:
            self._server.stop(_LINGER).wait()
        for dialer in self._dialers:
            dialer.join(timeout=self._options.close_grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, peer: PartyId) -> Line:
        line = self._lines.get(peer)
        if line is None:
            raise UsageError(f"{self.party} has no link to {peer}: its peers are {', '.join(sorted(self.peers))}")
        return line

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

    def _judge_again(self) -> None:
        """End links whose certificates were revoked, or ran out, while they were up."""
        while not self._stopping.wait(self._options.recheck):
            for peer, objection in self._guard.turned_bad():
                _log.warning("%s ends the link to %s: %s", self.party, peer, objection)
                self._lines[peer].fail(HandshakeRefused(f"the link to {peer} was ended: {objection}"))

    # --- as listener

    def _start_server(self, listen: str) -> Any:
        split_endpoint(listen)
        identity = self._identity
        # One stream a peer, one that takes an older one's place, and some to be refused.
        streams = 2 * len(self._lines) + 2
        server = grpc.server(
            _DaemonThreads(),
            handlers=[
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        METHOD: grpc.stream_stream_rpc_method_handler(self._serve),
                        FACTS: grpc.unary_unary_rpc_method_handler(self._tell_facts),
                    },
                )
            ],
            options=_grpc_options(self._options),
            maximum_concurrent_rpcs=streams,
        )
        authorities = dict.fromkeys(identity.authority_of(peer) for peer in self._lines)
        credentials = grpc.ssl_server_credentials(
            [(identity.key_pem, identity.certificate_pem)], b"".join(authorities), require_client_auth=True
        )
        try:
            self.port = server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise UsageError(
                f"{self.party} cannot listen at {listen}: another process uses the port, or the address is not of this "
                "machine; choose another one"
            ) from error
        server.start()
        return server

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        names, peer = _caller(context)
        line = None if peer is None else self._lines.get(peer)
        if peer is None or line is None:
            _log.warning("%s refused a stream from %s at %s: no peer of ours", self.party, names, context.peer())
            yield refusal(Why.IDENTITY, f"{names} is not one of its peers")
            return
        if self._endpoints[peer] is not None:
            _log.warning("%s refused a stream from %s: it dials that party itself", self.party, peer)
            yield refusal(Why.IDENTITY, "both sides dial each other; give the endpoint to one of them only")
            return
        objection = self._guard.let_in(peer, self._certificate_of(peer, context))
        if objection is not None:
            _log.warning("%s refused a stream from %s: %s", self.party, peer, objection)
            yield refusal(Why.IDENTITY, objection)
            return
        stream = line.attach(context.cancel)
        if not context.add_callback(lambda: line.detach(stream, "the connection broke")):
            line.detach(stream, "the connection broke")
        threading.Thread(target=_read, args=(line, stream, requests), name=f"read {peer}", daemon=True).start()
        yield from line.outgoing(stream)

    def _certificate_of(self, peer: PartyId, context: Any) -> bytes:
        """Return the certificate that a caller showed, PEM, after an exchange of revocation lists."""
        self._guard.learn(peer, context.invocation_metadata())
        context.send_initial_metadata(self._guard.own_list())
        return b"".join(context.auth_context().get("x509_pem_cert", ()))

    def _tell_facts(self, request: bytes, context: Any) -> bytes:
        names, peer = _caller(context)
        if peer is None or peer not in self._lines:
            return facts(f"{names} is not a party of the job that runs here")
        return facts(self._guard.objection(peer, self._certificate_of(peer, context)) or "")

    # --- as dialer

    def _dial(self, line: Line, endpoint: str) -> None:
        try:
            self._keep_dialling(line, endpoint)
        except UnseenError as error:  # by what to judge the peer cannot be read any more
            line.fail(error)

    def _keep_dialling(self, line: Line, endpoint: str) -> None:
        pause, suspicions = _FIRST_PAUSE, 0
        while not line.dead:
            if self._talk(line, endpoint):
                pause, suspicions = _FIRST_PAUSE, 0
            elif not line.dead:
                finding = examine(endpoint, self._identity, line.peer)
                suspicions = suspicions + 1 if finding.cause is Cause.SUSPECT else 0
                if finding.cause is Cause.REFUSED or suspicions == _SUSPICIONS:
                    line.fail(HandshakeRefused(finding.text))
                elif finding.cause is not Cause.FINE:
                    line.blame(finding.text)
            # Half of the pause is random, so that many dialers do not come back in step.
            line.wait_dead(pause * (0.5 + secrets.randbelow(1000) / 2000))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _talk(self, line: Line, endpoint: str) -> bool:
        """Carry one stream to its end; return whether the two sides greeted each other on it."""
        trusted = self._guard.trusted_at(endpoint, line.peer)
        if trusted is None:
            return False
        with dialled(endpoint, self._identity, line.peer, trusted, self._options) as connection:
            stream = line.attach(connection.close)
            try:
                call = connection.stream_stream(f"/{SERVICE}/{METHOD}")(
                    line.outgoing(stream), metadata=self._guard.own_list()
                )
                self._guard.learn(line.peer, call.initial_metadata())
                # The list that has just come may revoke the certificate of this very connection.
                objection = self._guard.let_in(line.peer, trusted)
                if objection is not None:
                    line.fail(HandshakeRefused(objection))
                for data in call:
                    if not line.take(stream, data):
                        stream.drained.wait(_LINGER)
                        break
                cause = "it ended the connection"
            except grpc.RpcError as error:
                cause = f"the connection broke ({error.code().name}: {shown(error.details())})"
            except ValueError:
                cause = "the connection was closed on this side"
            return line.detach(stream, cause)


def dialled(endpoint: str, identity: Identity, peer: PartyId, trusted: bytes, options: Options) -> Any:
    """Return a gRPC channel to ``peer``, whose certificate has to be ``trusted``, or issued by it."""
    credentials = grpc.ssl_channel_credentials(trusted, identity.key_pem, identity.certificate_pem)
    return grpc.secure_channel(endpoint, credentials, _dialer_options(options, peer))


def _caller(context: Any) -> tuple[list[str], PartyId | None]:
    """Return the names in a caller's certificate, and the party that they stand for."""
    found = context.auth_context().get("x509_subject_alternative_name", ())
    names = [name.decode("ascii", "replace") for name in found]
    return names, party_named(names)


class _DaemonThreads(Executor):
    """Runs every stream in a thread of its own that does not keep a process alive which forgot to close its channel."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start ``fn`` at once; the future only tells when it is over."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                fn(*args, **kwargs)
            finally:
                future.set_result(None)

        threading.Thread(target=run, name="serve a stream", daemon=True).start()
        return future


def _read(line: Line, stream: Stream, requests: Iterator[bytes]) -> None:
    """Take what a dialer sends until its stream ends."""
    with suppress(grpc.RpcError):
        for data in requests:
            if not line.take(stream, data):
                return
    line.detach(stream, "it closed the connection")


def _nothing() -> None:
    """Wait on."""


def _check(identity: Identity, peers: Mapping[PartyId, str | None], listen: str | None) -> None:
    if _TOO_LATE:
        raise UsageError(
            "gRPC was imported before unseen.transport.grpc and may accept TLS 1.2: import this module first, or set "
            f"{_CIPHERS}={_REFUSE_TLS_1_2}"
        )
    if identity.party in peers:
        raise UsageError(f"{identity.party} cannot be its own peer")
    for peer, endpoint in peers.items():
        if endpoint is not None:
            split_endpoint(endpoint)
        elif listen is None:
            raise UsageError(f"{peer} has no endpoint and {identity.party} does not listen: give one of the two")


def _grpc_options(options: Options) -> list[tuple[str, int | str]]:
    alive = int(1000 * options.keepalive)
    return [
        ("grpc.max_receive_message_length", MAX_PACKET_BYTES),
        ("grpc.max_send_message_length", MAX_PACKET_BYTES),
        ("grpc.keepalive_time_ms", alive),
        ("grpc.keepalive_timeout_ms", alive),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", alive // 2),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", alive // 2),
        ("grpc.http2.max_ping_strikes", 0),
        # Two processes on one port would each get half of the streams.
        ("grpc.so_reuseport", 0),
    ]


def _dialer_options(options: Options, peer: PartyId) -> list[tuple[str, int | str]]:
    return [
        *_grpc_options(options),
        ("grpc.ssl_target_name_override", host_name(peer)),
        ("grpc.default_authority", host_name(peer)),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.enable_retries", 0),
        # Otherwise connections of different attempts share one back-off of gRPC's own.
        ("grpc.use_local_subchannel_pool", 1),
        # The endpoint is what was agreed; a proxy named in the environment was not.
        ("grpc.enable_http_proxy", 0),
    ]
