"""ristretto255 (RFC 9496): a group of prime order ℓ ≈ 2^252 in which discrete logarithms are hard.

Elements are their canonical encodings of 32 bytes: equal elements have equal bytes. The arithmetic is libsodium's, in
constant time, through the binding ``rbcl``. A batch of at least ``_WORTH_A_THREAD`` elements is cut into one piece per
processor: libsodium runs outside Python's global lock, and the result does not depend on the cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import rbcl
from numpy.typing import NDArray

from unseen.crypto.hashing import expand_message_xmd
from unseen.crypto.prg import Prg
from unseen.errors import UsageError

T = TypeVar("T")

POINT_BYTES = 32
SCALAR_BYTES = 32
ORDER = 2**252 + 27742317777372353535851937790883648493
"""ℓ, the number of elements (RFC 9496, section 4)."""

_UNIFORM_BYTES = 64
_WORTH_A_THREAD = 256


def _forget_unpacked_library(path: Path) -> None:
    """Remove the temporary file into which rbcl unpacks its library at every import; loaded, its name is no use.

    Anything else, such as a library that another version of rbcl loads from where it is installed, stays.
    """
    if path.parent == Path(tempfile.gettempdir()) and path.name.startswith(tempfile.gettempprefix()):
        path.unlink(missing_ok=True)


_forget_unpacked_library(Path(rbcl._sodium._name))


class Scalar:
    """A secret exponent, 1 ≤ s < ℓ; it is not shown, cannot be pickled, and is compared with nothing."""

    __slots__ = ("_encoding",)

    def __init__(self, encoding: bytes) -> None:
        if len(encoding) != SCALAR_BYTES or not 0 < int.from_bytes(encoding, "little") < ORDER:
            raise UsageError("a scalar is 32 little-endian bytes of a number between 1 and the group order less one")
        self._encoding = bytes(encoding)

    @classmethod
    def derive(cls, prg: Prg) -> Scalar:
        """Return a uniform scalar from the next 64 bytes of ``prg``; the bias of the wide reduction is below 2^-259."""
        encoding = rbcl.crypto_core_ristretto255_scalar_reduce(prg.bytes(_UNIFORM_BYTES))
        # Zero comes once in 2^252 times; the next bytes are as good.
        return cls(encoding) if any(encoding) else cls.derive(prg)

    def __repr__(self) -> str:
        return "Scalar(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a scalar is secret and cannot be pickled")


def hash_to_group(message: bytes, dst: bytes) -> bytes:
    """Return the element that belongs to ``message`` under ``dst``; nobody knows its logarithm to any base.

    Source: RFC 9380, appendix B (hash_to_ristretto255), with expand_message_xmd and SHA-512.

    Raises:
        UsageError: The tag does not have 1 to 255 bytes.
    """
    found: bytes = rbcl.crypto_core_ristretto255_from_hash(expand_message_xmd(message, dst, _UNIFORM_BYTES))
    return found


def multiply(scalar: Scalar, point: bytes) -> bytes:
    """Return ``scalar`` times ``point``.

    Raises:
        UsageError: ``point`` is not the canonical encoding of an element, or is the identity.
    """
    return multiply_all(scalar, np.frombuffer(point, np.uint8).reshape(1, -1)).tobytes()


def hash_all(items: Sequence[bytes], dst: bytes) -> NDArray[np.uint8]:
    """Return the elements that belong to ``items`` under ``dst``, shape (n, 32); see ``hash_to_group``.

    Raises:
        UsageError: The tag does not have 1 to 255 bytes.
    """
    return _rows(_in_pieces(lambda piece: [hash_to_group(item, dst) for item in piece], items))


def multiply_all(scalar: Scalar, points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``scalar`` times each of ``points``, both of shape (n, 32).

    Raises:
        UsageError: A row is not the canonical encoding of an element, or is the identity; the message says which.
    """
    _check_form(points)
    secret = scalar._encoding
    try:
        products = _in_pieces(
            lambda piece: [rbcl.crypto_scalarmult_ristretto255(secret, point) for point in piece], _encodings(points)
        )
    except RuntimeError as error:  # libsodium's -1: the point was refused
        check_points(points)
        raise UsageError("libsodium refused to multiply points that it holds to be valid") from error
    return _rows(products)


def check_points(points: NDArray[np.uint8]) -> None:
    """Pass if every row of ``points``, shape (n, 32), is the canonical encoding of an element, not of the identity.

    Source: RFC 9496, section 4.3.1.

    Raises:
        UsageError: A row is anything else; the message says which.
    """
    _check_form(points)
    for row, point in enumerate(_encodings(points)):
        if not rbcl.crypto_core_ristretto255_is_valid_point(point):
            raise UsageError(f"row {row} is not the canonical encoding of an element of ristretto255")


def _check_form(points: NDArray[np.uint8]) -> None:
    """Check what libsodium does not.

    It accepts the identity, and its versions up to 1.0.18 ignore the highest bit, so that an element had two encodings.
    """
    if points.ndim != 2 or points.shape[1] != POINT_BYTES or points.dtype != np.uint8:
        raise UsageError(f"points have shape (n, {POINT_BYTES}) of uint8, found {points.shape} of {points.dtype}")
    if (high := np.flatnonzero(points[:, -1] >= 128)).size:
        raise UsageError(f"row {high[0]} is not the canonical encoding of an element of ristretto255")
    if (zero := np.flatnonzero(~points.any(axis=1))).size:
        raise UsageError(f"row {zero[0]} is the identity of ristretto255, which hides nothing")


def _encodings(points: NDArray[np.uint8]) -> list[bytes]:
    raw = points.tobytes()
    return [raw[start : start + POINT_BYTES] for start in range(0, len(raw), POINT_BYTES)]


def _rows(encodings: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(encodings), np.uint8).reshape(-1, POINT_BYTES)


def _in_pieces(work: Callable[[Sequence[T]], list[bytes]], rows: Sequence[T]) -> list[bytes]:
    """Return what ``work`` makes of ``rows``, in their order."""
    threads = min(os.cpu_count() or 1, len(rows) // _WORTH_A_THREAD)
    if threads < 2:
        return work(rows)
    cuts = [len(rows) * piece // threads for piece in range(threads + 1)]
    pieces = [rows[start:stop] for start, stop in pairwise(cuts)]
    with ThreadPoolExecutor(threads) as pool:
        return [encoding for made in pool.map(work, pieces) for encoding in made]
