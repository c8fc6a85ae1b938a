"""The lattice scheme for Mᵀv: one encrypted hint for M, then 8 bytes a row and a plaintext product per vector.

With q = 2^64, a public matrix A (rows × 2560), Δ a power of two, and Enc the matrix holder's ring-LWE encryption::

    vector holder                                          matrix holder
         ── Opening: what was agreed, public randomness ──▶
         ◀── Opening; Enc(0), Enc(H) with H = MᵀA ──────────                          (set-up, once for M)
         ── Call; for each v:   b = A·s + e + Δ·v,          ▶
                    Enc(H·s + r), re-randomised and flooded
         ◀── Answer: Mᵀb − (H·s + r) + rounding noise ──────     recipient VECTOR_HOLDER: adds r, rounds by Δ
    or   ── Unmask: r + rounding noise ────────────────────▶     recipient MATRIX_HOLDER: Mᵀb − (H·s + r) + r, rounds

Source: the hint is that of SimplePIR (Henzinger and others, USENIX Security 2023) and HintlessPIR (Li, Micciancio,
Mandal, Schultz-Wu, CRYPTO 2024), moved to the matrix holder's key. The composition is our own;
docs/security/linear_map.md has the argument and its limits.

*Security model*: semi-honest parties, computational (module-LWE and ring-LWE, at least 128 bits), statistical error
at most 2^-39 an entry for the flooding.
*Leakage*: ``Bounds``, the number of vectors, the recipient. As a recipient the vector holder learns Mᵀ(Δv + e) + noise
for its own e, which is more than Mᵀv unless the bounds leave room for the noise; the document gives the figure.
*Rounds*: one for the set-up; per call one round trip if the vector holder learns the result, else one message flow.
*Bytes*: set-up (1 + ⌈2560/⌊8192/columns⌋⌉) · 128 KiB; per vector 8 a row, 128 KiB for every 8192 columns and 24 a
column.
*Limits*: a party that breaks the protocol can make results wrong; nothing is verified beyond form and size.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.gaussian import wide_gaussian
from unseen.crypto.lattice_parameters import FAILURE_BITS, INNER, MODULUS, VECTOR_DEVIATION, WORD_BITS
from unseen.crypto.lwe import OneTimeSecret, PublicMatrix
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.crypto.ring import LIMBS, are_residues
from unseen.crypto.rlwe import DEGREE, EncryptedMatrix, Packing, Rerandomisation, SecretKey, public_parts
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, Terms, check_terms, expect_call
from unseen.protocols.linear_map.port import Bounds, MatrixSide, Recipient, VectorSide

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

_WORD = 1 << WORD_BITS


# --- messages ----------------------------------------------------------------------------------------------------


@message("linear_map.lattice/opening")
class Opening:
    """What the sender takes as agreed, and its part of the public randomness."""

    terms: Terms
    contribution: bytes


@message("linear_map.lattice/query")
class Query:
    """Follows each b: Enc(H·s + r), one part a for every 8192 columns, and the first coefficients of the parts b."""

    masks: Annotated[NDArray[np.uint64], Shape(None, LIMBS, DEGREE)]
    bodies: Annotated[NDArray[np.uint64], Shape(LIMBS, None)]


@message("linear_map.lattice/answer")
class Answer:
    """Mᵀb − (H·s + r) for each vector, with the matrix holder's rounding noise."""

    sums: Annotated[NDArray[np.uint64], Shape(None, None)]


@message("linear_map.lattice/unmask")
class Unmask:
    """The masks r of each vector, with the vector holder's rounding noise."""

    masks: Annotated[NDArray[np.uint64], Shape(None, None)]


# --- what both sides derive from the bounds ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scaling:
    """How results lie in a word: multiplied by Δ = 2^``shift``, which is as large as the bounds permit.

    ``variance`` is that of the vector holder's rounding noise: with it, what the matrix holder learns of e leaves
    LWE as hard as with half the deviation (Hint-LWE: Kim, Lee, Seo, Song, CRYPTO 2023). No product exceeds
    ``largest``.
    """

    shift: int
    variance: int
    largest: int

    @classmethod
    def of(cls, bounds: Bounds) -> Scaling:
        """Return the scaling for these bounds.

        Raises:
            UsageError: Results of this size and the noise do not fit into a word together.
        """
        if not (bounds.column_norm < _WORD / 2 and bounds.result < _WORD / 2):
            raise UsageError(f"norms and results have to stay below 2^{WORD_BITS - 1}, found {bounds}")
        squared_norm = math.ceil(bounds.column_norm**2) * VECTOR_DEVIATION**2
        # No eigenvalue of MᵀM exceeds its trace, the sum of the squared norms of the columns.
        variance = squared_norm * max(1, bounds.columns)
        # Norms are floating-point numbers: allow for their rounding.
        largest = math.ceil(bounds.result * (1 + 2**-40)) + 1
        shift = WORD_BITS - 1 - (largest - 1).bit_length()
        missing = _bits_for_noise(squared_norm, variance, bounds.columns) - shift
        if missing > 0:
            raise UsageError(
                f"the lattice scheme carries results up to {bounds.result / 2**missing:.4g} exactly for"
                f" {bounds.columns} columns of norm {bounds.column_norm:.6g}, and the bounds allow"
                f" {bounds.result:.4g}. Scale the vectors down by {math.ceil(10 * missing) / 10} bits or the columns"
                " by half of that, or use the scheme paillier"
            )
        return cls(shift, variance, largest)

    def scaled(self, values: Integers) -> Words:
        """Return Δ·values as words."""
        return values.view(np.uint64) << np.uint64(self.shift)

    def rounded(self, words: Words) -> Integers:
        """Return the integers nearest to words/Δ."""
        half = np.uint64(1 << (self.shift - 1))
        return (words + half).view(np.int64) >> self.shift

    def noise(self, words: Words) -> Words:
        """Return noise uniform in [−Δ/4, Δ/4) for uniform words."""
        return (words & np.uint64((1 << (self.shift - 1)) - 1)) - np.uint64(1 << (self.shift - 2))


def _bits_for_noise(squared_norm: int, variance: int, columns: int) -> float:
    """Return log2 of the smallest Δ for which no rounding fails but with probability 2^-64.

    Entries of Mᵀe are sub-Gaussian with ``squared_norm``. Uniform noise takes half of the room if the vector holder
    is to learn the result, Gaussian noise is added to it otherwise; the scaling serves both.
    """
    deviations = math.sqrt(2 * (math.log(2 * max(1, columns)) + math.log(2) * FAILURE_BITS))
    for_vector_holder = 4 * deviations * math.sqrt(squared_norm)
    for_matrix_holder = 2 * deviations * math.sqrt(squared_norm + variance)
    return math.log2(max(for_vector_holder, for_matrix_holder))


@dataclass(frozen=True, slots=True)
class Lattice:
    """The lattice scheme: the default."""

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        return "lattice"

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError``, saying what would fit, if the scheme cannot carry results of this size exactly."""
        Scaling.of(bounds)
        limit = MODULUS / _WORD
        if bounds.column_norm * math.sqrt(bounds.rows) >= limit:
            raise UsageError(
                f"column_norm · √rows has to stay below {limit:.3g} for the lattice scheme, found norm"
                f" {bounds.column_norm:.6g} and {bounds.rows} rows: scale the columns down or split the rows"
            )

    def hold_matrix(
        self, matrix: NDArray[np.int64], bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[MatrixSide]:
        """Set up as the matrix holder towards ``peer``."""
        self.check(bounds)
        bounds.check_matrix(matrix)
        own = prg.derive("linear_map.lattice/contribution").bytes(SEED_BYTES)
        yield from send(peer, Opening(Terms.of(bounds), own))
        theirs = yield from _receive_opening(peer, bounds)
        seed = _digest(b"public", theirs, own)
        columns = np.array(matrix.T, np.int64, order="C")
        hint = PublicMatrix(seed, bounds.rows).hint(columns)
        # Safety: the key depends on all it encrypts under, so that no part of it ever serves two different hints.
        secrets = prg.derive("linear_map.lattice/key", seed, _digest(hint))
        key = SecretKey(secrets)
        plain = np.concatenate([np.zeros((1, DEGREE), np.uint64), *_pack(hint)])
        ciphertexts = key.encrypt(public_parts(seed, len(plain)), plain)
        yield from send_array(peer, ciphertexts)
        answers = prg.derive("linear_map.lattice/answers", seed, _digest(ciphertexts), _digest(columns))
        return _MatrixHolder(columns, bounds, key, peer=peer, prg=answers)

    def hold_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[VectorSide]:
        """Set up as the vector holder towards ``peer``."""
        self.check(bounds)
        own = prg.derive("linear_map.lattice/contribution").bytes(SEED_BYTES)
        yield from send(peer, Opening(Terms.of(bounds), own))
        theirs = yield from _receive_opening(peer, bounds)
        seed = _digest(b"public", own, theirs)
        count = 1 + sum(group.packing.polynomials for group in _groups(bounds.columns))
        ciphertexts = yield from receive_array(peer, np.uint64, Shape(count, LIMBS, DEGREE))
        if not are_residues(ciphertexts):
            raise RemoteProtocolError(f"{peer}: the encrypted hint has residues that are not below their primes")
        hint = EncryptedMatrix(public_parts(seed, count), ciphertexts)
        # Safety: all that a vector is sent under. Repeated with another set-up, it meets fresh secrets.
        setting = _digest(peer.encode(), _packed(bounds), seed, ciphertexts)
        return _VectorHolder(
            bounds, PublicMatrix(seed, bounds.rows), hint, peer=peer, prg=prg.derive("vectors", setting)
        )


# --- the matrix holder -------------------------------------------------------------------------------------------


class _MatrixHolder:
    """The matrix holder after the set-up."""

    def __init__(self, columns: Integers, bounds: Bounds, key: SecretKey, *, peer: PartyId, prg: Prg) -> None:
        self._columns, self._bounds, self._key, self._peer, self._prg = columns, bounds, key, peer, prg
        self._scaling = Scaling.of(bounds)

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[Integers | None]:
        """Answer ``count`` vectors; return Mᵀv, shape (count, columns), if this side is the recipient."""
        yield from expect_call(self._peer, count, recipient)
        sums = np.zeros((count, self._bounds.columns), np.uint64)
        for index in range(count):
            sums[index] = yield from self._sums(recipient)
        if recipient is Recipient.VECTOR_HOLDER:
            yield from send(self._peer, Answer(sums))
            return None
        unmask = yield from receive(self._peer, Unmask)
        _check_shape(self._peer, "masks", unmask.masks, sums.shape)
        return _results(self._peer, self._scaling.rounded(sums + unmask.masks), self._scaling)

    def _sums(self, recipient: Recipient) -> Dialogue[Words]:
        """Return Mᵀb − (H·s + r) for the next vector, with rounding noise if it is to be sent."""
        hidden = yield from receive_array(self._peer, np.uint64, Shape(self._bounds.rows))
        query = yield from receive(self._peer, Query)
        masked = self._decrypt(query)
        sums: Words = self._columns.view(np.uint64) @ hidden - masked
        if recipient is Recipient.VECTOR_HOLDER:
            # Safety: a repeated question gets the same answer, another one gets fresh noise.
            noise = self._prg.derive("noise", _digest(hidden, query.masks, query.bodies)).words(len(sums))
            sums += self._scaling.noise(noise)
        return sums

    def _decrypt(self, query: Query) -> Words:
        groups = _groups(self._bounds.columns)
        _check_shape(self._peer, "parts a", query.masks, (len(groups), LIMBS, DEGREE))
        _check_shape(self._peer, "parts b", query.bodies, (LIMBS, self._bounds.columns))
        if not (are_residues(query.masks) and are_residues(query.bodies)):
            raise RemoteProtocolError(f"{self._peer}: a ciphertext has residues that are not below their primes")
        words = np.empty(self._bounds.columns, np.uint64)
        for a, group in zip(query.masks, groups, strict=True):
            words[group.columns] = self._key.decrypt(a.copy(), query.bodies[:, group.columns])
        return words


# --- the vector holder -------------------------------------------------------------------------------------------


class _VectorHolder:
    """The vector holder after the set-up."""

    def __init__(self, bounds: Bounds, public: PublicMatrix, hint: EncryptedMatrix, *, peer: PartyId, prg: Prg) -> None:
        self._bounds, self._public, self._hint, self._peer, self._prg = bounds, public, hint, peer, prg
        self._scaling = Scaling.of(bounds)
        self._sent = 0

    def multiply(self, vectors: Integers, recipient: Recipient) -> Dialogue[Integers | None]:
        """Submit vectors, shape (count, rows); return Mᵀv, shape (count, columns), if this side is the recipient."""
        self._bounds.check_vectors(vectors)
        yield from send(self._peer, Call.of(len(vectors), recipient))
        masks = np.zeros((len(vectors), self._bounds.columns), np.uint64)
        for index, vector in enumerate(vectors):
            masks[index] = yield from self._submit(np.ascontiguousarray(vector), recipient)
        if recipient is Recipient.MATRIX_HOLDER:
            yield from send(self._peer, Unmask(masks))
            return None
        answer = yield from receive(self._peer, Answer)
        _check_shape(self._peer, "sums", answer.sums, masks.shape)
        return _results(self._peer, self._scaling.rounded(answer.sums + masks), self._scaling)

    def _submit(self, vector: Integers, recipient: Recipient) -> Dialogue[Words]:
        """Send one vector; return its masks r, with rounding noise if they are to be sent."""
        # Safety: a resumed task sends the same bytes again, while another vector at the same place, or the same one
        # for another recipient, meets fresh secrets. Two different vectors under one secret are a two-time pad.
        place = struct.pack("<Q", self._sent)
        self._sent += 1
        prg = self._prg.derive("vector", place, recipient.value.encode(), _digest(vector))
        secret = OneTimeSecret.draw(prg.derive("secret"), self._bounds.rows)
        try:
            masks = prg.derive("masks").words(self._bounds.columns)
            yield from send_array(self._peer, secret.encrypt(self._public, self._scaling.scaled(vector)))
            yield from send(self._peer, self._query(secret, masks, prg.derive("ciphertext")))
        finally:
            secret.destroy()
        if recipient is Recipient.VECTOR_HOLDER:
            return masks
        noise = wide_gaussian(prg.derive("rounding"), self._scaling.variance, self._bounds.columns)
        return masks + np.array([value % _WORD for value in noise], np.uint64)

    def _query(self, secret: OneTimeSecret, masks: Words, prg: Prg) -> Query:
        """Return Enc(H·s + masks), fit to be sent."""
        a_parts, b_parts = [], []
        for group in _groups(self._bounds.columns):
            randomness = Rerandomisation.draw(prg, group.packing.rows)
            pieces = group.packing.pieces(secret.vector)
            a, b = self._hint.evaluate(group.start, pieces, masks[group.columns], randomness)
            randomness.destroy()
            a_parts.append(a)
            b_parts.append(b)
        return Query(
            np.array(a_parts, np.uint64).reshape(-1, LIMBS, DEGREE),
            np.concatenate([np.empty((LIMBS, 0), np.uint64), *b_parts], axis=1),
        )


# --- what both sides do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """At most 8192 columns of M, packed together, and the index of their first ciphertext."""

    columns: slice
    packing: Packing
    start: int


def _groups(columns: int) -> list[_Group]:
    groups, start = [], 1
    for first in range(0, columns, DEGREE):
        last = min(columns, first + DEGREE)
        groups.append(_Group(slice(first, last), Packing(last - first, INNER.dimension), start))
        start += groups[-1].packing.polynomials
    return groups


def _pack(hint: Words) -> Iterator[Words]:
    return (group.packing.pack(hint[group.columns]) for group in _groups(len(hint)))


def _receive_opening(peer: PartyId, bounds: Bounds) -> Dialogue[bytes]:
    """Return the peer's part of the public randomness, once both sides are known to mean the same."""
    opening = yield from receive(peer, Opening)
    check_terms(peer, bounds, opening.terms)
    if len(opening.contribution) != SEED_BYTES:
        raise RemoteProtocolError(
            f"{peer}: expected {SEED_BYTES} bytes of public randomness, found {len(opening.contribution)}"
        )
    return opening.contribution


def _check_shape(peer: PartyId, what: str, array: Words, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise RemoteProtocolError(f"{peer}: expected {what} of shape {shape}, found {array.shape}")


def _results(peer: PartyId, results: Integers, scaling: Scaling) -> Integers:
    """Return results that can be products of what was agreed."""
    if results.size and max(int(results.max()), -int(results.min())) > scaling.largest:
        raise RemoteProtocolError(
            f"{peer}: a product exceeds {scaling.largest}, which the agreed norms exclude: the peer did not follow"
            " the protocol, or works with another matrix than that of the set-up"
        )
    return results


def _packed(bounds: Bounds) -> bytes:
    """Return all that decides how a vector is sent."""
    shift = Scaling.of(bounds).shift
    return struct.pack("<QQddQ", bounds.rows, bounds.columns, bounds.column_norm, bounds.vector_norm, shift)


def _digest(*parts: bytes | Words | Integers) -> bytes:
    """Return the SHA-256 digest of parts, each preceded by its length; the number is raised with the protocol."""
    state = hashlib.sha256(b"unseen/linear_map.lattice/1")
    for part in parts:
        data = memoryview(part) if isinstance(part, bytes) else np.ascontiguousarray(part).data
        state.update(struct.pack("<Q", data.nbytes))
        state.update(data)
    return state.digest()
