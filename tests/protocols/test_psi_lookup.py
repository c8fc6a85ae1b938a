"""Look-ups in a list whose encoded form was handed over: results, costs, and peers that do not keep to the rules."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unseen.codec import encode_bytes, message
from unseen.component import Packed
from unseen.crypto.groups import Scalar, hash_all
from unseen.crypto.oprf import evaluate
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, Dialogue, Enter, Event, Leave, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId, StepId
from unseen.protocols.psi import lookup
from unseen.protocols.psi.catalogue import Catalogue, Holding, Terms
from unseen.protocols.psi.lookup import Entries, Found, Opening, Points, Question, answer, look_up, obtain, publish
from unseen.protocols.psi.port import Alignment, Items, Meeting

ANN, BEN, CAT = PartyId("ann"), PartyId("ben"), PartyId("cat")
"""Ann asks, Ben holds the list."""
LIST = [b"person-%d" % number for number in range(40)]
ASKED = [b"person-7", b"stranger", b"person-39", b"person-0"]
BOTH, ONLY_ANN = None, frozenset({ANN})
Change = Callable[[Any], Any]


def meeting(
    me: PartyId, recipients: frozenset[PartyId] | None = BOTH, *, context: bytes = b"c", seed: int = 0
) -> Meeting:
    prg = Prg(bytes(31) + bytes([seed])).derive(me)
    return Meeting(me, (BEN if me == ANN else ANN,), prg, context, recipients)


def payloads_of(items: Sequence[bytes], width: int) -> NDArray[np.uint8]:
    return np.array([[(17 * sum(item) + place) % 256 for place in range(width)] for item in items], np.uint8).reshape(
        len(items), width
    )


def hand_over(
    items: Sequence[bytes] = LIST, *, width: int = 0, max_points: int = 100, seed: int = 0
) -> tuple[Catalogue, Holding]:
    holder = publish(Items.of(items), payloads_of(items, width), max_points, meeting(BEN, seed=seed))
    found = converse({ANN: obtain(meeting(ANN)), BEN: holder})
    return found[ANN], found[BEN]  # type: ignore[return-value]  # each party returns its own


def ask(
    kept: tuple[Catalogue, Holding],
    items: Sequence[bytes] = ASKED,
    recipients: frozenset[PartyId] | None = BOTH,
    **changes: Any,
) -> tuple[Found, Alignment]:
    asker = look_up(Items.of(items), kept[0], meeting(ANN, recipients, **changes))
    found = converse({ANN: asker, BEN: answer(kept[1], meeting(BEN, recipients, **changes))})
    return found[ANN], found[BEN]  # type: ignore[return-value]  # each party returns its own


@pytest.fixture(scope="module")
def kept() -> tuple[Catalogue, Holding]:
    return hand_over(width=5)


def altered(dialogue: Dialogue[Any], alter: Change) -> Dialogue[Any]:
    """Run a dialogue with ``alter`` between its messages and its peers."""
    said: Any = None
    while True:
        try:
            effect = dialogue.send(said)
        except StopIteration as end:
            return end.value
        said = yield Send(effect.peer, alter(effect.message)) if isinstance(effect, Send) else effect


def first(kind: type, change: Change) -> Change:
    """Return a change of the first message of type ``kind`` and of no other."""
    met: list[object] = []

    def alter(sent: object) -> object:
        if met or not isinstance(sent, kind):
            return sent
        met.append(sent)
        return change(sent)

    return alter


def noting(messages: list[Any]) -> Change:
    def alter(sent: Any) -> Any:
        messages.append(sent)
        return sent

    return alter


# --- results -----------------------------------------------------------------------------------------------------


ids = st.one_of(st.binary(max_size=2), st.text(max_size=12).map(str.encode), st.binary(min_size=500, max_size=600))


@given(st.lists(ids, max_size=12, unique=True), st.lists(ids, max_size=8, unique=True), st.integers(0, 20))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_asker_finds_what_is_there_and_its_payloads(listed: list[bytes], asked: list[bytes], width: int) -> None:
    found, told = ask(hand_over(listed, width=width), asked)
    shared = [asked[row] for row in found.alignment.known()]
    assert set(shared) == set(listed) & set(asked)
    assert [listed[row] for row in told.known()] == shared
    assert found.payloads.shape == (len(shared), width)
    assert np.array_equal(found.payloads, payloads_of(shared, width))
    assert found.alignment.sizes == told.sizes == {ANN: len(asked), BEN: len(listed)}


def test_nothing_wanted_and_nothing_there() -> None:
    assert len(ask(hand_over([]), ASKED)[0].alignment.known()) == 0
    assert len(ask(hand_over(), [])[0].alignment.known()) == 0
    assert ask(hand_over([], width=3), [])[0].payloads.shape == (0, 3)


def test_a_holder_that_is_no_recipient_learns_how_many_were_asked_only(kept: tuple[Catalogue, Holding]) -> None:
    found, told = ask(kept, recipients=ONLY_ANN)
    assert sorted(found.alignment.known()) == [0, 2, 3]
    assert told.rows is None
    assert told.sizes == {ANN: 4, BEN: 40}


def test_one_catalogue_answers_many_questions_however_it_is_kept(
    kept: tuple[Catalogue, Holding], tmp_path: Path
) -> None:
    for side, kind in zip(kept, (Catalogue, Holding), strict=True):
        Packed.of(side).write(tmp_path / kind.__name__)
    again = tuple(Packed.read(tmp_path / kind.__name__).unpack(kind) for kind in (Catalogue, Holding))
    for number in (3, 11, 38):
        found, told = ask(again, [b"other", b"person-%d" % number], context=b"%d" % number)  # type: ignore[arg-type]
        assert found.alignment.known().tolist() == [1]
        assert told.known().tolist() == [number]
        assert np.array_equal(found.payloads, payloads_of([b"person-%d" % number], 5))


def test_many_items_in_blocks_show_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "BLOCK", 16)
    monkeypatch.setattr(lookup, "CHUNK_BYTES", 100)
    events: list[Event] = []
    holder = publish(Items.of(LIST), payloads_of(LIST, 3), 100, meeting(BEN))
    catalogue, holding = converse({ANN: obtain(meeting(ANN)), BEN: holder}, observe=events.append).values()
    assert [event.done for event in events if event.party == BEN] == [16, 32, 40]
    assert [event.done for event in events if event.party == ANN][:3] == [16, 32, 40]
    assert len(events) > 10
    events.clear()
    asked = [b"person-%d" % number for number in range(20, 70)]
    sides = {ANN: look_up(Items.of(asked), catalogue, meeting(ANN)), BEN: answer(holding, meeting(BEN))}
    found = converse(sides, observe=events.append)
    assert sorted(found[ANN].alignment.known()) == list(range(20))
    assert [event.done for event in events if event.party == ANN] == [16, 32, 48, 50, 66, 82, 98, 100]
    assert [event.done for event in events if event.party == BEN] == [16, 32, 48, 50]


# --- what is kept, and what it tells -----------------------------------------------------------------------------


def test_the_catalogue_is_the_function_at_the_items_in_the_order_of_its_values(
    kept: tuple[Catalogue, Holding],
) -> None:
    catalogue, holding = kept
    outputs = evaluate(Scalar.derive(Prg(holding.key_seed)), LIST)
    tags = outputs[:, : catalogue.terms.tag_bytes]
    assert np.array_equal(catalogue.tags, tags[holding.order])
    assert catalogue.tags.tolist() == sorted(tags.tolist())
    assert holding.order.tolist() != sorted(holding.order)
    assert catalogue.sealed.shape == (40, 5 + 16)


def test_equal_payloads_do_not_look_equal() -> None:
    holder = publish(Items.of(LIST), np.zeros((40, 8), np.uint8), 100, meeting(BEN))
    catalogue = converse({ANN: obtain(meeting(ANN)), BEN: holder})[ANN]
    assert len({row.tobytes()[:8] for row in catalogue.sealed}) == 40


def test_a_payload_opens_with_the_key_of_its_item_only(kept: tuple[Catalogue, Holding]) -> None:
    catalogue, holding = kept
    outputs = evaluate(Scalar.derive(Prg(holding.key_seed)), LIST)[holding.order]
    places = np.arange(40)
    assert np.array_equal(catalogue.open(outputs, places), payloads_of(LIST, 5)[holding.order])
    with pytest.raises(DataError, match="does not open with the key"):
        catalogue.open(outputs[1:], places[:-1])


@pytest.mark.parametrize(
    "other",
    [
        {"items": [*LIST[:-1], b"new"]},
        {"items": LIST[::-1]},
        {"width": 6},
        {"max_points": 101},
        {"seed": 1},
    ],
    ids=["items", "order", "payloads", "limit", "seed"],
)
def test_every_catalogue_has_a_key_and_a_name_of_its_own(
    kept: tuple[Catalogue, Holding], other: dict[str, Any]
) -> None:
    catalogue, holding = hand_over(**{"width": 5, **other})
    assert holding.key_seed != kept[1].key_seed
    assert catalogue.terms.name != kept[0].terms.name
    assert not {row.tobytes()[:6] for row in catalogue.tags} & {row.tobytes()[:6] for row in kept[0].tags}


def test_a_resumed_holder_makes_the_same_catalogue(kept: tuple[Catalogue, Holding]) -> None:
    catalogue, holding = hand_over(width=5)
    assert encode_bytes(catalogue) == encode_bytes(kept[0])
    assert encode_bytes(holding) == encode_bytes(kept[1])


def blinded(kept: tuple[Catalogue, Holding], items: Sequence[bytes], **changes: Any) -> set[bytes]:
    """Return all that the holder sees of the items."""
    messages: list[Any] = []
    asker = altered(look_up(Items.of(items), kept[0], meeting(ANN, **changes)), noting(messages))
    converse({ANN: asker, BEN: answer(kept[1], meeting(BEN, **changes))})
    return {row.tobytes() for sent in messages if isinstance(sent, Points) for row in sent.points}


def test_two_questions_about_the_same_items_have_nothing_in_common(kept: tuple[Catalogue, Holding]) -> None:
    once = blinded(kept, ASKED)
    assert len(once) == 4
    assert once == blinded(kept, ASKED)  # a resumed step sends the same bytes again
    assert not once & blinded(kept, ASKED, context=b"another session")
    assert not once & blinded(kept, ASKED, seed=1)
    assert not once & blinded(kept, [*ASKED, b"one more"])
    assert not once & blinded(hand_over(width=5, seed=1), ASKED)


def test_no_message_holds_an_item_or_a_payload_in_the_clear() -> None:
    messages: list[Any] = []
    secret = np.frombuffer(b"identifiable-payload" * 3, np.uint8).reshape(3, 20)
    holder = altered(publish(Items.of(LIST[:3]), secret, 9, meeting(BEN)), noting(messages))
    catalogue, holding = converse({ANN: obtain(meeting(ANN)), BEN: holder}).values()
    asker = altered(look_up(Items.of(ASKED), catalogue, meeting(ANN)), noting(messages))
    converse({ANN: asker, BEN: altered(answer(holding, meeting(BEN)), noting(messages))})
    assert len(messages) == 8
    frames = b"".join(map(encode_bytes, messages))
    assert b"person" not in frames
    assert b"identifiable" not in frames
    assert holding.key_seed not in frames


def test_what_the_holder_keeps_does_not_print(kept: tuple[Catalogue, Holding]) -> None:
    assert repr(kept[1]) == f"Holding({kept[1].terms.name.hex()}, <secret>)"


@pytest.mark.parametrize(("size", "asked"), [(0, 1), (1, 1), (10**7, 10**5), (10**7, 1 << 24), (1 << 28, 1)])
def test_tags_are_long_enough_and_no_part_of_the_keys(size: int, asked: int) -> None:
    width = Terms(bytes(16), size, 0, asked).tag_bytes
    assert size * max(size, asked) <= 2 ** (8 * width - 40)
    assert width <= 32
    assert size * max(size, asked) > 2 ** (8 * width - 40 - 10) or size == 0


def test_rounds_and_bytes_are_as_documented() -> None:
    def steps(*dialogues: Dialogue[Any]) -> Dialogue[Any]:
        results = []
        for dialogue in dialogues:
            yield Enter(StepId("step"))
            yield from dialogue
            results.append((yield Leave()))
        return results

    size, width, asked = 3000, 20, 500
    items = [b"person-%d" % number for number in range(size)]
    catalogue, holding = hand_over(items, width=width, max_points=asked)
    handing = publish(Items.of(items), payloads_of(items, width), asked, meeting(BEN))
    bens = steps(handing, answer(holding, meeting(BEN)))
    anns = steps(obtain(meeting(ANN)), look_up(Items.of(items[:asked]), catalogue, meeting(ANN)))
    (taken, asking), (given, answering) = converse({ANN: anns, BEN: bens}).values()
    entry = catalogue.terms.tag_bytes + width + 16
    assert size * entry <= given.bytes_sent <= size * entry + 600
    assert taken.bytes_sent == taken.rounds == given.rounds == 0
    assert asked * 40 <= asking.bytes_sent <= asked * 40 + 600
    assert asked * 32 <= answering.bytes_sent <= asked * 32 + 200
    assert asking.rounds == 1


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "complaint"),
    [([b"a", b"b", b"a"], "1 of 3 items are duplicates"), ([b"a" * 65536], "an item has 65536 bytes, at most 65535")],
    ids=["twice", "long"],
)
def test_bad_items_are_refused_before_anything_is_sent(
    kept: tuple[Catalogue, Holding], items: list[bytes], complaint: str
) -> None:
    for dialogue in (
        look_up(Items.of(items), kept[0], meeting(ANN)),
        publish(Items.of(items), np.empty((len(items), 0), np.uint8), 10, meeting(BEN)),
    ):
        with pytest.raises(DataError, match=complaint):
            next(dialogue)


@pytest.mark.parametrize(
    ("width", "max_points", "complaint"),
    [
        (4097, 10, "payloads have 4097 bytes, at most 4096"),
        (0, 0, "0 items may be asked in a session"),
        (0, -1, "-1 items may be asked"),
        (0, (1 << 24) + 1, "it has to be 1 to 16777216"),
    ],
)
def test_catalogues_out_of_bounds_are_not_made(width: int, max_points: int, complaint: str) -> None:
    dialogue = publish(Items.of([b"a"]), np.empty((1, width), np.uint8), max_points, meeting(BEN))
    with pytest.raises(DataError, match=f"ben: this list cannot be published: .*{complaint}"):
        next(dialogue)


def test_more_than_agreed_is_not_asked() -> None:
    kept = hand_over(max_points=3)
    assert len(ask(kept, ASKED[:3])[0].alignment.known()) == 2
    with pytest.raises(DataError, match="4 items are to be looked up, ben answers at most 3 in a session"):
        ask(kept, ASKED)


def test_a_catalogue_is_a_matter_of_two_parties(kept: tuple[Catalogue, Holding]) -> None:
    three = Meeting(ANN, (BEN, CAT), Prg(bytes(32)), b"")
    for dialogue in (
        publish(Items.of(LIST), np.empty((40, 0), np.uint8), 10, three),
        obtain(three),
        look_up(Items.of(ASKED), kept[0], three),
        answer(kept[1], three),
    ):
        with pytest.raises(UsageError, match="two parties, found ann, ben, cat"):
            next(dialogue)  # type: ignore[call-overload]  # each yields effects


def test_who_asks_is_a_recipient(kept: tuple[Catalogue, Holding]) -> None:
    only_ben = frozenset({BEN})
    for dialogue in (
        look_up(Items.of(ASKED), kept[0], meeting(ANN, only_ben)),
        answer(kept[1], meeting(BEN, only_ben)),
    ):
        with pytest.raises(UsageError, match="ann asks, and so has to be a recipient"):
            next(dialogue)  # type: ignore[call-overload]  # each yields effects


# --- peers that do not keep to it --------------------------------------------------------------------------------


def ben_hands_over(kind: type, change: Change) -> None:
    """Hand a catalogue over; Ben lies once."""
    holder = publish(Items.of(LIST), payloads_of(LIST, 5), 100, meeting(BEN))
    converse({ANN: obtain(meeting(ANN)), BEN: altered(holder, first(kind, change))})


def session(kept: tuple[Catalogue, Holding], liar: PartyId, kind: type, change: Change) -> None:
    """Ask; one party lies once."""
    cast = {ANN: look_up(Items.of(ASKED), kept[0], meeting(ANN)), BEN: answer(kept[1], meeting(BEN))}
    converse({**cast, liar: altered(cast[liar], first(kind, change))})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"count": -1}, "it has -1 items"),
        ({"count": 1 << 60}, "it has 1152921504606846976 items, at most 268435456 are allowed"),
        ({"payload_bytes": 1 << 13}, "its payloads have 8192 bytes"),
        ({"max_points": 0}, "0 items may be asked"),
        ({"name": b"short"}, "its name has 5 bytes, not 16"),
    ],
)
def test_impossible_terms_name_their_sender(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: announces a catalogue that cannot be: {complaint}"):
        ben_hands_over(Opening, lambda sent: Opening(sent.session, replace(sent.terms, **change)))


def test_a_catalogue_for_another_session_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ben: expected a catalogue for the same parties"):
        ben_hands_over(Opening, lambda sent: replace(sent, session=sent.session ^ np.uint8(1)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent: Entries(sent.tags[:-1], sent.sealed), r"found \(39, 7\) and \(40, 21\)"),
        (lambda sent: Entries(sent.tags[:, 1:], sent.sealed), r"expected .* \(40, 7\) and \(40, 21\), found \(40, 6\)"),
        (lambda sent: Entries(sent.tags, sent.sealed[:, :-1]), r"found \(40, 7\) and \(40, 20\)"),
        (lambda sent: Entries(sent.tags[::-1], sent.sealed), "not in ascending order"),
        (lambda sent: Entries(sent.tags[[0, *range(39)]], sent.sealed), "not in ascending order"),
    ],
    ids=["few", "narrow", "short", "order", "twice"],
)
def test_malformed_entries_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: .*{complaint}"):
        ben_hands_over(Entries, change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"count": 101}, "asks for 101 items, at most 100 were agreed"),
        ({"count": -1}, "asks for -1 items"),
        ({"count": 5}, "expected a block of 5 points, found 4"),
        ({"name": bytes(16)}, "asks about another catalogue than ours"),
        ({"session": np.zeros(32, np.uint8)}, "expected a question in the same context"),
    ],
    ids=["much", "negative", "more", "name", "session"],
)
def test_wrong_questions_name_their_sender(
    kept: tuple[Catalogue, Holding], change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ann: {complaint}"):
        session(kept, ANN, Question, lambda sent: replace(sent, **change))


def test_parties_that_disagree_on_who_is_told_do_not_go_on(kept: tuple[Catalogue, Holding]) -> None:
    asker = look_up(Items.of(ASKED), kept[0], meeting(ANN, ONLY_ANN))
    with pytest.raises(RemoteProtocolError, match=r"^ann: expected a question in the same context, to the same recip"):
        converse({ANN: asker, BEN: answer(kept[1], meeting(BEN, BOTH))})


@pytest.mark.parametrize("liar", [ANN, BEN])
@pytest.mark.parametrize(
    ("points", "complaint"),
    [
        (lambda points: points[:-1], "expected a block of 4 points, found 3"),
        (lambda points: np.concatenate([points, points]), "expected a block of 4 points, found 8"),
        (lambda points: points * np.uint8(0), "invalid point in a block of 4: row 0 is the identity"),
        (lambda points: points | np.uint8(255), "invalid point in a block of 4: row 0 is not the canonical"),
        (lambda points: points ^ np.uint8(1), "invalid point in a block of 4: row 0 is not the canonical"),
    ],
    ids=["few", "many", "identity", "high bit", "negative"],
)
def test_wrong_points_name_their_sender(
    kept: tuple[Catalogue, Holding], liar: PartyId, points: Change, complaint: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{liar}: {complaint}"):
        session(kept, liar, Points, lambda sent: Points(points(sent.points)))


def test_a_holder_that_answers_with_another_key_is_not_believed(kept: tuple[Catalogue, Holding]) -> None:
    other = hash_all([b"1", b"2", b"3", b"4"], b"t")
    cast = {
        ANN: look_up(Items.of(ASKED), kept[0], meeting(ANN, ONLY_ANN)),
        BEN: answer(kept[1], meeting(BEN, ONLY_ANN)),
    }
    lying = altered(cast[BEN], first(Points, lambda _: Points(other)))
    found: Any = converse({ANN: cast[ANN], BEN: lying})[ANN]
    assert len(found.alignment.known()) == 0


def test_payloads_that_were_changed_do_not_open(kept: tuple[Catalogue, Holding]) -> None:
    catalogue = replace(kept[0], sealed=kept[0].sealed ^ np.uint8(1))
    with pytest.raises(RemoteProtocolError, match=r"^ben: a payload of the catalogue does not open with the key"):
        ask((catalogue, kept[1]))
    assert len(ask((catalogue, kept[1]), [b"stranger"])[0].payloads) == 0


def test_a_catalogue_of_before_is_refused(kept: tuple[Catalogue, Holding]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ann: asks about another catalogue than ours: hand it over again"):
        ask((kept[0], hand_over(width=5, seed=1)[1]))


@pytest.mark.parametrize(
    "places", [[40, 41, 42], [-1, 2, 3], [2, 1, 3], [3, 3, 3]], ids=["beyond", "negative", "falling", "twice"]
)
def test_wrong_places_name_their_sender(kept: tuple[Catalogue, Holding], places: list[int]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ann: expected at most 4 rising places below 40, found others"):
        session(kept, ANN, ArrayChunk, lambda _: ArrayChunk(np.array(places, np.int64).view(np.uint8)))


@message("test/lookup-foreign")
class Foreign:
    """A message that belongs to no scheme."""


@pytest.mark.parametrize("liar", [ANN, BEN])
def test_a_foreign_message_at_any_place_names_its_sender(kept: tuple[Catalogue, Holding], liar: PartyId) -> None:
    def lie(at: int) -> Any:
        places = count()
        cast = {ANN: look_up(Items.of(ASKED), kept[0], meeting(ANN)), BEN: answer(kept[1], meeting(BEN))}
        lying = altered(cast[liar], lambda sent: Foreign() if next(places) == at else sent)
        return converse({**cast, liar: lying})

    for at in range({ANN: 4, BEN: 1}[liar]):
        with pytest.raises(RemoteProtocolError, match=f"{liar}: expected message .*, found test/lookup-foreign"):
            lie(at)
    lie(at=9)
