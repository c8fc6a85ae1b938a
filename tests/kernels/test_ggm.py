"""One level of GGM trees against plain array arithmetic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.kernels.ggm import children


def expected(parents, left, right, skipped, count):
    both = np.stack([left ^ parents, right ^ parents], axis=2)
    for tree, place in enumerate(skipped):
        if place >= 0:
            both[tree, place] = 0
    nodes = both.reshape(len(parents), -1, 2)[:, :count]
    sides = [np.bitwise_xor.reduce(nodes[:, side::2], axis=1) for side in (0, 1)]
    return nodes, np.stack(sides, axis=1)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 9), st.booleans(), st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_level_is_permuted_exclusive_or_parent(seed, trees, width, odd, data):
    rng = np.random.default_rng(seed)
    parents, left, right = rng.integers(0, 2**64, (3, trees, width, 2), np.uint64)
    skipped = np.array(data.draw(st.lists(st.integers(-1, width - 1), min_size=trees, max_size=trees)), np.int64)
    count = 2 * width - odd
    nodes, sums = np.full((trees, count, 3), 7, np.uint64), np.full((trees, 2, 2), 7, np.uint64)
    children(parents, left, right, skipped, nodes, sums)
    wanted, wanted_sums = expected(parents, left, right, skipped, count)
    assert np.array_equal(nodes[:, :, :2], wanted)
    assert np.array_equal(sums, wanted_sums)
    assert (nodes[:, :, 2] == 7).all(), "a third word of a leaf belongs to somebody else"


def test_the_missing_sum_gives_back_the_missing_child():
    rng = np.random.default_rng(5)
    parents, left, right = rng.integers(0, 2**64, (3, 1, 4, 2), np.uint64)
    nodes, sums, rest = np.empty((1, 8, 2), np.uint64), np.empty((1, 2, 2), np.uint64), np.empty((1, 2, 2), np.uint64)
    none, third = np.array([-1]), np.array([2])
    children(parents, left, right, none, nodes, sums)
    full = nodes.copy()
    children(parents, left, right, third, nodes, rest)
    assert np.array_equal(sums[0, 0] ^ rest[0, 0], full[0, 4])
    assert np.array_equal(sums[0, 1] ^ rest[0, 1], full[0, 5])
