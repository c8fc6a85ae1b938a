"""What every scheme for private set intersection has to do, whatever it is built on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import message
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.psi import ecdh
from unseen.protocols.psi.port import Alignment, Intersect, Items, Meeting

SCHEMES: dict[str, Intersect] = {"ecdh": ecdh.intersect}
NAMES = [PartyId(name) for name in ("clinic", "archive", "bank", "dairy")]
SOME = [b"a", b"b", b"c"]

ids = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.text(min_size=1, max_size=12).map(str.encode),
    st.integers(1, 1000).map(lambda size: b"x" * size),
    st.binary(min_size=1000, max_size=1024),
)
"""Identifiers; short ones collide often, so that intersections are not empty."""


@pytest.fixture(params=SCHEMES.values(), ids=SCHEMES)
def intersect(request: pytest.FixtureRequest) -> Intersect:
    scheme: Intersect = request.param
    return scheme


@message("test/psi-foreign")
class Foreign:
    """A message that belongs to no scheme."""


def dialogues(
    intersect: Intersect, lists: Sequence[Sequence[bytes]], seed: int = 0, context: bytes = b"session"
) -> dict[PartyId, Dialogue[Alignment]]:
    parties = NAMES[: len(lists)]
    seeds = Prg(bytes(32)).derive("test", bytes([seed]))
    return {
        me: intersect(
            Items.of(items),
            Meeting(me, tuple(party for party in parties if party != me), seeds.derive(me), context),
        )
        for me, items in zip(parties, lists, strict=True)
    }


def rows_of(result: Alignment) -> list[int]:
    """Return the rows of a recipient."""
    assert result.known().dtype == np.int64
    found: list[int] = result.known().tolist()
    return found


def run(intersect: Intersect, lists: Sequence[Sequence[bytes]], seed: int = 0) -> tuple[list[Alignment], list[bytes]]:
    """Return all alignments and, once checked to be the same everywhere, the shared items in their order."""
    results = list(converse(dialogues(intersect, lists, seed)).values())
    ordered = [[items[row] for row in rows_of(result)] for items, result in zip(lists, results, strict=True)]
    assert all(order == ordered[0] for order in ordered)
    return results, ordered[0]


def check(intersect: Intersect, lists: Sequence[Sequence[bytes]]) -> None:
    results, shared = run(intersect, lists)
    expected = set(lists[0]).intersection(*lists[1:])
    assert set(shared) == expected
    assert len(shared) == len(expected)
    sizes = {party: len(items) for party, items in zip(NAMES, lists, strict=False)}
    for result in results:
        assert result.sizes == sizes


def names(numbers: Iterable[int]) -> list[bytes]:
    return [f"person-{number}".encode() for number in numbers]


@given(st.lists(st.lists(ids, max_size=12, unique=True), min_size=2, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_result_is_the_intersection(lists: list[list[bytes]]) -> None:
    for scheme in SCHEMES.values():
        check(scheme, lists)


@given(st.sets(ids, max_size=12), st.data())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_order_of_the_lists_does_not_matter(items: set[bytes], data: st.DataObject) -> None:
    lists = [data.draw(st.permutations(sorted(items))) for _ in range(2)]
    for scheme in SCHEMES.values():
        check(scheme, lists)


@pytest.mark.parametrize(
    "lists",
    [
        [[], []],
        [[], [], []],
        [SOME, []],
        [[], SOME],
        [SOME, SOME, []],
        [[b"a"], [b"a"]],
        [[b"a"], [b"b"]],
        [SOME, SOME, SOME],
        [SOME, [b"d", b"e"]],
        [[b""], [b"", b"\0"]],
        [[b"\0"], [b"\0\0"]],
        [names(range(400)), names(range(300, 310))],
        [names(range(5)), names(range(700)), names(range(3, 90))],
        [["Zoë".encode(), "Ωmega".encode(), "名前".encode()], ["名前".encode(), b"Zoe", "Zoë".encode()]],
    ],
    ids=lambda lists: "-".join(str(len(items)) for items in lists),
)
def test_edge_cases(intersect: Intersect, lists: list[list[bytes]]) -> None:
    check(intersect, lists)


def test_the_order_is_another_one_in_every_session(intersect: Intersect) -> None:
    items = names(range(30))
    orders = {tuple(run(intersect, [items, items], seed)[1]) for seed in range(4)}
    assert len(orders) == 4


def test_the_order_does_not_follow_the_items(intersect: Intersect) -> None:
    items = names(range(50))
    _, shared = run(intersect, [items, items[::-1]])
    assert shared not in (items, items[::-1], sorted(items), sorted(items, reverse=True))


def test_the_same_seeds_give_the_same_result(intersect: Intersect) -> None:
    lists = [names(range(20)), names(range(10, 30))]
    assert run(intersect, lists, 5)[1] == run(intersect, lists, 5)[1]


def test_one_alignment_is_not_tied_to_the_list_of_another(intersect: Intersect) -> None:
    (left, right), shared = run(intersect, [names(range(10)), names(range(5, 25))])
    assert len(shared) == len(rows_of(left)) == len(rows_of(right)) == 5
    assert set(rows_of(left)) == set(range(5, 10))
    assert set(rows_of(right)) == set(range(5))


def test_duplicates_are_refused_before_anything_is_sent(intersect: Intersect) -> None:
    items = [b"secret-1", b"secret-2", b"secret-3", b"secret-2", b"secret-1"]
    dialogue = dialogues(intersect, [items, [b"x"]])[NAMES[0]]
    with pytest.raises(DataError, match="2 of 5 items are duplicates, the first at rows 1 and 3") as caught:
        next(dialogue)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("peers", [[], [NAMES[0]], [NAMES[1], NAMES[1]], [NAMES[0], NAMES[1]]])
def test_wrong_lists_of_parties_are_refused(peers: list[PartyId]) -> None:
    with pytest.raises(UsageError, match="needs other parties, each named once"):
        Meeting(NAMES[0], tuple(peers), Prg(bytes(32)), b"")


@pytest.mark.parametrize("recipients", [[], [NAMES[2]], [NAMES[0], NAMES[2]]])
def test_a_result_goes_to_those_who_take_part(recipients: list[PartyId]) -> None:
    with pytest.raises(UsageError, match="the result goes to some of archive, clinic"):
        Meeting(NAMES[0], (NAMES[1],), Prg(bytes(32)), b"", frozenset(recipients))


def test_parties_of_different_sessions_do_not_go_on(intersect: Intersect) -> None:
    here = dialogues(intersect, [SOME, SOME])
    there = dialogues(intersect, [SOME, SOME], context=b"another session")
    with pytest.raises(RemoteProtocolError, match="clinic: expected an intersection"):
        converse({NAMES[0]: here[NAMES[0]], NAMES[1]: there[NAMES[1]]})


def altered(dialogue: Dialogue[Alignment], alter: Callable[[Send], Send]) -> Dialogue[Alignment]:
    """Run a dialogue with ``alter`` between it and its peers."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's value is untyped
        answer = yield alter(effect) if isinstance(effect, Send) else effect


def count_messages(intersect: Intersect, lists: Sequence[Sequence[bytes]], party: PartyId) -> int:
    sent: list[Send] = []

    def note(effect: Send) -> Send:
        sent.append(effect)
        return effect

    cast = dialogues(intersect, lists)
    converse({**cast, party: altered(cast[party], note)})
    return len(sent)


@pytest.mark.parametrize("parties", [2, 3])
def test_a_foreign_message_at_any_place_names_its_sender(intersect: Intersect, parties: int) -> None:
    lists, liar = [SOME] * parties, NAMES[1]
    messages = count_messages(intersect, lists, liar)
    assert messages >= 2
    for index in range(messages):
        places = count()

        def alter(effect: Send, index: int = index, places: Iterator[int] = places) -> Send:
            return Send(effect.peer, Foreign()) if next(places) == index else effect

        cast = dialogues(intersect, lists)
        with pytest.raises(RemoteProtocolError, match=f"{liar}: expected message .*, found test/psi-foreign"):
            converse({**cast, liar: altered(cast[liar], alter)})
