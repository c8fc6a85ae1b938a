"""Shares of slot-wise products: x at one party and y at the other with x + y = Σ_r F_r∘G_r modulo t, row by row.

The *key holder* has factors G, the *evaluator* factors F, both R vectors of n integers. For each block of 8192 rows,
with Enc the key holder's ring-LWE encryption of ``crypto.slots`` and t ≈ 2^62::

    key holder                                             evaluator
         ── Opening: public randomness ─────────────────────▶
         ◀── Opening ────────────────────────────────────────
         ── PublicKey: Enc(0) ──────────────────────────────▶                              (set-up, once)
         ── Call ── ◀── Call: the bounds, which have to be equal
         ── Block; Enc(G_1), …, Enc(G_R) ───────────────────▶   ρ uniform in [0, t)
         ◀── Answer: Σ_r F_r·Enc(G_r) + ρ, re-randomised and flooded ──
    y = decrypted value                                    x = −ρ

The mask is perfect: y is uniform in [0, t), whatever F is. Correctness pays for it: as integers, x + y is the sum
unless sum + ρ leaves [0, t), then it is the sum ± t. No sum reaches 2^B, so that this happens with a probability of at
most 2^B/t a row (``ProductBounds.failure``), and neither party can tell. Since t is 2^62 − 65535, whoever reduces the
shares modulo 2^62, or a smaller power of two, is off by ±65535 in such a row and no more.

Source: slot-wise (SIMD) arithmetic after Smart and Vercauteren (Designs, Codes and Cryptography 71, 2014), the
scheme of Fan and Vercauteren (eprint 2012/144); shares by masked homomorphic results as in Gazelle (Juvekar,
Vaikuntanathan, Chandrakasan, USENIX Security 2018). docs/security/slot_products.md has the argument and its limits.

*Security model*: semi-honest parties. The evaluator learns nothing, computationally (ring-LWE, 152 bits). The key
holder learns nothing, perfectly for the mask, statistically for the flooding (at most 2^-41.5 a coefficient, 8192 a
block), computationally for the rest. ``ProductBounds.distance`` is that of a call; distances of calls add up.
*Leakage*: ``ProductBounds``, the number of calls.
*Rounds*: one round trip for the set-up; per call one, and one for every ``GROUP`` blocks.
*Bytes*: set-up 192 KiB; per call and block of 8192 rows 192·R KiB to the evaluator and 384 KiB back (24·R + 48 a row).
*Limits*: nothing is verified beyond form and size. An evaluator that deviates decides what the key holder decrypts.
Sums that exceed the agreed 2^B, which only both parties together could notice, come out wrong more often.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, encode_bytes, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.crypto.slots import (
    DEGREE,
    FLOOD_QUOTIENTS,
    LIMBS,
    MAX_RANK,
    P1,
    Ciphertexts,
    Rerandomisation,
    SecretKey,
    T,
    are_residues,
    noise_bound,
    public_parts,
)
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.blocks import in_parallel

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

# Blocks that are worked on, sent and answered together, 192·R KiB each. The key holder is one group ahead of the
# answers, so that both sides work at once.
GROUP = 4
# Beyond, rows would often come out wrong by t.
MAX_RESULT_BITS = 40
MAX_FACTOR_BITS = 28


# --- messages ----------------------------------------------------------------------------------------------------


@message("slot_products/opening")
class Opening:
    """The sender's part of the public randomness."""

    contribution: bytes


@message("slot_products/public-key")
class PublicKey:
    """The part b of an encryption of zero, whose part a follows from the public randomness."""

    body: Annotated[NDArray[np.uint64], Shape(LIMBS, DEGREE)]


@message("slot_products/call")
class Call:
    """The bounds of the next call as the sender understands them."""

    rows: int
    rank: int
    result_bits: int
    factor_bits: int


@message("slot_products/block")
class Block:
    """Precedes the parts b of a block's ciphertexts: what their parts a follow from."""

    nonce: bytes


@message("slot_products/answer")
class Answer:
    """A ciphertext of the masked sums of a block."""

    ciphertext: Annotated[NDArray[np.uint64], Shape(2, LIMBS, DEGREE)]


# --- what both sides know ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProductBounds:
    """Public facts of a call, the same at both parties.

    Factors are ``rank`` vectors of ``rows`` integers below 2^factor_bits in magnitude; no sum of products reaches
    2^result_bits, which neither party can check alone unless it follows from the rest.

    Raises:
        UsageError: The scheme does not carry this.
    """

    rows: int
    rank: int
    result_bits: int
    factor_bits: int

    def __post_init__(self) -> None:
        limits = {
            "rows": (self.rows, 0, 1 << 62),
            "rank": (self.rank, 1, MAX_RANK),
            "result_bits": (self.result_bits, 1, MAX_RESULT_BITS),
            "factor_bits": (self.factor_bits, 1, MAX_FACTOR_BITS),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise UsageError(f"slot-wise products need {name} between {low} and {high}, found {value}")

    @property
    def blocks(self) -> int:
        """Number of blocks of 8192 rows, the last one filled up with zeros."""
        return -(-self.rows // DEGREE)

    def groups(self) -> list[slice]:
        """Return the blocks that are worked on together."""
        return [slice(start, min(start + GROUP, self.blocks)) for start in range(0, self.blocks, GROUP)]

    @property
    def distance(self) -> float:
        """The statistical distance, for the whole call, between the key holder's view and one simulated without F."""
        return float(self.blocks * DEGREE * noise_bound(self.rank) / (P1 * FLOOD_QUOTIENTS))

    @property
    def failure(self) -> float:
        """Bound on the probability that any row of the call comes out wrong by t; on their number, on average."""
        return float(self.rows * 2**self.result_bits / T)

    def check(self, factors: Integers) -> None:
        """Raise ``UsageError`` unless ``factors`` are int64 (rank, rows) and below 2^factor_bits in magnitude."""
        if factors.shape != (self.rank, self.rows) or factors.dtype != np.int64:
            raise UsageError(
                f"expected int64 factors of shape {(self.rank, self.rows)}, found {factors.dtype} {factors.shape}"
            )
        if not factors.size:
            return
        largest = max(int(factors.max()), -int(factors.min()))
        if largest >> self.factor_bits:
            raise UsageError(f"a factor has the magnitude {largest}, agreed are magnitudes below 2^{self.factor_bits}")

    def call(self) -> Call:
        """Return the bounds in the form in which they are sent; equal bounds have equal bytes."""
        return Call(self.rows, self.rank, self.result_bits, self.factor_bits)


# --- the key holder ----------------------------------------------------------------------------------------------


class KeyHolder:
    """The party that holds the key, after the set-up."""

    def __init__(self, key: SecretKey, seed: bytes, *, peer: PartyId, prg: Prg) -> None:
        self._key, self._seed, self._peer, self._prg = key, seed, peer, prg
        self._calls = 0

    @classmethod
    def set_up(cls, *, peer: PartyId, prg: Prg) -> Dialogue[KeyHolder]:
        """Set up towards ``peer``, who calls ``Evaluator.set_up``.

        Raises:
            RemoteProtocolError: The peer sends anything else.
        """
        own = prg.derive("slot_products/contribution").bytes(SEED_BYTES)
        theirs = yield from _exchange_openings(peer, own)
        seed = _digest(b"public", own, theirs)
        # Safety: another set-up has another key, and no part a ever serves two different plaintexts.
        secrets = prg.derive("slot_products/key-holder", peer.encode(), seed)
        key = SecretKey(secrets.derive("key"))
        zero = key.encrypt(public_parts(seed, 1), np.zeros((1, DEGREE), np.int64), secrets.derive("zero"))
        yield from send(peer, PublicKey(zero[0]))
        return cls(key, seed, peer=peer, prg=secrets.derive("calls"))

    def multiply(self, factors: Integers, bounds: ProductBounds) -> Dialogue[Integers]:
        """Return this side's shares (rows,) of the sums of products of ``factors`` (rank, rows) with the peer's.

        Raises:
            UsageError: The factors exceed the bounds.
            RemoteProtocolError: The peer has other bounds, or sends anything malformed.
        """
        bounds.check(factors)
        prg = _next_call(self._prg, self._calls, bounds)
        self._calls += 1
        yield from _exchange_calls(self._peer, bounds)
        groups = bounds.groups()
        shares = np.empty((bounds.blocks, DEGREE), np.int64)
        for index in range(len(groups) + 1):
            if index < len(groups):
                yield from self._ask(factors, groups[index], prg)
            if index > 0:
                yield from self._collect(shares[groups[index - 1]])
        return shares.reshape(-1)[: bounds.rows]

    def _ask(self, factors: Integers, blocks: slice, prg: Prg) -> Dialogue[None]:
        """Send the ciphertexts of some blocks."""
        numbers = range(blocks.start, blocks.stop)
        questions: dict[int, tuple[Block, Words]] = {}

        def encrypt(index: int) -> None:
            questions[index] = self._encrypt(_padded(factors, numbers[index]), _place(prg, numbers[index]))

        in_parallel(encrypt, len(numbers))
        for index in range(len(numbers)):
            header, bodies = questions.pop(index)
            yield from send(self._peer, header)
            yield from send_array(self._peer, bodies)

    def _encrypt(self, factors: Integers, prg: Prg) -> tuple[Block, Words]:
        # Safety: equal factors give equal bytes again, others fresh parts a and fresh noise.
        fresh = prg.derive("factors", _digest(factors))
        nonce = fresh.derive("nonce").bytes(SEED_BYTES)
        a = _block_parts(self._seed, nonce, len(factors))
        return Block(nonce), self._key.encrypt(a, factors, fresh.derive("noise"))

    def _collect(self, shares: Integers) -> Dialogue[None]:
        """Write what the answers to some blocks hold to ``shares`` (blocks, 8192)."""
        answers = []
        for _ in shares:
            answer = yield from receive(self._peer, Answer)
            _check_residues(self._peer, answer.ciphertext)
            answers.append(answer.ciphertext.copy())

        def decrypt(index: int) -> None:
            shares[index] = self._key.decrypt(answers[index]).view(np.int64)

        in_parallel(decrypt, len(answers))

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key holder cannot be pickled: it holds a secret key")


# --- the evaluator -----------------------------------------------------------------------------------------------


class Evaluator:
    """The party that computes under encryption, after the set-up."""

    def __init__(self, public_key: Words, seed: bytes, *, peer: PartyId, prg: Prg) -> None:
        self._public_key, self._seed, self._peer, self._prg = public_key, seed, peer, prg
        self._calls = 0

    @classmethod
    def set_up(cls, *, peer: PartyId, prg: Prg) -> Dialogue[Evaluator]:
        """Set up towards ``peer``, who calls ``KeyHolder.set_up``.

        Raises:
            RemoteProtocolError: The peer sends anything else.
        """
        own = prg.derive("slot_products/contribution").bytes(SEED_BYTES)
        theirs = yield from _exchange_openings(peer, own)
        seed = _digest(b"public", theirs, own)
        answer = yield from receive(peer, PublicKey)
        _check_residues(peer, answer.body)
        public_key = np.stack([public_parts(seed, 1)[0], answer.body])
        # Safety: all that stays the same for a block. Repeated with another set-up, it meets fresh masks.
        secrets = prg.derive("slot_products/evaluator", peer.encode(), seed, _digest(public_key))
        return cls(public_key, seed, peer=peer, prg=secrets)

    def multiply(self, factors: Integers, bounds: ProductBounds) -> Dialogue[Integers]:
        """Return this side's shares (rows,) of the sums of products of ``factors`` (rank, rows) with the peer's.

        Raises:
            UsageError: The factors exceed the bounds.
            RemoteProtocolError: The peer has other bounds, or sends anything malformed.
        """
        bounds.check(factors)
        prg = _next_call(self._prg, self._calls, bounds)
        self._calls += 1
        yield from _exchange_calls(self._peer, bounds)
        shares = np.empty((bounds.blocks, DEGREE), np.int64)
        for blocks in bounds.groups():
            yield from self._answer(factors, blocks, prg, shares, bounds)
        return shares.reshape(-1)[: bounds.rows]

    def _answer(
        self, factors: Integers, blocks: slice, prg: Prg, shares: Integers, bounds: ProductBounds
    ) -> Dialogue[None]:
        """Answer some blocks and write their shares to ``shares`` (blocks, 8192)."""
        numbers = range(blocks.start, blocks.stop)
        questions: list[tuple[Block, Words]] = []
        for _ in numbers:
            header = yield from receive(self._peer, Block)
            _check_seed(self._peer, header.nonce)
            bodies = yield from receive_array(self._peer, np.uint64, Shape(bounds.rank, LIMBS, DEGREE))
            _check_residues(self._peer, bodies)
            questions.append((header, bodies))
        answers: dict[int, Words] = {}

        def evaluate(index: int) -> None:
            number = numbers[index]
            answers[index], mask = self._evaluate(
                _padded(factors, number), *questions[index], _place(prg, number), bounds
            )
            shares[number] = -mask

        in_parallel(evaluate, len(numbers))
        for index in range(len(numbers)):
            yield from send(self._peer, Answer(answers.pop(index)))

    def _evaluate(
        self, factors: Integers, header: Block, bodies: Words, prg: Prg, bounds: ProductBounds
    ) -> tuple[Words, Integers]:
        """Return the answer to a block and its mask ρ."""
        # Safety: an equal question gets the same bytes again; with other factors, or another question, mask and
        # randomness are fresh. Two answers under one mask would tell the difference of their values.
        fresh = prg.derive("question", _digest(factors), _digest(header.nonce, bodies))
        mask = fresh.derive("mask").below(T, DEGREE).view(np.int64)
        randomness = Rerandomisation.draw(fresh.derive("randomness"))
        question = Ciphertexts(_block_parts(self._seed, header.nonce, bounds.rank), bodies)
        answer = question.evaluate(self._public_key, factors, mask, randomness)
        randomness.destroy()
        return answer, mask

    def __reduce__(self) -> NoReturn:
        raise UsageError("an evaluator cannot be pickled: it holds the seed of its masks")


# --- what both sides do ------------------------------------------------------------------------------------------


def _exchange_openings(peer: PartyId, own: bytes) -> Dialogue[bytes]:
    """Return the peer's part of the public randomness."""
    yield from send(peer, Opening(own))
    opening = yield from receive(peer, Opening)
    _check_seed(peer, opening.contribution)
    return opening.contribution


def _exchange_calls(peer: PartyId, bounds: ProductBounds) -> Dialogue[None]:
    """Make sure that both parties mean the same call."""
    own = bounds.call()
    yield from send(peer, own)
    theirs = yield from receive(peer, Call)
    if encode_bytes(theirs) != encode_bytes(own):
        raise RemoteProtocolError(f"{peer}: it multiplies with {theirs}, this side with {own}")


def _next_call(prg: Prg, number: int, bounds: ProductBounds) -> Prg:
    return prg.derive("call", struct.pack("<Q", number), encode_bytes(bounds.call()))


def _place(prg: Prg, block: int) -> Prg:
    return prg.derive("block", struct.pack("<Q", block))


def _padded(factors: Integers, block: int) -> Integers:
    """Return the columns of a block (rank, 8192), with zeros after the last row."""
    columns = factors[:, block * DEGREE : (block + 1) * DEGREE]
    out = np.zeros((len(factors), DEGREE), np.int64)
    out[:, : columns.shape[1]] = columns
    return out


def _block_parts(seed: bytes, nonce: bytes, count: int) -> Words:
    return public_parts(_digest(b"block", seed, nonce), count)


def _check_seed(peer: PartyId, seed: bytes) -> None:
    if len(seed) != SEED_BYTES:
        raise RemoteProtocolError(f"{peer}: expected {SEED_BYTES} bytes of public randomness, found {len(seed)}")


def _check_residues(peer: PartyId, values: Words) -> None:
    if not are_residues(values):
        raise RemoteProtocolError(f"{peer}: a ciphertext has residues that are not below their primes")


def _digest(*parts: bytes | Words | Integers) -> bytes:
    """Return the digest of parts; the number is raised with the protocol."""
    return framed_digest(b"unseen/slot_products/2", *parts)
