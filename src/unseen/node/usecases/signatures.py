"""Who is entitled to what: signatures under an agreement that is on its way, and a peer's place in a project."""

from __future__ import annotations

from collections.abc import Callable

from unseen.codec import shown
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.books import Owner, Roots, Turn
from unseen.trust.agreement import Agreement, Project, ProjectId
from unseen.trust.envelope import Envelope, Signature, preauthentication
from unseen.trust.keys import is_signed, key_id


def missing(made: Agreement, envelope: Envelope) -> tuple[PartyId, ...]:
    """Return the members whose good signature an envelope lacks."""
    good = {signature.key for signature in _good(made, envelope)}
    return tuple(member.party for member in made.members if key_id(member.key) not in good)


def merged(made: Agreement, envelope: Envelope, other: Envelope | None) -> Envelope:
    """Return an envelope with the good signatures of both, one for each member; what else is in them is left out."""
    found = {signature.key: signature for signature in (_good(made, other) if other is not None else ())}
    found |= {signature.key: signature for signature in _good(made, envelope)}
    ordered = tuple(found[key] for member in made.members if (key := key_id(member.key)) in found)
    return Envelope(envelope.kind, envelope.payload, ordered)


def without(envelope: Envelope, key: str) -> Envelope:
    """Return an envelope without the signature of a key."""
    kept = tuple(signature for signature in envelope.signatures if signature.key != key)
    return Envelope(envelope.kind, envelope.payload, kept)


def _good(made: Agreement, envelope: Envelope) -> tuple[Signature, ...]:
    keys = {key_id(member.key): member.key for member in made.members}
    signed = preauthentication(envelope.kind, envelope.payload)
    return tuple(
        signature
        for signature in envelope.signatures
        if signature.key in keys and is_signed(keys[signature.key], signature.value, signed)
    )


def check_members(
    made: Agreement, peer: PartyId, owner: Owner, roots: Roots, cards: Callable[[PartyId], str | None]
) -> None:
    """Pass if an agreement that ``peer`` sent names this node and ``peer`` as they are, and other partners likewise.

    Raises:
        RemoteProtocolError: It does not.
    """
    own = made.member(owner.me)
    if own is None or (own.key, own.certificate) != (owner.key.public, owner.certificate):
        raise RemoteProtocolError(f"{peer}: {made} does not name {owner.me} with its keys among the members")
    if made.member(peer) is None:
        raise RemoteProtocolError(f"{peer}: offers {made}, and is not among its members")
    for member in made.members:
        if member.party == owner.me:
            continue
        root, card = roots(member.party), cards(member.party)
        if root not in (None, member.certificate) or card not in (None, member.key):
            raise RemoteProtocolError(f"{peer}: {made} names other keys of {member.party} than are known here")
    if roots(peer) is None or cards(peer) is None:
        raise RemoteProtocolError(f"{peer}: offers {made} before it has introduced its key")


def membership(turn: Turn, peer: PartyId, project: str) -> Project:
    """Return a project in which ``peer`` takes part, as the one who was paired with.

    Raises:
        RemoteProtocolError: There is none here, or it is not among its members with the root that is pinned.
    """
    of = turn.project(ProjectId(project)) if ProjectId.pattern.fullmatch(project) else None
    member = of.current.member(peer) if of is not None else None
    if of is None or member is None:
        raise RemoteProtocolError(f"{peer} takes no part in project {shown(project)} here")
    if turn.root(peer) != member.certificate:
        raise RemoteProtocolError(f"{peer} is not paired with the root that {of.current} names")
    return of
