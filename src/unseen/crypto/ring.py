"""The rings Z_Q[X]/(X^n + 1), Q a product of primes below 2^62: exact products of integer polynomials by transforms.

Elements are arrays (…, limbs, n) of residues modulo the primes; a *spectrum* is the transform of one. Products are
taken between a plain spectrum and one in Montgomery form (see ``kernels.ntt``). Unless said otherwise Q = p1·p2 ≈
2^124, for the two primes of ``lattice_parameters``.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.lattice_parameters import MODULUS, PRIMES
from unseen.errors import LocalProtocolError
from unseen.kernels import ntt

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

LIMBS = len(PRIMES)
_WORD = 1 << 64


class Ring:
    """Polynomials of one degree n, a power of two, modulo odd primes below 2^62 that are 1 modulo 2n.

    Use ``ring(n, primes)``, which computes the roots of unity once.

    Raises:
        LocalProtocolError: A number is no power of two, or a prime too large or without the roots of unity.
    """

    def __init__(self, degree: int, primes: tuple[int, ...] = PRIMES) -> None:
        if degree < 2 or degree & (degree - 1) or any((p - 1) % (2 * degree) or p >> 62 for p in primes):
            raise LocalProtocolError(f"no transform of length {degree} exists modulo {primes}")
        self.degree = degree
        self.primes = primes
        self.limbs = len(primes)
        self.modulus = math.prod(primes)
        self._moduli = np.array([[p, pow(p, -1, _WORD)] for p in primes], np.uint64)
        roots = [_root_of_unity(2 * degree, p) for p in primes]
        self._roots = np.array([_powers(root, degree, p) for root, p in zip(roots, primes, strict=True)])
        self._inverse_roots = np.array(
            [_powers(pow(root, -1, p), degree, p) for root, p in zip(roots, primes, strict=True)]
        )
        self._scale = self._montgomery([pow(degree, -1, p) for p in primes])
        self._to_montgomery = self._montgomery([_WORD % p for p in primes])

    def _montgomery(self, values: list[int]) -> Words:
        return np.array([value * _WORD % p for value, p in zip(values, self.primes, strict=True)], np.uint64)

    def zeros(self, *shape: int) -> Words:
        """Return zero elements, shape (*shape, limbs, n)."""
        return np.zeros((*shape, self.limbs, self.degree), np.uint64)

    def reduce(self, values: Integers) -> Words:
        """Return the residues of integer polynomials (…, n), shape (…, limbs, n)."""
        rows = np.array(values, np.int64).reshape(-1, self.degree)
        out = np.empty((len(rows), self.limbs, self.degree), np.uint64)
        ntt.residues(rows, out, self._moduli)
        return out.reshape(*values.shape[:-1], self.limbs, self.degree)

    def spectrum(self, values: Integers) -> Words:
        """Return the spectra of integer polynomials (…, n), shape (…, limbs, n)."""
        out = self.reduce(values)
        self.forward(out)
        return out

    def forward(self, elements: Words) -> None:
        """Turn contiguous elements into their spectra, in place."""
        ntt.forward(self._rows(elements), self._roots, self._moduli)

    def inverse(self, spectra: Words) -> None:
        """Turn contiguous spectra back into elements, in place."""
        ntt.inverse(self._rows(spectra), self._inverse_roots, self._scale, self._moduli)

    def to_montgomery(self, elements: Words) -> None:
        """Bring contiguous elements or spectra into Montgomery form, in place."""
        ntt.scale_by(self._rows(elements), self._to_montgomery, self._moduli)

    def contract(self, x: Words, y: Words, out: Words | None = None) -> Words:
        """Return ``out`` + Σ_i x[i, r]·y[i, c], shape (R, C, limbs, n), for spectra x (I, R, …) and y (I, C, …).

        ``y`` is in Montgomery form. ``out``, if given, is changed.
        """
        total = self.zeros(x.shape[1], y.shape[1]) if out is None else out
        ntt.contract(total, x, y, self._moduli)
        return total

    def to_words(self, elements: Words) -> Words:
        """Return integers of a magnitude below Q/4, given by their residues (…, 2, n), modulo 2^64: shape (…, n).

        The ring has to have two primes.
        """
        rows = self._rows(elements)
        out = np.empty((len(rows), self.degree), np.uint64)
        ntt.centred_words(rows, self._lift(), out, self._moduli)
        return out.reshape(*elements.shape[:-2], self.degree)

    def encode(self, words: Words, noise: Integers | None = None) -> Words:
        """Return ⌈w·Q/2^64⌉ + noise for words w (…, n), shape (…, limbs, n).

        ``noise``, of the shape of the words, is smaller in magnitude than every prime.
        """
        rows = np.array(words, np.uint64).reshape(-1, self.degree)
        extra = np.zeros(rows.shape, np.int64) if noise is None else noise.reshape(rows.shape)
        out = np.empty((len(rows), self.limbs, self.degree), np.uint64)
        ntt.scaled_up(rows, extra, np.uint64(-self.modulus % _WORD), out, self._moduli)
        return out.reshape(*words.shape[:-1], self.limbs, self.degree)

    def add(self, x: Words, y: Words) -> Words:
        """Return the sum of two arrays of elements (or of spectra)."""
        total = x + y  # below 2^63: no word overflows
        primes = self._moduli[:, :1]
        return np.where(total >= primes, total - primes, total)

    def subtract(self, x: Words, y: Words) -> Words:
        """Return the difference of two arrays of elements (or of spectra)."""
        primes = self._moduli[:, :1]
        return np.where(x >= y, x - y, x + primes - y)

    def _lift(self) -> Words:
        first, second = self.primes
        return np.array([first, pow(first, -1, second) * _WORD % second], np.uint64)

    def _rows(self, elements: Words) -> Words:
        if not elements.flags.c_contiguous or not elements.flags.writeable:
            raise LocalProtocolError("ring elements have to be contiguous and writable")
        return elements.reshape(-1, self.limbs, self.degree)


def ring(degree: int, primes: tuple[int, ...] = PRIMES) -> Ring:
    """Return the ring of this degree modulo these primes."""
    return _ring(degree, primes)


@cache
def _ring(degree: int, primes: tuple[int, ...]) -> Ring:
    return Ring(degree, primes)


def _decoding() -> Words:
    first, second = PRIMES
    values = [first, second, pow(second, -1, _WORD), pow(first, -1, second) * _WORD % second]
    values.append(((1 << 128) - 1) // (4 * second) - _WORD)
    for value in (MODULUS, MODULUS // 2):
        values += [value >> 64, value % _WORD]
    return np.array(values, np.uint64)


_DECODING = _decoding()


def decode(residues: Words) -> Words:
    """Return round(x·2^64/Q) mod 2^64 for the integers x given by their residues (2, count)."""
    out = np.empty(residues.shape[1], np.uint64)
    ntt.scaled_down(np.ascontiguousarray(residues), _DECODING, out)
    return out


def are_residues(values: Words) -> bool:
    """Return whether values (…, 2, n) lie below the primes they belong to."""
    return bool((values < np.array(PRIMES, np.uint64)[:, None]).all())


def _root_of_unity(order: int, p: int) -> int:
    """Return the primitive root of unity of an order that is a power of two, from the smallest base that has one."""
    candidates = (pow(base, (p - 1) // order, p) for base in range(2, p))
    return next(root for root in candidates if pow(root, order // 2, p) == p - 1)


def _powers(root: int, count: int, p: int) -> Words:
    """Return root^0 … root^(count − 1), in bit-reversed order and Montgomery form."""
    powers = np.empty(count, np.uint64)
    bits = count.bit_length() - 1
    value = _WORD % p
    for exponent in range(count):
        powers[int(f"{exponent:0{bits}b}"[::-1], 2)] = value
        value = value * root % p
    return powers
