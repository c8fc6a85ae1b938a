"""The key-value store: everybody reads their value, gaps are solved, and the parameters are those of the paper."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from unseen.crypto import okvs
from unseen.crypto.okvs import DENSE, GAP, Shape, encode, expansion, most_in_a_part, read
from unseen.errors import DataError
from unseen.kernels.okvs import count_parts, eliminate, part_keys


def random(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def by_cluster(count, clusters, seed=0):
    keys, starts, rows = random(count, seed), np.empty(clusters + 1, np.int64), np.empty(count, np.int32)
    count_parts(keys, starts)
    ordered = np.empty_like(keys)
    part_keys(keys, starts, ordered, rows)
    np.testing.assert_array_equal(ordered, keys[rows])
    return ordered, starts


@pytest.mark.parametrize(("count", "clusters"), [(0, 1), (1, 1), (2, 1), (700, 1), (5000, 3), (40_000, 3)])
def test_every_key_reads_its_value(count, clusters):
    shape = Shape.of(count, clusters)
    keys, starts = by_cluster(count, clusters)
    places, values = random(count, 1), random(count, 2)
    store = encode(keys, places, values, starts, shape)
    assert store.shape == (clusters * shape.width, 2)
    np.testing.assert_array_equal(read(keys, places, starts, store, shape), values)


def test_clusters_are_chosen_by_the_upper_bits_of_the_second_word():
    ordered, starts = by_cluster(1000, 7)
    parts = (ordered[:, 1] >> np.uint64(32)).astype(np.int64) * 7 >> 32
    np.testing.assert_array_equal(parts, np.repeat(np.arange(7), np.diff(starts)))


def test_stores_add_up():
    """Decoding is linear, which is what the protocol lives on."""
    shape, starts = Shape.of(500, 1), np.array([0, 500])
    keys, places = random(500), random(500, 1)
    one, other = random(shape.width, 2), random(shape.width, 3)
    both = read(keys, places, starts, one, shape) ^ read(keys, places, starts, other, shape)
    np.testing.assert_array_equal(read(keys, places, starts, one ^ other, shape), both)


def test_rows_that_are_left_over_are_solved_by_dense_columns():
    """With too few sparse columns, elimination gets stuck in nearly every cluster; the dense ones fill the gap."""
    solved, stuck = 0, 0
    for seed in range(60):
        shape = Shape(1, 1500, int(1500 * 1.225))
        keys, places, values = random(1500, seed), random(1500, seed + 100), random(1500, seed + 200)
        gap = eliminate(places, shape.sparse, np.empty((1500, 2), np.int64), np.empty(GAP, np.int64))
        if gap < 0:
            stuck += 1
            with pytest.raises(DataError, match="keys of a cluster are left over"):
                encode(keys, places, values, np.array([0, 1500]), shape)
            continue
        store = encode(keys, places, values, np.array([0, 1500]), shape)
        np.testing.assert_array_equal(read(keys, places, np.array([0, 1500]), store, shape), values)
        assert store[shape.sparse :].any() == (gap > 0)
        solved += gap > 0
    assert solved > 10
    assert stuck < 30


def test_two_keys_in_the_same_columns_take_a_dense_one():
    keys, places, values = random(2), np.repeat(random(1), 2, axis=0), random(2, 2)
    shape = Shape.of(2, 1)
    store = encode(keys, places, values, np.array([0, 2]), shape)
    np.testing.assert_array_equal(read(keys, places, np.array([0, 2]), store, shape), values)


def test_equal_keys_with_different_values_have_no_solution():
    keys, places = np.repeat(random(1), 2, axis=0), np.repeat(random(1, 1), 2, axis=0)
    with pytest.raises(DataError, match="depend on each other"):
        encode(keys, places, random(2, 2), np.array([0, 2]), Shape.of(2, 1))


def test_a_cluster_that_is_too_full_is_refused():
    with pytest.raises(DataError, match="a cluster got 3 keys, of at most 2"):
        encode(random(3), random(3, 1), random(3, 2), np.array([0, 3]), Shape(1, 2, 1466))


# --- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "bits", "expected"), [(2**14, 40, 1.2675), (2**16, 40, 1.2436), (2**20, 40, 1.2274)])
def test_the_expansion_is_that_of_the_paper(keys, bits, expected):
    """RR22: e ≈ 1.28 for clusters of 2^14 including their overhead, ≈ 1.23 for one of 2^20."""
    assert expansion(keys, bits) == pytest.approx(expected, abs=2e-4)
    assert expansion(keys, bits + 6) > expansion(keys, bits)


def test_dense_columns_leave_the_margin_that_is_promised():
    for keys in (2**10, 2**14, 2**17):
        for clusters in (1, 64, 2**14):
            bits = okvs.STATISTICAL_BITS + math.log2(clusters)
            assert bits / math.log2(expansion(keys, bits) * keys) < 5.5 < GAP
    assert DENSE - GAP >= okvs.STATISTICAL_BITS + 8


@pytest.mark.parametrize(("count", "parts"), [(100, 2), (10_000, 7), (1_000_000, 62), (10_000_000, 10)])
def test_no_part_exceeds_its_bound(count, parts):
    """Against the binomial distribution's own tail; Chernoff's bound is above it, but by little."""
    bound = most_in_a_part(count, parts, 40)
    assert parts * binom.sf(bound, count, 1 / parts) < 2.0**-40
    assert parts * binom.sf(0.97 * (bound - count / parts) + count / parts, count, 1 / parts) > 2.0**-50


def test_one_part_takes_all():
    assert most_in_a_part(17, 1, 40) == 17
    assert most_in_a_part(0, 5, 40) == 0
    assert most_in_a_part(1, 5, 40) == 1
