"""Private set intersection by Diffie–Hellman blinding on ristretto255, for two parties or more.

C. Meadows, "A More Efficient Cryptographic Matchmaking Protocol" (IEEE S&P 1986); B. Huberman, M. Franklin, T. Hogg,
"Enhancing Privacy and Trust in Electronic Communities" (ACM EC 1999).

The parties, ordered by name, form a ring. All of them draw a joint salt. Each hashes its items, in a random order, to
group elements H(salt ‖ item) and multiplies them by its secret scalar; the set then travels the ring, and every party
multiplies it by its own scalar and keeps its order. What arrives last has been multiplied by all scalars, equal items
have become equal elements, and the party that made the last step sends 12-byte tags of them (truncated SHA-256) to all
others. An item is shared if its tag is in every set; the shared tags, sorted, are the canonical order. With two
parties this is the textbook protocol.

*Security model*: semi-honest parties, of which any number short of all may pool what they saw; decisional
Diffie–Hellman in ristretto255, H (RFC 9380) and the tag's SHA-256 as random oracles. Points that are not canonical, the
identity, wrong counts and duplicates are refused. A party that deviates can make the result wrong, and any party can
bring made-up items to test who is in the others' sets: bounds on sizes and runs have to stand in front of the protocol.

*Leakage*: the size of every set. With two parties, nothing else but the intersection. With three or more, the tags of
all sets are known to all: each party learns which of its own items are in which of the other sets, and how large the
intersection of every group of sets is, not only that of all of them.

*Rounds*: k + 1 for k parties: one for the salt, k − 1 around the ring, one for the tags.

*Bytes*: a party sends 32 for every item of the k − 1 sets that it does not finish, and 12 (k − 1) for every item of the
one that it finishes: 44 an item for two equal sets. *Work*: one multiplication (about 60 µs of one processor) for every
item of every set and one hash (20 µs) for every own item.

Distinct items get equal tags with probability below N²/2^97 for N items in all sets together: at most 2^-41 for the
2^28 that are admitted, and 2^-49 for twice 10^7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.groups import POINT_BYTES, Scalar, hash_all, multiply_all
from unseen.dialogue import Dialogue, progress, receive, receive_all, receive_array, send, send_all, send_array
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.psi.port import Alignment, Items, Meeting, check_items, framed

DST = b"unseen-psi_join.ecdh-v1-with-ristretto255_XMD:SHA-512_R255MAP_RO_"
SALT_BYTES = 32
TAG_BYTES = 12
HEAD_BYTES = 16
"""What is kept of each point of a passing set in order to find duplicates."""
BLOCK = 1 << 13
"""Points in a message: enough to keep all processors busy, few enough to show progress every second."""
MAX_ITEMS = 1 << 28
"""Items in all sets together, for which tags of 12 bytes are safe."""


# --- messages ----------------------------------------------------------------------------------------------------


@message("psi_join.ecdh/opening")
class Opening:
    """What a party brings to a session."""

    session: Annotated[NDArray[np.uint8], Shape(32)]
    """SHA-256 of the parties and the context."""
    salt: Annotated[NDArray[np.uint8], Shape(SALT_BYTES)]
    count: int


@message("psi_join.ecdh/points")
class Points:
    """The next points of the set that travels."""

    points: Annotated[NDArray[np.uint8], Shape(None, POINT_BYTES)]


# --- the dialogue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ring:
    """All parties in the order of their names, seen from one of them."""

    me: PartyId
    parties: tuple[PartyId, ...]

    def ahead(self, steps: int) -> PartyId:
        """Return the party so many steps ahead; negative steps look back, where sets come from."""
        return self.parties[(self.parties.index(self.me) + steps) % len(self.parties)]

    @property
    def peers(self) -> list[PartyId]:
        return [party for party in self.parties if party != self.me]

    def finisher(self, owner: PartyId) -> PartyId:
        """Return the party that is the last to multiply the set of ``owner``: the one behind it."""
        return self.parties[self.parties.index(owner) - 1]


@dataclass(frozen=True, slots=True)
class _Session:
    """What one party knows after the openings."""

    ring: _Ring
    sizes: Mapping[PartyId, int]
    salt: bytes
    scalar: Scalar

    def report(self, done: int, owner: PartyId) -> Dialogue[None]:
        """Report progress, counted in multiplications; all sets pass through every party."""
        yield from progress(done, sum(self.sizes.values()), f"blinding the items of {owner}")


def intersect(items: Items, meeting: Meeting) -> Dialogue[Alignment]:
    """Return which of ``items`` all parties hold; see ``Intersect`` and the head of this module.

    Raises:
        DataError: An item occurs twice, or all sets together are too large.
        RemoteProtocolError: A peer sent invalid points, a wrong number of them, duplicates, or belongs elsewhere.
    """
    check_items(items, items.digests(meeting.context))
    session = yield from _open(len(items), meeting)
    order = meeting.prg.derive("psi_join.ecdh/order").permutation(len(items))
    yield from _send_own(session, [items[row] for row in order])
    finished = yield from _pass_on(session)
    tags = yield from _exchange_tags(session, finished)
    return Alignment(order[_shared_positions(tags, meeting.me)], session.sizes)


def _open(count: int, meeting: Meeting) -> Dialogue[_Session]:
    """Agree on who takes part, on the sizes, and on a salt that no single party chose."""
    ring, session = _Ring(meeting.me, meeting.parties), meeting.session
    salt = meeting.prg.derive("psi_join.ecdh/salt").bytes(SALT_BYTES)
    mine = Opening(np.frombuffer(session, np.uint8), np.frombuffer(salt, np.uint8), count)
    yield from send_all(ring.peers, mine)
    openings = yield from receive_all(ring.peers, Opening)
    for peer, opening in openings.items():
        _check_opening(peer, opening, session)
    openings[ring.me] = mine
    sizes = {party: openings[party].count for party in ring.parties}
    if sum(sizes.values()) > MAX_ITEMS:
        raise DataError(f"the parties bring {sizes} items, together at most {MAX_ITEMS} can be intersected at once")
    salts = sorted(opening.salt.tobytes() for opening in openings.values())
    joint = hashlib.sha256(b"".join(map(framed, [session, *salts])))
    # Safety: if a resumed step meets another salt of a peer, it meets another scalar too.
    scalar = Scalar.derive(meeting.prg.derive("psi_join.ecdh/scalar", joint.digest()))
    return _Session(ring, sizes, joint.digest(), scalar)


def _check_opening(peer: PartyId, opening: Opening, session: bytes) -> None:
    if opening.session.tobytes() != session:
        raise RemoteProtocolError(f"{peer}: expected an intersection of the same parties in the same context as ours")
    if opening.count < 0:
        raise RemoteProtocolError(f"{peer}: a set has {opening.count} items")


def _send_own(session: _Session, items: Sequence[bytes]) -> Dialogue[None]:
    """Blind the own items and send them on their way, block by block."""
    for start in range(0, len(items), BLOCK):
        block = [session.salt + item for item in items[start : start + BLOCK]]
        blinded = multiply_all(session.scalar, hash_all(block, DST))
        yield from send(session.ring.ahead(1), Points(blinded))
        yield from session.report(start + len(block), session.ring.me)


def _pass_on(session: _Session) -> Dialogue[NDArray[np.uint8]]:
    """Blind the sets of all others as they come by; return the tags of the last one, which is finished."""
    done = session.sizes[session.ring.me]
    for hop in range(1, len(session.ring.parties) - 1):
        yield from _blind_set(session, hop, done, successor=session.ring.ahead(1))
        done += session.sizes[session.ring.ahead(-hop)]
    return (yield from _blind_set(session, len(session.ring.parties) - 1, done))


def _blind_set(
    session: _Session, hop: int, done: int, *, successor: PartyId | None = None
) -> Dialogue[NDArray[np.uint8]]:
    """Blind the set that began ``hop`` steps behind; send it to ``successor``, or else return its tags."""
    sender, owner = session.ring.ahead(-1), session.ring.ahead(-hop)
    count = session.sizes[owner]
    seen, tags = [], [np.empty((0, TAG_BYTES), np.uint8)]
    for start in range(0, count, BLOCK):
        points = yield from _receive_block(sender, min(BLOCK, count - start))
        seen.append(points[:, :HEAD_BYTES].copy())
        # A set with duplicates is not sent on in full, so that nobody takes us for its author.
        if start + BLOCK >= count:
            _check_distinct(np.concatenate(seen), f"{sender}: the blinded items of {owner}")
        blinded = _multiply(session.scalar, points, sender)
        if successor is None:
            tags.append(_tags(blinded))
        else:
            yield from send(successor, Points(blinded))
        yield from session.report(done + start + len(points), owner)
    return np.concatenate(tags)


def _receive_block(sender: PartyId, count: int) -> Dialogue[NDArray[np.uint8]]:
    found = yield from receive(sender, Points)
    if len(found.points) != count:
        raise RemoteProtocolError(f"{sender}: expected a block of {count} points, found {len(found.points)}")
    return found.points


def _multiply(scalar: Scalar, points: NDArray[np.uint8], sender: PartyId) -> NDArray[np.uint8]:
    try:
        return multiply_all(scalar, points)
    except UsageError as error:
        raise RemoteProtocolError(f"{sender}: invalid point in a block of {len(points)}: {error}") from error


def _tags(points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what is published of fully blinded points, shape (n, 12)."""
    raw = points.tobytes()
    starts = range(0, len(raw), POINT_BYTES)
    tags = b"".join([hashlib.sha256(raw[start : start + POINT_BYTES]).digest()[:TAG_BYTES] for start in starts])
    return np.frombuffer(tags, np.uint8).reshape(-1, TAG_BYTES)


def _exchange_tags(session: _Session, finished: NDArray[np.uint8]) -> Dialogue[dict[PartyId, NDArray[np.uint8]]]:
    """Publish the tags of the set that was finished here; return those of all sets, by owner, in its owner's order."""
    ring = session.ring
    for peer in ring.peers:
        yield from send_array(peer, finished)
    tags = {ring.ahead(1): finished}
    for owner in ring.parties:
        finisher = ring.finisher(owner)
        if finisher != ring.me:
            shape = Shape(session.sizes[owner], TAG_BYTES)
            tags[owner] = yield from receive_array(finisher, np.uint8, shape)
            _check_distinct(tags[owner], f"{finisher}: the tags of the items of {owner}")
    return tags


# --- sets of byte strings of equal length ------------------------------------------------------------------------


def _check_distinct(rows: NDArray[np.uint8], what: str) -> None:
    distinct = len(np.unique(_strings(rows)))
    if distinct != len(rows):
        raise RemoteProtocolError(f"{what} hold {len(rows) - distinct} duplicates among {len(rows)}, expected none")


def _shared_positions(tags: Mapping[PartyId, NDArray[np.uint8]], me: PartyId) -> NDArray[np.int64]:
    """Return where in ``me``'s list the shared tags stand, in the order of the sorted tags."""
    sets = [_strings(rows) for rows in tags.values()]
    shared = reduce(lambda left, right: np.intersect1d(left, right, assume_unique=True), sets)
    mine = _strings(tags[me])
    order = np.argsort(mine)
    return np.asarray(order[np.searchsorted(mine, shared, sorter=order)], np.int64)


def _strings(rows: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return each row as one string; numpy ignores zeros at the end, which is right for rows of equal length."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(len(rows))
