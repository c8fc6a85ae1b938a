"""Where sealed files lie: a folder, or a bucket of an S3-compatible store."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.node.sealed import HEAD_BYTES

_NAME = re.compile(r"[0-9a-f]{96}")


class Blobs(Protocol):
    """Files by name; names are 96 hexadecimal digits."""

    def put(self, name: str, path: Path) -> None:
        """Keep a copy of a file, whole or not at all."""
        ...

    def get(self, name: str, path: Path) -> None:
        """Write a copy to ``path``.

        Raises:
            DataError: There is none of this name.
        """
        ...

    def has(self, name: str) -> bool:
        """Return whether there is one of this name."""
        ...

    def delete(self, name: str) -> None:
        """Forget one, if it is there."""
        ...

    def names(self) -> Iterator[str]:
        """Yield all names."""
        ...


class Folder:
    """Files in a folder that only its owner may read."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root

    def put(self, name: str, path: Path) -> None:
        """Keep a copy of a file."""
        place = self._place(name)
        place.parent.mkdir(exist_ok=True, mode=0o700)
        with path.open("rb") as source, whole_file(place) as target:
            shutil.copyfileobj(source, target)

    def get(self, name: str, path: Path) -> None:
        """Write a copy to ``path``."""
        if not self.has(name):
            raise _absent(name)
        shutil.copyfile(self._place(name), path)

    def has(self, name: str) -> bool:
        """Return whether there is one of this name."""
        return self._place(name).exists()

    def delete(self, name: str) -> None:
        """Overwrite the wrapped key on the disk, then forget the file: what may be left of it does not open."""
        try:
            with self._place(name).open("r+b") as file:
                file.write(bytes(HEAD_BYTES))
                file.flush()
                os.fsync(file.fileno())
            self._place(name).unlink()
        except FileNotFoundError:
            return

    def names(self) -> Iterator[str]:
        """Yield all names."""
        return (path.name for path in sorted(self._root.glob("??/*")) if _NAME.fullmatch(path.name))

    def _place(self, name: str) -> Path:
        return self._root / _checked(name)[:2] / name


class Bucket:
    """Objects under a prefix of a bucket; credentials, region and endpoint come from the usual settings of AWS.

    Raises:
        UsageError: The library is not installed.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            boto3, self._errors = import_module("boto3"), import_module("botocore.exceptions")
            self._unsent = import_module("boto3.exceptions").S3UploadFailedError
        except ModuleNotFoundError as error:
            raise UsageError("artifacts in S3 need boto3: pip install 'unseen[s3]'") from error
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        with self._told("of any name"):
            self._client: Any = boto3.client("s3")

    def put(self, name: str, path: Path) -> None:
        """Keep a copy of a file."""
        with self._told(name):
            self._client.upload_file(str(path), self._bucket, self._key(name))

    def get(self, name: str, path: Path) -> None:
        """Write a copy to ``path``."""
        with self._told(name):
            self._client.download_file(self._bucket, self._key(name), str(path))

    def has(self, name: str) -> bool:
        """Return whether there is one of this name."""
        try:
            with self._told(name):
                self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        except DataError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Forget one with all its older versions, each of which holds a wrapped key."""
        with self._told(name):
            pages = self._client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(name)):
                for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    self._client.delete_object(Bucket=self._bucket, Key=one["Key"], VersionId=one["VersionId"])

    def names(self) -> Iterator[str]:
        """Yield all names."""
        with self._told("of any name"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                names = (found["Key"].removeprefix(self._prefix) for found in page.get("Contents", ()))
                yield from filter(_NAME.fullmatch, names)

    def _key(self, name: str) -> str:
        return self._prefix + _checked(name)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._errors.ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                raise _absent(name) from error
            raise UsageError(f"bucket {self._bucket}: {error}") from error
        except (self._errors.BotoCoreError, self._unsent) as error:
            raise UsageError(f"bucket {self._bucket}: {error}") from error


def open_blobs(url: str) -> Blobs:
    """Return where files lie: ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``.

    Raises:
        UsageError: The URL is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and "@" not in parts.netloc:
        return Bucket(parts.netloc, parts.path.strip("/"))
    raise UsageError("artifacts lie at file:///FOLDER or s3://BUCKET/PREFIX, without credentials in it")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of an artifact: expected 96 hexadecimal digits")
    return name


def _absent(name: str) -> DataError:
    return DataError(f"artifact {name} is not there: restore it from a backup, or import the table again")
