"""The size of an intersection: how many items all parties hold, while nobody can tell which.

**Two parties**: R. Agrawal, A. Evfimievski, R. Srikant, "Information Sharing Across Private Databases" (SIGMOD 2003),
the protocol for the intersection's size: as for the intersection, but the set that comes back has been reordered. E.
De Cristofaro, P. Gasti, G. Tsudik, "Fast and Private Computation of Cardinality of Set Intersection and Union" (CANS
2012) gives the same idea its proof with hashed tags in one direction, as here. **Three or more**: Vaidya and Clifton,
2005. Both are the ring that shuffles (``ring``), once with two parties: sets travel it, the combiner, who is the first
recipient, counts the tags that are in all of them and tells the other recipients.

The size of the union of two sets follows: the sum of both sizes less the result.

*Security model*: semi-honest; decisional Diffie–Hellman in ristretto255, hashes as random oracles. Recipients believe
the combiner's number.

*Leakage*: the size of every set; to the combiner, for three or more parties, how many items each group of sets shares;
to who is no recipient nothing else. A count is little protection for small sets: who brings one item learns whether
the others have it. *Coalitions* of all parties but one: as for the intersection, but without rows.

*Rounds*: at most k + 1 for k parties (the salt, k − 1 around the ring, tags), one more if there are more than two, and
one for the number if there is more than one recipient. *Bytes*: 32 for every item of the k − 1 sets that a party does
not finish, 12 for every item of the one that it finishes, unless it is the combiner. *Work*: as for the intersection.
"""

from __future__ import annotations

from unseen.codec import message
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import RemoteProtocolError
from unseen.protocols.psi.ecdh.ring import combiner, gather, travel
from unseen.protocols.psi.ecdh.session import Session, open_session, shared_positions
from unseen.protocols.psi.port import Cardinality, Items, Meeting


@message("psi_join.ecdh/shared")
class Shared:
    """How many items all parties hold, as the combiner counted."""

    count: int


def count(items: Items, meeting: Meeting) -> Dialogue[Cardinality]:
    """Return how many of ``items`` all parties hold; see ``Count`` and the head of this module.

    Raises:
        DataError: An item occurs twice, or all sets together are too large.
        RemoteProtocolError: A peer sent invalid points, a wrong number of them, duplicates, or belongs elsewhere.
    """
    session = yield from open_session(items, meeting, "count")
    passage = yield from travel(session)
    tags = yield from gather(session, passage.tags, combiner(meeting))
    if tags:
        shared = len(shared_positions(tags)[meeting.me])
        yield from _tell(meeting, shared)
        return Cardinality(shared, session.sizes)
    told = (yield from _hear(session, meeting)) if meeting.learns(meeting.me) else None
    return Cardinality(told, session.sizes)


def _tell(meeting: Meeting, shared: int) -> Dialogue[None]:
    for peer in sorted(meeting.peers):
        if meeting.learns(peer):
            yield from send(peer, Shared(shared))


def _hear(session: Session, meeting: Meeting) -> Dialogue[int]:
    teller, smallest = combiner(meeting), min(session.sizes.values())
    found = yield from receive(teller, Shared)
    if not 0 <= found.count <= smallest:
        raise RemoteProtocolError(f"{teller}: {found.count} items are shared, it says, the smallest set has {smallest}")
    return found.count
