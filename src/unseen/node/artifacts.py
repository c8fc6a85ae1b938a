"""A node's artifacts by the SHA-256 of their content: tables, models, results; encrypted wherever they lie.

Whoever reads the disk or the bucket learns how many artifacts there are and how long they are. Their names are their
digests under AES-SIV (RFC 5297), so that nobody without the node's key can find out whether a file that he guesses is
among them. Plain content is on a disk of this machine only while a block has it open, in a folder that only this
process's user can read; what a killed process leaves there, the next one removes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unseen.errors import DataError, UsageError
from unseen.node.places import open_place
from unseen.node.sealed import Readable, seal, unseal

KEY_BYTES = 32
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMES, _CONTENTS = b"unseen artifact names", b"unseen artifact contents"
_SCRATCH = "unseen-plain-"


class Artifacts:
    """The artifacts at ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``.

    Args:
        root: Where they lie.
        key: The node's key for them, 32 random bytes; without it they are lost.
        scratch: A folder of this user for plain content while it is open.

    Raises:
        UsageError: The place cannot be used, or the key is too short.
    """

    def __init__(self, root: str, key: bytes, *, scratch: Path) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"the key for artifacts has {len(key)} bytes: expected {KEY_BYTES}")
        self._place = open_place(root)
        self._names = AESSIV(_derived(key, _NAMES, 64))
        self._contents = _derived(key, _CONTENTS, KEY_BYTES)
        self._scratch, lock = _claim(scratch)
        self._finalizer = weakref.finalize(self, _give_up, self._scratch, lock)

    def put(self, source: Path | Readable) -> str:
        """Keep a file or the rest of a stream durably, and return its digest."""
        if isinstance(source, Path):
            with source.open("rb") as file:
                return self.put(file)
        with tempfile.NamedTemporaryFile(dir=self._scratch) as sealed:
            digest = seal(source, sealed, self._contents)
            sealed.flush()
            self._place.keep(self._name(digest), Path(sealed.name))
        return digest

    @contextmanager
    def open(self, digest: str, suffix: str = "") -> Iterator[Path]:
        """Yield a plain file with the content, for as long as the block lasts; ``suffix`` ends its name.

        Raises:
            DataError: There is no such artifact, or it was changed.
        """
        with tempfile.NamedTemporaryFile(dir=self._scratch, suffix=suffix) as plain:
            with self._place.read(self._name(digest)) as sealed:
                unseal(sealed, plain, self._contents, digest)
            plain.flush()
            yield Path(plain.name)

    def has(self, digest: str) -> bool:
        """Return whether there is such an artifact; whether it is whole, ``open`` finds out."""
        return self._place.has(self._name(digest))

    def delete(self, digest: str) -> None:
        """Destroy an artifact, its key first; nothing happens if there is none."""
        self._place.delete(self._name(digest))

    def digests(self) -> Iterator[str]:
        """Yield the digests of all artifacts.

        Raises:
            DataError: One belongs to another key: the place is not this node's.
        """
        for name in self._place.names():
            try:
                yield self._names.decrypt(bytes.fromhex(name), None).hex()
            except InvalidTag as error:
                raise DataError(f"artifact file {name[:16]}… belongs to another node's key") from error

    def close(self) -> None:
        """Remove the folder for plain content."""
        self._finalizer()

    def _name(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest[:80]!r} is no digest of an artifact: expected 64 of 0-9, a-f")
        return self._names.encrypt(bytes.fromhex(digest), None).hex()


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=purpose).derive(key)


# --- plain content ---------------------------------------------------------------------------------------------------


def _claim(above: Path) -> tuple[Path, int]:
    """Return a fresh folder in ``above`` and the lock on it, after removing those that nobody holds any more."""
    above.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(above):
        for folder in above.glob(f"{_SCRATCH}*"):
            left = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:
                continue
            finally:
                os.close(left)
        mine = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=above))
        lock = os.open(mine, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return mine, lock


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _give_up(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
