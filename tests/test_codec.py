"""Every message of the package goes there and back, and whatever else arrives is refused, not misread.

The messages are found by importing the whole package, so that a new one is tested from the day it is declared.
"""

import dataclasses
import importlib
import math
import pkgutil
import random
import struct
import tracemalloc
import types
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import unseen
from unseen.codec import FORMAT, MAGIC, Shape, decode, encode, encode_bytes, message, shown, wire_name
from unseen.errors import LocalProtocolError, RemoteProtocolError, UnseenError, UsageError

FUZZED_FRAMES = 100_000


@message("test/codec-leaf", version=3)
class Leaf:
    number: int
    values: NDArray[np.float64]


@message("test/codec-all")
class Everything:
    """Every kind of field that the codec knows."""

    flag: bool
    number: int
    real: float
    text: str
    raw: bytes
    matrix: Annotated[NDArray[np.int64], Shape(None, 3)]
    words: NDArray[np.uint64]
    flags: NDArray[np.bool_]
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    nested: tuple[tuple[str, ...], ...]
    maybe: bytes | None
    perhaps: Leaf | None


@message("test/codec-empty")
class Empty:
    pass


# --- which messages there are ------------------------------------------------------------------------------------


def package_messages() -> tuple[list[type], dict[str, ImportError]]:
    """Return all messages that the package declares, and the modules that could not be searched."""
    found: dict[type, None] = {}
    broken: dict[str, ImportError] = {}
    for module in pkgutil.walk_packages(unseen.__path__, "unseen.", onerror=lambda _: None):
        if module.name.endswith("__main__"):
            continue
        try:
            members = vars(importlib.import_module(module.name)).values()
        except ImportError as error:
            broken[module.name] = error
        else:
            found |= {member: None for member in members if isinstance(member, type) and is_message(member)}
    return sorted(found, key=wire_name), broken


def is_message(kind: type) -> bool:
    return isinstance(getattr(kind, "wire_name", None), str)


MESSAGES, UNSEARCHED = package_messages()
KINDS = [*MESSAGES, Leaf, Everything, Empty]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=wire_name)


# --- values of every message -------------------------------------------------------------------------------------


@cache
def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values that an annotation of a field admits."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return values(inner) if get_origin(inner) is not np.ndarray else arrays(inner, *notes)
    if get_origin(hint) is np.ndarray:
        return arrays(hint)
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) in (Union, types.UnionType):
        return st.one_of(*(st.none() if arg is types.NoneType else values(arg) for arg in get_args(hint)))
    return SCALARS[hint] if hint in SCALARS else instances(hint)


@st.composite
def instances(draw: st.DrawFn, kind: type) -> Any:
    """Return a message; one that checks its own values is given a few chances, then its defaults."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: values(hints[field.name]) for field in dataclasses.fields(kind)}
    for _ in range(4):
        drawn = {name: draw(strategy) for name, strategy in fields.items()}
        with suppress(UnseenError):
            return kind(**drawn)
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            drawn[field.name] = field.default
    try:
        return kind(**drawn)
    except UnseenError:
        reject()


def arrays(hint: Any, *notes: object) -> st.SearchStrategy[Any]:
    dtype = np.dtype(get_args(get_args(hint)[1])[0])
    shape = next((note.sizes for note in notes if isinstance(note, Shape)), None)
    axis = st.integers(0, 3)
    shapes = (
        st.lists(axis, max_size=3) if shape is None else st.tuples(*(axis if s is None else st.just(s) for s in shape))
    )
    return st.builds(lambda sizes, seed: filled(dtype, tuple(sizes), seed), shapes, st.integers(0, 2**32))


def filled(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    raw = random.Random(seed).randbytes(math.prod(shape) * dtype.itemsize)
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, dtype).reshape(shape)


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 9) | st.integers(-(2**63), 2**63 - 1),
    float: st.floats(0.1, 0.9) | st.floats(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
}


def same(left: Any, right: Any) -> bool:
    """Return whether two values agree in every bit."""
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if is_message(type(left)):
        fields = get_type_hints(type(left))
        return type(left) is type(right) and all(same(getattr(left, name), getattr(right, name)) for name in fields)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and bool(left == right)


def some_frames(kind: type, count: int = 12) -> list[bytes]:
    """Return frames of different values, the same ones in every run."""
    found: list[bytes] = []

    @given(instances(kind))
    @settings(
        derandomize=True,
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def collect(value: object) -> None:
        found.append(encode_bytes(value))

    collect()
    return found


# --- what is right goes through ----------------------------------------------------------------------------------


def test_the_package_declares_messages() -> None:
    assert {"dialogue/array-chunk", "psi_join.ecdh/points"} <= {wire_name(kind) for kind in MESSAGES}


def test_only_modules_that_need_an_extra_could_not_be_searched() -> None:
    assert [
        f"{name}: {error}" for name, error in UNSEARCHED.items() if (error.name or "unseen").startswith("unseen")
    ] == []


def test_names_and_versions_are_unique() -> None:
    declared = [(wire_name(kind), kind.wire_version) for kind in MESSAGES]  # type: ignore[attr-defined]  # see Message
    assert len(set(declared)) == len(declared)


@each_kind
def test_every_message_goes_there_and_back(kind: type) -> None:
    @given(instances(kind))
    @settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
    def check(value: object) -> None:
        frame = encode_bytes(value)
        found = decode(kind, frame)
        assert same(value, found)
        assert encode_bytes(found) == frame

    check()


def test_arrays_are_not_copied() -> None:
    values = np.arange(6.0)
    frame = bytearray(encode_bytes(Leaf(1, values)))
    assert any(isinstance(part, memoryview) and np.shares_memory(part, values) for part in encode(Leaf(1, values)))
    found = decode(Leaf, frame).values
    assert np.shares_memory(found, np.frombuffer(frame, np.uint8))
    assert not decode(Leaf, bytes(frame)).values.flags.writeable


def test_arrays_start_at_multiples_of_eight() -> None:
    for text in ("", "a", "abcdefg"):
        frame = encode_bytes(Everything(*everything(text)))
        assert frame.index(struct.pack("<3q", 11, 22, 33)) % 8 == 0


def everything(text: str = "text") -> tuple[Any, ...]:
    leaf = Leaf(-1, np.array([0.5]))
    matrix, words = np.array([[11, 22, 33]]), np.array([7], np.uint64)
    return (
        True,
        5,
        1.5,
        text,
        b"raw",
        matrix,
        words,
        np.array([True, False]),
        leaf,
        (leaf, leaf),
        (("a",), ()),
        None,
        leaf,
    )


def test_views_and_columns_are_sent_as_their_values() -> None:
    table = np.arange(12.0).reshape(3, 4)
    for values in (table.T, table[:, 1], table[::2], np.asfortranarray(table), table.astype(">f8").astype("<f8")):
        found = decode(Leaf, encode_bytes(Leaf(0, values))).values
        assert np.array_equal(found, values)


def test_any_buffer_counts_its_bytes() -> None:
    words = np.arange(3, dtype=np.int64)
    fields = list(everything())
    fields[4] = memoryview(words)
    assert decode(Everything, encode_bytes(Everything(*fields))).raw == words.tobytes()


# --- what is wrong does not leave --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "value", "complaint"),
    [
        (0, 1, "Everything.flag: expected bool, found int"),
        (1, True, "Everything.number: expected int, found bool"),
        (1, 1 << 63, "Everything.number: "),
        (2, 1, "Everything.real: expected float, found int"),
        (3, b"x", "Everything.text: expected str, found bytes"),
        (3, "\ud800", "Everything.text: .*surrogates"),
        (4, "x", "Everything.raw: expected bytes, found str"),
        (5, np.zeros((1, 2), np.int64), r"Everything.matrix: expected shape \(\*, 3\), found \(1, 2\)"),
        (5, np.zeros((1, 3)), "Everything.matrix: expected an array of int64, found float64"),
        (5, [[1, 2, 3]], "Everything.matrix: expected an array of int64, found list"),
        (8, None, "Everything.leaf: expected Leaf, found NoneType"),
        (8, Empty(), "Everything.leaf: expected Leaf, found Empty"),
        (9, None, "Everything.leaves: "),
    ],
)
def test_wrong_values_are_refused_by_their_field(index: int, value: object, complaint: str) -> None:
    fields = list(everything())
    fields[index] = value
    with pytest.raises(LocalProtocolError, match=complaint):
        encode_bytes(Everything(*fields))


def test_only_messages_are_sent() -> None:
    for value in (5, "text", {"a": 1}, object()):
        with pytest.raises(LocalProtocolError, match="is not a message: declare it with @message"):
            encode(value)


@pytest.mark.parametrize(
    "hint", [dict[str, int], list[int], object, Any, int | str, tuple[int, str], complex, NDArray[np.object_]]
)
def test_other_annotations_are_refused(hint: Any) -> None:
    declared = message("test/codec-odd")(type("Odd", (), {"__annotations__": {"field": hint}}))
    with pytest.raises(LocalProtocolError, match="cannot be a field of a message"):
        encode_bytes(declared(5))


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Leaf(1, np.zeros(1)).number = 2  # type: ignore[misc]  # that it is frozen is the point


# --- what is wrong does not come in ------------------------------------------------------------------------------


def refused_or_read(kind: type, frame: bytes) -> bool:
    """Return whether a frame is refused; if it is read, it is the one frame of the value that it gave."""
    try:
        value = decode(kind, frame)
    except RemoteProtocolError:
        return True
    assert encode_bytes(value) == frame
    return False


@each_kind
def test_truncated_frames_are_refused(kind: type) -> None:
    for frame in some_frames(kind, 4):
        lengths = {*range(min(len(frame), 300)), *range(0, len(frame), 1 + len(frame) // 100), len(frame) - 1}
        assert all(refused_or_read(kind, frame[:length]) for length in lengths)


@each_kind
def test_frames_with_bytes_behind_are_refused(kind: type) -> None:
    for frame in some_frames(kind, 4):
        with pytest.raises(RemoteProtocolError, match=r"followed by 1 bytes too many|malformed"):
            decode(kind, frame + b"\0")


@given(st.sampled_from(KINDS), st.binary(max_size=200), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=1000)
def test_arbitrary_bytes_are_refused(kind: type, noise: bytes, headed: bool) -> None:
    name = wire_name(kind).encode()
    header = b"UN\x01" + bytes([len(name)]) + name + struct.pack("<H", kind.wire_version)  # type: ignore[attr-defined]
    refused_or_read(kind, header * headed + noise)


def flip(frame: bytearray, rng: random.Random, _: bytes) -> None:
    frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)


def overwrite(frame: bytearray, rng: random.Random, _: bytes) -> None:
    start = rng.randrange(len(frame))
    count = rng.choice([0, 1, 255, 2**31, 2**47, 2**48, 2**63 - 1, 2**64 - 1, rng.getrandbits(64)])
    frame[start : start + 8] = struct.pack("<Q", count)


def insert(frame: bytearray, rng: random.Random, _: bytes) -> None:
    start = rng.randrange(len(frame) + 1)
    frame[start:start] = rng.randbytes(rng.randrange(1, 9))


def remove(frame: bytearray, rng: random.Random, _: bytes) -> None:
    start = rng.randrange(len(frame))
    del frame[start : start + rng.randrange(1, 9)]


def splice(frame: bytearray, rng: random.Random, other: bytes) -> None:
    frame[rng.randrange(len(frame)) :] = other[rng.randrange(len(other)) :]


MUTATIONS: list[Callable[[bytearray, random.Random, bytes], None]] = [flip, overwrite, insert, remove, splice]


def test_mutated_frames_give_a_value_or_the_right_error() -> None:
    rng = random.Random(20240229)
    corpus = [(kind, some_frames(kind)) for kind in KINDS]
    refused = 0
    for number in range(FUZZED_FRAMES):
        kind, frames = corpus[number % len(corpus)]
        mutated = bytearray(rng.choice(frames))
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            rng.choice(MUTATIONS)(mutated, rng, rng.choice(frames))
            mutated = mutated or bytearray(1)
        refused += refused_or_read(kind, bytes(mutated))
    assert FUZZED_FRAMES * 0.3 < refused < FUZZED_FRAMES


@pytest.mark.parametrize("kind", [Leaf, Everything], ids=wire_name)
def test_another_message_or_version_is_named(kind: type) -> None:
    frame = encode_bytes(Empty())
    wanted = f"{wire_name(kind)} version {kind.wire_version}"  # type: ignore[attr-defined]
    with pytest.raises(RemoteProtocolError, match=f"bank: expected message {wanted}, found test/codec-empty version 1"):
        decode(kind, frame, sender="bank")


def test_an_older_version_is_named() -> None:
    @message("test/codec-leaf", version=2)
    class Older:
        number: int

    with pytest.raises(RemoteProtocolError, match="test/codec-leaf version 3, found test/codec-leaf version 2"):
        decode(Leaf, encode_bytes(Older(1)))


def test_another_format_says_what_to_do() -> None:
    frame = bytearray(encode_bytes(Empty()))
    frame[2] = 9
    with pytest.raises(RemoteProtocolError, match="format 9, this side speaks 1: both parties need the same major"):
        decode(Empty, frame)


@message("test/codec-text")
class Text:
    text: str


@message("test/codec-raw")
class Raw:
    raw: bytes


@message("test/codec-many")
class Many:
    numbers: tuple[int, ...]


@message("test/codec-empties")
class Empties:
    empties: tuple[Empty, ...]


@message("test/codec-choosy")
class Choosy:
    """A message that checks its own values."""

    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 1:
            raise UsageError(f"a number is at least 1, found {self.number}")


@message("test/codec-flags")
class Flags:
    flags: NDArray[np.bool_]


@pytest.mark.parametrize("announced", [1 << 31, 1 << 40, 1 << 47, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("value", [Text(""), Raw(b""), Many(()), Empties(())], ids=lambda value: wire_name(type(value)))
def test_announced_lengths_allocate_nothing(value: object, announced: int) -> None:
    frame = encode_bytes(value)[:-8] + struct.pack("<Q", announced)
    assert peak_of_refusing(type(value), frame) < 100_000


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 24, 1 << 23), (1 << 63, 1 << 63), (0, 1 << 60), (1 << 47, 0, 2)])
def test_announced_shapes_allocate_nothing(shape: tuple[int, ...]) -> None:
    header = encode_bytes(Leaf(0, np.empty(0)))
    start = header.index(b"\x01" + bytes(8), 20)
    frame = header[:start] + struct.pack(f"<B{len(shape)}Q", len(shape), *shape)
    assert peak_of_refusing(Leaf, frame + bytes(-len(frame) % 8), allowed=0 in shape) < 100_000


def peak_of_refusing(kind: type, frame: bytes, *, allowed: bool = False) -> int:
    tracemalloc.start()
    try:
        assert refused_or_read(kind, frame) or allowed
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_too_many_axes_are_refused() -> None:
    frame = encode_bytes(Leaf(0, np.empty(0)))
    start = frame.index(b"\x01" + bytes(8), 20)
    with pytest.raises(RemoteProtocolError, match="an array has 9 axes, at most 8"):
        decode(Leaf, frame[:start] + b"\x09" + bytes(100))


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"", "magic needs 2 bytes, 0 are left"),
        (b"XX\x01\x00", "does not start with UN"),
        (b"UN\x01\x05\xff\xff\xff\xff\xff\0\0", "text is not UTF-8"),
        (encode_bytes(Text("a"))[:-1] + b"\xff", "text is not UTF-8"),
        (encode_bytes(Text("ab"))[:-1], r"text needs 2 bytes, 1 are left \(at byte"),
    ],
)
def test_malformed_frames_say_where(frame: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"bank: malformed frame: .*{complaint}"):
        decode(Text, frame, sender="bank")


def test_padding_and_truth_values_have_one_form() -> None:
    frame = encode_bytes(Flags(np.array([True])))
    with pytest.raises(RemoteProtocolError, match="malformed"):
        decode(Flags, frame[:-1] + b"\x02")
    padded = bytearray(frame)
    assert padded[-2] == 0
    padded[-2] = 1
    with pytest.raises(RemoteProtocolError, match="padding is not zero"):
        decode(Flags, bytes(padded))


def test_messages_without_fields_cannot_stand_in_sequences() -> None:
    """Nothing would bound their number when it is read."""
    assert decode(Empties, encode_bytes(Empties(()))).empties == ()
    with pytest.raises(LocalProtocolError, match=r"Empties.empties: elements of no bytes"):
        encode_bytes(Empties((Empty(), Empty())))


def test_a_message_that_finds_fault_with_its_values_is_refused() -> None:
    frame = encode_bytes(Choosy(5)).replace(struct.pack("<q", 5), struct.pack("<q", -5))
    with pytest.raises(RemoteProtocolError, match=r"bank: .*test/codec-choosy: a number is at least 1, found -5"):
        decode(Choosy, frame, sender="bank")


@pytest.mark.parametrize("name", [b"\x1b]0;owned\x07", b"x" * 255, "\u202e".encode()])
def test_names_from_a_peer_are_escaped_in_errors(name: bytes) -> None:
    frame = MAGIC + bytes([FORMAT, len(name)]) + name + struct.pack("<H", 1)
    with pytest.raises(RemoteProtocolError) as refused:
        decode(shown_kind(), frame)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def shown_kind() -> type:
    @message("test/shown")
    class Shown:
        flags: tuple[bool, ...]

    return Shown


@pytest.mark.parametrize("value", ["a\x1b[2J" * 1000, b"\xff" * 10**6, ("x" * 10**6,) * 1000, (1,) * 10**6, 10**300])
def test_values_from_a_peer_are_shown_short_and_escaped(value: object) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) <= 81


def test_short_values_are_shown_as_they_are() -> None:
    assert [shown("<i8"), shown((1, 2)), shown(7)] == ["<i8", "(1, 2)", "7"]


def test_a_sequence_cannot_be_longer_than_objects_are_cheap() -> None:
    kind, count = shown_kind(), (1 << 20) + 1
    with pytest.raises(LocalProtocolError, match="use an array"):
        encode_bytes(kind((True,) * count))
    frame = encode_bytes(kind((True,) * 3))
    longer = frame[:-11] + struct.pack("<Q", count) + bytes(count)
    with pytest.raises(RemoteProtocolError, match=f"{count} elements are announced"):
        decode(kind, longer)
