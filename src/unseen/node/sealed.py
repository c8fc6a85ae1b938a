"""Files encrypted at rest, in chunks, so that a large one is never in memory as a whole.

Each file has a key of its own, drawn at random and wrapped by the node's key with AES-256-GCM; forgetting the wrapped
key shreds the file. Chunks of 1 MiB are sealed by AES-256-GCM under nonces that count them and mark the last one (the
STREAM construction: V. T. Hoang, R. Reyhanitabar, P. Rogaway, D. Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7): none can be changed, moved, left out or cut off unseen. A file
is bound to its name, the SHA-256 of what it holds.

::

    magic (4)  nonce (12)  wrapped key (48)  chunk …     each chunk: ciphertext, then its tag (16)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unseen.errors import DataError

KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
_MAGIC = b"USF1"
_NONCE_BYTES, _TAG_BYTES = 12, 16
HEAD_BYTES = len(_MAGIC) + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_NONCE = struct.Struct(">3xQB")
_AHEAD, _LAST = 0, 1


def seal_file(source: IO[bytes], target: IO[bytes], key: bytes, name: str) -> None:
    """Write ``source`` to ``target``, sealed.

    Args:
        source: Plain bytes.
        target: Where the sealed ones go.
        key: The node's, 32 bytes.
        name: What the file is bound to.
    """
    own, nonce = AESGCM.generate_key(8 * KEY_BYTES), os.urandom(_NONCE_BYTES)
    target.write(_MAGIC + nonce + AESGCM(key).encrypt(nonce, own, _bound(name)))
    cipher = AESGCM(own)
    for number, (chunk, last) in enumerate(_chunks(source, CHUNK_BYTES)):
        target.write(cipher.encrypt(_NONCE.pack(number, last), chunk, None))


def open_file(source: IO[bytes], target: IO[bytes], key: bytes, name: str) -> None:
    """Write what ``seal_file`` sealed in ``source`` to ``target``.

    Raises:
        DataError: It was changed, cut off, belongs to another name, or to another node's key.
    """
    head = source.read(HEAD_BYTES)
    if len(head) != HEAD_BYTES or not head.startswith(_MAGIC):
        raise DataError(f"artifact {name}: the file is not one that a node sealed")
    nonce, wrapped = head[len(_MAGIC) : len(_MAGIC) + _NONCE_BYTES], head[len(_MAGIC) + _NONCE_BYTES :]
    try:
        cipher = AESGCM(AESGCM(key).decrypt(nonce, wrapped, _bound(name)))
        for number, (chunk, last) in enumerate(_chunks(source, CHUNK_BYTES + _TAG_BYTES)):
            target.write(cipher.decrypt(_NONCE.pack(number, last), chunk, None))
    except InvalidTag as error:
        raise DataError(
            f"artifact {name}: the file was changed or damaged, or the node's key for artifacts is another one: "
            "restore it from a backup"
        ) from error


def _bound(name: str) -> bytes:
    return b"unseen/artifact/1\n" + name.encode()


def _chunks(source: IO[bytes], size: int) -> Iterator[tuple[bytes, int]]:
    """Yield chunks, each with whether it is the last one; an empty file is one empty chunk."""
    chunk = source.read(size)
    while True:
        after = source.read(size)
        yield chunk, _AHEAD if after else _LAST
        if not after:
            return
        chunk = after
