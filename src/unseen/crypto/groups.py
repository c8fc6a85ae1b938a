"""ristretto255 (RFC 9496): a group of prime order ℓ ≈ 2^252 in which discrete logarithms are hard.

Elements are their canonical encodings of 32 bytes: equal elements have equal bytes. The arithmetic is libsodium's, in
constant time, through the binding ``rbcl``. Batches are handed to libsodium by a compiled loop that holds Python's
global lock at no time: with one call from Python per element, threads would wait for the lock longer than libsodium
works. A batch of at least ``_WORTH_A_THREAD`` elements is cut into one piece per processor; the result does not depend
on the cut.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import rbcl
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from unseen.crypto.hashing import expand_message_xmd
from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel, ranges, threads
from unseen.kernels.jit import compiled

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


# --- scalars -----------------------------------------------------------------------------------------------------


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


def invert_all(scalars: Sequence[Scalar]) -> list[Scalar]:
    """Return 1/s modulo ℓ for each s of ``scalars``, in their order.

    Source: P. Montgomery, "Speeding the Pollard and Elliptic Curve Methods of Factorization" (Mathematics of
    Computation 48, 1987), section 10.3.1: one inversion and three multiplications a scalar.
    """
    product, before = (1).to_bytes(SCALAR_BYTES, "little"), []
    for scalar in scalars:
        before.append(product)
        product = rbcl.crypto_core_ristretto255_scalar_mul(product, scalar._encoding)
    inverse = rbcl.crypto_core_ristretto255_scalar_invert(product)
    found = []
    for scalar, product in zip(reversed(scalars), reversed(before), strict=True):
        found.append(Scalar(rbcl.crypto_core_ristretto255_scalar_mul(inverse, product)))
        inverse = rbcl.crypto_core_ristretto255_scalar_mul(inverse, scalar._encoding)
    return found[::-1]


# --- elements ----------------------------------------------------------------------------------------------------


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
    hashes = _rows([expand_message_xmd(item, dst, _UNIFORM_BYTES) for item in items], _UNIFORM_BYTES)
    points = np.empty((len(items), POINT_BYTES), np.uint8)
    _in_pieces(lambda rows: _map_each(_MAP, points[rows], hashes[rows]), len(items))
    return points


def multiply_all(scalar: Scalar, points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``scalar`` times each of ``points``, both of shape (n, 32).

    Raises:
        UsageError: A row is not the canonical encoding of an element, or is the identity; the message says which.
    """
    return _multiply([scalar], points)


def multiply_each(scalars: Sequence[Scalar], points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each of ``scalars`` times the one of ``points``, shape (n, 32), in the same place.

    Raises:
        UsageError: There are more of one than of the other; or as ``multiply_all``.
    """
    if len(scalars) != len(points):
        raise UsageError(f"every point is multiplied by a scalar of its own, found {len(scalars)} for {len(points)}")
    return _multiply(scalars, points)


def multiple_of_base(scalar: Scalar) -> bytes:
    """Return ``scalar`` times the group's generator."""
    found: bytes = rbcl.crypto_scalarmult_ristretto255_base(scalar._encoding)
    return found


def add_all(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the sums of two lists of elements that ``check_points`` accepts, row by row, shape (n, 32)."""
    pairs = zip(_encodings(left), _encodings(right), strict=True)
    found = b"".join([rbcl.crypto_core_ristretto255_add(one, other) for one, other in pairs])
    return np.frombuffer(found, np.uint8).reshape(-1, POINT_BYTES)


def subtract_all(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the differences of two lists of elements that ``check_points`` accepts, row by row, shape (n, 32)."""
    pairs = zip(_encodings(left), _encodings(right), strict=True)
    found = b"".join([rbcl.crypto_core_ristretto255_sub(one, other) for one, other in pairs])
    return np.frombuffer(found, np.uint8).reshape(-1, POINT_BYTES)


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


def _rows(encodings: list[bytes], width: int = POINT_BYTES) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(encodings), np.uint8).reshape(-1, width)


def _multiply(scalars: Sequence[Scalar], points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the products; a single scalar is that of all points."""
    _check_form(points)
    secrets = _rows([scalar._encoding for scalar in scalars], SCALAR_BYTES)
    found, products = np.ascontiguousarray(points), np.empty(points.shape, np.uint8)

    def work(rows: slice) -> None:
        own = secrets if len(secrets) == 1 else secrets[rows]
        if not _multiply_each(_MULTIPLY, products[rows], own, found[rows]):
            check_points(points)
            raise UsageError("libsodium refused to multiply points that it holds to be valid")

    _in_pieces(work, len(points))
    return products


# --- batches -----------------------------------------------------------------------------------------------------


def _address(function: Any) -> int:
    """Return where a function of libsodium lies; a compiled loop calls it there."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    if not address:
        raise ImportError("rbcl's libsodium lacks a function of ristretto255: install rbcl again")
    return address


_MAP = _address(rbcl._sodium.crypto_core_ristretto255_from_hash)
_MULTIPLY = _address(rbcl._sodium.crypto_scalarmult_ristretto255)


def _generate_call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Call the C function at the address that comes first; all its parameters are pointers, and it returns an int."""
    del context, signature
    address, *pointers = arguments
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.IntType(32), [pointer] * len(pointers))
    function = builder.inttoptr(address, kind.as_pointer())
    return builder.call(function, [builder.inttoptr(each, pointer) for each in pointers])


def _two(typing_context: Any, address: Any, out: Any, a: Any) -> Any:
    del typing_context, address, out, a
    return types.int32(types.int64, types.uintp, types.uintp), _generate_call


def _three(typing_context: Any, address: Any, out: Any, a: Any, b: Any) -> Any:
    del typing_context, address, out, a, b
    return types.int32(types.int64, types.uintp, types.uintp, types.uintp), _generate_call


_call_two: Callable[..., int] = intrinsic(_two)
_call_three: Callable[..., int] = intrinsic(_three)


@compiled
def _map_each(address: int, points: NDArray[np.uint8], hashes: NDArray[np.uint8]) -> None:
    for row in range(len(points)):
        _call_two(address, points[row].ctypes.data, hashes[row].ctypes.data)


@compiled
def _multiply_each(
    address: int, products: NDArray[np.uint8], scalars: NDArray[np.uint8], points: NDArray[np.uint8]
) -> bool:
    """Write the products; return whether libsodium took all the points."""
    for row in range(len(points)):
        own = scalars[row % len(scalars)].ctypes.data
        if _call_three(address, products[row].ctypes.data, own, points[row].ctypes.data) != 0:
            return False
    return True


def _in_pieces(work: Callable[[slice], None], count: int) -> None:
    """Let ``work`` do all of ``count`` rows, each once, in as many threads as are worth it."""
    cuts = ranges(count, max(1, min(threads(), count // _WORTH_A_THREAD)))
    in_parallel(lambda piece: work(cuts[piece]), len(cuts))
