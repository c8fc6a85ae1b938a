import numpy as np
import pytest
from plain import pictures

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.neural.augment import Affine, Flip, Shift, one_after_the_other

ALL = [Shift(2), Flip(), Affine(), one_after_the_other(Shift(1), Flip(), Affine(5.0))]


def batch(channels=None, count=40):
    return pictures(count, side=9, channels=channels).inputs.astype(np.float32) / 255 + 0.1


@pytest.mark.parametrize("change", ALL, ids=["shift", "flip", "affine", "all"])
@pytest.mark.parametrize("channels", [None, 3])
def test_shapes_stay_the_batch_stays_and_the_same_generator_gives_the_same(change, channels):
    before = batch(channels)
    kept = before.copy()
    after = change(before, np.random.default_rng(1))
    assert after.shape == before.shape
    assert after.dtype == np.float32
    assert after.flags.c_contiguous
    assert (before == kept).all()
    assert (after != before).any()
    assert (after == change(before, np.random.default_rng(1))).all()
    assert (after != change(before, np.random.default_rng(2))).any()


def test_shifts_move_every_picture_by_its_own_whole_pixels_all_channels_alike():
    before = batch(3)
    found = set()
    for picture, moved in zip(before, Shift(2)(before, np.random.default_rng(0)), strict=True):
        wide = np.pad(picture, ((0, 0), (2, 2), (2, 2)))
        (place,) = [(y, x) for y in range(5) for x in range(5) if (wide[:, y : y + 9, x : x + 9] == moved).all()]
        found.add(place)
    assert len(found) > 12
    assert (Shift(0)(before, np.random.default_rng(0)) == before).all()


def test_flips_mirror_some_pictures_and_no_other_axis():
    before = batch()
    after = Flip(0.5)(before, np.random.default_rng(0))
    same, mirrored = (after == before).all((1, 2)), (after == before[:, :, ::-1]).all((1, 2))
    assert (same ^ mirrored).all()
    assert 10 < mirrored.sum() < 30
    assert (Flip(1.0)(before, np.random.default_rng(0)) == before[:, :, ::-1]).all()
    assert (Flip(0.0)(before, np.random.default_rng(0)) == before).all()


def test_affine_changes_are_small_and_bounded():
    still = Affine(0.0, 0.0, 0.0)(batch(), np.random.default_rng(0))
    np.testing.assert_allclose(still, batch(), atol=1e-5)
    square = np.zeros((50, 21, 21), np.float32)
    square[:, 8:13, 8:13] = 1
    turned = Affine(45.0, 0.0, 0.0)(square, np.random.default_rng(0))
    np.testing.assert_allclose(turned.sum((1, 2)), 25, rtol=0.05)
    sized = Affine(0.0, 0.3, 0.0)(square, np.random.default_rng(0)).sum((1, 2))
    assert 25 * 0.7**2 * 0.9 < sized.min() < 20
    assert 32 < sized.max() < 25 * 1.3**2 * 1.1
    centre = (turned * np.arange(21)).sum((1, 2)) / turned.sum((1, 2))
    np.testing.assert_allclose(centre, 10, atol=0.1)


def test_what_makes_no_sense_is_refused():
    for make in (lambda: Shift(-1), lambda: Flip(1.5), lambda: Affine(scale=1.0), lambda: Affine(degrees=-1.0)):
        with pytest.raises(UsageError):
            make()
    for change in ALL:
        with pytest.raises(DataError, match=r"found \(4, 9\)"):
            change(np.zeros((4, 9), np.float32), np.random.default_rng(0))
