"""Oblivious transfer: the chooser gets the keys that it chose, the holder both, and hostile points are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.crypto.groups import ORDER, POINT_BYTES, Scalar, multiple_of_base, multiply_all
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols import oblivious_transfer
from unseen.protocols.oblivious_transfer import (
    WIDTH,
    Answer,
    Choices,
    Chosen,
    Pairs,
    choose,
    extend_choices,
    extend_pairs,
    offer,
)

CHOOSER, HOLDER = PartyId("chooser"), PartyId("holder")
SESSION = bytes(32)


def prg(seed: int) -> Prg:
    return Prg(bytes([seed]) * 32)


def bits(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.random.default_rng(seed).integers(0, 2, count).astype(np.bool_)


def transfer(choices: Any, session: bytes = SESSION) -> tuple[Chosen, Pairs]:
    cast: dict[PartyId, Dialogue[Any]] = {
        CHOOSER: choose(choices, peer=HOLDER, prg=prg(1), session=session),
        HOLDER: offer(len(choices), peer=CHOOSER, prg=prg(2), session=SESSION),
    }
    results = converse(cast)
    return results[CHOOSER], results[HOLDER]


def drawn(key: Prg) -> bytes:
    return key.derive("test").bytes(16)


def test_the_chooser_gets_what_it_chose_and_nothing_else() -> None:
    choices = bits(20)
    chosen, pairs = transfer(choices)
    assert len({drawn(key) for pair in pairs.keys for key in pair}) == 40
    for choice, key, pair in zip(choices, chosen.keys, pairs.keys, strict=True):
        assert drawn(key) == drawn(pair[int(choice)])
        assert drawn(key) != drawn(pair[1 - int(choice)])


def test_another_session_gives_other_keys() -> None:
    chosen, pairs = transfer(bits(4), session=b"\1" * 32)
    assert not {drawn(key) for key in chosen.keys} & {drawn(key) for pair in pairs.keys for key in pair}


def test_what_the_chooser_sends_does_not_depend_on_its_choices_in_distribution() -> None:
    """Each pair of points satisfies the same relation: what one is less the hash of the other is any element."""
    sent = []
    for seed in range(2):
        dialogue = choose(bits(8, seed), peer=HOLDER, prg=prg(3), session=SESSION)
        effect = next(dialogue)
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Choices)
        sent.append(effect.message.points)
    same = bits(8, 0) == bits(8, 1)
    assert 0 < same.sum() < 8
    # With the same randomness, equal choices give equal points, and another choice changes both of the pair.
    np.testing.assert_array_equal((sent[0] == sent[1]).all(axis=2), np.repeat(same[:, None], 2, axis=1))


def changed(dialogue: Dialogue[Any], change: Callable[[Any], Any]) -> Dialogue[Any]:
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield Send(effect.peer, change(effect.message)) if isinstance(effect, Send) else effect


def play(change_choices: Callable[[Any], Any] | None = None, change_answer: Callable[[Any], Any] | None = None) -> None:
    nothing: Callable[[Any], Any] = lambda message: message
    chooser = choose(bits(3), peer=HOLDER, prg=prg(1), session=SESSION)
    holder = offer(3, peer=CHOOSER, prg=prg(2), session=SESSION)
    converse({CHOOSER: changed(chooser, change_choices or nothing), HOLDER: changed(holder, change_answer or nothing)})


INVALID = {
    "identity": bytes(32),
    "negative": b"\1" + bytes(31),
    "no element": b"\xff" * 31 + b"\x7f",
    "high bit": bytes(31) + b"\x80",
}


@pytest.mark.parametrize("point", INVALID.values(), ids=INVALID)
def test_points_that_are_none_are_refused(point: bytes) -> None:
    def spoil(message: Choices) -> Choices:
        points = message.points.copy()
        points[1, 0] = np.frombuffer(point, np.uint8)
        return Choices(points)

    with pytest.raises(RemoteProtocolError, match="chooser: invalid point in an oblivious transfer: row 2"):
        play(change_choices=spoil)
    with pytest.raises(RemoteProtocolError, match="holder: invalid point in an oblivious transfer: row 0"):
        play(change_answer=lambda _: Answer(np.frombuffer(point, np.uint8)))


def test_choices_whose_sum_is_the_identity_are_refused() -> None:
    """r_0 = −H(r_1) would make the first key that of the identity, which is no secret."""

    def spoil(message: Choices) -> Choices:
        points = message.points.copy()
        minus_one = Scalar((ORDER - 1).to_bytes(32, "little"))
        hashed = oblivious_transfer._hashes(SESSION, points[:, 1])
        points[0, 0] = multiply_all(minus_one, hashed)[0]
        return Choices(points)

    with pytest.raises(RemoteProtocolError, match="chooser: choices that no chooser makes"):
        play(change_choices=spoil)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_choices_is_refused(count: int) -> None:
    base = np.frombuffer(multiple_of_base(Scalar(b"\2" + bytes(31))), np.uint8)
    points = np.broadcast_to(base, (count, 2, POINT_BYTES)).copy()
    with pytest.raises(RemoteProtocolError, match=f"chooser: expected the choices of 3 transfers, found {count}"):
        play(change_choices=lambda _: Choices(points))


# --- further transfers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> tuple[Pairs, Chosen]:
    """In the further transfers the parties change places: the chooser holds both keys of the base transfers."""
    chosen, pairs = transfer(bits(WIDTH, 5))
    return pairs, chosen


@pytest.mark.parametrize("count", [1, 7, 8, 1000])
def test_further_transfers(base: tuple[Pairs, Chosen], count: int) -> None:
    pairs, chosen = base
    choices = bits(count, 6)
    sent, keys = extend_choices(pairs, choices, b"first", prg(9))
    both = extend_pairs(chosen, sent, count, b"first", peer=CHOOSER)
    rows = np.arange(count)
    np.testing.assert_array_equal(both[rows, choices.astype(int)], keys)
    assert (both[rows, 1 - choices.astype(int)] != keys).any(axis=1).all()
    assert len(np.unique(both.reshape(-1, 2), axis=0)) == 2 * count


def test_another_context_gives_other_keys_and_corrections(base: tuple[Pairs, Chosen]) -> None:
    pairs, chosen = base
    choices = bits(100, 6)
    (first, keys), (second, others) = (extend_choices(pairs, choices, name, prg(9)) for name in (b"first", b"second"))
    assert (keys != others).any(axis=1).all()
    assert (first.corrections != second.corrections).mean() > 0.9
    with pytest.raises(RemoteProtocolError, match="chooser: chose differently"):
        extend_pairs(chosen, second, 100, b"first", peer=CHOOSER)


def test_corrections_and_hash_hide_the_choices(base: tuple[Pairs, Chosen]) -> None:
    """The same choice a thousand times: every column of the corrections is as good as random, and so is the hash."""
    sent, _ = extend_choices(base[0], np.ones(8000, np.bool_), b"hidden", prg(9))
    shares = np.unpackbits(sent.corrections, axis=1).mean(axis=1)
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(8000)
    hashes = [extend_choices(base[0], np.ones(9, np.bool_), b"hidden", prg(seed))[0].choices for seed in range(16)]
    assert abs(np.unpackbits(np.stack(hashes).view(np.uint8)).mean() - 0.5) < 5 * 0.5 / np.sqrt(16 * 128)


def test_a_chooser_that_cheats_in_one_column_is_caught_when_it_would_learn_something(
    base: tuple[Pairs, Chosen],
) -> None:
    """Other choices in column i change keys if bit i of the holder's secret is set: just then the cheat is caught."""
    pairs, chosen = base
    sent, _ = extend_choices(pairs, bits(50, 6), b"cheat", prg(9))
    caught = []
    for column in range(WIDTH):
        corrections = sent.corrections.copy()
        corrections[column, 0] ^= 1
        with pytest.MonkeyPatch.context() as patch:
            # The cheat keeps the point, as if it had found corrections with the same digest: the check still holds.
            point = oblivious_transfer._point(sent.corrections, b"cheat")
            patch.setattr(oblivious_transfer, "_point", lambda *_, point=point: point)
            try:
                extend_pairs(chosen, replace(sent, corrections=corrections), 50, b"cheat", peer=CHOOSER)
                caught.append(False)
            except RemoteProtocolError as error:
                assert "chooser: chose differently in different places" in str(error)  # noqa: PT017  # both occur
                caught.append(True)
    assert caught == chosen.choices.tolist()
    assert 30 < sum(caught) < 98


@pytest.mark.parametrize("field", ["choices", "columns"])
def test_a_wrong_proof_is_refused(base: tuple[Pairs, Chosen], field: str) -> None:
    sent, _ = extend_choices(base[0], bits(50, 6), b"proof", prg(9))
    wrong = getattr(sent, field).copy()
    wrong.reshape(-1)[-1] ^= np.uint64(1)
    with pytest.raises(RemoteProtocolError, match="chooser: chose differently"):
        extend_pairs(base[1], replace(sent, **{field: wrong}), 50, b"proof", peer=CHOOSER)


def test_another_number_of_further_transfers_is_refused(base: tuple[Pairs, Chosen]) -> None:
    sent, _ = extend_choices(base[0], bits(48, 6), b"number", prg(9))
    with pytest.raises(RemoteProtocolError, match="chooser: expected 64 further transfers, found about 48"):
        extend_pairs(base[1], sent, 64, b"number", peer=CHOOSER)
