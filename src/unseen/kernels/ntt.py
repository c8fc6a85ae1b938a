"""Number-theoretic transforms: products in Z_p[X]/(X^n + 1) for odd primes p below 2^62.

A polynomial is an array (…, limbs, n) of residues, one row a prime; all arrays here are C-contiguous and writable. The
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
FOUR = np.uint64(4)
ODD_LOGARITHMS = np.uint64(0xAAAAAAAAAAAAAAAA)


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
    """Transform polynomials (batch, limbs, n) in place; the spectrum is in bit-reversed order, below p.

    ``roots`` (limbs, n) holds the powers of a 2n-th root of unity in bit-reversed order and Montgomery form.
    """
    batch, primes, _ = values.shape
    for index in range(batch):
        for prime in range(primes):
            _forward(values[index, prime], roots[prime], moduli[prime, 0], moduli[prime, 1])


@compiled
def _forward(row: Words, roots: Words, p: np.uint64, p_inverse: np.uint64) -> None:
    # Unsigned indices save the check for negative ones.
    n, groups = np.uint64(len(row)), ONE
    while FOUR * groups <= n:
        _cooley_tukey_4(row, roots, groups, p, p_inverse)
        groups *= FOUR
    if groups < n:
        _cooley_tukey_2(row, roots, p, p_inverse)
    for i in range(n):
        value = row[i]
        value = value - TWO * p if value >= TWO * p else value
        row[i] = value - p if value >= p else value


@compiled
def _cooley_tukey_4(row: Words, roots: Words, groups: np.uint64, p: np.uint64, p_inverse: np.uint64) -> None:
    """Two layers of the forward transform, the first one of ``groups`` groups: inputs and outputs below 4p."""
    quarter, twice = np.uint64(len(row)) // (FOUR * groups), TWO * p
    for group in range(groups):
        root, left = roots[groups + group], roots[TWO * (groups + group)]
        right = roots[TWO * (groups + group) + ONE]
        start = FOUR * quarter * group
        for i in range(start, start + quarter):
            a, b = row[i], row[i + quarter]
            a = a - twice if a >= twice else a
            b = b - twice if b >= twice else b
            c = lazy_multiply(row[i + TWO * quarter], root, p, p_inverse)
            d = lazy_multiply(row[i + THREE * quarter], root, p, p_inverse)
            e, f = a + c, a + twice - c
            e = e - twice if e >= twice else e
            f = f - twice if f >= twice else f
            g = lazy_multiply(b + d, left, p, p_inverse)
            h = lazy_multiply(b + twice - d, right, p, p_inverse)
            row[i], row[i + quarter] = e + g, e + twice - g
            row[i + TWO * quarter], row[i + THREE * quarter] = f + h, f + twice - h


@compiled
def _cooley_tukey_2(row: Words, roots: Words, p: np.uint64, p_inverse: np.uint64) -> None:
    """The last layer of the forward transform, where neighbours meet: inputs and outputs below 4p."""
    twice, pairs = TWO * p, np.uint64(len(row)) // TWO
    for i in range(pairs):
        low = row[TWO * i]
        low = low - twice if low >= twice else low
        high = lazy_multiply(row[TWO * i + ONE], roots[pairs + i], p, p_inverse)
        row[TWO * i], row[TWO * i + ONE] = low + high, low + twice - high


@compiled
def inverse(values: Words, roots: Words, scale: Words, moduli: Words) -> None:
    """Transform spectra (batch, limbs, n) of ``forward`` back in place; ``roots`` are the inverses of its roots.

    ``scale`` (limbs,) is 1/n in Montgomery form.
    """
    batch, primes, _ = values.shape
    for index in range(batch):
        for prime in range(primes):
            _inverse(values[index, prime], roots[prime], scale[prime], moduli[prime, 0], moduli[prime, 1])


@compiled
def _inverse(row: Words, roots: Words, scale: np.uint64, p: np.uint64, p_inverse: np.uint64) -> None:
    n = np.uint64(len(row))
    groups = n
    # An odd number of layers, if the length is twice a power of four.
    if n & ODD_LOGARITHMS:
        _gentleman_sande_2(row, roots, p, p_inverse)
        groups //= TWO
    while groups > ONE:
        groups //= FOUR
        _gentleman_sande_4(row, roots, groups, p, p_inverse)
    for i in range(n):
        row[i] = multiply(row[i], scale, p, p_inverse)


@compiled
def _gentleman_sande_2(row: Words, roots: Words, p: np.uint64, p_inverse: np.uint64) -> None:
    """The first layer of the inverse transform, where neighbours meet: inputs and outputs below 2p."""
    twice, pairs = TWO * p, np.uint64(len(row)) // TWO
    for i in range(pairs):
        low, high = row[TWO * i], row[TWO * i + ONE]
        total = low + high
        row[TWO * i] = total - twice if total >= twice else total
        row[TWO * i + ONE] = lazy_multiply(low + twice - high, roots[pairs + i], p, p_inverse)


@compiled
def _gentleman_sande_4(row: Words, roots: Words, groups: np.uint64, p: np.uint64, p_inverse: np.uint64) -> None:
    """Two layers of the inverse transform, the second one of ``groups`` groups: inputs and outputs below 2p."""
    quarter, twice = np.uint64(len(row)) // (FOUR * groups), TWO * p
    for group in range(groups):
        root, left = roots[groups + group], roots[TWO * (groups + group)]
        right = roots[TWO * (groups + group) + ONE]
        start = FOUR * quarter * group
        for i in range(start, start + quarter):
            a, b = row[i], row[i + quarter]
            c, d = row[i + TWO * quarter], row[i + THREE * quarter]
            e, g = a + b, c + d
            e = e - twice if e >= twice else e
            g = g - twice if g >= twice else g
            f = lazy_multiply(a + twice - b, left, p, p_inverse)
            h = lazy_multiply(c + twice - d, right, p, p_inverse)
            total, other = e + g, f + h
            row[i] = total - twice if total >= twice else total
            row[i + quarter] = other - twice if other >= twice else other
            row[i + TWO * quarter] = lazy_multiply(e + twice - g, root, p, p_inverse)
            row[i + THREE * quarter] = lazy_multiply(f + twice - h, root, p, p_inverse)


@compiled
def contract(out: Words, x: Words, y: Words, moduli: Words) -> None:
    """Add Σ_i x[i, r]·y[i, c] to out[r, c], for spectra x (I, R, limbs, n), y (I, C, limbs, n) in Montgomery form."""
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
    for j in range(np.uint64(len(out))):
        total = out[j] + multiply(x[j], y[j], p, p_inverse)
        out[j] = total - p if total >= p else total


@compiled
def scale_by(values: Words, factors: Words, moduli: Words) -> None:
    """Multiply residues (batch, limbs, n) in place by ``factors`` (limbs,), which are in Montgomery form."""
    batch, primes, n = values.shape
    for index in range(batch):
        for prime in range(primes):
            for i in range(n):
                values[index, prime, i] = multiply(
                    values[index, prime, i], factors[prime], moduli[prime, 0], moduli[prime, 1]
                )


@compiled
def residues(values: NDArray[np.int64], out: Words, moduli: Words) -> None:
    """Reduce signed integers (batch, n) into ``out`` (batch, limbs, n)."""
    batch, n = values.shape
    for index in range(batch):
        for prime in range(out.shape[1]):
            p = moduli[prime, 0]
            for i in range(n):
                value = values[index, i]
                size = np.uint64(-value if value < 0 else value)
                size = size % p if size >= p else size
                out[index, prime, i] = p - size if value < 0 and size else size


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
def scaled_up(
    words: NDArray[np.uint64], noise: NDArray[np.int64], minus_product: np.uint64, out: Words, moduli: Words
) -> None:
    """Write ⌈words·Q/2^64⌉ + noise mod p, for Q the product of the primes, to ``out`` (batch, limbs, n).

    Words and noise have the shape (batch, n); the noise is below p in magnitude. Modulo p the product Q·w vanishes, so
    that only its remainder −Q·w mod 2^64, divided by 2^64, is left.
    """
    batch, n = words.shape
    for index in range(batch):
        for prime in range(out.shape[1]):
            p = moduli[prime, 0]
            for i in range(n):
                remainder = words[index, i] * minus_product
                value = multiply(remainder, ONE, p, moduli[prime, 1])
                extra = noise[index, i]
                value += np.uint64(extra) if extra >= 0 else p - np.uint64(-extra)
                out[index, prime, i] = value - p if value >= p else value


@compiled
def scaled_down(residues: Words, constants: Words, out: Words) -> None:
    """Write round(x·2^64/Q) mod 2^64 to ``out`` (count,), exactly, for 0 ≤ x < Q = p·p' given by residues (2, count).

    With x = a + p·k, a < p, k < p' (Garner) and k·2^64 = m·p' + r, r < p', x·2^64/Q is m + N/Q for N = r·p + a·2^64.
    Q is odd, so that the rounded value is m + ⌊(N + (Q − 1)/2)/Q⌋. For 2^61 < p' < p < 2^62 the numerator is below
    1.5·Q + p·2^64 < 2^127 and below 10·Q: a few subtractions of two-word numbers divide it. m and r come from a
    division of 4k·2^64 by 4p' ≥ 2^63 with its reciprocal ⌊(2^128 − 1)/4p'⌋ − 2^64 (N. Möller, T. Granlund, "Improved
    division by invariant integers", IEEE Transactions on Computers 2011, algorithm 4).

    ``constants``: p, p', 1/p' mod 2^64, 1/p mod p' in Montgomery form, that reciprocal, then Q and (Q − 1)/2, each the
    upper word first.
    """
    first, second, second_inverse, lift, reciprocal, q_high, q_low, half_high, half_low = constants
    divisor = second << TWO
    for i in range(len(out)):
        low = residues[0, i]
        reduced = low - second if low >= second else low
        top = multiply(residues[1, i] + second - reduced, lift, second, second_inverse) << TWO
        whole = high_word(top, reciprocal) + top + ONE
        rest = ZERO - whole * divisor
        if rest > top * reciprocal:
            whole -= ONE
            rest += divisor
        if rest >= divisor:
            whole += ONE
            rest -= divisor
        rest >>= TWO
        n_low = rest * first + half_low
        n_high = high_word(rest, first) + low + half_high + (ONE if n_low < half_low else ZERO)
        while n_high > q_high or (n_high == q_high and n_low >= q_low):
            n_high -= q_high + (ONE if n_low < q_low else ZERO)
            n_low -= q_low
            whole += ONE
        out[i] = whole
