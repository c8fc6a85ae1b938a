import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.data.fixed_point import exponent_for, from_fixed, to_fixed
from unseen.errors import DataError, UsageError

reals = st.floats(-1e9, 1e9)


@given(values=st.lists(reals), bits=st.integers(-10, 30))
def test_values_are_the_nearest_integers_to_the_scaled_reals(values, bits):
    fixed = to_fixed(np.array(values), bits)
    assert fixed.dtype == np.int64
    # round() of a fraction is exact and rounds ties to even.
    assert fixed.tolist() == [round(Fraction(value) * Fraction(2) ** bits) for value in values]


@given(values=st.lists(reals), bits=st.integers(-10, 30))
def test_the_way_back_is_off_by_half_a_unit_at_most(values, bits):
    array = np.array(values)
    back = from_fixed(to_fixed(array, bits), bits)
    assert back.dtype == np.float64
    assert np.all(np.abs(back - array) <= 0.5 * 2.0**-bits)


def test_ties_go_to_the_even_neighbour():
    assert to_fixed(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), 0).tolist() == [0, 2, 2, 0, -2]


def test_tables_and_narrow_floats_keep_their_shape():
    table = np.array([[1.25, -2.0], [0.0, 3.5]], np.float32)
    assert to_fixed(table, 2).tolist() == [[5, -8], [0, 14]]
    assert to_fixed(np.empty((0, 3)), 2).shape == (0, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**43, -(2.0**43), 1e308])
def test_a_value_that_does_not_fit_is_named_with_its_column_and_row(value):
    table = np.zeros((4, 2))
    table[3, 1] = value
    with pytest.raises(DataError, match="row 3 of column 'income'"):
        to_fixed(table, 20, columns=["age", "income"])
    with pytest.raises(DataError, match="row 3 of column number 0"):
        to_fixed(table[:, 1], 20)
    with pytest.raises(DataError, match="column 'age'"):
        to_fixed(table[:, 1], 20, columns=["age"])


def test_the_bound_itself_fits():
    assert to_fixed(np.array([2.0**42, -(2.0**42)]), 20).tolist() == [2**62, -(2**62)]
    assert to_fixed(np.array([4.0]), 2, max_bits=4).tolist() == [16]
    with pytest.raises(DataError):
        to_fixed(np.array([4.25]), 2, max_bits=4)
    assert to_fixed(np.array([4.125]), 2, max_bits=4).tolist() == [16]


def test_tiny_values_become_zero_without_a_warning():
    assert to_fixed(np.array([5e-324, -5e-324]), -10).tolist() == [0, 0]


@given(values=st.lists(st.floats(-1e300, 1e300), min_size=1), max_bits=st.integers(0, 62))
def test_the_chosen_exponent_is_the_largest_that_fits(values, max_bits):
    largest = max(abs(Fraction(value)) for value in values)
    bits = exponent_for(np.array(values), max_bits)
    if largest:
        assert largest * Fraction(2) ** bits <= 2**max_bits < largest * Fraction(2) ** (bits + 1)
    else:
        assert bits == max_bits
    assert np.abs(to_fixed(np.array(values), bits, max_bits=max_bits)).max() <= 2**max_bits


def test_an_exponent_needs_finite_values():
    assert exponent_for(np.empty(0), 20) == 20
    for value in (math.nan, math.inf):
        with pytest.raises(DataError, match="missing or infinite"):
            exponent_for(np.array([1.0, value]), 20)


@pytest.mark.parametrize("max_bits", [-1, 63])
def test_sizes_beyond_int64_are_refused(max_bits):
    with pytest.raises(UsageError, match="0 to 62 bits"):
        to_fixed(np.zeros(1), 0, max_bits=max_bits)
    with pytest.raises(UsageError, match="0 to 62 bits"):
        exponent_for(np.zeros(1), max_bits)
