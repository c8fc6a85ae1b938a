"""Walks the whole way to a peer, from its name to the version of its links, and names the first thing that is wrong."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import FACTS, SERVICE, dialled

import grpc  # isort: skip

from datetime import UTC, datetime

from unseen.codec import decode, shown
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.transport.diagnosis import Cause, Finding, Stage, examine
from unseen.transport.facts import Facts, complaint
from unseen.transport.guard import Guard
from unseen.transport.tls import Identity

_PATIENCE = 5.0


def visit(endpoint: str, identity: Identity, peer: PartyId) -> Finding:
    """Return what keeps ``identity`` from a link to ``peer``, or a finding that all is fine.

    A peer that answers is also handed this side's revocation list, and this side keeps the peer's.

    Raises:
        UsageError: ``endpoint`` is not ``host:port``, or the identity has no such partner.
    """
    finding = examine(endpoint, identity, peer)
    return _ask(endpoint, identity, peer) if finding.cause is Cause.FINE else finding


def _ask(endpoint: str, identity: Identity, peer: PartyId) -> Finding:
    place = f"{peer} at {endpoint}"
    guard = Guard(identity)
    trusted = guard.trusted_at(endpoint, peer)
    if trusted is None:
        return Finding(Cause.AWAY, f"{place}: it has just gone away; try again", Stage.CONNECTION)
    with dialled(endpoint, identity, peer, trusted) as connection:
        call = connection.unary_unary(f"/{SERVICE}/{FACTS}")
        try:
            answer, state = call.with_call(b"", timeout=_PATIENCE, metadata=guard.own_list())
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                text = "they run an older version of unseen, or another program: update their side"
                return Finding(Cause.REFUSED, f"{place}: {text}", Stage.LINK)
            text = f"TLS is in order, and they did not answer ({error.code().name}: {shown(error.details())})"
            return Finding(Cause.AWAY, f"{place}: {text}; look into their log", Stage.LINK)
    guard.learn(peer, state.initial_metadata())
    try:
        text = complaint(decode(Facts, answer, sender=peer), datetime.now(UTC)) or ""
    except RemoteProtocolError as error:
        text = f"they answer in words that this version does not know ({error}); bring both sides to one version"
    if text:
        return Finding(Cause.REFUSED, f"{place}: {text}", Stage.LINK)
    return Finding(Cause.FINE, f"{place}: all is in order", Stage.LINK)
