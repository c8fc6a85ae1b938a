"""The lattice scheme for Mᵀv: one encrypted hint for M, then 7¾ bytes a row and a plaintext product per vector.

With q = 2^64, a public matrix A (rows × 2560), Δ a power of two, ⌈…⌋ rounding to the upper 62 bits of each word, and
Enc the matrix holder's ring-LWE encryption::

    vector holder                                          matrix holder
         ── Opening: what was agreed, public randomness ──▶
         ◀── Opening; Enc(0), Enc(H) with H = MᵀA ──────────                          (set-up, once for M)
         ── Call; for each v:   b = ⌈A·s + e + Δ·v⌋ ───────▶
         ── for each v: Enc(H·s + r), re-randomised, flooded ▶
         ◀── Answer: Mᵀb − (H·s + r) + rounding noise ──────     recipient VECTOR_HOLDER: adds r, rounds by Δ
    or   ── Unmask: r + rounding noise ────────────────────▶     recipient MATRIX_HOLDER: Mᵀb − (H·s + r) + r, rounds
    or   nothing: r and Mᵀb − (H·s + r) are the shares           recipient SHARED

That is for every eight vectors of a call, or the last: first all b, for which the matrix holder can begin its products
while the vector holder combines ciphertexts, and what follows.

Source: the hint is that of SimplePIR (Henzinger and others, USENIX Security 2023) and HintlessPIR (Li, Micciancio,
Mandal, Schultz-Wu, CRYPTO 2024), moved to the matrix holder's key. The composition is our own;
docs/security/linear_map.md has the argument and its limits.

*Security model*: semi-honest parties, computational (module-LWE and ring-LWE, at least 128 bits), statistical error
at most 2^-39 an entry for the flooding.
*Leakage*: ``Bounds``, the number of vectors, the recipient. As a recipient the vector holder learns Mᵀ(Δv + e) + noise
for its own e (rounding included), which is more than Mᵀv unless the bounds leave room for the noise; so does whoever
puts shares together. The document gives the figures.
*Rounds*: one for the set-up; per call one round trip if the vector holder learns the result, else one message flow.
*Bytes*: set-up G·(1 + ⌈2560/⌊8192/⌈columns/G⌉⌋⌉) · 128 KiB for G = ⌈columns/4096⌉ groups of columns; per vector 7¾ a
row (1984 for each 256 that are begun), 128 KiB and 24 a column (16 for shares).
*Limits*: a party that breaks the protocol can make results wrong; nothing is verified beyond form and size.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, encode_bytes, message
from unseen.crypto.gaussian import wide_gaussian
from unseen.crypto.hashing import framed_digest
from unseen.crypto.lattice_parameters import FAILURE_BITS, INNER, MODULUS, ROUNDING_VARIANCE, VECTOR_DEVIATION
from unseen.crypto.lwe import OneTimeSecret, PublicMatrix, encrypt_all
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.crypto.ring import LIMBS, are_residues
from unseen.crypto.rlwe import DEGREE, EncryptedHint, Packing, SecretKeys
from unseen.dialogue import Dialogue, progress, receive, receive_array, send, send_array
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels import upper_bits
from unseen.kernels.blocks import pieces
from unseen.protocols.linear_map.agreement import Call, Terms, check_recipient, check_terms, expect_call
from unseen.protocols.linear_map.matrices import IntegerMatrix
from unseen.protocols.linear_map.port import ROUNDING, WORD_BITS, Bounds, MatrixSide, Recipient, VectorSide

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

_WORD = 1 << WORD_BITS
# Vectors whose products are computed together; part of the protocol.
BATCH = 8
# Vectors that are encrypted before the first of them leaves: fewer if they are long, so that both holders work at once.
_LONG, _PIECE = 1 << 17, 4
# Polynomials of the hint that are encrypted, sent and received at a time; part of the protocol.
_SENT = 32
# Rows of M that are brought into the hint between two signs of progress.
_HINT_ROWS = 1 << 18


# --- messages ----------------------------------------------------------------------------------------------------


@message("linear_map.lattice/opening", version=3)
class Opening:
    """What the sender takes as agreed, and its part of the public randomness."""

    terms: Terms
    contribution: bytes


@message("linear_map.lattice/query", version=2)
class Query:
    """For each b of a batch: Enc(H·s + r), one part a for all columns, and those coefficients of the parts b."""

    mask: Annotated[NDArray[np.uint64], Shape(None, DEGREE)]
    bodies: Annotated[NDArray[np.uint64], Shape(LIMBS, None)]


@message("linear_map.lattice/answer", version=2)
class Answer:
    """Mᵀb − (H·s + r) for each of up to eight vectors, with the matrix holder's rounding noise."""

    sums: Annotated[NDArray[np.uint64], Shape(None, None)]


@message("linear_map.lattice/unmask", version=2)
class Unmask:
    """The masks r of each of up to eight vectors, with the vector holder's rounding noise."""

    masks: Annotated[NDArray[np.uint64], Shape(None, None)]


# --- what both sides derive from the bounds ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scaling:
    """How results lie in a word: multiplied by Δ = 2^``shift``, which is as large as the bounds permit.

    ``variance`` is that of the vector holder's rounding noise: with it, what the matrix holder learns of e leaves
    LWE as hard as with half the deviation (Hint-LWE: Kim, Lee, Seo, Song, CRYPTO 2023). The matrix holder's is uniform
    in [−``width``, ``width``), a power of two or 0. No product exceeds ``largest``.
    """

    shift: int
    variance: int
    width: int
    largest: int

    @classmethod
    def of(cls, bounds: Bounds) -> Scaling:
        """Return the scaling for these bounds.

        Raises:
            UsageError: Results of this size and the noise do not fit into a word together.
        """
        if not (bounds.column_norm < _WORD / 2 and bounds.result < _WORD / 2):
            raise UsageError(f"norms and results have to stay below 2^{WORD_BITS - 1}, found {bounds}")
        norm = math.ceil(bounds.column_norm**2)
        squared_norm = norm * VECTOR_DEVIATION**2
        # No eigenvalue of MᵀM exceeds its trace, the sum of the squared norms of the columns.
        variance = squared_norm * max(1, bounds.columns)
        largest = math.ceil(bounds.result * ROUNDING) + 1 if bounds.wrap is None else 1 << (bounds.wrap - 1)
        shift = WORD_BITS - 1 - (largest - 1).bit_length()
        # What rounding adds need not be independent of e, so that the two spreads add up.
        rounding = _spread(norm * ROUNDING_VARIANCE, bounds.columns)
        spread = _spread(squared_norm, bounds.columns) + rounding
        # What the matrix holder learns carries the Gaussian noise as well.
        noisy = squared_norm + variance if _may_be_matrix_holder(bounds) else squared_norm
        worst = _spread(noisy, bounds.columns) + rounding
        missing = math.log2(2 * worst) - shift
        if missing > 0:
            raise UsageError(_too_large(bounds, missing))
        room = (1 << shift) // 2 - spread
        width = min((1 << shift) // 4, 1 << (room.bit_length() - 1) if room > 0 else 0)
        return cls(shift, variance, width, largest)

    def scaled(self, values: Integers) -> Words:
        """Return Δ·values as words."""
        return values.view(np.uint64) << np.uint64(self.shift)

    def rounded(self, words: Words) -> Integers:
        """Return the integers nearest to words/Δ."""
        half = np.uint64(1 << (self.shift - 1))
        return (words + half).view(np.int64) >> self.shift

    def noise(self, words: Words) -> Words:
        """Return noise uniform in [−``width``, ``width``) for uniform words."""
        return (words & np.uint64(max(0, 2 * self.width - 1))) - np.uint64(self.width)


def _spread(squared_norm: float, columns: int) -> int:
    """Return what no entry of a sum with this squared sub-Gaussian norm exceeds but with probability 2^-65."""
    deviations = math.sqrt(2 * (math.log(2 * max(1, columns)) + math.log(2) * (FAILURE_BITS + 1)))
    return math.ceil(deviations * math.sqrt(squared_norm))


def _may_be_matrix_holder(bounds: Bounds) -> bool:
    return bounds.admits(Recipient.MATRIX_HOLDER)


def _too_large(bounds: Bounds, missing: float) -> str:
    """Return what to do if the noise needs ``missing`` more bits."""
    columns = f"{bounds.columns} columns of norm {bounds.column_norm:.6g}"
    if bounds.wrap is not None:
        fit = max(0, bounds.wrap - math.ceil(missing))
        return f"the lattice scheme carries residues of up to {fit} bits for {columns}, and {bounds.wrap} are asked for"
    alone = " Agreeing on another recipient alone makes room." if _may_be_matrix_holder(bounds) else ""
    return (
        f"the lattice scheme carries results up to {bounds.result / 2**missing:.4g} exactly for {columns}, and the"
        f" bounds allow {bounds.result:.4g}. Scale the vectors down by {math.ceil(10 * missing) / 10} bits or the"
        f" columns by half of that, or use the scheme paillier.{alone}"
    )


@dataclass(frozen=True, slots=True)
class Lattice:
    """The lattice scheme: the default."""

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        return "lattice"

    @property
    def sends_ahead(self) -> bool:
        """True: vectors go without waiting."""
        return True

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError``, saying what would fit, if the scheme cannot carry results of this size exactly."""
        Scaling.of(bounds)
        limit = MODULUS / _WORD
        if bounds.column_norm * math.sqrt(bounds.rows) >= limit:
            raise UsageError(
                f"column_norm · √rows has to stay below {limit:.3g} for the lattice scheme, found norm"
                f" {bounds.column_norm:.6g} and {bounds.rows} rows: scale the columns down or split the rows"
            )

    def share_shift(self, bounds: Bounds) -> int:
        """Return how far ``reconstruct`` has to shift sums of shares: log2 Δ."""
        return Scaling.of(bounds).shift

    def set_up_matrix(
        self, matrix: IntegerMatrix, bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[LatticeMatrixSetup]:
        """Set up as the matrix holder towards ``peer``."""
        self.check(bounds)
        bounds.check_matrix(matrix)
        own = prg.derive("linear_map.lattice/contribution").bytes(SEED_BYTES)
        terms = Terms.of(bounds)
        yield from send(peer, Opening(terms, own))
        theirs = yield from _receive_opening(peer, bounds)
        seed = _digest(b"public", theirs, own)
        hint = yield from _hint(matrix, PublicMatrix(seed, bounds.rows))
        # Safety: the keys depend on all they encrypt under, so that no part of one ever serves two different hints.
        key_seed = prg.derive("linear_map.lattice/key", seed, _digest(hint)).bytes(SEED_BYTES)
        packing = _packing(bounds)
        keys, naming = SecretKeys(Prg(key_seed), packing.groups), _naming(terms, seed)
        encrypted = keys.encrypt(seed, hint, packing, piece=_SENT)
        for place, ciphertexts in zip(_places(packing), encrypted, strict=True):
            naming.update(ciphertexts.data)
            yield from send_array(peer, ciphertexts)
            yield from progress(place.stop - 1, packing.polynomials, "polynomials of the hint encrypted")
        return LatticeMatrixSetup(terms, seed, key_seed, matrix.digest, naming.digest())

    def set_up_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[LatticeVectorSetup]:
        """Set up as the vector holder towards ``peer``."""
        self.check(bounds)
        own = prg.derive("linear_map.lattice/contribution").bytes(SEED_BYTES)
        terms = Terms.of(bounds)
        yield from send(peer, Opening(terms, own))
        theirs = yield from _receive_opening(peer, bounds)
        seed = _digest(b"public", own, theirs)
        packing, naming = _packing(bounds), _naming(terms, seed)
        ciphertexts = np.empty((1 + packing.polynomials, packing.groups, LIMBS, DEGREE), np.uint64)
        for place in _places(packing):
            piece = yield from receive_array(peer, np.uint64, Shape(*ciphertexts[place].shape))
            if not are_residues(piece):
                raise RemoteProtocolError(f"{peer}: the encrypted hint has residues that are not below their primes")
            naming.update(piece.data)
            ciphertexts[place] = piece
            yield from progress(place.stop - 1, packing.polynomials, "polynomials of the encrypted hint")
        return LatticeVectorSetup(terms, seed, ciphertexts, naming.digest())


# --- what is kept of a set-up --------------------------------------------------------------------------------------


@message("linear_map.lattice/matrix-setup", version=3)
class LatticeMatrixSetup:
    """What the matrix holder keeps: some hundred bytes, among them the seed of its key, which is secret."""

    terms: Terms
    seed: bytes
    key_seed: bytes
    digest: bytes
    name: bytes

    def side(self, matrix: IntegerMatrix, *, peer: PartyId, prg: Prg) -> MatrixSide:
        """Return the matrix holder's side.

        Raises:
            UsageError: This is not the matrix of the set-up.
        """
        # All that the matrix holder draws belongs to the key, so that a question asked again gets the same answer.
        del prg
        if matrix.digest != self.digest:
            raise UsageError("the linear map was set up for another matrix: set it up again")
        return _MatrixHolder(matrix, self, peer)

    def __repr__(self) -> str:
        return f"LatticeMatrixSetup({self.name.hex()}, <secret>)"


@message("linear_map.lattice/vector-setup", version=3)
class LatticeVectorSetup:
    """What the vector holder keeps: Enc(0) and the encrypted hint, the parts b of every group of columns."""

    terms: Terms
    seed: bytes
    ciphertexts: Annotated[NDArray[np.uint64], Shape(None, None, LIMBS, DEGREE)]
    name: bytes

    def side(self, *, peer: PartyId, prg: Prg) -> VectorSide:
        """Return the vector holder's side."""
        return _VectorHolder(self, peer, prg)

    def __repr__(self) -> str:
        return f"LatticeVectorSetup({self.name.hex()}, {self.ciphertexts.nbytes} bytes)"


def _naming(terms: Terms, seed: bytes) -> hashlib._Hash:
    """Return the digest that names a set-up once all ciphertexts, whose number follows from the terms, are added."""
    return hashlib.sha256(_digest(b"set-up", encode_bytes(terms), seed))


# --- the matrix holder -------------------------------------------------------------------------------------------


class _MatrixHolder:
    """The matrix holder after the set-up."""

    def __init__(self, matrix: IntegerMatrix, setup: LatticeMatrixSetup, peer: PartyId) -> None:
        self._matrix, self._bounds, self._name, self._peer = matrix, setup.terms.bounds, setup.name, peer
        self._scaling = Scaling.of(self._bounds)
        self._packing = _packing(self._bounds)
        self._keys = SecretKeys(Prg(setup.key_seed), self._packing.groups)
        self._answers = Prg(setup.key_seed).derive("linear_map.lattice/answers", setup.name)

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[Integers | None]:
        """Answer ``count`` vectors; return Mᵀv or this side's share, shape (count, columns), if it is to know."""
        check_recipient(self._bounds, recipient)
        yield from expect_call(self._peer, Call.of(count, recipient, self._name))
        results = np.zeros((count, self._bounds.columns), np.int64)
        for start in range(0, count, BATCH):
            batch = results[start : start + BATCH]
            sums = yield from self._sums(len(batch), recipient)
            if recipient is Recipient.VECTOR_HOLDER:
                yield from send(self._peer, Answer(sums))
            elif recipient is Recipient.MATRIX_HOLDER:
                batch[:] = yield from self._opened(sums)
            else:
                batch[:] = sums.view(np.int64)
        return None if recipient is Recipient.VECTOR_HOLDER else results

    def _opened(self, sums: Words) -> Dialogue[Integers]:
        unmask = yield from receive(self._peer, Unmask)
        _check_shape(self._peer, "masks", unmask.masks, sums.shape)
        return _results(self._peer, self._scaling.rounded(sums + unmask.masks), self._scaling)

    def _sums(self, count: int, recipient: Recipient) -> Dialogue[Words]:
        """Return Mᵀb − (H·s + r) for the next vectors, with rounding noise if it is to be sent."""
        hidden = np.empty((count, self._bounds.rows), np.uint64)
        for row in hidden:
            yield from self._receive_hidden(row)
        sums = self._matrix.products(hidden)
        for index, row in enumerate(hidden):
            query = yield from receive(self._peer, Query)
            sums[index] -= self._decrypt(query)
            if recipient is Recipient.VECTOR_HOLDER:
                sums[index] += self._noise(row, query)
        return sums

    def _noise(self, hidden: Words, query: Query) -> Words:
        # Safety: a repeated question gets the same answer, another one gets fresh noise.
        question = _digest(hidden, query.mask, query.bodies)
        return self._scaling.noise(self._answers.derive("noise", question).words(self._bounds.columns))

    def _receive_hidden(self, out: Words) -> Dialogue[None]:
        def keep(start: int, short: Words) -> None:
            end = start + len(short)
            upper_bits.lengthen(short, out[start * upper_bits.BLOCK : end * upper_bits.BLOCK])

        shape = Shape(upper_bits.blocks(len(out)), upper_bits.SHORT)
        yield from receive_array(self._peer, np.uint64, shape, each=keep)

    def _decrypt(self, query: Query) -> Words:
        _check_shape(self._peer, "the part a", query.mask, (LIMBS, DEGREE))
        _check_shape(self._peer, "parts b", query.bodies, (LIMBS, self._bounds.columns))
        if not (are_residues(query.mask) and are_residues(query.bodies)):
            raise RemoteProtocolError(f"{self._peer}: a ciphertext has residues that are not below their primes")
        return self._keys.decrypt(query.mask, query.bodies, self._packing)


# --- the vector holder -------------------------------------------------------------------------------------------


class _VectorHolder:
    """The vector holder after the set-up."""

    def __init__(self, setup: LatticeVectorSetup, peer: PartyId, prg: Prg) -> None:
        self._setup, self._bounds, self._peer = setup, setup.terms.bounds, peer
        self._scaling = Scaling.of(self._bounds)
        # Safety: all that a vector is sent under. Repeated with another set-up, it meets fresh secrets.
        setting = peer.encode(), setup.name, struct.pack("<Q", self._scaling.shift)
        self._prg = prg.derive("linear_map.lattice/vectors", *setting)
        self._sent = 0
        self._submitted: deque[tuple[Recipient, Words]] = deque()

    @cached_property
    def _public(self) -> PublicMatrix:
        return PublicMatrix(self._setup.seed, self._bounds.rows)

    @cached_property
    def _hint(self) -> EncryptedHint:
        return EncryptedHint(self._setup.seed, self._setup.ciphertexts, _packing(self._bounds))

    def submit(self, vectors: Integers, recipient: Recipient) -> Dialogue[None]:
        """Send vectors, shape (count, rows)."""
        check_recipient(self._bounds, recipient)
        self._bounds.check_vectors(vectors)
        yield from send(self._peer, Call.of(len(vectors), recipient, self._setup.name))
        masks = np.zeros((len(vectors), self._bounds.columns), np.uint64)
        for batch in pieces(len(vectors), BATCH):
            masks[batch] = yield from self._send(vectors[batch], recipient)
            if recipient is Recipient.MATRIX_HOLDER:
                yield from send(self._peer, Unmask(masks[batch]))
        self._submitted.append((recipient, masks))

    def collect(self) -> Dialogue[Integers | None]:
        """Return what comes of the oldest vectors: Mᵀv, this side's share of it, or ``None``."""
        if not self._submitted:
            raise LocalProtocolError("no vectors wait for their products: submit some first")
        recipient, masks = self._submitted.popleft()
        if recipient is Recipient.MATRIX_HOLDER:
            return None
        if recipient is Recipient.SHARED:
            return masks.view(np.int64)
        results = np.empty(masks.shape, np.int64)
        for start in range(0, len(masks), BATCH):
            batch = slice(start, start + BATCH)
            answer = yield from receive(self._peer, Answer)
            _check_shape(self._peer, "sums", answer.sums, masks[batch].shape)
            rounded = self._scaling.rounded(answer.sums + masks[batch])
            results[batch] = _results(self._peer, rounded, self._scaling)
        return results

    def multiply(self, vectors: Integers, recipient: Recipient) -> Dialogue[Integers | None]:
        """Submit vectors and collect at once."""
        yield from self.submit(vectors, recipient)
        return (yield from self.collect())

    def _send(self, vectors: Integers, recipient: Recipient) -> Dialogue[Words]:
        """Send a batch of vectors; return their masks r, with rounding noise if they are to be sent."""
        secrets = np.empty((len(vectors), INNER.dimension), np.int64)
        streams: list[Prg] = []
        try:
            for piece in pieces(len(vectors), _PIECE if self._bounds.rows > _LONG else BATCH):
                streams += [self._stream(vector, recipient) for vector in vectors[piece]]
                yield from self._send_hidden(vectors[piece], streams[piece], secrets[piece])
            masks = np.stack([stream.derive("masks").words(self._bounds.columns) for stream in streams])
            a, b = self._hint.evaluate(secrets, masks, [stream.derive("ciphertext") for stream in streams])
        finally:
            secrets.fill(0)
        for of_a, of_b in zip(a, b, strict=True):
            yield from send(self._peer, Query(of_a, of_b))
        if recipient is Recipient.MATRIX_HOLDER:
            masks += np.stack([self._rounding(stream.derive("rounding")) for stream in streams])
        return masks

    def _send_hidden(self, vectors: Integers, streams: Sequence[Prg], out: Integers) -> Dialogue[None]:
        """Send b for each of some vectors; write the secrets s, shape (count, 2560), to ``out``."""
        secrets = [OneTimeSecret.draw(stream.derive("secret"), self._bounds.rows) for stream in streams]
        try:
            for index, secret in enumerate(secrets):
                out[index] = secret.vector
            hidden = encrypt_all(secrets, self._public, self._scaling.scaled(np.ascontiguousarray(vectors)))
        finally:
            for secret in secrets:
                secret.destroy()
        for row in hidden:
            yield from send_array(self._peer, upper_bits.shortened(row))

    def _stream(self, vector: Integers, recipient: Recipient) -> Prg:
        # Safety: a resumed task sends the same bytes again, while another vector at the same place, or the same one
        # for another recipient, meets fresh secrets. Two different vectors under one secret are a two-time pad.
        place = struct.pack("<Q", self._sent)
        self._sent += 1
        return self._prg.derive("vector", place, recipient.value.encode(), _digest(vector))

    def _rounding(self, prg: Prg) -> Words:
        noise = wide_gaussian(prg, self._scaling.variance, self._bounds.columns)
        return np.array([value % _WORD for value in noise], np.uint64)


# --- what both sides do ------------------------------------------------------------------------------------------


def _packing(bounds: Bounds) -> Packing:
    return Packing(bounds.columns, INNER.dimension)


def _places(packing: Packing) -> list[slice]:
    """Return which polynomials, Enc(0) being the first, travel together."""
    count = 1 + packing.polynomials
    return [slice(0, 1), *(slice(start, min(start + _SENT, count)) for start in range(1, count, _SENT))]


def _hint(matrix: IntegerMatrix, public: PublicMatrix) -> Dialogue[Words]:
    total = None
    for index, part in enumerate(matrix.hints(public, _HINT_ROWS)):
        # The first part serves as the sum: 200 MB less for 9,600 columns.
        total = part if total is None else np.add(total, part, out=total)
        yield from progress(min((index + 1) * _HINT_ROWS, matrix.rows), matrix.rows, "rows in the hint")
    return np.zeros((matrix.columns, INNER.dimension), np.uint64) if total is None else total


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


def _digest(*parts: bytes | Words | Integers) -> bytes:
    """Return the digest of parts; the number is raised with the protocol."""
    return framed_digest(b"unseen/linear_map.lattice/4", *parts)
