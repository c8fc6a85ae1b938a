"""Objects below a prefix of a bucket, at a real server of S3: what is there, what is too much, and no way out."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from tests.node.organisations import Clock

from unseen.errors import DataError, UsageError
from unseen.node.sources import bucket as bucket_module
from unseen.node.sources.bucket import Bucket
from unseen.node.sources.config import SourceConfig
from unseen.node.sources.port import Bounds, Columns

CSV = b"phone,income\n0123,7\n"
OBJECTS = {
    "open/a.csv": CSV,
    "open/2026/b.parquet": b"PAR1",
    "open/notes.txt": b"x",
    "open/../secret.csv": b"x",
    "opened.csv": b"x",
    "secret.csv": b"x",
}


@pytest.fixture(scope="module")
def lake(s3: str) -> Iterator[str]:
    client = boto3.client("s3")
    for key, body in OBJECTS.items():
        client.put_object(Bucket=s3, Key=key, Body=body)
    yield s3
    client.close()


def opened(url: str, bounds: Bounds | None = None) -> Bucket:
    return Bucket("lake", SourceConfig(url=url), Clock(), bounds or Bounds())


def test_files_below_the_prefix_are_listed_and_no_others(lake):
    assert opened(f"s3://{lake}/open").tables() == ("2026/b.parquet", "a.csv")
    assert "secret.csv" in opened(f"s3://{lake}").tables()


def test_a_bucket_without_end_is_looked_at_for_a_while(lake, monkeypatch):
    monkeypatch.setattr(bucket_module, "_LOOKED_AT", 3)
    assert opened(f"s3://{lake}/open").tables() == ("2026/b.parquet", "a.csv"), "after ../secret.csv, which sorts first"
    monkeypatch.setattr(bucket_module, "_LOOKED_AT", 2)
    assert opened(f"s3://{lake}/open").tables() == ("2026/b.parquet",)


def test_an_object_comes_whole_and_its_columns_are_left_to_the_reader(lake, tmp_path):
    wanted = Columns(only=("phone",))
    path, left = opened(f"s3://{lake}/open/").fetch("a.csv", wanted, tmp_path)
    assert (path.read_bytes(), left) == (CSV, wanted)


@pytest.mark.parametrize(
    "key",
    ["", "../secret.csv", "2026/../../secret.csv", "/secret.csv", "./a.csv", "a//b.csv", "..\\x", "a\0", "a" * 1025],
)
def test_no_key_leads_out_of_the_prefix(lake, tmp_path, key):
    with pytest.raises(UsageError, match="expected the key of an object below its prefix"):
        opened(f"s3://{lake}/open").fetch(key, Columns(), tmp_path)


def test_what_is_not_there_or_too_large_or_refused_is_told(lake, tmp_path):
    with pytest.raises(UsageError, match=r"there is no object 'secret\.csv'"):
        opened(f"s3://{lake}/open").fetch("secret.csv", Columns(), tmp_path)
    with pytest.raises(DataError, match="more than 5 bytes"):
        opened(f"s3://{lake}/open", Bounds(max_bytes=5)).fetch("a.csv", Columns(), tmp_path)
    with pytest.raises(UsageError, match=r"S3 refused the list of objects \(NoSuchBucket\)"):
        opened("s3://nowhere").tables()


def test_a_store_that_is_not_there_is_told(lake, monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    with pytest.raises(DataError, match=r"S3 did not give the list of objects \(EndpointConnectionError\)"):
        opened(f"s3://{lake}").tables()
