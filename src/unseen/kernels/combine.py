"""Sums of residue arrays with coefficients −1, 0 and 1, many at a time: additions only.

The arrays are cut into chunks of 32 words, and what belongs to one chunk lies together: (chunks, arrays, 32). A chunk
is gone through once, tile by tile: a tile of 32 to 96 arrays stays in the first-level cache while every sum runs over
it, and the next one is fetched meanwhile. So one sum takes as long as memory takes to be read, and many take what the
additions take. The arrays of a tile with coefficient 1, and those with −1, are given by their indices, so that no loop
branches on a coefficient.

Residues are below p < 2^62. A running sum is kept in [−2p, 0) as a signed word: two residues are added, which leaves it
in [−2p, 2p), inside the word, and 2p is taken away where it is not negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import LANES, add, load, lower_by, pick, splat, store, subtract, wrap_once

Words = NDArray[np.uint64]
Indices = NDArray[np.uint32]
Offsets = NDArray[np.int64]

CHUNK = 32
_PIECES = 8
# Words of a line of the caches.
_LINE = 8
_TWO = np.uint64(2)
_ZERO = np.uint64(0)


def chunked(arrays: int, words: int) -> Words:
    """Return room for ``arrays`` arrays of ``words`` words (a multiple of 32), shape (words/32, arrays, 32)."""
    room = np.empty(words * arrays + _LINE, np.uint64)
    # No vector straddles two lines of the cache: a tenth of the time.
    start = -room.ctypes.data // room.itemsize % _LINE
    return room[start : start + words * arrays].reshape(-1, arrays, CHUNK)


def put(chunks: Words, first: int, arrays: Words) -> None:
    """Write arrays (count, words), whose words may fill only the first chunks, to the places from ``first`` on."""
    pieces = arrays.reshape(len(arrays), -1, CHUNK)
    chunks[: pieces.shape[1], first : first + len(arrays)] = pieces.swapaxes(0, 1)


@compiled
def tile_size(sums: int) -> int:
    """Return how many arrays make a tile: few for few sums, so that enough of them is on its way from memory."""
    return min(96, max(32, 8 * sums))


def indices(coefficients: NDArray[np.int64]) -> tuple[Indices, Offsets]:
    """Return where coefficients (sums, arrays) are 1 and −1, for each tile and in it each sum, and the lists' limits.

    The limits have the shape (tiles, sums, 3): where the ones begin, where the minus ones begin, and where they end.
    """
    count, arrays = coefficients.shape
    tile = tile_size(count)
    tiles = -(-arrays // tile)
    padded = np.zeros((count, tiles * tile), np.int8)
    padded[:, :arrays] = coefficients
    signs = np.stack([padded == 1, padded == -1]).reshape(2, count, tiles, tile).transpose(2, 1, 0, 3)
    ends = np.concatenate([[0], np.cumsum(np.count_nonzero(signs, axis=3))])
    limits = np.stack([ends[:-1:2], ends[1::2], ends[2::2]], axis=1).reshape(tiles, count, 3)
    at_tile, _, _, inside = np.nonzero(signs)
    padded.fill(0)
    return (at_tile * tile + inside).astype(np.uint32), limits


def combine(chunks: Words, coefficients: NDArray[np.int64], primes: Words) -> Words:
    """Return Σ_j c[s, j]·x[j] for coefficients (sums, arrays) in {−1, 0, 1}, shape (sums, words).

    Args:
        chunks: The arrays, shape (words/32, arrays, 32), residues below the prime of their chunk.
        coefficients: The coefficients c.
        primes: The prime of every chunk, below 2^62.
    """
    places, limits = indices(coefficients)
    out = np.empty((len(coefficients), len(chunks) * CHUNK), np.uint64)
    pieces = ranges(len(chunks), _PIECES * threads())

    def work(index: int) -> None:
        piece = pieces[index]
        sums(chunks[piece], places, limits, primes[piece], out, piece.start * CHUNK)

    in_parallel(work, len(pieces))
    places.fill(0)
    return out


def _fetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the line of array[index] to be brought into the second-level cache; any index is allowed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        signature_of_hint = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba's
            builder.module, signature_of_hint, "llvm.prefetch.p0i8"
        )
        builder.call(function, [place, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


fetch: Any = intrinsic(_fetch)


@compiled
def sums_of_vectors(chunks: Words, places: Indices, limits: Offsets, primes: Words, out: Words, start: int) -> None:
    """Write all sums of chunks (count, arrays, 32) to ``out`` (sums, words) from word ``start`` on, below primes."""
    arrays, tile = chunks.shape[1], tile_size(len(out))
    # A line beyond the last tile is asked for in vain, which harms nothing.
    flat, running = chunks.reshape(-1), np.empty(2 * len(out) * CHUNK, np.uint64)
    for chunk in range(len(chunks)):
        prime, base = primes[chunk], chunk * arrays * CHUNK
        running[:] = _ZERO - _TWO * prime
        for index in range(len(limits)):
            _add_tile(flat[base:], places, limits[index], prime, running, (index + 1) * tile * CHUNK)
        _write_differences(running, prime, out, start + chunk * CHUNK)
    running[:] = _ZERO


@compiled
def _add_tile(flat: Words, places: Indices, limits: Offsets, prime: np.uint64, running: Words, following: int) -> None:
    """Add the arrays of a tile to the running sums (sums, 2, 32); fetch the tile that begins at ``following``."""
    count = len(limits)
    lines = tile_size(count) * CHUNK // _LINE
    for index in range(count):
        for line in range(lines * index // count, lines * (index + 1) // count):
            fetch(flat, following + line * _LINE)
        first, middle, last = limits[index]
        _add(flat, places[first:middle], prime, running, 2 * index * CHUNK)
        _add(flat, places[middle:last], prime, running, (2 * index + 1) * CHUNK)


@compiled
def _add(flat: Words, places: Indices, prime: np.uint64, running: Words, at: int) -> None:
    """Add the arrays at ``places`` to the running sum, in [−2p, 0), of 32 words from ``at`` on."""
    twice = splat(_TWO * prime)
    a, b, c, d = load(running, at), load(running, at + 8), load(running, at + 16), load(running, at + 24)
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
    store(running, at, a)
    store(running, at + 8, b)
    store(running, at + 16, c)
    store(running, at + 24, d)


@compiled
def _write_differences(running: Words, prime: np.uint64, out: Words, start: int) -> None:
    """Write the sums with coefficient 1 less those with −1 to ``out`` (sums, words), below the prime."""
    p, twice = splat(prime), splat(_TWO * prime)
    for index in range(len(out)):
        for i in range(0, CHUNK, LANES):
            place = 2 * index * CHUNK + i
            difference = lower_by(subtract(load(running, place), load(running, place + CHUNK)), twice)
            store(out[index], start + i, wrap_once(add(difference, twice), p))


@compiled
def sums_of_words(chunks: Words, places: Indices, limits: Offsets, primes: Words, out: Words, start: int) -> None:
    """The scalar twin of ``sums_of_vectors``."""
    for chunk in range(len(chunks)):
        first = start + chunk * CHUNK
        out[:, first : first + CHUNK] = _ZERO
        for index in range(len(limits)):
            for row in range(len(out)):
                total = out[row, first : first + CHUNK]
                _add_words(total, chunks[chunk], places, limits[index, row], primes[chunk])


@compiled
def _add_words(total: Words, rows: Words, places: Indices, limits: Offsets, prime: np.uint64) -> None:
    """Add the arrays of one list to a sum of 32 words."""
    for i in range(limits[0], limits[2]):
        row = rows[places[i]]
        subtracted = i >= limits[1]
        for j in range(CHUNK):
            value = total[j] + (prime - row[j] if subtracted else row[j])
            total[j] = value - prime if value >= prime else value


sums = pick(sums_of_vectors, sums_of_words)
