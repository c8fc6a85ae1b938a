"""Every message that can come from a peer, mutated: a value or the declared error, and nothing else."""

from __future__ import annotations

import random
import re
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import unseen
from unseen.codec import Shape, decode, encode_bytes, wire_name
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.letters import AnyLetter, read_letter, write_letter
from unseen.transport import session

PEER = PartyId("peer")
TEXTS = ("", "credit", "job-1", "bank", "0" * 64, "2026-03-02T09:00:00+00:00", "{}", "é\0")
Reader = Callable[[bytes], object]


def messages() -> list[type]:
    """Return all kinds of messages of the package."""
    source, found = Path(unseen.__file__).parent, {}
    for path in sorted(source.rglob("*.py")):
        if re.search(r"^@message\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = import_module(".".join(("unseen", *path.relative_to(source).with_suffix("").parts)))
            kinds = [value for value in vars(module).values() if isinstance(value, type) and "wire_name" in vars(value)]
            found |= {wire_name(kind): kind for kind in kinds}
    return [found[name] for name in sorted(found)]


def some(hint: Any, rng: random.Random) -> Any:
    """Return a value of an annotation, as the codec allows them."""
    shape = Shape(None)
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        shape = next((note for note in notes if isinstance(note, Shape)), shape)
    origin = get_origin(hint)
    if origin is np.ndarray:
        dtype = np.dtype(get_args(get_args(hint)[1])[0])
        sizes = [rng.randrange(4) if size is None else size for size in shape.sizes]
        return np.frombuffer(rng.randbytes(int(np.prod(sizes)) * dtype.itemsize), dtype).reshape(sizes)
    if origin is tuple:
        return tuple(some(get_args(hint)[0], rng) for _ in range(rng.randrange(3)))
    if type(None) in get_args(hint):
        (inner,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
        return some(inner, rng) if rng.random() < 0.7 else None
    simple = {
        bool: lambda: rng.random() < 0.5,
        int: lambda: rng.choice([0, 1, 2, 40, -1, 2**40, 2**63 - 1]),
        float: lambda: rng.choice([0.0, 0.5, -1.0, 1e300, float("nan"), float("inf")]),
        str: lambda: rng.choice(TEXTS),
        bytes: lambda: rng.randbytes(rng.randrange(40)),
    }
    return simple[hint]() if hint in simple else made(hint, rng)


def made(kind: type, rng: random.Random) -> Any:
    """Return a message with any values: its own checks are not asked, as a peer would not."""
    value = object.__new__(kind)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if not name.startswith("wire_"):
            object.__setattr__(value, name, some(hint, rng))
    return value


def mutated(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(5)
        if what == 0:
            del data[at : at + rng.randint(1, 9)]
        elif what == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif what == 2:
            data[at : at + 8] = rng.choice([2**63, 2**40, 2**64 - 1, 3]).to_bytes(8, "little")
        elif what == 3 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at:at] = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def readers() -> list[tuple[Callable[[random.Random], bytes], Reader]]:
    """Return how a frame of each kind is made, and how it is read."""
    return [
        *((partial(frame, kind), lambda data, kind=kind: decode(kind, data)) for kind in messages()),
        *((partial(letter, kind), lambda data: read_letter(data, PEER)) for kind in get_args(AnyLetter)),
        (sealed, lambda data: session.unseal(data, sender=PEER)),
    ]


def frame(kind: type, rng: random.Random) -> bytes:
    return encode_bytes(made(kind, rng))


def letter(kind: type, rng: random.Random) -> bytes:
    return write_letter(made(kind, rng))


def sealed(rng: random.Random) -> bytes:
    return session.seal(made(session.Envelope, rng))


def fuzz(count: int) -> tuple[int, int]:
    """Return how many inputs were read as a value, and how many refused."""
    rng, all_readers, read, refused = random.Random(6), readers(), 0, 0
    for number in range(count):
        make, reader = all_readers[number % len(all_readers)]
        try:
            reader(mutated(make(rng), rng))
            read += 1
        except RemoteProtocolError:
            refused += 1
    return read, refused


@pytest.mark.parametrize("count", [4000, pytest.param(1_000_000, marks=pytest.mark.evidence)])
def test_every_decoder_gives_a_value_or_the_declared_error(count: int, record_count) -> None:
    read, refused = fuzz(count)
    assert read > count // 20
    assert refused > count // 4
    record_count(f"mutated messages to {len(readers())} decoders", count)


def test_all_messages_are_found() -> None:
    source = Path(unseen.__file__).parent
    declared = sum(len(re.findall(r"^@message\(", path.read_text(), re.MULTILINE)) for path in source.rglob("*.py"))
    assert len(messages()) >= declared - 2, "those made in functions are not found"
