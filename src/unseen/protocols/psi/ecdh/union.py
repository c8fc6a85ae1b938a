"""A shared spine for the union of two lists: one place for every item, and nobody knows which places the other fills.

P. Buddhavarapu, A. Knox, P. Mohassel, S. Sengupta, E. Taubeneck, V. Vlaskin, "Private Matching for Compute" (eprint
2020/599), the protocol Private-ID. The parties a and b have sets A and B and two secret scalars each: k to compare, r
to name. An item's name is k_a·k_b·r_a·r_b·H(x); places are the order of the tags of all names.

1. a → b: U_a = k_a·H(A), in a random order. (All steps are the same the other way round.)
2. b → a: E_a = k_b·U_a, **shuffled**, and V_a = r_b·E_a, in the order of U_a. Now a knows E_a as a set, and
   E_b = k_a·U_b, which it made itself; hence how many items are shared, and D_a = E_a − E_b, those that are not.
3. a → b: r_a·D_a, shuffled.
4. The names of its own items are r_a·V_a, in an order that a knows. Those of the items that only b has are r_a times
   what b sent in step 3, r_b·D_b. Both parties have all names of the union.

*Why a does not learn which of its items are shared.* Under scalars that it knows a sees E_a, E_b: matches, in orders
that b has chosen at random. In an order of its own it sees V_a only, and under r_b also r_b·D_b. These two are
disjoint and random elements to it: r_b is used for nothing else, so that by decisional Diffie–Hellman, with H as
a random oracle, they can be replaced by independent uniform elements even given E_a and E_b; hence the view can be
simulated from |A|, |B|, |A ∩ B| and the positions that the result itself gives. It matters who multiplies what: had b
sent r_b·D_a, which a needs as little as b does, a would find it inside V_a, and with it which of its items b lacks.

*Security model*: semi-honest, as above. A party that deviates can bring made-up items, swap names, and so make spines
that do not fit, or mark an item to follow its place; nobody can tell.

*Leakage*: both sizes and the size of the union, hence of the intersection. If that is 0 or all of a party's items, it
says which. Both parties learn the spine: there are no other recipients.

*Rounds*: 4 (salt, U, E and V, D). *Bytes*: a party sends 32 for every own item and for every own item that is not
shared, and 64 for every item of its peer: up to 128 an item for two equal sets. *Work*: two multiplications for every
item of both sets at both parties, one more for every item that is not shared.
"""

from __future__ import annotations

import numpy as np

from unseen.crypto.groups import Scalar
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.protocols.psi.ecdh.session import (
    Bytes,
    Session,
    check_distinct,
    open_session,
    receive_blinded,
    receive_points,
    send_multiplied,
    send_own,
    send_points,
    tags_of,
)
from unseen.protocols.psi.port import Items, Meeting, Spine, strings


def unite(items: Items, meeting: Meeting) -> Dialogue[Spine]:
    """Return a place for every item of both parties; see ``Unite`` and the head of this module.

    Raises:
        UsageError: There are more parties than two, or one is to learn nothing.
        DataError: An item occurs twice, or both sets together are too large.
        RemoteProtocolError: The peer sent invalid points, a wrong number of them, duplicates, or belongs elsewhere.
    """
    peer = meeting.other("a union by 'ecdh' is for two parties")
    if not all(map(meeting.learns, meeting.parties)):
        raise UsageError(f"{meeting.me}: both parties of a union get its spine: leave the recipients out")
    session = yield from open_session(items, meeting, "unite", passes=3)
    compare, name, order = session.scalar("compare"), session.scalar("name"), session.own_order()
    yield from send_own(session, compare, order, peer)
    theirs = yield from receive_blinded(session, compare, peer, peer)
    # Safety: under the one scalar its order is hidden from the peer, under both it is kept.
    yield from send_points(peer, theirs[session.order("compared", theirs)])
    yield from send_multiplied(session, name, theirs, peer)
    mine = yield from receive_points(peer, len(items), f"the compared items of {meeting.me}")
    own = yield from receive_blinded(session, name, peer, meeting.me)
    others = yield from _exchange_differences(session, name, mine, theirs)
    tags = tags_of(session, np.concatenate([own, others]))
    check_distinct(tags, f"{peer}: the names of the union")
    rows = np.concatenate([order, np.full(len(others), -1, np.int64)])
    return Spine(rows[np.argsort(strings(tags))], session.sizes)


def _exchange_differences(session: Session, name: Scalar, mine: Bytes, theirs: Bytes) -> Dialogue[Bytes]:
    """Send what the peer needs to name the items that only this party has; return the names of those it has not.

    ``mine`` and ``theirs`` are both sets under both scalars for comparing.
    """
    me, (peer,) = session.ring.me, session.ring.peers
    tags = strings(tags_of(session, mine)), strings(tags_of(session, theirs))
    difference = mine[~np.isin(tags[0], tags[1])]
    # Safety: never the peer's difference, which lies within what it has in its own order under this scalar.
    yield from send_multiplied(session, name, difference[session.order("difference", difference)], me)
    count = int(np.count_nonzero(~np.isin(tags[1], tags[0])))
    others = yield from receive_blinded(session, name, peer, peer, count=count)
    skipped = session.meter.total - session.meter.done
    yield from session.meter.add(skipped, peer)
    return others
