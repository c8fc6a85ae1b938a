"""Hashes and generators for blocks of 128 bits from AES with public keys: as fast as the processor's AES.

AES-128 under a fixed, public key π is modelled as a random permutation. C. Guo, J. Katz, X. Wang, Y. Yu, "Efficient
and Secure Multiparty Computation from Fixed-Key Block Ciphers" (IEEE S&P 2020): ``one_way`` is π(x) ⊕ x
(Matyas–Meyer–Oseas), a generator and correlation robust for secret inputs that nobody chooses (section 7.2);
``tweaked`` is π(π(x) ⊕ i) ⊕ π(x), tweakable and circular correlation robust (section 7.4).

Keys are drawn anew for each session, so that no work on one session helps against another.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.kernels.blocks import pieces

KEY_BYTES = 16
BLOCK_BYTES = 16
_PIECE = 1 << 13
"""Blocks that are handled at once: both buffers stay in the nearest caches."""

Words = NDArray[np.uint64]


class Permutation:
    """AES-128 under one public key, on arrays of blocks of shape (…, 2), words in little-endian order.

    Raises:
        UsageError: The key has not 16 bytes.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"a fixed key has {KEY_BYTES} bytes, found {len(key)}")
        # Safety: no encryption: a public permutation, applied to single blocks, is just what is wanted.
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  # see above

    def permuted(self, blocks: Words) -> Words:
        """Return π(x) for every block x."""
        source = np.ascontiguousarray(blocks, "<u8").reshape(-1).view(np.uint8)
        # The library wants room for one block more, which it does not use.
        target = np.empty(len(source) + BLOCK_BYTES, np.uint8)
        # An encryptor belongs to one thread; a new one costs some microseconds.
        self._cipher.encryptor().update_into(source.data, target.data)
        return target[: len(source)].view("<u8").reshape(blocks.shape)

    def one_way(self, blocks: Words) -> Words:
        """Return π(x) ⊕ x for blocks of shape (n, 2)."""
        found = np.empty_like(blocks)
        for piece in pieces(len(blocks), _PIECE):
            np.bitwise_xor(self.permuted(blocks[piece]), blocks[piece], out=found[piece])
        return found

    def tweaked(self, blocks: Words, tweaks: Words) -> Words:
        """Return π(π(x) ⊕ i) ⊕ π(x) for blocks x and tweaks i, both of shape (n, 2)."""
        found = np.empty_like(blocks)
        for piece in pieces(len(blocks), _PIECE):
            inner = self.permuted(blocks[piece])
            np.bitwise_xor(self.permuted(inner ^ tweaks[piece]), inner, out=found[piece])
        return found
