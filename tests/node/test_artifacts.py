"""Content at rest: it comes back, from a folder and from a real S3-compatible store; whatever is changed is told."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from unseen.errors import DataError, UsageError
from unseen.node.artifacts import KEY_FILE, Artifacts, artifacts_key
from unseen.node.blobs import open_blobs
from unseen.node.sealed import CHUNK_BYTES, open_file, seal_file

KEY = bytes(range(32))
HEAD = 4 + 12 + 48
CHUNK = CHUNK_BYTES + 16


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="unseen", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield "s3://unseen/node"
        client.close()
    server.stop()


@pytest.fixture(params=["file", "s3"])
def artifacts(request, tmp_path):
    url = request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path / 'kept'}"
    return Artifacts(url, KEY, tmp_path / "scratch")


def content(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "content"
    path.write_bytes(data)
    return path


def test_what_was_put_comes_back_and_nothing_lies_about_afterwards(artifacts, tmp_path):
    data = b"phone,income\n0123,7\n" * 9
    digest = artifacts.put(content(tmp_path, data))
    assert digest == hashlib.sha256(data).hexdigest()
    assert artifacts.put(content(tmp_path, data)) == digest
    with artifacts.open(digest) as path:
        assert path.read_bytes() == data
    assert artifacts.has(digest)
    assert digest in artifacts.digests()
    assert not any(path.is_file() for path in (tmp_path / "scratch").rglob("*"))
    artifacts.delete(digest)
    artifacts.delete(digest)
    assert not artifacts.has(digest)
    with pytest.raises(DataError, match="is not there"), artifacts.open(digest):
        pass


def test_nothing_is_kept_in_the_clear(tmp_path):
    artifacts = Artifacts(f"file://{tmp_path / 'kept'}", KEY, tmp_path / "scratch")
    artifacts.put(content(tmp_path, b"0123456789" * 99))
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert kept
    assert all(b"0123456789" not in path.read_bytes() for path in kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def sealed(data: bytes, name: str = "a" * 64) -> bytes:
    target = io.BytesIO()
    seal_file(io.BytesIO(data), target, KEY, name)
    return target.getvalue()


def opened(data: bytes, key: bytes = KEY, name: str = "a" * 64) -> bytes:
    target = io.BytesIO()
    open_file(io.BytesIO(data), target, key, name)
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_files_of_any_size_are_sealed_in_chunks(size):
    data = bytes(size)
    content = sealed(data)
    assert opened(content) == data
    assert len(content) == HEAD + size + 16 * max(1, -(-size // CHUNK_BYTES))
    assert sealed(data) != content, "each file has a key of its own"


WHOLE = sealed(bytes(2 * CHUNK_BYTES) + b"end")
FIRST, SECOND, LAST = WHOLE[HEAD : HEAD + CHUNK], WHOLE[HEAD + CHUNK : HEAD + 2 * CHUNK], WHOLE[HEAD + 2 * CHUNK :]


def flipped(at: int) -> bytes:
    return WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]


@pytest.mark.parametrize(
    "changed",
    [
        b"",
        WHOLE[: HEAD - 1],
        b"X" + WHOLE[1:],
        WHOLE[:HEAD],
        WHOLE[:HEAD] + FIRST,
        WHOLE[:HEAD] + FIRST + SECOND,
        WHOLE[:-1],
        WHOLE + b"\0",
        WHOLE + LAST,
        WHOLE[:HEAD] + SECOND + FIRST + LAST,
        WHOLE[:HEAD] + FIRST + LAST,
        WHOLE[:HEAD] + FIRST + FIRST + LAST,
        sealed(b"other")[:HEAD] + WHOLE[HEAD:],
        *(
            WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
            for at in (5, 20, 63, HEAD, HEAD + CHUNK, len(WHOLE) - 1)
        ),
    ],
    ids=range(19),
)
def test_whatever_is_changed_moved_or_cut_off_is_told(changed):
    with pytest.raises(DataError):
        opened(changed)


def test_a_file_belongs_to_its_name_and_to_the_nodes_key():
    with pytest.raises(DataError, match="key for artifacts is another one"):
        opened(WHOLE, name="b" * 64)
    with pytest.raises(DataError, match="key for artifacts is another one"):
        opened(WHOLE, key=bytes(32))


def test_the_key_is_drawn_once_and_is_for_the_node_alone(tmp_path):
    key = artifacts_key(tmp_path)
    assert artifacts_key(tmp_path) == key
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        artifacts_key(tmp_path)


@pytest.mark.parametrize(
    "url", ["kept", "file://host/kept", "s3:///prefix", "s3://key:secret@b/x", "http://h/x", "file://"]
)
def test_places_that_are_none_are_told(url):
    with pytest.raises(UsageError, match="artifacts lie at") as told:
        open_blobs(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 96, "a" * 95, "a" * 64])
def test_names_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(UsageError, match="no name of an artifact"):
        open_blobs(f"file://{tmp_path}").has(name)


def test_a_bucket_that_is_not_there_is_told(bucket, tmp_path):
    with pytest.raises(UsageError, match="bucket nowhere"):
        Artifacts("s3://nowhere/x", KEY, tmp_path / "scratch").put(content(tmp_path, b"x"))
