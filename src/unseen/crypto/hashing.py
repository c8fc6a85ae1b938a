"""Hashing to any number of uniform bytes, as hashing to a group needs it, and digests of several parts.

``expand_message_xmd`` is that of RFC 9380, section 5.3.1, with SHA-512. Its output is indistinguishable from a random
oracle's when SHA-512 is modelled as a Merkle–Damgård hash over a random compression function.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError

_BLOCK_BYTES = 128
_DIGEST_BYTES = 64


def framed_digest(context: bytes, *parts: bytes | NDArray[Any]) -> bytes:
    """Return the SHA-256 digest of ``context`` and of parts, each preceded by its length (64 bits, little-endian)."""
    state = hashlib.sha256(context)
    for part in parts:
        data = memoryview(part) if isinstance(part, bytes) else np.ascontiguousarray(part).data
        state.update(struct.pack("<Q", data.nbytes))
        state.update(data)
    return state.digest()


def expand_message_xmd(message: bytes, dst: bytes, length: int) -> bytes:
    """Return ``length`` uniform bytes that belong to ``message`` under the domain separation tag ``dst``.

    Source: RFC 9380, section 5.3.1, with H = SHA-512.

    Raises:
        UsageError: The tag does not have 1 to 255 bytes, or the length is not between 1 and 255 · 64.
    """
    blocks = -(-length // _DIGEST_BYTES)
    if not 1 <= blocks <= 255:
        raise UsageError(f"expand_message_xmd gives 1 to {255 * _DIGEST_BYTES} bytes, asked for {length}")
    if not 1 <= len(dst) <= 255:
        raise UsageError(f"a domain separation tag has 1 to 255 bytes, found {len(dst)}")
    suffix = dst + bytes([len(dst)])
    first = hashlib.sha512(bytes(_BLOCK_BYTES) + message + struct.pack(">HB", length, 0) + suffix).digest()
    block = hashlib.sha512(first + b"\x01" + suffix).digest()
    uniform = block
    for index in range(2, blocks + 1):
        mixed = bytes(a ^ b for a, b in zip(first, block, strict=True))
        block = hashlib.sha512(mixed + bytes([index]) + suffix).digest()
        uniform += block
    return uniform[:length]
