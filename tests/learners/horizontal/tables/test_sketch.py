"""Bins found by counting: those of all values together, whoever holds which."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import RemoteProtocolError
from unseen.learners.binning import Binning, fit_bins
from unseen.learners.horizontal.tables.exact import to_floats
from unseen.learners.horizontal.tables.sketch import NOISY_ROUNDS, ROUNDS, WIDTH, Ranges, keys, numbers, pack, unpack


def sketched(values, *, clients=3, bins=16, rounds=ROUNDS):
    ranges = Ranges.everything()
    for _ in range(rounds):
        (ranges,) = unpack(pack([ranges]))
        assert ranges.asked <= 64 * WIDTH + 1
        (question,) = unpack(pack([ranges.question()]))
        assert not question.rows.any()
        counts = sum(question.count(part) for part in np.array_split(values, clients))
        ranges = ranges.refined(counts).planned(bins, 64 * WIDTH)
    return ranges


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.floats(allow_nan=False)))
def test_keys_have_the_order_of_values_and_lead_back_to_them(values):
    given_ = np.array(values)
    found = keys(given_)
    flushed = np.where(np.abs(given_) <= 1e-35, 0.0, given_)
    np.testing.assert_array_equal(numbers(found), flushed)
    np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(flushed, kind="stable"))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.sampled_from([*range(-6, 6), 0.5, 2.25, 1e6, -1e6, np.nan]), min_size=1, max_size=200))
def test_few_distinct_values_are_cut_as_lightgbm_cuts_them(values):
    column = np.array(values, np.float64)
    edges, missing, typical = sketched(column).bins(18)
    reference = fit_bins("x", column, Binning(18))
    assert edges.tolist() == list(reference.edges)
    assert missing == reference.missing
    assert missing or typical == reference.typical


@pytest.mark.parametrize("bins", [8, 64, 250])
def test_bins_of_continuous_values_hold_equal_shares(bins):
    rng = np.random.default_rng(5)
    for column in (rng.normal(size=20_000), np.exp(3 * rng.normal(size=20_000)), 1e6 + rng.random(20_000)):
        edges, _, _ = sketched(column, bins=bins).bins(bins)
        sizes = np.bincount(np.searchsorted(edges, column), minlength=bins)
        assert len(sizes) == bins
        assert sizes.max() < 1.4 * len(column) / bins


COLUMNS = {
    "continuous": lambda rng, n: rng.normal(size=n),
    "money": lambda rng, n: np.round(50 * np.exp(2 * rng.normal(size=n))),
    "with gaps and frequent values": lambda rng, n: (
        rng.choice([np.nan, 0.0, 0.3, 1.0], n) * rng.normal(size=n).round(2)
    ),
    "half of it in a cluster": lambda rng, n: np.where(rng.random(n) < 0.5, 1e6 + rng.random(n), rng.normal(size=n)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_fall_into_the_bins_that_lightgbm_makes_of_all_values(name):
    column = COLUMNS[name](np.random.default_rng(8), 3000)
    ranges = sketched(column, bins=64)
    edges, missing, _ = ranges.bins(64)
    present = column[~np.isnan(column)]
    reference = fit_bins("x", column, Binning(64))
    assert missing == reference.missing
    np.testing.assert_array_equal(np.searchsorted(edges, present), np.searchsorted(reference.edges, present))


def test_with_noise_nothing_is_split_for_an_end():
    column = np.random.default_rng(9).normal(size=20_000)
    ranges = Ranges.everything()
    for _ in range(NOISY_ROUNDS):
        ranges = ranges.refined(ranges.count(column)).planned(16, 64 * WIDTH, least=20.0)
        few = len(ranges.rows) <= 2 * 16
        assert few or (ranges.rows[ranges.split > 0] > len(column) / (8 * 16)).all()
    sharp = ranges.planned(16, 64 * WIDTH)
    assert (sharp.rows[sharp.split > 0] <= len(column) / (8 * 16)).any()


def test_frequent_values_have_bins_of_their_own():
    rng = np.random.default_rng(6)
    column = np.concatenate([rng.normal(size=5000), np.full(3000, 0.1), np.zeros(3000)])
    edges, _, _ = sketched(column).bins(16)
    for value in (0.0, 0.1):
        inside = np.searchsorted(edges, column) == np.searchsorted(edges, value)
        assert inside.sum() <= 3010


def test_who_holds_which_row_does_not_matter():
    rng = np.random.default_rng(7)
    column = rng.normal(size=500)
    one = sketched(column, clients=1)
    many = sketched(np.sort(column), clients=40)
    np.testing.assert_array_equal(pack([one]), pack([many]))


def test_odd_values():
    column = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, 1.7e308, -1.7e308])
    ranges = sketched(column)
    edges, missing, _ = ranges.bins(16)
    assert missing
    assert np.isfinite(edges).all()
    codes = np.searchsorted(edges, column[~np.isnan(column)])
    assert codes.tolist() == [4, 0, 2, 2, 2, 3, 1]
    for nothing in (np.full(5, np.nan), np.empty(0)):
        edges, missing, typical = sketched(nothing, clients=1).bins(16)
        assert (len(edges), missing, typical) == (0, len(nothing) > 0, 0)
    assert sketched(np.full(9, 3.5)).bins(16)[0].tolist() == []


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [-1],
        [1, 1],
        [1, 1, 0, 5, 65, 1, 1, 0],  # a range larger than everything
        [1, 1, 0, 5, 3, 1, 4, 0],  # split finer than it is
        [1, 1, 0, 5, 64, 1, 40, 0],  # into far too many parts
        [1, 2, 0, 9, 5, 1, 1, 1, 1, 0, 0, 0, 0],  # not in order
        [1, 1, 0, 5, 3, 1, 1, -1],  # settled less than never
    ],
)
def test_malformed_ranges_are_refused(bad):
    with pytest.raises(RemoteProtocolError, match="malformed"):
        unpack(to_floats(np.array(bad, np.int64)))
