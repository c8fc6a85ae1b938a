import gzip
import hashlib

import numpy as np
import pytest

from unseen.data.federated.idx import read_idx
from unseen.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)


@pytest.fixture
def write(tmp_path, formats):
    def put(content, name="file-idx3-ubyte"):
        path = tmp_path / name
        path.write_bytes(formats["idx"](content) if isinstance(content, np.ndarray) else content)
        return path

    return put


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(24,), (4, 6), (4, 3, 2), (0, 5)])
def test_every_type_and_shape_is_read(write, kind, shape):
    values = (np.arange(np.prod(shape)) - 3).astype(kind).reshape(shape)
    found = read_idx(write(values))
    assert found.dtype == np.dtype(kind)
    assert found.dtype.isnative
    assert np.array_equal(found, values)


def test_a_file_of_the_format_in_full(write):
    content = bytes.fromhex("00000b02 00000002 00000003 0001 0002 0003 fffe 7fff 8000".replace(" ", ""))
    assert read_idx(write(content)).tolist() == [[1, 2, 3], [-2, 32767, -32768]]


@pytest.mark.parametrize("name", ["packed.gz", "packed-without-the-ending"])
def test_gzip_is_seen_from_the_content(write, formats, name):
    assert np.array_equal(read_idx(write(gzip.compress(formats["idx"](ARRAY)), name)), ARRAY)


def test_the_known_content_is_checked_packed_or_not(write, formats):
    content = formats["idx"](ARRAY)
    known = hashlib.sha256(content).hexdigest()
    for path in (write(content), write(gzip.compress(content), "b.gz")):
        assert np.array_equal(read_idx(path, sha256=known), ARRAY)
        with pytest.raises(DataError, match=f"SHA-256 {known}, expected 00: it is another set"):
            read_idx(path, sha256="00")


@pytest.mark.parametrize("cut", [0, 3, 4, 9, 16, 39])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_off_is_refused(write, formats, cut, packed):
    content = formats["idx"](ARRAY)[:cut]
    with pytest.raises(DataError, match="is cut off"):
        read_idx(write(gzip.compress(content) if packed else content))


def test_a_cut_off_archive_is_refused(write, formats):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(write(gzip.compress(formats["idx"](ARRAY))[:-9]))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("00000703", "begins with 00 00 07 03"),
        ("00000800", "begins with 00 00 08 00"),
        ("00010801", "is no IDX file"),
        ("89504e47", "is no IDX file: it begins with 89 50 4e 47"),
    ],
)
def test_another_file_is_refused(write, formats, head, message):
    with pytest.raises(DataError, match=message):
        read_idx(write(bytes.fromhex(head) + formats["idx"](ARRAY)[4:]))


def test_what_follows_the_end_is_refused(write, formats):
    with pytest.raises(DataError, match="goes on after the 24 bytes of its 4 × 3 × 2 values"):
        read_idx(write(formats["idx"](ARRAY) + b"x"))


def test_a_false_size_takes_no_memory(write):
    with pytest.raises(DataError, match="is cut off: 4,294,967,292 of 4,294,967,295 bytes are missing"):
        read_idx(write(bytes.fromhex("00000801ffffffff") + b"abc"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere cannot be read: No such file"):
        read_idx(tmp_path / "nowhere")
