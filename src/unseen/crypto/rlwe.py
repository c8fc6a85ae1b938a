"""Words encrypted under ring-LWE, and masked combinations of them that betray nothing but their value.

The ring is Z_Q[X]/(X^8192 + 1), Q ≈ 2^124, plaintexts are polynomials of words modulo 2^64 (scale-invariant, as in
Brakerski, CRYPTO 2012, and Fan and Vercauteren, eprint 2012/144). A ciphertext (a, b) of w satisfies
b + a·s = ⌈w·Q/2^64⌉ + noise; a is expanded from a public seed, and the first ciphertext is one of zero and serves as
the public key. All parts are spectra.

A matrix with many rows is cut into groups of rows, each under a key of its own; *all groups share the parts a*, so that
a ciphertext is (a, b_1, …, b_G) (Peikert, Vaikuntanathan, Waters, CRYPTO 2008, section 7.2: one a for many secrets).

The key holder encrypts a matrix H; the other side evaluates H·x + r for a ternary x and sends the result with fresh
public-key randomness and flooding, so that the key holder learns H·x + r and nothing else about x.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.lattice_parameters import FLOOD_BITS, OUTER, OUTER_DEVIATION
from unseen.crypto.prg import Prg
from unseen.crypto.ring import LIMBS, are_residues, decode, ring
from unseen.errors import LocalProtocolError, UsageError
from unseen.kernels import combine
from unseen.kernels.blocks import in_parallel, ranges, threads

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
W = TypeVar("W", np.uint64, np.int64)

DEGREE = OUTER.degree
_RING = ring(DEGREE)
_NOISE = CumulativeTable(OUTER_DEVIATION)
# Rows of a matrix that share a ciphertext, at most: a polynomial holds two columns or more.
_GROUP = DEGREE // 2
# Polynomials that are made, and taken over, at a time by a thread.
_UNIT = 8
# Sums of ciphertexts that are held at a time.
_SUMS = 64
_BELOW_TWO_62 = np.uint64((1 << 62) - 1)


@dataclass(frozen=True, slots=True)
class Packing:
    """How a matrix of words (``rows``, ``columns``) lies in the coefficients of ciphertexts.

    The rows make up groups of equal size R ≤ 4096, the last one filled up with zeros. In its group a polynomial holds
    c = ⌊8192/R⌋ columns, entry i of its column j at X^(i + R·j). Multiplied by Σ_j x_j·X^(−R·j) it has
    Σ_j x_j·H[i, j] at X^i for all i < R: since R·c ≤ 8192, nothing else gets there.
    """

    rows: int
    columns: int

    @property
    def groups(self) -> int:
        """Number of groups of rows."""
        return max(1, -(-self.rows // self.group_rows))

    @property
    def group_rows(self) -> int:
        """Rows of a group."""
        return max(1, -(-self.rows // max(1, -(-self.rows // _GROUP))))

    @property
    def columns_per_polynomial(self) -> int:
        """Columns that share a polynomial."""
        return min(self.columns, DEGREE // self.group_rows)

    @property
    def polynomials(self) -> int:
        """Number of polynomials of a group."""
        return -(-self.columns // self.columns_per_polynomial)

    def pack(self, matrix: Words, piece: slice) -> Words:
        """Return polynomials ``piece`` of the packed matrix (rows, columns), shape (count, groups, 8192)."""
        width, count = self.columns_per_polynomial, piece.stop - piece.start
        part = matrix[:, piece.start * width : piece.stop * width]
        columns = np.zeros((count * width, self.groups * self.group_rows), np.uint64)
        columns[: part.shape[1], : self.rows] = part.T
        entries = columns.reshape(count, width, self.groups, self.group_rows).swapaxes(1, 2)
        out = np.zeros((count, self.groups, DEGREE), np.uint64)
        out[..., : width * self.group_rows] = entries.reshape(count, self.groups, -1)
        return out

    def pieces(self, vector: Integers) -> Integers:
        """Return what the polynomials have to be multiplied by, shape (polynomials, 8192), for x = ``vector``."""
        width = self.columns_per_polynomial
        padded = np.zeros(self.polynomials * width, np.int64)
        padded[: self.columns] = vector
        entries = padded.reshape(self.polynomials, width)
        out = np.zeros((self.polynomials, DEGREE), np.int64)
        out[:, 0] = entries[:, 0]
        out[:, DEGREE - self.group_rows * np.arange(1, width)] = -entries[:, 1:]
        return out

    def spread(self, column: NDArray[W]) -> NDArray[W]:
        """Return the first coefficients that a column (rows,) stands in, shape (groups, 8192)."""
        padded = np.zeros(self.groups * self.group_rows, column.dtype)
        padded[: self.rows] = column
        out = np.zeros((self.groups, DEGREE), column.dtype)
        out[:, : self.group_rows] = padded.reshape(self.groups, self.group_rows)
        return out

    def gather(self, elements: Words) -> Words:
        """Return the coefficients that hold a column, shape (limbs, rows), of elements (groups, limbs, 8192)."""
        return elements[:, :, : self.group_rows].swapaxes(0, 1).reshape(LIMBS, -1)[:, : self.rows].copy()


class PublicParts:
    """The uniform parts a that a public seed stands for; 0 is that of the public key."""

    def __init__(self, seed: bytes) -> None:
        self._prg = Prg(seed).derive("rlwe/public-parts")

    def part(self, index: int) -> Words:
        """Return residues, shape (2, 8192)."""
        return _public_part(self._prg.derive("part", struct.pack("<Q", index)))


def public_parts(seed: bytes, count: int) -> Words:
    """Return the first ``count`` parts a that belong to a public seed, shape (count, 2, 8192)."""
    parts = PublicParts(seed)
    return np.array([parts.part(index) for index in range(count)], np.uint64).reshape(count, LIMBS, DEGREE)


def _public_part(stream: Prg) -> Words:
    """Return residues, shape (2, 8192), uniform by rejection: of 62 bits, hardly any exceed the primes."""
    words = stream.words(LIMBS * DEGREE).reshape(LIMBS, DEGREE)
    np.bitwise_and(words, _BELOW_TWO_62, out=words)
    while not are_residues(words):
        wrong = words >= np.array(_RING.primes, np.uint64)[:, None]
        words[wrong] = stream.words(int(np.count_nonzero(wrong))) & _BELOW_TWO_62
    return words


class SecretKeys:
    """Ternary keys, one for each group of rows; they encrypt one matrix, after zero, which gives the public key."""

    __slots__ = ("_prg", "_spectra", "_spent")

    def __init__(self, prg: Prg, groups: int) -> None:
        self._prg, self._spent = prg, False
        keys = [ternary(prg.derive("rlwe/key", struct.pack("<Q", group)), DEGREE) for group in range(groups)]
        self._spectra = _RING.spectrum(np.stack(keys))
        _RING.to_montgomery(self._spectra)

    def encrypt(self, seed: bytes, matrix: Words, packing: Packing, *, piece: int) -> Iterator[Words]:
        """Yield the parts b that belong to the parts a of a seed: of zero, and of the polynomials of a matrix.

        At most ``piece`` polynomials come at a time, shape (count, groups, 2, 8192).

        Raises:
            LocalProtocolError: These keys have encrypted before.
        """
        # Safety: the noise follows from the place alone, so that two matrices must not meet.
        if self._spent:
            raise LocalProtocolError("keys were about to encrypt a second matrix")
        self._spent = True
        negated = _RING.subtract(np.zeros_like(self._spectra), self._spectra)
        work = _Encryption(self._prg, PublicParts(seed), negated[None])
        yield work.of(0, np.zeros((1, packing.groups, DEGREE), np.uint64))
        for start in range(0, packing.polynomials, piece):
            stop = min(start + piece, packing.polynomials)
            out = np.empty((stop - start, packing.groups, LIMBS, DEGREE), np.uint64)
            units = ranges(stop - start, max(threads(), (stop - start) // _UNIT))

            def unit(index: int, start: int = start, out: Words = out, units: list[slice] = units) -> None:
                part = units[index]
                words = packing.pack(matrix, slice(start + part.start, start + part.stop))
                out[part] = work.of(1 + start + part.start, words)

            in_parallel(unit, len(units))
            yield out
        negated.fill(0)

    def decrypt(self, a: Words, b: Words, packing: Packing) -> Words:
        """Return the column of words, shape (rows,), that a ciphertext holds.

        Args:
            a: The spectrum (2, 8192).
            b: The coefficients (2, rows) that ``Packing.gather`` gives.
            packing: How the column is packed.
        """
        products = self.times(a[None])[0]
        _RING.inverse(products)
        return decode(_RING.add(packing.gather(products), b))

    def times(self, spectra: Words) -> Words:
        """Return the products of spectra (count, 2, 8192) with every key, shape (count, groups, 2, 8192)."""
        return _RING.contract(spectra[None], self._spectra[None])

    def __repr__(self) -> str:
        return "SecretKeys(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("secret keys cannot be pickled")


@dataclass(frozen=True, slots=True, repr=False)
class _Encryption:
    """What encrypts polynomials: the noise's generator, the parts a, the negated keys (1, groups, 2, 8192)."""

    prg: Prg
    public: PublicParts
    negated: Words

    def of(self, first: int, words: Words) -> Words:
        """Return the parts b of polynomials (count, groups, 8192), the first of which has the place ``first``."""
        out = np.empty((*words.shape[:2], LIMBS, DEGREE), np.uint64)
        for index in range(len(words)):
            stream = self.prg.derive("rlwe/noise", struct.pack("<Q", first + index))
            noise = _NOISE.sample(stream, words[index].size).reshape(words[index].shape)
            plain = _RING.encode(words[index], noise)
            noise.fill(0)
            _RING.forward(plain)
            _RING.contract(self.public.part(first + index)[None, None], self.negated, plain[None])
            out[index] = plain
        return out


class PublicKey:
    """Encryptions of zero under all keys, shape (1 + groups, 2, 8192): they re-randomise what the key holder gets."""

    def __init__(self, ciphertext: Words, packing: Packing) -> None:
        self._ciphertext, self._packing = ciphertext[None].copy(), packing
        _RING.to_montgomery(self._ciphertext)

    def hide(self, total: Words, mask: Words, randomness: Rerandomisation) -> tuple[Words, Words]:
        """Return an encryption of what ``total`` (1 + groups, 2, 8192) encrypts, plus the mask, fit to be sent.

        It consists of the spectrum a (2, 8192) and the coefficients of the parts b (2, rows) that hold the column.
        """
        hidden = total[None].copy()
        _RING.contract(_RING.spectrum(randomness.secret[None, None]), self._ciphertext, hidden)
        a, b = hidden[0, 0], hidden[0, 1:]
        _RING.inverse(b)
        b = _RING.add(b, _RING.encode(self._packing.spread(mask), self._packing.spread(randomness.flood)))
        return _RING.add(a, _RING.spectrum(randomness.noise)), self._packing.gather(b)


class EncryptedHint:
    """An encrypted matrix H, as the other side keeps it: (1 + groups)·128 KiB a polynomial.

    Args:
        seed: What the parts a follow from.
        private: The parts b, shape (1 + polynomials, groups, 2, 8192), those of the public key first; only read.
        packing: How the matrix is packed.
    """

    def __init__(self, seed: bytes, private: Words, packing: Packing) -> None:
        self._packing = packing
        self._matrix = _Sums(packing) if sums_are_cheaper(packing) else _Products(packing)
        parts = PublicParts(seed)
        self._key = PublicKey(np.concatenate([parts.part(0)[None], private[0]]), packing)
        units = ranges(packing.polynomials, max(threads(), packing.polynomials // _UNIT))

        def unit(index: int) -> None:
            places = range(units[index].start, units[index].stop)
            ciphertexts = [np.concatenate([parts.part(1 + place)[None], private[1 + place]]) for place in places]
            self._matrix.put(places.start, np.stack(ciphertexts))

        in_parallel(unit, len(units))

    def evaluate(self, vectors: Integers, masks: Words, prgs: Sequence[Prg]) -> tuple[Words, Words]:
        """Return ciphertexts of H·x + mask for K ternary vectors x, fit to be sent.

        Args:
            vectors: The vectors x, shape (K, columns).
            masks: Shape (K, rows).
            prgs: What the randomness of each vector's ciphertext is drawn from.

        Returns:
            The parts a, spectra of shape (K, 2, 8192), and the coefficients of the parts b that hold the results, of
            shape (K, 2, rows).
        """
        a = np.empty((len(vectors), LIMBS, DEGREE), np.uint64)
        b = np.empty((len(vectors), LIMBS, masks.shape[1]), np.uint64)
        totals = self._matrix.totals(vectors)

        def work(k: int) -> None:
            randomness = Rerandomisation.draw(prgs[k], masks.shape[1])
            a[k], b[k] = self._key.hide(totals[k], masks[k], randomness)
            randomness.destroy()

        in_parallel(work, len(vectors))
        totals.fill(0)
        return a, b


def sums_are_cheaper(packing: Packing) -> bool:
    """Return whether sums of ciphertexts take less time than products with pieces of the vector.

    The weights are microseconds on a processor of 2021: a transform of a piece, a product with a part of a ciphertext,
    a part added or subtracted, and the product of a part of a sum with a monomial.
    """
    parts = 1 + packing.groups
    by_products = (200 + 35 * parts) * packing.polynomials
    by_sums = (2 * packing.columns + 70 * packing.columns_per_polynomial) * parts
    return by_sums < by_products


class _Products:
    """A matrix with few polynomials: each is multiplied by its piece of the vector."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._ciphertexts = np.empty((packing.polynomials, 1 + packing.groups, LIMBS, DEGREE), np.uint64)

    def put(self, first: int, ciphertexts: Words) -> None:
        """Take over ciphertexts (count, parts, 2, 8192) as those from ``first`` on."""
        place = self._ciphertexts[first : first + len(ciphertexts)]
        place[:] = ciphertexts
        _RING.to_montgomery(place)

    def totals(self, vectors: Integers) -> Words:
        """Return ciphertexts of H·x for vectors x (K, columns), shape (K, parts, 2, 8192)."""
        out = np.zeros((len(vectors), *self._ciphertexts.shape[1:]), np.uint64)

        def work(k: int) -> None:
            factors = _RING.spectrum(self._packing.pieces(vectors[k]))
            _RING.contract(factors[:, None], self._ciphertexts, out[k : k + 1])
            factors.fill(0)

        in_parallel(work, len(vectors))
        return out


class _Sums:
    """A matrix with many polynomials P_j of few columns each, w = ``columns_per_polynomial``.

    With C_i = Σ_j x[w·j + i]·P_j, which are sums since x is ternary, H·x is in Σ_{i<w} X^(−R·i)·C_i: the same as
    Σ_j P_j·(piece j of x), in another order, for w products instead of a transform for every j.
    """

    def __init__(self, packing: Packing) -> None:
        self._packing, self._parts = packing, 1 + packing.groups
        self._width = packing.columns_per_polynomial
        self._chunks = combine.chunked(packing.polynomials, self._parts * LIMBS * DEGREE)
        self._primes = np.repeat(np.array(_RING.primes * self._parts, np.uint64), DEGREE // combine.CHUNK)
        monomials = np.zeros((self._width, 1, DEGREE), np.int64)
        monomials[0, 0, 0] = 1
        monomials[1:, 0][range(self._width - 1), DEGREE - packing.group_rows * np.arange(1, self._width)] = -1
        self._monomials = _RING.spectrum(monomials)
        _RING.to_montgomery(self._monomials)

    def put(self, first: int, ciphertexts: Words) -> None:
        """Take over ciphertexts (count, parts, 2, 8192) as those from ``first`` on."""
        combine.put(self._chunks, first, ciphertexts.reshape(len(ciphertexts), -1))

    def totals(self, vectors: Integers) -> Words:
        """Return ciphertexts of H·x for vectors x (K, columns), shape (K, parts, 2, 8192)."""
        out = np.zeros((len(vectors), self._parts, LIMBS, DEGREE), np.uint64)
        batch = max(1, _SUMS // self._width)
        for start in range(0, len(vectors), batch):
            self._add_totals(vectors[start : start + batch], out[start : start + batch])
        return out

    def _add_totals(self, vectors: Integers, out: Words) -> None:
        padded = np.zeros((len(vectors), self._packing.polynomials * self._width), np.int64)
        padded[:, : self._packing.columns] = vectors
        coefficients = padded.reshape(len(vectors), -1, self._width).swapaxes(1, 2)
        flat = coefficients.reshape(-1, self._packing.polynomials)
        sums = combine.combine(self._chunks, flat, self._primes).reshape(len(vectors), self._width, *out.shape[1:])

        def turn(k: int) -> None:
            _RING.contract(sums[k], self._monomials, out[k, :, None])

        in_parallel(turn, len(vectors))
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
