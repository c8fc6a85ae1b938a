"""CSV and Parquet files below a prefix of a bucket in S3, or in what speaks its language."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from unseen.clock import Clock
from unseen.errors import DataError, UsageError
from unseen.node.sources.config import SourceConfig, SourceKind
from unseen.node.sources.port import Allowance, Bounds, Columns

_ENDINGS = (".csv", ".parquet")
_LISTED = 10_000
_LOOKED_AT = 100_000
"""Of objects, those of other kinds included: a bucket may have any number."""
_LONGEST_KEY = 1024
_PIECE = 1 << 20


class Bucket:
    """Objects below a prefix; credentials, region and endpoint come from the usual settings of AWS.

    Raises:
        UsageError: The library is not installed.
    """

    kind = SourceKind.S3

    def __init__(self, name: str, config: SourceConfig, clock: Clock, bounds: Bounds) -> None:
        try:
            boto3, self._errors = import_module("boto3"), import_module("botocore.exceptions")
            settings = import_module("botocore.config").Config(
                connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 2}
            )
        except ModuleNotFoundError as error:
            raise UsageError(f"source {name} needs boto3: pip install 'unseen[s3]'") from error
        self._name, self._clock, self._bounds = name, clock, bounds
        self._bucket, self._prefix = config.bucket, config.prefix
        with self._told("bucket"):
            self._client: Any = boto3.client("s3", config=settings)

    def __repr__(self) -> str:
        return f"Bucket({self._name!r})"

    def tables(self) -> tuple[str, ...]:
        """Return the keys of CSV and Parquet objects, without the prefix: the first 10,000, of 100,000 objects."""
        return tuple(islice(self._keys(), _LISTED))

    def fetch(self, table: str, wanted: Columns, folder: Path) -> tuple[Path, Columns]:
        """Write an object to a file, whole; which columns of it are kept is left to whoever reads it."""
        allowed, path = Allowance(self._name, self._bounds, self._clock), folder / "fetched"
        key = self._prefix + self._checked(table)
        with self._told(f"object {table!r}"), path.open("wb") as file:
            found = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(found["Body"]) as body:
                for piece in body.iter_chunks(_PIECE):
                    allowed.take(len(piece))
                    file.write(piece)
        return path, wanted

    def _keys(self) -> Iterator[str]:
        with self._told("list of objects"):
            pages = self._client.get_paginator("list_objects_v2")
            most = {"MaxItems": _LOOKED_AT}
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix, PaginationConfig=most):
                keys = (found["Key"].removeprefix(self._prefix) for found in page.get("Contents", ()))
                yield from (key for key in keys if key.lower().endswith(_ENDINGS) and _is_plain(key))

    def _checked(self, key: str) -> str:
        if not _is_plain(key):
            raise UsageError(
                f"source {self._name}: expected the key of an object below its prefix, as `unseen source tables "
                f"{self._name}` has them"
            )
        return key

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Translate errors; their own words may name the account."""
        try:
            yield
        except self._errors.ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in {"404", "NoSuchKey"}:
                raise UsageError(f"source {self._name}: there is no {what}") from None
            raise UsageError(
                f"source {self._name}: S3 refused the {what} ({code}): ask whoever runs the node"
            ) from None
        except self._errors.BotoCoreError as error:
            kind = type(error).__name__
            raise DataError(
                f"source {self._name}: S3 did not give the {what} ({kind}): ask whoever runs the node"
            ) from None


def _is_plain(key: str) -> bool:
    """Return whether a key stays below its prefix, whatever reads it as a path."""
    segments = key.split("/")
    return key.isprintable() and len(key) <= _LONGEST_KEY and not {"", ".", ".."} & set(segments) and "\\" not in key
