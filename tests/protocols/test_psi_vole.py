"""What is particular to the intersection from VOLE: buckets, tags, cost, vectors, and peers that do not keep to it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unseen.codec import encode_bytes
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, ArrayHeader, Dialogue, Enter, Event, Leave, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId, StepId
from unseen.protocols.psi import opening, vole, vole_oprf
from unseen.protocols.psi.opening import Opening
from unseen.protocols.psi.port import Alignment, Items, Meeting
from unseen.protocols.psi.vole import Shared

ANN, BEN = PartyId("ann"), PartyId("ben")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "psi_vole.json").read_text(encoding="utf-8"))
Change = Callable[[Any], Any]


def people(first: int, last: int) -> list[bytes]:
    return [f"person-{number}".encode() for number in range(first, last)]


def party(me: PartyId, items: list[bytes], recipients: frozenset[PartyId] | None = None) -> Dialogue[Alignment]:
    peer = BEN if me == ANN else ANN
    return vole.intersect(Items.of(items), Meeting(me, (peer,), Prg(bytes(32)).derive(me), b"c", recipients))


def run(anns: list[bytes], bens: list[bytes], recipients: frozenset[PartyId] | None = None) -> list[Alignment]:
    return list(converse({ANN: party(ANN, anns, recipients), BEN: party(BEN, bens, recipients)}).values())


def altered(dialogue: Dialogue[Alignment], alter: Change) -> Dialogue[Alignment]:
    """Run a dialogue with ``alter`` between its messages and its peers."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's value is untyped
        answer = yield Send(effect.peer, alter(effect.message)) if isinstance(effect, Send) else effect


def checked(anns: list[bytes], bens: list[bytes]) -> list[Alignment]:
    ann, ben = run(anns, bens)
    shared = [anns[row] for row in ann.known()]
    assert shared == [bens[row] for row in ben.known()]
    assert set(shared) == set(anns) & set(bens)
    assert len(shared) == len(set(shared))
    return [ann, ben]


# --- results -----------------------------------------------------------------------------------------------------


def test_many_buckets_and_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vole_oprf, "BUCKET", 500)
    monkeypatch.setattr(vole_oprf, "CLUSTER", 100)
    checked(people(0, 2600), people(2000, 3100))
    checked(people(0, 40), people(0, 1700))


@pytest.mark.parametrize(("anns", "bens"), [(3000, 3), (3, 3000), (0, 2000)])
def test_skewed_lists(anns: int, bens: int) -> None:
    checked(people(0, anns), people(max(0, anns - 2), max(0, anns - 2) + bens))


def test_a_result_for_one_is_not_sent_to_the_other() -> None:
    for recipient in (ANN, BEN):
        results = dict(zip((ANN, BEN), run(people(0, 9), people(5, 30), frozenset({recipient})), strict=True))
        for me, result in results.items():
            assert (result.rows is None) == (me != recipient)
        assert sorted(results[recipient].known().tolist()) == ([5, 6, 7, 8] if recipient == ANN else [0, 1, 2, 3])


def test_what_the_answerer_sends_does_not_depend_on_the_other_list_if_it_learns_nothing() -> None:
    """The last message of the asker, which tells what is shared, is left out."""
    sent: list[Any] = []
    for bens in (people(0, 5), people(100, 105)):
        kinds: list[str] = []
        alter = lambda sent, kinds=kinds: (kinds.append(type(sent).__name__), sent)[1]
        asker = altered(party(ANN, people(0, 5), frozenset({ANN})), alter)
        converse({ANN: asker, BEN: party(BEN, bens, frozenset({ANN}))})
        sent.append(kinds)
    assert sent[0] == sent[1]
    assert "Shared" not in sent[0]


def test_three_parties_are_referred_to_another_scheme() -> None:
    meeting = Meeting(ANN, (BEN, PartyId("cat")), Prg(bytes(32)), b"")
    with pytest.raises(UsageError, match="for two parties, found ann, ben, cat: use star"):
        next(vole.intersect(Items.of([b"a"]), meeting))


def test_too_many_items_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_ITEMS", 9)
    with pytest.raises(DataError, match="together at most 9"):
        run(people(0, 5), people(0, 5))


# --- cost and form -----------------------------------------------------------------------------------------------


def test_bytes_and_rounds_are_those_of_the_docstring() -> None:
    count = 30_000
    events: list[Event] = []

    def step(dialogue: Dialogue[Alignment]) -> Dialogue[Alignment]:
        yield Enter(StepId("psi"))
        result = yield from dialogue
        yield Leave()
        return result

    cast = {ANN: step(party(ANN, people(0, count))), BEN: step(party(BEN, people(9, count + 9)))}
    converse(cast, observe=events.append)
    ann, ben = (next(e.usage for e in events if e.what == "leave" and e.party == me) for me in (ANN, BEN))
    assert 21 * count < ann.bytes_sent - 2_220_000 < 22.5 * count
    assert 9 * count < ben.bytes_sent - 255_000 < 9.5 * count
    assert max(ann.rounds, ben.rounds) <= 4


def test_the_fill_hides_how_many_items_a_bucket_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vole_oprf, "BUCKET", 200)
    shapes = set()
    for first in (0, 10_000):
        headers: list[ArrayHeader] = []
        alter = lambda sent, headers=headers: (headers.append(sent) if isinstance(sent, ArrayHeader) else None, sent)[1]
        converse({ANN: party(ANN, people(0, 500)), BEN: altered(party(BEN, people(first, first + 900)), alter)})
        shapes.add(tuple(header.shape for header in headers))
    assert len(shapes) == 1
    (found,) = shapes
    assert len(set(found)) == 1
    assert len(found) == 5
    assert sum(shape[0] for shape in found) > 900


def test_sorted_tags_and_a_mask_that_changes_with_the_session() -> None:
    stores = []
    for context in (b"one", b"two"):
        chunks: list[bytes] = []
        alter = lambda sent, chunks=chunks: (
            chunks.append(bytes(sent.data)) if isinstance(sent, ArrayChunk) else None,
            sent,
        )[1]
        cast = {
            me: vole.intersect(Items.of(people(0, 50)), Meeting(me, (peer,), Prg(bytes(32)).derive(me), context))
            for me, peer in ((ANN, BEN), (BEN, ANN))
        }
        converse({**cast, ANN: altered(cast[ANN], alter)})
        stores.append(b"".join(chunks))
    assert len(stores[0]) == len(stores[1])
    same = np.mean(np.frombuffer(stores[0], np.uint8) == np.frombuffer(stores[1], np.uint8))
    assert same < 0.01


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_messages_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    """What goes over the wire is pinned: a change needs new names or versions of messages, and new vectors."""
    states = {me: hashlib.sha256() for me in (ANN, BEN)}

    def noting(me: PartyId) -> Change:
        def note(sent: Any) -> Any:
            states[me].update(encode_bytes(sent))
            return sent

        return note

    lists = {ANN: people(*case["ann"]), BEN: people(*case["ben"])}
    results = converse({me: altered(party(me, lists[me]), noting(me)) for me in (ANN, BEN)})
    assert {me: state.hexdigest() for me, state in states.items()} == case["sent"]
    assert results[ANN].known().tolist()[:5] == case["first_rows"]


# --- peers that do not keep to it --------------------------------------------------------------------------------


def refused(liar: PartyId, alter: Change, match: str, count: int = 40) -> None:
    cast = {ANN: party(ANN, people(0, count)), BEN: party(BEN, people(0, count))}
    with pytest.raises(RemoteProtocolError, match=match):
        converse({**cast, liar: altered(cast[liar], alter)})


def of(kind: type, change: Change) -> Change:
    return lambda sent: change(sent) if isinstance(sent, kind) else sent


def test_an_opening_of_another_session_is_refused() -> None:
    other = of(Opening, lambda sent: replace(sent, session=np.zeros(32, np.uint8)))
    refused(BEN, other, "ben: expected an intersection of the same parties in the same context as ours")


def test_a_negative_size_is_refused() -> None:
    refused(BEN, of(Opening, lambda sent: replace(sent, count=-1)), "ben: a set has -1 items")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_size_that_is_not_kept_is_found_out(count: int) -> None:
    """The plan follows from the sizes, so that a party which lies about its own ends with messages of another form."""
    refused(BEN, of(Opening, lambda sent: replace(sent, count=count)), "expected|found|ben|ann")


def test_a_store_of_another_size_is_refused() -> None:
    short = of(ArrayHeader, lambda sent: replace(sent, shape=(sent.shape[0] - 1, *sent.shape[1:])))
    refused(ANN, short, "ann: expected an array of <u8")


def test_tags_that_are_not_sorted_are_refused() -> None:
    def shuffle(sent: ArrayChunk) -> ArrayChunk:
        return ArrayChunk(np.ascontiguousarray(sent.data.reshape(40, -1)[::-1]).reshape(-1))

    refused(BEN, of(ArrayChunk, shuffle), "ben: the tags of a bucket are not sorted")


def test_a_tag_that_stands_twice_is_refused() -> None:
    """Otherwise one person would be two rows in one party's table and one in the other's."""

    def repeat(sent: ArrayChunk) -> ArrayChunk:
        tags = sent.data.reshape(40, -1).copy()
        tags[7] = tags[8]
        return ArrayChunk(tags.reshape(-1))

    refused(BEN, of(ArrayChunk, repeat), "ben: a tag stands twice in a bucket")


@pytest.mark.parametrize("size", [0, 4, 6])
def test_another_number_of_bits_is_refused(size: int) -> None:
    refused(ANN, of(Shared, lambda _: Shared(np.zeros(size, np.uint8))), f"ann: expected 40 bits, found {8 * size}")


def test_shared_items_that_nobody_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vole_oprf, "BUCKET", 16)
    everything = of(Shared, lambda sent: Shared(np.full(len(sent.bits), 255, np.uint8)))
    refused(ANN, everything, "ann: claims to hold items that nobody has")


def test_a_wrong_store_gives_nothing_rather_than_something() -> None:
    """Who sends noise for a store learns nothing of the other's items, and neither does the other."""
    noise = of(ArrayChunk, lambda sent: ArrayChunk(_noise(sent)))
    cast = {ANN: altered(party(ANN, people(0, 40)), noise), BEN: party(BEN, people(0, 40))}
    for result in converse(cast).values():
        assert len(result.known()) == 0


def _noise(sent: ArrayChunk) -> Any:
    return np.random.default_rng(0).integers(0, 256, sent.data.nbytes, np.uint8)


def test_a_resumed_party_that_meets_another_salt_draws_other_secrets() -> None:
    """Two stores under one mask would show their difference."""
    sent = []
    for seed in (b"\1", b"\2"):
        chunks: list[Any] = []
        alter = lambda message, chunks=chunks: (chunks.append(message), message)[1]
        bens = vole.intersect(Items.of(people(0, 40)), Meeting(BEN, (ANN,), Prg(seed * 32), b"c"))
        converse({ANN: altered(party(ANN, people(0, 40)), alter), BEN: bens})
        sent.append([message for message in chunks if isinstance(message, ArrayChunk)])
    first, second = (np.concatenate([chunk.data for chunk in chunks]) for chunks in sent)
    assert np.mean(first == second) < 0.01


# --- points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "answered"), [(30, 0), (20_000, 100), (10**6, 10**7), (10**7, 10**6)])
def test_points_are_all_columns_of_all_buckets(asked: int, answered: int) -> None:
    meeting = Meeting(ANN, (BEN,), Prg(bytes(32)), b"")
    session = opening.Session(meeting, {ANN: asked, BEN: answered}, vole_oprf.Functions(bytes(32)), Prg(bytes(32)))
    layout = vole_oprf.Layout.of(asked, session.buckets)
    assert vole_oprf.points(asked, answered) == layout.buckets * layout.size >= asked
    assert asked < 10**5 or vole_oprf.points(asked, answered) < 1.4 * asked
