"""Reads ``tf.train.Example`` messages, of which TensorFlow's record and client files consist, without TensorFlow.

The message is (tensorflow/core/example/example.proto and feature.proto)::

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }     an entry is a message { string key = 1; Feature value = 2; }
    Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    …List     { repeated … value = 1; }                 numbers packed into one field, or one field each

in the wire format of Protocol Buffers (protobuf.dev, "Encoding"). Stricter than that format asks for: an unknown field,
a field of another type, a feature that is there twice or without a value is an error rather than passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError

Feature: TypeAlias = NDArray[np.float32] | NDArray[np.int64] | tuple[bytes, ...]

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire: int
    value: memoryview
    """The content of a field with a length, else the field's own bytes."""


def parse_example(content: bytes) -> dict[str, Feature]:
    """Return the features of a message by name: floats of shape (n,), integers of shape (n,), or texts as bytes.

    Raises:
        DataError: The bytes are no such message.
    """
    features: dict[str, Feature] = {}
    for outer in _messages(memoryview(content), 1, "Example"):
        for entry in _messages(outer, 1, "Features"):
            name, feature = _entry(entry)
            if name in features:
                raise DataError(f"feature {name!r} is there twice")
            features[name] = feature
    return features


def _entry(entry: memoryview) -> tuple[str, Feature]:
    fields = list(_fields(entry))
    if [(field.number, field.wire) for field in fields] != [(1, _BYTES), (2, _BYTES)]:
        raise DataError("a feature is not a key followed by a value")
    try:
        name = bytes(fields[0].value).decode()
    except UnicodeDecodeError as error:
        raise DataError("the name of a feature is no UTF-8") from error
    return name, _feature(name, fields[1].value)


def _feature(name: str, content: memoryview) -> Feature:
    kinds = list(_fields(content))
    if len(kinds) != 1 or kinds[0].wire != _BYTES:
        raise DataError(f"feature {name!r} does not have one list of values")
    number, values = kinds[0].number, kinds[0].value
    if number == _BYTES_LIST:
        return tuple(bytes(value) for value in _messages(values, 1, "BytesList"))
    if number == _FLOAT_LIST:
        return _floats(name, values)
    if number == _INT64_LIST:
        return _integers(name, values)
    raise DataError(f"feature {name!r} has a list of unknown type {number}")


def _floats(name: str, values: memoryview) -> NDArray[np.float32]:
    parts = []
    for field in _fields(values):
        if field.number != 1 or field.wire not in {_BYTES, _FIXED32} or len(field.value) % 4:
            raise DataError(f"feature {name!r} holds something else than 32-bit floats")
        parts.append(np.frombuffer(field.value, "<f4"))
    return np.concatenate(parts, dtype=np.float32) if parts else np.zeros(0, np.float32)


def _integers(name: str, values: memoryview) -> NDArray[np.int64]:
    found = []
    for field in _fields(values):
        if field.number != 1 or field.wire not in {_BYTES, _VARINT}:
            raise DataError(f"feature {name!r} holds something else than 64-bit integers")
        place = 0
        while place < len(field.value):
            value, place = _varint(field.value, place)
            found.append(value)
    return np.array(found, np.uint64).view(np.int64)  # negative numbers are written as their two's complement


def _messages(content: memoryview, number: int, kind: str) -> Iterator[memoryview]:
    """Yield the contents of a message that has nothing but fields of one number, with a length each."""
    for field in _fields(content):
        if (field.number, field.wire) != (number, _BYTES):
            raise DataError(f"a {kind} has a field {field.number} of wire type {field.wire}, which it does not know")
        yield field.value


def _fields(content: memoryview) -> Iterator[_Field]:
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        begin, wire = place, tag & 7
        if wire == _VARINT:
            _, place = _varint(content, place)
        elif wire == _BYTES:
            length, begin = _varint(content, place)
            place = begin + length
        elif wire == _FIXED32:
            place += 4
        else:
            raise DataError(f"wire type {wire} at byte {begin} is none of a tf.train.Example")
        if place > len(content):
            raise DataError(f"a field of {place - begin} bytes is cut off after {len(content) - begin}")
        yield _Field(tag >> 3, wire, content[begin:place])


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return the number that begins at a place, and where it ends."""
    value = 0
    for shift, byte in enumerate(content[place : place + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            if value >> 64:
                raise DataError(f"the number at byte {place} has more than 64 bits")
            return value, place + shift + 1
    raise DataError(f"the number at byte {place} does not end")
