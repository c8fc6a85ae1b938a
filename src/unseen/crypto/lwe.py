"""Vectors hidden by module-LWE under one public matrix: b = A·s + e + message (mod 2^64).

A has one row of N = 2560 words for every entry of a vector and is never stored. It consists of polynomials a[t, κ]
of Z_q[X]/(X^512 + 1), q = 2^64, expanded from a public seed: row 512·t + i, column 512·κ + j is the coefficient of
X^i in a[t, κ]·X^j. The products A·s and MᵀA are exact integer products of polynomials, reduced modulo 2^64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.lattice_parameters import INNER, VECTOR_DEVIATION
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.errors import LocalProtocolError, UsageError
from unseen.kernels import float_ntt
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.vectors import LANES, has_vectors

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.int8]

_RING = ring(INNER.degree)
_NOISE = CumulativeTable(VECTOR_DEVIATION)
# Blocks × columns that are transformed at a time: 64 MiB of spectra.
_CHUNK = 1 << 13
# Groups of blocks whose spectra are prepared at a time.
_GROUPS = 16
# Pieces of work for each thread, so that none waits long for the last one.
_PIECES = 4


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

    def times(self, secrets: Integers) -> Words:
        """Return A·s, shape (…, rows), for ternary vectors s, shape (…, 2560)."""
        out = np.zeros((*secrets.shape[:-1], self.rows), np.uint64)
        self.add_times(np.atleast_2d(secrets), np.atleast_2d(out))
        return out

    def add_times(self, secrets: Integers, out: Words) -> None:
        """Add A·s_k modulo 2^64 to out[k], shape (K, rows), for K ternary vectors s_k, shape (K, 2560)."""
        self._pads.add(secrets.reshape(len(secrets), INNER.rank, INNER.degree), out)

    @cached_property
    def _pads(self) -> _FloatPads | _WordPads:
        return (_FloatPads if has_vectors() else _WordPads)(self)

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


class _FloatPads:
    """The halves of all a[t, κ] as spectra of ``kernels.float_ntt``: 80 bytes a row, kept."""

    def __init__(self, public: PublicMatrix) -> None:
        self._roots = float_ntt.roots(INNER.degree)
        groups = -(-public.blocks // LANES)
        self._halves = np.empty((groups, INNER.rank, 2, INNER.degree, LANES))
        for index, chunk in enumerate(public.chunks(_GROUPS * LANES)):
            self._fill(chunk, self._halves[index * _GROUPS : (index + 1) * _GROUPS])

    def _fill(self, chunk: Integers, out: NDArray[np.float64]) -> None:
        def work(group: int) -> None:
            float_ntt.fill_halves(chunk[group * LANES : (group + 1) * LANES], out[group : group + 1])

        in_parallel(work, len(out))

    def add(self, secrets: Integers, out: Words) -> None:
        """Add the products with secrets (K, 5, 512) to ``out`` (K, rows)."""
        spectra = float_ntt.spectra(secrets)
        pieces = ranges(len(self._halves), _PIECES * threads())

        def work(index: int) -> None:
            for group in range(pieces[index].start, pieces[index].stop):
                # All vectors while the spectra of the group are in the cache.
                float_ntt.add_products(out, group, self._halves[group], spectra, self._roots.inverse)

        in_parallel(work, len(pieces))
        spectra.fill(0)


class _WordPads:
    """The same for machines without vectors of doubles: spectra modulo the primes of ``Ring``, 80 bytes a row, kept."""

    def __init__(self, public: PublicMatrix) -> None:
        chunks = public.chunks(_GROUPS * LANES)
        self._spectra = np.concatenate([_RING.spectrum(chunk.swapaxes(0, 1)) for chunk in chunks], axis=1)
        _RING.to_montgomery(self._spectra)

    def add(self, secrets: Integers, out: Words) -> None:
        """Add the products with secrets (K, 5, 512) to ``out`` (K, rows)."""
        for secret, row in zip(_RING.spectrum(secrets), out, strict=True):
            product = _RING.contract(secret[:, None], self._spectra)
            _RING.inverse(product)
            np.add(row, _RING.to_words(product[0]).reshape(-1)[: len(row)], out=row)


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

    def __init__(self, secret: Integers, noise: Bytes) -> None:
        self._secret, self._noise, self._spent = secret, noise, False

    @classmethod
    def draw(cls, prg: Prg, rows: int) -> OneTimeSecret:
        """Return a uniform ternary secret and Gaussian noise for ``rows`` entries."""
        return cls(ternary(prg, INNER.dimension), _NOISE.bytes(prg, rows))

    @property
    def vector(self) -> Integers:
        """The secret s, shape (2560,), to be combined with an encrypted hint."""
        return self._secret

    def encrypt(self, public: PublicMatrix, message: Words) -> Words:
        """Return b = A·s + e + message (mod 2^64).

        Raises:
            LocalProtocolError: This secret has encrypted before.
        """
        hidden = message[None].copy()
        encrypt_all([self], public, hidden)
        return hidden.reshape(-1)

    def add_noise(self, message: Words) -> None:
        """Spend the secret and add e to what it will hide: the first half of ``encrypt_all``, its only caller.

        Raises:
            LocalProtocolError: This secret has encrypted before.
        """
        if self._spent:
            raise LocalProtocolError("a one-time secret was about to encrypt a second vector")
        self._spent = True
        words = message.view(np.int64)
        np.add(words, self._noise, out=words)

    def destroy(self) -> None:
        """Overwrite the secret; it cannot encrypt any more."""
        self._spent = True
        self._secret.fill(0)
        self._noise.fill(0)

    def __repr__(self) -> str:
        return "OneTimeSecret(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a one-time secret cannot be pickled")


def encrypt_all(secrets: Sequence[OneTimeSecret], public: PublicMatrix, messages: Words) -> Words:
    """Return b_k = A·s_k + e_k + message_k (mod 2^64), shape (K, rows), in place of the messages.

    Args:
        secrets: K secrets; each is spent.
        public: The matrix A.
        messages: Shape (K, rows), contiguous; overwritten.

    Raises:
        LocalProtocolError: One of the secrets has encrypted before.
    """
    if messages.shape != (len(secrets), public.rows) or not messages.flags.c_contiguous:
        raise LocalProtocolError(
            f"expected {len(secrets)} contiguous messages of {public.rows} words, found shape {messages.shape}"
        )
    for secret, message in zip(secrets, messages, strict=True):
        secret.add_noise(message)
    if secrets:
        vectors = np.stack([secret.vector for secret in secrets])
        public.add_times(vectors, messages)
        vectors.fill(0)
    return messages
