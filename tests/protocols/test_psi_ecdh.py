"""What is particular to the Diffie–Hellman scheme: cost, blocks, and peers that do not keep to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.codec import decode, encode_bytes
from unseen.crypto.groups import Scalar, hash_all
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, ArrayHeader, Dialogue, Enter, Event, Leave, Send, converse
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId, StepId
from unseen.protocols.psi import ecdh
from unseen.protocols.psi.ecdh import Opening, Points
from unseen.protocols.psi.port import Alignment, Items, Meeting

ANN, BEN, CAT = PartyId("ann"), PartyId("ben"), PartyId("cat")
ITEMS = [bytes([number]) for number in range(20)]
Change = Callable[[Any], Any]


def party(me: PartyId, items: list[bytes], parties: tuple[PartyId, ...] = (ANN, BEN)) -> Dialogue[Alignment]:
    meeting = Meeting(me, tuple(other for other in parties if other != me), Prg(bytes(32)).derive(me), b"c")
    return ecdh.intersect(Items.of(items), meeting)


def altered(dialogue: Dialogue[Alignment], alter: Change) -> Dialogue[Alignment]:
    """Run a dialogue with ``alter`` between its messages and its peers."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's value is untyped
        answer = yield Send(effect.peer, alter(effect.message)) if isinstance(effect, Send) else effect


def first(kind: type, change: Change) -> Change:
    """Return a change of the first message of type ``kind`` and of no other."""
    met: list[object] = []

    def alter(sent: object) -> object:
        if met or not isinstance(sent, kind):
            return sent
        met.append(sent)
        return change(sent)

    return alter


def kept(messages: list[Any]) -> Change:
    """Return a change that changes nothing, and keeps every message in ``messages``."""

    def alter(sent: Any) -> Any:
        messages.append(sent)
        return sent

    return alter


def lie(kind: type, change: Change, *, parties: tuple[PartyId, ...] = (ANN, BEN)) -> None:
    """Run a session in which ben lies once."""
    cast = {me: party(me, ITEMS, parties) for me in parties}
    converse({**cast, BEN: altered(cast[BEN], first(kind, change))})


def with_point(point: bytes) -> Change:
    """Return a change that puts ``point`` into row 7 of a block."""

    def change(sent: Points) -> Points:
        points = sent.points.copy()
        points[7] = np.frombuffer(point, np.uint8)
        return Points(points)

    return change


@pytest.mark.parametrize("parties", [(ANN, BEN), (ANN, BEN, CAT)], ids=["2", "3"])
@pytest.mark.parametrize(
    ("point", "complaint"),
    [
        (bytes(32), "row 7 is the identity"),
        (b"\x01" + bytes(31), "row 7 is not the canonical encoding"),
        (hash_all([b"x"], b"t").tobytes()[:31] + b"\xff", "row 7 is not the canonical encoding"),
    ],
    ids=["identity", "negative", "high bit"],
)
def test_invalid_points_name_their_sender(parties: tuple[PartyId, ...], point: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: invalid point in a block of 20: {complaint}"):
        lie(Points, with_point(point), parties=parties)


@pytest.mark.parametrize("count", [0, 19, 21])
def test_wrong_numbers_of_points_name_their_sender(count: int) -> None:
    points = hash_all([bytes([number]) for number in range(count)], b"t")
    with pytest.raises(RemoteProtocolError, match=f"^ben: expected a block of 20 points, found {count}"):
        lie(Points, lambda _: Points(points))


@pytest.mark.parametrize("parties", [(ANN, BEN), (ANN, BEN, CAT)], ids=["2", "3"])
def test_duplicate_points_name_their_sender(parties: tuple[PartyId, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ben: the blinded items of ben hold 1 duplicates among 20"):
        lie(Points, lambda sent: Points(sent.points[[*range(19), 3]]), parties=parties)


def test_duplicate_tags_name_their_sender() -> None:
    def change(sent: ArrayChunk) -> ArrayChunk:
        return ArrayChunk(np.concatenate([sent.data[:-12], sent.data[:12]]))

    with pytest.raises(RemoteProtocolError, match=r"^ben: the tags of the items of ann hold 1 duplicates among 20"):
        lie(ArrayChunk, change)


@pytest.mark.parametrize("shape", [(19, 12), (20, 11), (20, 12, 1), (20,)])
def test_wrong_numbers_of_tags_name_their_sender(shape: tuple[int, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ben: expected an array of \|u1 \(20, 12\)"):
        lie(ArrayHeader, lambda sent: replace(sent, shape=shape))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent: replace(sent, count=-1), "ben: a set has -1 items"),
        (lambda sent: replace(sent, session=sent.session ^ np.uint8(1)), "ben: expected an intersection of the same"),
        (lambda _: Points(np.empty((0, 32), np.uint8)), "ben: expected message psi_join.ecdh/opening"),
    ],
    ids=["count", "session", "order"],
)
def test_wrong_openings_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{complaint}"):
        lie(Opening, change)


def test_an_announced_size_beyond_the_bound_is_refused_at_once() -> None:
    with pytest.raises(DataError, match=r"'ben': 1152921504606846976.*together at most 268435456"):
        lie(Opening, lambda sent: replace(sent, count=1 << 60))


def test_points_of_another_shape_do_not_decode() -> None:
    frame = encode_bytes(Points(np.zeros((2, 32), np.uint8)))
    with pytest.raises(RemoteProtocolError, match=r"expected an array of shape \(\*, 32\), found \(64, 1\)"):
        decode(Points, frame.replace(np.array([2, 32]).tobytes(), np.array([64, 1]).tobytes()))


def test_the_salt_keeps_equal_secrets_from_linking_two_sessions() -> None:
    """A party that is resumed has the same secrets; salt and scalar still change with its peer's salt."""

    def what_ben_sends(anns_seed: bytes) -> set[bytes]:
        messages: list[Any] = []
        ann = ecdh.intersect(Items.of(ITEMS), Meeting(ANN, (BEN,), Prg(anns_seed), b"c"))
        converse({ANN: ann, BEN: altered(party(BEN, ITEMS), kept(messages))})
        return {row.tobytes() for sent in messages if isinstance(sent, Points) for row in sent.points}

    assert what_ben_sends(bytes(32)) == what_ben_sends(bytes(32))
    assert not what_ben_sends(bytes(32)) & what_ben_sends(b"\1" * 32)


def test_a_party_that_is_resumed_against_another_salt_blinds_with_another_scalar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[bytes] = []

    def derive(prg: Prg) -> Scalar:
        scalar = Scalar(b"\1" + bytes(31))
        drawn.append(prg.bytes(64))
        return scalar

    monkeypatch.setattr(Scalar, "derive", derive)
    for anns_seed in (bytes(32), bytes(32), b"\1" * 32):
        ann = ecdh.intersect(Items.of(ITEMS), Meeting(ANN, (BEN,), Prg(anns_seed), b"c"))
        converse({BEN: party(BEN, ITEMS), ANN: ann})
    bens = drawn[::2]
    assert bens[0] == bens[1]
    assert bens[1] != bens[2]


def steps(dialogue: Dialogue[Alignment]) -> Dialogue[Any]:
    yield Enter(StepId("join"))
    yield from dialogue
    return (yield Leave())


@pytest.mark.parametrize("parties", [(ANN, BEN), (ANN, BEN, CAT)], ids=["2", "3"])
def test_rounds_and_bytes_are_as_documented(parties: tuple[PartyId, ...]) -> None:
    count, others = 600, len(parties) - 1
    items = [str(number).encode() for number in range(count)]
    usage = converse({me: steps(party(me, items, parties)) for me in parties})
    points_and_tags = count * (32 * others + 12 * others)
    for cost in usage.values():
        assert cost.rounds == len(parties) + 1
        assert points_and_tags <= cost.bytes_sent <= points_and_tags + 700 * others


def test_large_sets_travel_in_blocks_and_show_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecdh, "BLOCK", 8)
    events: list[Event] = []
    results = converse({me: party(me, ITEMS, (ANN, BEN, CAT)) for me in (ANN, BEN, CAT)}, observe=events.append)
    assert sorted(results[ANN].rows) == list(range(20))
    mine = [(event.done, event.total, event.note) for event in events if event.party == ANN]
    assert [done for done, _, _ in mine] == [8, 16, 20, 28, 36, 40, 48, 56, 60]
    assert {total for _, total, _ in mine} == {60}
    assert [note for _, _, note in mine][::3] == [f"blinding the items of {owner}" for owner in (ANN, CAT, BEN)]


def test_the_session_shows_no_secret() -> None:
    scalar = Scalar.derive(Prg(bytes(32)))
    assert "secret" in repr(scalar)
    ring = ecdh._Ring(ANN, (ANN, BEN))
    assert "Scalar(<secret>)" in repr(ecdh._Session(ring, {}, b"", scalar))


def test_no_message_holds_an_item_in_the_clear() -> None:
    messages: list[Any] = []
    items = [b"identifiable-person-%d" % number for number in range(5)]
    converse({me: altered(party(me, items), kept(messages)) for me in (ANN, BEN)})
    assert len(messages) == 8
    assert not any(b"person" in encode_bytes(sent) for sent in messages)
