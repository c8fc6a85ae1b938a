"""Products with a matrix of indicators that is given by binned codes: histograms and hints, modulo 2^64.

``codes``, uint8, shape (features, rows), holds the bin of every row; ``offsets``, int64, shape (features + 1,), says
that column ``offsets[f] + c`` of the matrix M is the indicator of ``codes[f] == c``. Every row has one bin a feature.

``sums`` and ``add_hint`` write where the codes say and check nothing about them: a code at or above its feature's
number of bins corrupts memory. Call ``check_codes`` once on codes that are not known to be right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import LANES, add, load, pick, store

Words = NDArray[np.uint64]
Codes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Part = tuple[int, int, int, int]
"""First and end of a range of features, first and end of a range of rows."""

ZERO = np.uint64(0)
DEGREE = 512
_BINS = 256

# Vectors that take less time one by one than eight lanes take, however many of them are filled.
_FEW = 4
# Rows whose words are brought together at a time: 8 words each, a level-1 cache.
_ROWS = 512
# Blocks of A of which the sums of a feature's bins are held apart: their window stays in a level-2 cache, and their
# places fit 16 bits.
_RUN = 64
# Blocks whose rows are sorted by bin: their window stays in a level-1 cache.
_PART = 4
# Words of a row of A that are summed in registers.
_WIDTH = 64


def check_codes(codes: Codes, offsets: Offsets) -> None:
    """Raise ``UsageError`` unless types and shapes are right and every code is below its feature's number of bins."""
    _check_shapes(codes, offsets)
    bins = np.diff(offsets)
    if offsets[0] != 0 or (len(bins) and (bins.min() < 1 or bins.max() > 256)):
        raise UsageError(f"offsets start at 0 and grow by 1 to 256 bins a feature, found {offsets.tolist()}")
    largest = codes.max(axis=1, initial=0)
    if (wrong := np.flatnonzero(largest >= bins)).size:
        feature = int(wrong[0])
        raise UsageError(f"feature {feature} has {bins[feature]} bins, found the code {largest[feature]}")


def sums(codes: Codes, offsets: Offsets, vectors: Words) -> Words:
    """Return Mᵀv mod 2^64, shape (count, columns), for vectors of words, shape (count, rows).

    Raises:
        UsageError: Types or shapes do not fit (the codes are not looked at).
    """
    _check_shapes(codes, offsets)
    if vectors.dtype != np.uint64 or vectors.ndim != 2 or vectors.shape[1] != codes.shape[1]:
        raise UsageError(f"expected words (·, {codes.shape[1]}), found {vectors.dtype} {vectors.shape}")
    vectors = np.ascontiguousarray(vectors)
    count = len(vectors)
    out = np.zeros((count, int(offsets[-1])), np.uint64)
    pieces = ranges(len(codes), threads())

    def piece(index: int) -> None:
        some = pieces[index]
        where, limits = codes[some], offsets[some.start : some.stop + 1]
        for first in range(0, count, LANES):
            last = min(count, first + LANES)
            if last - first > _FEW:
                _sums_of_eight(where, limits, vectors[first:last], out[first:last])
                continue
            for k in range(first, last):
                _sums_of_one(where, limits, vectors[k : k + 1], out[k : k + 1])

    in_parallel(piece, len(pieces))
    return out


def add_hint(codes: Codes, offsets: Offsets, polynomials: NDArray[Any], out: Words) -> None:
    """Add MᵀA mod 2^64 to ``out``, shape (columns, rank·512), for consecutive blocks of 512 rows.

    ``polynomials``, words or int64 of shape (blocks, rank, 512), are a[t, κ] of Z[X]/(X^512 + 1): row 512·t + i,
    column 512·κ + j of A is the coefficient of X^i in a[t, κ]·X^j (see ``crypto.lwe``). ``codes`` are those of the
    rows of these blocks, of which the last may be short.

    Raises:
        UsageError: Types or shapes do not fit (the codes are not looked at).
    """
    _check_shapes(codes, offsets)
    _check_hint(codes, offsets, polynomials, out)
    polynomials = np.ascontiguousarray(polynomials).view(np.uint64)
    for start in range(0, codes.shape[1], _RUN * DEGREE):
        blocks = polynomials[start // DEGREE : start // DEGREE + _RUN]
        _add_run(codes, start, offsets, blocks, out)


def _add_run(codes: Codes, start: int, offsets: Offsets, polynomials: Words, out: Words) -> None:
    """Add the hint of some blocks, which begin at row ``start``."""
    stop = min(codes.shape[1], start + DEGREE * len(polynomials))
    sources = _unrolled(polynomials)
    totals = _totals(sources, stop - start)
    # More pieces than threads, since features differ: their most frequent bin costs nothing.
    pieces = ranges(len(codes), 4 * threads())

    def piece(index: int) -> None:
        where = (pieces[index].start, pieces[index].stop, start, stop)
        _add_hint(codes, where, offsets, sources, totals, out)

    in_parallel(piece, len(pieces))


def _check_shapes(codes: Codes, offsets: Offsets) -> None:
    if codes.dtype != np.uint8 or codes.ndim != 2 or not codes.flags.c_contiguous:
        raise UsageError(f"expected contiguous uint8 codes (features, rows), found {codes.dtype} {codes.shape}")
    if offsets.dtype != np.int64 or offsets.shape != (len(codes) + 1,):
        raise UsageError(f"expected {len(codes) + 1} int64 offsets, found {offsets.dtype} {offsets.shape}")


def _check_hint(codes: Codes, offsets: Offsets, polynomials: NDArray[Any], out: Words) -> None:
    blocks = -(-codes.shape[1] // DEGREE)
    if polynomials.dtype not in (np.uint64, np.int64) or polynomials.ndim != 3:
        raise UsageError(f"expected words (blocks, rank, 512), found {polynomials.dtype} {polynomials.shape}")
    if (len(polynomials), polynomials.shape[2]) != (blocks, DEGREE):
        raise UsageError(f"{codes.shape[1]} rows are {blocks} blocks of 512, found polynomials {polynomials.shape}")
    expected = (int(offsets[-1]), polynomials.shape[1] * DEGREE)
    if out.dtype != np.uint64 or out.shape != expected or not out.flags.c_contiguous:
        raise UsageError(f"expected a contiguous sum of words {expected}, found {out.dtype} {out.shape}")


@compiled
def scalar_sums(codes: Codes, offsets: Offsets, vectors: Words, out: Words) -> None:
    """Add the sums of some vectors to ``out``, word by word."""
    features, rows = codes.shape
    for feature in range(features):
        for k in range(len(vectors)):
            for row in range(rows):
                out[k, offsets[feature] + np.int64(codes[feature, row])] += vectors[k, row]


@compiled
def vector_sums_of_one(codes: Codes, offsets: Offsets, vectors: Words, out: Words) -> None:
    """Add the sums of one vector to ``out``; four sums a bin, since an addition waits for the last one of its bin."""
    features, rows = codes.shape
    block = 1 << 12
    for start in range(0, rows, block):
        stop = min(rows, start + block)
        for feature in range(features):
            _add_in_four(
                codes[feature, start:stop], vectors[0, start:stop], out[0, offsets[feature] : offsets[feature + 1]]
            )


@compiled
def _add_in_four(codes: Codes, words: Words, out: Words) -> None:
    sums = np.zeros((4, len(out)), np.uint64)
    whole = len(codes) // 4 * 4
    for row in range(0, whole, 4):
        for lane in range(4):
            sums[lane, codes[row + lane]] += words[row + lane]
    for row in range(whole, len(codes)):
        sums[0, codes[row]] += words[row]
    for column in range(len(out)):
        out[column] += sums[0, column] + sums[1, column] + sums[2, column] + sums[3, column]


@compiled
def vector_sums_of_eight(codes: Codes, offsets: Offsets, vectors: Words, out: Words) -> None:
    """Add the sums of up to eight vectors to ``out``: the words of a row are added as one vector.

    Rows take turns between two sums a bin, since an addition waits for the last one to the same place.
    """
    features, rows = codes.shape
    first = offsets[0]
    totals = np.zeros((offsets[-1] - first, 2, LANES), np.uint64)
    together = np.zeros((_ROWS, LANES), np.uint64)
    for start in range(0, rows, _ROWS):
        stop = min(rows, start + _ROWS)
        for k in range(len(vectors)):
            for row in range(start, stop):
                together[row - start, k] = vectors[k, row]
        for feature in range(features):
            _add_together(codes[feature, start:stop], together, totals, 2 * (offsets[feature] - first))
    for k in range(len(vectors)):
        for column in range(len(totals)):
            out[k, first + column] += totals[column, 0, k] + totals[column, 1, k]


@compiled
def _add_together(codes: Codes, together: Words, totals: Words, first: int) -> None:
    """Add rows to ``totals``; the sums of bin c are the vectors ``first`` + 2c and the next one."""
    for row in range(0, len(codes) - 1, 2):
        even = LANES * (first + 2 * np.int64(codes[row]))
        odd = LANES * (first + 2 * np.int64(codes[row + 1]) + 1)
        store(totals, even, add(load(totals, even), load(together, LANES * row)))
        store(totals, odd, add(load(totals, odd), load(together, LANES * (row + 1))))
    if len(codes) % 2:
        last = len(codes) - 1
        even = LANES * (first + 2 * np.int64(codes[last]))
        store(totals, even, add(load(totals, even), load(together, LANES * last)))


def _unrolled(polynomials: Words) -> Words:
    """Return blocks of A, shape (rank, blocks, 1024): row i is the slice of 512 words that begins at 511 − i."""
    descending = polynomials[:, :, ::-1].swapaxes(0, 1)
    return np.ascontiguousarray(np.concatenate([descending, ZERO - descending], axis=2))


def _totals(sources: Words, rows: int) -> Words:
    """Return the sum of the first ``rows`` rows of these blocks, shape (rank, 512)."""
    whole, rest = divmod(rows, DEGREE)
    totals = _total_of_rows(sources[:, :whole].sum(axis=1), DEGREE)
    return totals + _total_of_rows(sources[:, whole], rest) if rest else totals


def _total_of_rows(source: Words, count: int) -> Words:
    """Return the sum of the first ``count`` rows of a block: each entry follows from the one before."""
    first = source[:, DEGREE - count : DEGREE].sum(axis=1, keepdims=True)
    steps = source[:, DEGREE:-1] - source[:, DEGREE - count : -1 - count]
    return np.cumsum(np.concatenate([first, steps], axis=1), axis=1, dtype=np.uint64)


@compiled
def scalar_add_hint(codes: Codes, where: Part, offsets: Offsets, sources: Words, totals: Words, out: Words) -> None:
    """Add MᵀA to ``out``, for features and rows from ``where``: row by row and word by word."""
    for feature in range(where[0], where[1]):
        for row in range(where[2], where[3]):
            column = offsets[feature] + np.int64(codes[feature, row])
            block, i = divmod(row - where[2], DEGREE)
            for kappa in range(len(sources)):
                for j in range(DEGREE):
                    out[column, DEGREE * kappa + j] += sources[kappa, block, DEGREE - 1 - i + j]


@compiled
def vector_add_hint(codes: Codes, where: Part, offsets: Offsets, sources: Words, totals: Words, out: Words) -> None:
    """Add MᵀA to ``out``: rows sorted by bin, sums in registers, the most frequent bin by subtraction."""
    places, bounds = _sorted_rows(codes, where)
    for kappa in range(len(sources)):
        source = sources[kappa].reshape(-1)
        for j in range(0, DEGREE, _WIDTH):
            first = DEGREE * kappa + j
            for feature in range(where[0], where[1]):
                columns = out[offsets[feature] : offsets[feature + 1], first : first + _WIDTH]
                rest = totals[kappa, j : j + _WIDTH].copy()
                index = feature - where[0]
                _add_feature(source[j:], places[index], bounds[index], rest, columns)


@compiled
def _sorted_rows(codes: Codes, where: Part) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Return where each row's slice begins, sorted by bin within each part, and where each bin's rows begin.

    Shapes (features, rows) and (features, parts, 258).
    """
    first, last, start, stop = where
    size = _PART * DEGREE
    parts = (stop - start + size - 1) // size
    places = np.empty((last - first, stop - start), np.uint16)
    bounds = np.zeros((last - first, parts, _BINS + 2), np.int32)
    for feature in range(first, last):
        for part in range(parts):
            begin = part * size
            some = codes[feature, start + begin : min(stop, start + begin + size)]
            _sort_part(some, begin, places[feature - first], bounds[feature - first, part])
    return places, bounds


@compiled
def _sort_part(codes: Codes, start: int, places: NDArray[np.uint16], bounds: NDArray[np.int32]) -> None:
    """Sort some rows by counting; while it runs, ``bounds[c + 1]`` is where the next row of bin c goes."""
    bounds[:2] = start
    for code in codes:
        bounds[np.int64(code) + 2] += 1
    for bin_ in range(2, len(bounds)):
        bounds[bin_] += bounds[bin_ - 1]
    for row in range(len(codes)):
        block, i = divmod(start + row, DEGREE)
        after = np.int64(codes[row]) + 1
        places[bounds[after]] = 2 * DEGREE * block + DEGREE - 1 - i
        bounds[after] += 1


@compiled
def _add_feature(
    source: Words, places: NDArray[np.uint16], bounds: NDArray[np.int32], rest: Words, columns: Words
) -> None:
    """Add the sums of one feature's bins; ``rest`` is the sum of all rows, and is used up."""
    parts, bins = len(bounds), len(columns)
    frequent = _most_frequent(bounds, bins)
    sums = np.zeros((bins, _WIDTH), np.uint64)
    for part in range(parts):
        for code in range(bins):
            if code != frequent:
                _add_rows(source, places[bounds[part, code] : bounds[part, code + 1]], sums[code])
    for code in range(bins):
        for j in range(_WIDTH):
            columns[code, j] += sums[code, j]
            rest[j] -= sums[code, j]
    for j in range(_WIDTH):
        columns[frequent, j] += rest[j]


@compiled
def _most_frequent(bounds: NDArray[np.int32], bins: int) -> int:
    frequent, largest = 0, 0
    for code in range(bins):
        count = 0
        for part in range(len(bounds)):
            count += bounds[part, code + 1] - bounds[part, code]
        if count > largest:
            frequent, largest = code, count
    return frequent


@compiled
def _add_rows(source: Words, places: NDArray[np.uint16], out: Words) -> None:
    """Add the slices of 64 words that begin at ``places`` to ``out``."""
    a, b, c, d = load(out, 0), load(out, 8), load(out, 16), load(out, 24)
    e, f, g, h = load(out, 32), load(out, 40), load(out, 48), load(out, 56)
    for index in range(len(places)):
        place = np.int64(places[index])
        a = add(a, load(source, place))
        b = add(b, load(source, place + 8))
        c = add(c, load(source, place + 16))
        d = add(d, load(source, place + 24))
        e = add(e, load(source, place + 32))
        f = add(f, load(source, place + 40))
        g = add(g, load(source, place + 48))
        h = add(h, load(source, place + 56))
    store(out, 0, a)
    store(out, 8, b)
    store(out, 16, c)
    store(out, 24, d)
    store(out, 32, e)
    store(out, 40, f)
    store(out, 48, g)
    store(out, 56, h)


_sums_of_one = pick(vector_sums_of_one, scalar_sums)
_sums_of_eight = pick(vector_sums_of_eight, scalar_sums)
_add_hint = pick(vector_add_hint, scalar_add_hint)
