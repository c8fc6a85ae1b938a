"""Products with a matrix of small integers that is given column by column, modulo 2^64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import LANES, add, both, differing, load, load_integers, pick, splat, store, times

Words = NDArray[np.uint64]
Integers = NDArray[Any]

ZERO = np.uint64(0)
HALF = np.uint64(32)
LOW_HALF = np.uint64(2**32 - 1)
OFFSET = np.uint64(2**31)

# Rows whose words stay in a cache while the columns stream by.
_ROWS = 2048
_TYPES = (np.int8, np.int16, np.int32, np.int64)


def products(columns: Integers, vectors: Words) -> Words:
    """Return Mᵀv mod 2^64, shape (count, m), for integer columns (m, rows) of M and vectors of words (count, rows).

    Narrow integers (int8, int16, int32) take less memory traffic and fewer multiplications than int64.

    Raises:
        UsageError: Types or shapes do not fit.
    """
    if columns.dtype not in _TYPES or columns.ndim != 2 or not columns.flags.c_contiguous:
        raise UsageError(f"expected contiguous signed integers (m, rows), found {columns.dtype} {columns.shape}")
    if vectors.dtype != np.uint64 or vectors.ndim != 2 or vectors.shape[1] != columns.shape[1]:
        raise UsageError(f"expected words (·, {columns.shape[1]}), found {vectors.dtype} {vectors.shape}")
    vectors = np.ascontiguousarray(vectors)
    out = np.zeros((len(columns), len(vectors)), np.uint64)
    pieces = ranges(len(columns), threads())
    kernel = _wide if columns.dtype == np.int64 else _narrow
    in_parallel(lambda index: kernel(columns[pieces[index]], vectors, out[pieces[index]]), len(pieces))
    return np.ascontiguousarray(out.T)


@compiled
def scalar_products(columns: Integers, vectors: Words, out: Words) -> None:
    """Add products to ``out``, shape (m, count), word by word."""
    for column in range(len(columns)):
        for k in range(len(vectors)):
            total = ZERO
            for row in range(columns.shape[1]):
                total += np.uint64(np.int64(columns[column, row])) * vectors[k, row]
            out[column, k] += total


@compiled
def vector_products(columns: Integers, vectors: Words, out: Words) -> None:
    """Add products with columns of int64 to ``out``, eight rows at a time."""
    rows = columns.shape[1]
    lanes = np.empty(LANES, np.uint64)
    for start in range(0, rows, _ROWS):
        stop = min(rows, start + _ROWS)
        whole = stop - (stop - start) % LANES
        for column in range(len(columns)):
            for k in range(len(vectors)):
                total = splat(ZERO)
                for row in range(start, whole, LANES):
                    total = add(total, times(load_integers(columns[column], row), load(vectors[k], row)))
                store(lanes, 0, total)
                out[column, k] += _sum(lanes) + _remainder(columns[column], vectors[k], whole, stop)


@compiled
def narrow_products(columns: Integers, vectors: Words, out: Words) -> None:
    """Add products with columns of at most 32 bits to ``out``, eight rows and two vectors at a time.

    Entries are made non-negative by adding 2^31; a product with a word is then two products of 32-bit numbers, which
    processors have as vector instructions.
    """
    count, rows = vectors.shape
    words = np.zeros(((count + 1) // 2, 4, _ROWS), np.uint64)
    surplus = np.zeros(count, np.uint64)
    sums = np.empty((4, LANES), np.uint64)
    for start in range(0, rows, _ROWS):
        stop = min(rows, start + _ROWS)
        whole = stop - (stop - start) % LANES
        _split_words(vectors, start, whole, words, surplus)
        for column in range(len(columns)):
            for pair in range(len(words)):
                _multiply_pair(columns[column, start:whole], words[pair], sums)
                for k in range(2 * pair, min(count, 2 * pair + 2)):
                    out[column, k] += _sum(sums[k % 2]) + (_sum(sums[k % 2 + 2]) << HALF)
            for k in range(count):
                out[column, k] += _remainder(columns[column], vectors[k], whole, stop) - surplus[k]


@compiled
def _split_words(vectors: Words, start: int, stop: int, words: Words, surplus: Words) -> None:
    """Write pairs of vectors to ``words``, as they are and shifted down, and 2^31 times their sums to ``surplus``."""
    for k in range(len(vectors)):
        total = ZERO
        for row in range(start, stop):
            word = vectors[k, row]
            total += word
            words[k // 2, k % 2, row - start] = word
            words[k // 2, k % 2 + 2, row - start] = word >> HALF
        surplus[k] = OFFSET * total


@compiled
def _multiply_pair(column: Integers, words: Words, sums: Words) -> None:
    """Write the products of ``column`` + 2^31 with the lower and upper halves of two vectors, to be added up."""
    offset, mask = splat(OFFSET), splat(LOW_HALF)
    low_one = low_two = high_one = high_two = splat(ZERO)
    for row in range(0, len(column), LANES):
        entries = differing(both(load_integers(column, row), mask), offset)
        low_one = add(low_one, times(entries, both(load(words, row), mask)))
        low_two = add(low_two, times(entries, both(load(words, row + _ROWS), mask)))
        high_one = add(high_one, times(entries, both(load(words, row + 2 * _ROWS), mask)))
        high_two = add(high_two, times(entries, both(load(words, row + 3 * _ROWS), mask)))
    store(sums, 0, low_one)
    store(sums, LANES, low_two)
    store(sums, 2 * LANES, high_one)
    store(sums, 3 * LANES, high_two)


@compiled
def _sum(words: Words) -> np.uint64:
    total = ZERO
    for word in words:
        total += word
    return total


@compiled
def _remainder(column: Integers, vector: Words, start: int, stop: int) -> np.uint64:
    total = ZERO
    for row in range(start, stop):
        total += np.uint64(np.int64(column[row])) * vector[row]
    return total


_wide = pick(vector_products, scalar_products)
_narrow = pick(narrow_products, scalar_products)
