"""The linear map without any protection, for simulation and as the yardstick of the others.

* Security model: none. The matrix holder sees every vector in the clear.
* Leakage: the vectors to the matrix holder; Mᵀv to the recipient.
* Rounds: no set-up; one message each way per call (none back if the matrix holder is the recipient).
* Bytes: 8 per row and vector, and 8 per column and vector back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive_array, send, send_array
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, expect_call
from unseen.protocols.linear_map.port import Bounds, Recipient

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

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError`` unless results fit into 64 bits."""
        if bounds.result > LARGEST_RESULT:
            raise UsageError(
                f"a result may reach {bounds.result:.4g}, 'plain' carries up to 2^62: use fewer fractional bits"
            )

    def hold_matrix(
        self, matrix: NDArray[np.int64], bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[PlainMatrixSide]:
        """Return the matrix holder's side; exchanges nothing."""
        del prg  # there is nothing to hide
        self.check(bounds)
        bounds.check_matrix(matrix)
        yield from ()
        return PlainMatrixSide(matrix, bounds, peer)

    def hold_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[PlainVectorSide]:
        """Return the vector holder's side; exchanges nothing."""
        del prg  # there is nothing to hide
        self.check(bounds)
        yield from ()
        return PlainVectorSide(bounds, peer)


@dataclass(frozen=True, slots=True)
class PlainVectorSide:
    """The vector holder."""

    bounds: Bounds
    peer: PartyId

    def multiply(self, vectors: NDArray[np.int64], recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Submit vectors, shape (count, rows); return Mᵀv, shape (count, columns), if this side is the recipient."""
        self.bounds.check_vectors(vectors)
        yield from send(self.peer, Call.of(len(vectors), recipient))
        yield from send_array(self.peer, vectors)
        if recipient is Recipient.MATRIX_HOLDER:
            return None
        return (yield from receive_array(self.peer, np.int64, Shape(len(vectors), self.bounds.columns)))


@dataclass(frozen=True, slots=True)
class PlainMatrixSide:
    """The matrix holder."""

    matrix: NDArray[np.int64]
    bounds: Bounds
    peer: PartyId

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Answer ``count`` vectors; return Mᵀv, shape (count, columns), if this side is the recipient."""
        yield from expect_call(self.peer, count, recipient)
        vectors = yield from receive_array(self.peer, np.int64, Shape(count, self.bounds.rows))
        products: NDArray[np.int64] = vectors @ self.matrix
        if recipient is Recipient.MATRIX_HOLDER:
            return products
        yield from send_array(self.peer, products)
        return None
