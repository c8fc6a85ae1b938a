"""Sorted tags and their matches against sets of Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.kernels.matching import arranged, matches

tags = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20, unique=True)
"""Few first words, so that many are equal: what one of 64 random bits never is."""


def array(pairs):
    return np.array(pairs, np.uint64).reshape(-1, 2)


@given(tags)
@settings(deadline=None, derandomize=True)
def test_arranged_sorts_by_the_first_word(pairs):
    found, order = arranged(array(pairs))
    np.testing.assert_array_equal(found, array(pairs)[order])
    assert (np.diff(found[:, 0].astype(np.int64)) >= 0).all()
    assert sorted(order.tolist()) == list(range(len(pairs)))


@given(tags, tags)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_matches_are_the_common_tags(left, right):
    (mine, _), (others, _) = arranged(array(left)), arranged(array(right))
    pairs = matches(mine, others)
    np.testing.assert_array_equal(mine[pairs[:, 0]], others[pairs[:, 1]])
    assert {tuple(tag) for tag in mine[pairs[:, 0]].tolist()} == set(left) & set(right)
    assert len(pairs) == len(set(left) & set(right))
    assert (np.diff(pairs[:, 1]) > 0).all()
