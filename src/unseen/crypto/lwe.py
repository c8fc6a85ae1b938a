"""Vectors hidden by module-LWE under one public matrix: b = A·s + e + message (mod 2^64).

A has one row of N = 2560 words for every entry of a vector and is never stored. It consists of polynomials a[t, κ]
of Z_q[X]/(X^512 + 1), q = 2^64, expanded from a public seed: row 512·t + i, column 512·κ + j is the coefficient of
X^i in a[t, κ]·X^j. The products A·s and MᵀA are exact integer products of polynomials, reduced modulo 2^64.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.lattice_parameters import INNER, VECTOR_DEVIATION
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.errors import LocalProtocolError, UsageError

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

_RING = ring(INNER.degree)
_NOISE = CumulativeTable(VECTOR_DEVIATION)
# Blocks × columns that are transformed at a time: 64 MiB of spectra.
_CHUNK = 1 << 13


class PublicMatrix:
    """The matrix A with ``rows`` rows that a public seed stands for."""

    def __init__(self, seed: bytes, rows: int) -> None:
        self.rows = rows
        self.blocks = -(-rows // INNER.degree)
        self._seed = seed

    def chunks(self, blocks: int) -> Iterator[Integers]:
        """Yield the polynomials a[t, κ], at most ``blocks`` values of t at a time, shape (·, 5, 512)."""
        stream = Prg(self._seed).derive("lwe/public-matrix")
        for start in range(0, self.blocks, blocks):
            count = min(blocks, self.blocks - start)
            words = stream.words(count * INNER.dimension).view(np.int64)
            yield words.reshape(count, INNER.rank, INNER.degree)

    @cached_property
    def spectra(self) -> Words:
        """All a[t, κ] as spectra in Montgomery form, shape (5, blocks, 2, 512): 80 bytes a row, kept."""
        spectra = _RING.zeros(INNER.rank, self.blocks)
        start = 0
        for polynomials in self.chunks(_CHUNK // INNER.rank):
            spectra[:, start : start + len(polynomials)] = _RING.spectrum(polynomials.swapaxes(0, 1))
            start += len(polynomials)
        _RING.to_montgomery(spectra)
        return spectra

    def times(self, secret: Integers) -> Words:
        """Return A·s, shape (rows,), for a small integer vector s, shape (2560,)."""
        secret_spectra = _RING.spectrum(secret.reshape(INNER.rank, 1, INNER.degree))
        product = _RING.contract(secret_spectra, self.spectra)
        _RING.inverse(product)
        return _RING.to_words(product[0]).reshape(-1)[: self.rows]

    def hint(self, columns: Integers) -> Words:
        """Return the hint H = MᵀA, shape (m, 2560), for the columns of M, shape (m, rows).

        With b*(X) = b(X^-1), the inner products of a column with the rows of A are the coefficients of
        Σ_t m_t·a*[t, κ], m_t being the polynomial of the column's entries of block t.
        """
        total = _RING.zeros(len(columns), INNER.rank)
        blocks = max(1, _CHUNK // max(INNER.rank, len(columns)))
        start = 0
        for polynomials in self.chunks(blocks):
            entries = self._blocks_of(columns, start, len(polynomials))
            adjoint = _RING.spectrum(_adjoint(polynomials))
            _RING.to_montgomery(adjoint)
            _RING.contract(_RING.spectrum(entries), adjoint, total)
            start += len(polynomials)
        _RING.inverse(total)
        return _RING.to_words(total).reshape(len(columns), INNER.dimension)

    def _blocks_of(self, columns: Integers, start: int, count: int) -> Integers:
        """Return rows of M as polynomials, shape (count, m, 512); the last block is filled up with zeros."""
        degree = INNER.degree
        rows = columns[:, start * degree : (start + count) * degree]
        padded = np.zeros((len(columns), count * degree), np.int64)
        padded[:, : rows.shape[1]] = rows
        return padded.reshape(len(columns), count, degree).swapaxes(0, 1)


def _adjoint(polynomials: Integers) -> Integers:
    """Return p(X^-1) for polynomials p modulo X^n + 1: X^-j is −X^(n−j)."""
    out = np.empty_like(polynomials)
    out[..., 0] = polynomials[..., 0]
    out[..., 1:] = -polynomials[..., :0:-1]
    return out


class OneTimeSecret:
    """The secret s and the noise e of one vector; they encrypt once.

    Two vectors under one s are a two-time pad: their difference follows from what was sent.
    """

    __slots__ = ("_noise", "_secret", "_spent")

    def __init__(self, secret: Integers, noise: Integers) -> None:
        self._secret, self._noise, self._spent = secret, noise, False

    @classmethod
    def draw(cls, prg: Prg, rows: int) -> OneTimeSecret:
        """Return a uniform ternary secret and Gaussian noise for ``rows`` entries."""
        return cls(ternary(prg, INNER.dimension), _NOISE.sample(prg, rows))

    @property
    def vector(self) -> Integers:
        """The secret s, shape (2560,), to be combined with an encrypted hint."""
        return self._secret

    def encrypt(self, public: PublicMatrix, message: Words) -> Words:
        """Return b = A·s + e + message (mod 2^64).

        Raises:
            LocalProtocolError: This secret has encrypted before.
        """
        if self._spent:
            raise LocalProtocolError("a one-time secret was about to encrypt a second vector")
        self._spent = True
        return public.times(self._secret) + self._noise.view(np.uint64) + message

    def destroy(self) -> None:
        """Overwrite the secret; it cannot encrypt any more."""
        self._spent = True
        self._secret.fill(0)
        self._noise.fill(0)

    def __repr__(self) -> str:
        return "OneTimeSecret(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a one-time secret cannot be pickled")
