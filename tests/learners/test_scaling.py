import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from unseen.errors import DataError
from unseen.learners import scaling


@settings(deadline=None, derandomize=True)
@given(
    arrays(np.float64, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.integers(-50, 50).map(float)),
    st.integers(0, 2**32 - 1),
)
def test_equals_imputing_and_scaling_with_scikit_learn(matrix, seed):
    matrix[np.random.default_rng(seed).uniform(size=matrix.shape) < 0.2] = np.nan
    matrix[0] = 1.0  # so that each column has a value
    names = [f"c{i}" for i in range(matrix.shape[1])]
    filled = SimpleImputer().fit_transform(matrix)
    expected = StandardScaler().fit_transform(filled)
    ours = scaling.fit(matrix, names).transform(matrix)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_training_rows_have_mean_0_and_deviation_1_even_far_from_zero():
    matrix = np.random.default_rng(0).normal(1e9, [1.0, 1e-2], (1000, 2))
    scaled = scaling.fit(matrix, ["a", "b"]).transform(matrix)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-6)


def test_constant_and_missing_values_are_named_and_stay_zero():
    matrix = np.array([[0.1, 1.0], [0.1, np.nan], [0.1, 3.0]])
    fitted = scaling.fit(matrix, ["flat", "gappy"])
    assert fitted.constant == ("flat",)
    assert fitted.missing == (0, 1)
    np.testing.assert_allclose(fitted.transform(matrix)[:, 0], 0, atol=1e-15)
    assert fitted.transform(matrix)[1, 1] == 0
    # Another row of a constant column is shown as its distance, not blown up.
    assert fitted.transform(np.array([[1.1, 2.0]]))[0, 0] == pytest.approx(1.0)


def test_survives_json_and_transforms_the_same():
    matrix = np.random.default_rng(3).normal(size=(50, 3))
    fitted = scaling.fit(matrix, ["a", "b", "c"])
    fields = json.loads(json.dumps(dataclasses.asdict(fitted)))
    again = scaling.Standardiser(**{name: tuple(value) for name, value in fields.items()})
    assert again == fitted
    np.testing.assert_array_equal(again.transform(matrix), fitted.transform(matrix))


def test_no_columns_are_fine():
    fitted = scaling.fit(np.empty((3, 0)), [])
    assert fitted.transform(np.empty((7, 0))).shape == (7, 0)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "column b: no training row"),
        (np.array([[1.0, 2.0], [2.0, np.inf]]), "column b, row 1: infinite"),
        (np.ones((2, 3)), "2 columns"),
        (np.empty((0, 2)), "no training rows"),
    ],
)
def test_what_cannot_be_scaled_is_named(matrix, says):
    with pytest.raises(DataError, match=says):
        scaling.fit(matrix, ["a", "b"])


@pytest.mark.parametrize("size", [1e-200, 1e-20, 1e200])
def test_sizes_whose_squares_leave_the_range_are_scaled_all_the_same(size):
    matrix = np.array([[1.0], [2.0], [6.0]])
    expected = scaling.fit(matrix, ["a"]).transform(matrix)
    fitted = scaling.fit(matrix * size, ["a"])
    assert fitted.constant == ()
    np.testing.assert_allclose(fitted.transform(matrix * size), expected, rtol=1e-12)


def test_a_value_too_large_to_be_scaled_is_named():
    fitted = scaling.fit(np.array([[1e-200], [2e-200]]), ["a"])
    with pytest.raises(DataError, match="column a, row 1: too far"):
        fitted.transform(np.array([[1e-200], [1e200]]))


def test_no_rows_are_refused_even_without_columns():
    with pytest.raises(DataError, match="no training rows"):
        scaling.fit(np.empty((0, 0)), [])
