"""VOLE: the correlation holds, errors lie where they should, and messages of another form are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.crypto.expand_convolute import LEAST, NOISE, Code
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.kernels.gf128 import add_products, tables
from unseen.protocols import vole
from unseen.protocols.vole import Request, Trees

KEYS, VECTORS = PartyId("keys"), PartyId("vectors")
Change = Callable[[Any], Any]


def key_holder(code: Code, numbers: tuple[int, ...], seed: int = 1) -> Dialogue[Any]:
    holder = yield from vole.open_key_holder(VECTORS, Prg(bytes([seed]) * 32), bytes(32))
    found = []
    for number in numbers:
        leaves = yield from vole.grant(holder, code, number)
        found.append(code.compress(leaves))
    return holder.key, found


def vector_holder(code: Code, numbers: tuple[int, ...], seed: int = 2) -> Dialogue[Any]:
    holder = yield from vole.open_vector_holder(KEYS, Prg(bytes([seed]) * 32), bytes(32))
    found = []
    for number in numbers:
        asked = yield from vole.ask(holder, code, number)
        found.append((yield from vole.obtain(holder, asked)))
    return found


def play(size: int = LEAST, numbers: tuple[int, ...] = (0,), seed: int = 1) -> tuple[Any, Any, Any]:
    code = Code.at_least(size, bytes(range(32)))
    cast: dict[PartyId, Dialogue[Any]] = {
        KEYS: key_holder(code, numbers, seed),
        VECTORS: vector_holder(code, numbers, seed + 1),
    }
    results = converse(cast)
    return *results[KEYS], results[VECTORS]


@pytest.mark.parametrize("size", [LEAST, LEAST + 512, 3 * LEAST + 700])
def test_b_is_c_plus_the_key_times_a(size: int) -> None:
    key, (b,), (pair,) = play(size)
    total = np.ascontiguousarray(pair[:, :2])
    add_products(tables(key), np.ascontiguousarray(pair[:, 2:]), total)
    np.testing.assert_array_equal(total, b)


def test_every_number_gives_vectors_of_its_own() -> None:
    key, (first, second), (one, other) = play(numbers=(0, 1))
    for b, pair in ((first, one), (second, other)):
        total = np.ascontiguousarray(pair[:, :2])
        add_products(tables(key), np.ascontiguousarray(pair[:, 2:]), total)
        np.testing.assert_array_equal(total, b)
    assert (one[:, 2:] != other[:, 2:]).any(axis=1).all()


def test_vectors_look_uniform() -> None:
    _, (b,), (pair,) = play()
    for vector in (b, pair[:, :2], pair[:, 2:]):
        ones = np.unpackbits(np.ascontiguousarray(vector).view(np.uint8)).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(LEAST * 128)
        assert len(np.unique(vector, axis=0)) == LEAST


def test_the_vector_holder_lacks_just_the_leaves_at_its_places() -> None:
    """With Δ times the errors taken away, its leaves are the key holder's: none else differs, and all of those do."""
    code = Code(LEAST, bytes(32))
    kept: dict[str, Any] = {}

    def keys() -> Dialogue[None]:
        holder = yield from vole.open_key_holder(VECTORS, Prg(b"a" * 32), bytes(32))
        kept["leaves"] = yield from vole.grant(holder, code, 0)
        kept["key"] = holder.key

    def vectors() -> Dialogue[None]:
        holder = yield from vole.open_vector_holder(KEYS, Prg(b"b" * 32), bytes(32))
        kept["asked"] = yield from vole.ask(holder, code, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Code, "compress", lambda _, inputs: inputs.copy())
            kept["pair"] = yield from vole.obtain(holder, kept["asked"])

    converse({KEYS: keys(), VECTORS: vectors()})
    leaves, pair, asked = kept["leaves"], kept["pair"], kept["asked"]
    rows = np.arange(NOISE) * code.block + asked.places
    differing = np.flatnonzero((leaves != pair[:, :2]).any(axis=1))
    np.testing.assert_array_equal(differing, rows)
    np.testing.assert_array_equal(np.flatnonzero(pair[:, 2:].any(axis=1)), rows)
    expected = np.ascontiguousarray(pair[rows, :2])
    add_products(tables(kept["key"]), asked.values, expected)
    np.testing.assert_array_equal(expected, leaves[rows])


def test_the_same_seeds_send_the_same_bytes() -> None:
    for one, other in zip(play()[1:], play()[1:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert (play(seed=1)[1][0] != play(seed=5)[1][0]).any(axis=1).all()


# --- peers that do not keep to it --------------------------------------------------------------------------------


def changed(dialogue: Dialogue[Any], kind: type, change: Change) -> Dialogue[Any]:
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        spoil = isinstance(effect, Send) and isinstance(effect.message, kind)
        answer = yield Send(effect.peer, change(effect.message)) if spoil else effect


def test_another_number_of_transfers_is_refused() -> None:
    code = Code(LEAST, bytes(32))

    def shorten(sent: Request) -> Request:
        return replace(sent, transfers=replace(sent.transfers, corrections=sent.transfers.corrections[:, :-1]))

    liar = changed(vector_holder(code, (0,)), Request, shorten)
    with pytest.raises(RemoteProtocolError, match="vectors: expected 5120 further transfers, found about 5112"):
        converse({KEYS: key_holder(code, (0,)), VECTORS: liar})


@pytest.mark.parametrize("seed", range(6))
def test_values_that_differ_between_bits_of_the_key_tell_nothing(seed: int) -> None:
    """One bit changed in the products of bit i of Δ makes B wrong if that bit is set, and is caught just then."""
    code, bit = Code(LEAST, bytes(32)), 17 * seed + 3

    def spoil(sent: Request) -> Request:
        products = sent.products.copy()
        products[bit, 9, 0] ^= np.uint64(1)
        return replace(sent, products=products)

    key = play(seed=seed + 1)[0]
    is_set = bool(int(key[bit // 64]) >> (bit % 64) & 1)
    point = vole._point
    with pytest.MonkeyPatch.context() as patch:
        # As if the cheat had found products with the same digest.
        patch.setattr(vole, "_point", lambda products, context: point(products[:0], context))
        liar = changed(vector_holder(code, (0,), seed + 2), Request, spoil)
        cast: dict[PartyId, Dialogue[Any]] = {KEYS: key_holder(code, (0,), seed + 1), VECTORS: liar}
        if is_set:
            with pytest.raises(RemoteProtocolError, match="vectors: used different values in different places"):
                converse(cast)
        else:
            results = converse(cast)
            total = np.ascontiguousarray(results[VECTORS][0][:, :2])
            add_products(tables(key), np.ascontiguousarray(results[VECTORS][0][:, 2:]), total)
            np.testing.assert_array_equal(total, results[KEYS][1][0])


@pytest.mark.parametrize("field", ["products", "values", "streams"])
def test_a_request_that_is_not_what_it_proves_is_refused(field: str) -> None:
    def spoil(sent: Request) -> Request:
        wrong = getattr(sent, field).copy()
        wrong.reshape(-1)[-1] ^= np.uint64(1)
        return replace(sent, **{field: wrong})

    code = Code(LEAST, bytes(32))
    liar = changed(vector_holder(code, (0,)), Request, spoil)
    with pytest.raises(RemoteProtocolError, match="vectors: used different values in different places"):
        converse({KEYS: key_holder(code, (0,)), VECTORS: liar})


def test_trees_of_another_depth_are_refused() -> None:
    code = Code(LEAST, bytes(32))
    liar = changed(key_holder(code, (0,)), Trees, lambda m: Trees(m.sums[:, :-1], m.ends))
    with pytest.raises(RemoteProtocolError, match="keys: expected trees of 5 levels, found 4"):
        converse({KEYS: liar, VECTORS: vector_holder(code, (0,))})


def test_secrets_do_not_show() -> None:
    code = Code(LEAST, bytes(32))
    shown: list[str] = []

    def keys() -> Dialogue[None]:
        holder = yield from vole.open_key_holder(VECTORS, Prg(b"a" * 32), bytes(32))
        shown.append(repr(holder))
        yield from vole.grant(holder, code, 0)

    def vectors() -> Dialogue[None]:
        holder = yield from vole.open_vector_holder(KEYS, Prg(b"b" * 32), bytes(32))
        asked = yield from vole.ask(holder, code, 0)
        shown.extend([repr(holder), repr(asked)])
        yield from vole.obtain(holder, asked)

    converse({KEYS: keys(), VECTORS: vectors()})
    assert len(shown) == 3
    assert not any("array(" in text for text in shown)
