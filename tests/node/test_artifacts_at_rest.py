"""What lies on a disk or in a bucket tells nothing, belongs to one node, and is gone when it is deleted."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from unseen.errors import DataError, UsageError
from unseen.node.artifacts import Artifacts
from unseen.node.folder import Node
from unseen.node.sealed import CHUNK_BYTES, HEAD_BYTES, open_file, seal_file
from unseen.node.storage import open_node_artifacts

KEY = bytes(range(32))
LONG = os.urandom(2 * CHUNK_BYTES + 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept here"


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> Artifacts:
    return Artifacts(folder.as_uri(), KEY, tmp_path / "scratch")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_names_tell_nothing_and_only_the_owner_reads(local, folder):
    digest = local.put(io.BytesIO(b"customers" * 9999))
    (file,) = files(folder)
    assert digest not in str(file)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (file, folder)] == [0o600, 0o700]
    with local.open(digest) as plain:
        assert stat.S_IMODE(plain.parent.stat().st_mode) == 0o700


def test_another_key_opens_nothing_and_knows_no_name(local, folder, tmp_path):
    digest = local.put(io.BytesIO(b"x"))
    stranger = Artifacts(folder.as_uri(), bytes(32), tmp_path / "scratch")
    assert not stranger.has(digest)
    with pytest.raises(DataError, match="another node's key"):
        stranger.digests()
    with pytest.raises(UsageError, match="32 bytes, found 16"):
        Artifacts(folder.as_uri(), bytes(16), tmp_path / "scratch")


def test_deleting_destroys_the_key_before_the_name(local, folder):
    digest = local.put(io.BytesIO(b"x"))
    (file,) = files(folder)
    os.link(file, folder / "recovered")  # the blocks of a file that was removed
    local.delete(digest)
    with pytest.raises(DataError, match="not one that a node sealed"):
        open_file(io.BytesIO((folder / "recovered").read_bytes()), io.BytesIO(), KEY, digest)


@pytest.fixture
def versioned(monkeypatch: pytest.MonkeyPatch) -> object:
    """A bucket that keeps old versions."""
    with mock_aws():
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="unseen")
        client.put_bucket_versioning(Bucket="unseen", VersioningConfiguration={"Status": "Enabled"})
        yield client
        client.close()


def test_deleting_in_a_bucket_that_keeps_versions_leaves_none(versioned, tmp_path):
    artifacts = Artifacts("s3://unseen/of/bank", KEY, tmp_path)
    digest, other = artifacts.put(io.BytesIO(b"x")), artifacts.put(io.BytesIO(b"y"))
    artifacts.put(io.BytesIO(b"x"))
    artifacts.delete(digest)
    left = versioned.list_object_versions(Bucket="unseen")
    assert (len(left["Versions"]), left.get("DeleteMarkers", [])) == (1, [])
    assert artifacts.digests() == (other,)


def test_a_file_under_the_name_of_another_one_does_not_open_and_is_mended_when_put_again(local, folder):
    mine = local.put(io.BytesIO(b"mine"))
    (file,) = files(folder)
    yours = local.put(io.BytesIO(b"yours"))
    (other,) = set(files(folder)) - {file}
    other.write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="changed or damaged"), local.open(yours):
        pass
    local.put(io.BytesIO(b"yours"))
    for digest, content in ((mine, b"mine"), (yours, b"yours")):
        with local.open(digest) as path:
            assert path.read_bytes() == content


def test_what_a_killed_process_left_in_plain_is_removed_and_what_runs_is_not(local, folder, tmp_path):
    digest = local.put(io.BytesIO(b"x"))
    dead = tmp_path / "scratch" / "unseen-plain-dead"
    dead.mkdir()
    (dead / "table").write_bytes(b"plain")
    with local.open(digest) as path:
        later = Artifacts(folder.as_uri(), KEY, tmp_path / "scratch")
        assert not dead.exists()
        assert path.read_bytes() == b"x"
    local.close()
    later.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(local, folder, tmp_path):
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        local.put(Breaks())
    assert files(folder) == files(tmp_path / "scratch") == []


def test_a_node_that_lost_its_key_makes_no_other_one(tmp_path, now):
    node = Node.create(tmp_path / "bank", "bank", None, now)
    artifacts = open_node_artifacts(node)
    artifacts.put(io.BytesIO(b"x"))
    artifacts.close()
    (node.folder / "artifacts.key").unlink()
    with pytest.raises(DataError, match=r"artifacts.key is gone"):
        open_node_artifacts(node)


# --- every bit -------------------------------------------------------------------------------------------------------

_TARGET = io.BytesIO()
seal_file(io.BytesIO(LONG), _TARGET, KEY, "a" * 64)
SEALED = _TARGET.getvalue()
_ONE = CHUNK_BYTES + 16
_BORDERS = sorted(
    {0, 3, 4, 15, 16, 47, 48, 63, HEAD_BYTES, HEAD_BYTES + CHUNK_BYTES, HEAD_BYTES + _ONE, len(SEALED) - 1}
)
_PLACES = st.one_of(st.sampled_from(_BORDERS), st.integers(0, len(SEALED) - 1))


def opens(content: bytes) -> bool:
    try:
        open_file(io.BytesIO(content), io.BytesIO(), KEY, "a" * 64)
    except DataError:
        return False
    return True


def test_the_whole_opens():
    assert opens(SEALED)


@settings(max_examples=30)
@given(at=_PLACES, bit=st.integers(0, 7))
def test_no_bit_can_be_changed(at, bit):
    changed = bytearray(SEALED)
    changed[at] ^= 1 << bit
    assert not opens(bytes(changed))


@settings(max_examples=20)
@given(length=_PLACES)
def test_nothing_can_be_cut_off(length):
    assert not opens(SEALED[:length])
