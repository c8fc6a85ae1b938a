"""What every scheme for private set intersection has to do, whatever it is built on.

A new scheme is one more line in the table of its variant, and one in ``TWO_ONLY`` if it is for two parties.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, count, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unseen.codec import message
from unseen.crypto.paillier import PrivateKey
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.psi import ecdh, star, vole
from unseen.protocols.psi.port import Alignment, Count, Intersect, Items, Meeting, Spine, Sum, Totals, Unite

INTERSECT: dict[str, Intersect] = {"ecdh": ecdh.intersect, "vole": vole.intersect, "star": star.intersect}
COUNT: dict[str, Count] = {"ecdh": ecdh.count}
SUM: dict[str, Sum] = {"ecdh": partial(ecdh.total, key_bits=2048)}
UNITE: dict[str, Unite] = {"ecdh": ecdh.unite}
TWO_ONLY = {"vole"}
"""Schemes of ``INTERSECT`` and ``COUNT`` that are for two parties; those of the other variants are anyway."""

NAMES = [PartyId(name) for name in ("clinic", "archive", "bank", "dairy")]
"""Not in the order of the alphabet, so that it shows if a scheme mixes up the orders."""
SOME = [b"a", b"b", b"c"]
Lists = Sequence[Sequence[bytes]]
Table = NDArray[np.int64]

ids = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.text(min_size=1, max_size=12).map(str.encode),
    st.integers(1, 1000).map(lambda size: b"x" * size),
    st.binary(min_size=1000, max_size=1024),
)
"""Identifiers; short ones collide often, so that intersections are not empty."""
numbers = st.integers(-(1 << 63), (1 << 63) - 1)


def names(people: Iterable[int]) -> list[bytes]:
    return [f"person-{number}".encode() for number in people]


EDGES: list[Lists] = [
    [[], []],
    [[], [], []],
    [SOME, []],
    [[], SOME],
    [SOME, SOME, []],
    [[b"a"], [b"a"]],
    [[b"a"], [b"b"]],
    [SOME, SOME, SOME],
    [SOME, [b"d", b"e"]],
    [SOME, [b"b", b"d"], [b"c", b"b"], [b"e", b"b"]],
    [[b"a", b"b"], [b"b", b"c"], [b"c", b"a"]],
    [[b""], [b"", b"\0"]],
    [[b"\0"], [b"\0\0"]],
    [[b"x" * 1000, b"x" * 999], [b"x" * 1001, b"x" * 999, b"x"]],
    [names(range(400)), names(range(300, 310))],
    [names(range(5)), names(range(700)), names(range(3, 90))],
    [["Zoë".encode(), "Ωmega".encode(), "名前".encode()], ["名前".encode(), b"Zoe", "Zoë".encode()]],
]


# --- driving a scheme --------------------------------------------------------------------------------------------


@message("test/psi-foreign")
class Foreign:
    """A message that belongs to no scheme."""


@pytest.fixture(autouse=True, scope="module")
def one_paillier_key() -> Iterator[None]:
    """Spare the tests a new key for every sum; that keys are made is tested with the scheme."""
    key = PrivateKey.generate(Prg(bytes(32)), 2048)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateKey, "generate", classmethod(lambda *_: key))
        yield


def cast(
    scheme: Callable[..., Dialogue[Any]],
    lists: Lists,
    *,
    values: Mapping[PartyId, Table | None] | None = None,
    recipients: frozenset[PartyId] | None = None,
    seed: int = 0,
    context: bytes = b"session",
) -> dict[PartyId, Dialogue[Any]]:
    """Return a dialogue for each list; with ``values`` those of a scheme for sums."""
    parties = NAMES[: len(lists)]
    seeds = Prg(bytes(32)).derive("test", bytes([seed]))
    dialogues = {}
    for me, items in zip(parties, lists, strict=True):
        peers = tuple(party for party in parties if party != me)
        meeting = Meeting(me, peers, seeds.derive(me), context, recipients)
        brings = () if values is None else (values[me],)
        dialogues[me] = scheme(Items.of(items), *brings, meeting)
    return dialogues


def sizes_of(lists: Lists) -> dict[PartyId, int]:
    return {party: len(items) for party, items in zip(NAMES, lists, strict=False)}


def shared_of(lists: Lists) -> set[bytes]:
    return set(lists[0]).intersection(*lists[1:])


def told(parties: int) -> list[frozenset[PartyId] | None]:
    """Return all ways to choose who learns the result."""
    groups = [group for size in range(1, parties + 1) for group in combinations(NAMES[:parties], size)]
    return [None, *map(frozenset, groups)]


def suiting(schemes: Mapping[str, Any], parties: int) -> list[Any]:
    return [scheme for name, scheme in schemes.items() if parties == 2 or name not in TWO_ONLY]


def each(schemes: Mapping[str, Any], cases: Sequence[Lists]) -> list[Any]:
    """Return every scheme with every case that it is for."""
    return [
        pytest.param(scheme, lists, id=f"{name}-{'-'.join(str(len(items)) for items in lists)}")
        for name, scheme in schemes.items()
        for lists in cases
        if len(lists) == 2 or name not in TWO_ONLY
    ]


def each_told(schemes: Mapping[str, Any], sizes: Iterable[int]) -> list[Any]:
    """Return every scheme, for so many parties, with every choice of recipients."""
    return [
        pytest.param(scheme, parties, group, id=f"{name}-{'all' if group is None else '+'.join(sorted(group))}")
        for name, scheme in schemes.items()
        for parties in sizes
        if parties == 2 or name not in TWO_ONLY
        for group in told(parties)
    ]


# --- Intersect ---------------------------------------------------------------------------------------------------


def rows_of(result: Alignment) -> list[int]:
    """Return the rows of a recipient."""
    assert result.known().dtype == np.int64
    found: list[int] = result.known().tolist()
    return found


def check_intersection(scheme: Intersect, lists: Lists, **how: Any) -> list[bytes]:
    """Check all alignments; return the shared items in their order."""
    recipients = how.get("recipients")
    results = converse(cast(scheme, lists, **how))
    orders = []
    for (party, result), items in zip(results.items(), lists, strict=True):
        assert result.sizes == sizes_of(lists)
        if recipients is None or party in recipients:
            orders.append([items[row] for row in rows_of(result)])
        else:
            assert result.rows is None
    assert all(order == orders[0] for order in orders)
    assert set(orders[0]) == shared_of(lists)
    assert len(orders[0]) == len(shared_of(lists))
    return orders[0]


each_intersect = pytest.mark.parametrize("intersect", INTERSECT.values(), ids=INTERSECT)


@given(st.lists(st.lists(ids, max_size=12, unique=True), min_size=2, max_size=4), st.data())
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_result_is_the_intersection(lists: list[list[bytes]], data: st.DataObject) -> None:
    recipients = data.draw(st.sampled_from(told(len(lists))))
    for scheme in suiting(INTERSECT, len(lists)):
        check_intersection(scheme, lists, recipients=recipients)


@given(st.sets(ids, max_size=12), st.data())
@settings(deadline=None, derandomize=True, max_examples=10)
def test_the_order_of_the_lists_does_not_matter(items: set[bytes], data: st.DataObject) -> None:
    lists = [data.draw(st.permutations(sorted(items))) for _ in range(2)]
    for scheme in INTERSECT.values():
        check_intersection(scheme, lists)


@pytest.mark.parametrize(("intersect", "lists"), each(INTERSECT, EDGES))
def test_edge_cases(intersect: Intersect, lists: Lists) -> None:
    check_intersection(intersect, lists)


@pytest.mark.parametrize(("intersect", "parties", "recipients"), each_told(INTERSECT, (2, 3, 4)))
def test_only_recipients_learn_the_intersection(
    intersect: Intersect, parties: int, recipients: frozenset[PartyId] | None
) -> None:
    lists = [names(range(party, party + 10 + party)) for party in range(parties)]
    assert len(check_intersection(intersect, lists, recipients=recipients)) == 11 - parties


@each_intersect
def test_the_order_is_another_one_in_every_session(intersect: Intersect) -> None:
    items = names(range(30))
    orders = {tuple(check_intersection(intersect, [items, items], seed=seed)) for seed in range(4)}
    assert len(orders) == 4


@pytest.mark.parametrize(("intersect", "lists"), each(INTERSECT, [[names(range(50))] * size for size in (2, 3)]))
def test_the_order_does_not_follow_the_items(intersect: Intersect, lists: Lists) -> None:
    items = list(lists[0])
    shared = check_intersection(intersect, [items, items[::-1], *lists[2:]])
    assert shared not in (items, items[::-1], sorted(items), sorted(items, reverse=True))


@each_intersect
def test_the_same_seeds_give_the_same_result(intersect: Intersect) -> None:
    lists = [names(range(20)), names(range(10, 30))]
    assert check_intersection(intersect, lists, seed=5) == check_intersection(intersect, lists, seed=5)


@each_intersect
def test_one_alignment_is_not_tied_to_the_list_of_another(intersect: Intersect) -> None:
    left, right = converse(cast(intersect, [names(range(10)), names(range(5, 25))])).values()
    assert len(rows_of(left)) == len(rows_of(right)) == 5
    assert set(rows_of(left)) == set(range(5, 10))
    assert set(rows_of(right)) == set(range(5))


# --- Count -------------------------------------------------------------------------------------------------------


def check_count(scheme: Count, lists: Lists, recipients: frozenset[PartyId] | None = None) -> None:
    for party, result in converse(cast(scheme, lists, recipients=recipients)).items():
        learns = recipients is None or party in recipients
        assert result.shared == (len(shared_of(lists)) if learns else None)
        assert result.sizes == sizes_of(lists)


@given(st.lists(st.lists(ids, max_size=10, unique=True), min_size=2, max_size=4), st.data())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_the_count_is_that_of_the_intersection(lists: list[list[bytes]], data: st.DataObject) -> None:
    recipients = data.draw(st.sampled_from(told(len(lists))))
    for scheme in suiting(COUNT, len(lists)):
        check_count(scheme, lists, recipients)


@pytest.mark.parametrize(("scheme", "lists"), each(COUNT, EDGES))
def test_edge_cases_of_counts(scheme: Count, lists: Lists) -> None:
    check_count(scheme, lists)


@pytest.mark.parametrize(("scheme", "parties", "recipients"), each_told(COUNT, (2, 3)))
def test_only_recipients_learn_the_count(scheme: Count, parties: int, recipients: frozenset[PartyId] | None) -> None:
    check_count(scheme, [names(range(party, party + 9)) for party in range(parties)], recipients)


# --- Sum ---------------------------------------------------------------------------------------------------------


def check_sum(
    scheme: Sum, lists: Lists, table: Table, holder: int, recipients: frozenset[PartyId] | None = None
) -> None:
    """Check the sums of ``table``, which belongs to the list of number ``holder``."""
    values = {party: table if index == holder else None for index, party in enumerate(NAMES[:2])}
    chosen = [row for row, item in enumerate(lists[holder]) if item in shared_of(lists)]
    expected = tuple(sum(int(table[row, column]) for row in chosen) for column in range(table.shape[1]))
    for party, result in converse(cast(scheme, lists, values=values, recipients=recipients)).items():
        learns = recipients is None or party in recipients
        assert result == Totals(*((expected, len(chosen)) if learns else (None, None)), sizes=sizes_of(lists))


@given(st.lists(st.lists(ids, max_size=8, unique=True), min_size=2, max_size=2), st.integers(0, 1), st.data())
@settings(deadline=None, derandomize=True, max_examples=20)
def test_sums_are_over_the_shared_items(lists: list[list[bytes]], holder: int, data: st.DataObject) -> None:
    rows, columns = len(lists[holder]), data.draw(st.integers(1, 3))
    drawn = data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    table = np.array(drawn, np.int64).reshape(rows, columns)
    recipients = data.draw(st.sampled_from(told(2)))
    for scheme in SUM.values():
        check_sum(scheme, lists, table, holder, recipients)


each_sum = pytest.mark.parametrize("scheme", SUM.values(), ids=SUM)


@each_sum
@pytest.mark.parametrize("lists", [lists for lists in EDGES if len(lists) == 2 and len(lists[0]) < 9])
def test_edge_cases_of_sums(scheme: Sum, lists: Lists) -> None:
    check_sum(scheme, lists, np.arange(len(lists[0]), dtype=np.int64).reshape(-1, 1) + 7, holder=0)


@pytest.mark.parametrize(("scheme", "parties", "recipients"), each_told(SUM, (2,)))
@pytest.mark.parametrize("holder", [0, 1])
def test_only_recipients_learn_the_sums(
    scheme: Sum, parties: int, recipients: frozenset[PartyId] | None, holder: int
) -> None:
    lists = [names(range(party, party + 5)) for party in range(parties)]
    table = np.array([[-1, 10], [1 << 62, 10], [1 << 62, 10], [1 << 62, 10], [1 << 62, 10]], np.int64)
    check_sum(scheme, lists, table, holder, recipients)


@each_sum
@pytest.mark.parametrize("columns", [1, 20, 21, 22, 43])
@pytest.mark.parametrize("extreme", [-(1 << 63), (1 << 63) - 1])
def test_extreme_values_do_not_run_into_other_columns(scheme: Sum, columns: int, extreme: int) -> None:
    table = np.full((3, columns), extreme, np.int64)
    table[1, ::2] = 5
    check_sum(scheme, [SOME, [*SOME, b"d"]], table, holder=0)


@each_sum
@pytest.mark.parametrize(
    "table",
    [
        np.zeros((2, 1), np.int64),
        np.zeros(3, np.int64),
        np.zeros((3, 1), np.int32),
        np.zeros((3, 1)),
        np.zeros((3, 0), np.int64),
    ],
    ids=lambda table: f"{table.dtype}{table.shape}",
)
def test_tables_that_do_not_fit_the_items_are_refused_before_anything_is_sent(scheme: Sum, table: Table) -> None:
    dialogue = cast(scheme, [SOME, SOME], values={NAMES[0]: table, NAMES[1]: None})[NAMES[0]]
    with pytest.raises(UsageError, match=r"int64 of shape \(3, columns\)"):
        next(dialogue)


@each_sum
@pytest.mark.parametrize("table", [None, np.ones((3, 1), np.int64)], ids=["none", "both"])
def test_one_party_and_not_the_other_brings_values(scheme: Sum, table: Table | None) -> None:
    with pytest.raises(RemoteProtocolError, match="columns of values and this party"):
        converse(cast(scheme, [SOME, SOME], values={NAMES[0]: table, NAMES[1]: table}))


# --- Unite -------------------------------------------------------------------------------------------------------


def check_union(scheme: Unite, lists: Lists, seed: int = 0) -> list[bytes]:
    """Check both spines; return the items of the union in its order."""
    results: list[Spine] = list(converse(cast(scheme, lists, seed=seed)).values())
    left, right = (result.rows.tolist() for result in results)
    assert all(result.rows.dtype == np.int64 and result.sizes == sizes_of(lists) for result in results)
    assert len(left) == len(right) == len(set(lists[0]) | set(lists[1]))
    for rows, items in zip((left, right), lists, strict=True):
        assert sorted(row for row in rows if row >= 0) == list(range(len(items)))
        assert set(rows) - set(range(len(items))) <= {-1}
    places = []
    for mine, theirs in zip(left, right, strict=True):
        held = {items[row] for row, items in zip((mine, theirs), lists, strict=True) if row >= 0}
        assert len(held) == 1
        places.append(held.pop())
    assert set(places) == set(lists[0]) | set(lists[1])
    return places


@given(st.lists(st.lists(ids, max_size=10, unique=True), min_size=2, max_size=2))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_the_spine_has_a_place_for_every_item(lists: list[list[bytes]]) -> None:
    for scheme in UNITE.values():
        check_union(scheme, lists)


each_union = pytest.mark.parametrize("scheme", UNITE.values(), ids=UNITE)


@each_union
@pytest.mark.parametrize("lists", [lists for lists in EDGES if len(lists) == 2])
def test_edge_cases_of_unions(scheme: Unite, lists: Lists) -> None:
    check_union(scheme, lists)


@each_union
def test_the_places_are_others_in_every_session_and_do_not_follow_the_items(scheme: Unite) -> None:
    lists = [names(range(20)), names(range(10, 30))]
    spines = {tuple(check_union(scheme, lists, seed)) for seed in range(4)}
    assert len(spines) == 4
    assert tuple(names(range(30))) not in spines
    # Shared items stand among the others: a spine in pieces would tell which are shared.
    for spine in spines:
        kinds = [(item in lists[0], item in lists[1]) for item in spine]
        assert sum(here != there for here, there in pairwise(kinds)) > 8


@each_union
def test_a_union_has_no_other_recipients_than_both(scheme: Unite) -> None:
    with pytest.raises(UsageError, match="both parties of a union"):
        next(cast(scheme, [SOME, SOME], recipients=frozenset(NAMES[:1]))[NAMES[0]])


# --- what is the same for all ------------------------------------------------------------------------------------

ONES = {NAMES[0]: np.ones((5, 2), np.int64), NAMES[1]: None}
VARIANTS: list[Any] = [
    pytest.param(scheme, how, id=f"{variant}-{name}")
    for variant, schemes, how in (
        ("intersect", INTERSECT, {}),
        ("count", COUNT, {}),
        ("sum", SUM, {"values": ONES}),
        ("unite", UNITE, {}),
    )
    for name, scheme in schemes.items()
]
each_variant = pytest.mark.parametrize(("scheme", "how"), VARIANTS)


@each_variant
def test_duplicates_are_refused_before_anything_is_sent(scheme: Any, how: dict[str, Any]) -> None:
    items = [b"secret-1", b"secret-2", b"secret-3", b"secret-2", b"secret-1"]
    dialogue = cast(scheme, [items, [b"x"]], **how)[NAMES[0]]
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


@pytest.mark.parametrize(
    ("scheme", "how"),
    [
        *(pytest.param(scheme, {"values": dict.fromkeys(NAMES)}, id=f"sum-{name}") for name, scheme in SUM.items()),
        *(pytest.param(scheme, {}, id=f"unite-{name}") for name, scheme in UNITE.items()),
        *(pytest.param(INTERSECT[name], {}, id=f"intersect-{name}") for name in sorted(TWO_ONLY & set(INTERSECT))),
    ],
)
def test_schemes_for_two_parties_refuse_a_third(scheme: Any, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="two parties"):
        next(cast(scheme, [SOME, SOME, SOME], **how)[NAMES[0]])


@each_variant
@pytest.mark.parametrize(
    "other", [{"context": b"another session"}, {"recipients": frozenset(NAMES[:1])}], ids=["context", "recipients"]
)
def test_parties_of_different_sessions_do_not_go_on(scheme: Any, how: dict[str, Any], other: dict[str, Any]) -> None:
    if "recipients" in other and scheme in UNITE.values():
        other = {"seed": 1, "context": b""}  # a union has no recipients to differ in
    here = cast(scheme, [names(range(5)), SOME], **how)
    there = cast(scheme, [names(range(5)), SOME], **how, **other)
    with pytest.raises(RemoteProtocolError, match="clinic: expected an intersection"):
        converse({NAMES[0]: here[NAMES[0]], NAMES[1]: there[NAMES[1]]})


def altered(dialogue: Dialogue[Any], alter: Callable[[Send], Send]) -> Dialogue[Any]:
    """Run a dialogue with ``alter`` between it and its peers."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield alter(effect) if isinstance(effect, Send) else effect


def count_messages(dialogues: dict[PartyId, Dialogue[Any]], party: PartyId) -> int:
    sent: list[Send] = []

    def note(effect: Send) -> Send:
        sent.append(effect)
        return effect

    converse({**dialogues, party: altered(dialogues[party], note)})
    return len(sent)


def refuse_foreign_messages(scheme: Any, lists: Lists, liar: PartyId, how: dict[str, Any]) -> None:
    messages = count_messages(cast(scheme, lists, **how), liar)
    assert messages >= 2
    for index in range(messages):
        places = count()

        def alter(effect: Send, index: int = index, places: Iterator[int] = places) -> Send:
            return Send(effect.peer, Foreign()) if next(places) == index else effect

        dialogues = cast(scheme, lists, **how)
        with pytest.raises(RemoteProtocolError, match=f"{liar}: expected message .*, found test/psi-foreign"):
            converse({**dialogues, liar: altered(dialogues[liar], alter)})


@each_variant
@pytest.mark.parametrize("liar", NAMES[:2])
def test_a_foreign_message_at_any_place_names_its_sender(scheme: Any, how: dict[str, Any], liar: PartyId) -> None:
    refuse_foreign_messages(scheme, [names(range(5)), names(range(3, 8))], liar, how)


@pytest.mark.parametrize("scheme", [*suiting(INTERSECT, 3), *suiting(COUNT, 3)])
@pytest.mark.parametrize("liar", NAMES[:3])
def test_a_foreign_message_of_one_among_three_names_its_sender(scheme: Any, liar: PartyId) -> None:
    refuse_foreign_messages(scheme, [SOME, SOME, SOME], liar, {})


@each_variant
def test_two_variants_do_not_meet(scheme: Any, how: dict[str, Any]) -> None:
    lists = [names(range(5)), SOME]
    for other in [*INTERSECT.values(), *COUNT.values(), *UNITE.values()]:
        if other is not scheme:
            here, there = cast(scheme, lists, **how), cast(other, lists)
            with pytest.raises(RemoteProtocolError, match="clinic: expected"):
                converse({NAMES[0]: here[NAMES[0]], NAMES[1]: there[NAMES[1]]})
