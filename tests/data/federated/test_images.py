import gzip
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unseen.data.federated.images import FASHION_MNIST, MNIST, IdxSet, ImageSet, load_idx_set, load_images
from unseen.errors import DataError, UsageError

NAMES = [f"{half}-{kind}" for half in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


@pytest.fixture
def small(tmp_path, formats, monkeypatch):
    """Four small files in a folder, and what is known of them."""
    monkeypatch.delenv("UNSEEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    arrays = {}
    for half, size in (("train", 12), ("t10k", 5)):
        arrays[f"{half}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 4, 3)).astype(np.uint8)
        arrays[f"{half}-labels-idx1-ubyte"] = rng.integers(0, 3, size).astype(np.uint8)
    folder = tmp_path / "sets" / "tiny"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(formats["idx"](array))
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}
    return folder, IdxSet("tiny", sums, ("a", "b", "c"), folders=("tiny",), hint="Make it."), arrays


def same(images: ImageSet, arrays):
    for half, own in (("train", images.train), ("t10k", images.test)):
        assert np.array_equal(own.inputs, arrays[f"{half}-images-idx3-ubyte"])
        assert np.array_equal(own.labels, arrays[f"{half}-labels-idx1-ubyte"])
        assert own.labels.dtype == np.int64


def test_four_files_are_a_set(small):
    folder, known, arrays = small
    images = load_idx_set(known, folder)
    same(images, arrays)
    assert (images.name, images.classes, images.ink) == ("tiny", ("a", "b", "c"), 255)


def test_packed_files_are_the_same_set(small):
    folder, known, arrays = small
    for name in NAMES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    same(load_idx_set(known, folder), arrays)


def test_it_is_found_by_the_variable_in_a_folder_of_many_sets_and_where_systems_put_it(small, monkeypatch):
    folder, known, arrays = small
    with pytest.raises(
        DataError, match=r"the image set tiny is not in .*cache/unseen/data; name .*UNSEEN_DATA. Make it"
    ):
        load_idx_set(known)
    monkeypatch.setenv("UNSEEN_DATA", str(folder.parent))
    same(load_idx_set(known), arrays)
    monkeypatch.delenv("UNSEEN_DATA")
    same(load_idx_set(replace(known, places=(folder,))), arrays)


def test_another_set_of_the_same_file_names_is_passed_over(small, tmp_path):
    folder, known, arrays = small
    other = tmp_path / "other"
    other.mkdir()
    for name in NAMES:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (other / name).write_bytes(content)
    with pytest.raises(DataError, match=r"Not taken: the content of .*train-labels-idx1-ubyte has SHA-256"):
        load_idx_set(known, other)
    (other / "tiny").symlink_to(folder)
    same(load_idx_set(known, other), arrays)


def test_damaged_or_missing_files_are_named(small):
    folder, known, _ = small
    path = folder / "t10k-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    with pytest.raises(DataError, match=r"the content of .*t10k-images-idx3-ubyte has SHA-256"):
        load_idx_set(known, folder)
    path.unlink()
    with pytest.raises(DataError, match=r"has no t10k-images-idx3-ubyte, plain or .gz; the set tiny"):
        load_idx_set(known, folder)


def test_what_does_not_fit_is_refused_even_if_nothing_is_known(small, formats):
    folder, known, arrays = small
    free = replace(known, sha256={})
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(formats["idx"](np.full(12, 3, np.uint8)))
    with pytest.raises(DataError, match="label 3 is none of 3 classes"):
        load_idx_set(free, folder)
    labels.write_bytes(formats["idx"](np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match=r"inputs have shape \(12, 4, 3\) and labels \(11,\)"):
        load_idx_set(free, folder)
    labels.write_bytes(formats["idx"](arrays["train-labels-idx1-ubyte"]))
    (folder / "t10k-images-idx3-ubyte").write_bytes(formats["idx"](np.zeros((5, 2, 2), np.uint8)))
    with pytest.raises(DataError, match=r"have shapes \(4, 3\) and \(2, 2\)"):
        load_idx_set(free, folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(formats["idx"](np.zeros((5, 4), np.uint8)))
    with pytest.raises(DataError, match=r"expected images as bytes, found shape \(5, 4\)"):
        load_idx_set(free, folder)


def test_scaled_images_have_one_channel_from_0_to_1(small):
    folder, known, _ = small
    images = replace(load_idx_set(known, folder), ink=16)
    scaled = images.scaled(np.array([[[0, 4], [8, 16]]], np.uint8))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[[[0.0, 0.25], [0.5, 1.0]]]]


def test_an_unknown_set_is_told_with_those_there_are():
    with pytest.raises(UsageError, match="no image set 'cifar'; there are: digits, fashion-mnist, mnist"):
        load_images("cifar")


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    expected = sklearn.load_digits()
    images = load_images("digits")
    test = np.arange(1797) % 5 == 4
    assert np.array_equal(images.test.inputs, expected.images[test])
    assert np.array_equal(images.train.inputs, expected.images[~test])
    assert np.array_equal(images.test.labels, expected.target[test])
    assert np.array_equal(images.train.labels, expected.target[~test])
    assert images.train.inputs.dtype == np.uint8
    assert images.scaled(images.train.inputs).max() == 1.0


def test_digits_need_scikit_learn_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("unseen.data.federated.digits.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install scikit-learn, or give a folder with its digits.csv.gz"):
        load_images("digits")
    with pytest.raises(DataError, match="cannot be read"):
        load_images("digits", tmp_path)


@pytest.mark.parametrize(
    ("cell", "rows", "message"),
    [
        ("17", 1797, "whole pixels from 0 to 16"),
        ("0.5", 1797, "whole pixels from 0 to 16"),
        ("0", 1796, r"has shape \(1796, 65\), expected \(1797, 65\)"),
        ("x", 1797, "cannot be read"),
    ],
)
def test_other_digits_are_refused(tmp_path, cell, rows, message):
    line = ",".join(["0"] * 64 + ["9"])
    text = "\n".join([cell + line[1:], *[line] * (rows - 1)])
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DataError, match=message):
        load_images("digits", tmp_path)


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])])
def test_the_real_set_where_it_is_to_be_had(name, first):
    try:
        images = load_images(name)
    except DataError as error:
        pytest.skip(str(error))
    assert images.train.inputs.shape == (60_000, 28, 28)
    assert images.test.inputs.shape == (10_000, 28, 28)
    assert images.train.labels[:5].tolist() == first
    assert np.bincount(images.test.labels).min() > 800


def test_published_sets_do_not_share_a_file():
    assert not set(MNIST.sha256.values()) & set(FASHION_MNIST.sha256.values())
    assert sorted(MNIST.sha256) == sorted(FASHION_MNIST.sha256) == sorted(NAMES)
    assert Path("/usr/share/datasets/fashion-mnist") in FASHION_MNIST.places
