"""Values in the codec's binary form: what is written is what is read, nobody else's, and nothing is copied."""

import stat
import tracemalloc
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.component import Packed
from unseen.errors import DataError


@message("test_packed/words")
class Words:
    name: str
    values: Annotated[NDArray[np.int64], Shape(None, None)]
    codes: NDArray[np.uint8]


@message("test_packed/other")
class Other:
    name: str


def words(rows=3):
    return Words("a", np.arange(2 * rows, dtype=np.int64).reshape(rows, 2), np.arange(5, dtype=np.uint8))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    name=st.text(max_size=9),
    values=arrays.arrays(np.int64, arrays.array_shapes(min_dims=2, max_dims=2, min_side=0)),
    codes=arrays.arrays(np.uint8, arrays.array_shapes()),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, name, values, codes):
    path = tmp_path_factory.mktemp("packed") / "content.bin"
    packed = Packed.of(Words(name, values, codes))
    packed.write(path)
    read = Packed.read(path)
    assert (read, read.digest, read.size) == (packed, packed.digest, path.stat().st_size)
    for source in (packed, read):
        found = source.unpack(Words)
        assert found.name == name
        np.testing.assert_array_equal(found.values, values)
        np.testing.assert_array_equal(found.codes, codes)
        assert not found.values.flags.writeable


def test_only_the_owner_may_read_it(tmp_path):
    Packed.of(words()).write(tmp_path / "content.bin")
    assert stat.S_IMODE((tmp_path / "content.bin").stat().st_mode) == 0o600


def test_it_does_not_show_what_it_holds():
    assert repr(Packed.of(Other("a secret"))) == "Packed()"


def test_digests_tell_contents_and_messages_apart():
    other = words()
    other.codes[0] = 9
    found = [Packed.of(it) for it in (words(), other, Other("a"), words())]
    assert len({it.digest for it in found}) == len(set(found)) == 3
    assert found[0] == found[3] != found[1]
    assert found[0] != "a"


def test_another_message_than_expected_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected message test_packed/other.*run the step again"):
        Packed.of(words()).unpack(Other)


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_is_not_there_or_empty_is_named(tmp_path, content):
    path = tmp_path / "content.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path} is missing or damaged"):
        Packed.read(path)


def test_arrays_are_not_copied(tmp_path):
    large = Words("a", np.zeros((1, 1 << 20), np.int64), np.zeros(0, np.uint8))
    path = tmp_path / "content.bin"
    tracemalloc.start()
    try:
        packed = Packed.of(large)
        packed.write(path)
        assert Packed.read(path) == packed
        assert Packed.read(path).unpack(Words).values.sum() == 0
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # an eighth of the array
    finally:
        tracemalloc.stop()
