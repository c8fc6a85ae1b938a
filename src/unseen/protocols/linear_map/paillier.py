"""The linear map under Paillier's encryption: slow, and the reference that reviewers know.

The vector holder owns a key and sends v encrypted entry by entry; the matrix holder multiplies ciphertexts into
encryptions of Mᵀv and re-randomises each. If the matrix holder is the recipient, it also adds a mask that is uniform
modulo n, the vector holder decrypts the masked sums, and the matrix holder takes the mask away. Paillier, EUROCRYPT
1999; the construction is the scalar product of Goethals, Laur, Lipmaa, Mielikäinen, "On Private Scalar Product
Computation for Privacy-Preserving Data Mining", ICISC 2004, Protocol 3.

* **Security model**: two semi-honest parties. The vector holder is protected by the decisional composite residuosity
  assumption; the matrix holder perfectly, given a modulus n = p·q. A vector holder who departs from the protocol can
  submit vectors beyond the agreed norm and so read more of M from one answer, or use a modulus of another form
  (``PublicKey.validate`` finds crude ones only); a matrix holder who does can put another function of v into the
  result and, as the recipient, so learn single entries of v.
* **Leakage**: both learn ``Bounds``, the number of vectors and the recipient. The vector holder learns Mᵀv if it is
  the recipient, and else nothing (it decrypts uniform residues); the matrix holder learns Mᵀv if it is the recipient,
  and else nothing. The time an answer takes depends on how many entries of M are not zero and on their size.
* **Rounds**: set-up one message each way (they cross); a call one round, and another message if the matrix holder
  is the recipient, whatever the number of vectors.
* **Bytes** for k-bit moduli: set-up k/8. Per vector k/4 a row, k/4 back a column, and k/8 a column if the matrix holder
  is the recipient; 768, 768 and 384 with 3072 bits.

Randomness is hedged: it is derived from the seed, the counter of the vector, a hash of the set-up of both, and a
hash of what is to be protected (the vectors; the matrix and the ciphertexts it meets). A resumed task sends the same
bytes again, and if the inputs or the peer's messages are others than before, no stream serves twice.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
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
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, Terms, check_terms, expect_call
from unseen.protocols.linear_map.port import Bounds, Recipient

# One bit short of int64, so that rounding in the norms cannot matter; n/2 is far beyond.
LARGEST_RESULT = 2.0**62
# Ciphertexts travel and are multiplied by the block: neither side holds a whole encrypted vector.
BLOCK_ROWS = 1024


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

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError`` unless results fit into 64 bits (plaintexts have thousands)."""
        if bounds.result > LARGEST_RESULT:
            raise UsageError(
                f"a result may reach {bounds.result:.4g}, 'paillier' returns up to 2^62: use fewer fractional bits"
            )

    def hold_matrix(
        self, matrix: NDArray[np.int64], bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[PaillierMatrixSide]:
        """Receive and validate the vector holder's key."""
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
        own = prg.derive("linear_map.paillier/matrix-holder", peer.encode(), encode_bytes(key), _digest(matrix))
        return PaillierMatrixSide(matrix, bounds, peer=peer, key=public, prg=own)

    def hold_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[PaillierVectorSide]:
        """Make a key and send its public part."""
        self.check(bounds)
        terms = Terms.of(bounds)
        own = prg.derive("linear_map.paillier/vector-holder", peer.encode(), encode_bytes(terms))
        key = PrivateKey.generate(own.derive("key"), self.key_bits)
        yield from send(peer, Key(terms, key.public.to_bytes()))
        theirs = yield from receive(peer, Terms)
        check_terms(peer, bounds, theirs)
        return PaillierVectorSide(bounds, peer=peer, key=key, prg=own.derive("vectors", key.public.to_bytes()))


def _digest(array: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))


class PaillierVectorSide:
    """The vector holder: owns the key."""

    __slots__ = ("_bounds", "_calls", "_key", "_peer", "_prg")

    def __init__(self, bounds: Bounds, *, peer: PartyId, key: PrivateKey, prg: Prg) -> None:
        self._bounds, self._peer, self._key, self._prg = bounds, peer, key, prg
        self._calls = 0

    def multiply(self, vectors: NDArray[np.int64], recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Submit vectors, shape (count, rows); return Mᵀv, shape (count, columns), if this side is the recipient.

        Raises:
            UsageError: The vectors break the agreed bounds; nothing has been sent.
            RemoteProtocolError: An answer is malformed or larger than agreed.
        """
        self._bounds.check_vectors(vectors)
        place = struct.pack("<Q", self._calls), recipient.value.encode()
        prg = self._prg.derive("encrypt", *place, _digest(vectors))
        self._calls += 1
        yield from send(self._peer, Call.of(len(vectors), recipient))
        for vector in vectors:
            for block in _blocks(self._bounds.rows):
                ciphertexts = [self._key.encrypt(value, prg) for value in vector[block].tolist()]
                yield from send_array(self._peer, self._key.public.pack(ciphertexts))
        if recipient is Recipient.MATRIX_HOLDER:
            yield from self._open_masked(len(vectors))
            return None
        return (yield from self._open_results(len(vectors)))

    def _open_results(self, count: int) -> Dialogue[NDArray[np.int64]]:
        results = np.empty((count, self._bounds.columns), np.int64)
        for row in results:
            row[:] = _within(self._bounds, (yield from self._decrypted()), self._peer)
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


class PaillierMatrixSide:
    """The matrix holder: computes under the vector holder's key."""

    __slots__ = ("_answers", "_bounds", "_key", "_matrix", "_peer", "_prg")

    def __init__(self, matrix: NDArray[np.int64], bounds: Bounds, *, peer: PartyId, key: PublicKey, prg: Prg) -> None:
        self._matrix, self._bounds, self._peer, self._key, self._prg = matrix, bounds, peer, key, prg
        self._answers = 0

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Answer ``count`` vectors; return Mᵀv, shape (count, columns), if this side is the recipient.

        Raises:
            RemoteProtocolError: The peer announces something else, sends malformed ciphertexts, or returns masked sums
                that do not open to values within the bounds.
        """
        yield from expect_call(self._peer, count, recipient)
        masks = []
        for _ in range(count):
            masks.append((yield from self._answer(recipient)))  # noqa: PERF401  # a comprehension cannot yield
        if recipient is Recipient.VECTOR_HOLDER:
            return None
        return (yield from self._unmask(masks))

    def _answer(self, recipient: Recipient) -> Dialogue[list[mpz]]:
        """Answer one vector; return the masks of its sums, zero if the vector holder may see them."""
        key = self._key
        sums, content = yield from self._sums()
        place = struct.pack("<Q", self._answers), recipient.value.encode()
        prg = self._prg.derive("answer", *place, content)
        self._answers += 1
        hide = recipient is Recipient.MATRIX_HOLDER
        masks = [uniform_below(key.modulus, prg) if hide else mpz(0) for _ in sums]
        fresh = [key.rerandomise(key.shift(each, mask), prg) for each, mask in zip(sums, masks, strict=True)]
        yield from send_array(self._peer, key.pack(fresh))
        return masks

    def _sums(self) -> Dialogue[tuple[list[mpz], bytes]]:
        """Receive one vector; return ciphertexts of Mᵀv, not re-randomised, and the hash of what was received."""
        key, columns = self._key, range(self._bounds.columns)
        sums, content = [mpz(1) for _ in columns], hashlib.sha256()
        for block in _blocks(self._bounds.rows):
            shape = Shape(block.stop - block.start, key.ciphertext_bytes)
            rows = yield from receive_array(self._peer, np.uint8, shape)
            content.update(rows.data)
            ciphertexts, weights = key.unpack(rows, sender=self._peer), self._matrix[block]
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


def _within(bounds: Bounds, values: list[int], peer: PartyId) -> list[int]:
    """Return ``values`` unless one is larger than Mᵀv can be."""
    for column, value in enumerate(values):
        if abs(value) > bounds.result * (1 + 1e-9):
            raise RemoteProtocolError(
                f"{peer}: entry {column} of a result is about 2^{abs(value).bit_length()}, "
                f"agreed are at most {bounds.result:.6g}"
            )
    return values
