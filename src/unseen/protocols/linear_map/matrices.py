"""Integer matrices as the linear map needs them: dense fixed-point columns, or indicators of bins.

All sums are modulo 2^64: exact for results below 2^63 in magnitude.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.lattice_parameters import INNER
from unseen.crypto.lwe import PublicMatrix
from unseen.crypto.prg import SEED_BYTES
from unseen.errors import UsageError
from unseen.kernels import binned, dense
from unseen.kernels.blocks import pieces

Words = NDArray[np.uint64]

_INTEGERS = (np.int8, np.int16, np.int32, np.int64)
# Rows that are written out in a wider type at a time.
_BLOCK = 1 << 16


class IntegerMatrix(Protocol):
    """M, rows × columns."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def columns(self) -> int:
        """Number of columns."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content; computed at every call."""
        ...

    def column_norms(self) -> NDArray[np.float64]:
        """Return the Euclidean norm of every column."""
        ...

    def largest_entry(self) -> int:
        """Return the largest magnitude of an entry."""
        ...

    def products(self, vectors: Words) -> Words:
        """Return Mᵀv mod 2^64, shape (count, columns), for vectors of words, shape (count, rows)."""
        ...

    def hints(self, public: PublicMatrix, rows: int) -> Iterator[Words]:
        """Yield MᵀA mod 2^64, shape (columns, 2560), of every ``rows`` rows, a multiple of 512; the sum is the hint."""
        ...

    def rows_of(self, rows: slice) -> NDArray[np.int64]:
        """Return some rows, written out: for schemes that work row by row."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DenseMatrix:
    """Columns of fixed-point numbers: ``values`` (columns, rows), one matrix column a row of the array.

    Raises:
        UsageError: The values are no signed integers with two axes.
    """

    values: NDArray[np.signedinteger]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in _INTEGERS:
            raise UsageError(f"expected signed integers (columns, rows), found {self.values.dtype} {self.values.shape}")
        object.__setattr__(self, "values", np.ascontiguousarray(self.values))

    @classmethod
    def of(cls, table: NDArray[np.int64]) -> DenseMatrix:
        """Return the matrix of integers (rows, columns), kept in the narrowest type that holds them."""
        low, high = (int(table.min()), int(table.max())) if table.size else (0, 0)
        kind = next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
        return cls(np.array(table.T, kind, order="C"))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.values.shape[1])

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.values)

    @property
    def digest(self) -> bytes:
        """SHA-256 of type, shape and values."""
        return _digest(self.values.dtype.str.encode(), self.values)

    def column_norms(self) -> NDArray[np.float64]:
        """Return the Euclidean norm of every column."""
        squares = np.zeros(self.columns)
        for block in pieces(self.rows, _BLOCK):
            squares += np.square(self.values[:, block].astype(np.float64)).sum(axis=1)
        return np.sqrt(squares)

    def largest_entry(self) -> int:
        """Return the largest magnitude of an entry."""
        return max(int(self.values.max()), -int(self.values.min())) if self.values.size else 0

    def products(self, vectors: Words) -> Words:
        """Return Mᵀv mod 2^64, shape (count, columns), for vectors of words, shape (count, rows)."""
        return dense.products(self.values, vectors)

    def hints(self, public: PublicMatrix, rows: int) -> Iterator[Words]:
        """Yield MᵀA mod 2^64 of every ``rows`` rows, a multiple of 512."""
        for start, polynomials in zip(count(0, rows), public.chunks(rows // INNER.degree), strict=False):
            block = self.values[:, start : start + rows].astype(np.int64)
            yield _Rows(polynomials, block.shape[1]).hint(block)

    def rows_of(self, rows: slice) -> NDArray[np.int64]:
        """Return some rows, written out."""
        return self.values[:, rows].T.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class BinnedMatrix:
    """Indicators of bins: ``codes`` uint8 (features, rows); feature f has ``bins[f]`` bins, its codes lie below.

    Column Σ_{g<f} bins[g] + c of M is 1 in the rows where feature f has the code c.

    Raises:
        UsageError: Types, shapes or numbers of bins do not fit, or a code is not below its number of bins.
    """

    codes: NDArray[np.uint8]
    bins: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", np.ascontiguousarray(self.codes))
        binned.check_codes(self.codes, self.offsets)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The first column of every feature, and the number of columns."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.bins, dtype=np.int64)])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.codes.shape[1])

    @property
    def columns(self) -> int:
        """Number of columns: of bins of all features."""
        return sum(self.bins)

    @property
    def digest(self) -> bytes:
        """SHA-256 of bins, shape and codes."""
        return _digest(np.array(self.bins, "<i8").tobytes(), self.codes)

    def column_norms(self) -> NDArray[np.float64]:
        """Return the Euclidean norm of every column: the root of its number of ones."""
        norms = np.zeros(self.columns)
        for codes, first, last in zip(self.codes, self.offsets, self.offsets[1:], strict=False):
            norms[first:last] = np.sqrt(np.bincount(codes, minlength=last - first))
        return norms

    def largest_entry(self) -> int:
        """Return the largest magnitude of an entry."""
        return int(self.codes.size > 0)

    def products(self, vectors: Words) -> Words:
        """Return Mᵀv mod 2^64, shape (count, columns), for vectors of words, shape (count, rows)."""
        return binned.sums(self.codes, self.offsets, np.ascontiguousarray(vectors))

    def hints(self, public: PublicMatrix, rows: int) -> Iterator[Words]:
        """Yield MᵀA mod 2^64 of every ``rows`` rows."""
        for start, polynomials in zip(count(0, rows), public.chunks(rows // INNER.degree), strict=False):
            out = np.zeros((self.columns, INNER.dimension), np.uint64)
            codes = np.ascontiguousarray(self.codes[:, start : start + rows])
            binned.add_hint(codes, self.offsets, polynomials, out)
            yield out

    def rows_of(self, rows: slice) -> NDArray[np.int64]:
        """Return some rows, written out."""
        columns = self.codes[:, rows].astype(np.int64) + self.offsets[:-1, None]
        out = np.zeros((columns.shape[1], self.columns), np.int64)
        out[np.arange(len(out)), columns] = 1
        return out


class _Rows(PublicMatrix):
    """The rows of the public matrix that polynomials stand for."""

    def __init__(self, polynomials: NDArray[np.int64], rows: int) -> None:
        super().__init__(bytes(SEED_BYTES), rows)
        self._polynomials = polynomials

    def chunks(self, blocks: int) -> Iterator[NDArray[np.int64]]:
        """Yield the polynomials, ``blocks`` at a time."""
        return (self._polynomials[start : start + blocks] for start in range(0, self.blocks, blocks))


def _digest(kind: bytes, values: NDArray[Any]) -> bytes:
    state = hashlib.sha256(struct.pack("<QQQ", len(kind), *values.shape) + kind)
    if values.size:
        state.update(values.data)
    return state.digest()
