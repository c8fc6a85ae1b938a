import pytest

from unseen.data.atomic import whole_file
from unseen.errors import DataError


def test_the_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o077 == 0


def test_an_error_on_the_way_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def write_half():
        with whole_file(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert path.read_bytes() == b"old"


def test_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="f cannot be written"), whole_file(tmp_path / "f") as file:
        file.write(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
