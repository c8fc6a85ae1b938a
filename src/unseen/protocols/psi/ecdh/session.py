"""How every scheme of the family begins and what it is made of: openings, blinded sets in blocks, tags.

*Hash to the group.* An item becomes H(x), the element that RFC 9380 (hash_to_ristretto255) gives to its BLAKE2b digest
of 128 bits, keyed by the joint salt. The salt is the hash of random bytes of all parties: no element means anything
in two sessions, and nobody can prepare for one.

*Blinding.* s·H(x) for a secret scalar s. Under decisional Diffie–Hellman, with H as a random oracle, a set blinded by a
scalar that one does not know is indistinguishable from as many random elements, even beside the set before blinding,
provided that the order of the two tells nothing: the reason for every shuffle.

*Tags.* Sets that are only compared travel as the first 12 bytes of BLAKE2b of each element. Distinct items get equal
digests or tags with probability below N²/2^97 for N items in all sets together: at most 2^-41 for the 2^28 that are
admitted, and 2^-49 for twice 10^7.

*Randomness* is hedged: all secrets of a session are derived from the party's seed, the joint salt and a digest of its
own items, and a shuffle also from what it shuffles. A resumed task sends the same bytes again; if a peer's salt, the
items or the received elements are others than before, scalars or shuffles are others too.

What arrives is checked: sessions, counts, canonical encodings, no identity, no duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.groups import POINT_BYTES, Scalar, hash_all, multiply_all
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, progress, receive, receive_all, receive_array, send, send_all
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels import blake2b
from unseen.kernels.blocks import pieces
from unseen.protocols.psi.agreed import agree
from unseen.protocols.psi.port import DIGEST_BYTES, Items, Meeting, check_items, framed, strings

DST = b"unseen-psi_join.ecdh-v2-with-ristretto255_XMD:SHA-512_R255MAP_RO_"
SALT_BYTES = 32
TAG_BYTES = 12
BLOCK = 1 << 13
"""Points in a message: enough to keep all processors busy, few enough to show progress every second."""
MAX_ITEMS = 1 << 28
"""Items in all sets together, for which tags of 12 bytes are safe."""

Bytes = NDArray[np.uint8]
"""Points, shape (n, 32), or tags, shape (n, 12)."""


# --- messages ----------------------------------------------------------------------------------------------------


@message("psi_join.ecdh/opening", version=2)
class Opening:
    """What a party brings to a session."""

    session: Annotated[NDArray[np.uint8], Shape(32)]
    """SHA-256 of the variant, the parties, the recipients and the context."""
    salt: Annotated[NDArray[np.uint8], Shape(SALT_BYTES)]
    count: int
    columns: int
    """How many numbers it has for each item; 0 in all variants but sums."""


@message("psi_join.ecdh/points")
class Points:
    """The next points of a set."""

    points: Annotated[NDArray[np.uint8], Shape(None, POINT_BYTES)]


# --- the session -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ring:
    """All parties in the order of their names, seen from one of them."""

    me: PartyId
    parties: tuple[PartyId, ...]

    def ahead(self, steps: int) -> PartyId:
        """Return the party so many steps ahead; negative steps look back, where sets come from."""
        return self.parties[(self.parties.index(self.me) + steps) % len(self.parties)]

    @property
    def peers(self) -> list[PartyId]:
        """All parties but this one."""
        return [party for party in self.parties if party != self.me]

    def finisher(self, owner: PartyId) -> PartyId:
        """Return the party that is the last to multiply the set of ``owner``: the one behind it."""
        return self.parties[self.parties.index(owner) - 1]


@dataclass(slots=True)
class Meter:
    """How many multiplications are done, out of how many."""

    total: int
    done: int = 0

    def add(self, count: int, owner: PartyId) -> Dialogue[None]:
        """Report ``count`` more, of elements that stand for the items of ``owner``."""
        self.done += count
        yield from progress(self.done, self.total, f"blinding the items of {owner}")


@dataclass(frozen=True, slots=True)
class Session:
    """What one party knows after the openings."""

    ring: Ring
    sizes: Mapping[PartyId, int]
    columns: Mapping[PartyId, int]
    salt: bytes = field(repr=False)
    prg: Prg
    """This party's secrets of this session."""
    digests: Bytes = field(repr=False)
    """Digests of the own items under the salt, shape (n, 16)."""
    meter: Meter

    def scalar(self, purpose: str) -> Scalar:
        """Return the secret scalar that serves ``purpose``."""
        return Scalar.derive(self.prg.derive("scalar", purpose.encode()))

    def order(self, purpose: str, points: Bytes) -> NDArray[np.int64]:
        """Return a secret uniform permutation of ``points``, which it depends on."""
        content = hashlib.sha256(np.ascontiguousarray(points).data).digest()
        return self.prg.derive("order", purpose.encode(), content).permutation(len(points))

    def own_order(self) -> NDArray[np.int64]:
        """Return the secret order in which the own items are sent: item ``order[k]`` is the k-th."""
        return self.order("own", self.digests)


def open_session(
    items: Items, meeting: Meeting, variant: str, *, columns: int = 0, passes: int = 1
) -> Dialogue[Session]:
    """Agree on the variant, who takes part, the sizes, and a salt that no single party chose.

    ``passes`` is how many multiplications this party spends on every item of any party.

    Raises:
        DataError: An item occurs twice (nothing has been sent), or all sets together are too large.
        RemoteProtocolError: A peer belongs elsewhere or announces nonsense.
        PermissionDenied: A peer brings more items than this party evaluates of it.
    """
    digests = items.digests(meeting.context)
    check_items(items, digests)
    ring = Ring(meeting.me, meeting.parties)
    name = hashlib.sha256(framed(variant.encode()) + framed(meeting.session)).digest()
    salt = meeting.prg.derive("psi_join.ecdh/salt").bytes(SALT_BYTES)
    mine = Opening(np.frombuffer(name, np.uint8), np.frombuffer(salt, np.uint8), len(items), columns)
    openings = yield from _exchange_openings(ring, mine)
    for peer in ring.peers:
        meeting.admit(peer, openings[peer].count)
    sizes = {party: openings[party].count for party in ring.parties}
    if sum(sizes.values()) > MAX_ITEMS:
        raise DataError(f"the parties bring {sizes} items, together at most {MAX_ITEMS} can be intersected at once")
    salts = sorted(opening.salt.tobytes() for opening in openings.values())
    joint = hashlib.sha256(b"".join(map(framed, [name, *salts]))).digest()
    yield from agree(joint, meeting)
    # Safety: if a resumed step meets another salt of a peer, or other items, it meets other scalars too.
    prg = meeting.prg.derive("psi_join.ecdh/session", joint, hashlib.sha256(digests.data).digest())
    salted = items.digests(joint).view(np.uint8).reshape(-1, DIGEST_BYTES)
    widths = {party: openings[party].columns for party in ring.parties}
    return Session(ring, sizes, widths, joint, prg, salted, Meter(passes * sum(sizes.values())))


def _exchange_openings(ring: Ring, mine: Opening) -> Dialogue[dict[PartyId, Opening]]:
    yield from send_all(ring.peers, mine)
    openings = yield from receive_all(ring.peers, Opening)
    for peer, opening in openings.items():
        if opening.session.tobytes() != mine.session.tobytes():
            raise RemoteProtocolError(
                f"{peer}: expected an intersection of the same parties, recipients and variant in the same context"
                " as ours"
            )
        if not 0 <= opening.count <= MAX_ITEMS or opening.columns < 0:
            raise RemoteProtocolError(
                f"{peer}: a set has {opening.count} items in {opening.columns} columns, expected at most {MAX_ITEMS}"
            )
    return {ring.me: mine, **openings}


# --- sets of points ----------------------------------------------------------------------------------------------


def hashed(session: Session, rows: NDArray[np.int64]) -> Bytes:
    """Return H of some of the own items, given by their rows; at most a block."""
    raw = session.digests[rows].tobytes()
    starts = range(0, len(raw), DIGEST_BYTES)
    return hash_all([raw[start : start + DIGEST_BYTES] for start in starts], DST)


def send_own(session: Session, scalar: Scalar, order: NDArray[np.int64], peer: PartyId) -> Dialogue[None]:
    """Blind the own items and send them to ``peer`` in ``order``, block by block."""
    for block in pieces(len(order), BLOCK):
        blinded = multiply_all(scalar, hashed(session, order[block]))
        yield from send(peer, Points(blinded))
        yield from session.meter.add(len(blinded), session.ring.me)


def send_points(peer: PartyId, points: Bytes) -> Dialogue[None]:
    """Send points to ``peer`` as they are, block by block."""
    for block in pieces(len(points), BLOCK):
        yield from send(peer, Points(points[block]))


def send_multiplied(session: Session, scalar: Scalar, points: Bytes, owner: PartyId) -> Dialogue[None]:
    """Send ``scalar`` times points that came from the only peer to it; they stand for items of ``owner``.

    Raises:
        RemoteProtocolError: A point is invalid.
    """
    (peer,) = session.ring.peers
    for block in pieces(len(points), BLOCK):
        yield from send(peer, Points(multiplied(scalar, points[block], peer)))
        yield from session.meter.add(block.stop - block.start, owner)


def receive_points(sender: PartyId, count: int, what: str) -> Dialogue[Bytes]:
    """Return ``count`` distinct points of ``sender``; whether they are valid shows when they are multiplied."""
    points = np.empty((count, POINT_BYTES), np.uint8)
    for block in pieces(count, BLOCK):
        points[block] = yield from _receive_block(sender, block.stop - block.start)
    check_distinct(points, f"{sender}: {what}")
    return points


def receive_blinded(
    session: Session, scalar: Scalar, sender: PartyId, owner: PartyId, *, count: int | None = None
) -> Dialogue[Bytes]:
    """Return the set of ``owner`` that ``sender`` passes on, in its order, multiplied by ``scalar``.

    It is the whole set, or ``count`` of its items.

    Raises:
        RemoteProtocolError: A point is invalid, points are too many, too few, or not distinct.
    """
    blinded = np.empty((session.sizes[owner] if count is None else count, POINT_BYTES), np.uint8)
    for block in pieces(len(blinded), BLOCK):
        points = yield from _receive_block(sender, block.stop - block.start)
        blinded[block] = multiplied(scalar, points, sender)
        yield from session.meter.add(len(points), owner)
    check_distinct(blinded, f"{sender}: the blinded items of {owner}")
    return blinded


def _receive_block(sender: PartyId, count: int) -> Dialogue[Bytes]:
    found = yield from receive(sender, Points)
    if len(found.points) != count:
        raise RemoteProtocolError(f"{sender}: expected a block of {count} points, found {len(found.points)}")
    return found.points


def multiplied(scalar: Scalar, points: Bytes, sender: PartyId) -> Bytes:
    """Return ``scalar`` times each of the points of ``sender``.

    Raises:
        RemoteProtocolError: One of them is invalid.
    """
    try:
        return multiply_all(scalar, points)
    except UsageError as error:
        raise RemoteProtocolError(f"{sender}: invalid point in a block of {len(points)}: {error}") from error


# --- tags --------------------------------------------------------------------------------------------------------


def tags_of(session: Session, points: Bytes) -> Bytes:
    """Return the tags of fully blinded points, shape (n, 12)."""
    offsets = np.arange(0, points.size + 1, POINT_BYTES, dtype=np.int64)
    digests = blake2b.hash_all(np.ascontiguousarray(points).reshape(-1), offsets, session.salt)
    return np.ascontiguousarray(digests.view(np.uint8).reshape(-1, DIGEST_BYTES)[:, :TAG_BYTES])


def receive_tags(session: Session, sender: PartyId, owner: PartyId) -> Dialogue[Bytes]:
    """Return the distinct tags of the set of ``owner``, which ``sender`` has finished."""
    tags = yield from receive_array(sender, np.uint8, Shape(session.sizes[owner], TAG_BYTES))
    check_distinct(tags, f"{sender}: the tags of the items of {owner}")
    return tags


def check_distinct(rows: Bytes, what: str) -> None:
    """Pass if no two rows of at least eight bytes are equal.

    Raises:
        RemoteProtocolError: Some are; the message begins with ``what``.
    """
    heads = np.sort(np.ascontiguousarray(rows[:, :8]).view(np.uint64).reshape(-1))
    if not (heads[1:] == heads[:-1]).any():
        return
    distinct = len(np.unique(strings(rows)))
    if distinct != len(rows):
        raise RemoteProtocolError(f"{what} hold {len(rows) - distinct} duplicates among {len(rows)}, expected none")


def shared_positions(tags: Mapping[PartyId, Bytes]) -> dict[PartyId, NDArray[np.int64]]:
    """Return where in each party's list the tags stand that are in all lists, in the order of the sorted tags."""
    sets = {party: strings(rows) for party, rows in tags.items()}
    shared = reduce(lambda left, right: np.intersect1d(left, right, assume_unique=True), sets.values())
    return {party: _positions(mine, shared) for party, mine in sets.items()}


def _positions(mine: NDArray[np.bytes_], shared: NDArray[np.bytes_]) -> NDArray[np.int64]:
    order = np.argsort(mine)
    return np.asarray(order[np.searchsorted(mine, shared, sorter=order)], np.int64)
