"""``hash_all``: BLAKE2b (RFC 7693) of many short byte strings at once, keyed, cut to 128 bits.

Strings of 1 to 128 bytes, one block, are hashed eight at a time, each in a lane of its own; all others, and all of
them on machines without vectors, one by one. Both ways give the digests that ``hashlib.blake2b`` gives.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled, inlined
from unseen.kernels.vectors import LANES, add, differing, either, load, pick, shifted_down, shifted_up, splat, store

DIGEST_BYTES = 16
KEY_BYTES = 32
_BLOCK_BYTES = 128
_WORTH_A_THREAD = 1 << 14

_INITIAL = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
"""RFC 7693, section 2.6: the first words of the fractional parts of the square roots of primes."""
_SCHEDULE = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.intp,
)
"""RFC 7693, section 2.7: the order of message words in each round."""
_PLACES = np.array(
    [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
        [0, 5, 10, 15],
        [1, 6, 11, 12],
        [2, 7, 8, 13],
        [3, 4, 9, 14],
    ],
    np.intp,
)
"""RFC 7693, section 3.2: the columns, then the diagonals that a round mixes."""


def hash_all(content: NDArray[np.uint8], offsets: NDArray[np.int64], key: bytes) -> NDArray[np.uint64]:
    """Return the digests of n strings as little-endian words, shape (n, 2); string k is content[offsets[k:k + 2]].

    Raises:
        UsageError: The key has not 32 bytes, or the offsets do not rise from 0 to the length of ``content``.
    """
    if len(key) != KEY_BYTES:
        raise UsageError(f"a key has {KEY_BYTES} bytes, found {len(key)}")
    if offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) < 0).any():
        raise UsageError("offsets of strings have to rise from 0 to the number of bytes")
    start, count = _keyed(np.frombuffer(key, np.uint8)), len(offsets) - 1
    digests = np.empty((count, 2), np.uint64)
    cuts = ranges(count, min(threads(), 1 + count // _WORTH_A_THREAD))
    kernel = pick(_hash_many, _hash_each)

    def work(piece: int) -> None:
        rows = cuts[piece]
        kernel(content, offsets[rows.start : rows.stop + 1], start, digests[rows])

    in_parallel(work, len(cuts))
    if empty := np.flatnonzero(offsets[1:] == offsets[:-1]).tolist():
        # The block of the key is then the last one, which the kernels do not foresee.
        digests[empty] = np.frombuffer(hashlib.blake2b(b"", digest_size=DIGEST_BYTES, key=key).digest(), "<u8")
    return digests


def _keyed(key: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the state after the block that holds the key, the same for all strings."""
    state = _INITIAL.copy()
    state[0] ^= np.uint64(0x01010000 ^ (KEY_BYTES << 8) ^ DIGEST_BYTES)
    block = np.zeros(_BLOCK_BYTES, np.uint8)
    block[:KEY_BYTES] = key
    _compress(state, block.view(np.uint64), np.uint64(_BLOCK_BYTES), False)
    return state


# --- one by one --------------------------------------------------------------------------------------------------


@inlined
def _turned(x: Any, n: int) -> Any:
    return (x >> np.uint64(n)) | (x << np.uint64(64 - n))


@compiled
def _compress(state: NDArray[np.uint64], block: NDArray[np.uint64], taken: np.uint64, last: bool) -> None:
    """Take one block into the state (RFC 7693, section 3.2); ``taken`` counts bytes, this block's included."""
    v = np.empty(16, np.uint64)
    v[:8] = state
    v[8:] = _INITIAL
    v[12] ^= taken
    if last:
        v[14] = ~v[14]
    for turn in range(12):
        for mix in range(8):
            a, b, c, d = _PLACES[mix, 0], _PLACES[mix, 1], _PLACES[mix, 2], _PLACES[mix, 3]
            v[a] += v[b] + block[_SCHEDULE[turn, 2 * mix]]
            v[d] = _turned(v[d] ^ v[a], 32)
            v[c] += v[d]
            v[b] = _turned(v[b] ^ v[c], 24)
            v[a] += v[b] + block[_SCHEDULE[turn, 2 * mix + 1]]
            v[d] = _turned(v[d] ^ v[a], 16)
            v[c] += v[d]
            v[b] = _turned(v[b] ^ v[c], 63)
    for place in range(8):
        state[place] ^= v[place] ^ v[8 + place]


@compiled
def _hash_one(
    content: NDArray[np.uint8], begin: int, end: int, start: NDArray[np.uint64], digest: NDArray[np.uint64]
) -> None:
    state, block = start.copy(), np.empty(16, np.uint64)
    while True:
        stop = min(begin + 128, end)
        block[:] = np.uint64(0)
        for place in range(stop - begin):
            block[place >> 3] |= np.uint64(content[begin + place]) << np.uint64(8 * (place & 7))
        begin = stop
        # What has been taken in: the block of the key, and all of this string up to here.
        _compress(state, block, np.uint64(128 + stop), stop == end)
        if stop == end:
            break
    digest[:] = state[:2]


@compiled
def _hash_each(
    content: NDArray[np.uint8], offsets: NDArray[np.int64], start: NDArray[np.uint64], digests: NDArray[np.uint64]
) -> None:
    for row in range(len(digests)):
        begin, end = offsets[row], offsets[row + 1]
        _hash_one(content[begin:end], 0, end - begin, start, digests[row])


# --- eight at a time ---------------------------------------------------------------------------------------------


@inlined
def _rotated(x: Any, n: int) -> Any:
    return either(shifted_down(x, splat(np.uint64(n))), shifted_up(x, splat(np.uint64(64 - n))))


@inlined
def _mixed(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    a = add(add(a, b), x)
    d = _rotated(differing(d, a), 32)
    c = add(c, d)
    b = _rotated(differing(b, c), 24)
    a = add(add(a, b), y)
    d = _rotated(differing(d, a), 16)
    c = add(c, d)
    b = _rotated(differing(b, c), 63)
    return a, b, c, d


@compiled
def _hash_eight(
    block: NDArray[np.uint64], taken: NDArray[np.uint64], start: NDArray[np.uint64], out: NDArray[np.uint64]
) -> None:
    """Write the first two words of eight states to ``out``; message word w of lane l is ``block[8·w + l]``."""
    v0, v1, v2, v3 = splat(start[0]), splat(start[1]), splat(start[2]), splat(start[3])
    v4, v5, v6, v7 = splat(start[4]), splat(start[5]), splat(start[6]), splat(start[7])
    v8, v9, v10, v11 = splat(_INITIAL[0]), splat(_INITIAL[1]), splat(_INITIAL[2]), splat(_INITIAL[3])
    v12, v13 = differing(splat(_INITIAL[4]), load(taken, 0)), splat(_INITIAL[5])
    v14, v15 = splat(~_INITIAL[6]), splat(_INITIAL[7])
    for turn in range(12):
        order = _SCHEDULE[turn]
        v0, v4, v8, v12 = _mixed(v0, v4, v8, v12, load(block, 8 * order[0]), load(block, 8 * order[1]))
        v1, v5, v9, v13 = _mixed(v1, v5, v9, v13, load(block, 8 * order[2]), load(block, 8 * order[3]))
        v2, v6, v10, v14 = _mixed(v2, v6, v10, v14, load(block, 8 * order[4]), load(block, 8 * order[5]))
        v3, v7, v11, v15 = _mixed(v3, v7, v11, v15, load(block, 8 * order[6]), load(block, 8 * order[7]))
        v0, v5, v10, v15 = _mixed(v0, v5, v10, v15, load(block, 8 * order[8]), load(block, 8 * order[9]))
        v1, v6, v11, v12 = _mixed(v1, v6, v11, v12, load(block, 8 * order[10]), load(block, 8 * order[11]))
        v2, v7, v8, v13 = _mixed(v2, v7, v8, v13, load(block, 8 * order[12]), load(block, 8 * order[13]))
        v3, v4, v9, v14 = _mixed(v3, v4, v9, v14, load(block, 8 * order[14]), load(block, 8 * order[15]))
    store(out, 0, differing(differing(splat(start[0]), v0), v8))
    store(out, 8, differing(differing(splat(start[1]), v1), v9))


@compiled
def _hash_many(
    content: NDArray[np.uint8], offsets: NDArray[np.int64], start: NDArray[np.uint64], digests: NDArray[np.uint64]
) -> None:
    block, taken, out = np.empty(16 * LANES, np.uint64), np.empty(LANES, np.uint64), np.empty(2 * LANES, np.uint64)
    places = block.view(np.uint8)
    whole = len(digests) - len(digests) % LANES
    for first in range(0, whole, LANES):
        block[:] = np.uint64(0)
        for lane in range(LANES):
            begin, end = offsets[first + lane], offsets[first + lane + 1]
            for place in range(min(end - begin, 128)):
                places[((place >> 3) * LANES + lane) * 8 + (place & 7)] = content[begin + place]
            taken[lane] = np.uint64(128 + end - begin)
        _hash_eight(block, taken, start, out)
        for lane in range(LANES):
            row = first + lane
            digests[row, 0], digests[row, 1] = out[lane], out[LANES + lane]
            begin, end = offsets[row], offsets[row + 1]
            if end - begin > 128:
                _hash_one(content[begin:end], 0, end - begin, start, digests[row])
    _hash_each(content, offsets[whole:], start, digests[whole:])
