"""What every scheme for the secure linear map Mᵀv offers.

Two parties: the *matrix holder* has an integer matrix M (rows × columns), the *vector holder* has integer vectors v
(one entry a row). After a set-up that belongs to M, the vector holder may ask for Mᵀv as often as it likes; each time
one of the two, stated beforehand by both, learns Mᵀv exactly, or both hold shares of it, and nothing else is learned
beyond ``Bounds`` and the number of vectors. Both holders call the methods of their side in the same order with the
same public arguments.

A set-up can be kept and used again in later dialogues with the same two parties and the same matrix, since all that
hides a vector is fresh for every vector.

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
from unseen.kernels.blocks import pieces
from unseen.protocols.linear_map.matrices import IntegerMatrix

WORD_BITS = 64

ROUNDING = 1 + 2.0**-40
"""Norms are floating-point numbers: vectors may exceed the agreed ones by this factor, and schemes allow for it."""
# Entries of a vector that are looked at while they are in the cache.
_BLOCK = 1 << 14


class Recipient(enum.Enum):
    """Who learns Mᵀv."""

    MATRIX_HOLDER = "matrix_holder"
    VECTOR_HOLDER = "vector_holder"
    SHARED = "shared"
    """Neither: each gets a share, see ``reconstruct``."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Public facts that both holders know before the set-up; the schemes choose their scaling from them alone.

    ``column_norm`` and ``vector_norm`` bound the Euclidean norms of every column of M and of every v; ``entry`` bounds
    the magnitude of every entry of M, ``vector_sum`` the sum of magnitudes of every v. No entry of Mᵀv exceeds
    ``result`` (Cauchy–Schwarz, Hölder). With ``wrap``, vectors are any residues modulo 2^wrap (given as integers in
    [0, 2^wrap)) and so are results, centred: the norms of vectors do not matter then.
    """

    rows: int
    columns: int
    column_norm: float
    vector_norm: float
    entry: float = math.inf
    vector_sum: float = math.inf
    wrap: int | None = None
    recipient: Recipient | None = None
    """The only one that will ever learn results, which makes room for larger ones; ``None``: any."""

    def __post_init__(self) -> None:
        norms = (self.column_norm, self.vector_norm)
        positive = all(0 < norm < math.inf for norm in norms) and self.entry > 0 and self.vector_sum > 0
        if self.rows < 1 or self.columns < 0 or not positive:
            raise UsageError(f"a linear map needs at least one row and finite positive norms, found {self}")
        if self.wrap is not None and not 1 <= self.wrap < WORD_BITS:
            raise UsageError(f"residues have 1 to {WORD_BITS - 1} bits, found {self.wrap}")

    @property
    def result(self) -> float:
        """The largest magnitude that an entry of Mᵀv can have."""
        if self.wrap is not None:
            return 2.0 ** (self.wrap - 1)
        return min(self.column_norm * self.vector_norm, self.entry * self.vector_sum)

    def admits(self, recipient: Recipient) -> bool:
        """Return whether ``recipient`` was agreed on."""
        return self.recipient in (None, recipient)

    def check_matrix(self, matrix: IntegerMatrix) -> None:
        """Raise ``UsageError`` unless ``matrix`` has the agreed shape, norms and entries."""
        if (matrix.rows, matrix.columns) != (self.rows, self.columns):
            raise UsageError(f"expected a matrix {self.rows} × {self.columns}, found {matrix.rows} × {matrix.columns}")
        if not self.columns:
            return
        norms, largest = matrix.column_norms(), matrix.largest_entry()
        if norms.max() > self.column_norm:
            raise UsageError(f"column {norms.argmax()} has norm {norms.max():.6g}, agreed are {self.column_norm:.6g}")
        if largest > self.entry:
            raise UsageError(f"an entry of the matrix is {largest}, agreed are at most {self.entry:.6g}")

    def check_vectors(self, vectors: NDArray[np.int64]) -> None:
        """Raise ``UsageError`` unless ``vectors`` (one a row) have the agreed length and norms."""
        if vectors.ndim != 2 or vectors.shape[1] != self.rows or vectors.dtype != np.int64:
            raise UsageError(f"expected int64 vectors of length {self.rows}, found {vectors.dtype} {vectors.shape}")
        if self.wrap is not None:
            if vectors.size and (vectors.min() < 0 or int(vectors.max()) >> self.wrap):
                raise UsageError(f"residues lie in [0, 2^{self.wrap}), found {vectors.min()} to {vectors.max()}")
            return
        for index, vector in enumerate(vectors):
            self._check_vector(index, vector)

    def _check_vector(self, index: int, vector: NDArray[np.int64]) -> None:
        squares = total = 0.0
        for block in pieces(len(vector), _BLOCK):
            values = np.abs(vector[block].astype(np.float64))
            # Not by a product of vectors: after one, the threads of a BLAS spin for a while, on cores that others need.
            squares += float(np.square(values).sum())
            total += float(values.sum())
        if (norm := math.sqrt(squares)) > self.vector_norm * ROUNDING:
            raise UsageError(f"vector {index} has norm {norm:.6g}, agreed are {self.vector_norm:.6g}")
        if total > self.vector_sum * ROUNDING:
            raise UsageError(f"the entries of vector {index} add up to {total:.6g}, agreed are {self.vector_sum:.6g}")


def reconstruct(mine: NDArray[np.int64], theirs: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Return the products of which these are the shares; ``shift`` is the scheme's ``share_shift``.

    Shares are words: their sum modulo 2^64, divided by 2^shift and rounded, is the result.

    For tests and protocols that keep shares hidden. Both shares together may tell more than the product: whoever is to
    learn it should be the recipient instead.
    """
    words = mine.view(np.uint64) + theirs.view(np.uint64)
    half = np.uint64((1 << shift) >> 1)
    return (words + half).view(np.int64) >> shift


class MatrixSide(Protocol):
    """The matrix holder after the set-up."""

    def multiply(self, count: int, recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Answer ``count`` vectors; return Mᵀv or this side's share of it, shape (count, columns), if it is to know."""
        ...


class VectorSide(Protocol):
    """The vector holder after the set-up."""

    def submit(self, vectors: NDArray[np.int64], recipient: Recipient) -> Dialogue[None]:
        """Send vectors, shape (count, rows), and go on; ``collect`` returns what comes of them."""
        ...

    def collect(self) -> Dialogue[NDArray[np.int64] | None]:
        """Return Mᵀv or this side's share of it, shape (count, columns), if it is to know, for the oldest vectors.

        To be called once for every submission, also where it returns ``None``.
        """
        ...

    def multiply(self, vectors: NDArray[np.int64], recipient: Recipient) -> Dialogue[NDArray[np.int64] | None]:
        """Submit vectors and collect at once."""
        ...


class MatrixSetup(Protocol):
    """What the matrix holder keeps of a set-up: a message of ``codec``, secret where the scheme has a key."""

    @property
    def name(self) -> bytes:
        """Names the set-up; equal at both holders."""
        ...

    def side(self, matrix: IntegerMatrix, *, peer: PartyId, prg: Prg) -> MatrixSide:
        """Return the matrix holder's side; ``prg`` must not have served with this set-up before.

        Raises:
            UsageError: This is not the matrix of the set-up.
        """
        ...


class VectorSetup(Protocol):
    """What the vector holder keeps of a set-up: a message of ``codec``."""

    @property
    def name(self) -> bytes:
        """Names the set-up; equal at both holders."""
        ...

    def side(self, *, peer: PartyId, prg: Prg) -> VectorSide:
        """Return the vector holder's side; ``prg`` must not have served with this set-up before."""
        ...


class LinearMap(Protocol):
    """One scheme."""

    @property
    def name(self) -> str:
        """Name of the scheme in flows and reports."""
        ...

    @property
    def sends_ahead(self) -> bool:
        """Whether ``submit`` never waits for the matrix holder: then both parties may submit at once."""
        ...

    def check(self, bounds: Bounds) -> None:
        """Raise ``UsageError``, saying what would fit, if the scheme cannot carry results of this size exactly."""
        ...

    def share_shift(self, bounds: Bounds) -> int:
        """Return how far ``reconstruct`` has to shift sums of shares."""
        ...

    def set_up_matrix(self, matrix: IntegerMatrix, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[MatrixSetup]:
        """Set up as the matrix holder towards ``peer``."""
        ...

    def set_up_vectors(self, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[VectorSetup]:
        """Set up as the vector holder towards ``peer``."""
        ...


def hold_matrix(
    scheme: LinearMap, matrix: IntegerMatrix, bounds: Bounds, *, peer: PartyId, prg: Prg
) -> Dialogue[MatrixSide]:
    """Set up for this dialogue only; return the matrix holder's side."""
    setup = yield from scheme.set_up_matrix(matrix, bounds, peer=peer, prg=prg)
    return setup.side(matrix, peer=peer, prg=prg)


def hold_vectors(scheme: LinearMap, bounds: Bounds, *, peer: PartyId, prg: Prg) -> Dialogue[VectorSide]:
    """Set up for this dialogue only; return the vector holder's side."""
    setup = yield from scheme.set_up_vectors(bounds, peer=peer, prg=prg)
    return setup.side(peer=peer, prg=prg)
