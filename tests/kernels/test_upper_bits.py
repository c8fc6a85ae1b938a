from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.kernels import upper_bits
from unseen.kernels.upper_bits import BLOCK, DROPPED, SHORT

UNIT = 1 << DROPPED


def rounded(word):
    """Return the nearest multiple of the unit, of two equally near ones the even multiple, modulo 2^64."""
    quotient, rest = divmod(word, UNIT)
    up = rest > UNIT // 2 or (rest == UNIT // 2 and quotient % 2)
    return (quotient + up) * UNIT % 2**64


def random_words(count, seed):
    rng = np.random.default_rng(seed)
    ends = np.array([*range(9), *(2**64 - value for value in range(1, 9))], np.uint64)
    words = rng.integers(0, 2**64, count, np.uint64)
    return np.where(rng.random(count) < 0.3, rng.choice(ends, count), words)


@pytest.mark.parametrize(
    ("shorten", "lengthen"),
    [
        (upper_bits.vector_shorten, upper_bits.vector_lengthen),
        (upper_bits.scalar_shorten, upper_bits.scalar_lengthen),
    ],
)
def test_whole_blocks_come_back_rounded(shorten, lengthen):
    words = random_words(3 * BLOCK, 1)
    short, out = np.empty(3 * SHORT, np.uint64), np.empty(3 * BLOCK, np.uint64)
    shorten(words, short)
    lengthen(short, out)
    assert out.tolist() == [rounded(word) for word in words.tolist()]


def test_both_kernels_write_the_same():
    words = random_words(5 * BLOCK, 2)
    one, two = np.empty((2, 5 * SHORT), np.uint64)
    upper_bits.vector_shorten(words, one)
    upper_bits.scalar_shorten(words, two)
    assert np.array_equal(one, two)


def test_the_layout_is_that_of_the_documentation():
    words = np.zeros(BLOCK, np.uint64)
    words[SHORT] = 0b11_01_10_00  # the first lane of the last vector; its two lowest bits are rounded off
    words[8:16] = 4
    short = upper_bits.shortened(words)
    assert short.shape == (1, SHORT)
    assert {place: int(word) for place, word in enumerate(short[0]) if word} == {
        **dict.fromkeys(range(9, 16), 4),
        0: 0b10,
        8: 4 + 0b01,
        16: 0b11,
    }


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 3 * BLOCK), st.integers(0, 2**32), st.integers(1, 4))
@example(0, 0, 1)
@example(BLOCK, 0, 2)
def test_any_number_of_words_comes_back(count, seed, workers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSEEN_THREADS", str(workers))
        words = random_words(count, seed)
        short = upper_bits.shortened(words)
    assert short.shape == (upper_bits.blocks(count), SHORT)
    short.flags.writeable = False  # as what a peer sent is
    out = np.empty(count, np.uint64)
    upper_bits.lengthen(short, out)
    assert out.tolist() == [rounded(word) for word in words.tolist()]
    again = upper_bits.shortened(out)
    assert np.array_equal(again, short), "what is rounded stays as it is"


def test_errors_are_symmetric_and_no_larger_than_half_a_unit():
    words = np.arange(2**16 - 8, 2**16 - 8 + 2 * UNIT * BLOCK, dtype=np.uint64)
    out = np.empty_like(words)
    upper_bits.lengthen(upper_bits.shortened(words), out)
    share = 2 * BLOCK
    errors = Counter((out - words).view(np.int64).tolist())
    assert errors == {-2: share // 2, -1: share, 0: share, 1: share, 2: share // 2}


@pytest.mark.parametrize("shape", [(1, SHORT), (3, SHORT), (2, BLOCK), (2 * SHORT,)])
def test_blocks_of_another_shape_are_refused(shape):
    with pytest.raises(UsageError, match=r"257 words come in blocks \(2, 248\)"):
        upper_bits.lengthen(np.zeros(shape, np.uint64), np.empty(257, np.uint64))
