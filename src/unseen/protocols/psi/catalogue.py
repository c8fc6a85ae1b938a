"""A list encoded for look-ups: what the parties of ``psi.lookup`` keep, how entries are sealed, searched and opened.

An entry belongs to the value F(k, x) of an item x, 64 bytes: its tag is the beginning of it, the key of its payload
the last 32 bytes. Payloads are sealed with ChaCha20-Poly1305 (RFC 8439). A key seals one message, since every catalogue
has a k of its own and an item stands in it once; therefore the nonce is always zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.errors import DataError
from unseen.protocols.psi.port import strings

MAX_ITEMS = 1 << 28
"""Items in a catalogue."""
MAX_POINTS = 1 << 24
"""Items asked in a session."""
MAX_PAYLOAD_BYTES = 1 << 12
SEAL_BYTES = 16
"""By which a sealed payload is longer: Poly1305's tag."""
NAME_BYTES = 16
_ERROR_BITS = 40
_KEY_START = 32
"""Where in the function's value the key of the payload begins; tags are shorter."""
_NONCE = bytes(12)


@message("psi_lookup/terms")
class Terms:
    """What both parties know of a catalogue."""

    name: bytes
    """Random, one for every catalogue."""
    count: int
    payload_bytes: int
    max_points: int
    """How many items may be asked in one session."""

    @property
    def fault(self) -> str | None:
        """Why there can be no such catalogue, or ``None``."""
        if not 0 <= self.count <= MAX_ITEMS:
            return f"it has {self.count} items, at most {MAX_ITEMS} are allowed"
        if not 0 <= self.payload_bytes <= MAX_PAYLOAD_BYTES:
            return f"its payloads have {self.payload_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are allowed"
        if not 1 <= self.max_points <= MAX_POINTS:
            return f"{self.max_points} items may be asked in a session, it has to be 1 to {MAX_POINTS}"
        if len(self.name) != NAME_BYTES:
            return f"its name has {len(self.name)} bytes, not {NAME_BYTES}"
        return None

    @property
    def tag_bytes(self) -> int:
        """Length of a tag: pairs of items, asked and listed or both listed, share one with probability ≤ 2^-40."""
        pairs = self.count.bit_length() + max(self.count, self.max_points).bit_length()
        return -(-(_ERROR_BITS + pairs) // 8)

    @property
    def sealed_bytes(self) -> int:
        """Length of a sealed payload; 0 if there are none."""
        return self.payload_bytes and self.payload_bytes + SEAL_BYTES


@message("psi_lookup/catalogue")
class Catalogue:
    """What the asker keeps; it may lie in a file, of which a search reads a few pages."""

    terms: Terms
    tags: Annotated[NDArray[np.uint8], Shape(None, None)]
    """Ascending, shape (items, tag_bytes)."""
    sealed: Annotated[NDArray[np.uint8], Shape(None, None)]
    """Payloads under keys that the asker learns with an answer, shape (items, sealed_bytes)."""

    def find(self, outputs: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of ``outputs``, values of the function, that are in the catalogue, and where: rising places.

        A binary search reads some twenty pages for every row, the first ones of which are the same for all.
        """
        ordered, wanted = strings(self.tags), strings(outputs[:, : self.terms.tag_bytes])
        places = np.searchsorted(ordered, wanted)
        rows = np.flatnonzero(places < len(ordered))
        rows = rows[ordered[places[rows]] == wanted[rows]]
        rows = rows[np.argsort(places[rows])]
        return rows, places[rows]

    def open(self, outputs: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the payloads at ``places``, the function's values of which are ``outputs``, in rows.

        Raises:
            DataError: One does not open with its key.
        """
        if not self.terms.payload_bytes:
            return np.empty((len(places), 0), np.uint8)
        pairs = zip(_ciphers(outputs), self.sealed[places], strict=True)
        try:
            opened = [cipher.decrypt(_NONCE, sealed.tobytes(), self.terms.name) for cipher, sealed in pairs]
        except InvalidTag as error:
            raise DataError("a payload of the catalogue does not open with the key of its item") from error
        return np.frombuffer(b"".join(opened), np.uint8).reshape(-1, self.terms.payload_bytes)


@message("psi_lookup/holding")
class Holding:
    """What the holder keeps: the seed of its key, which is secret, and whose entry stands where."""

    terms: Terms
    key_seed: bytes
    order: Annotated[NDArray[np.uint32], Shape(None)]
    """The row of the list behind each place of the catalogue."""

    def __repr__(self) -> str:
        return f"Holding({self.terms.name.hex()}, <secret>)"


def seal(outputs: NDArray[np.uint8], payloads: NDArray[np.uint8], terms: Terms) -> NDArray[np.uint8]:
    """Return the payloads, each under the key in its row of ``outputs`` and bound to the catalogue's name."""
    pairs = zip(_ciphers(outputs), payloads, strict=True)
    sealed = [cipher.encrypt(_NONCE, payload.tobytes(), terms.name) for cipher, payload in pairs]
    return np.frombuffer(b"".join(sealed), np.uint8).reshape(-1, terms.sealed_bytes)


def _ciphers(outputs: NDArray[np.uint8]) -> Iterator[ChaCha20Poly1305]:
    return (ChaCha20Poly1305(row.tobytes()) for row in outputs[:, _KEY_START:])
