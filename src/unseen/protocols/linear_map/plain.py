"""The linear map without any protection, for simulation and as the yardstick of the others.

* Security model: none. The matrix holder sees every vector in the clear.
* Leakage: the vectors to the matrix holder; Mᵀv to the recipient.
* Rounds: no set-up; one message each way per call (none back unless the vector holder is the recipient).
* Bytes: 8 per row and vector, and 8 per column and vector back.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, encode_bytes, message
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive_array, send, send_array
from unseen.errors import LocalProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, Terms, check_recipient, expect_call
from unseen.protocols.linear_map.matrices import IntegerMatrix
from unseen.protocols.linear_map.port import WORD_BITS, Bounds, MatrixSide, Recipient, VectorSide

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

# One bit short of int64, so that rounding in the norms cannot matter.
LARGEST_RESULT = 2.0**62


@dataclass(frozen=True, slots=True)
class Plain:
    """The scheme that protects nothing; it runs only if told that it runs in a simulation."""

    simulation: bool = False

    def __post_init__(self) -> None:
        if self.simulation is not True:
            raise UsageError(
                "the linear map 'plain' shows every vector to the peer: choose 'lattice' or 'paillier', "
                "or say Plain(simulation=True) where all data are yours"
            )

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        return "plain"

    @property
    def sends_ahead(self) -> bool:
        """True: vectors go without waiting."""
        return True

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError`` unless results fit into 64 bits."""
        if bounds.result > LARGEST_RESULT:
            raise UsageError(
                f"a result may reach {bounds.result:.4g}, 'plain' carries up to 2^62: use fewer fractional bits"
            )

    def share_shift(self, bounds: Bounds) -> int:
        """Return how far ``reconstruct`` has to shift sums of shares: 0 unless results are residues."""
        return WORD_BITS - bounds.wrap if bounds.wrap is not None else 0

    def set_up_matrix(
        self, matrix: IntegerMatrix, bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[PlainMatrixSetup]:
        """Return the matrix holder's set-up; exchanges nothing."""
        del peer, prg  # there is nothing to hide
        self.check(bounds)
        bounds.check_matrix(matrix)
        yield from ()
        return PlainMatrixSetup(Terms.of(bounds), matrix.digest)

    def set_up_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[PlainVectorSetup]:
        """Return the vector holder's set-up; exchanges nothing."""
        del peer, prg  # there is nothing to hide
        self.check(bounds)
        yield from ()
        return PlainVectorSetup(Terms.of(bounds))


@message("linear_map.plain/matrix-setup")
class PlainMatrixSetup:
    """What the matrix holder keeps."""

    terms: Terms
    digest: bytes

    @property
    def name(self) -> bytes:
        """Names the set-up: all set-ups of the same bounds are one."""
        return _name(self.terms)

    def side(self, matrix: IntegerMatrix, *, peer: PartyId, prg: Prg) -> MatrixSide:
        """Return the matrix holder's side.

        Raises:
            UsageError: This is not the matrix of the set-up.
        """
        del prg
        if matrix.digest != self.digest:
            raise UsageError("the linear map was set up for another matrix")
        return _MatrixHolder(matrix, self.terms.bounds, name=self.name, peer=peer)


@message("linear_map.plain/vector-setup")
class PlainVectorSetup:
    """What the vector holder keeps."""

    terms: Terms

    @property
    def name(self) -> bytes:
        """Names the set-up: all set-ups of the same bounds are one."""
        return _name(self.terms)

    def side(self, *, peer: PartyId, prg: Prg) -> VectorSide:
        """Return the vector holder's side."""
        return _VectorHolder(self.terms.bounds, name=self.name, peer=peer, prg=prg.derive("linear_map.plain/shares"))


def _name(terms: Terms) -> bytes:
    return hashlib.sha256(b"unseen/linear_map.plain/2" + encode_bytes(terms)).digest()


def _centred(words: Words, bounds: Bounds) -> Integers:
    """Return the integers that words stand for."""
    if bounds.wrap is None:
        return words.view(np.int64)
    unused = WORD_BITS - bounds.wrap
    return (words << np.uint64(unused)).view(np.int64) >> unused


class _VectorHolder:
    """The vector holder."""

    def __init__(self, bounds: Bounds, *, name: bytes, peer: PartyId, prg: Prg) -> None:
        self._bounds, self._name, self._peer, self._prg = bounds, name, peer, prg
        self._submitted: deque[tuple[int, Recipient, Words | None]] = deque()

    def submit(self, vectors: Integers, recipient: Recipient) -> Dialogue[None]:
        """Send vectors, shape (count, rows)."""
        check_recipient(self._bounds, recipient)
        self._bounds.check_vectors(vectors)
        share = None
        yield from send(self._peer, Call.of(len(vectors), recipient, self._name))
        yield from send_array(self._peer, np.ascontiguousarray(vectors))
        if recipient is Recipient.SHARED:
            share = self._prg.words(len(vectors) * self._bounds.columns).reshape(len(vectors), self._bounds.columns)
            yield from send_array(self._peer, share)
        self._submitted.append((len(vectors), recipient, share))

    def collect(self) -> Dialogue[Integers | None]:
        """Return what comes of the oldest vectors."""
        if not self._submitted:
            raise LocalProtocolError("no vectors wait for their products: submit some first")
        count, recipient, share = self._submitted.popleft()
        if recipient is Recipient.VECTOR_HOLDER:
            return (yield from receive_array(self._peer, np.int64, Shape(count, self._bounds.columns)))
        return None if share is None else share.view(np.int64)

    def multiply(self, vectors: Integers, recipient: Recipient) -> Dialogue[Integers | None]:
        """Submit vectors and collect at once."""
        yield from self.submit(vectors, recipient)
        return (yield from self.collect())


class _MatrixHolder:
    """The matrix holder."""

    def __init__(self, matrix: IntegerMatrix, bounds: Bounds, *, name: bytes, peer: PartyId) -> None:
        self._matrix, self._bounds, self._name, self._peer = matrix, bounds, name, peer

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[Integers | None]:
        """Answer ``count`` vectors; return Mᵀv or this side's share, shape (count, columns), if it is to know."""
        check_recipient(self._bounds, recipient)
        yield from expect_call(self._peer, Call.of(count, recipient, self._name))
        vectors = yield from receive_array(self._peer, np.int64, Shape(count, self._bounds.rows))
        products = self._matrix.products(vectors.view(np.uint64))
        if recipient is Recipient.VECTOR_HOLDER:
            yield from send_array(self._peer, _centred(products, self._bounds))
            return None
        if recipient is Recipient.MATRIX_HOLDER:
            return _centred(products, self._bounds)
        theirs = yield from receive_array(self._peer, np.uint64, Shape(count, self._bounds.columns))
        unused = np.uint64(WORD_BITS - self._bounds.wrap if self._bounds.wrap is not None else 0)
        share: Integers = ((products << unused) - theirs).view(np.int64)
        return share
