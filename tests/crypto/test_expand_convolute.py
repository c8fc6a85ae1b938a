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
    assert security_bits() >= SECURITY_BITS
    assert security_bits(248) < SECURITY_BITS
    assert security_bits(176, 0.20) >= SECURITY_BITS  # the authors' conservative set, for comparison
    # An information set (half of the inputs) without any of the errors is found with probability 2^-NOISE.
    assert NOISE >= SECURITY_BITS


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


@pytest.mark.parametrize(("count", "size"), [(1, LEAST), (LEAST, LEAST), (LEAST + 1, LEAST + 128), (10**6, 1_000_064)])
def test_sizes_are_rounded_up_to_whole_blocks(count, size):
    code = Code.at_least(count, SEED)
    assert code.size == size
    assert code.block * NOISE == 2 * size


@pytest.mark.parametrize("size", [0, LEAST - 128, LEAST + 1])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError, match="a code has at least"):
        Code(size, SEED)


def test_inputs_of_another_length_are_refused():
    with pytest.raises(UsageError, match="takes 8192 inputs"):
        Code(LEAST, SEED).compress(random(LEAST, 2))
