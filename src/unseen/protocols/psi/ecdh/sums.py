"""Sums of one party's numbers over the items that both hold, without telling anybody which these are.

M. Ion, B. Kreuter, A. Nergiz, S. Patel, M. Raykova, S. Saxena, K. Seth, D. Shanahan, M. Yung, "On Deploying Secure
Computing: Private Intersection-Sum-with-Cardinality" (eprint 2019/723; EuroS&P 2020): the protocol from decisional
Diffie–Hellman and additively homomorphic encryption, here that of Paillier (``crypto.paillier``).

The *holder* has values, the *matcher* has none. The matcher sends its set, blinded, in a random order. The holder
multiplies it by its own scalar, **shuffles** it and returns the tags; then it sends its own set, blinded, in a random
order, and with every element its row of values, encrypted under its key. The matcher multiplies each element, sees by
the tags whether it is shared, and adds the ciphertexts of those that are. It re-randomises each sum: without that, a
sum is the product of known ciphertexts, and the holder could find out of which. The holder decrypts:

=========================  ===========================  ============================================
who receives               what the matcher sends       then
=========================  ===========================  ============================================
the holder                 sums, how many are shared    nothing
both                       sums, how many are shared    the holder returns the sums in the clear
the matcher                sums + mask, uniform mod n   the holder returns them in the clear, masked
=========================  ===========================  ============================================

The mask and the answer are the one addition to the paper, where the holder receives.

*Packing*: numbers are int64 and shared items at most 2^28, so that a sum is below 2^91. Each column has 96 bits of a
plaintext: 31 columns go into one with 3072 bits. Plaintexts are signed sums Σ_c v_c·2^(96c), which add up without a
carry that could be lost.

*Security model*: semi-honest; decisional Diffie–Hellman in ristretto255, decisional composite residuosity, hashes as
random oracles. A holder who deviates learns the numbers it likes of subsets it likes (values that encode who they
belong to, such as powers of two); a matcher who does can add other ciphertexts than the shared ones, single ones too.

*Leakage*: both sizes, the number of columns, and **the matcher learns how many items are shared even if it is no
recipient** (the result then says ``None``). The holder, if it is none, learns nothing: it decrypts uniform residues.
The matcher cannot tell which of its own items are shared, as the tags of its set were shuffled; the holder's items it
sees in an order that means nothing. A sum over few shared items says much about each: minimum sizes guard against
that, in front of the protocol.

*Rounds*: 3 (the salt, the matcher's set, the holder's; the answer), 4 if the matcher receives. *Bytes*: the matcher
sends 32 an item; the holder 12 for each of these, and for each own item 32 and 768 for every 31 columns. *Work*: a
multiplication for every item of both sets at both parties; an encryption (7 ms of one processor) for each item of the
holder and every 31 columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.groups import POINT_BYTES, multiply_all
from unseen.crypto.paillier import (
    KEY_BITS,
    PrivateKey,
    PublicKey,
    check_key_bits,
    integers_from_rows,
    integers_to_rows,
    uniform_below,
)
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.blocks import pieces
from unseen.protocols.psi.ecdh.session import (
    TAG_BYTES,
    Session,
    check_distinct,
    hashed,
    multiplied,
    open_session,
    receive_blinded,
    receive_tags,
    send_own,
    tags_of,
)
from unseen.protocols.psi.port import Items, Meeting, Totals, strings

Integers = NDArray[np.int64]

SLOT_BITS = 96
"""63 bits of a value, 28 of the number of items, a sign; whole bytes."""
MAX_COLUMNS = 1 << 10
VALUED_BLOCK = 1 << 8
"""Items with their ciphertexts in a message: about two seconds of encryption."""


# --- messages ----------------------------------------------------------------------------------------------------


@message("psi_join.ecdh/sum-key")
class SumKey:
    """The holder's modulus, big-endian."""

    modulus: bytes


@message("psi_join.ecdh/valued-points")
class ValuedPoints:
    """The next points of the holder's set, and the encrypted values of each."""

    points: Annotated[NDArray[np.uint8], Shape(None, POINT_BYTES)]
    ciphertexts: Annotated[NDArray[np.uint8], Shape(None, None, None)]
    """Items × ciphertexts of an item × bytes."""


@message("psi_join.ecdh/sums")
class Sums:
    """Re-randomised sums, masked unless the holder is a recipient; then also over how many items."""

    ciphertexts: Annotated[NDArray[np.uint8], Shape(None, None)]
    shared: int | None


# --- packing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Packing:
    """How the columns of a row are spread over plaintexts."""

    columns: int
    per_plaintext: int

    @classmethod
    def of(cls, columns: int, key_bits: int) -> _Packing:
        # Two bits less than the modulus: a signed sum is then nearer to zero than n/2.
        return cls(columns, (key_bits - 2) // SLOT_BITS)

    @property
    def plaintexts(self) -> int:
        return -(-self.columns // self.per_plaintext)

    def pack(self, row: Sequence[int]) -> list[int]:
        """Return the plaintexts of one row of values."""
        parts = [row[start : start + self.per_plaintext] for start in range(0, self.columns, self.per_plaintext)]
        return [sum(value << (SLOT_BITS * slot) for slot, value in enumerate(part)) for part in parts]

    def unpack(self, plaintexts: Sequence[int], limit: int, sender: PartyId) -> tuple[int, ...]:
        """Return the sums of all columns.

        Raises:
            RemoteProtocolError: One is beyond ±``limit``, so that these are not sums of packed rows.
        """
        sums: list[int] = []
        for rest in plaintexts:
            left = rest
            for _ in range(min(self.per_plaintext, self.columns - len(sums))):
                low = (left + (1 << (SLOT_BITS - 1))) % (1 << SLOT_BITS) - (1 << (SLOT_BITS - 1))
                sums.append(low)
                left = (left - low) >> SLOT_BITS
            if left or max(map(abs, sums)) > limit:
                raise RemoteProtocolError(f"{sender}: what comes out is no sum of as many 64-bit numbers as are shared")
        return tuple(sums)


# --- the dialogue ------------------------------------------------------------------------------------------------


def total(items: Items, values: Integers | None, meeting: Meeting, *, key_bits: int = KEY_BITS) -> Dialogue[Totals]:
    """Return the sums of the holder's columns over the shared items; see ``Sum`` and the head of this module.

    Raises:
        UsageError: There are more parties than two, or ``values`` are no int64 table with a row for each item.
        DataError: An item occurs twice, or both sets together are too large.
        RemoteProtocolError: The peer broke a rule, or both parties or none bring values.
    """
    peer = meeting.other("a sum by 'ecdh' is for two parties")
    check_key_bits(key_bits)
    columns = 0 if values is None else _checked_columns(values, len(items))
    session = yield from open_session(items, meeting, f"sum/{key_bits}", columns=columns)
    theirs = session.columns[peer]
    if (columns > 0) == (theirs > 0) or theirs > MAX_COLUMNS:
        raise RemoteProtocolError(
            f"{peer}: brings {theirs} columns of values and this party {columns}, expected 1 to {MAX_COLUMNS} at one "
            "of both and none at the other"
        )
    packing = _Packing.of(columns + theirs, key_bits)
    if values is None:
        return (yield from _match(session, meeting, packing, key_bits))
    return (
        yield from _hold(session, meeting, packing, values, PrivateKey.generate(session.prg.derive("key"), key_bits))
    )


def _checked_columns(values: Integers, rows: int) -> int:
    if values.dtype != np.int64 or values.ndim != 2 or len(values) != rows or not 0 < values.shape[1] <= MAX_COLUMNS:
        raise UsageError(
            f"values to sum are int64 of shape ({rows}, columns), 1 to {MAX_COLUMNS} of these, found "
            f"{values.dtype} of shape {values.shape}"
        )
    return int(values.shape[1])


def _limit(shared: int) -> int:
    return shared << 63


# --- the holder --------------------------------------------------------------------------------------------------


def _hold(session: Session, meeting: Meeting, packing: _Packing, values: Integers, key: PrivateKey) -> Dialogue[Totals]:
    peer = meeting.peers[0]
    yield from send(peer, SumKey(key.public.to_bytes()))
    theirs = yield from receive_blinded(session, session.scalar("pair"), peer, peer)
    # Safety: in the order in which they came, the tags would tell the matcher which of its items are shared.
    yield from send_array(peer, tags_of(session, theirs[session.order("peer's", theirs)]))
    yield from _send_valued(session, peer, packing, values, key)
    answer = yield from receive(peer, Sums)
    opened = _opened(answer, packing, key, peer)
    if meeting.learns(peer):
        residues = integers_to_rows([value % key.public.modulus for value in opened], key.public.plaintext_bytes)
        yield from send_array(peer, residues)
    if not meeting.learns(meeting.me):
        return Totals(None, None, session.sizes)
    smallest = min(session.sizes.values())
    if answer.shared is None or not 0 <= answer.shared <= smallest:
        raise RemoteProtocolError(f"{peer}: {answer.shared} items are shared, expected 0 to {smallest}")
    return Totals(packing.unpack(opened, _limit(answer.shared), peer), answer.shared, session.sizes)


def _send_valued(
    session: Session, peer: PartyId, packing: _Packing, values: Integers, key: PrivateKey
) -> Dialogue[None]:
    scalar, order = session.scalar("pair"), session.own_order()
    # Safety: two different plaintexts must not meet the same stream, also if a task is resumed with other values.
    prg = session.prg.derive("encrypt", hashlib.sha256(np.ascontiguousarray(values).data).digest())
    for block in pieces(len(order), VALUED_BLOCK):
        rows = order[block]
        points = multiply_all(scalar, hashed(session, rows))
        plaintexts = [plaintext for row in values[rows].tolist() for plaintext in packing.pack(row)]
        ciphertexts = key.public.pack([key.encrypt(plaintext, prg) for plaintext in plaintexts])
        shape = (len(rows), packing.plaintexts, key.public.ciphertext_bytes)
        yield from send(peer, ValuedPoints(points, ciphertexts.reshape(shape)))
        yield from session.meter.add(len(rows), session.ring.me)


def _opened(answer: Sums, packing: _Packing, key: PrivateKey, peer: PartyId) -> list[int]:
    expected = (packing.plaintexts, key.public.ciphertext_bytes)
    if answer.ciphertexts.shape != expected:
        raise RemoteProtocolError(f"{peer}: expected sums of shape {expected}, found {answer.ciphertexts.shape}")
    return [key.decrypt(each) for each in key.public.unpack(answer.ciphertexts, sender=peer)]


# --- the matcher -------------------------------------------------------------------------------------------------


def _match(session: Session, meeting: Meeting, packing: _Packing, key_bits: int) -> Dialogue[Totals]:
    peer, scalar = meeting.peers[0], session.scalar("pair")
    yield from send_own(session, scalar, session.own_order(), peer)
    key = PublicKey.from_bytes((yield from receive(peer, SumKey)).modulus, sender=peer)
    if key.modulus.bit_length() != key_bits:
        raise RemoteProtocolError(
            f"{peer}: its Paillier modulus has {key.modulus.bit_length()} bits, agreed are {key_bits}"
        )
    mine = yield from receive_tags(session, peer, meeting.me)
    sums, shared = yield from _add_shared(session, peer, packing, key, np.sort(strings(mine)))
    masks = yield from _answer(session, meeting, key, sums, shared)
    if not meeting.learns(meeting.me):
        return Totals(None, None, session.sizes)
    residues = yield from receive_array(peer, np.uint8, Shape(packing.plaintexts, key.plaintext_bytes))
    opened = [key.centred(each - mask) for each, mask in zip(integers_from_rows(residues), masks, strict=True)]
    return Totals(packing.unpack(opened, _limit(shared), peer), shared, session.sizes)


def _add_shared(
    session: Session, peer: PartyId, packing: _Packing, key: PublicKey, known: NDArray[np.bytes_]
) -> Dialogue[tuple[list[mpz], int]]:
    """Return ciphertexts of the sums over the holder's items whose tags are ``known`` (sorted), and their number."""
    scalar, seen = session.scalar("pair"), np.empty((session.sizes[peer], TAG_BYTES), np.uint8)
    sums, shared = [mpz(1)] * packing.plaintexts, 0
    for block in pieces(len(seen), VALUED_BLOCK):
        found = yield from receive(peer, ValuedPoints)
        shape = (block.stop - block.start, packing.plaintexts, key.ciphertext_bytes)
        if len(found.points) != shape[0] or found.ciphertexts.shape != shape:
            raise RemoteProtocolError(
                f"{peer}: expected {shape[0]} points and ciphertexts of shape {shape}, "
                f"found {len(found.points)} and {found.ciphertexts.shape}"
            )
        seen[block] = tags_of(session, multiplied(scalar, found.points, peer))
        rows = np.flatnonzero(_among(strings(seen[block]), known))
        shared += len(rows)
        for index in range(packing.plaintexts):
            chosen = key.unpack(found.ciphertexts[rows, index], sender=peer)
            sums[index] = reduce(key.add, chosen, sums[index])
        yield from session.meter.add(len(found.points), peer)
    check_distinct(seen, f"{peer}: the blinded items of {peer}")
    return sums, shared


def _among(tags: NDArray[np.bytes_], known: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(tags), np.bool_)
    places = np.searchsorted(known, tags)
    return np.asarray(known[np.minimum(places, len(known) - 1)] == tags)


def _answer(session: Session, meeting: Meeting, key: PublicKey, sums: list[mpz], shared: int) -> Dialogue[list[mpz]]:
    """Send the sums to the holder, re-randomised, and masked unless it receives; return the masks."""
    peer, told = meeting.peers[0], meeting.learns(meeting.peers[0])
    # Safety: no two different answers meet the same stream.
    prg = session.prg.derive("answer", key.to_bytes(), key.pack(sums).tobytes())
    limit = mpz(1) if told else key.modulus  # the only number below 1 is 0
    masks = [uniform_below(limit, prg) for _ in sums]
    fresh = [key.rerandomise(key.shift(each, mask), prg) for each, mask in zip(sums, masks, strict=True)]
    yield from send(peer, Sums(key.pack(fresh), shared if told else None))
    return masks
