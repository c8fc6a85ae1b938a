"""Typed, versioned messages: ``decode`` gives a value of the expected type or raises ``RemoteProtocolError``.

A message is a class of annotated fields::

    @message("psi_join.ecdh/blinded", version=1)
    class Blinded:
        points: Annotated[NDArray[np.uint8], Shape(None, 32)]

The annotations are the wire format. Allowed are ``bool``, ``int`` (64 bits, signed), ``float``, ``str``, ``bytes``,
numpy arrays of a fixed dtype, other messages, ``tuple[T, ...]`` and ``T | None``. Nothing else can be sent, so nothing
a peer sends can name a class or run code. Arrays travel as their own little-endian buffers, aligned to eight
bytes: they are not copied by ``encode`` and are read-only views into the frame after ``decode``.

Layout of a frame: ``b"UN"``, the format (1 byte), length and text of the message's name, its version (2 bytes), then
the fields in the order of their declaration. Lengths and counts are unsigned 64-bit and are checked against the bytes
that are left before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from numpy.typing import NDArray

from unseen.errors import LocalProtocolError, RemoteProtocolError, UnseenError

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

MAGIC = b"UN"
FORMAT = 1
ALIGNMENT = 8
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 48
# Sequences become Python objects, some fifty bytes and half a microsecond each; what is long travels as an array.
_MAX_SEQUENCE = 1 << 20
_ARRAY_KINDS = "biufc"


class Message(Protocol):
    """Any class declared with ``@message``."""

    wire_name: ClassVar[str]
    wire_version: ClassVar[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Sizes that an array field must have; ``None`` leaves an axis free. Written inside ``Annotated``."""

    sizes: tuple[int | None, ...]

    def __init__(self, *sizes: int | None) -> None:
        object.__setattr__(self, "sizes", sizes)

    def admits(self, shape: Sequence[int]) -> bool:
        """Return whether an array of ``shape`` may stand here."""
        return len(shape) == len(self.sizes) and all(
            want is None or want == have for want, have in zip(self.sizes, shape, strict=True)
        )

    def __str__(self) -> str:
        return "(" + ", ".join("*" if size is None else str(size) for size in self.sizes) + ")"


@dataclass_transform(frozen_default=True)
def message(name: str, version: int = 1) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a class an immutable message called ``name`` on the wire.

    Raise ``version`` whenever the fields change their number, order, type or meaning.
    """

    def declare(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True, slots=True, eq=False)(cls)
        made.wire_name = name  # type: ignore[attr-defined]  # declared by the Message protocol
        made.wire_version = version  # type: ignore[attr-defined]
        return made

    return declare


def encode(value: object) -> list[Buffer]:
    """Return the frame of a message as buffers, whose concatenation is the frame; arrays are not copied.

    Raises:
        LocalProtocolError: A field holds something that its annotation does not allow.
    """
    writer = _Writer()
    name = wire_name(type(value)).encode()
    writer.raw(MAGIC + bytes([FORMAT, len(name)]) + name + struct.pack("<H", type(value).wire_version))  # type: ignore[attr-defined]
    _write_fields(writer, value)
    return writer.finish()


def encode_bytes(value: object) -> bytes:
    """Return the frame of a message in one piece."""
    return b"".join(encode(value))


def decode(kind: type[T], frame: Buffer, *, sender: str = "peer") -> T:
    """Return the message of type ``kind`` in ``frame``.

    Raises:
        RemoteProtocolError: The frame is anything else: another message or version, too short, too long, or malformed.
    """
    reader = _Reader(memoryview(frame).cast("B"), sender)
    found, version = _read_header(reader)
    expected = wire_name(kind), kind.wire_version  # type: ignore[attr-defined]
    if (found, version) != expected:
        raise RemoteProtocolError(
            f"{sender}: expected message {expected[0]} version {expected[1]}, found {shown(found)} version {version}"
        )
    value = _read_fields(reader, kind)
    if reader.left:
        raise reader.bad(f"{found} is followed by {reader.left} bytes too many")
    return value


def read_json(text: str | bytes) -> Any:  # whatever JSON says; who asks checks it
    """Return the value of a JSON text.

    Raises:
        ValueError: It is none, or nested more deeply than anything that is meant.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def wire_name(kind: type) -> str:
    """Return the name of a message type on the wire.

    Raises:
        LocalProtocolError: The class was not declared with ``@message``.
    """
    name = getattr(kind, "wire_name", None)
    if not isinstance(name, str):
        raise LocalProtocolError(f"{kind.__qualname__} is not a message: declare it with @message")
    return name


def shown(value: object, *, limit: int = 80) -> str:
    """Return what a peer sent, fit for an error message: escaped, and cut to about ``limit`` characters.

    Messages end on terminals and in logs, where a peer's escape sequences must not be obeyed nor its megabytes kept.
    """
    # The cut comes first, so that an enormous value is not escaped in full; every element takes a character or more.
    head = value[:limit] if isinstance(value, str | bytes | tuple) else value
    text = ascii(head)[1:-1] if isinstance(head, str) else ascii(head)
    return text if head == value and len(text) <= limit else text[:limit] + "…"


class _Writer:
    """Collects buffers, small pieces joined, and knows the offset of the next byte."""

    def __init__(self) -> None:
        self.offset = 0
        self._done: list[Buffer] = []
        self._small = bytearray()

    def raw(self, data: bytes) -> None:
        self._small += data
        self.offset += len(data)

    def large(self, data: memoryview) -> None:
        self._done += [bytes(self._small), data]
        self._small = bytearray()
        self.offset += data.nbytes

    def align(self) -> None:
        self.raw(b"\0" * (-self.offset % ALIGNMENT))

    def finish(self) -> list[Buffer]:
        return [part for part in [*self._done, bytes(self._small)] if len(part)]


class _Reader:
    """Walks over a frame and refuses to read past its end."""

    def __init__(self, view: memoryview, sender: str) -> None:
        self.view, self.sender, self.offset = view, sender, 0

    @property
    def left(self) -> int:
        return len(self.view) - self.offset

    def bad(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.sender}: malformed frame: {what} (at byte {self.offset})")

    def take(self, count: int, what: str) -> memoryview:
        if count > self.left:
            raise self.bad(f"{what} needs {count} bytes, {self.left} are left")
        piece = self.view[self.offset : self.offset + count]
        self.offset += count
        return piece

    def count(self, what: str) -> int:
        (number,) = struct.unpack("<Q", self.take(8, what))
        return int(number)

    def align(self) -> None:
        if any(self.take(-self.offset % ALIGNMENT, "padding")):
            raise self.bad("padding is not zero")


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """How values of one annotation are written and read."""

    write: Callable[[_Writer, Any], None]
    read: Callable[[_Reader], Any]


def _read_header(reader: _Reader) -> tuple[str, int]:
    if bytes(reader.take(2, "magic")) != MAGIC:
        raise reader.bad("it does not start with UN")
    (form, length) = reader.take(2, "header")
    if form != FORMAT:
        raise reader.bad(f"format {form}, this side speaks {FORMAT}: both parties need the same major version")
    name = _text(reader, bytes(reader.take(length, "name")))
    (version,) = struct.unpack("<H", reader.take(2, "version"))
    return name, version


def _text(reader: _Reader, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise reader.bad("text is not UTF-8") from error


def _write_fields(writer: _Writer, value: object) -> None:
    for name, kind in _layout(type(value)):  # type: ignore[arg-type]  # every class is hashable
        try:
            kind.write(writer, getattr(value, name))
        except (TypeError, ValueError, struct.error, AttributeError) as error:
            raise LocalProtocolError(f"{type(value).__qualname__}.{name}: {error}") from error


def _read_fields(reader: _Reader, kind: type[T]) -> T:
    fields = {name: field.read(reader) for name, field in _layout(kind)}  # type: ignore[arg-type]
    try:
        return kind(**fields)
    except UnseenError as error:  # the message's own __post_init__ found fault with the values
        raise reader.bad(f"{wire_name(kind)}: {error}") from error


@cache
def _layout(cls: Any) -> tuple[tuple[str, _Kind], ...]:
    wire_name(cls)
    hints = get_type_hints(cls, include_extras=True)
    return tuple((field.name, _kind(hints[field.name])) for field in dataclasses.fields(cls))


def _kind(hint: Any) -> _Kind:
    shape = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        shape = next((note for note in notes if isinstance(note, Shape)), None)
    origin = get_origin(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is np.ndarray and (dtype := np.dtype(get_args(get_args(hint)[1])[0])).kind in _ARRAY_KINDS:
        return _array(dtype, shape)
    if origin is tuple and get_args(hint)[1:] == (Ellipsis,):
        return _sequence(_kind(get_args(hint)[0]))
    if origin in (Union, types.UnionType) and types.NoneType in get_args(hint):
        (inner,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
        return _optional(_kind(inner))
    if isinstance(hint, type) and hasattr(hint, "wire_name"):
        return _nested(hint)
    raise LocalProtocolError(f"{hint!r} cannot be a field of a message")


def _nested(kind: type) -> _Kind:
    def write(writer: _Writer, value: Any) -> None:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
        _write_fields(writer, value)

    return _Kind(write, lambda reader: _read_fields(reader, kind))


def _fixed(code: str, check: type) -> _Kind:
    packer = struct.Struct(code)

    def write(writer: _Writer, value: Any) -> None:
        if not isinstance(value, check) or (check is int and isinstance(value, bool)):
            raise TypeError(f"expected {check.__name__}, found {type(value).__name__}")
        writer.raw(packer.pack(value))

    def read(reader: _Reader) -> Any:
        return packer.unpack(reader.take(packer.size, check.__name__))[0]

    return _Kind(write, read)


def _write_bool(writer: _Writer, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"expected bool, found {type(value).__name__}")
    writer.raw(bytes([value]))


def _read_bool(reader: _Reader) -> bool:
    (flag,) = reader.take(1, "bool")
    if flag > 1:
        raise reader.bad(f"a truth value is {flag}")
    return bool(flag)


def _write_bytes(writer: _Writer, value: Any) -> None:
    if not isinstance(value, Buffer):
        raise TypeError(f"expected bytes, found {type(value).__name__}")
    raw = bytes(value)
    writer.raw(struct.pack("<Q", len(raw)) + raw)


def _write_text(writer: _Writer, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"expected str, found {type(value).__name__}")
    _write_bytes(writer, value.encode())


def _array(dtype: np.dtype[Any], shape: Shape | None) -> _Kind:
    wire_type = dtype.newbyteorder("<")

    def write(writer: _Writer, value: Any) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            raise TypeError(f"expected an array of {dtype}, found {getattr(value, 'dtype', type(value).__name__)}")
        if shape is not None and not shape.admits(value.shape):
            raise ValueError(f"expected shape {shape}, found {value.shape}")
        writer.raw(struct.pack(f"<B{value.ndim}Q", value.ndim, *value.shape))
        writer.align()
        if value.size:
            writer.large(np.ascontiguousarray(value, dtype=wire_type).reshape(-1).view(np.uint8).data)

    def read(reader: _Reader) -> NDArray[Any]:
        sizes = _read_sizes(reader)
        if shape is not None and not shape.admits(sizes):
            raise reader.bad(f"expected an array of shape {shape}, found {sizes}")
        reader.align()
        raw = reader.take(math.prod(sizes) * dtype.itemsize, "array")
        values = np.frombuffer(raw, dtype=wire_type).reshape(sizes)
        if dtype == np.bool_ and np.any(values.view(np.uint8) > 1):
            raise reader.bad("a truth value is neither 0 nor 1")
        return values

    return _Kind(write, read)


def _read_sizes(reader: _Reader) -> tuple[int, ...]:
    (dimensions,) = reader.take(1, "number of axes")
    if dimensions > _MAX_DIMENSIONS:
        raise reader.bad(f"an array has {dimensions} axes, at most {_MAX_DIMENSIONS} are allowed")
    sizes = tuple(reader.count("axis") for _ in range(dimensions))
    if math.prod(max(size, 1) for size in sizes) > _MAX_ELEMENTS:
        raise reader.bad(f"an array of shape {sizes} is too large")
    return sizes


def _sequence(item: _Kind) -> _Kind:
    def write(writer: _Writer, value: Any) -> None:
        writer.raw(struct.pack("<Q", len(value)))
        start = writer.offset
        for element in value:
            item.write(writer, element)
        # The reader bounds the number of elements by the bytes that are left.
        if writer.offset - start < len(value):
            raise ValueError("elements of no bytes cannot stand in a sequence")
        if len(value) > _MAX_SEQUENCE:
            raise ValueError(f"a sequence has {len(value)} elements, at most {_MAX_SEQUENCE} are allowed: use an array")

    def read(reader: _Reader) -> tuple[Any, ...]:
        count = reader.count("number of elements")
        if count > min(reader.left, _MAX_SEQUENCE):
            raise reader.bad(
                f"{count} elements are announced, {reader.left} bytes are left and {_MAX_SEQUENCE} elements allowed"
            )
        return tuple(item.read(reader) for _ in range(count))

    return _Kind(write, read)


def _optional(inner: _Kind) -> _Kind:
    def write(writer: _Writer, value: Any) -> None:
        _write_bool(writer, value is not None)
        if value is not None:
            inner.write(writer, value)

    return _Kind(write, lambda reader: inner.read(reader) if _read_bool(reader) else None)


_SCALARS: dict[Any, _Kind] = {
    bool: _Kind(_write_bool, _read_bool),
    int: _fixed("<q", int),
    float: _fixed("<d", float),
    bytes: _Kind(_write_bytes, lambda reader: bytes(reader.take(reader.count("length"), "bytes"))),
    str: _Kind(_write_text, lambda reader: _text(reader, bytes(reader.take(reader.count("length"), "text")))),
}
