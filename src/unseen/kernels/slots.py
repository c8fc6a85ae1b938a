"""Loops of the slot-wise scheme of ``crypto.slots``: residues between its three primes t > p1 > p2, below 2^62.

Constants of a prime travel as a row of ``moduli`` (p and p^-1 mod 2^64, as in ``kernels.ntt``), other constants in
Montgomery form. Everything is exact; nothing runs in constant time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled, inlined
from unseen.kernels.ntt import TWO, multiply

Words = NDArray[np.uint64]


@inlined
def _sum(x: np.uint64, y: np.uint64, p: np.uint64) -> np.uint64:
    """Return x + y mod p for x, y < p."""
    total = x + y
    return np.uint64(total - p if total >= p else total)


@inlined
def _difference(x: np.uint64, y: np.uint64, p: np.uint64) -> np.uint64:
    """Return x − y mod p for x, y < p."""
    return np.uint64(x - y if x >= y else x + p - y)


@compiled
def centred(values: NDArray[np.uint8], middle: np.uint64, out: Words, moduli: Words) -> None:
    """Write the residues (count, limbs, n) of values (count, n) less ``middle`` to ``out``."""
    for index in range(values.shape[0]):
        for prime in range(out.shape[1]):
            p = moduli[prime, 0]
            for j in range(values.shape[1]):
                value = np.uint64(values[index, j])
                out[index, prime, j] = value - middle if value >= middle else value + (p - middle)


@compiled
def add_slots(spectra: Words, slots: NDArray[np.int64], scale: np.uint64, moduli: Words) -> None:
    """Add scale·slots (count, n), of magnitudes below t, to the limb modulo t of ``spectra`` (count, limbs, n)."""
    t, t_inverse = moduli[0, 0], moduli[0, 1]
    for index in range(slots.shape[0]):
        for j in range(slots.shape[1]):
            slot = slots[index, j]
            size = multiply(np.uint64(-slot if slot < 0 else slot), scale, t, t_inverse)
            now = spectra[index, 0, j]
            spectra[index, 0, j] = _difference(now, size, t) if slot < 0 else _sum(now, size, t)


@compiled
def lifted(polynomials: Words, out: Words, constants: Words, moduli: Words) -> None:
    """Write to ``out`` (count, 2, n) the residues modulo p1, p2 of the centred lift of polynomials (count, n) mod t.

    Residues are in Montgomery form. ``constants`` (2, 2) holds 2^128 and t·2^64 modulo p1 and p2.
    """
    middle = moduli[0, 0] // TWO
    for index in range(polynomials.shape[0]):
        for prime in range(2):
            p, p_inverse = moduli[prime + 1, 0], moduli[prime + 1, 1]
            square, wrap = constants[prime, 0], constants[prime, 1]
            for j in range(polynomials.shape[1]):
                value = polynomials[index, j]
                image = multiply(value, square, p, p_inverse)
                out[index, prime, j] = _difference(image, wrap, p) if value > middle else image


@compiled
def flood(low: Words, high: Words, centre: np.uint64, out: Words, constants: Words, moduli: Words) -> None:
    """Write the residues (3, n) of low + p1·(high − centre) to ``out``, for low < p1, high < p2 and a centre < p2.

    ``constants`` holds p1 modulo t and modulo p2.
    """
    for j in range(len(low)):
        out[1, j] = low[j]
        for place in range(2):
            limb = 2 * place
            p, p_inverse = moduli[limb, 0], moduli[limb, 1]
            quotient = _difference(high[j], centre, p)
            start = low[j] - p if low[j] >= p else low[j]
            out[limb, j] = _sum(start, multiply(quotient, constants[place], p, p_inverse), p)


@compiled
def opened(values: Words, out: Words, constants: Words, moduli: Words) -> None:
    """Write m (n) mod t to ``out``, given the residues (3, n) of m·p1·p2 + e where e is below p1·⌊p2/2⌋.

    The bound is one on its magnitude. Modulo p1·p2 the first term vanishes, so that e is known from two residues by the
    Chinese remainder theorem (Garner): e = low + p1·quotient, less p1·p2 if e is negative. That is so exactly if the
    quotient exceeds ⌊p2/2⌋: e ≥ 0 has a quotient below it, e < 0 one of at least p2 − ⌊p2/2⌋ = ⌊p2/2⌋ + 1.
    ``constants`` holds p1^-1 mod p2, p1 mod t, p1·p2 mod t (not in Montgomery form), (p1·p2)^-1 mod t.
    """
    t, t_inverse = moduli[0, 0], moduli[0, 1]
    p, p_inverse = moduli[2, 0], moduli[2, 1]
    middle = p // TWO
    for j in range(values.shape[1]):
        low = values[1, j]
        reduced = low - p if low >= p else low
        quotient = multiply(_difference(values[2, j], reduced, p), constants[0], p, p_inverse)
        noise = _sum(low, multiply(quotient, constants[1], t, t_inverse), t)
        if quotient > middle:
            noise = _difference(noise, constants[2], t)
        out[j] = multiply(_difference(values[0, j], noise, t), constants[3], t, t_inverse)
