"""Files that users download themselves: where they are looked for, what they have to be, and what is in them.

Nothing here opens a connection. What is missing is told with its address, size and SHA-256, and the folder to put it
in; what is there is checked before it is unpacked.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unseen.data.atomic import whole_file
from unseen.errors import DataError

VARIABLE = "UNSEEN_DATA"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Download:
    """A file that somebody publishes.

    A name that ends in ``.lzma`` or ``.xz`` has one file inside, one in ``.tar.bz2``, ``.tar.gz`` or ``.tar`` many.
    """

    name: str
    url: str
    size: int | None = None
    """In bytes, if known."""
    sha256: str | None = None
    note: str = ""
    """What else a user should know, as a sentence."""


def data_folders(folder: Path | None = None) -> tuple[Path, ...]:
    """Return where to look: ``folder`` alone if given, else the variable ``UNSEEN_DATA`` and the user's cache."""
    if folder is not None:
        return (folder,)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unseen" / "data"
    named = os.environ.get(VARIABLE)
    return (Path(named), cache) if named else (cache,)


def find(file: str, download: Download, folders: tuple[Path, ...]) -> Path:
    """Return the path of ``file``, which ``download`` is or has inside; it is unpacked beside it if need be.

    Raises:
        DataError: Neither is in one of the folders (it says what to do), or the download is not what was published.
    """
    for folder in folders:
        if (folder / file).is_file():
            if file == download.name:
                check(folder / file, download)
            return folder / file
        if (folder / download.name).is_file():
            check(folder / download.name, download)
            _unpack(folder / download.name, file)
            return folder / file
    raise DataError(f"{file} is not in {' or '.join(map(str, folders))}. {instructions(download, folders[0])}")


def instructions(download: Download, folder: Path) -> str:
    """Return what a user does to get a file."""
    facts = [
        *([f"{download.size:,} bytes"] if download.size is not None else []),
        *([f"SHA-256 {download.sha256}"] if download.sha256 is not None else []),
    ]
    what = f"{download.url} ({', '.join(facts)})" if facts else download.url
    note = f" {download.note}" if download.note else ""
    return f"Nothing is downloaded for you: put {what} into {folder}, or name another folder by {VARIABLE}.{note}"


def check(path: Path, download: Download) -> None:
    """Accept a file that is what was published, as far as that is known.

    Raises:
        DataError: Its size or its SHA-256 is another, or it cannot be read.
    """
    try:
        size = path.stat().st_size
        if download.size is not None and size != download.size:
            raise DataError(f"{path} has {size:,} bytes, published were {download.size:,}: download it again")
        if download.sha256 is not None and (found := sha256_of(path)) != download.sha256:
            raise DataError(f"{path} has SHA-256 {found}, published was {download.sha256}: download it again")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, file: str) -> None:
    """Write one file of an archive beside it, whole or not at all."""
    try:
        with _inside(archive, file) as content, whole_file(archive.with_name(file)) as out:
            shutil.copyfileobj(content, out, _PIECE)
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}; download it again") from error


@contextmanager
def _inside(archive: Path, file: str) -> Iterator[IO[bytes]]:
    if archive.suffix in {".lzma", ".xz"}:
        with lzma.open(archive, "rb") as content:
            yield content
        return
    with tarfile.open(archive, "r:*") as members:
        # Members are read, not extracted: their paths, modes and links have no effect on this machine.
        member = next((one for one in members if one.isfile() and Path(one.name).name == file), None)
        content_or_none = members.extractfile(member) if member is not None else None
        if content_or_none is None:
            raise DataError(f"{archive} holds no file {file}")
        yield content_or_none
