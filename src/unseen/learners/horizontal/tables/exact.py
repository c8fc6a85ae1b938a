"""Integers as short vectors of 32-bit floats whose sums over clients are exact, whatever adds them up.

What clients send are integers modulo 2^bits, each cut into limbs of ``width`` bits. A limb is a whole number below
2^width and a sum of them over all clients one below 2^23, so that it is exact as a 32-bit float, and still is what it
was after a division by the number of clients, a rounding, and a multiplication: the plain sum, a mean with equal
weights and sums of fixed-point words under secure aggregation all give the same integers.

A sum in limbs tells slightly more than the sum: how often limbs carried, some log2(clients) bits a limb.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Aggregate, Update, Vector
from unseen.learners.horizontal.strategies.parts import same_shapes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_CLIENTS = 1 << 15
_EXACT = 23
_LIMB = 22
"""Bits of a limb of what is kept or broadcast, and never added up."""
_LIMBS = 3
_MARK_BITS = 40
_MOST_ROWS = 1 << 38
HEAD = 3
"""Numbers that begin an answer: how many clients (1), rows, and the client's mark."""


@dataclass(frozen=True, slots=True)
class Limbs:
    """How integers of at least ``bits`` bits, sign included, travel from at most ``clients`` clients.

    Raises:
        UsageError: There are no clients, or too many, or the bits are not 2 to 62.
    """

    clients: int
    bits: int

    def __post_init__(self) -> None:
        if not (1 <= self.clients <= MOST_CLIENTS and 2 <= self.bits <= 62):
            raise UsageError(f"sums are over 1 to {MOST_CLIENTS} clients and have 2 to 62 bits, found {self}")

    @property
    def width(self) -> int:
        """Bits of a limb."""
        return _EXACT - math.ceil(math.log2(self.clients))

    @property
    def count(self) -> int:
        """Limbs of an integer."""
        return -(-self.bits // self.width)

    @property
    def room(self) -> int:
        """Bits that the limbs carry, the sign included: at least ``bits``, and at most 62."""
        return min(62, self.count * self.width)

    def fraction(self, bound: float) -> int:
        """Return the number f for which |x|·2^f stays within the room, whenever |x| ≤ ``bound``."""
        return self.room - 1 - math.ceil(math.log2(bound)) if bound > 0 else self.room - 1

    def encode(self, values: Integers) -> Vector:
        """Return the limbs of integers (n,), all the lowest ones first: shape (count · n,)."""
        words = values.astype(np.int64).view(np.uint64) & np.uint64((1 << self.room) - 1)
        mask = np.uint64((1 << self.width) - 1)
        parts = [(words >> np.uint64(self.width * place)) & mask for place in range(self.count)]
        return np.concatenate(parts).astype(np.float32)

    def decode(self, limbs: Vector, factor: float = 1.0) -> Integers:
        """Return the integers that sums of limbs stand for, once multiplied by ``factor`` and rounded."""
        parts = np.rint(limbs.astype(np.float64) * factor).astype(np.uint64).reshape(self.count, -1)
        words = np.zeros(parts.shape[1], np.uint64)
        for place, part in enumerate(parts):
            words += part << np.uint64(self.width * place)
        away = np.uint64(64 - self.room)
        return (words << away).view(np.int64) >> np.int64(64 - self.room)


def mark(client: ClientId) -> int:
    """Return a number that stands for a client, so that sums of marks tell one set of clients from another."""
    return int.from_bytes(hashlib.sha256(client.encode()).digest()[:4], "little")


def head_limbs(clients: int) -> Limbs:
    """Return how the head of an answer travels."""
    return Limbs(clients, _MARK_BITS + 8)


def head_size(clients: int) -> int:
    """Return the length of an answer's head, which is what its ``delta`` holds."""
    return 1 + 2 * head_limbs(clients).count


def answer(clients: int, client: ClientId, rows: int, sums: Vector) -> Update:
    """Return a client's answer: in ``delta`` the head, in the vector ``sums`` the limbs that the round is about."""
    head = head_limbs(clients).encode(np.array([rows, mark(client)], np.int64))
    return Update(np.concatenate([np.ones(1, np.float32), head]), 1.0, {"sums": sums} if len(sums) else {})


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """What the server learns of a round."""

    rows: int
    mark: int
    """Tells whether two rounds were played by the same clients; the head's word, modulo its room."""
    limbs: Vector
    factor: float

    @classmethod
    def of(cls, aggregate: Aggregate, clients: int) -> Summed:
        """Take an aggregate apart; it may hold sums, or means with equal weights.

        Raises:
            RemoteProtocolError: It is neither, or there cannot be so many rows.
        """
        first = float(aggregate.delta[0]) if len(aggregate.delta) == head_size(clients) else 0.0
        if not first > 0 or not 1 <= aggregate.clients <= clients:
            raise RemoteProtocolError(
                f"expected sums over 1 to {clients} clients with a head of {head_size(clients)} numbers, found "
                f"{aggregate.clients} clients and {len(aggregate.delta)} numbers"
            )
        factor = aggregate.clients / first
        rows, found = head_limbs(clients).decode(aggregate.delta[1:], factor).tolist()
        if not 0 <= rows <= _MOST_ROWS:
            raise RemoteProtocolError(f"{aggregate.clients} clients claim to have {rows} rows: one of them cheats")
        return cls(rows, found, aggregate.extra.get("sums", np.empty(0, np.float32)), factor)

    def integers(self, limbs: Limbs, count: int) -> Integers:
        """Return the integers (count,) that the limbs stand for.

        Raises:
            RemoteProtocolError: There are others than were asked for.
        """
        if len(self.limbs) != limbs.count * count:
            raise RemoteProtocolError(
                f"expected sums of {count} integers, {limbs.count * count} numbers, found {len(self.limbs)}"
            )
        return limbs.decode(self.limbs, self.factor)


@dataclass(frozen=True, slots=True)
class ExactSum:
    """An aggregator: the sums of all limbs, which are exact.

    Raises:
        RemoteProtocolError: Updates do not fit each other, or hold what is no limb; the message says which.
    """

    clients: int
    """In a cohort, at most."""

    def check_update(self, update: Update) -> None:
        """Accept an answer of limbs; raises as ``UpdateRule`` says."""
        head, most = head_size(self.clients), _MOST_ROWS // self.clients
        if len(update.delta) < head or not self._limbs_alone(update):
            raise RemoteProtocolError(
                f"its update holds numbers that are not whole and below {self._limit}: both sides need the same process"
            )
        rows, _ = head_limbs(self.clients).decode(update.delta[1:head]).tolist()
        if not 0 <= rows <= most:
            raise RemoteProtocolError(f"its update claims {rows} rows, expected at most {most}")

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the sums over a cohort."""
        same_shapes(updates)
        if len(updates) > self.clients:
            raise RemoteProtocolError(
                f"{len(updates)} clients take part, the learner was made for {self.clients}: draw smaller cohorts, or "
                "make it with more `clients`"
            )
        for place, update in enumerate(updates, 1):
            if not self._limbs_alone(update):
                raise RemoteProtocolError(
                    f"update {place} of {len(updates)} holds numbers that are not whole and below {self._limit}: both "
                    "sides need the same process; leave that client out"
                )
        extra = {name: _sum([update.extra[name] for update in updates]) for name in updates[0].extra}
        return Aggregate(_sum([update.delta for update in updates]), len(updates), float(len(updates)), extra)

    @property
    def _limit(self) -> int:
        return 1 << Limbs(self.clients, 2).width

    def _limbs_alone(self, update: Update) -> bool:
        vectors = (update.delta, *update.extra.values())
        wrong = (((vector < 0) | (vector >= self._limit) | (vector != np.rint(vector))).any() for vector in vectors)
        return bool(update.delta[0] == 1 and not any(wrong))


def _sum(vectors: Sequence[Vector]) -> Vector:
    total: NDArray[np.float64] = np.sum(vectors, axis=0, dtype=np.float64)
    return total.astype(np.float32)


# --- what is kept and broadcast ----------------------------------------------------------------------------------


def to_floats(values: NDArray[np.int64] | NDArray[np.uint64] | NDArray[np.float64]) -> Vector:
    """Return three 32-bit floats for each 64-bit number, which ``to_integers`` or ``to_reals`` gives back as it was."""
    words = np.ascontiguousarray(values).reshape(-1).view(np.uint64)
    mask = np.uint64((1 << _LIMB) - 1)
    return np.concatenate([(words >> np.uint64(_LIMB * place)) & mask for place in range(_LIMBS)]).astype(np.float32)


def to_integers(floats: Vector) -> Integers:
    """Return the 64-bit integers that ``to_floats`` took.

    Raises:
        RemoteProtocolError: It cannot have made these floats.
    """
    whole = (floats >= 0) & (floats < 1 << _LIMB) & (floats == np.rint(floats))
    if len(floats) % _LIMBS or not whole.all():
        raise RemoteProtocolError("a vector does not hold 64-bit numbers as three parts of 22 bits")
    parts = floats.astype(np.uint64).reshape(_LIMBS, -1)
    words = parts[0] | (parts[1] << np.uint64(_LIMB)) | (parts[2] << np.uint64(2 * _LIMB))
    return np.asarray(words.view(np.int64))


def whole(floats: Vector) -> Integers:
    """Return 32-bit floats as the integers that they are.

    Raises:
        RemoteProtocolError: One is not whole, or beyond 2^24, from where on floats are not all whole numbers.
    """
    if not ((np.abs(floats) <= 1 << 24) & (floats == np.rint(floats))).all():
        raise RemoteProtocolError("a vector holds numbers that are not whole, or too large to be exact")
    return floats.astype(np.int64)


def to_reals(floats: Vector) -> Floats:
    """Return the 64-bit floats that ``to_floats`` took; raises as ``to_integers``."""
    return to_integers(floats).view(np.float64)
