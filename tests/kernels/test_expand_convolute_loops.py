"""The loops of expand-convolute codes against their definition, element by element."""

import numpy as np
import pytest

from unseen.kernels.expand_convolute import CHOICES, STATE, convolute, expand


def random(*shape, bits=64, seed=0):
    kind = {64: np.uint64, 32: np.uint32}[bits]
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=kind)


def convoluted(x, taps):
    """The definition: y_i = x_i + y_{i−25} + Σ taps_{i,k}·y_{i−k}, then what the end adds to the beginning."""
    y, size = x.copy(), len(x)
    for row in range(size):
        for back in range(1, STATE + 2):
            if row >= back and (back == STATE + 1 or int(taps[row]) >> (back - 1) & 1):
                y[row] ^= y[row - back]
    for row in range(STATE + 1):
        for back in range(row + 1, STATE + 2):
            if back == STATE + 1 or int(taps[row]) >> (back - 1) & 1:
                y[row] ^= y[size + row - back]
    return y


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("size", [60, 61, 200])
def test_convolution(width, size):
    x, taps = random(size, width), random(size, bits=32, seed=1)
    expected = convoluted(x, taps)
    convolute(x, taps)
    np.testing.assert_array_equal(x, expected)


def test_the_convolution_of_a_pair_is_that_of_both():
    x, taps = random(300, 4), random(300, bits=32, seed=1)
    halves = [np.ascontiguousarray(x[:, :2]), np.ascontiguousarray(x[:, 2:])]
    convolute(x, taps)
    for half in halves:
        convolute(half, taps)
    np.testing.assert_array_equal(x, np.hstack(halves))


@pytest.mark.parametrize("width", [2, 4])
def test_expansion(width):
    source, choices, target = random(97, width), random(40, CHOICES + 1, bits=32, seed=2), random(40, width, seed=3)
    expected = target.copy()
    for row in range(40):
        for k in range(CHOICES):
            expected[row] ^= source[int(choices[row, k]) * 97 >> 32]
    expand(source, choices, target)
    np.testing.assert_array_equal(target, expected)
