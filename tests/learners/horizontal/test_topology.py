"""Mixing keeps the mean, and its spectral gaps are those of the textbooks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.learners.horizontal.mixing import distance, mean_of, mixed
from unseen.learners.horizontal.topology import GRAPHS, Topology

DIRECTED = {"exponential", "one_peer"}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(GRAPHS)), st.sampled_from([6, 9, 12, 16]), st.integers(0, 5), st.data())
def test_every_exchange_keeps_what_there_is(name, nodes, number, data):
    exchange = Topology(name, seed=number).mixing(nodes, number)
    matrix = exchange.dense()
    np.testing.assert_allclose(matrix.sum(axis=0), 1)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert (matrix >= 0).all()
    assert name in DIRECTED or (matrix == matrix.T).all()
    down = np.array(data.draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes)))
    less = exchange.without(down).dense()
    np.testing.assert_allclose(less.sum(axis=0), 1)
    assert np.all(less[down][:, ~down] == 0)
    assert np.all(less[~down][:, down] == 0)
    np.testing.assert_allclose(less[np.ix_(down, down)], np.eye(nodes)[np.ix_(down, down)], atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(GRAPHS)), st.integers(0, 3))
def test_rows_are_mixed_as_the_matrix_says_and_shares_have_two_ends(name, number):
    exchange = Topology(name).mixing(12, number)
    rows = np.random.default_rng(number).normal(size=(12, 2050)).astype(np.float32)
    np.testing.assert_allclose(mixed(rows, exchange), exchange.dense() @ rows.astype(np.float64), atol=1e-6)
    for node in range(12):
        assert all(exchange.sent_to(other)[node] == share for other, share in exchange.sent_by(node).items())


def test_a_ring_has_the_gap_of_its_cosine():
    assert Topology("ring").spectral_gap(20) == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / 20)))
    assert Topology("complete").spectral_gap(9) == pytest.approx(1)
    assert Topology("one_peer").spectral_gap(16) == pytest.approx(1), "exact after log2 n rounds"
    # Ying et al., "Exponential Graph is Provably Efficient", NeurIPS 2021, Theorem 1: for even n, 2/(1 + ⌈log2 n⌉).
    assert Topology("exponential").spectral_gap(32) == pytest.approx(2 / 6)
    assert Topology("random_regular", degree=4).spectral_gap(200) > 5 * Topology("torus").spectral_gap(200)
    assert Topology("random_regular", degree=4).mixing(50).dense().astype(bool).sum() == 250


@pytest.mark.parametrize(("name", "nodes"), [("torus", 7), ("ring", 1), ("random_regular", 4), ("random_regular", 3)])
def test_graphs_that_cannot_be(name, nodes):
    with pytest.raises(UsageError):
        Topology(name).mixing(nodes)


def test_odd_degrees_have_a_matching():
    for degree in (2, 3, 5):
        matrix = Topology("random_regular", degree=degree).mixing(10).dense()
        assert (np.count_nonzero(matrix, axis=1) == degree + 1).all()
    with pytest.raises(UsageError, match="one of both is even"):
        Topology("random_regular", degree=3).mixing(9)
    with pytest.raises(UsageError, match="there is no topology 'star'"):
        Topology("star")


def test_push_sum_finds_the_mean_though_nodes_come_and_go():
    rng = np.random.default_rng(0)
    rows = rng.normal(3, 1, (16, 5)).astype(np.float32)
    rows[:, -1] = 1
    mean = rows[:, :-1].mean(axis=0)
    for number in range(60):
        rows = mixed(rows, Topology("one_peer").mixing(16, number).without(rng.random(16) < 0.3))
    assert rows[:, -1].std() > 0.01, "masses are no longer 1: the plain average of rows would be wrong"
    np.testing.assert_allclose(mean_of(rows), mean, atol=1e-5)
    assert distance(rows) < 1e-3
