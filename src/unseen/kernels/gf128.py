"""Products with one element of GF(2^128), by tables: the field of x^128 + x^7 + x^2 + x + 1, two words an element.

Bit i of the first word is the coefficient of x^i, bit i of the second that of x^(64 + i).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled

Words = NDArray[np.uint64]

_REDUCTION = np.uint64(0x87)
_WORTH_A_THREAD = 1 << 15


def tables(factor: Words) -> Words:
    """Return what ``add_products`` needs of ``factor``: its products with every byte in every place (64 kB)."""
    powers, found = np.empty((128, 2), np.uint64), np.zeros((16, 256, 2), np.uint64)
    _powers(factor, powers)
    _fill_tables(powers, found)
    return found


def add_products(factor: Words, elements: Words, target: Words) -> None:
    """Add the element whose ``tables`` are ``factor`` times each of ``elements``, shape (n, 2), to ``target``."""
    cuts = ranges(len(elements), min(threads(), 1 + len(elements) // _WORTH_A_THREAD))
    in_parallel(lambda piece: _add_products(factor, elements[cuts[piece]], target[cuts[piece]]), len(cuts))


def geometric(point: Words, count: int) -> Words:
    """Return ``point``^1, …, ``point``^``count``, shape (count, 2)."""
    found = np.zeros((count, 2), np.uint64)
    _geometric(tables(point), point, found)
    return found


def evaluate(rows: Words, point: Words) -> Words:
    """Return Σ_j rows[j]·``point``^(j+1) for rows of n elements, shape (terms, n, 2); the result has shape (n, 2)."""
    factor, total = tables(point), np.zeros(rows.shape[1:], np.uint64)
    for row in rows[::-1]:
        summed, total = total ^ row, np.zeros_like(total)
        _add_products(factor, summed, total)
    return total


def horner(rows: Words) -> Words:
    """Return Σ_i x^i · rows[i] for 128 rows of n elements, shape (128, n, 2); the result has shape (n, 2)."""
    total = np.zeros(rows.shape[1:], np.uint64)
    for row in rows[::-1]:
        _times_x(total)
        total ^= row
    return total


@compiled
def _times_x(elements: Words) -> None:
    for row in range(len(elements)):
        low, high = elements[row, 0], elements[row, 1]
        elements[row, 1] = (high << np.uint64(1)) | (low >> np.uint64(63))
        elements[row, 0] = (low << np.uint64(1)) ^ (_REDUCTION * (high >> np.uint64(63)))


@compiled
def _geometric(factor: Words, point: Words, found: Words) -> None:
    found[0, 0], found[0, 1] = point[0], point[1]
    for row in range(1, len(found)):
        _add_products(factor, found[row - 1 : row], found[row : row + 1])


@compiled
def _powers(element: Words, found: Words) -> None:
    low, high = element[0], element[1]
    for power in range(128):
        found[power, 0], found[power, 1] = low, high
        carry = high >> np.uint64(63)
        high = (high << np.uint64(1)) | (low >> np.uint64(63))
        low = (low << np.uint64(1)) ^ (_REDUCTION * carry)


@compiled
def _fill_tables(rows: Words, found: Words) -> None:
    """Set ``found[b, v]`` to the sum of those of rows 8·b, …, 8·b + 7 whose bit is set in v."""
    for table in range(len(found)):
        for value in range(1, 256):
            low = 0
            while not (value >> low) & 1:
                low += 1
            rest = value & (value - 1)
            found[table, value, 0] = found[table, rest, 0] ^ rows[8 * table + low, 0]
            found[table, value, 1] = found[table, rest, 1] ^ rows[8 * table + low, 1]


@compiled
def _add_products(factor: Words, elements: Words, target: Words) -> None:
    for row in range(len(elements)):
        low, high = np.uint64(0), np.uint64(0)
        for half in range(2):
            word = elements[row, half]
            for byte in range(8):
                value = (word >> np.uint64(8 * byte)) & np.uint64(255)
                low ^= factor[8 * half + byte, value, 0]
                high ^= factor[8 * half + byte, value, 1]
        target[row, 0] ^= low
        target[row, 1] ^= high
