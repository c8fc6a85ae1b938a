"""One artifact as it lies on a disk or at a provider: encrypted, and worth nothing if a single bit of it is another.

::

    magic      8 bytes   names this format
    nonce     12 bytes   of the wrapped key
    wrapped   48 bytes   the artifact's own key, AES-256-GCM under the node's, bound to magic and digest
    chunk     65536 + 16 bytes, as often as needed; the last one is shorter or as long

Each chunk is AES-256-GCM under the artifact's key; its nonce is its number (11 bytes) and whether it is the last one.
This is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015, section 7): chunks that are changed, swapped, repeated, dropped or cut off do not open.
The number may begin at 0 in each artifact, since each has a fresh key. GCM does not commit to a key, so the content's
own digest is compared in the end as well.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from typing import IO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unseen.errors import DataError

_MAGIC = b"UNSEEN\x00\x01"
_NONCE, _KEY, TAG = 12, 32, 16
HEADER = len(_MAGIC) + _NONCE + _KEY + TAG
CHUNK = 1 << 16


class Readable(Protocol):
    """What content is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


def seal(source: Readable, target: IO[bytes], key: bytes) -> str:
    """Write the content of ``source`` encrypted, and return its SHA-256; ``target`` is empty and can seek."""
    own, digest = secrets.token_bytes(_KEY), hashlib.sha256()
    cipher = AESGCM(own)
    target.write(bytes(HEADER))
    for number, last, chunk in _pieces(source, CHUNK):
        digest.update(chunk)
        target.write(cipher.encrypt(_nonce(number, last), chunk, None))
    nonce = secrets.token_bytes(_NONCE)
    target.seek(0)
    target.write(_MAGIC + nonce + AESGCM(key).encrypt(nonce, own, _MAGIC + digest.digest()))
    return digest.hexdigest()


def unseal(source: Readable, target: IO[bytes], key: bytes, digest: str) -> None:
    """Write the plain content to ``target``; it is good for something only if this returns.

    Raises:
        DataError: It is not the artifact of this digest, or not whole, or sealed under another key.
    """
    header = _exactly(source, HEADER)
    magic, nonce, wrapped = header[: len(_MAGIC)], header[len(_MAGIC) : -_KEY - TAG], header[-_KEY - TAG :]
    if magic != _MAGIC or len(header) != HEADER:
        raise DataError(f"artifact {digest[:16]}… is damaged: it does not begin like one; restore it from a backup")
    found = hashlib.sha256()
    try:
        cipher = AESGCM(AESGCM(key).decrypt(nonce, wrapped, magic + bytes.fromhex(digest)))
        for number, last, chunk in _pieces(source, CHUNK + TAG):
            plain = cipher.decrypt(_nonce(number, last), chunk, None)
            found.update(plain)
            target.write(plain)
    except InvalidTag as error:
        raise DataError(
            f"artifact {digest[:16]}… does not open: it was changed or cut off, or belongs to another key or name; "
            "restore it from a backup"
        ) from error
    if not hmac.compare_digest(found.hexdigest(), digest):
        raise DataError(f"artifact {digest[:16]}… has another content than its name says; restore it from a backup")


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(_NONCE - 1, "big") + bytes([last])


def _pieces(source: Readable, size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Yield number, whether it is the last one, and piece; at least one, which is empty if there is no content."""
    number, piece = 0, _exactly(source, size)
    while len(piece) == size and (following := _exactly(source, size)):
        yield number, False, piece
        number, piece = number + 1, following
    yield number, True, piece


def _exactly(source: Readable, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end: sockets return what they have."""
    parts, missing = [], size
    while missing and (part := source.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
