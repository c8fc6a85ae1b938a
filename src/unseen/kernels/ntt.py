"""Number-theoretic transforms: products in Z_p[X]/(X^n + 1) for two primes p just below 2^62.

A polynomial is an array (…, 2, n) of residues, one row a prime; all arrays here are C-contiguous and writable. The
butterflies are lazy (D. Harvey, "Faster arithmetic for number-theoretic transforms", 2014): values stay below 4p
< 2^64 and are brought under p once, at the end. A product modulo p is P. Montgomery's ("Modular multiplication
without trial division", 1985) with R = 2^64: ``multiply`` gives x·y/R. One factor of every product, a root of unity or
a public polynomial, is therefore kept in *Montgomery form* y·R, so that all other values are plain residues.

The constants of a prime travel as a row of ``moduli``: p and p^-1 mod 2^64. All arithmetic is on unsigned words;
in numba, one signed operand would turn it into floating point. None of this runs in constant time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy.typing import NDArray

from unseen.kernels.jit import compiled, inlined

Words = NDArray[np.uint64]

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
THREE = np.uint64(3)


def _high_word(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Any]:
    """Return the upper 64 bits of the 128-bit product of two words (inside compiled code only)."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        left, right = (builder.zext(argument, wide) for argument in arguments)
        product = builder.lshr(builder.mul(left, right), ir.Constant(wide, 64))
        return builder.trunc(product, ir.IntType(64))

    return signature, generate


high_word: Any = intrinsic(_high_word)


@inlined
def lazy_multiply(x: np.uint64, y: np.uint64, p: np.uint64, p_inverse: np.uint64) -> np.uint64:
    """Return x·y·2^-64 mod p, or that plus p; x is any word, y < p."""
    return np.uint64(high_word(x, y) + p - high_word(x * y * p_inverse, p))


@inlined
def multiply(x: np.uint64, y: np.uint64, p: np.uint64, p_inverse: np.uint64) -> np.uint64:
    """Return x·y·2^-64 mod p, below p; x is any word, y < p."""
    product = lazy_multiply(x, y, p, p_inverse)
    return np.uint64(product - p if product >= p else product)


@compiled
def forward(values: Words, roots: Words, moduli: Words) -> None:
    """Transform polynomials (batch, 2, n) in place; the spectrum is in bit-reversed order, below p.

    ``roots`` (2, n) holds the powers of a 2n-th root of unity in bit-reversed order and Montgomery form.
    """
    batch, primes, n = values.shape
    for index in range(batch):
        for prime in range(primes):
            row, p, p_inverse = values[index, prime], moduli[prime, 0], moduli[prime, 1]
            half, groups = n // 2, 1
            while half:
                _cooley_tukey(row, roots[prime, groups : 2 * groups], p, p_inverse)
                half, groups = half // 2, groups * 2
            for i in range(n):
                value = row[i]
                value = value - TWO * p if value >= TWO * p else value
                row[i] = value - p if value >= p else value


@compiled
def _cooley_tukey(row: Words, roots: Words, p: np.uint64, p_inverse: np.uint64) -> None:
    """One layer of the forward transform: inputs and outputs below 4p."""
    half = len(row) // (2 * len(roots))
    twice = TWO * p
    for group in range(len(roots)):
        start, root = 2 * half * group, roots[group]
        for i in range(start, start + half):
            low = row[i]
            low = low - twice if low >= twice else low
            high = lazy_multiply(row[i + half], root, p, p_inverse)
            row[i] = low + high
            row[i + half] = low + twice - high


@compiled
def inverse(values: Words, roots: Words, scale: Words, moduli: Words) -> None:
    """Transform spectra (batch, 2, n) of ``forward`` back in place; ``roots`` are the inverses of its roots.

    ``scale`` (2,) is 1/n in Montgomery form.
    """
    batch, primes, n = values.shape
    for index in range(batch):
        for prime in range(primes):
            row, p, p_inverse = values[index, prime], moduli[prime, 0], moduli[prime, 1]
            groups = n // 2
            while groups:
                _gentleman_sande(row, roots[prime, groups : 2 * groups], p, p_inverse)
                groups //= 2
            for i in range(n):
                row[i] = multiply(row[i], scale[prime], p, p_inverse)


@compiled
def _gentleman_sande(row: Words, roots: Words, p: np.uint64, p_inverse: np.uint64) -> None:
    """One layer of the inverse transform: inputs and outputs below 2p."""
    half = len(row) // (2 * len(roots))
    twice = TWO * p
    for group in range(len(roots)):
        start, root = 2 * half * group, roots[group]
        for i in range(start, start + half):
            low, high = row[i], row[i + half]
            total = low + high
            row[i] = total - twice if total >= twice else total
            row[i + half] = lazy_multiply(low + twice - high, root, p, p_inverse)


@compiled
def contract(out: Words, x: Words, y: Words, moduli: Words) -> None:
    """Add Σ_i x[i, r]·y[i, c] to out[r, c], for spectra x (I, R, 2, n), y (I, C, 2, n) in Montgomery form."""
    terms, rows, primes, _ = x.shape
    columns = y.shape[1]
    for r in range(rows):
        for i in range(terms):
            for c in range(columns):
                for prime in range(primes):
                    _add_products(out[r, c, prime], x[i, r, prime], y[i, c, prime], moduli[prime])


@compiled
def _add_products(out: Words, x: Words, y: Words, modulus: Words) -> None:
    p, p_inverse = modulus[0], modulus[1]
    for j in range(len(out)):
        total = out[j] + multiply(x[j], y[j], p, p_inverse)
        out[j] = total - p if total >= p else total


@compiled
def scale_by(values: Words, factors: Words, moduli: Words) -> None:
    """Multiply residues (batch, 2, n) in place by ``factors`` (2,), which are in Montgomery form."""
    batch, primes, n = values.shape
    for index in range(batch):
        for prime in range(primes):
            for i in range(n):
                values[index, prime, i] = multiply(
                    values[index, prime, i], factors[prime], moduli[prime, 0], moduli[prime, 1]
                )


@compiled
def residues(values: NDArray[np.int64], out: Words, moduli: Words) -> None:
    """Reduce signed integers (batch, n) into ``out`` (batch, 2, n)."""
    batch, n = values.shape
    for index in range(batch):
        for prime in range(out.shape[1]):
            p = moduli[prime, 0]
            for i in range(n):
                value = values[index, i]
                # 2^63 < 3p, so that three additions or two subtractions stand in for a division.
                word = np.uint64(value) + (THREE * p if value < 0 else ZERO)
                word = word - TWO * p if word >= TWO * p else word
                out[index, prime, i] = word - p if word >= p else word


@compiled
def centred_words(values: Words, lift: Words, out: Words, moduli: Words) -> None:
    """Write to ``out`` (batch, n) the integers mod 2^64 that ``values`` (batch, 2, n) are the residues of.

    By the Chinese remainder theorem (Garner): exact for integers of a magnitude below p1·(p2 − 1)/2. ``lift`` is p1
    and p1^-1 mod p2, the latter in Montgomery form.
    """
    first, second, second_inverse = moduli[0, 0], moduli[1, 0], moduli[1, 1]
    middle = second // TWO
    wrap = first * second
    for index in range(values.shape[0]):
        for i in range(values.shape[2]):
            low = values[index, 0, i]
            reduced = low - second if low >= second else low
            quotient = multiply(values[index, 1, i] + second - reduced, lift[1], second, second_inverse)
            word = low + lift[0] * quotient
            out[index, i] = word - wrap if quotient > middle else word


@compiled
def scaled_up(words: NDArray[np.uint64], minus_product: np.uint64, out: Words, moduli: Words) -> None:
    """Write ⌈words·Q/2^64⌉ mod p, for Q = p1·p2 and words (batch, n), to ``out`` (batch, 2, n).

    Modulo p the product Q·w vanishes, so that only its remainder −Q·w mod 2^64, divided by 2^64, is left.
    """
    batch, n = words.shape
    for index in range(batch):
        for prime in range(out.shape[1]):
            for i in range(n):
                remainder = words[index, i] * minus_product
                out[index, prime, i] = multiply(remainder, ONE, moduli[prime, 0], moduli[prime, 1])
