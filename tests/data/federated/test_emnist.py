import hashlib
import lzma
import tarfile
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from unseen.data.federated import emnist
from unseen.data.federated.emnist import load_emnist
from unseen.data.federated.hdf5_clients import read_hdf5
from unseen.data.federated.sqlite_clients import read_sqlite
from unseen.errors import DataError, UsageError

needs_h5py = pytest.mark.skipif(find_spec("h5py") is None, reason="h5py is not installed: pip install 'unseen[hdf5]'")


@pytest.fixture
def sqlite_file(tmp_path, formats, writers):
    """A file with a split to train and one to test on; returns its path."""

    def write(name="emnist_all.sqlite", **options):
        train = {client: [formats["image"](*one) for one in zip(*own, strict=True)] for client, own in writers.items()}
        test = {"f0001_41": train["f0001_41"][:1]}
        splits = {"digits_only_train": train, "digits_only_test": test, "all_train": test, "all_test": test}
        formats["sqlite"](tmp_path / name, splits, **options)
        return tmp_path / name

    return write


@pytest.fixture
def hdf5_file(tmp_path, writers):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")

    def write(name, clients=None, *, column=False):
        with h5py.File(tmp_path / name, "w") as file:
            for client, (pixels, labels) in (writers if clients is None else clients).items():
                own = file.create_group(f"examples/{client}")
                own["pixels"] = pixels
                own["label"] = (labels[:, None] if column else labels).astype(np.int32)
        return tmp_path / name

    return write


def same(data, writers):
    assert data.ids == tuple(sorted(writers))
    assert data.sizes == tuple(len(writers[client][1]) for client in data.ids)
    for client in data.ids:
        inputs, labels = data.client(client)
        assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)
        assert np.array_equal(inputs, writers[client][0])
        assert np.array_equal(labels, writers[client][1])
        assert np.array_equal(data.labels(client), labels)


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [True, False])
def test_writers_of_a_sqlite_file_are_clients(sqlite_file, writers, index):
    same(read_sqlite(sqlite_file(index=index), "digits_only_train"), writers)


def test_a_split_has_its_own_examples(sqlite_file, writers):
    data = read_sqlite(sqlite_file(), "digits_only_test")
    assert (data.ids, data.sizes) == (("f0001_41",), (1,))
    assert data.client("f0001_41").labels.tolist() == [writers["f0001_41"][1][0]]


def test_a_client_with_more_rows_than_one_query_takes(tmp_path, formats):
    contents = [formats["image"](np.full((28, 28), number), number % 62) for number in range(1203)]
    formats["sqlite"](tmp_path / "big.sqlite", {"all_train": {"w": contents}})
    inputs, labels = read_sqlite(tmp_path / "big.sqlite", "all_train").client("w")
    assert inputs[:, 0, 0].tolist() == list(range(1203))
    assert labels.tolist() == [number % 62 for number in range(1203)]


def test_an_unknown_split_is_told_with_those_there_are(sqlite_file):
    with pytest.raises(UsageError, match="no split 'train'; there are: all_test, all_train, digits_only_test"):
        read_sqlite(sqlite_file(), "train")


def test_counts_that_do_not_fit_are_refused(sqlite_file):
    path = sqlite_file(counts={"f0002_07": 5})
    with pytest.raises(DataError, match="client f0002_07 has 1 examples, but client_metadata says 5"):
        read_sqlite(path, "digits_only_train")


def test_another_table_is_refused(tmp_path, formats):
    formats["sqlite"](tmp_path / "a.sqlite", {})
    with pytest.raises(DataError, match=r"cannot be read as a SQLite file"):
        read_sqlite(tmp_path / "none.sqlite", "all_train")
    (tmp_path / "b.sqlite").write_bytes(b"SQLite format 3\0 but nothing of the kind")
    with pytest.raises(DataError, match=r"b.sqlite cannot be read as a SQLite file"):
        read_sqlite(tmp_path / "b.sqlite", "all_train")
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(DataError, match="table examples has no client_id, serialized_example_proto, split_name"):
        read_sqlite(tmp_path / "empty.sqlite", "all_train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x05", "client w, example 2: a field of 5 bytes is cut off"),
        (b"", "expected a feature pixels of 784 floats, found none"),
        ("short", r"expected a feature pixels of 784 floats, found label \(1 int64\), pixels \(783 float32\)"),
        ("text", "have changed, or are no BLOBs"),
    ],
)
def test_an_example_that_is_no_image_is_named(tmp_path, formats, content, message):
    good = formats["image"](np.zeros(784), 1)
    wrong = {"short": formats["image"](np.zeros(783), 1), "text": "text"}.get(content, content)
    formats["sqlite"](tmp_path / "a.sqlite", {"all_train": {"w": [good, wrong]}})
    with pytest.raises(DataError, match=message):
        read_sqlite(tmp_path / "a.sqlite", "all_train").client("w")


def test_the_file_is_not_written_to(sqlite_file):
    path = sqlite_file()
    before = path.read_bytes()
    path.chmod(0o400)
    read_sqlite(path, "all_train").client("f0001_41")
    assert path.read_bytes() == before


# --- HDF5 ------------------------------------------------------------------------------------------------------------


@needs_h5py
@pytest.mark.parametrize("column", [False, True])
def test_writers_of_an_hdf5_file_are_clients(hdf5_file, writers, column):
    same(read_hdf5(hdf5_file("a.h5", column=column)), writers)


@needs_h5py
def test_an_hdf5_file_that_is_not_as_it_has_to_be_is_refused(tmp_path, hdf5_file):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(DataError, match="has no group examples"):
        read_hdf5(tmp_path / "other.h5")
    with h5py.File(tmp_path / "half.h5", "w") as file:
        file.create_group("examples/w")["pixels"] = np.zeros((1, 28, 28))
    with pytest.raises(DataError, match="client w has no array label"):
        read_hdf5(tmp_path / "half.h5")
    pixels = np.zeros((2, 28, 28), np.float32)
    with pytest.raises(DataError, match=r"client w: inputs have shape \(2, 28, 28\) and labels \(3,\)"):
        read_hdf5(hdf5_file("b.h5", {"w": (pixels, np.zeros(3))})).client("w")
    (tmp_path / "c.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"c.h5 cannot be read as an HDF5 file"):
        read_hdf5(tmp_path / "c.h5")


def test_without_h5py_one_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(
        UsageError, match=r"a.h5 is an HDF5 file, for which h5py is needed: pip install 'unseen\[hdf5\]'"
    ):
        read_hdf5(tmp_path / "a.h5")


# --- as it is published ----------------------------------------------------------------------------------------------


def test_the_published_sqlite_file_is_checked_and_unpacked_once(sqlite_file, writers, monkeypatch):
    path = sqlite_file()
    archive = path.with_name("emnist_all.sqlite.lzma")
    archive.write_bytes(lzma.compress(path.read_bytes(), format=lzma.FORMAT_ALONE))
    path.unlink()
    content = archive.read_bytes()
    known = replace(emnist.SQLITE, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(emnist, "SQLITE", known)
    train, test = load_emnist(path.parent)
    same(train, writers)
    assert test.ids == ("f0001_41",)
    archive.unlink()
    same(load_emnist(path.parent).train, writers)
    assert load_emnist(path.parent, only_digits=False).train.ids == ("f0001_41",)


@needs_h5py
def test_the_published_hdf5_files_are_used_where_they_are(tmp_path, hdf5_file, writers, monkeypatch):
    files = [hdf5_file("fed_emnist_digitsonly_train.h5"), hdf5_file("fed_emnist_digitsonly_test.h5")]
    with tarfile.open(tmp_path / "fed_emnist_digitsonly.tar.bz2", "w:bz2") as archive:
        for file in files:
            archive.add(file, file.name)
            file.unlink()
    digest = hashlib.sha256((tmp_path / "fed_emnist_digitsonly.tar.bz2").read_bytes()).hexdigest()
    monkeypatch.setitem(emnist.HDF5, True, replace(emnist.HDF5[True], sha256=digest))
    train, test = load_emnist(tmp_path)
    same(train, writers)
    same(test, writers)


def test_missing_files_are_told_with_address_size_and_checksum(tmp_path):
    with pytest.raises(DataError) as error:
        load_emnist(tmp_path)
    for part in (str(tmp_path), "Nothing is downloaded for you", emnist.SQLITE.url, "170,507,172 bytes", "c3aaf91b"):
        assert part in str(error.value)
