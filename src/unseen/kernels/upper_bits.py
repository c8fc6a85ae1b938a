"""Words rounded to their upper 62 bits, and 32 of them held in 31: what travels of a vector under ``crypto.lwe``.

A block of 256 words is 32 vectors of eight lanes. The first 31 keep their upper bits; the two lowest bits, which are
free, hold two bits each of the last one, from the lowest of its upper 62 on.

Rounding is to the nearest multiple of 4, and where two are equally near to the one that is a multiple of 8: the error
of a uniform word is 0, ±1 or ±2 with probabilities ¼, ¼ each and ⅛ each, hence symmetric, unlike that of cutting off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import LANES, add, both, load, pick, shifted_down, shifted_up, splat, store

Words = NDArray[np.uint64]

DROPPED = 2
"""Bits of a word that are rounded off."""
_VECTORS = 64 // DROPPED
BLOCK = _VECTORS * LANES
"""Words that are held together."""
SHORT = BLOCK - LANES
"""Words that hold them."""

_BITS = np.uint64(DROPPED)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_HALF_LESS_ONE = np.uint64((1 << DROPPED) // 2 - 1)
_LOWER = np.uint64((1 << DROPPED) - 1)
_UPPER = np.uint64((1 << 64) - (1 << DROPPED))


def blocks(count: int) -> int:
    """Return how many blocks hold ``count`` words."""
    return -(-count // BLOCK)


def shortened(words: Words) -> Words:
    """Return contiguous words (n,), rounded, in blocks (⌈n/256⌉, 248); the last block is filled up with zeros."""
    whole = len(words) // BLOCK
    out = np.empty((blocks(len(words)), SHORT), np.uint64)
    pieces = ranges(whole, threads())

    def work(index: int) -> None:
        piece = pieces[index]
        _shorten(words[piece.start * BLOCK : piece.stop * BLOCK], out[piece].reshape(-1))

    in_parallel(work, len(pieces))
    if whole < len(out):
        last = np.zeros(BLOCK, np.uint64)
        last[: len(words) - whole * BLOCK] = words[whole * BLOCK :]
        _shorten(last, out[whole])
    return out


def lengthen(short: Words, out: Words) -> None:
    """Write the rounded words that contiguous blocks (count, 248) hold to ``out``, which ends in the last block.

    Raises:
        UsageError: ``out`` has another length, or the blocks another shape.
    """
    if short.ndim != 2 or short.shape[1] != SHORT or len(short) != blocks(len(out)):
        raise UsageError(f"{len(out)} words come in blocks {(blocks(len(out)), SHORT)}, found {short.shape}")
    whole = len(out) // BLOCK
    _lengthen(short[:whole].reshape(-1), out)
    if whole < len(short):
        last = np.empty(BLOCK, np.uint64)
        _lengthen(short[whole], last)
        out[whole * BLOCK :] = last[: len(out) - whole * BLOCK]


@compiled
def vector_shorten(words: Words, out: Words) -> None:
    """Write whole blocks of words to ``out``, eight lanes at a time."""
    bits, lower, upper = splat(_BITS), splat(_LOWER), splat(_UPPER)
    one, half = splat(_ONE), splat(_HALF_LESS_ONE)
    for block in range(len(out) // SHORT):
        first, place = block * BLOCK, block * SHORT
        last = load(words, first + SHORT)
        last = add(add(last, half), both(shifted_down(last, bits), one))
        for i in range(0, SHORT, LANES):
            word = load(words, first + i)
            word = add(add(word, half), both(shifted_down(word, bits), one))
            last = shifted_down(last, bits)
            store(out, place + i, add(both(word, upper), both(last, lower)))


@compiled
def scalar_shorten(words: Words, out: Words) -> None:
    """The scalar twin of ``vector_shorten``."""
    for block in range(len(out) // SHORT):
        for i in range(SHORT):
            place = block * BLOCK + i
            last = _rounded(words[block * BLOCK + SHORT + i % LANES]) >> (_BITS * np.uint64(i // LANES + 1))
            out[block * SHORT + i] = (_rounded(words[place]) & _UPPER) + (last & _LOWER)


@compiled
def _rounded(word: np.uint64) -> np.uint64:
    """Return a word whose upper bits are rounded; the others are not yet cut off."""
    return word + _HALF_LESS_ONE + ((word >> _BITS) & _ONE)


@compiled
def vector_lengthen(short: Words, out: Words) -> None:
    """Write the words of whole blocks to ``out``, eight lanes at a time."""
    bits, lower, upper = splat(_BITS), splat(_LOWER), splat(_UPPER)
    for block in range(len(short) // SHORT):
        first, place = block * BLOCK, block * SHORT
        last = splat(_ZERO)
        for i in range(SHORT - LANES, -1, -LANES):
            word = load(short, place + i)
            store(out, first + i, both(word, upper))
            last = shifted_up(add(last, both(word, lower)), bits)
        store(out, first + SHORT, last)


@compiled
def scalar_lengthen(short: Words, out: Words) -> None:
    """The scalar twin of ``vector_lengthen``."""
    for block in range(len(short) // SHORT):
        first = block * BLOCK
        out[first + SHORT : first + BLOCK] = _ZERO
        for i in range(SHORT):
            word = short[block * SHORT + i]
            out[first + i] = word & _UPPER
            out[first + SHORT + i % LANES] += (word & _LOWER) << (_BITS * np.uint64(i // LANES + 1))


_shorten = pick(vector_shorten, scalar_shorten)
_lengthen = pick(vector_lengthen, scalar_lengthen)
