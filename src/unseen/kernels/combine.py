"""Sums of residue arrays with coefficients −1, 0 and 1, many at a time: additions only.

The arrays are cut into chunks of 32 words, and what belongs to one chunk lies together: (chunks, arrays, 32). The
arrays with coefficient 1, and those with −1, are given by their indices, so that no loop branches on a coefficient; a
chunk of all arrays stays in the second-level cache while every sum runs over it.

Residues are below p < 2^62. A running sum is kept in [−2p, 0) as a signed word: two residues are added, which leaves it
in [−2p, 2p), inside the word, and 2p is taken away where it is not negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import LANES, add, load, lower_by, pick, splat, store, subtract, wrap_once

Words = NDArray[np.uint64]
Indices = NDArray[np.uint32]
Offsets = NDArray[np.int64]

CHUNK = 32
_PIECES = 8
_TWO = np.uint64(2)
_ZERO = np.uint64(0)


def chunked(arrays: int, words: int) -> Words:
    """Return room for ``arrays`` arrays of ``words`` words (a multiple of 32), shape (words/32, arrays, 32)."""
    return np.empty((words // CHUNK, arrays, CHUNK), np.uint64)


def put(chunks: Words, first: int, arrays: Words) -> None:
    """Write arrays (count, words), whose words may fill only the first chunks, to the places from ``first`` on."""
    pieces = arrays.reshape(len(arrays), -1, CHUNK)
    chunks[: pieces.shape[1], first : first + len(arrays)] = pieces.swapaxes(0, 1)


def indices(coefficients: NDArray[np.int64]) -> tuple[Indices, Offsets]:
    """Return where coefficients (sums, arrays) are 1 and −1, in turn for each sum, and where each list begins."""
    lists = [np.flatnonzero(row == sign) for row in coefficients for sign in (1, -1)]
    offsets = np.zeros(len(lists) + 1, np.int64)
    offsets[1:] = np.cumsum([len(entry) for entry in lists])
    return np.concatenate([np.empty(0, np.uint32), *lists]).astype(np.uint32), offsets


def combine(chunks: Words, coefficients: NDArray[np.int64], primes: Words) -> Words:
    """Return Σ_j c[s, j]·x[j] for coefficients (sums, arrays) in {−1, 0, 1}, shape (sums, words).

    Args:
        chunks: The arrays, shape (words/32, arrays, 32), residues below the prime of their chunk.
        coefficients: The coefficients c.
        primes: The prime of every chunk, below 2^62.
    """
    places, offsets = indices(coefficients)
    out = np.empty((len(coefficients), len(chunks) * CHUNK), np.uint64)
    pieces = ranges(len(chunks), _PIECES * threads())

    def work(index: int) -> None:
        for chunk in range(pieces[index].start, pieces[index].stop):
            sums(chunks[chunk], places, offsets, primes[chunk], out, chunk * CHUNK)

    in_parallel(work, len(pieces))
    places.fill(0)
    return out


@compiled
def sums_of_vectors(rows: Words, places: Indices, offsets: Offsets, prime: np.uint64, out: Words, start: int) -> None:
    """Write all sums of rows (arrays, 32) to ``out`` (sums, words) from word ``start`` on, below the prime."""
    flat, positive, negative = rows.reshape(-1), np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint64)
    p, twice = splat(prime), splat(_TWO * prime)
    for index in range(len(out)):
        first, middle, last = offsets[2 * index], offsets[2 * index + 1], offsets[2 * index + 2]
        _sum(flat, places[first:middle], prime, positive)
        _sum(flat, places[middle:last], prime, negative)
        for i in range(0, CHUNK, LANES):
            difference = lower_by(subtract(load(positive, i), load(negative, i)), twice)
            store(out[index], start + i, wrap_once(add(difference, twice), p))


@compiled
def _sum(flat: Words, places: Indices, prime: np.uint64, out: Words) -> None:
    """Write the sum of the rows at ``places``, in [−2p, 0), to ``out`` (32,)."""
    twice = splat(_TWO * prime)
    a = b = c = d = subtract(splat(_ZERO), twice)
    for i in range(0, len(places) - 1, 2):
        x, y = CHUNK * np.intp(places[i]), CHUNK * np.intp(places[i + 1])
        a = lower_by(add(add(a, load(flat, x)), load(flat, y)), twice)
        b = lower_by(add(add(b, load(flat, x + 8)), load(flat, y + 8)), twice)
        c = lower_by(add(add(c, load(flat, x + 16)), load(flat, y + 16)), twice)
        d = lower_by(add(add(d, load(flat, x + 24)), load(flat, y + 24)), twice)
    if len(places) % 2:
        x = CHUNK * np.intp(places[-1])
        a, b = lower_by(add(a, load(flat, x)), twice), lower_by(add(b, load(flat, x + 8)), twice)
        c, d = lower_by(add(c, load(flat, x + 16)), twice), lower_by(add(d, load(flat, x + 24)), twice)
    store(out, 0, a)
    store(out, 8, b)
    store(out, 16, c)
    store(out, 24, d)


@compiled
def sums_of_words(rows: Words, places: Indices, offsets: Offsets, prime: np.uint64, out: Words, start: int) -> None:
    """The scalar twin of ``sums_of_vectors``."""
    for index in range(len(out)):
        total = out[index, start : start + CHUNK]
        total[:] = _ZERO
        for i in range(offsets[2 * index], offsets[2 * index + 2]):
            row = rows[places[i]]
            subtracted = i >= offsets[2 * index + 1]
            for j in range(CHUNK):
                value = total[j] + (prime - row[j] if subtracted else row[j])
                total[j] = value - prime if value >= prime else value


sums = pick(sums_of_vectors, sums_of_words)
