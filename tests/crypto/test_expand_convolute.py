"""Expand-convolute codes: linear, the same at both parties, parameters above the bar, and noise that spreads."""

import numpy as np
import pytest

from unseen.crypto import expand_convolute
from unseen.crypto.expand_convolute import LEAST, NOISE, SECURITY_BITS, Code, security_bits
from unseen.errors import UsageError

SEED = bytes(range(32))


def random(count, width, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (count, width), dtype=np.uint64)


def test_parameters_are_above_128_bits():
    assert security_bits() >= SECURITY_BITS + 100
    assert security_bits(256) < 1  # the authors' number of errors, for noise of bits
    assert security_bits(512) < 90
    assert security_bits(1024, 0.05) < SECURITY_BITS  # if the pseudo-distance were a third of the estimate


# --- the attack that decides how many errors there have to be ----------------------------------------------------


def eliminated(rows, columns):
    """Return rows of bits after Gauss–Jordan elimination on their first columns, and the pivots' columns."""
    packed, pivots = np.packbits(rows, axis=1), []
    for column in range(columns):
        bits = packed[:, column >> 3] >> (7 - column % 8) & 1
        below = np.flatnonzero(bits[len(pivots) :])
        if not below.size:
            continue
        pivot = len(pivots) + below[0]
        packed[[len(pivots), pivot]] = packed[[pivot, len(pivots)]]
        bits[[len(pivots), pivot]] = bits[[pivot, len(pivots)]]
        bits[len(pivots)] = 0
        packed ^= bits[:, None] * packed[len(pivots)]
        pivots.append(column)
    return np.unpackbits(packed, axis=1, count=rows.shape[1]), pivots


def found_errors(code, outputs, rng):
    """Return places that hold an error, by one guess of an information set, as an answerer could: interleaved Prange.

    Of the 128 bits of all elements those sums are sought that errors outside of a guessed half of the places do not
    touch. Such sums are explained by errors inside of it, which linear algebra finds.
    """
    inside = np.sort(rng.permutation(2 * code.size)[: code.size - 140])
    matrix = np.zeros((code.size, len(inside)), np.uint8)
    for first in range(0, len(inside), 128):
        unit = np.zeros((2 * code.size, 2), np.uint64)
        for bit, place in enumerate(inside[first : first + 128]):
            unit[place, bit >> 6] = np.uint64(1) << np.uint64(bit & 63)
        bits = np.unpackbits(code.compress(unit).view(np.uint8), axis=1, bitorder="little")
        matrix[:, first : first + 128] = bits[:, : len(inside) - first]
    planes = np.unpackbits(outputs.view(np.uint8), axis=1, bitorder="little")
    reduced, pivots = eliminated(np.hstack([matrix, planes]), len(inside))
    explained, outside = reduced[: len(pivots), len(inside) :], reduced[len(pivots) :, len(inside) :]
    kernel, rank = eliminated(np.hstack([outside.T, np.eye(128, dtype=np.uint8)]), len(outside))
    sums = kernel[len(rank) :, len(outside) :]
    return inside[np.array(pivots)][(explained @ sums.T & 1).any(axis=1)]


@pytest.mark.parametrize(("noise", "broken"), [(200, True), (1024, False)])
def test_errors_in_the_same_places_of_128_vectors(monkeypatch, noise, broken):
    """With few errors one guess tells where many of them are (with 256, in longer codes, every few guesses do)."""
    monkeypatch.setattr(expand_convolute, "NOISE", noise)
    monkeypatch.setattr(expand_convolute, "LEAST", 512)
    code, rng = Code(1000 if noise == 200 else 1024, SEED), np.random.default_rng(1)
    places = np.arange(noise) * code.block + rng.integers(0, code.block, noise)
    inputs = np.zeros((2 * code.size, 2), np.uint64)
    inputs[places] = random(noise, 2, 5)
    outputs = code.compress(inputs).copy()
    found = [set(found_errors(code, outputs, rng).tolist()) for _ in range(4)]
    assert all(one <= set(places.tolist()) for one in found)
    assert any(len(one) > 50 for one in found) == broken
    assert broken or not any(found)


def test_compression_is_linear_and_treats_pairs_alike():
    code = Code(LEAST, SEED)
    one, other = random(2 * LEAST, 2), random(2 * LEAST, 2, 1)
    pair = np.hstack([one, other])
    both = code.compress(one ^ other)
    np.testing.assert_array_equal(code.compress(one.copy()) ^ code.compress(other.copy()), both)
    np.testing.assert_array_equal(code.compress(pair), np.hstack([code.compress(one), code.compress(other)]))


def test_the_code_is_that_of_its_seed_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(expand_convolute, "_ROWS", 100)
    inputs = random(2 * LEAST, 2)
    monkeypatch.setenv("UNSEEN_THREADS", "1")
    first = Code(LEAST, SEED).compress(inputs.copy())
    monkeypatch.setenv("UNSEEN_THREADS", "3")
    np.testing.assert_array_equal(Code(LEAST, SEED).compress(inputs.copy()), first)
    assert (Code(LEAST, bytes(32)).compress(inputs.copy()) != first).any(axis=1).mean() > 0.99


def test_every_error_reaches_a_large_part_of_the_outputs():
    """One error in the convoluted half touches far more outputs than the pseudo-distance asks for; none is lost."""
    code = Code(LEAST, SEED)
    for place in [LEAST, LEAST + 1, LEAST + 2000, 2 * LEAST - 26, 2 * LEAST - 1]:
        inputs = np.zeros((2 * LEAST, 2), np.uint64)
        inputs[place] = 1
        weight = np.count_nonzero(code.compress(inputs).any(axis=1)) / LEAST
        assert weight > 0.3, place


def test_sparse_noise_looks_balanced():
    """The outputs of regular noise have as many ones as zeros, and no output is the same twice."""
    code, rng = Code(LEAST, SEED), np.random.default_rng(3)
    inputs = np.zeros((NOISE, code.block, 2), np.uint64)
    inputs[np.arange(NOISE), rng.integers(0, code.block, NOISE)] = random(NOISE, 2, 4)
    outputs = code.compress(inputs.reshape(-1, 2))
    ones = np.unpackbits(outputs.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 / np.sqrt(4 * outputs.size * 64)
    assert len(np.unique(outputs, axis=0)) == LEAST


@pytest.mark.parametrize(("count", "size"), [(1, LEAST), (LEAST, LEAST), (LEAST + 1, LEAST + 512), (10**6, 1_000_448)])
def test_sizes_are_rounded_up_to_whole_blocks(count, size):
    code = Code.at_least(count, SEED)
    assert code.size == size
    assert code.block * NOISE == 2 * size


@pytest.mark.parametrize("size", [0, LEAST - 512, LEAST + 1])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError, match="a code has at least"):
        Code(size, SEED)


def test_inputs_of_another_length_are_refused():
    with pytest.raises(UsageError, match="takes 32768 inputs"):
        Code(LEAST, SEED).compress(random(LEAST, 2))
