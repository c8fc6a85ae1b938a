"""Where sealed artifacts lie: a folder of this machine, or a bucket of anything that speaks S3.

Nothing here knows a key or sees plain content. A name appears with its whole content or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.node.sealed import HEADER, Readable

_NAME = re.compile(r"[0-9a-f]{96}")


class Place(Protocol):
    """Keeps files by name."""

    def keep(self, name: str, file: Path) -> None:
        """Keep a copy of ``file`` under a name, in place of one that is there."""
        ...

    def read(self, name: str) -> AbstractContextManager[Readable]:
        """Return the content of a name; DataError: there is none."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is one of this name."""
        ...

    def delete(self, name: str) -> None:
        """Destroy what has this name, if anything has."""
        ...

    def names(self) -> Iterator[str]:
        """Yield all names, in their order."""
        ...


def open_place(root: str) -> Place:
    """Return the place at ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``.

    Raises:
        UsageError: It is none of both, or the client for S3 is not installed.
    """
    parts = urlsplit(root)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and "@" not in parts.netloc:
        return Bucket(parts.netloc, parts.path.strip("/"))
    raise UsageError("artifacts lie at file:///FOLDER or s3://BUCKET/PREFIX (without any credentials in it)")


class Folder:
    """A folder that only its owner can read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UsageError(f"artifacts cannot lie in {root}: {error.strerror}") from error

    def keep(self, name: str, file: Path) -> None:
        """Keep a copy of ``file``; it has reached the disk when this returns."""
        with file.open("rb") as source, whole_file(self._root / name) as target:
            shutil.copyfileobj(source, target, 1 << 20)

    @contextmanager
    def read(self, name: str) -> Iterator[Readable]:
        """Open a file."""
        try:
            with (self._root / name).open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise _absent() from error

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self._root / name).is_file()

    def delete(self, name: str) -> None:
        """Overwrite the wrapped key on the disk, then remove the file: what may be left of it cannot be opened."""
        try:
            with (self._root / name).open("r+b") as file:
                file.write(bytes(HEADER))
                file.flush()
                os.fsync(file.fileno())
            (self._root / name).unlink()
        except FileNotFoundError:
            return

    def names(self) -> Iterator[str]:
        """Yield the names of files that are artifacts."""
        yield from sorted(path.name for path in self._root.iterdir() if _NAME.fullmatch(path.name))


# --- S3 --------------------------------------------------------------------------------------------------------------


class _Pages(Protocol):
    def paginate(self, *, Bucket: str, Prefix: str) -> Iterable[Mapping[str, list[Mapping[str, str]]]]: ...  # noqa: N803


class _Client(Protocol):
    """What is used of boto3's client for S3, which has no types."""

    def upload_file(self, file: str, bucket: str, key: str) -> None: ...
    def get_object(self, *, Bucket: str, Key: str) -> Mapping[str, _Body]: ...  # noqa: N803
    def head_object(self, *, Bucket: str, Key: str) -> Mapping[str, object]: ...  # noqa: N803
    def delete_object(self, *, Bucket: str, Key: str, VersionId: str) -> object: ...  # noqa: N803
    def get_paginator(self, operation: str) -> _Pages: ...


class _Body(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Bucket:
    """A bucket, or the part of one under a prefix; credentials and endpoint come from where boto3 finds them."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            boto3, raised = import_module("boto3"), import_module("botocore.exceptions")
        except ModuleNotFoundError as error:
            raise UsageError("artifacts in S3 need its client: pip install 'unseen[s3]'") from error
        self._shown, self._bucket = f"s3://{bucket}/{prefix}", bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._refused: type[Exception] = raised.ClientError
        self._errors: tuple[type[Exception], ...] = (
            raised.ClientError,
            raised.BotoCoreError,
            import_module("boto3.exceptions").Boto3Error,
        )
        with self._told():
            self._client: _Client = boto3.client("s3")

    def keep(self, name: str, file: Path) -> None:
        """Upload a file, in parts if it is large; its name appears after the last one."""
        with self._told():
            self._client.upload_file(str(file), self._bucket, self._prefix + name)

    @contextmanager
    def read(self, name: str) -> Iterator[Readable]:
        """Read an object as it arrives."""
        with self._told():
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            try:
                yield body
            finally:
                body.close()

    def has(self, name: str) -> bool:
        """Return whether there is such an object."""
        try:
            with self._told():
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except _AbsentError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object and all its older versions, each of which holds a wrapped key."""
        with self._told():
            pages = self._client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + name):
                for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    self._client.delete_object(Bucket=self._bucket, Key=one["Key"], VersionId=one["VersionId"])

    def names(self) -> Iterator[str]:
        """Yield the names of objects that are artifacts."""
        with self._told():
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                names = (one["Key"].removeprefix(self._prefix) for one in page.get("Contents", ()))
                yield from filter(_NAME.fullmatch, names)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "404"):
                raise _absent() from error
            raise UsageError(f"{self._shown}: {error}; check bucket, credentials and endpoint") from error


class _AbsentError(DataError):
    """There is nothing of that name."""


def _absent() -> _AbsentError:
    return _AbsentError("there is no such artifact here: restore it from a backup")
