"""Links over gRPC with mutual TLS 1.3: one port a party, one stream a pair of parties, raw packets on it.

There is no other port and no unencrypted one. Who dials is a matter of firewalls only: give a peer's endpoint to dial
it, ``None`` to be dialled by it. The dialer checks that the listener's certificate names the peer, and the listener
that the dialer's certificate names one of its peers; what the greeting says must agree with that.

With an identity that has a ``trust`` each side also asks it at every handshake, and every few seconds while the link is
up, whether it objects to the other's certificate, and hands over its own revocation list.

Requires that gRPC has not been imported before this module, see ``endpoints``.
"""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import (
    FACTS,
    METHOD,
    SERVICE,
    DaemonThreads,
    caller,
    connection_options,
    dialled,
    refuse_old_tls,
)

import grpc  # isort: skip

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from unseen.codec import shown
from unseen.errors import HandshakeRefused, UnseenError, UsageError
from unseen.ids import PartyId
from unseen.transport.diagnosis import Cause, examine, split_endpoint
from unseen.transport.facts import facts
from unseen.transport.guard import Guard
from unseen.transport.line import Line, Stream
from unseen.transport.lines import FIRST_PAUSE, LINGER, LONGEST_PAUSE, LineChannel, Options, pause_after
from unseen.transport.link import Why, refusal
from unseen.transport.tls import Identity

_log = logging.getLogger(__name__)

# A refusal of our certificate and a cut connection look alike; cuts do not come three times in a row at the same place.
_SUSPICIONS = 3


class GrpcChannel(LineChannel):
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
        super().__init__(identity.party, peers, options or Options())
        self.port = 0
        """The port that peers can dial, 0 if there is none."""
        self._identity = identity
        self._endpoints = dict(peers)
        self._guard = Guard(identity)
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

    def renew(self, peer: PartyId) -> None:
        """Give the link to ``peer`` up with all that is on its way, and wait for a new one from a peer that dials us.

        A link is for one life of both parties; a server of many clients goes on with those that were started anew.

        Raises:
            UsageError: There is no link to ``peer``, or it is this party that dials: then a new channel is needed.
        """
        if self._endpoints.get(peer) is not None:
            raise UsageError(f"{self.party} dials {peer}: a new link needs a new channel")
        self._begin_anew(peer)

    def _release(self) -> None:
        if self._server is not None:
            self._server.stop(LINGER).wait()
        for dialer in self._dialers:
            dialer.join(timeout=self._options.close_grace)

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
            DaemonThreads(),
            handlers=[
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        METHOD: grpc.stream_stream_rpc_method_handler(self._serve),
                        FACTS: grpc.unary_unary_rpc_method_handler(self._tell_facts),
                    },
                )
            ],
            options=connection_options(self._options.keepalive),
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
        names, peer = caller(context)
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
        names, peer = caller(context)
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
        pause, suspicions = FIRST_PAUSE, 0
        while not line.dead:
            if self._talk(line, endpoint):
                pause, suspicions = FIRST_PAUSE, 0
            elif not line.dead:
                finding = examine(endpoint, self._identity, line.peer)
                suspicions = suspicions + 1 if finding.cause is Cause.SUSPECT else 0
                if finding.cause is Cause.REFUSED or suspicions == _SUSPICIONS:
                    line.fail(HandshakeRefused(finding.text))
                elif finding.cause is not Cause.FINE:
                    line.blame(finding.text)
            line.wait_dead(pause_after(pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _talk(self, line: Line, endpoint: str) -> bool:
        """Carry one stream to its end; return whether the two sides greeted each other on it."""
        trusted = self._guard.trusted_at(endpoint, line.peer)
        if trusted is None:
            return False
        with dialled(endpoint, self._identity, line.peer, trusted, self._options.keepalive) as connection:
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
                        stream.drained.wait(LINGER)
                        break
                cause = "it ended the connection"
            except grpc.RpcError as error:
                cause = f"the connection broke ({error.code().name}: {shown(error.details())})"
            except ValueError:
                cause = "the connection was closed on this side"
            return line.detach(stream, cause)


def _read(line: Line, stream: Stream, requests: Iterator[bytes]) -> None:
    """Take what a dialer sends until its stream ends."""
    with suppress(grpc.RpcError):
        for data in requests:
            if not line.take(stream, data):
                return
    line.detach(stream, "it closed the connection")


def _check(identity: Identity, peers: Mapping[PartyId, str | None], listen: str | None) -> None:
    refuse_old_tls()
    if identity.party in peers:
        raise UsageError(f"{identity.party} cannot be its own peer")
    for peer, endpoint in peers.items():
        if endpoint is not None:
            split_endpoint(endpoint)
        elif listen is None:
            raise UsageError(f"{peer} has no endpoint and {identity.party} does not listen: give one of the two")
