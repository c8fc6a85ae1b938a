"""Artifacts come back as they were or not at all, on a disk and in S3; what lies there tells nothing."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from unseen.errors import DataError, UsageError
from unseen.node.artifacts import Artifacts
from unseen.node.sealed import CHUNK, HEADER, TAG, seal, unseal

KEY = bytes(range(32))
LONG = os.urandom(2 * CHUNK + 100)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an empty bucket that keeps old versions."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty place."""
    if request.param == "file":
        return (tmp_path / "kept here").as_uri()
    return f"s3://{request.getfixturevalue('bucket')}/of/bank"


@pytest.fixture
def opened(root: str, tmp_path: Path) -> Callable[..., Artifacts]:
    """Opens the place, again and again."""
    return lambda key=KEY: Artifacts(root, key, scratch=tmp_path / "scratch")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_content_comes_back_whatever_its_length(opened, size):
    content, artifacts = LONG[:size], opened()
    digest = artifacts.put(io.BytesIO(content))
    assert digest == hashlib.sha256(content).hexdigest()
    with opened().open(digest, ".csv") as path:
        assert path.suffix == ".csv"
        assert path.read_bytes() == content
    assert not path.exists(), "no plain content is left"


def test_a_file_is_kept_once_and_is_gone_when_deleted(opened, tmp_path):
    (tmp_path / "x.csv").write_bytes(LONG)
    artifacts = opened()
    digest = artifacts.put(tmp_path / "x.csv")
    assert artifacts.put(tmp_path / "x.csv") == digest
    other = artifacts.put(io.BytesIO(b"other"))
    assert sorted(artifacts.digests()) == sorted([digest, other])
    artifacts.delete(digest)
    artifacts.delete(digest)
    assert not artifacts.has(digest)
    assert artifacts.has(other)
    assert list(artifacts.digests()) == [other]
    with pytest.raises(DataError, match="no such artifact"), artifacts.open(digest):
        pass


def test_another_key_opens_nothing(opened):
    digest = opened().put(io.BytesIO(LONG))
    stranger = opened(bytes(32))
    assert not stranger.has(digest), "not even the name is known without the key"
    with pytest.raises(DataError, match="another node's key"):
        list(stranger.digests())


def test_deleting_in_a_bucket_that_keeps_versions_leaves_none(bucket, tmp_path):
    artifacts = Artifacts(f"s3://{bucket}", KEY, scratch=tmp_path)
    digest = artifacts.put(io.BytesIO(LONG))
    artifacts.put(io.BytesIO(LONG))
    artifacts.delete(digest)
    left = boto3.client("s3").list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")


# --- a disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> Artifacts:
    return Artifacts(folder.as_uri(), KEY, scratch=tmp_path / "scratch")


def test_names_and_files_tell_nothing_and_only_the_owner_reads_them(local, folder):
    digest = local.put(io.BytesIO(b"customers" * 9999))
    (file,) = folder.iterdir()
    assert digest not in file.name
    assert b"customers" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with local.open(digest) as plain:
        assert [stat.S_IMODE(one.stat().st_mode) for one in (plain, plain.parent)] == [0o600, 0o700]


def test_deleting_destroys_the_key_before_the_name(local, folder):
    digest = local.put(io.BytesIO(LONG))
    (file,) = folder.iterdir()
    os.link(file, folder / "recovered")  # the blocks of a file that was removed
    local.delete(digest)
    with pytest.raises(DataError, match="does not begin like one"):
        unseal(io.BytesIO((folder / "recovered").read_bytes()), io.BytesIO(), KEY, digest)


def test_a_file_under_the_name_of_another_one_does_not_open(local, folder):
    mine = local.put(io.BytesIO(b"mine"))
    (file,) = folder.iterdir()
    yours = local.put(io.BytesIO(b"yours"))
    (other,) = set(folder.iterdir()) - {file}
    other.write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="does not open"), local.open(yours):
        pass
    with local.open(mine) as path:
        assert path.read_bytes() == b"mine"
    local.put(io.BytesIO(b"yours"))
    with local.open(yours) as path:
        assert path.read_bytes() == b"yours", "put once more, it is whole again"


def test_what_a_killed_process_left_in_plain_is_removed_and_what_runs_is_not(local, folder, tmp_path):
    digest = local.put(io.BytesIO(b"x"))
    dead = tmp_path / "scratch" / "unseen-plain-dead"
    dead.mkdir()
    (dead / "table").write_bytes(b"plain")
    with local.open(digest) as path:
        later = Artifacts(folder.as_uri(), KEY, scratch=tmp_path / "scratch")
        assert not dead.exists()
        assert path.read_bytes() == b"x"
    local.close()
    later.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_write_that_fails_leaves_nothing(local, folder):
    class Breaks:
        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        local.put(Breaks())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "../../etc/passwd", "a" * 65])
def test_what_is_no_digest_names_no_file(local, digest):
    with pytest.raises(UsageError, match="is no digest"):
        local.has(digest)


@pytest.mark.parametrize("root", ["", "/srv/x", "file://host/x", "s3:///x", "s3://key:secret@bucket/x", "http://h/x"])
def test_places_of_no_known_kind_are_told_without_secrets(root, tmp_path):
    with pytest.raises(UsageError, match="artifacts lie at") as told:
        Artifacts(root, KEY, scratch=tmp_path)
    assert "secret" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told(bucket, tmp_path):
    artifacts = Artifacts("s3://no-such-bucket/x", KEY, scratch=tmp_path)
    with pytest.raises(UsageError, match=r"s3://no-such-bucket/x: .*bucket"):
        artifacts.put(io.BytesIO(b"x"))


def test_a_short_key_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has 16 bytes: expected 32"):
        Artifacts(tmp_path.as_uri(), bytes(16), scratch=tmp_path)


# --- the format ------------------------------------------------------------------------------------------------------

_SEALED = io.BytesIO()
_DIGEST = seal(io.BytesIO(LONG), _SEALED, KEY)
SEALED = _SEALED.getvalue()
_ONE = CHUNK + TAG
CHUNKS = [SEALED[HEADER:][at : at + _ONE] for at in range(0, len(SEALED) - HEADER, _ONE)]


def opens(content: bytes) -> bytes | None:
    plain = io.BytesIO()
    try:
        unseal(io.BytesIO(content), plain, KEY, _DIGEST)
    except DataError:
        return None
    return plain.getvalue()


def test_the_whole_opens():
    assert opens(SEALED) == LONG


_BORDERS = {0, 7, 8, 19, 20, 51, 52, 67, 68, HEADER + CHUNK - 1, HEADER + CHUNK, HEADER + _ONE, len(SEALED) - 1}


@settings(max_examples=40)
@given(st.one_of(st.sampled_from(sorted(_BORDERS)), st.integers(0, len(SEALED) - 1)), st.integers(0, 7))
def test_no_bit_can_be_changed(at, bit):
    changed = bytearray(SEALED)
    changed[at] ^= 1 << bit
    assert opens(bytes(changed)) is None


@pytest.mark.parametrize(
    "chunks",
    [
        CHUNKS[:1],
        CHUNKS[:2],
        [],
        CHUNKS[1:],
        [CHUNKS[1], CHUNKS[0], CHUNKS[2]],
        [CHUNKS[0], *CHUNKS],
        [*CHUNKS, CHUNKS[2]],
        [CHUNKS[0], CHUNKS[2]],
        [*CHUNKS[:2], CHUNKS[2] + b"\0"],
    ],
    ids=["one", "two", "none", "first gone", "swapped", "repeated", "more", "middle gone", "longer"],
)
def test_no_chunk_can_be_moved_cut_off_or_added(chunks):
    assert opens(SEALED[:HEADER] + b"".join(chunks)) is None


@settings(max_examples=20)
@given(st.one_of(st.sampled_from([0, 8, HEADER - 1, HEADER, HEADER + _ONE]), st.integers(0, len(SEALED) - 1)))
def test_nothing_can_be_cut_off(length):
    assert opens(SEALED[:length]) is None


def test_chunks_of_another_artifact_under_the_same_key_do_not_open():
    other = io.BytesIO()
    seal(io.BytesIO(LONG), other, KEY)
    assert opens(SEALED[: HEADER + _ONE] + other.getvalue()[HEADER + _ONE :]) is None
    assert opens(other.getvalue()) == LONG
    assert other.getvalue()[HEADER:] != SEALED[HEADER:], "each has a key of its own"
