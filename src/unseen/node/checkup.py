"""What ``unseen doctor`` looks at: the node or party file here, and the way to each peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.node.app import PartyConfig, completed
from unseen.node.folder import RENEW_DAYS, Node, is_node, load_identity
from unseen.transport.diagnosis import Cause, Stage, own_fault
from unseen.transport.doctor import visit
from unseen.transport.tls import Identity

_SAID = {
    Stage.NAME: "name",
    Stage.CONNECTION: "connection",
    Stage.ENCRYPTION: "TLS 1.3",
    Stage.THEIR_CERTIFICATE: "their certificate",
    Stage.OUR_CERTIFICATE: "our certificate",
    Stage.LINK: "version and clock",
}


@dataclass(frozen=True, slots=True)
class Patient:
    """This side of the links to be looked at."""

    identity: Identity
    peers: Mapping[PartyId, str | None]
    listen: str | None

    @classmethod
    def at(cls, place: Path) -> Patient:
        """Return the node in a folder, or the party of a party file.

        Raises:
            UsageError: There is neither.
        """
        if is_node(place):
            node = Node(place)
            known = node.partners.all()
            peers = {peer: partner.endpoint for peer, partner in known.items() if partner.struck is None}
            return cls(node.identity(), peers, node.config.listen)
        if not place.is_file():
            raise UsageError(f"{place} is neither the folder of a node nor a party file: say --at")
        config = completed(PartyConfig.read(place))
        return cls(load_identity(config.identity), config.peers, config.listen)


@dataclass(frozen=True, slots=True)
class Examined:
    """The way to one peer."""

    peer: PartyId
    fine: bool
    passed: tuple[str, ...]
    """The stages that are in order, one after the other."""
    text: str
    """Cause and remedy of what is not."""


def warnings(patient: Patient, now: datetime) -> Iterator[str]:
    """Yield what will be wrong soon on this side."""
    identity = patient.identity
    left = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_after_utc - now
    if left.total_seconds() > 0 and left.days < RENEW_DAYS:
        yield f"the certificate of {identity.party} expires in {left.days} days: unseen node renew"


def examine_peer(patient: Patient, peer: PartyId) -> Examined:
    """Return how far this side comes on the way to a peer.

    Raises:
        UsageError: There is no such peer.
    """
    if peer not in patient.peers:
        known = ", ".join(sorted(patient.peers)) or "nobody"
        raise UsageError(f"{peer} is not a peer of {patient.identity.party}: it knows {known}")
    endpoint, own = patient.peers[peer], patient.identity.party
    if endpoint is not None:
        finding = visit(endpoint, patient.identity, peer)
        fine = finding.cause is Cause.FINE
        return Examined(
            peer, fine, tuple(_SAID[stage] for stage in Stage if fine or stage < finding.stage), finding.text
        )
    fault = own_fault(patient.identity)
    if fault is not None:
        return Examined(peer, False, (), fault)
    if patient.listen is None:
        return Examined(peer, False, (), f"{peer} has to dial {own}, which does not listen: name a port as `listen`")
    return Examined(peer, True, (), f"{peer} dials this side at {patient.listen}: run `unseen doctor {own}` there")
