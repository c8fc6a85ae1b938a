"""Seeds to streams: one secret seed gives any number of independent, reproducible streams of random bytes.

Streams are AES-256 in counter mode (NIST SP 800-38A); seeds are derived with HMAC-SHA-256 as a PRF (RFC 2104), the
label and every context string preceded by its length. A task that is resumed derives the same streams again and
so sends the same bytes again.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from unseen.errors import UsageError

SEED_BYTES = 32
# What is encrypted to give the stream, as much as the nearest cache holds.
_ZEROS = memoryview(bytes(1 << 14))


class Prg:
    """A pseudo-random generator; each stream of it is read from its beginning once.

    The seed is secret: it is not shown, cannot be pickled, and is compared with nothing.
    """

    __slots__ = ("_seed", "_stream")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise UsageError(f"a seed has {SEED_BYTES} bytes, found {len(seed)}")
        self._seed = bytes(seed)
        # Safety: the key is derived for this one stream, so that the all-zero nonce is used once.
        key = hmac.digest(self._seed, b"unseen/prg/stream", "sha256")
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def fresh(cls) -> Prg:
        """Return a generator seeded by the operating system."""
        return cls(secrets.token_bytes(SEED_BYTES))

    def derive(self, label: str, *context: bytes) -> Prg:
        """Return the independent generator that belongs to ``label`` and ``context``; the same ones give the same."""
        parts = [b"unseen/prg/derive", label.encode(), *context]
        framed = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
        return Prg(hmac.digest(self._seed, framed, "sha256"))

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes of the stream."""
        return self._stream.update(b"\0" * count)

    def fill(self, buffer: NDArray[np.uint8] | NDArray[np.uint64]) -> None:
        """Overwrite a contiguous array with the next bytes of the stream."""
        view = memoryview(buffer.data).cast("B") if buffer.size else memoryview(b"")
        for start in range(0, len(view), len(_ZEROS)):
            piece = view[start : start + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(piece)], piece)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform 64-bit words."""
        words = np.empty(count, "<u8")
        self.fill(words)
        return words

    def below(self, bound: int, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform integers in [0, ``bound``), for a bound of at most 64 bits; exact, by rejection."""
        if not 1 <= bound <= 1 << 64:
            raise UsageError(f"a bound lies between 1 and 2^64, found {bound}")
        mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
        limit = np.uint64(bound - 1)
        found = np.empty(0, np.uint64)
        while len(found) < count:
            words = self.words(2 * (count - len(found)) + 16) & mask
            found = np.concatenate([found, words[words <= limit]])
        return found[:count]

    def permutation(self, count: int) -> NDArray[np.int64]:
        """Return a uniform permutation of ``count`` rows (ties of the 128-bit sort keys are negligible)."""
        keys = self.words(2 * count).reshape(2, count)
        return np.lexsort((keys[0], keys[1])).astype(np.int64)

    def __repr__(self) -> str:
        return "Prg(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a generator holds a secret seed and cannot be pickled")
