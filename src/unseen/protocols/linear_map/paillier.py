"""The linear map under Paillier's encryption: slow, and the reference that reviewers know.

The vector holder owns a key and sends v encrypted entry by entry; the matrix holder multiplies ciphertexts into
encryptions of Mᵀv and re-randomises each. If the matrix holder is the recipient, it also adds a mask that is uniform
modulo n, the vector holder decrypts the masked sums, and the matrix holder takes the mask away. For shares the mask is
uniform below 2^168 instead; the vector holder keeps the masked sum modulo 2^64, the matrix holder minus the mask.
Paillier, EUROCRYPT 1999; the construction is the scalar product of Goethals, Laur, Lipmaa, Mielikäinen, "On Private
Scalar Product Computation for Privacy-Preserving Data Mining", ICISC 2004, Protocol 3.

* **Security model**: two semi-honest parties. The vector holder is protected by the decisional composite residuosity
  assumption; the matrix holder perfectly, given a modulus n = p·q. A vector holder who departs from the protocol can
  submit vectors beyond the agreed norm and so read more of M from one answer, or use a modulus of another form
  (``PublicKey.validate`` finds crude ones only); a matrix holder who does can put another function of v into the
  result and, as the recipient, so learn single entries of v.
* **Leakage**: both learn ``Bounds``, the number of vectors and the recipient. The vector holder learns Mᵀv if it is
  the recipient, and else nothing (it decrypts uniform residues, or for shares sums within 2^-105 of a uniform number
  below 2^168); the matrix holder learns Mᵀv if it is the recipient, and else nothing. The time
  an answer takes depends on how many entries of M are not zero and on their size.
* **Rounds**: set-up one message each way (they cross); a call one round, and another message if the matrix holder
  is the recipient, whatever the number of vectors. ``submit`` waits for that round, and for all answers before it.
* **Bytes** for k-bit moduli: set-up k/8. Per vector k/4 a row, k/4 back a column, and k/8 a column if the matrix holder
  is the recipient; 768, 768 and 384 with 3072 bits.

Randomness is hedged: it is derived from the seed, the counter of the vector, a hash of the set-up of both, and a
hash of what is to be protected (the vectors; the matrix and the ciphertexts it meets). A resumed task sends the same
bytes again, and if the inputs or the peer's messages are others than before, no stream serves twice.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from unseen.codec import Shape, encode_bytes, message
from unseen.crypto.paillier import (
    KEY_BITS,
    PrivateKey,
    PublicKey,
    check_key_bits,
    integers_from_rows,
    integers_to_rows,
    uniform_below,
)
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.blocks import pieces
from unseen.protocols.linear_map.agreement import Call, Terms, check_recipient, check_terms, expect_call
from unseen.protocols.linear_map.matrices import IntegerMatrix
from unseen.protocols.linear_map.port import WORD_BITS, Bounds, MatrixSide, Recipient, VectorSide

Integers = NDArray[np.int64]

# One bit short of int64, so that rounding in the norms cannot matter; n/2 is far beyond.
LARGEST_RESULT = 2.0**62
# Ciphertexts travel and are multiplied by the block: neither side holds a whole encrypted vector.
BLOCK_ROWS = 1024
# Masks of shares: they cover results of 62 bits but for 2^-106, and are uniform modulo 2^64.
_MASK = mpz(1) << 168
_WORD = 1 << WORD_BITS


@message("linear_map.paillier/key")
class Key:
    """The vector holder's terms and modulus (big-endian)."""

    terms: Terms
    modulus: bytes


@dataclass(frozen=True, slots=True)
class Paillier:
    """The scheme; ``key_bits`` is the size of the modulus that the vector holder makes."""

    key_bits: int = KEY_BITS

    def __post_init__(self) -> None:
        check_key_bits(self.key_bits)

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        return "paillier"

    @property
    def sends_ahead(self) -> bool:
        """False: what the matrix holder is to learn has to be decrypted for it, which ``submit`` waits for."""
        return False

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError`` unless results fit into 64 bits (plaintexts have thousands) and are no residues."""
        if bounds.wrap is not None:
            raise UsageError(
                "'paillier' computes over the integers: instead of residues it would tell whole results, which are"
                " more than was agreed; use the scheme lattice, or agree on integers"
            )
        if bounds.result > LARGEST_RESULT:
            raise UsageError(
                f"a result may reach {bounds.result:.4g}, 'paillier' returns up to 2^62: use fewer fractional bits"
            )

    def share_shift(self, bounds: Bounds) -> int:
        """Return 0: shares add up to the result itself."""
        del bounds
        return 0

    def set_up_matrix(
        self, matrix: IntegerMatrix, bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[PaillierMatrixSetup]:
        """Receive and validate the vector holder's key."""
        del prg  # nothing of the set-up is this side's secret
        self.check(bounds)
        bounds.check_matrix(matrix)
        yield from send(peer, Terms.of(bounds))
        key = yield from receive(peer, Key)
        check_terms(peer, bounds, key.terms)
        public = PublicKey.from_bytes(key.modulus, sender=peer)
        if public.modulus.bit_length() != self.key_bits:
            raise RemoteProtocolError(
                f"{peer}: its Paillier modulus has {public.modulus.bit_length()} bits, agreed are {self.key_bits}"
            )
        return PaillierMatrixSetup(key.terms, key.modulus, matrix.digest)

    def set_up_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[PaillierVectorSetup]:
        """Make a key and send its public part."""
        self.check(bounds)
        terms = Terms.of(bounds)
        own = prg.derive("linear_map.paillier/vector-holder", peer.encode(), encode_bytes(terms))
        key_seed = own.derive("key").bytes(SEED_BYTES)
        modulus = PrivateKey.generate(Prg(key_seed), self.key_bits).public.to_bytes()
        yield from send(peer, Key(terms, modulus))
        theirs = yield from receive(peer, Terms)
        check_terms(peer, bounds, theirs)
        return PaillierVectorSetup(terms, key_seed, self.key_bits, modulus)


@message("linear_map.paillier/matrix-setup")
class PaillierMatrixSetup:
    """What the matrix holder keeps: the vector holder's modulus."""

    terms: Terms
    modulus: bytes
    digest: bytes

    @property
    def name(self) -> bytes:
        """Names the set-up; equal at both holders."""
        return _name(self.terms, self.modulus)

    def side(self, matrix: IntegerMatrix, *, peer: PartyId, prg: Prg) -> MatrixSide:
        """Return the matrix holder's side.

        Raises:
            UsageError: This is not the matrix of the set-up.
        """
        if matrix.digest != self.digest:
            raise UsageError("the linear map was set up for another matrix: set it up again")
        own = prg.derive("linear_map.paillier/matrix-holder", peer.encode(), self.name, self.digest)
        return _MatrixHolder(matrix, self, peer=peer, prg=own)


@message("linear_map.paillier/vector-setup")
class PaillierVectorSetup:
    """What the vector holder keeps: the seed of its key, which is secret."""

    terms: Terms
    key_seed: bytes
    key_bits: int
    modulus: bytes

    @property
    def name(self) -> bytes:
        """Names the set-up; equal at both holders."""
        return _name(self.terms, self.modulus)

    def side(self, *, peer: PartyId, prg: Prg) -> VectorSide:
        """Return the vector holder's side."""
        own = prg.derive("linear_map.paillier/vectors", peer.encode(), self.name)
        return _VectorHolder(self, peer=peer, prg=own)

    def __repr__(self) -> str:
        return f"PaillierVectorSetup({self.name.hex()}, <secret>)"


def _name(terms: Terms, modulus: bytes) -> bytes:
    return hashlib.sha256(b"unseen/linear_map.paillier/2" + encode_bytes(Key(terms, modulus))).digest()


def _digest(array: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()


class _VectorHolder:
    """The vector holder: owns the key."""

    def __init__(self, setup: PaillierVectorSetup, *, peer: PartyId, prg: Prg) -> None:
        self._bounds, self._name, self._peer, self._prg = setup.terms.bounds, setup.name, peer, prg
        self._key = PrivateKey.generate(Prg(setup.key_seed), setup.key_bits)
        self._calls = 0
        self._submitted: deque[tuple[int, Recipient]] = deque()
        self._collected: deque[Integers | None] = deque()

    def submit(self, vectors: Integers, recipient: Recipient) -> Dialogue[None]:
        """Send vectors, shape (count, rows); if the matrix holder is the recipient, also decrypt for it.

        Raises:
            UsageError: The vectors break the agreed bounds, or the recipient is not agreed on; nothing has been sent.
            RemoteProtocolError: An answer is malformed or larger than agreed.
        """
        check_recipient(self._bounds, recipient)
        self._bounds.check_vectors(vectors)
        place = struct.pack("<Q", self._calls), recipient.value.encode()
        prg = self._prg.derive("encrypt", *place, _digest(vectors))
        self._calls += 1
        yield from send(self._peer, Call.of(len(vectors), recipient, self._name))
        for vector in vectors:
            for block in pieces(self._bounds.rows, BLOCK_ROWS):
                ciphertexts = [self._key.encrypt(value, prg) for value in vector[block].tolist()]
                yield from send_array(self._peer, self._key.public.pack(ciphertexts))
        self._submitted.append((len(vectors), recipient))
        while recipient is Recipient.MATRIX_HOLDER and self._submitted:
            yield from self._open_oldest()

    def collect(self) -> Dialogue[Integers | None]:
        """Return what comes of the oldest vectors: Mᵀv, this side's share of it, or ``None``.

        Raises:
            RemoteProtocolError: An answer is malformed or larger than agreed.
        """
        if not self._collected:
            yield from self._open_oldest()
        return self._collected.popleft()

    def multiply(self, vectors: Integers, recipient: Recipient) -> Dialogue[Integers | None]:
        """Submit vectors and collect at once."""
        yield from self.submit(vectors, recipient)
        return (yield from self.collect())

    def _open_oldest(self) -> Dialogue[None]:
        if not self._submitted:
            raise LocalProtocolError("no vectors wait for their products: submit some first")
        count, recipient = self._submitted.popleft()
        if recipient is Recipient.MATRIX_HOLDER:
            yield from self._open_masked(count)
            self._collected.append(None)
        else:
            self._collected.append((yield from self._open_results(count, recipient)))

    def _open_results(self, count: int, recipient: Recipient) -> Dialogue[Integers]:
        shared = recipient is Recipient.SHARED
        results = np.empty((count, self._bounds.columns), np.int64)
        for row in results:
            values = _within(self._bounds, (yield from self._decrypted()), self._peer, mask=int(_MASK) * shared)
            row[:] = _words(values) if shared else values
        return results

    def _open_masked(self, count: int) -> Dialogue[None]:
        public = self._key.public
        for _ in range(count):
            masked = yield from self._decrypted()
            residues = (value % public.modulus for value in masked)
            yield from send_array(self._peer, integers_to_rows(residues, public.plaintext_bytes))

    def _decrypted(self) -> Dialogue[list[int]]:
        public = self._key.public
        shape = Shape(self._bounds.columns, public.ciphertext_bytes)
        rows = yield from receive_array(self._peer, np.uint8, shape)
        return [self._key.decrypt(ciphertext) for ciphertext in public.unpack(rows, sender=self._peer)]


class _MatrixHolder:
    """The matrix holder: computes under the vector holder's key."""

    def __init__(self, matrix: IntegerMatrix, setup: PaillierMatrixSetup, *, peer: PartyId, prg: Prg) -> None:
        self._matrix, self._bounds, self._name = matrix, setup.terms.bounds, setup.name
        self._peer, self._prg = peer, prg
        self._key = PublicKey.from_bytes(setup.modulus, sender=peer)
        self._answers = 0

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[Integers | None]:
        """Answer ``count`` vectors; return Mᵀv or this side's share, shape (count, columns), if it is to know.

        Raises:
            RemoteProtocolError: The peer announces something else, sends malformed ciphertexts, or returns masked sums
                that do not open to values within the bounds.
        """
        check_recipient(self._bounds, recipient)
        yield from expect_call(self._peer, Call.of(count, recipient, self._name))
        masks = []
        for _ in range(count):
            masks.append((yield from self._answer(recipient)))  # noqa: PERF401  # a comprehension cannot yield
        if recipient is Recipient.VECTOR_HOLDER:
            return None
        if recipient is Recipient.SHARED:
            shares = [_words([-int(mask) for mask in of_one]) for of_one in masks]
            return np.array(shares, np.int64).reshape(count, self._bounds.columns)
        return (yield from self._unmask(masks))

    def _answer(self, recipient: Recipient) -> Dialogue[list[mpz]]:
        """Answer one vector; return the masks of its sums, zero if the vector holder may see these."""
        key = self._key
        sums, content = yield from self._sums()
        place = struct.pack("<Q", self._answers), recipient.value.encode()
        prg = self._prg.derive("answer", *place, content)
        self._answers += 1
        # The vector holder may see the sums if it is the recipient: the only number below 1 is 0.
        limit = {Recipient.MATRIX_HOLDER: key.modulus, Recipient.SHARED: _MASK}.get(recipient, mpz(1))
        masks = [uniform_below(limit, prg) for _ in sums]
        fresh = [key.rerandomise(key.shift(each, mask), prg) for each, mask in zip(sums, masks, strict=True)]
        yield from send_array(self._peer, key.pack(fresh))
        return masks

    def _sums(self) -> Dialogue[tuple[list[mpz], bytes]]:
        """Receive one vector; return ciphertexts of Mᵀv, not re-randomised, and the hash of what was received."""
        key, columns = self._key, range(self._bounds.columns)
        sums, content = [mpz(1) for _ in columns], hashlib.sha256()
        for block in pieces(self._bounds.rows, BLOCK_ROWS):
            shape = Shape(block.stop - block.start, key.ciphertext_bytes)
            rows = yield from receive_array(self._peer, np.uint8, shape)
            content.update(rows.data)
            ciphertexts, weights = key.unpack(rows, sender=self._peer), self._matrix.rows_of(block)
            sums = [key.add(sums[j], key.combine(ciphertexts, weights[:, j])) for j in columns]
        return sums, content.digest()

    def _unmask(self, masks: list[list[mpz]]) -> Dialogue[NDArray[np.int64]]:
        key = self._key
        results = np.empty((len(masks), self._bounds.columns), np.int64)
        for row, of_row in zip(results, masks, strict=True):
            shape = Shape(self._bounds.columns, key.plaintext_bytes)
            masked = integers_from_rows((yield from receive_array(self._peer, np.uint8, shape)))
            opened = [key.centred(value - mask) for value, mask in zip(masked, of_row, strict=True)]
            row[:] = _within(self._bounds, opened, self._peer)
        return results


def _words(values: list[int]) -> Integers:
    """Return integers modulo 2^64."""
    return np.array([value % _WORD for value in values], np.uint64).view(np.int64)


def _within(bounds: Bounds, values: list[int], peer: PartyId, *, mask: int = 0) -> list[int]:
    """Return ``values`` unless one cannot be an entry of Mᵀv with a mask in [0, ``mask``]."""
    slack = bounds.result * (1 + 1e-9)
    for column, value in enumerate(values):
        if not -slack <= value <= mask + slack:
            raise RemoteProtocolError(
                f"{peer}: entry {column} of a result is about 2^{abs(value).bit_length()}, "
                f"agreed are at most {bounds.result:.6g}"
            )
    return values
