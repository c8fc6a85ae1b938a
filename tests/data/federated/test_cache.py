import hashlib
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from unseen.data.federated.cache import Download, data_folders, find
from unseen.errors import DataError

CONTENT = b"what is inside" * 1000


@pytest.fixture
def archive(tmp_path):
    """A tar.bz2 with two files, and a link that would lead elsewhere."""
    path = tmp_path / "set.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for name in ("./deep/one.h5", "two.h5"):
            info = tarfile.TarInfo(name)
            info.size = len(CONTENT)
            tar.addfile(info, io.BytesIO(CONTENT))
        link = tarfile.TarInfo("three.h5")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Download(path.name, "https://example.org/set.tar.bz2", path.stat().st_size, digest)


def test_a_file_is_unpacked_when_it_is_asked_for_and_not_again(tmp_path, archive):
    assert find("one.h5", archive, (tmp_path,)).read_bytes() == CONTENT
    assert not (tmp_path / "two.h5").exists()
    (tmp_path / "set.tar.bz2").unlink()
    assert find("one.h5", archive, (tmp_path,)) == tmp_path / "one.h5"


@pytest.mark.parametrize("file", ["none.h5", "three.h5"])
def test_what_is_no_file_of_the_archive_is_told(tmp_path, archive, file):
    with pytest.raises(DataError, match=f"set.tar.bz2 holds no file {file}"):
        find(file, archive, (tmp_path,))
    assert not (tmp_path / file).exists()


def test_another_file_than_published_is_not_unpacked(tmp_path, archive):
    path = tmp_path / "set.tar.bz2"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"published was {archive.sha256}: download it again"):
        find("one.h5", archive, (tmp_path,))
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"has {len(content) - 1:,} bytes, published were {len(content):,}"):
        find("one.h5", archive, (tmp_path,))
    assert not (tmp_path / "one.h5").exists()


def test_a_cut_off_archive_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.sqlite.lzma").write_bytes(lzma.compress(CONTENT * 50, format=lzma.FORMAT_ALONE)[:-40])
    with pytest.raises(DataError, match=r"a.sqlite.lzma cannot be unpacked"):
        find("a.sqlite", Download("a.sqlite.lzma", "https://example.org/"), (tmp_path,))
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite.lzma"]


def test_a_plain_download_is_checked_where_it_is(tmp_path):
    (tmp_path / "b.json").write_bytes(CONTENT)
    good = Download("b.json", "https://example.org/b.json", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert find("b.json", good, (tmp_path,)) == tmp_path / "b.json"
    with pytest.raises(DataError, match="published was 00"):
        find("b.json", Download("b.json", "https://example.org/b.json", sha256="00"), (tmp_path,))


def test_the_second_folder_is_looked_at_too(tmp_path, archive):
    assert find("two.h5", archive, (tmp_path / "none", tmp_path)) == tmp_path / "two.h5"


def test_missing_files_are_told_with_what_to_do(tmp_path):
    wanted = Download("x.lzma", "https://example.org/x.lzma", 5, "ab", "It grows.")
    with pytest.raises(DataError) as error:
        find("x", wanted, (tmp_path / "a", tmp_path / "b"))
    expected = (
        f"x is not in {tmp_path / 'a'} or {tmp_path / 'b'}. Nothing is downloaded for you: put "
        f"https://example.org/x.lzma (5 bytes, SHA-256 ab) into {tmp_path / 'a'}, or name another folder by "
        "UNSEEN_DATA. It grows."
    )
    assert str(error.value) == expected


def test_folders_are_the_one_given_or_the_variable_and_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("UNSEEN_DATA", raising=False)
    assert data_folders(tmp_path) == (tmp_path,)
    assert data_folders() == (Path("/cache/unseen/data"),)
    monkeypatch.setenv("UNSEEN_DATA", "/mine")
    assert data_folders() == (Path("/mine"), Path("/cache/unseen/data"))
