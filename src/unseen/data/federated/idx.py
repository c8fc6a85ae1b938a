"""IDX files: one array each, as MNIST and sets made after it are published, plain or compressed with gzip.

Format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"): two zero bytes, a type, the number
of dimensions, every dimension as a big-endian 32-bit number, then the values, big-endian, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from unseen.data.federated.clients import Array
from unseen.errors import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, *, sha256: str | None = None) -> Array:
    """Return the array in a file, in the machine's byte order; read-only where that order is the file's.

    Whether it is compressed is seen from its first bytes, not from its name.

    Args:
        path: The file.
        sha256: What the uncompressed content must have, if it is known.

    Raises:
        DataError: It cannot be read, is no IDX file, is cut off, goes on after its end, or is another file than known.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if not packed:
                return _read(raw, path, sha256)
            with gzip.GzipFile(fileobj=raw) as file:
                return _read(file, path, sha256)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, sha256: str | None) -> Array:
    head = _exactly(file, 4, path)
    if head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
        raise DataError(f"{path} is no IDX file: it begins with {head.hex(' ')}, expected 00 00, a type, dimensions")
    dimensions = _exactly(file, 4 * head[3], path)
    shape = struct.unpack(f">{head[3]}I", dimensions)
    kind = np.dtype(TYPES[head[2]])
    content = _exactly(file, math.prod(shape) * kind.itemsize, path)
    if file.read(1):
        raise DataError(f"{path} goes on after the {len(content):,} bytes of its {_text(shape)} values")
    _check(path, sha256, head, dimensions, content)
    return np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)


def _exactly(file: IO[bytes] | gzip.GzipFile, count: int, path: Path) -> bytes:
    # One piece after the other, so that a false size in a short file does not ask for all that memory.
    pieces, missing = [], count
    while missing and (piece := file.read(min(missing, 1 << 24))):
        pieces.append(piece)
        missing -= len(piece)
    if missing:
        raise DataError(f"{path} is cut off: {missing:,} of {count:,} bytes are missing; get it again")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(path: Path, sha256: str | None, *parts: bytes) -> None:
    digest = hashlib.sha256()
    if sha256 is None:
        return
    for part in parts:
        digest.update(part)
    if digest.hexdigest() != sha256:
        raise DataError(f"the content of {path} has SHA-256 {digest.hexdigest()}, expected {sha256}: it is another set")


def _text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
