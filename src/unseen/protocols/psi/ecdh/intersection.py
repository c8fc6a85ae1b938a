"""Private set intersection: who receives learns which of its items all parties hold, and nobody more than that.

**Two parties**: C. Meadows, "A More Efficient Cryptographic Matchmaking Protocol" (IEEE S&P 1986); B. Huberman, M.
Franklin, T. Hogg, "Enhancing Privacy and Trust in Electronic Communities" (ACM EC 1999). Each sends its set, blinded
and in a random order, multiplies that of the other by its own scalar, and returns the tags of it in the order in which
it came, to a recipient only. A recipient so holds the tags of both sets, those of its own in an order that it knows.

**Three or more**: sets travel the ring that shuffles (``ring``). The combiner finds the tags that are in all sets and
sends their positions, in the order of the sorted tags, back through the ring: the set's finisher undoes its own
shuffle, then the party behind it, and so on to the owner, who ends with rows. Only the sets of recipients go back.

*Canonical order*: that of the sorted tags, which is random for each session.

*Security model*: semi-honest; decisional Diffie–Hellman in ristretto255, hashes as random oracles. A party that
deviates can make the result wrong, and any party can bring made-up items to test who is in the others' sets: bounds on
sizes and runs have to stand in front of the protocol. A combiner that deviates can send back positions of its own set
that only some others share, and so learn which of its items these are.

*Leakage*, two parties: both sizes; to who is no recipient nothing else, since it sees one set under a foreign scalar.
Three or more: the size of every set; to every party, recipient or not, the number of shared items, which is the length
of the lists that go back; to the combiner, the first recipient, how many items each group of sets shares. It does not
learn which, not even of its own.

*Coalitions*, three or more: two parties that pool what they saw, the combiner among them or not, also see several sets
under the same scalars. Any coalition short of all parties learns at most this beyond its results: for every group of
its *own* sets, whose items it knows, and for none, how many of the items that are in exactly these sets each group of
outsiders holds. It is a count and no more, since every outsider shuffles every set by itself; where such a group has
one item, or all or none of it match, the count says who.

*Rounds*: for two parties 3, or 2 if one receives; at most 2k + 2 for k ≥ 3: two for the salt, k − 1 around the ring,
one for tags, one from the combiner to the finishers, k − 1 back.

*Bytes*, two parties: 32 for every own item, 12 for every item of a peer that receives. Three or more: 32 for every item
of the k − 1 sets that a party does not finish, 12 for every item of the one that it finishes (unless it is the
combiner), and 4 for every shared item of each list that it sends. *Work*: one multiplication (about 40 µs of one
processor) for every item of every set and one hash (13 µs) for every own item; all else is little beside these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape
from unseen.dialogue import Dialogue, receive_array, send_array
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi.ecdh.ring import Passage, combiner, gather, travel
from unseen.protocols.psi.ecdh.session import (
    Session,
    open_session,
    receive_blinded,
    receive_tags,
    send_own,
    shared_positions,
    tags_of,
)
from unseen.protocols.psi.port import Alignment, Items, Meeting

Rows = NDArray[np.int64]


def intersect(items: Items, meeting: Meeting) -> Dialogue[Alignment]:
    """Return which of ``items`` all parties hold; see ``Intersect`` and the head of this module.

    Raises:
        DataError: An item occurs twice, or all sets together are too large.
        RemoteProtocolError: A peer sent invalid points, a wrong number of them, duplicates, or belongs elsewhere.
    """
    session = yield from open_session(items, meeting, "intersect")
    run = _between_two if len(meeting.parties) == 2 else _among_many
    return Alignment((yield from run(session, meeting)), session.sizes)


# --- two parties -------------------------------------------------------------------------------------------------


def _between_two(session: Session, meeting: Meeting) -> Dialogue[Rows | None]:
    me, peer, scalar, order = meeting.me, meeting.peers[0], session.scalar("pair"), session.own_order()
    yield from send_own(session, scalar, order, peer)
    tags = {peer: tags_of(session, (yield from receive_blinded(session, scalar, peer, peer)))}
    # Safety: one who is no recipient gets neither list under both scalars, and has nothing to compare.
    if meeting.learns(peer):
        yield from send_array(peer, tags[peer])
    if not meeting.learns(me):
        return None
    tags[me] = yield from receive_tags(session, peer, me)
    return np.asarray(order[shared_positions(tags)[me]])


# --- three or more -----------------------------------------------------------------------------------------------


def _among_many(session: Session, meeting: Meeting) -> Dialogue[Rows | None]:
    passage = yield from travel(session)
    tags = yield from gather(session, passage.tags, combiner(meeting))
    found = shared_positions(tags) if tags else {}
    for owner, positions in found.items():
        finisher = session.ring.finisher(owner)
        if meeting.learns(owner) and finisher != meeting.me:
            yield from send_array(finisher, positions.astype(np.uint32))
    return (yield from _walk_back(session, meeting, passage, found))


def _walk_back(
    session: Session, meeting: Meeting, passage: Passage, found: dict[PartyId, Rows]
) -> Dialogue[Rows | None]:
    """Undo this party's shuffle of each recipient's positions and hand them on; return the own ones, now rows.

    ``found`` holds what the combiner found, and nothing elsewhere.
    """
    ring, shared = session.ring, None
    rows = None
    # In the k-th turn comes the set that is k steps from its finisher: all parties work at once.
    for turn in range(len(ring.parties)):
        owner = ring.ahead(1 + turn)
        if not meeting.learns(owner):
            continue
        if turn == 0 and found:
            positions = found[owner]
        else:
            sender = combiner(meeting) if turn == 0 else ring.ahead(1)
            positions = yield from _receive_positions(session, sender, owner, shared)
        shared, rows = len(positions), passage.orders[owner][positions]
        if owner != ring.me:
            yield from send_array(ring.ahead(-1), rows.astype(np.uint32))
    return rows if meeting.learns(ring.me) else None


def _receive_positions(session: Session, sender: PartyId, owner: PartyId, shared: int | None) -> Dialogue[Rows]:
    """Return distinct positions in the set of ``owner``: ``shared`` of them, if that is known by now."""
    size, smallest = session.sizes[owner], min(session.sizes.values())
    positions = yield from receive_array(sender, np.uint32, Shape(shared), most=smallest)
    if len(positions) and positions.max() >= size:
        raise RemoteProtocolError(f"{sender}: position {positions.max()} is outside of the {size} items of {owner}")
    if len(np.unique(positions)) != len(positions):
        raise RemoteProtocolError(f"{sender}: a position among the items of {owner} occurs twice")
    return positions.astype(np.int64)
