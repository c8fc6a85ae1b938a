"""What every scheme for the secure linear map Mᵀv offers.

Two parties: the *matrix holder* has an integer matrix M (rows × columns), the *vector holder* has integer vectors v
(one entry a row). After a set-up that belongs to M, the vector holder may ask for Mᵀv as often as it likes; each time
one of the two, stated beforehand by both, learns Mᵀv exactly, and nothing else is learned beyond ``Bounds`` and the
number of vectors. Both holders call the methods of their side in the same order with the same public arguments.

Schemes: ``plain`` (no protection; simulation only), ``paillier`` (reference), ``lattice`` (default).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.ids import PartyId


class Recipient(enum.Enum):
    """Who learns Mᵀv."""

    MATRIX_HOLDER = "matrix_holder"
    VECTOR_HOLDER = "vector_holder"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Public facts that both holders know before the set-up; the schemes choose their scaling from them alone.

    ``column_norm`` and ``vector_norm`` bound the Euclidean norms of every column of M and of every v, so that no
    entry of Mᵀv exceeds their product (Cauchy–Schwarz).
    """

    rows: int
    columns: int
    column_norm: float
    vector_norm: float

    def __post_init__(self) -> None:
        norms = (self.column_norm, self.vector_norm)
        if self.rows < 1 or self.columns < 0 or not all(0 < norm < math.inf for norm in norms):
            raise UsageError(f"a linear map needs at least one row and finite positive norms, found {self}")

    @property
    def result(self) -> float:
        """The largest magnitude that an entry of Mᵀv can have."""
        return self.column_norm * self.vector_norm

    def check_matrix(self, matrix: NDArray[np.int64]) -> None:
        """Raise ``UsageError`` unless ``matrix`` has the agreed shape and norms."""
        if matrix.shape != (self.rows, self.columns) or matrix.dtype != np.int64:
            raise UsageError(
                f"expected an int64 matrix {self.rows} × {self.columns}, found {matrix.dtype} {matrix.shape}"
            )
        norms = np.sqrt(np.square(matrix.astype(np.float64)).sum(axis=0))
        if self.columns and norms.max() > self.column_norm:
            raise UsageError(f"column {norms.argmax()} has norm {norms.max():.6g}, agreed are {self.column_norm:.6g}")

    def check_vectors(self, vectors: NDArray[np.int64]) -> None:
        """Raise ``UsageError`` unless ``vectors`` (one a row) have the agreed length and norms."""
        if vectors.ndim != 2 or vectors.shape[1] != self.rows or vectors.dtype != np.int64:
            raise UsageError(f"expected int64 vectors of length {self.rows}, found {vectors.dtype} {vectors.shape}")
        norms = np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
        if len(norms) and norms.max() > self.vector_norm:
            raise UsageError(f"vector {norms.argmax()} has norm {norms.max():.6g}, agreed are {self.vector_norm:.6g}")


class MatrixSide(Protocol):
    """The matrix holder after the set-up."""

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Answer ``count`` vectors; return Mᵀv, shape (count, columns), if this side is the recipient."""
        ...


class VectorSide(Protocol):
    """The vector holder after the set-up."""

    def multiply(self, vectors: NDArray[np.int64], recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Submit vectors, shape (count, rows); return Mᵀv, shape (count, columns), if this side is the recipient."""
        ...


class LinearMap(Protocol):
    """One scheme."""

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        ...

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError``, saying what would fit, if the scheme cannot carry results of this size exactly."""
        ...

    def hold_matrix(
        self, matrix: NDArray[np.int64], bounds: Bounds, *, peer: PartyId, prg: Prg
    ) -> Dialogue[MatrixSide]:
        """Set up as the matrix holder towards ``peer``."""
        ...

    def hold_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[VectorSide]:
        """Set up as the vector holder towards ``peer``."""
        ...
