"""What a node keeps beside its books: the content of tables, by SHA-256, encrypted at rest.

Whoever reads the disk or the bucket learns how many artifacts there are and how long they are. The names of files are
digests under AES-SIV (RFC 5297), so that nobody without the node's key can find out whether a table that he guesses is
among them. Plain content is on a disk only while a block has it open; what a killed process leaves, the next one
removes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.node.blobs import open_blobs
from unseen.node.folder import read_private
from unseen.node.partners import locked
from unseen.node.scratch import Scratch
from unseen.node.sealed import KEY_BYTES, open_file, seal_file

KEY_FILE = "artifacts.key"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artifacts:
    """Sealed files by the digest of what they hold.

    Args:
        url: Where they lie: ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``.
        key: The node's key for them, 32 bytes.
        scratch: Folder for files that are lent; only its owner may read it.
    """

    def __init__(self, url: str, key: bytes, scratch: Path) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"a key for artifacts has {KEY_BYTES} bytes, found {len(key)}")
        self._blobs, self._scratch = open_blobs(url), Scratch(scratch)
        self._names = AESSIV(_derived(key, b"names", 2 * KEY_BYTES))
        self._contents = _derived(key, b"contents", KEY_BYTES)

    def put(self, source: Path | IO[bytes]) -> str:
        """Keep the content of a file, or the rest of a stream, durably; return its digest."""
        if not isinstance(source, Path):
            with tempfile.NamedTemporaryFile(dir=self._scratch.folder) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                return self.put(Path(copy.name))
        with source.open("rb") as plain, tempfile.NamedTemporaryFile(dir=self._scratch.folder) as sealed:
            digest = hashlib.file_digest(plain, "sha256").hexdigest()
            plain.seek(0)
            seal_file(plain, sealed, self._contents, digest)
            sealed.flush()
            # Also if it is there: then it is whole again, whatever became of it.
            self._blobs.put(self._name(digest), Path(sealed.name))
        return digest

    @contextmanager
    def open(self, digest: str) -> Iterator[Path]:
        """Lend the content as a readable file, as long as the block lasts.

        Raises:
            DataError: It is not there, or not what it was.
        """
        with tempfile.TemporaryDirectory(dir=self._scratch.folder) as folder:
            sealed, plain = Path(folder) / "sealed", Path(folder) / f"{digest}.parquet"
            self._blobs.get(self._name(digest), sealed)
            with sealed.open("rb") as source, plain.open("wb") as target:
                open_file(source, target, self._contents, digest)
            sealed.unlink()
            with plain.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                    raise DataError(f"artifact {digest} holds something else: restore it from a backup")
            yield plain

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Lend an empty folder for plain content; it is gone with the block, or when the next process begins."""
        with tempfile.TemporaryDirectory(dir=self._scratch.folder) as folder:
            yield Path(folder)

    def has(self, digest: str) -> bool:
        """Return whether the content is here; whether it is whole, ``open`` finds out."""
        return self._blobs.has(self._name(digest))

    def delete(self, digest: str) -> None:
        """Destroy a content, its key first."""
        self._blobs.delete(self._name(digest))

    def digests(self) -> tuple[str, ...]:
        """Return all that is kept.

        Raises:
            DataError: Something was kept under another key: the place is another node's, or the key is.
        """
        try:
            return tuple(self._names.decrypt(bytes.fromhex(name), None).hex() for name in self._blobs.names())
        except InvalidTag as error:
            raise DataError("there are artifacts here that were kept under another node's key") from error

    def close(self) -> None:
        """Remove the folder for what is lent."""
        self._scratch.close()

    def _name(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest[:80]!r} is no digest of an artifact: expected 64 hexadecimal digits")
        return self._names.encrypt(bytes.fromhex(digest), None).hex()


def artifacts_key(folder: Path) -> bytes:
    """Return the node's key for artifacts, drawn when it is first asked for.

    Raises:
        UsageError: Others may read it.
    """
    path = folder / KEY_FILE
    with locked(folder):
        if not path.exists():
            with whole_file(path) as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        return read_private(path)


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=b"unseen/artifact/" + purpose).derive(key)
