"""Residuals as sums of products: what either party contributes adds up to the residual."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.learners.vertical.factorisation import LARGEST_HALF, MAX_RANK, Factorisation, Interval, sigmoid
from unseen.learners.vertical.families import Binomial, Gaussian, Poisson, Tweedie

FAMILIES = [Gaussian(), Binomial(), Poisson(), Tweedie(1.3), Tweedie(1.9)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family}")
def test_slopes_and_curvatures_are_derivatives_of_the_loss(family):
    scores, step = np.linspace(-3, 3, 41), 1e-5
    for target in (np.zeros(41), np.ones(41)):
        up, down = family.loss(scores + step, target), family.loss(scores - step, target)
        np.testing.assert_allclose(family.slope(scores, target), (up - down) / (2 * step), atol=1e-7)
        slopes = family.slope(scores + step, target) - family.slope(scores - step, target)
        np.testing.assert_allclose(family.curvature(scores, target), slopes / (2 * step), atol=1e-7)
    assert family.mean(np.array([family.link(0.3)]))[0] == pytest.approx(0.3)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family}")
def test_contributions_add_up_to_residuals(family):
    rng = np.random.default_rng(1)
    a, b = rng.normal(-1, 1, 2000), rng.normal(0, 1, 2000)
    target, weights = rng.integers(0, 2, 2000).astype(float), rng.gamma(1, 1, 2000)
    mine, theirs = Interval.around(a, centred=False), Interval.around(b, centred=True)
    separation = family.separation(mine, theirs)
    contribution = separation.active(a, target, weights)
    factors = family.passive_factors(b, theirs, separation.table)
    assert factors.shape == contribution.factors.shape == (separation.rank, 2000)
    assert np.abs(factors).max() <= 1
    sums = np.sum(contribution.factors * factors, axis=0)
    assert np.abs(sums).max() <= contribution.bound
    error = np.abs(sums + contribution.rest - weights * family.slope(a + b, target))
    if isinstance(family, Binomial):
        assert mine.narrow
        assert np.sqrt(np.mean(np.square(error))) <= 3e-4
        assert (error <= 5e-3 * weights).all()
    else:
        assert error.max() <= 1e-9


def test_scores_that_crowd_in_the_middle_take_fewer_products():
    rng = np.random.default_rng(2)
    scores, others = rng.normal(0, 0.9, 20000), rng.normal(0, 0.9, 20000)
    crowded = Interval.around(scores, centred=True)
    assert crowded == Interval(0.0, 4.0, narrow=True)
    assert not Interval.around(np.linspace(-4, 4, 100), centred=True).narrow
    few, many = Factorisation.of(crowded, crowded), Factorisation.of(Interval(0.0, 4.0), Interval(0.0, 4.0))
    assert few.rank <= many.rank - 1
    errors = few(scores, others) - sigmoid(scores + others)
    assert np.sqrt(np.mean(np.square(errors))) < 2e-4
    # Even scores that are spread evenly, against all expectation, are not far off.
    even = rng.uniform(-4, 4, 20000)
    assert np.sqrt(np.mean(np.square(few(even, others) - sigmoid(even + others)))) < 6e-4
    assert np.abs(few(even, rng.permutation(even)) - sigmoid(even + even)).max() < 2


@pytest.mark.parametrize("middle", [0.0, -3.0, 40.0, -900.0])
def test_factorisations_far_from_the_middle_are_finite(middle):
    for narrow in (False, True):
        found = Factorisation.of(Interval(middle, 8.0, narrow), Interval(0.0, 8.0, narrow))
        assert np.isfinite(found.active_table).all()
        assert np.isfinite(found.passive_table).all()
        assert found.error <= 2e-2


def test_scores_beyond_the_largest_range_are_noticed():
    scores = np.zeros(5000)
    scores[:5] = 9.0
    assert not Interval.around(scores, centred=True).exceeded(scores)
    scores[:6] = 9.0
    assert Interval.around(scores, centred=True).exceeded(scores)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    middle=st.floats(-10, 10),
    halves=st.tuples(st.sampled_from([0.5, 1.0, 2.0, 2.0**1.5, 4.0, 8.0]), st.sampled_from([0.25, 2.0, 4.0, 8.0])),
)
def test_the_stated_error_of_the_factorisation_holds(middle, halves):
    active, passive = Interval(middle, halves[0]), Interval(0.0, halves[1])
    found = Factorisation.of(active, passive)
    rng = np.random.default_rng(3)
    a, b = (i.middle + rng.uniform(-i.half, i.half, 4000) for i in (active, passive))
    errors = np.abs(found(a, b) - sigmoid(a + b))
    assert errors.max() <= 1.05 * found.error + 1e-6
    assert found.rank <= MAX_RANK
    assert np.abs(found.passive.evaluate(found.passive_table, b)).max() <= 1
    # Away from 0, it is the small side that counts.
    weighed = errors * np.exp(-found.tilt * (a + b))
    largest = (sigmoid(a + b) * np.exp(-found.tilt * (a + b))).max()
    assert weighed.max() <= 3e-4 * max(largest, 1.0) or found.rank == MAX_RANK


@pytest.mark.parametrize(("half", "rank", "error"), [(2.0, 6, 2e-4), (4.0, 10, 2e-4), (8.0, 16, 2e-4)])
def test_balanced_ranges_need_few_products(half, rank, error):
    found = Factorisation.of(Interval(0.0, half), Interval(0.0, half))
    assert found.rank <= rank
    assert found.error <= error


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(-7, 7), min_size=1, max_size=20), st.booleans())
def test_ranges_hold_the_scores_and_are_powers_of_the_root_of_two(scores, centred):
    values = np.array(scores)
    found = Interval.around(values, centred=centred)
    np.testing.assert_allclose(found.clip(values), values, atol=1e-9)
    assert 2 * np.log2(found.half) == pytest.approx(round(2 * np.log2(found.half)), abs=1e-9)
    assert found.half <= LARGEST_HALF
    if centred:
        assert found.middle == 0
        assert found.half <= max(np.abs(values).max() * 2**0.5 * (1 + 1e-9), 0.25)


def test_powers_that_are_no_tweedie_model():
    for power in (1.0, 2.0, 3.0, np.nan):
        with pytest.raises(UsageError, match="strictly between 1 and 2"):
            Tweedie(power)


def test_a_score_that_is_no_number_is_looked_up_inside_the_table():
    series = np.array([[1.0, 2.0]])
    with np.errstate(invalid="ignore"):
        found = Interval(0.0, 1.0).evaluate(series, np.array([np.nan, np.inf, -np.inf]))
    np.testing.assert_allclose(found, [[-1.0, 3.0, -1.0]])
