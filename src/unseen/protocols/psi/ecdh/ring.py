"""The ring that shuffles: every set passes every party, and at the end nobody knows which tag is whose row.

J. Vaidya, C. Clifton, "Secure Set Intersection Cardinality with Application to Association Rule Mining" (Journal of
Computer Security 13, 2005): sets travel around a ring of parties, each of which encrypts them under a commutative key
and permutes them; equal items can be counted at the end and not traced. The chain of shuffles is that of mixes (D.
Chaum, "Untraceable Electronic Mail, Return Addresses, and Digital Pseudonyms", CACM 1981), and like his return
addresses, positions can be sent back through it, each mix undoing its own shuffle.

Party i sends its set to party i + 1, and so on to party i − 1, its *finisher*. One *combiner*, a recipient of the
result, collects the tags of all finished sets. What they tell it is how many items every group of sets shares; it
cannot tell which, not even of its own items, as long as one of the other parties keeps its shuffles to itself. No other
single party sees two sets under the same scalars. Two that pool what they saw do: a set that one of them sent and the
set of an honest party next to it reach the other under the scalars of the honest parties between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unseen.dialogue import Dialogue, send_array
from unseen.ids import PartyId
from unseen.protocols.psi.ecdh.session import (
    Bytes,
    Session,
    receive_blinded,
    receive_tags,
    send_own,
    send_points,
    tags_of,
)
from unseen.protocols.psi.port import Meeting


@dataclass(frozen=True, slots=True)
class Passage:
    """What one party keeps of the sets that passed by."""

    tags: Bytes = field(repr=False)
    """Of the set that was finished here."""
    orders: Mapping[PartyId, NDArray[np.int64]] = field(repr=False)
    """This party's shuffle of each set, by owner: what left k-th had come in at ``order[k]``."""


def combiner(meeting: Meeting) -> PartyId:
    """Return who sees the tags of all sets: the first of the recipients."""
    return next(party for party in meeting.parties if meeting.learns(party))


def travel(session: Session) -> Dialogue[Passage]:
    """Send the own set around the ring; blind and shuffle all others as they come by."""
    ring, scalar = session.ring, session.scalar("ring")
    orders = {ring.me: session.own_order()}
    yield from send_own(session, scalar, orders[ring.me], ring.ahead(1))
    for hop in range(1, len(ring.parties)):
        owner = ring.ahead(-hop)
        blinded = yield from receive_blinded(session, scalar, ring.ahead(-1), owner)
        orders[owner] = session.order(f"of {owner}", blinded)
        blinded = blinded[orders[owner]]
        if owner != ring.ahead(1):
            yield from send_points(ring.ahead(1), blinded)
    return Passage(tags_of(session, blinded), orders)


def gather(session: Session, finished: Bytes, collector: PartyId) -> Dialogue[dict[PartyId, Bytes]]:
    """Return the tags of all sets by owner, at ``collector``; all others hand in what they finished and get nothing."""
    ring = session.ring
    if ring.me != collector:
        yield from send_array(collector, finished)
        return {}
    tags = {ring.ahead(1): finished}
    for owner in ring.parties:
        if owner != ring.ahead(1):
            tags[owner] = yield from receive_tags(session, ring.finisher(owner), owner)
    return tags
