"""Oblivious transfer (OT): a chooser gets one of two keys, and the holder of both does not learn which.

*Base transfers*: D. Masny, P. Rindal, "Endemic Oblivious Transfer" (CCS 2019, eprint 2019/706), section 5 with
Diffie–Hellman on ristretto255. For choice c the chooser sends r_{1-c}, random, and r_c = b·G − H(r_{1-c}); the holder
answers A = a·G, once for all. The keys are those of a·(r_0 + H(r_1)) and a·(r_1 + H(r_0)); the chooser knows b·A.
Secure against parties that deviate, under computational Diffie–Hellman, with H (RFC 9380) and the key's SHA-256 as
random oracles; each transfer has its own, by its number. Two messages: 64 bytes a transfer, then 32.

*Further transfers* without points: Y. Ishai, J. Kilian, K. Nissim, E. Petrank, "Extending Oblivious Transfers
Efficiently" (CRYPTO 2003) in the form of G. Asharov, Y. Lindell, T. Schneider, M. Zohner, "More Efficient Oblivious
Transfer Extensions" (CCS 2013, eprint 2013/552), protocol 4.1. The roles turn round: who chooses in the further ones
holds both keys of 128 base transfers. A chooser that used other choices in some columns than in others could learn bits
of the holder's secret from what goes wrong later. So it proves that it did not, by the check of L. Roy, "SoftSpokenOT"
(CRYPTO 2022, eprint 2022/192), here for fields of two: a universal hash of every column and of its choices, of which
``SPARE`` further random ones hide the latter. The hash's point comes from a digest of what was sent (Fiat–Shamir). Who
cheats in k columns is caught but for a probability of 2^-k, after which it has learned k bits of a secret that serves
for one session. 16 bytes a transfer and 2 kB, one message.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.groups import (
    POINT_BYTES,
    Scalar,
    add_all,
    check_points,
    hash_all,
    multiple_of_base,
    multiply_all,
    multiply_each,
    subtract_all,
)
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.blake2b import hash_all as digest_all
from unseen.kernels.gf128 import geometric

DST = b"unseen-oblivious_transfer-v1-with-ristretto255_XMD:SHA-512_R255MAP_RO_"
WIDTH = 128
"""Base transfers under the further ones: the computational security in bits."""
SPARE = WIDTH + 40
"""Transfers whose random choices hide the hash of all choices, but for a statistical distance of 2^-40."""

Bits = NDArray[np.bool_]
Words = NDArray[np.uint64]


# --- base transfers: messages ------------------------------------------------------------------------------------


@message("oblivious_transfer/choices")
class Choices:
    """Two elements for each transfer, of which the chooser knows how one came about."""

    points: Annotated[NDArray[np.uint8], Shape(None, 2, POINT_BYTES)]


@message("oblivious_transfer/answer")
class Answer:
    """The holder's element, for all transfers."""

    point: Annotated[NDArray[np.uint8], Shape(POINT_BYTES)]


# --- base transfers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What the chooser of some transfers has: its choices, and a generator of each chosen key."""

    choices: Bits = field(repr=False)
    keys: tuple[Prg, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """What the holder of some transfers has: both generators of each."""

    keys: tuple[tuple[Prg, Prg], ...]
    heard: bytes
    """Digest of what the chooser sent."""


def choose(choices: Bits, *, peer: PartyId, prg: Prg, session: bytes) -> Dialogue[Chosen]:
    """Return the generators that ``choices`` select; ``session`` is the same at both parties and never used again.

    Raises:
        RemoteProtocolError: ``peer`` sent no element.
    """
    count, picked = len(choices), choices.astype(np.intp)
    scalars = [Scalar.derive(prg.derive("oblivious_transfer/exponent")) for prg in _numbered(prg, count)]
    known = np.frombuffer(b"".join(map(multiple_of_base, scalars)), np.uint8).reshape(-1, POINT_BYTES)
    points = np.empty((count, 2, POINT_BYTES), np.uint8)
    rows = np.arange(count)
    others = hash_all([each.derive("oblivious_transfer/other").bytes(64) for each in _numbered(prg, count)], DST)
    points[rows, 1 - picked] = others
    points[rows, picked] = subtract_all(known, _hashes(session, others))
    yield from send(peer, Choices(points))
    answer = (yield from receive(peer, Answer)).point
    _check(answer[None], peer)
    shared = multiply_each(scalars, np.tile(answer, (count, 1)))
    return Chosen(choices, tuple(_key(session, row, picked[row], shared[row]) for row in range(count)))


def offer(count: int, *, peer: PartyId, prg: Prg, session: bytes) -> Dialogue[Pairs]:
    """Return both generators of ``count`` transfers in which ``peer`` chooses.

    Raises:
        RemoteProtocolError: ``peer`` sent something else than two elements for each.
    """
    points = (yield from receive(peer, Choices)).points
    if len(points) != count:
        raise RemoteProtocolError(f"{peer}: expected the choices of {count} transfers, found {len(points)}")
    _check(points.reshape(-1, POINT_BYTES), peer)
    heard = framed_digest(b"unseen/oblivious_transfer/choices/1\0", points)
    # Safety: whoever resumes and is sent other choices answers with another exponent.
    scalar = Scalar.derive(prg.derive("oblivious_transfer/answer", heard))
    yield from send(peer, Answer(np.frombuffer(multiple_of_base(scalar), np.uint8)))
    shared = []
    for side in (0, 1):
        sums = add_all(points[:, side], _hashes(session, points[:, 1 - side]))
        try:
            shared.append(multiply_all(scalar, sums))
        except UsageError as error:  # a sum is the identity
            raise RemoteProtocolError(f"{peer}: choices that no chooser makes: {error}") from error
    first, second = ([_key(session, row, side, shared[side][row]) for row in range(count)] for side in (0, 1))
    return Pairs(tuple(zip(first, second, strict=True)), heard)


def _numbered(prg: Prg, count: int) -> list[Prg]:
    return [prg.derive("oblivious_transfer/number", row.to_bytes(4, "little")) for row in range(count)]


def _hashes(session: bytes, points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return H of each element, another H for each row."""
    inputs = [session + row.to_bytes(4, "little") + point.tobytes() for row, point in enumerate(points)]
    return hash_all(inputs, DST)


def _key(session: bytes, row: int, side: int, point: NDArray[np.uint8]) -> Prg:
    place = bytes([side]) + row.to_bytes(4, "little")
    return Prg(hashlib.sha256(b"unseen/oblivious_transfer/key/1" + session + place + point.tobytes()).digest())


def _check(points: NDArray[np.uint8], peer: PartyId) -> None:
    try:
        check_points(points)
    except UsageError as error:
        raise RemoteProtocolError(f"{peer}: invalid point in an oblivious transfer: {error}") from error


# --- further transfers -------------------------------------------------------------------------------------------


@message("oblivious_transfer/extension")
class Extension:
    """What the chooser of further transfers sends: corrections, one bit a base and further transfer; and the proof."""

    corrections: Annotated[NDArray[np.uint8], Shape(WIDTH, None)]
    choices: Annotated[NDArray[np.uint64], Shape(2)]
    """Hash of the choices."""
    columns: Annotated[NDArray[np.uint64], Shape(WIDTH, 2)]
    """Hash of each column."""


def extend_choices(pairs: Pairs, choices: Bits, context: bytes, prg: Prg) -> tuple[Extension, Words]:
    """Return what the chooser of further transfers sends, and its keys, shape (m, 2).

    ``context`` is the same at both parties, and another one for every use of ``pairs``; ``prg`` is used for nothing
    else.
    """
    spare = np.unpackbits(np.frombuffer(prg.bytes(SPARE // 8), np.uint8)).astype(np.bool_)
    bits = np.concatenate([choices, spare])
    packed = np.packbits(bits, bitorder="little")
    streams = b"".join([_stream(key, context, len(packed)) for pair in pairs.keys for key in pair])
    columns = np.frombuffer(streams, np.uint8).reshape(WIDTH, 2, len(packed))
    corrections = columns[:, 0] ^ columns[:, 1] ^ packed
    point = _point(corrections, context)
    (choice_hash,), hashes = _hashed(bits[None], point), _hashed(_bits(columns[:, 0], len(bits)), point)
    return Extension(corrections, choice_hash, hashes), _digests(_rows(columns[:, 0], len(choices)), context)


def extend_pairs(chosen: Chosen, sent: Extension, count: int, context: bytes, *, peer: PartyId) -> Words:
    """Return both keys of ``count`` further transfers, shape (m, 2, 2), from what their chooser ``peer`` sent.

    Raises:
        RemoteProtocolError: It is for another number of transfers, or its choices are not the same everywhere.
    """
    length = -(-(count + SPARE) // 8)
    if sent.corrections.shape[1] != length:
        found = 8 * sent.corrections.shape[1] - SPARE
        raise RemoteProtocolError(f"{peer}: expected {count} further transfers, found about {found}")
    streams = b"".join([_stream(key, context, length) for key in chosen.keys])
    columns = np.frombuffer(streams, np.uint8).reshape(WIDTH, length) ^ (sent.corrections * chosen.choices[:, None])
    hashes = _hashed(_bits(columns, count + SPARE), _point(sent.corrections, context))
    if not np.array_equal(hashes, sent.columns ^ (sent.choices * chosen.choices[:, None].astype(np.uint64))):
        raise RemoteProtocolError(f"{peer}: chose differently in different places of one transfer")
    rows = _rows(columns, count)
    difference = np.packbits(chosen.choices, bitorder="little").view("<u8")
    return np.stack([_digests(rows, context), _digests(rows ^ difference, context)], axis=1)


def _stream(key: Prg, context: bytes, count: int) -> bytes:
    return key.derive("oblivious_transfer/extension", context).bytes(count)


def _bits(columns: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.unpackbits(columns, axis=1, count=count, bitorder="little")


def _point(corrections: NDArray[np.uint8], context: bytes) -> Words:
    """Return where the polynomial of a hash is evaluated: an element that nobody chose."""
    return np.frombuffer(framed_digest(b"unseen/oblivious_transfer/check/1\0", context, corrections)[:16], "<u8")


def _hashed(rows: NDArray[np.uint8] | Bits, point: Words) -> Words:
    """Return Σ_j row[j]·point^(j+1) in GF(2^128) for every row of bits, shape (rows, 2)."""
    powers = geometric(point, rows.shape[1])
    return np.stack([np.bitwise_xor.reduce(powers[row.view(np.bool_)], axis=0) for row in rows])


def _rows(columns: NDArray[np.uint8], count: int) -> Words:
    """Return the transpose of a matrix of bits with 128 rows, as ``count`` rows of two words."""
    return np.packbits(np.ascontiguousarray(_bits(columns, count).T), axis=1, bitorder="little").view("<u8")


def _digests(rows: Words, context: bytes) -> Words:
    """Return a digest of each row and its number: the random oracle that breaks the correlation."""
    numbered = np.empty((len(rows), 3), "<u8")
    numbered[:, 0], numbered[:, 1:] = np.arange(len(rows)), rows
    content = numbered.reshape(-1).view(np.uint8)
    key = hashlib.sha256(b"unseen/oblivious_transfer/extension/1" + context).digest()
    return digest_all(content, np.arange(0, content.size + 1, 24), key)
