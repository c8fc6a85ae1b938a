"""Words encrypted under ring-LWE, and masked combinations of them that betray nothing but their value.

The ring is Z_Q[X]/(X^8192 + 1), Q ≈ 2^124, plaintexts are polynomials of words modulo 2^64 (scale-invariant, as in
Brakerski, CRYPTO 2012, and Fan and Vercauteren, eprint 2012/144). A ciphertext (a, b) of w satisfies
b + a·s = ⌈w·Q/2^64⌉ + noise; a is expanded from a public seed, and the first ciphertext is one of zero and serves as
the public key. All parts are spectra.

The key holder encrypts a matrix H; the other side evaluates H·x + r for a ternary x and sends the result with fresh
public-key randomness and flooding, so that the key holder learns H·x + r and nothing else about x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.lattice_parameters import FLOOD_BITS, OUTER, OUTER_DEVIATION, PRIMES
from unseen.crypto.prg import Prg
from unseen.crypto.ring import LIMBS, are_residues, decode, ring
from unseen.errors import UsageError
from unseen.kernels import combine
from unseen.kernels.blocks import in_parallel

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DEGREE = OUTER.degree
_RING = ring(DEGREE)
_NOISE = CumulativeTable(OUTER_DEVIATION)
# Ciphertexts that are made at a time, which bounds the memory beside the result.
_CHUNK = 32
# Sums of ciphertexts that are held at a time: 16 MiB.
_SUMS = 64
_BELOW_TWO_62 = np.uint64((1 << 62) - 1)


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
    out = np.empty((count, LIMBS, DEGREE), np.uint64)
    for piece, parts in _public_parts(seed, count):
        out[piece] = parts
    return out


def _public_parts(seed: bytes, count: int) -> Iterator[tuple[slice, Words]]:
    """Yield the same a few at a time, each with its place."""
    stream = Prg(seed).derive("rlwe/public-parts")
    for start in range(0, count, _CHUNK):
        parts = np.array([_public_part(stream) for _ in range(min(_CHUNK, count - start))])
        yield slice(start, start + len(parts)), parts


def _public_part(stream: Prg) -> Words:
    """Return residues, shape (2, 8192), uniform by rejection: of 62 bits, hardly any exceed the primes."""
    words = stream.words(LIMBS * DEGREE).reshape(LIMBS, DEGREE) & _BELOW_TWO_62
    while not are_residues(words):
        wrong = words >= np.array(PRIMES, np.uint64)[:, None]
        words[wrong] = stream.words(int(np.count_nonzero(wrong))) & _BELOW_TWO_62
    return words


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

    def encrypt_under(self, seed: bytes, words: Words) -> Words:
        """Return the parts b for the parts a that ``public_parts`` gives for a seed, without holding these."""
        out = np.empty((len(words), LIMBS, DEGREE), np.uint64)
        for piece, public in _public_parts(seed, len(words)):
            out[piece] = self._encrypt(public, words[piece])
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


class PublicKey:
    """An encryption of zero, shape (2 parts, 2, 8192): it re-randomises what is sent to the key holder."""

    def __init__(self, ciphertext: Words) -> None:
        self._ciphertext = ciphertext[None].copy()
        _RING.to_montgomery(self._ciphertext)

    def hide(self, total: Words, mask: Words, randomness: Rerandomisation) -> tuple[Words, Words]:
        """Return an encryption of what ``total`` (2 parts, 2, 8192) encrypts, plus the mask, fit to be sent.

        It consists of the spectrum a (2, 8192) and the first coefficients of b (2, rows), for ``rows`` masks.
        """
        hidden = total[None, :].copy()
        _RING.contract(_RING.spectrum(randomness.secret[None, None]), self._ciphertext, hidden)
        a, b = hidden[0]
        _RING.inverse(b)
        extra = np.zeros((2, DEGREE), np.int64)
        extra[0], extra[1, : len(mask)] = randomness.noise, randomness.flood
        plain = np.zeros(DEGREE, np.uint64)
        plain[: len(mask)] = mask
        b = _RING.add(_RING.add(b, _RING.reduce(extra[1])), _RING.encode(plain))
        return _RING.add(a, _RING.spectrum(extra[0])), b[:, : len(mask)].copy()


class EncryptedHint:
    """Encrypted matrices H_1, H_2, … of equally many columns, as the other side keeps them: 256 KiB a polynomial.

    Args:
        seed: What the parts a follow from.
        private: The parts b, shape (1 + polynomials of all matrices, 2, 8192), the public key first; only read.
        packings: How each matrix is packed.
    """

    def __init__(self, seed: bytes, private: Words, packings: Sequence[Packing]) -> None:
        self._rows = np.cumsum([0, *(packing.rows for packing in packings)])
        self._groups = [_Sums(packing) if sums_are_cheaper(packing) else _Products(packing) for packing in packings]
        ends = np.cumsum([1, *(packing.polynomials for packing in packings)]).tolist()
        for piece, public in _public_parts(seed, len(private)):
            ciphertexts = np.stack([public, private[piece]], axis=1)
            if piece.start == 0:
                self._key = PublicKey(ciphertexts[0])
            for group, (start, end) in zip(self._groups, pairwise(ends), strict=True):
                first, last = max(start, piece.start), min(end, piece.stop)
                if first < last:
                    group.put(first - start, ciphertexts[first - piece.start : last - piece.start])

    def evaluate(self, vectors: Integers, masks: Words, prgs: Sequence[Prg]) -> tuple[Words, Words]:
        """Return ciphertexts of H_g·x + mask for K ternary vectors x and all matrices g, fit to be sent.

        Args:
            vectors: The vectors x, shape (K, columns).
            masks: Shape (K, rows of all matrices).
            prgs: What the randomness of each vector's ciphertexts is drawn from.

        Returns:
            The parts a, spectra of shape (K, matrices, 2, 8192), and the first coefficients of the parts b, of shape
            (K, 2, rows of all matrices).
        """
        a = np.empty((len(vectors), len(self._groups), LIMBS, DEGREE), np.uint64)
        b = np.empty((len(vectors), LIMBS, masks.shape[1]), np.uint64)
        for index, group in enumerate(self._groups):
            totals = group.totals(vectors)
            rows = slice(self._rows[index], self._rows[index + 1])

            def work(k: int, index: int = index, rows: slice = rows, totals: Words = totals) -> None:
                randomness = Rerandomisation.draw(prgs[k], rows.stop - rows.start)
                a[k, index], b[k, :, rows] = self._key.hide(totals[k], masks[k, rows], randomness)
                randomness.destroy()

            in_parallel(work, len(vectors))
            totals.fill(0)
        return a, b


def sums_are_cheaper(packing: Packing) -> bool:
    """Return whether sums of ciphertexts take less time than products with pieces of the vector.

    The weights are microseconds on a processor of 2021: a transform of a piece with its product, a ciphertext added or
    subtracted, and a product of a sum with a monomial.
    """
    by_products = 300 * packing.polynomials
    by_sums = 2 * packing.columns + 250 * packing.columns_per_polynomial
    return by_sums < by_products


class _Products:
    """A matrix with few polynomials: each is multiplied by its piece of the vector."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._ciphertexts = np.empty((packing.polynomials, 2, LIMBS, DEGREE), np.uint64)

    def put(self, first: int, ciphertexts: Words) -> None:
        """Take over ciphertexts (count, 2 parts, 2, 8192) as those from ``first`` on."""
        place = self._ciphertexts[first : first + len(ciphertexts)]
        place[:] = ciphertexts
        _RING.to_montgomery(place)

    def totals(self, vectors: Integers) -> Words:
        """Return ciphertexts of H·x for vectors x (K, columns), shape (K, 2 parts, 2, 8192)."""
        out = np.zeros((len(vectors), 2, LIMBS, DEGREE), np.uint64)

        def work(k: int) -> None:
            factors = _RING.spectrum(self._packing.pieces(vectors[k]))
            _RING.contract(factors[:, None], self._ciphertexts, out[k : k + 1])
            factors.fill(0)

        in_parallel(work, len(vectors))
        return out


class _Sums:
    """A matrix with many polynomials P_j of few columns each, w = ``columns_per_polynomial``.

    With C_i = Σ_j x[w·j + i]·P_j, which are sums since x is ternary, H·x is in Σ_{i<w} X^(−rows·i)·C_i: the same as
    Σ_j P_j·(piece j of x), in another order, for w products instead of a transform for every j.
    """

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._width = packing.columns_per_polynomial
        self._chunks = combine.chunked(packing.polynomials, 2 * LIMBS * DEGREE)
        self._primes = np.repeat(np.array(PRIMES * 2, np.uint64), DEGREE // combine.CHUNK)
        monomials = np.zeros((self._width, 1, DEGREE), np.int64)
        monomials[0, 0, 0] = 1
        monomials[1:, 0][range(self._width - 1), DEGREE - packing.rows * np.arange(1, self._width)] = -1
        self._monomials = _RING.spectrum(monomials)
        _RING.to_montgomery(self._monomials)

    def put(self, first: int, ciphertexts: Words) -> None:
        """Take over ciphertexts (count, 2 parts, 2, 8192) as those from ``first`` on."""
        combine.put(self._chunks, first, ciphertexts.reshape(len(ciphertexts), -1))

    def totals(self, vectors: Integers) -> Words:
        """Return ciphertexts of H·x for vectors x (K, columns), shape (K, 2 parts, 2, 8192)."""
        out = np.zeros((len(vectors), 2, LIMBS, DEGREE), np.uint64)
        batch = max(1, _SUMS // self._width)
        for start in range(0, len(vectors), batch):
            self._add_totals(vectors[start : start + batch], out[start : start + batch])
        return out

    def _add_totals(self, vectors: Integers, out: Words) -> None:
        padded = np.zeros((len(vectors), self._packing.polynomials * self._width), np.int64)
        padded[:, : self._packing.columns] = vectors
        coefficients = padded.reshape(len(vectors), -1, self._width).transpose(2, 0, 1)
        flat = coefficients.reshape(-1, self._packing.polynomials)
        sums = combine.combine(self._chunks, flat, self._primes)
        shape = (self._width, 2 * len(vectors), LIMBS, DEGREE)
        _RING.contract(sums.reshape(shape), self._monomials, out.reshape(-1, 1, LIMBS, DEGREE))
        for array in (padded, flat, sums):
            array.fill(0)


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
