"""What a node keeps beside its books: the content of tables, by SHA-256, encrypted at rest."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.node.blobs import open_blobs
from unseen.node.sealed import KEY_BYTES, open_file, seal_file

KEY_FILE = "artifacts.key"


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
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blobs, self._key, self._scratch = open_blobs(url), key, scratch

    def put(self, path: Path) -> str:
        """Keep the content of a file; return its digest."""
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            if self._blobs.has(digest):
                return digest
            source.seek(0)
            with tempfile.NamedTemporaryFile(dir=self._scratch) as sealed:
                seal_file(source, sealed, self._key, digest)
                sealed.flush()
                self._blobs.put(digest, Path(sealed.name))
        return digest

    @contextmanager
    def open(self, digest: str) -> Iterator[Path]:
        """Lend the content as a readable file, as long as the block lasts.

        Raises:
            DataError: It is not there, or not what it was.
        """
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            sealed, plain = Path(folder) / "sealed", Path(folder) / f"{digest}.parquet"
            self._blobs.get(digest, sealed)
            with sealed.open("rb") as source, plain.open("wb") as target:
                open_file(source, target, self._key, digest)
            sealed.unlink()
            with plain.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                    raise DataError(f"artifact {digest} holds something else: restore it from a backup")
            yield plain

    def has(self, digest: str) -> bool:
        """Return whether the content is here."""
        return self._blobs.has(digest)

    def delete(self, digest: str) -> None:
        """Forget a content, with the only copy of its key."""
        self._blobs.delete(digest)

    def digests(self) -> tuple[str, ...]:
        """Return all that is kept."""
        return tuple(self._blobs.names())


def artifacts_key(folder: Path) -> bytes:
    """Return the node's key for artifacts, drawn when it is first asked for.

    Raises:
        UsageError: Others may read it.
    """
    path = folder / KEY_FILE
    if not path.exists():
        with whole_file(path) as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} holds a key, and others may read it: chmod 600 {path}")
    return path.read_bytes()
