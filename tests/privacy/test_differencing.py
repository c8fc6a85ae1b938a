import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.privacy.differencing import Measured, differing, fingerprints, near_lists, near_sizes


def prints(words):
    return np.array(sorted(words), "<u8").tobytes()


def test_fingerprints_are_the_sorted_distinct_heads_of_points():
    points = np.random.default_rng(1).integers(0, 256, (300, 32), np.uint8)
    points[17] = points[3]
    made = fingerprints(points)
    heads = {int.from_bytes(point[:8].tobytes(), "little") for point in points}
    assert len(heads) == 299
    assert np.frombuffer(made, "<u8").tolist() == sorted(heads)
    assert fingerprints(points[np.random.default_rng(2).permutation(300)]) == made
    assert fingerprints(points[:0]) == b""


@pytest.mark.parametrize("shape", [(5, 7), (40,), (2, 2, 32)])
def test_fingerprints_need_points_of_eight_bytes(shape):
    with pytest.raises(UsageError, match="expected points of 8 bytes"):
        fingerprints(np.zeros(shape, np.uint8))


words = st.sets(st.integers(0, 40), max_size=30)


@settings(max_examples=200, deadline=None)
@given(words, words, st.integers(1, 5))
def test_differences_are_those_of_sets(left, right, points):
    only = len(left - right), len(right - left)
    assert differing(prints(left), prints(right)) == only
    near = left != right and max(only) <= points
    assert near_lists(prints(left), prints(right), points) is near
    assert near_lists(prints(right), prints(left), points) is near


def test_one_person_added_dropped_or_swapped_is_found_among_many():
    crowd = set(range(100_000))
    for changed in (crowd | {200_000}, crowd - {5}, crowd - {5} | {200_000}):
        assert near_lists(prints(crowd), prints(changed), 1)
    assert not near_lists(prints(crowd), prints(crowd), 1)
    assert not near_lists(prints(crowd), prints(crowd - {5, 6}), 1)
    assert not near_lists(prints(crowd), prints({word + 100_000 for word in crowd}), 1), "another key"


def test_sizes_show_one_list_that_is_as_large():
    earlier = [Measured(5_000, 300), Measured(2_000, 120)]
    assert near_sizes(Measured(2_000, 121), earlier, 10) == (1,)
    assert near_sizes(Measured(2_010, 130), earlier, 10) == (1,)
    assert near_sizes(Measured(2_011, 120), earlier, 10) == ()
    assert near_sizes(Measured(2_000, 131), earlier, 10) == ()
    assert near_sizes(Measured(2_000, 121), [], 10) == ()


def test_sizes_show_two_lists_that_make_up_a_third():
    left, right, whole = Measured(3_000, 200), Measured(2_000, 120), Measured(5_001, 321)
    for new, earlier in ((whole, [left, right]), (right, [left, whole]), (left, [whole, right])):
        assert near_sizes(new, [Measured(9_000, 80), *earlier], 10) == (1, 2)
    assert near_sizes(Measured(5_001, 340), [left, right], 10) == ()


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=20), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60), max_size=3))
def test_lists_that_differ_by_few_points_always_show_in_their_sizes(mine, members, changed):
    other = mine ^ changed
    measured = [Measured(len(points), len(points & members)) for points in (mine, other)]
    assert near_sizes(measured[1], measured[:1], 3) == (0,)
