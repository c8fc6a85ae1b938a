import dataclasses
import json

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unseen.errors import DataError, UsageError
from unseen.learners import binning
from unseen.learners.binning import BinnedColumns, Binning, Categories, ColumnBins, fit_bins

NUMBERS = st.one_of(st.integers(-20, 20).map(float), st.floats(-1e300, 1e300), st.just(np.nan))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    arrays(np.float64, st.integers(0, 60), elements=NUMBERS), st.integers(3, 12), st.sampled_from(["quantile", "width"])
)
def test_codes_follow_the_order_of_values_and_stay_below_the_number_of_bins(values, most, method):
    bins = fit_bins("x", values, Binning(most, method))
    codes = bins.transform(values)
    present = ~np.isnan(values)
    order = np.argsort(values[present], kind="stable")
    assert (np.diff(codes[present][order].astype(int)) >= 0).all()
    assert bins.bins <= most
    assert bins.missing == (not present.all())
    assert (codes[~present] == bins.bins - 1).all()
    assert codes.max(initial=0) < bins.bins
    if method == "quantile" and len(set(values[present])) <= most - bins.missing:
        assert len(set(codes[present])) == len(set(values[present]))


def test_quantile_bins_hold_about_equal_shares_and_frequent_values_have_their_own():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(5000), rng.normal(size=5000)])
    counts = np.bincount(fit_bins("x", values, Binning(32)).transform(values))
    assert len(counts) == 32
    assert counts.max() == 5000
    others = np.delete(counts, counts.argmax())
    assert others.min() > 100
    assert others.max() < 220
    even = rng.uniform(1, 2, size=12_000)
    assert set(np.bincount(fit_bins("x", even, Binning(16)).transform(even))) == {800}


COLUMNS = {
    "both signs": lambda rng, rows: rng.normal(size=rows),
    "one sign": lambda rng, rows: -rng.exponential(size=rows),
    "frequent values": lambda rng, rows: np.round(3 * rng.normal(size=rows) ** 3 + 0.2, rng.integers(0, 2)),
    "counts": lambda rng, rows: rng.poisson(rng.exponential(20, rows)).astype(float),
    "zeros": lambda rng, rows: np.where(rng.uniform(size=rows) < 0.4, 0, rng.normal(1, size=rows)),
    "missing": lambda rng, rows: np.where(rng.uniform(size=rows) < 0.1, np.nan, rng.normal(size=rows)),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_quantile_bins_are_those_of_lightgbm(kind):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        most, values = int(rng.integers(4, 40)), COLUMNS[kind](rng, 1000)
        codes = fit_bins("x", values, Binning(most)).transform(values)
        np.testing.assert_array_equal(codes, lightgbm_codes(values, most))


def lightgbm_codes(values, most):
    """LightGBM's bins that are not empty, numbered from 0, told by a model that gives each of them a value."""
    options = {"max_bin": most, "min_data_in_bin": 1, "num_leaves": 2 * most, "min_data_in_leaf": 1, "num_threads": 1}
    options |= {"objective": "regression", "learning_rate": 1.0, "min_sum_hessian_in_leaf": 0, "verbose": -1}
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)
    model = lightgbm.train(options, lightgbm.Dataset(values[:, None], order), 1)
    return np.unique(model.predict(values[:, None]), return_inverse=True)[1]


def test_few_values_have_edges_halfway():
    assert fit_bins("x", np.array([1.0, 2.0, 2.0, 5.0])).edges == (1.5, 3.5)
    near = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert fit_bins("x", near).transform(near).tolist() == [0, 1]
    huge = np.array([-1.7e308, 1.7e308])
    assert fit_bins("x", huge).transform(huge).tolist() == [0, 1]


def test_equal_width_and_given_edges():
    values = np.array([0.0, 1.0, 9.0, 10.0])
    assert fit_bins("x", values, Binning(5, "width")).edges == (2.0, 4.0, 6.0, 8.0)
    assert fit_bins("x", values, edges=[0.5, 9.5]).transform(values).tolist() == [0, 1, 1, 2]
    constant = fit_bins("x", np.full(5, 3.0), Binning(8, "width"))
    assert constant.bins == 1


def test_missing_values_unseen_in_training_are_typical():
    bins = fit_bins("x", np.array([1.0, 2, 2, 2, 3]))
    assert bins.transform(np.array([np.nan, 0.0, 99.0])).tolist() == [1, 0, 2]
    names = fit_bins("x", Categories(np.array([0, 1]), ("a", "b")))
    assert names.transform(Categories(np.array([-1]), ())).tolist() == [2]


def test_frequent_categories_have_bins_and_the_others_share_one():
    places = np.array([0] * 5 + [1] * 3 + [2] * 3 + [3] + [-1])
    bins = fit_bins("x", Categories(places, ("d", "c", "b", "a", "never")), Binning(4))
    assert bins.categories == ("d", "b")
    assert (bins.bins, bins.missing) == (4, True)
    later = Categories(np.array([0, 1, 2, -1]), ("b", "new", "d"))
    assert bins.transform(later).tolist() == [1, 2, 0, 3]


def test_large_columns_are_sampled_always_alike():
    values = np.random.default_rng(1).normal(size=binning.SAMPLE_ROWS + 50_000)
    first, again = fit_bins("x", values), fit_bins("x", values)
    assert first == again
    counts = np.bincount(first.transform(values)) / len(values)
    assert abs(counts * 64 - 1).max() < 0.1


def test_survives_json():
    for bins in (fit_bins("x", np.array([1.0, np.nan, 7])), fit_bins("y", Categories(np.array([0, -1]), ("a",)))):
        fields = json.loads(json.dumps(dataclasses.asdict(bins)))
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        assert ColumnBins(**fields) == bins


def test_columns_are_put_together_and_picked():
    numbers, names = np.array([1.0, np.nan]), Categories(np.array([0, 0]), ("a",))
    columns = [fit_bins("x", numbers), fit_bins("y", names)]
    binned = binning.transform(columns, [numbers, names], 2)
    assert binned.codes.tolist() == [[0, 1], [0, 0]]
    assert (binned.bins, binned.categorical, binned.missing) == ((2, 2), (False, True), (True, False))
    assert binned.offsets.tolist() == [0, 2, 4]
    assert binned.pick([1]).categorical == (True,)
    assert BinnedColumns.none(7).rows == 7


def test_misuse_is_refused():
    with pytest.raises(DataError, match="column x, row 1: infinite"):
        fit_bins("x", np.array([0.0, np.inf]))
    with pytest.raises(DataError, match="column x: expected numbers"):
        fit_bins("x", np.array([0.0])).transform(Categories(np.array([0]), ("a",)))
    with pytest.raises(UsageError, match="increasing"):
        fit_bins("x", np.array([0.0]), edges=[1.0, 1.0])
    with pytest.raises(UsageError, match="categories have no edges"):
        fit_bins("x", Categories(np.array([0]), ("a",)), edges=[1.0])
    with pytest.raises(UsageError, match="3 to 256 bins"):
        Binning(257)
    with pytest.raises(UsageError, match="method"):
        Binning(method="best")
    with pytest.raises(DataError, match="numbered"):
        Categories(np.array([1]), ("a",))
    with pytest.raises(UsageError, match="found the code 3"):
        BinnedColumns(np.full((1, 2), 3, np.uint8), (3,), (False,), (False,))
    with pytest.raises(DataError, match="expected 1 columns of 3 rows"):
        binning.transform([fit_bins("x", np.zeros(2))], [np.zeros(2)], 3)
