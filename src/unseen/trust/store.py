"""Files of lines that are only added, and are there once ``append`` has returned.

A line is the first 16 hexadecimal digits of its SHA-256, a blank, the text, and a line feed. A crash can only leave a
last line without its line feed: it is cut off when the file is opened, since nothing was done about it yet. Anything
else that does not fit is damage, and is refused: a ledger that lost a line would give away what was spent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from unseen.errors import DataError, UsageError

_MARK = 16


class Lines:
    """A file of lines, held by this process alone until it is closed.

    Args:
        path: The file; made if it is not there.

    Raises:
        UsageError: Another process holds it.
        DataError: It is damaged, or cannot be read or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            self._hold()
            self.lines = self._recover()
        except BaseException:
            os.close(self._file)
            raise

    def append(self, *lines: bytes) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            DataError: They may not be: whoever asked must do nothing about them, and open the file anew.
            UsageError: A line holds a line feed.
        """
        if any(b"\n" in line for line in lines):
            raise UsageError(f"{self.path}: a line cannot hold a line feed")
        if self._broken:
            raise DataError(f"{self.path}: an earlier line may be lost: open the file anew")
        self._broken = True
        try:
            _write(self._file, b"".join(map(_framed, lines)))
            os.fsync(self._file)
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error
        self._broken = False
        self.lines += lines

    def close(self) -> None:
        """Let others have the file."""
        os.close(self._file)

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{self.path} is held by another process: stop it first") from error

    def _recover(self) -> tuple[bytes, ...]:
        try:
            content = _read(self._file)
            whole = content.rfind(b"\n") + 1
            lines = tuple(_lines(content[:whole], self.path))
            if whole < len(content):
                os.ftruncate(self._file, whole)
            os.fsync(self._file)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_lines(path: Path) -> tuple[bytes, ...]:
    """Return the lines of a file that nobody needs to hold; an unfinished last line is damage here.

    Records that a node hands out (``unseen project trail``) have no mark before them; their chain tells of damage.

    Raises:
        DataError: It cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if content and not content.endswith(b"\n"):
        raise DataError(f"{path}: the last line is not finished")
    if content.startswith(b"{"):
        return tuple(content.split(b"\n")[:-1])
    return tuple(_lines(content, path))


def _framed(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:_MARK].encode() + b" " + line + b"\n"


def _lines(content: bytes, path: Path) -> Iterator[bytes]:
    for number, framed in enumerate(content.split(b"\n")[:-1], 1):
        line = framed[_MARK + 1 :]
        if _framed(line) != framed + b"\n":
            raise DataError(f"{path}: line {number} is damaged: restore the file, nothing may go out before")
        yield line


def _read(file: int) -> bytes:
    """Return the content of the very file that is held, whatever its path leads to by now."""
    with open(file, "rb", closefd=False) as stream:
        return stream.read()


def _write(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
