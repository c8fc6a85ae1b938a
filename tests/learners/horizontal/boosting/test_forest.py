"""A forest survives as a vector, and vectors that hold none are refused before anybody walks them."""

import numpy as np
import pytest

from unseen.errors import DataError
from unseen.learners.horizontal.boosting.forest import Bins, Forest

BINS = Bins((np.array([0.5, 1.5]), np.array([0.1])), (True, False), (0, 1))


def small():
    """Return two trees: one split by the first column with missing values on the left, and a single leaf."""
    tree = Forest(
        np.array([0.1]),
        BINS,
        np.array([0, 3]),
        np.array([0, -1, -1]),
        np.array([0, 0, 0]),
        np.array([1, 0, 0]),
        np.array([1, -1, -1]),
        np.array([0, 1, -1], np.float32),
    )
    leaf = Forest(np.array([0.1]), BINS, np.array([0, 1]), *[np.array([-1])] * 4, np.array([0.25], np.float32))
    return Forest.empty(np.array([0.1]), BINS).planted(tree).planted(leaf)


def test_scores_follow_the_splits():
    inputs = np.array([[0.5, 0], [0.6, 0], [np.nan, np.nan], [9, 1]])
    expected = np.array([[1.35], [-0.65], [1.35], [-0.65]])
    np.testing.assert_allclose(small().raw(inputs), expected, rtol=1e-15)
    np.testing.assert_array_equal(Forest.of(small().vector()).raw(inputs), small().raw(inputs))
    assert small().bins.codes(inputs)[1].tolist() == [0, 0, 1, 1]
    assert small().leaves == [2, 1]


def test_a_forest_is_cut_after_some_trees():
    np.testing.assert_array_equal(small().first(1).raw(np.zeros((1, 2))), [[1.1]])
    assert small().first(0).vector().tolist() == Forest.empty(np.array([0.1]), BINS).vector().tolist()


def test_columns_decide_as_often_as_they_do():
    assert small().importance().splits.tolist() == [1, 0]


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0, 255.0, 1e9, 1e30, np.nan, np.inf])
def test_no_changed_number_leads_anybody_astray(value):
    vector = small().vector()
    inputs = np.array([[0.2, 0.0], [np.nan, 5.0]])
    for place in range(len(vector) - 4):  # the last ones are leaf values, which may be anything finite
        changed = vector.copy()
        changed[place] = value
        try:
            found = Forest.of(changed)
        except DataError:
            continue
        assert found.raw(inputs).shape[0] == 2


@pytest.mark.parametrize("vector", [np.empty(0), np.zeros(4), np.zeros(50), np.full(5, 1e30), small().vector()[:-1]])
def test_vectors_of_something_else_are_refused(vector):
    with pytest.raises(DataError, match="no forest"):
        Forest.of(vector.astype(np.float32))
