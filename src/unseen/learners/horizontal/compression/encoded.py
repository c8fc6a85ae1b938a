"""``Encoded``: an update's difference as it travels, and the ports of what makes it and reads it.

Whatever a codec does, the server and a simulation go on with the same numbers: those that ``decode`` reads.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, encode, message
from unseen.errors import RemoteProtocolError
from unseen.learners.horizontal.process import Vector


@message("horizontal/encoded")
class Encoded:
    """A vector of ``size`` numbers in fewer bytes; what the fields hold is described at each codec."""

    scheme: str
    size: int
    numbers: Annotated[NDArray[np.float32], Shape(None)]
    packed: Annotated[NDArray[np.uint8], Shape(None)]


class Codec(Protocol):
    """A way to write vectors in fewer bytes, with a loss."""

    @property
    def scheme(self) -> str:
        """Name and parameters, which both sides have to agree about."""
        ...

    @property
    def unbiased(self) -> bool:
        """Whether what is read is right on average, so that means over clients and rounds are."""
        ...

    def encode(self, vector: Vector, rng: np.random.Generator) -> Encoded:
        """Return a vector in fewer bytes."""
        ...

    def decode(self, encoded: Encoded, size: int) -> Vector:
        """Return the ``size`` numbers that were meant.

        Raises:
            RemoteProtocolError: The message is not one that ``encode`` makes.
        """
        ...


def wire_bytes(encoded: Encoded) -> int:
    """Return the length of the message on the wire."""
    return sum(len(memoryview(part).cast("B")) for part in encode(encoded))


def check(encoded: Encoded, scheme: str, size: int, numbers: int | None, packed: int | None) -> None:
    """Refuse a message of another scheme, or of other lengths where they are known.

    Raises:
        RemoteProtocolError: It is one, or holds numbers that are not finite.
    """
    if (encoded.scheme, encoded.size) != (scheme, size):
        raise RemoteProtocolError(
            f"expected {size} numbers encoded by {scheme}, found {encoded.size} by {encoded.scheme[:40]!r}"
        )
    lengths = ("numbers", encoded.numbers, numbers), ("packed bytes", encoded.packed, packed)
    for what, found, expected in lengths:
        if expected is not None and len(found) != expected:
            raise RemoteProtocolError(f"{scheme}: expected {expected} {what}, found {len(found)}")
    if not np.isfinite(encoded.numbers).all():
        raise RemoteProtocolError(f"{scheme}: expected finite numbers, found others")
