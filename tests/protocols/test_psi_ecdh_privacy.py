"""What each party of the Diffie–Hellman family gets to see, and what it must not be able to find in it."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unseen.crypto.groups import Scalar, multiply_all
from unseen.crypto.paillier import KEY_BITS, PrivateKey
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, ArrayHeader, Dialogue, Send, converse
from unseen.ids import PartyId
from unseen.protocols.psi import ecdh
from unseen.protocols.psi.ecdh.cardinality import Shared
from unseen.protocols.psi.ecdh.session import Opening, Points
from unseen.protocols.psi.ecdh.sums import SumKey, Sums, ValuedPoints
from unseen.protocols.psi.port import Items, Meeting

ANN, BEN, CAT, DAN = (PartyId(name) for name in ("ann", "ben", "cat", "dan"))
ITEMS = [b"item-%d" % number for number in range(40)]
TWO = Scalar((2).to_bytes(32, "little"))
Mail = dict[tuple[PartyId, PartyId], list[Any]]


def run(
    scheme: Any, lists: dict[PartyId, list[bytes]], recipients: frozenset[PartyId] | None = None, seed: bytes = b""
) -> tuple[Mail, dict[PartyId, Any]]:
    """Return all messages by sender and receiver, in their order, and the results."""
    mail: Mail = defaultdict(list)
    dialogues = {}
    for me, items in lists.items():
        peers = tuple(party for party in lists if party != me)
        meeting = Meeting(me, peers, Prg(bytes(32)).derive(me, seed), b"c", recipients)
        dialogues[me] = overheard(me, scheme(Items.of(items), meeting=meeting), mail)
    return mail, converse(dialogues)


def overheard(me: PartyId, dialogue: Dialogue[Any], mail: Mail) -> Dialogue[Any]:
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            mail[me, effect.peer].append(effect.message)
        answer = yield effect


def sets(messages: list[Any]) -> list[NDArray[np.uint8]]:
    return [message.points for message in messages if isinstance(message, Points)]


def rows(points: NDArray[np.uint8]) -> list[bytes]:
    return [row.tobytes() for row in points]


@pytest.fixture
def twos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every scalar be 2, so that a test can follow what is shuffled."""
    monkeypatch.setattr(Scalar, "derive", classmethod(lambda *_: TWO))


# --- intersections and counts ------------------------------------------------------------------------------------


def test_of_two_parties_one_that_does_not_receive_gets_one_blinded_set_and_nothing_else() -> None:
    mail, _ = run(ecdh.intersect, {ANN: ITEMS, BEN: ITEMS}, frozenset([BEN]))
    assert [type(message) for message in mail[BEN, ANN]] == [Opening, Points]
    assert [type(message) for message in mail[ANN, BEN]] == [Opening, Points, ArrayHeader, ArrayChunk]


def test_own_sets_leave_in_another_order_than_they_are_held(twos: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled, _ = run(ecdh.intersect, {ANN: ITEMS, BEN: ITEMS})
    monkeypatch.setattr(Prg, "permutation", lambda _, count: np.arange(count))
    plain, _ = run(ecdh.intersect, {ANN: ITEMS, BEN: ITEMS})
    (left,), (right,) = sets(shuffled[ANN, BEN]), sets(plain[ANN, BEN])
    assert sorted(rows(left)) == sorted(rows(right))
    assert sum(a == b for a, b in zip(rows(left), rows(right), strict=True)) < 8


@pytest.mark.parametrize("scheme", [ecdh.intersect, ecdh.count], ids=["intersect", "count"])
def test_every_party_shuffles_every_set_that_it_passes_on_by_itself(twos: None, scheme: Any) -> None:
    lists = {ANN: ITEMS, BEN: ITEMS, CAT: ITEMS, DAN: ITEMS}
    mail, _ = run(scheme, lists)
    sent = {me: sets(mail[me, ahead]) for me, ahead in zip(lists, [BEN, CAT, DAN, ANN], strict=True)}
    behind = dict(zip(lists, [DAN, ANN, BEN, CAT], strict=True))
    moves = []
    for me in lists:
        assert len(sent[me]) == 3
        for came, left in zip(sent[behind[me]][:2], sent[me][1:], strict=True):
            multiplied = rows(multiply_all(TWO, came))
            assert sorted(multiplied) == sorted(rows(left))
            moves.append(tuple(multiplied.index(row) for row in rows(left)))
    assert len(set(moves)) == 8
    assert all(sum(place == index for index, place in enumerate(move)) < 8 for move in moves)


@pytest.mark.parametrize("scheme", [ecdh.intersect, ecdh.count], ids=["intersect", "count"])
@pytest.mark.parametrize("parties", [3, 4])
def test_only_the_combiner_sees_two_sets_under_the_same_scalars(scheme: Any, parties: int) -> None:
    lists = dict.fromkeys([ANN, BEN, CAT, DAN][:parties], ITEMS)
    mail, _ = run(scheme, lists, frozenset([BEN, CAT]))
    tags = {me for (_, me), sent in mail.items() for m in sent if isinstance(m, ArrayHeader) and m.dtype == "|u1"}
    assert tags == {BEN}
    for me in lists:
        seen = [
            row for (_, receiver), sent in mail.items() if receiver == me for each in sets(sent) for row in rows(each)
        ]
        own = [row for (sender, _), sent in mail.items() if sender == me for each in sets(sent) for row in rows(each)]
        assert len(set(seen + own)) == len(seen) + len(own) == (parties - 1) * 2 * len(ITEMS)


def test_the_tags_of_a_count_come_back_in_another_order(twos: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unseen.protocols.psi.ecdh.ring.tags_of", lambda _, points: points[:, :12].copy())
    mail, _ = run(ecdh.count, {ANN: ITEMS, BEN: ITEMS})
    (own,), chunk = sets(mail[ANN, BEN]), mail[BEN, ANN][-1]
    finished = rows(multiply_all(TWO, own)[:, :12])
    tags = rows(chunk.data.reshape(-1, 12))
    assert sorted(tags) == sorted(finished)
    assert sum(a == b for a, b in zip(tags, finished, strict=True)) < 8


def test_who_does_not_receive_a_count_is_not_told() -> None:
    mail, _ = run(ecdh.count, {ANN: ITEMS, BEN: ITEMS, CAT: ITEMS}, frozenset([BEN, CAT]))
    told = [receiver for (_, receiver), sent in mail.items() for message in sent if isinstance(message, Shared)]
    assert told == [CAT]


def test_positions_go_back_for_the_sets_of_recipients_only() -> None:
    mail, results = run(ecdh.intersect, {ANN: ITEMS, BEN: ITEMS[5:], CAT: ITEMS[:35]}, frozenset([BEN]))
    lists = [m for sent in mail.values() for m in sent if isinstance(m, ArrayHeader) and m.dtype == "<u4"]
    assert [header.shape for header in lists] == [(30,)] * 3  # to the finisher, and two steps back
    assert len(results[BEN].known()) == 30


# --- unions ------------------------------------------------------------------------------------------------------


def test_a_union_shows_the_compared_set_shuffled_and_the_named_one_in_its_order(twos: None) -> None:
    mail, _ = run(ecdh.unite, {ANN: ITEMS, BEN: [*ITEMS[10:], b"another"]})
    own, _, _, _ = sets(mail[ANN, BEN])
    _, compared, named, _ = sets(mail[BEN, ANN])
    both = multiply_all(TWO, own)
    assert sorted(rows(compared)) == sorted(rows(both))
    assert sum(a == b for a, b in zip(rows(compared), rows(both), strict=True)) < 8
    assert rows(named) == rows(multiply_all(TWO, both))


def test_no_message_of_a_union_tells_which_of_the_named_items_are_shared(twos: None) -> None:
    """Under the peer's second scalar a party sees its own items in their order: no other set may meet them there."""
    lists = {ANN: ITEMS[:30], BEN: ITEMS[10:]}
    mail, _ = run(ecdh.unite, lists)
    for me, peer in ((ANN, BEN), (BEN, ANN)):
        _, _, named, difference = sets(mail[peer, me])
        assert len(difference) == 10
        assert not set(rows(named)) & set(rows(difference))


# --- sums --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate(Prg(bytes(32)), 2048)


@pytest.fixture
def one_key(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateKey]:
    monkeypatch.setattr(PrivateKey, "generate", classmethod(lambda *_: key))
    return key


FEW = ITEMS[:6]


def add_up(
    values: NDArray[np.int64], recipients: frozenset[PartyId] | None = None, seed: bytes = b""
) -> tuple[Mail, dict[PartyId, Any]]:
    """Run a sum of ann's ``values`` over all of her items, which ben has, too."""

    def scheme(items: Items, meeting: Meeting) -> Dialogue[Any]:
        mine = values if meeting.me == ANN else None
        return ecdh.total(items, mine, meeting, key_bits=2048)

    return run(scheme, {ANN: FEW, BEN: FEW}, recipients, seed)


def last(kind: type, messages: list[Any]) -> Any:
    return [message for message in messages if isinstance(message, kind)][-1]


def test_equal_values_have_different_ciphertexts(one_key: PrivateKey) -> None:
    mail, _ = add_up(np.ones((6, 1), np.int64))
    sent = last(ValuedPoints, mail[ANN, BEN]).ciphertexts[:, 0]
    assert len({row.tobytes() for row in sent}) == 6
    assert [one_key.decrypt(each) for each in one_key.public.unpack(sent)] == [1] * 6


def test_the_sum_is_not_the_product_of_ciphertexts_that_the_holder_knows(one_key: PrivateKey) -> None:
    mail, results = add_up(np.arange(6).reshape(-1, 1))
    public = one_key.public
    product = 1
    for ciphertext in public.unpack(last(ValuedPoints, mail[ANN, BEN]).ciphertexts[:, 0]):
        product = product * ciphertext % public.square
    (answer,) = public.unpack(last(Sums, mail[BEN, ANN]).ciphertexts)
    assert results[ANN].totals == (15,)
    assert one_key.decrypt(product) == one_key.decrypt(answer) == 15
    assert answer != product


def test_a_holder_that_does_not_receive_decrypts_noise(one_key: PrivateKey) -> None:
    opened = []
    for seed in (b"1", b"2"):
        mail, results = add_up(np.ones((6, 1), np.int64), frozenset([BEN]), seed)
        answer = last(Sums, mail[BEN, ANN])
        assert answer.shared is None
        assert results[BEN].totals == (6,)
        assert results[ANN].totals is results[ANN].shared is None
        opened += [one_key.decrypt(each) for each in one_key.public.unpack(answer.ciphertexts)]
    assert opened[0] != opened[1]
    assert all(abs(value).bit_length() > 1900 for value in opened)


def test_a_matcher_that_does_not_receive_gets_no_sums_back(one_key: PrivateKey) -> None:
    mail, results = add_up(np.ones((6, 1), np.int64), frozenset([ANN]))
    assert type(mail[ANN, BEN][-1]) is ValuedPoints
    assert results[BEN].totals is results[BEN].shared is None
    assert results[ANN].totals == (6,)


def test_the_tags_that_the_matcher_gets_are_in_another_order_than_its_items(
    twos: None, one_key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unseen.protocols.psi.ecdh.sums.tags_of", lambda _, points: points[:, :12].copy())
    scheme = partial(ecdh.total, key_bits=2048)
    values = np.ones((1, 1), np.int64)
    lists = {ANN: ITEMS[:1], BEN: ITEMS}
    mail, _ = run(lambda items, meeting: scheme(items, values if meeting.me == ANN else None, meeting), lists)
    (own,) = sets(mail[BEN, ANN])
    finished = rows(multiply_all(TWO, own)[:, :12])
    tags = rows(last(ArrayHeader, mail[ANN, BEN]) and mail[ANN, BEN][3].data.reshape(-1, 12))
    assert sorted(tags) == sorted(finished)
    assert sum(a == b for a, b in zip(tags, finished, strict=True)) < 8


def test_a_holder_that_is_resumed_with_other_values_encrypts_with_other_randomness(one_key: PrivateKey) -> None:
    """The quotient of two ciphertexts with the same randomness gives the difference of their values away."""
    public = one_key.public
    first, second = (
        public.unpack(last(ValuedPoints, add_up(np.full((6, 1), value))[0][ANN, BEN]).ciphertexts[:, 0])
        for value in (1, 2)
    )
    for left, right in zip(first, second, strict=True):
        assert public.shift(left, 1) != right


def test_a_key_of_full_size_is_made_for_every_session() -> None:
    def scheme(items: Items, meeting: Meeting) -> Dialogue[Any]:
        return ecdh.total(items, np.full((6, 32), -5) if meeting.me == ANN else None, meeting)

    moduli = set()
    for seed in (b"1", b"2"):
        mail, results = run(scheme, {ANN: FEW, BEN: FEW[2:]}, None, seed)
        assert results[ANN].totals == results[BEN].totals == (-20,) * 32
        assert last(ValuedPoints, mail[ANN, BEN]).ciphertexts.shape == (6, 2, 768)  # 31 columns, then one
        moduli.add(last(SumKey, mail[ANN, BEN]).modulus)
    assert len(moduli) == 2
    assert {len(modulus) * 8 for modulus in moduli} == {KEY_BITS}
