"""Private set intersection of three parties or more, with one of them in the middle; from VOLE, any number of items.

V. Kolesnikov, N. Matania, B. Pinkas, M. Rosulek, N. Trieu, "Practical Multi-party Private Set Intersection from
Symmetric-Key Techniques" (CCS 2017, eprint 2017/799), section 5 (augmented semi-honest), on the function of
``vole_oprf`` and stores of ``crypto.okvs``:

1. Every two parties share a key k. Party i's *share* of an item is S_i(x) = Σ_j AES(k_ij, x); the shares of all parties
   add up to zero.
2. The *leader*, of those who learn the result the party with the fewest items, gets F_i of its items from every other
   party i, a function that i can evaluate on any item.
3. Each of those encodes F_i(y) + S_i(y) for its items y in a random store and sends it. What the leader reads there for
   x, plus F_i(x), is S_i(x) if i holds x, and random if not. So the sum over all parties, its own share included, is
   zero for just those x that all hold.
4. The leader puts the shared items into a random order and sends to each other recipient i what another function with
   the key k_1i makes of them.

*Security model*: semi-honest; a coalition without the leader learns nothing but its results and all sizes. A coalition
with the leader learns in addition which of the leader's items all of those outside of it hold: as if its members had
brought the leader's items, which no protocol can keep them from (hence *augmented*). The leader alone learns nothing
but the intersection: to it a store is uniform, since it lacks the keys between two others, or F_i of what it does not
hold. AES-128 is taken for a pseudo-random function up to 2^-128·n² (switching lemma), and as in ``vole_oprf``.

*Leakage*: the number of items of every party; no intersection of fewer than all.

*Rounds*: those of ``vole_oprf`` with all others at once, two more a bucket, and two. *Bytes*: the leader sends 21.7 an
item of its own to each other party, which sends as many an item of its own back; then 16 a shared item and recipient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.fixed_key import KEY_BYTES, Permutation
from unseen.crypto.okvs import encode_uniform, read
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.dialogue import Dialogue, progress, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.kernels.matching import arranged, matches
from unseen.protocols.psi.opening import Session, open_session
from unseen.protocols.psi.port import Alignment, Items, Meeting, check_items
from unseen.protocols.psi.vole_oprf import Answerer, Asker, Blocks, Layout

Words = NDArray[np.uint64]


# --- messages ----------------------------------------------------------------------------------------------------


@message("psi_join.star/seed")
class Seed:
    """What two parties share; the one whose name comes first draws it."""

    seed: Annotated[NDArray[np.uint8], Shape(SEED_BYTES)]


# --- what every party does ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two functions that two parties share."""

    share: Permutation = field(repr=False)
    name: Permutation = field(repr=False)

    @classmethod
    def of(cls, seed: Prg) -> _Pair:
        share, name = (
            Permutation(seed.derive("psi_join.star", label).bytes(KEY_BYTES)) for label in (b"share", b"name")
        )
        return cls(share, name)


def intersect(items: Items, meeting: Meeting) -> Dialogue[Alignment]:
    """Return which of ``items`` all parties hold; see ``Intersect`` and the head of this module.

    Raises:
        DataError: An item occurs twice; or all lists together are too long.
        RemoteProtocolError: A peer sent something of another form, or belongs elsewhere.
    """
    digests = items.digests(meeting.context)
    check_items(items, digests)
    session = yield from open_session(b"star", digests, meeting)
    pairs = yield from _share_keys(session)
    keys = session.functions.one_way(b"items", digests)
    rows = yield from (_lead if session.asker == meeting.me else _follow)(session, keys, pairs)
    return Alignment(rows if meeting.learns(meeting.me) else None, session.sizes)


def _share_keys(session: Session) -> Dialogue[dict[PartyId, _Pair]]:
    """Agree on the keys of all pairs that this party belongs to."""
    me, pairs = session.meeting.me, {}
    for peer in session.meeting.peers:
        if me < peer:
            seed = session.prg.derive("psi_join.star/seed", peer.encode()).bytes(SEED_BYTES)
            yield from send(peer, Seed(np.frombuffer(seed, np.uint8)))
            pairs[peer] = _Pair.of(Prg(seed))
    for peer in session.meeting.peers:
        if peer < me:
            pairs[peer] = _Pair.of(Prg((yield from receive(peer, Seed)).seed.tobytes()))
    return pairs


def _shares(keys: Words, pairs: Mapping[PartyId, _Pair]) -> Words:
    """Return this party's share of each item, shape (n, 2)."""
    total = np.zeros_like(keys)
    for pair in pairs.values():
        total ^= pair.share.permuted(keys)
    return total


def _hint_layout(session: Session, party: PartyId) -> Layout:
    return Layout.of(session.sizes[party], session.buckets)


# --- the leader --------------------------------------------------------------------------------------------------


def _lead(session: Session, keys: Words, pairs: Mapping[PartyId, _Pair]) -> Dialogue[NDArray[np.int64]]:
    """Return the shared items in the order that all recipients get."""
    functions, sums = session.functions, _shares(keys, pairs)
    layout = Layout.of(len(keys), session.buckets)
    askers, hints = {}, {}
    for peer in sorted(pairs):
        askers[peer] = yield from Asker.open(functions, layout, keys, peer, session.prg.derive("vole", peer.encode()))
        hints[peer] = Blocks.of(keys, _hint_layout(session, peer))
    for number in range(session.buckets):
        for asker in askers.values():
            bucket, outputs = yield from asker.evaluate(number)
            sums[bucket.rows] ^= outputs
        if number > 0:
            yield from _read_hints(session, number - 1, hints, sums)
    yield from _read_hints(session, session.buckets - 1, hints, sums)
    shared = np.flatnonzero(~sums.any(axis=1))
    shared = shared[session.prg.derive("order").permutation(len(shared))]
    for peer in sorted(pairs):
        if session.meeting.learns(peer):
            yield from send_array(peer, pairs[peer].name.permuted(keys[shared]))
    return shared


def _read_hints(session: Session, number: int, hints: Mapping[PartyId, Blocks], sums: Words) -> Dialogue[None]:
    """Add what all others' stores hold for the own items of a bucket to their sums.

    They come after the others have answered for the next bucket, so that nobody waits for it.
    """
    for peer, blocks in hints.items():
        layout = _hint_layout(session, peer)
        own = blocks.bucket(number, layout)
        store = yield from receive_array(peer, np.uint64, Shape(layout.size, 2))
        places = session.functions.one_way(b"hint", own.keys)
        sums[own.rows] ^= read(own.keys, places, own.starts, store, layout.shape)
    yield from progress(number + 1, session.buckets, "matching items with all others")


# --- the others --------------------------------------------------------------------------------------------------


def _follow(session: Session, keys: Words, pairs: Mapping[PartyId, _Pair]) -> Dialogue[NDArray[np.int64]]:
    """Return the own shared items in the leader's order; none if this party is not to know them."""
    leader, me = session.asker, session.meeting.me
    layout, mine = Layout.of(session.sizes[leader], session.buckets), _hint_layout(session, me)
    answerer = yield from Answerer.open(session.functions, layout, keys, (me, leader), session.prg.derive("vole"))
    own, values = Blocks.of(keys, mine), _shares(keys, pairs)
    for number in range(session.buckets):
        bucket, outputs = yield from answerer.evaluate(number)
        values[bucket.rows] ^= outputs
        yield from _send_hint(session, number, own.bucket(number, mine), values)
        yield from progress(number + 1, session.buckets, f"matching items with {leader} and all others")
    if not session.meeting.learns(me):
        return np.empty(0, np.int64)
    return (yield from _recognise(leader, pairs[leader].name.permuted(keys)))


def _send_hint(session: Session, number: int, own: Blocks, values: Words) -> Dialogue[None]:
    """Send a random store in which the own items of a bucket read their ``values``."""
    layout, prg = _hint_layout(session, session.meeting.me), session.prg.derive("hint", number.to_bytes(4, "little"))
    places = session.functions.one_way(b"hint", own.keys)
    store = encode_uniform(own.keys, places, values[own.rows], own.starts, layout.shape, prg)
    yield from send_array(session.asker, store)


def _recognise(leader: PartyId, names: Words) -> Dialogue[NDArray[np.int64]]:
    """Return which own items the leader says are shared, in its order; ``names`` are those of all own items."""
    told = yield from receive_array(leader, np.uint64, Shape(None, 2), most=len(names))
    (mine, order), (sought, places) = arranged(names), arranged(np.ascontiguousarray(told))
    found = matches(mine, sought)
    if len(found) != len(told) or len(np.unique(found[:, 0])) != len(told):
        raise RemoteProtocolError(f"{leader}: names shared items that are not ours, or one twice")
    rows = np.empty(len(told), np.int64)
    rows[places[found[:, 1]]] = order[found[:, 0]]
    return rows
