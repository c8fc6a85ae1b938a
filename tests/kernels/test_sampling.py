import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.kernels import sampling

LAST = 2**64 - 1
STEP = 1 << 52


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.integers(0, LAST), st.integers(0, 4095).map(lambda top: top * STEP)), max_size=200),
    st.lists(st.integers(0, LAST), max_size=20),
)
def test_inversion_counts_the_thresholds_below_a_word(thresholds, words):
    ascending = np.array([*sorted(thresholds), LAST], np.uint64)
    near = [max(0, min(LAST, threshold + step)) for threshold in thresholds for step in (-1, 0, 1)]
    draws = np.array([*words, *near, 0, LAST], np.uint64)
    out = np.empty(len(draws), np.int8)
    ties = sampling.invert(draws, ascending, sampling.guide(ascending), -100, out)
    expected = np.searchsorted(ascending, draws, side="left")
    assert out.tolist() == (expected - 100).tolist()
    assert ties == np.isin(draws, ascending).sum()


def test_every_byte_below_243_gives_its_own_five_digits():
    out = np.empty(5 * 243, np.int64)
    assert sampling.ternary(np.arange(256, dtype=np.uint8), out) == 5 * 243
    found = {tuple(digits) for digits in out.reshape(243, 5).tolist()}
    assert found == set(itertools.product((-1, 0, 1), repeat=5))


def test_digits_stop_where_the_room_or_the_bytes_end():
    out = np.full(9, 7, np.int64)
    assert sampling.ternary(np.array([0, 250, 242], np.uint8), out[:7]) == 7
    assert out.tolist() == [-1] * 5 + [1] * 2 + [7] * 2
    assert sampling.ternary(np.array([243, 255], np.uint8), out) == 0
