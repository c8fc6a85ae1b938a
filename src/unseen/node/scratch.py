"""Folders for content that must not outlive the process that has it open."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

_PREFIX = "unseen-plain-"


class Scratch:
    """A fresh folder in ``above`` that only this user can read; what killed processes left beside it is removed."""

    def __init__(self, above: Path) -> None:
        above.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(above):
            for folder in above.glob(f"{_PREFIX}*"):
                _remove_if_left(folder)
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
            # Held as long as this process lives; the kernel lets go of it whatever the end.
            held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_EX)
        self._finalizer = weakref.finalize(self, _give_up, self.folder, held)

    def close(self) -> None:
        """Remove the folder."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_if_left(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(handle)


def _give_up(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
