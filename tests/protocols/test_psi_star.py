"""What is particular to the intersection of many parties around a leader: shares, hints, and who is told what."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.codec import wire_name
from unseen.crypto.okvs import read
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, ArrayHeader, Dialogue, Send, converse
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi import star, vole_oprf
from unseen.protocols.psi.opening import Session
from unseen.protocols.psi.port import Alignment, Items, Meeting
from unseen.protocols.psi.vole_oprf import Blocks, Functions, Layout

ANN, BEN, CAT, DAN = (PartyId(name) for name in ("ann", "ben", "cat", "dan"))
EVERYBODY = (ANN, BEN, CAT, DAN)
Change = Callable[[PartyId, Any], Any]


def people(first: int, last: int) -> list[bytes]:
    return [f"person-{number}".encode() for number in range(first, last)]


def cast(lists: list[list[bytes]], recipients: frozenset[PartyId] | None = None) -> dict[PartyId, Dialogue[Alignment]]:
    parties = EVERYBODY[: len(lists)]
    meetings = {
        me: Meeting(me, tuple(p for p in parties if p != me), Prg(bytes(32)).derive(me), b"c", recipients)
        for me in parties
    }
    return {me: star.intersect(Items.of(items), meetings[me]) for me, items in zip(parties, lists, strict=True)}


def altered(dialogue: Dialogue[Alignment], alter: Change) -> Dialogue[Alignment]:
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's value is untyped
        spoil = isinstance(effect, Send)
        answer = yield Send(effect.peer, alter(effect.peer, effect.message)) if spoil else effect


def test_many_buckets_and_four_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vole_oprf, "BUCKET", 300)
    monkeypatch.setattr(vole_oprf, "CLUSTER", 100)
    lists = [people(0, 700), people(100, 1300), people(50, 650)[::-1], people(600, 640) + people(2000, 2100)]
    results = converse(cast(lists))
    found = [[items[row] for row in results[me].known()] for me, items in zip(EVERYBODY, lists, strict=True)]
    assert set(found[0]) == set(people(600, 640))
    assert all(order == found[0] for order in found)
    assert found[0] != sorted(found[0])


def test_the_leader_is_the_recipient_with_the_fewest_items() -> None:
    sizes = {ANN: 9, BEN: 3, CAT: 3, DAN: 1}
    meeting = Meeting(ANN, (BEN, CAT, DAN), Prg(bytes(32)), b"", frozenset({ANN, BEN, CAT}))
    assert Session(meeting, sizes, Functions(bytes(32)), Prg(bytes(32))).asker == BEN


def test_only_recipients_are_sent_names() -> None:
    told: list[tuple[PartyId, str]] = []

    def note(peer: PartyId, sent: Any) -> Any:
        told.append((peer, wire_name(type(sent))))
        return sent

    lists = [people(0, 4), people(1, 6), people(0, 9)]
    inside = cast(lists, frozenset({ANN, CAT}))
    results = converse({**inside, ANN: altered(inside[ANN], note)})
    assert results[BEN].rows is None
    assert len(results[ANN].known()) == len(results[CAT].known()) == 3
    # One array for the store to each of the others, and one more with names for the recipient.
    arrays = {peer: sum(to == peer and name == "dialogue/array-header" for to, name in told) for peer in (BEN, CAT)}
    assert arrays == {BEN: 1, CAT: 2}


def test_what_the_leader_reads_for_items_that_one_party_lacks_is_random() -> None:
    """Items that two of three hold look to the leader like items that it holds alone."""
    others = people(1000, 1400)
    lists = [people(0, 600), people(0, 400) + others, people(200, 600) + others]
    kept: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        read_hints = star._read_hints

        def noted(session: Session, number: int, hints: Any, totals: Any) -> Dialogue[None]:
            yield from read_hints(session, number, hints, totals)
            kept.append(totals.copy())

        patch.setattr(star, "_read_hints", noted)
        results = converse(cast(lists))
    totals = kept[-1]
    everybody = np.zeros(600, np.bool_)
    everybody[results[ANN].known()] = True
    assert (totals[everybody] == 0).all()
    assert everybody.sum() == 200
    for part in (slice(0, 200), slice(400, 600)):  # held by ben only; held by cat only
        ones = np.unpackbits(np.ascontiguousarray(totals[part]).view(np.uint8)).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(200 * 128)


def test_a_hint_holds_its_values_and_is_uniform_otherwise() -> None:
    """Two parties with the same items and values but other randomness send hints that share nothing else."""
    count = 50
    meeting = Meeting(BEN, (ANN, CAT), Prg(bytes(32)), b"")
    rng = np.random.default_rng(0)
    keys, values = (rng.integers(0, 2**64, (count, 2), dtype=np.uint64) for _ in range(2))
    stores = []
    for seed in (b"\1", b"\2"):
        session = Session(meeting, {ANN: 9, BEN: count, CAT: 60}, Functions(bytes(32)), Prg(seed * 32))
        layout = Layout.of(count, 1)
        own = Blocks.of(keys, layout)
        effects = list(star._send_hint(session, 0, own, values))
        chunks = [effect.message.data for effect in effects if isinstance(effect.message, ArrayChunk)]  # type: ignore[union-attr]
        store = np.concatenate(chunks).view(np.uint64).reshape(-1, 2)
        places = session.functions.one_way(b"hint", own.keys)
        np.testing.assert_array_equal(read(own.keys, places, own.starts, store, layout.shape), values[own.rows])
        stores.append(store)
    assert (stores[0] != stores[1]).any(axis=1).all()
    ones = np.unpackbits(stores[0].view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(stores[0].size * 64)


# --- peers that do not keep to it --------------------------------------------------------------------------------


def refused(liar: PartyId, alter: Change, match: str) -> None:
    inside = cast([people(0, 5), people(0, 9), people(0, 9)])
    with pytest.raises(RemoteProtocolError, match=match):
        converse({**inside, liar: altered(inside[liar], alter)})


def last_array(peer: PartyId, change: Callable[[Any], Any]) -> Change:
    """Change the chunk of the array of names that goes to ``peer``: the second array it is sent."""
    seen: list[ArrayHeader] = []

    def alter(to: PartyId, sent: Any) -> Any:
        if to == peer and isinstance(sent, ArrayHeader):
            seen.append(sent)
        return change(sent) if to == peer and isinstance(sent, ArrayChunk) and len(seen) == 2 else sent

    return alter


def test_names_of_strangers_are_refused() -> None:
    noise = lambda sent: ArrayChunk(np.random.default_rng(0).integers(0, 256, sent.data.nbytes, np.uint8))
    refused(ANN, last_array(CAT, noise), "ann: names shared items that are not ours, or one twice")


def test_a_name_that_stands_twice_is_refused() -> None:
    twice = lambda sent: ArrayChunk(np.tile(sent.data[:16], len(sent.data) // 16))
    refused(ANN, last_array(BEN, twice), "ann: names shared items that are not ours, or one twice")


def test_a_hint_of_another_size_is_refused() -> None:
    def shorten(_: PartyId, sent: Any) -> Any:
        return replace(sent, shape=(sent.shape[0] - 1, 2)) if isinstance(sent, ArrayHeader) else sent

    refused(BEN, shorten, "ben: expected an array of <u8")


def test_a_wrong_hint_empties_the_result_and_nothing_else() -> None:
    def noise(_: PartyId, sent: Any) -> Any:
        if not isinstance(sent, ArrayChunk):
            return sent
        return ArrayChunk(np.random.default_rng(0).integers(0, 256, sent.data.nbytes, np.uint8))

    inside = cast([people(0, 5), people(0, 9), people(0, 9)])
    for result in converse({**inside, CAT: altered(inside[CAT], noise)}).values():
        assert len(result.known()) == 0


def test_keys_of_pairs_do_not_show() -> None:
    assert "Permutation" not in repr(star._Pair.of(Prg(bytes(32))))
