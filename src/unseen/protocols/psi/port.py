"""What schemes for private set intersection offer: the values that go in and come out, the same for all of them.

A party brings ``Items`` to a ``Meeting``. What it learns at the end depends on the variant:

=============  ==========================================================================  ===================
variant        result                                                                      schemes
=============  ==========================================================================  ===================
``Intersect``  ``Alignment``: which of its own items all parties hold, in a common order   all
``Count``      ``Cardinality``: how many items all parties hold, not which                 ``ecdh``
``Sum``        ``Totals``: sums of one party's numbers over the shared items               ``ecdh``
``Unite``      ``Spine``: a place for every item that any party holds, without telling
               which places the other party fills                                          ``ecdh``
=============  ==========================================================================  ===================

What else a scheme lets slip is written at the head of its module. No scheme can stop a party from bringing items that
it made up in order to find out who is in the others' lists: budgets for sizes, runs and new ids
(``privacy.enumeration``) guard against that, in front of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.ids import PartyId
from unseen.kernels.blake2b import hash_all

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Items(Sequence[bytes]):
    """Byte strings in bulk: all of them in one buffer, and where each begins, as Arrow keeps them."""

    content: NDArray[np.uint8] = field(repr=False)
    """The bytes of all items, one after the other."""
    offsets: NDArray[np.int64] = field(repr=False)
    """Item k is ``content[offsets[k] : offsets[k + 1]]``; one more than there are items."""

    @classmethod
    def of(cls, items: Iterable[bytes]) -> Items:
        """Return items that are Python objects so far."""
        parts = list(items)
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self.content[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def digests(self, context: bytes) -> NDArray[np.uint64]:
        """Return a digest of 128 bits of every item, shape (n, 2): BLAKE2b (RFC 7693) keyed by ``context``."""
        key = hashlib.sha256(b"unseen/psi_join/items/1\0" + context).digest()
        return hash_all(self.content, self.offsets, key)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Who takes part in one session, seen from one party.

    Raises:
        UsageError: There are no peers, one is named twice or is this party, or a recipient takes no part.
    """

    me: PartyId
    peers: tuple[PartyId, ...]
    prg: Prg
    """This party's own randomness, used for this session and no other."""
    context: bytes
    """Names the session; the same at all parties."""
    recipients: frozenset[PartyId] | None = None
    """Who learns the result; everybody if ``None``. The same at all parties."""
    points: Mapping[PartyId, int] | None = None
    """How many items of each peer this party evaluates at most; of a peer that is not named, none. ``None``: all."""

    def __post_init__(self) -> None:
        if not self.peers or len({self.me, *self.peers}) != len(self.peers) + 1:
            raise UsageError(
                f"{self.me}: an intersection needs other parties, each named once, found {list(self.peers)}"
            )
        strangers = sorted((self.recipients or frozenset()) - set(self.parties))
        if strangers or self.recipients == frozenset():
            raise UsageError(f"the result goes to some of {', '.join(self.parties)}, found {strangers or 'nobody'}")

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """All parties, in one order that is the same everywhere."""
        return tuple(sorted({self.me, *self.peers}))

    def learns(self, party: PartyId) -> bool:
        """Return whether ``party`` is among those who learn the result."""
        return self.recipients is None or party in self.recipients

    def admit(self, peer: PartyId, count: int) -> None:
        """Pass if ``count`` items of a peer may be evaluated; asked as soon as the peer has announced them.

        Raises:
            PermissionDenied: They are more than this party allows; nothing has been evaluated.
        """
        if self.points is not None and count > (most := self.points.get(peer, 0)):
            raise PermissionDenied(f"{peer} brings {count} items, and {self.me} evaluates at most {most} of it here")

    def other(self, rule: str) -> PartyId:
        """Return the only peer, where ``rule`` says what is for two parties.

        Raises:
            UsageError: There are more; the message is ``rule``, and who they are.
        """
        if len(self.peers) != 1:
            raise UsageError(f"{rule}, found {', '.join(self.parties)}")
        return self.peers[0]

    @property
    def session(self) -> bytes:
        """Digest of who meets, who learns the result, and in which context (32 bytes)."""
        told = [party for party in self.parties if self.learns(party)]
        parts = [self.context, b"".join(framed(party.encode()) for party in self.parties)]
        parts.append(b"".join(framed(party.encode()) for party in told))
        return hashlib.sha256(b"".join(map(framed, parts))).digest()


def strings(rows: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return each row as one string; numpy ignores zeros at the end, which is right for rows of equal length."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(len(rows))


def framed(part: bytes) -> bytes:
    """Return ``part`` preceded by its length."""
    return len(part).to_bytes(8, "little") + part


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Which rows of one party's list are shared by all, in the order that is the same at every party.

    The order is random for each session and tells nothing about the items.
    """

    rows: NDArray[np.int64] | None
    """Positions in the party's own list; the k-th belongs to the same item everywhere. ``None``: not a recipient."""
    sizes: Mapping[PartyId, int]
    """How many items each party brought, this one included."""

    def known(self) -> NDArray[np.int64]:
        """Return the rows, at a party that is a recipient.

        Raises:
            UsageError: It is none.
        """
        if self.rows is None:
            raise UsageError("this party is not among those who learn the intersection")
        return self.rows


@dataclass(frozen=True, slots=True)
class Cardinality:
    """How many items all parties hold."""

    shared: int | None
    """``None`` at a party that is not a recipient."""
    sizes: Mapping[PartyId, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of one party's whole numbers over the shared items, one for each of its columns."""

    totals: tuple[int, ...] | None
    """``None`` at a party that is not a recipient."""
    shared: int | None
    """Over how many items they were taken; ``None`` at a party that is not a recipient."""
    sizes: Mapping[PartyId, int]


@dataclass(frozen=True, slots=True, eq=False)
class Spine:
    """One place for every item that any party holds; nobody learns which places the others fill.

    The order is random for each session and the same at every party.
    """

    rows: NDArray[np.int64]
    """The own item at each place; −1 where this party has none."""
    sizes: Mapping[PartyId, int]


# --- the ports ---------------------------------------------------------------------------------------------------


class Intersect(Protocol):
    """One scheme for the intersection, as one party runs it; all parties of a session run the same one."""

    def __call__(self, items: Items, meeting: Meeting) -> Dialogue[Alignment]:
        """Return the alignment of ``items`` with the lists of the others.

        Raises:
            DataError: An item occurs twice; nothing has been sent. Or all lists together are too long.
            RemoteProtocolError: A peer broke the rules of the scheme; the message names it.
        """
        ...


class Count(Protocol):
    """One scheme for the size of the intersection; raises what ``Intersect`` does."""

    def __call__(self, items: Items, meeting: Meeting) -> Dialogue[Cardinality]:
        """Return how many of ``items`` all parties hold."""
        ...


class Sum(Protocol):
    """One scheme for sums over the intersection of two parties; raises what ``Intersect`` does."""

    def __call__(self, items: Items, values: NDArray[np.int64] | None, meeting: Meeting) -> Dialogue[Totals]:
        """Return the sums of ``values``, shape (n, columns), which one of both parties brings, over shared items."""
        ...


class Unite(Protocol):
    """One scheme for the union of two parties; raises what ``Intersect`` does."""

    def __call__(self, items: Items, meeting: Meeting) -> Dialogue[Spine]:
        """Return a place for every item of both parties."""
        ...


def check_items(items: Items, digests: NDArray[np.uint64]) -> None:
    """Pass if all items are distinct; the message gives rows only, since items may be people's names.

    Raises:
        DataError: Some items are duplicates.
    """
    heads = np.sort(digests[:, 0])
    if not (heads[1:] == heads[:-1]).any():
        return
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal items the first one comes first
    ordered = digests[order]
    again = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if not again.size:
        return
    first = int(again[np.argmin(order[again + 1])])
    row = int(order[first + 1])
    before = int(order[np.flatnonzero((ordered == ordered[first]).all(axis=1))[0]])
    raise DataError(
        f"{again.size} of {len(items)} items are duplicates, the first at rows {before} and "
        f"{row} (from 0): each item may stand once; remove the others or join on more columns"
    )
