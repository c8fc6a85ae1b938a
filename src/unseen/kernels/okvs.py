"""Loops of the oblivious key-value store (``crypto.okvs``): rows of its matrix, elimination, decoding.

A store is cut into *clusters*; the columns of one are ``sparse`` columns, of which each row takes three, and then at
64 columns, of which each row takes a random half. A key is a block of 128 random bits: its upper 32 choose the cluster
(``part_keys``), its lower 64 are the row's dense part; ``places``, as random and independent of it, choose the
three sparse columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled, inlined

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)


@inlined
def _below(word: np.uint64, bound: int) -> np.int64:
    """Return ⌊bound · word / 2^32⌋ for a random word of 32 bits: uniform below ``bound``, but for bound / 2^32."""
    return np.int64((word * np.uint64(bound)) >> _HALF)


@compiled
def count_parts(keys: Words, starts: Numbers) -> None:
    """Set ``starts``, shape (parts + 1,), to where each part begins once the keys are sorted by part."""
    parts = len(starts) - 1
    starts[:] = 0
    for row in range(len(keys)):
        starts[_below(keys[row, 1] >> _HALF, parts) + 1] += 1
    for part in range(parts):
        starts[part + 1] += starts[part]


@compiled
def part_keys(keys: Words, starts: Numbers, sorted_keys: Words, rows: NDArray[np.int32]) -> None:
    """Write the keys sorted by part, and which row each one was."""
    parts = len(starts) - 1
    places = starts.copy()
    for row in range(len(keys)):
        part = _below(keys[row, 1] >> _HALF, parts)
        place = places[part]
        places[part] = place + 1
        sorted_keys[place, 0], sorted_keys[place, 1] = keys[row, 0], keys[row, 1]
        rows[place] = row


@inlined
def _columns(places: Words, row: int, sparse: int) -> tuple[np.int64, np.int64, np.int64]:
    """Return the three distinct sparse columns of a row."""
    first = _below(places[row, 0] & _LOWER, sparse)
    second = _below(places[row, 0] >> _HALF, sparse - 1)
    third = _below(places[row, 1] & _LOWER, sparse - 2)
    second += second >= first
    lesser, greater = min(first, second), max(first, second)
    third += third >= lesser
    third += third >= greater
    return first, second, third


@compiled
def _enter(places: Words, columns: NDArray[np.int32], weight: NDArray[np.int32], rows: NDArray[np.int32]) -> None:
    """Note the columns of every row, and of every column how many rows it has and the exclusive or of these."""
    for row in range(len(places)):
        columns[row] = _columns(places, row, len(weight))
        for column in columns[row]:
            weight[column] += 1
            rows[column] ^= row


@inlined
def _next_left(gone: NDArray[np.bool_], row: int) -> int:
    """Return the first row from ``row`` on that is not gone."""
    while gone[row]:
        row += 1
    return row


@compiled
def eliminate(places: Words, sparse: int, pivots: Numbers, gaps: Numbers) -> int:
    """Put the rows of one cluster into an order in which each has a column that no later row has; return the gap.

    ``pivots``, shape (n, 2), gets rows and their columns in that order; rows that cannot be ordered are put into
    ``gaps`` until that is full. The result is the number of those rows, or −1 if there are more than fit.
    """
    count, columns = len(places), np.empty((len(places), 3), np.int32)
    weight, rows = np.zeros(sparse, np.int32), np.zeros(sparse, np.int32)
    _enter(places, columns, weight, rows)
    waiting, gone = np.empty(sparse, np.int32), np.zeros(count, np.bool_)
    alone = np.flatnonzero(weight == 1)
    top, found, missing, row = len(alone), 0, 0, 0
    waiting[:top] = alone
    while found + missing < count:
        if top == 0:
            if missing == len(gaps):
                return -1
            gaps[missing] = row = _next_left(gone, gaps[missing - 1] if missing else 0)
            missing += 1
        else:
            top -= 1
            column = waiting[top]
            if weight[column] != 1:
                continue
            row = rows[column]
            pivots[found, 0], pivots[found, 1] = row, column
            found += 1
        gone[row] = True
        for column in columns[row]:
            weight[column] -= 1
            rows[column] ^= row
            # A column is alone at most once in its life, so that the stack never overflows.
            if weight[column] == 1:
                waiting[top] = column
                top += 1
    return missing


@compiled
def reduce_gap(places: Words, keys: Words, values: Words, pivots: Numbers, row: int, sparse: int) -> Words:
    """Return what is left of a row of the gap without sparse columns: its dense part, then its value (3 words)."""
    left = np.empty(3, np.uint64)
    left[0], left[1], left[2] = keys[row, 0], values[row, 0], values[row, 1]
    inside = np.zeros(sparse, np.bool_)
    for column in _columns(places, row, sparse):
        inside[column] ^= True
    for k in range(len(pivots)):
        if inside[pivots[k, 1]]:
            other = pivots[k, 0]
            for column in _columns(places, other, sparse):
                inside[column] ^= True
            left[0] ^= keys[other, 0]
            left[1] ^= values[other, 0]
            left[2] ^= values[other, 1]
    return left


@compiled
def substitute(places: Words, keys: Words, values: Words, pivots: Numbers, store: Words) -> None:
    """Complete a cluster's ``store``, whose dense columns are set and whose sparse columns are zero."""
    dense = store[len(store) - 64 :].any()
    sparse = len(store) - 64
    for k in range(len(pivots) - 1, -1, -1):
        row, pivot = pivots[k, 0], pivots[k, 1]
        low, high = values[row, 0], values[row, 1]
        first, second, third = _columns(places, row, sparse)
        # The pivot's own column is zero so far.
        low ^= store[first, 0] ^ store[second, 0] ^ store[third, 0]
        high ^= store[first, 1] ^ store[second, 1] ^ store[third, 1]
        bits, column = keys[row, 0], sparse
        while dense and bits:
            if bits & np.uint64(1):
                low ^= store[column, 0]
                high ^= store[column, 1]
            bits >>= np.uint64(1)
            column += 1
        store[pivot, 0], store[pivot, 1] = low, high


@compiled
def decode(places: Words, keys: Words, store: Words, values: Words) -> None:
    """Write what one cluster's ``store`` holds for each key, shape (n, 2)."""
    sparse = len(store) - 64
    tables = np.zeros((8, 256, 2), np.uint64)
    for table in range(8):
        for value in range(1, 256):
            low = 0
            while not (value >> low) & 1:
                low += 1
            rest = value & (value - 1)
            column = sparse + 8 * table + low
            tables[table, value, 0] = tables[table, rest, 0] ^ store[column, 0]
            tables[table, value, 1] = tables[table, rest, 1] ^ store[column, 1]
    for row in range(len(keys)):
        first, second, third = _columns(places, row, sparse)
        low = store[first, 0] ^ store[second, 0] ^ store[third, 0]
        high = store[first, 1] ^ store[second, 1] ^ store[third, 1]
        bits = keys[row, 0]
        for table in range(8):
            value = (bits >> np.uint64(8 * table)) & np.uint64(255)
            low ^= tables[table, value, 0]
            high ^= tables[table, value, 1]
        values[row, 0], values[row, 1] = low, high
