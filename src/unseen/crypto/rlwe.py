"""Words encrypted under ring-LWE, and masked combinations of them that betray nothing but their value.

The ring is Z_Q[X]/(X^8192 + 1), Q ≈ 2^124, plaintexts are polynomials of words modulo 2^64 (scale-invariant, as in
Brakerski, CRYPTO 2012, and Fan and Vercauteren, eprint 2012/144). A ciphertext (a, b) of w satisfies
b + a·s = ⌈w·Q/2^64⌉ + noise; a is expanded from a public seed, and the first ciphertext is one of zero and serves as
the public key. All parts are spectra.

The key holder encrypts a matrix H; the other side evaluates H·x + r for a ternary x and sends the result with fresh
public-key randomness and flooding, so that the key holder learns H·x + r and nothing else about x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.lattice_parameters import FLOOD_BITS, OUTER, OUTER_DEVIATION, PRIMES
from unseen.crypto.prg import Prg
from unseen.crypto.ring import LIMBS, decode, ring
from unseen.errors import UsageError

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DEGREE = OUTER.degree
_RING = ring(DEGREE)
_NOISE = CumulativeTable(OUTER_DEVIATION)
# Ciphertexts that are made at a time, which bounds the memory beside the result.
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Packing:
    """How a matrix of words (``rows`` ≤ 8192, ``columns``) lies in the coefficients of ciphertexts.

    Each polynomial holds c = ⌊8192/rows⌋ columns, entry i of its column j at X^(i + rows·j). Multiplied by
    Σ_j x_j·X^(−rows·j) it has Σ_j x_j·H[i, j] at X^i for all i < rows: since rows·c ≤ 8192, nothing else gets there.
    """

    rows: int
    columns: int

    @property
    def columns_per_polynomial(self) -> int:
        """Columns that share a polynomial."""
        return min(self.columns, DEGREE // self.rows)

    @property
    def polynomials(self) -> int:
        """Number of polynomials."""
        return -(-self.columns // self.columns_per_polynomial)

    def pack(self, matrix: Words) -> Words:
        """Return the polynomials of a matrix, shape (polynomials, 8192)."""
        width = self.columns_per_polynomial
        columns = np.zeros((self.polynomials * width, self.rows), np.uint64)
        columns[: self.columns] = matrix.T
        out = np.zeros((self.polynomials, DEGREE), np.uint64)
        out[:, : width * self.rows] = columns.reshape(self.polynomials, width * self.rows)
        return out

    def pieces(self, vector: Integers) -> Integers:
        """Return what the polynomials have to be multiplied by, shape (polynomials, 8192), for x = ``vector``."""
        width = self.columns_per_polynomial
        padded = np.zeros(self.polynomials * width, np.int64)
        padded[: self.columns] = vector
        entries = padded.reshape(self.polynomials, width)
        out = np.zeros((self.polynomials, DEGREE), np.int64)
        out[:, 0] = entries[:, 0]
        out[:, DEGREE - self.rows * np.arange(1, width)] = -entries[:, 1:]
        return out


def public_parts(seed: bytes, count: int) -> Words:
    """Return the uniform parts a of ``count`` ciphertexts, shape (count, 2, 8192), that a public seed stands for."""
    stream = Prg(seed).derive("rlwe/public-parts")
    rows = [stream.below(prime, DEGREE) for _ in range(count) for prime in PRIMES]
    return np.array(rows, np.uint64).reshape(count, LIMBS, DEGREE)


class SecretKey:
    """A ternary key; it encrypts one batch, whose first ciphertext is its public key."""

    __slots__ = ("_prg", "_spectrum")

    def __init__(self, prg: Prg) -> None:
        self._prg = prg
        self._spectrum = _RING.spectrum(ternary(prg, DEGREE))
        _RING.to_montgomery(self._spectrum)

    def encrypt(self, public: Words, words: Words) -> Words:
        """Return the parts b that belong to the parts a in ``public`` and to polynomials of words (count, 8192)."""
        out = np.empty_like(public)
        for start in range(0, len(public), _CHUNK):
            piece = slice(start, start + _CHUNK)
            out[piece] = self._encrypt(public[piece], words[piece])
        return out

    def _encrypt(self, public: Words, words: Words) -> Words:
        noise = _NOISE.sample(self._prg, words.size).reshape(words.shape)
        plain = _RING.add(_RING.encode(words), _RING.reduce(noise))
        noise.fill(0)
        _RING.forward(plain)
        return _RING.subtract(plain, self._times(public))

    def decrypt(self, a: Words, b: Words) -> Words:
        """Return the first words of a plaintext: a is the spectrum (2, 8192), b the first coefficients (2, count)."""
        product = self._times(a[None])
        _RING.inverse(product)
        return decode(_RING.add(product[0, :, : b.shape[1]], b))

    def _times(self, spectra: Words) -> Words:
        return _RING.contract(spectra[None], self._spectrum[None, None])[:, 0]

    def __repr__(self) -> str:
        return "SecretKey(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a secret key cannot be pickled")


class EncryptedMatrix:
    """Ciphertexts as the other side keeps them: shape (count, 2 parts, 2, 8192), the public key first."""

    def __init__(self, public: Words, private: Words) -> None:
        self._ciphertexts = np.stack([public, private], axis=1)
        _RING.to_montgomery(self._ciphertexts)

    def evaluate(self, start: int, pieces: Integers, mask: Words, randomness: Rerandomisation) -> tuple[Words, Words]:
        """Return a ciphertext of H·x + mask: the spectrum a (2, 8192) and the first coefficients of b (2, rows).

        The matrix begins at ciphertext ``start``; ``pieces`` are ``Packing.pieces`` of x.
        """
        factors = _RING.spectrum(pieces)[:, None]
        total = _RING.contract(factors, self._ciphertexts[start : start + len(pieces)])
        _RING.contract(_RING.spectrum(randomness.secret[None, None]), self._ciphertexts[:1], total)
        a, b = total[0]
        _RING.inverse(b)
        extra = np.zeros((2, DEGREE), np.int64)
        extra[0], extra[1, : len(mask)] = randomness.noise, randomness.flood
        plain = np.zeros(DEGREE, np.uint64)
        plain[: len(mask)] = mask
        b = _RING.add(_RING.add(b, _RING.reduce(extra[1])), _RING.encode(plain))
        return _RING.add(a, _RING.spectrum(extra[0])), b[:, : len(mask)].copy()


@dataclass(frozen=True, slots=True, repr=False)
class Rerandomisation:
    """What hides x in a ciphertext: a fresh encryption of zero under the public key, and flooding.

    Without the encryption of zero, the part a is a known linear map of x. Without the flooding, the noise in the
    part b, which the key holder can compute, is one. The encryption of zero needs no noise of its own in b, since
    the flooding covers it.
    """

    secret: Integers
    noise: Integers
    flood: Integers

    @classmethod
    def draw(cls, prg: Prg, rows: int) -> Rerandomisation:
        """Return fresh randomness for a ciphertext of ``rows`` words."""
        flood = (prg.words(rows) >> np.uint64(63 - FLOOD_BITS)).astype(np.int64) - (1 << FLOOD_BITS)
        return cls(ternary(prg, DEGREE), _NOISE.sample(prg, DEGREE), flood)

    def destroy(self) -> None:
        """Overwrite the randomness."""
        for array in (self.secret, self.noise, self.flood):
            array.fill(0)

    def __repr__(self) -> str:
        return "Rerandomisation(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("the randomness of a ciphertext cannot be pickled")
