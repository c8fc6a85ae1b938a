"""What is particular to the Diffie–Hellman family: cost, blocks, and peers that do not keep to it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz, next_prime

from unseen.codec import decode, encode_bytes
from unseen.crypto.groups import Scalar, hash_all
from unseen.crypto.paillier import PrivateKey, integers_to_rows
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, ArrayHeader, Dialogue, Enter, Event, Leave, Send, converse
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId, StepId
from unseen.protocols.psi import ecdh
from unseen.protocols.psi.ecdh import session as sessions
from unseen.protocols.psi.ecdh.cardinality import Shared
from unseen.protocols.psi.ecdh.session import Opening, Points
from unseen.protocols.psi.ecdh.sums import SumKey, Sums, ValuedPoints
from unseen.protocols.psi.port import Items, Meeting

ANN, BEN, CAT = PartyId("ann"), PartyId("ben"), PartyId("cat")
ITEMS = [bytes([number]) for number in range(20)]
OTHERS = [bytes([number]) for number in range(5, 25)]
VECTORS = Path(__file__).parents[1] / "vectors"
INVALID = json.loads((VECTORS / "ristretto255.json").read_text())["invalid_encodings"]
IDENTITY, NEGATIVE = bytes(32), b"\x01" + bytes(31)
HIGH_BIT = hash_all([b"x"], b"t").tobytes()[:31] + b"\xff"
KEY_BITS = 2048
Change = Callable[[Any], Any]


@pytest.fixture(autouse=True, scope="module")
def one_paillier_key() -> Iterator[None]:
    """Spare all tests but one a new key for every sum."""
    key = PrivateKey.generate(Prg(bytes(32)), KEY_BITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateKey, "generate", classmethod(lambda *_: key))
        yield


# --- driving -----------------------------------------------------------------------------------------------------


def cast(
    variant: str = "intersect",
    parties: tuple[PartyId, ...] = (ANN, BEN),
    *,
    holder: PartyId = ANN,
    recipients: frozenset[PartyId] | None = None,
    items: dict[PartyId, list[bytes]] | None = None,
) -> dict[PartyId, Dialogue[Any]]:
    """Return a dialogue for each party; in sums the holder has numbers, in unions half of the items are shared."""
    dialogues = {}
    for me in parties:
        mine = (items or {}).get(me, OTHERS if variant == "unite" and me == BEN else ITEMS)
        peers = tuple(other for other in parties if other != me)
        meeting = Meeting(me, peers, Prg(bytes(32)).derive(me), b"c", recipients)
        values = np.arange(2 * len(mine), dtype=np.int64).reshape(-1, 2) if me == holder else None
        scheme = partial(ecdh.total, values=values, key_bits=KEY_BITS) if variant == "sum" else getattr(ecdh, variant)
        dialogues[me] = scheme(Items.of(mine), meeting=meeting)
    return dialogues


def altered(dialogue: Dialogue[Any], alter: Change) -> Dialogue[Any]:
    """Run a dialogue with ``alter`` between its messages and its peers."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield Send(effect.peer, alter(effect.message)) if isinstance(effect, Send) else effect


def nth(kind: type, number: int, change: Change) -> Change:
    """Return a change of message ``number`` of type ``kind``, from 0, and of no other."""
    met: list[object] = []

    def alter(sent: object) -> object:
        if not isinstance(sent, kind):
            return sent
        met.append(sent)
        return change(sent) if len(met) == number + 1 else sent

    return alter


def kept(messages: list[Any]) -> Change:
    """Return a change that changes nothing, and keeps every message in ``messages``."""

    def alter(sent: Any) -> Any:
        messages.append(sent)
        return sent

    return alter


def lie(kind: type, change: Change, *, number: int = 0, liar: PartyId = BEN, **how: Any) -> None:
    """Run a session in which one party lies once."""
    dialogues = cast(**how)
    converse({**dialogues, liar: altered(dialogues[liar], nth(kind, number, change))})


def with_point(point: bytes) -> Change:
    """Return a change that puts ``point`` into row 7 of a block."""

    def change(sent: Points) -> Points:
        points = sent.points.copy()
        points[7] = np.frombuffer(point, np.uint8)
        return replace(sent, points=points)

    return change


THREE = (ANN, BEN, CAT)
SETS = [
    pytest.param({"variant": "intersect"}, 0, id="intersect"),
    pytest.param({"variant": "intersect", "parties": THREE}, 0, id="ring-own"),
    pytest.param({"variant": "intersect", "parties": THREE}, 1, id="ring-passing"),
    pytest.param({"variant": "count"}, 0, id="count"),
    pytest.param({"variant": "count", "parties": THREE}, 1, id="count-passing"),
    pytest.param({"variant": "sum", "holder": ANN}, 0, id="sum-matcher"),
    pytest.param({"variant": "unite"}, 0, id="unite-blinded"),
    pytest.param({"variant": "unite"}, 1, id="unite-compared"),
    pytest.param({"variant": "unite"}, 2, id="unite-named"),
]
"""Every message in which ben sends 20 points."""


# --- points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", [encoding for encodings in INVALID.values() for encoding in encodings], ids=lambda text: text[:8]
)
def test_encodings_that_rfc_9496_forbids_name_their_sender(encoding: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ben: invalid point in a block of 20: row 7 is not the"):
        lie(Points, with_point(bytes.fromhex(encoding)))


@pytest.mark.parametrize(("how", "number"), SETS)
@pytest.mark.parametrize(
    ("point", "complaint"),
    [(IDENTITY, "is the identity"), (NEGATIVE, "is not the canonical"), (HIGH_BIT, "is not the canonical")],
    ids=["identity", "negative", "high bit"],
)
def test_invalid_points_name_their_sender(how: dict[str, Any], number: int, point: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"^ben: invalid point in a block of \d+: row \d+ {complaint}"):
        lie(Points, with_point(point), number=number, **how)


@pytest.mark.parametrize(("how", "number"), SETS)
@pytest.mark.parametrize("count", [0, 19, 21])
def test_wrong_numbers_of_points_name_their_sender(how: dict[str, Any], number: int, count: int) -> None:
    points = hash_all([bytes([number]) for number in range(count)], b"t")
    with pytest.raises(RemoteProtocolError, match=f"^ben: expected a block of 20 points, found {count}"):
        lie(Points, lambda _: Points(points), number=number, **how)


@pytest.mark.parametrize(("how", "number"), SETS)
def test_duplicate_points_name_their_sender(how: dict[str, Any], number: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^ben: the \w+ items of \w+ hold 1 duplicates among 20"):
        lie(Points, lambda sent: Points(sent.points[[*range(19), 3]]), number=number, **how)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent: Points(sent.points[1:]), "ben: expected a block of 5 points, found 4"),
        (lambda sent: Points(sent.points[[0, 0, 1, 2, 3]]), "ben: the blinded items of ben hold 1 duplicates among 5"),
        (lambda sent: Points(np.roll(sent.points, 1)), "ben: invalid point in a block of 5"),
    ],
    ids=["count", "duplicates", "invalid"],
)
def test_wrong_differences_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{complaint}"):
        lie(Points, change, number=3, variant="unite")


def test_a_union_in_which_two_items_have_one_name_is_refused() -> None:
    dialogues = cast("unite")
    named: list[Any] = []

    def change(sent: Any) -> Any:
        if isinstance(sent, Points):
            named.append(sent)
            if len(named) == 4:
                return Points(named[2].points[:5])  # names of ann's own items, once more
        return sent

    with pytest.raises(RemoteProtocolError, match=r"^ben: the names of the union hold 5 duplicates among 25"):
        converse({**dialogues, BEN: altered(dialogues[BEN], change)})


def test_points_of_another_shape_do_not_decode() -> None:
    frame = encode_bytes(Points(np.zeros((2, 32), np.uint8)))
    with pytest.raises(RemoteProtocolError, match=r"expected an array of shape \(\*, 32\), found \(64, 1\)"):
        decode(Points, frame.replace(np.array([2, 32]).tobytes(), np.array([64, 1]).tobytes()))


# --- tags, positions, counts -------------------------------------------------------------------------------------

TAGS = [
    pytest.param({"variant": "intersect"}, "ann", id="intersect"),
    pytest.param({"variant": "intersect", "parties": THREE}, "cat", id="ring"),
    pytest.param({"variant": "count"}, "ann", id="count"),
    pytest.param({"variant": "sum", "holder": BEN}, "ann", id="sum"),
]


@pytest.mark.parametrize(("how", "owner"), TAGS)
def test_duplicate_tags_name_their_sender(how: dict[str, Any], owner: str) -> None:
    def change(sent: ArrayChunk) -> ArrayChunk:
        return ArrayChunk(np.concatenate([sent.data[:-12], sent.data[:12]]))

    with pytest.raises(RemoteProtocolError, match=f"^ben: the tags of the items of {owner} hold 1 duplicates among 20"):
        lie(ArrayChunk, change, **how)


@pytest.mark.parametrize(("how", "owner"), TAGS)
@pytest.mark.parametrize("shape", [(19, 12), (20, 11), (20, 12, 1), (20,)])
def test_wrong_numbers_of_tags_name_their_sender(how: dict[str, Any], owner: str, shape: tuple[int, ...]) -> None:
    del owner
    with pytest.raises(RemoteProtocolError, match=r"^ben: expected an array of \|u1 \(20, 12\)"):
        lie(ArrayHeader, lambda sent: replace(sent, shape=shape), **how)


def positions(*numbers: int) -> Change:
    """Return a change that replaces the first positions of a list."""

    def change(sent: ArrayChunk) -> ArrayChunk:
        words = sent.data.view(np.uint32).copy()
        words[: len(numbers)] = numbers
        return ArrayChunk(words.view(np.uint8))

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (positions(20), "position 20 is outside of the 20 items"),
        (positions((1 << 32) - 1), "position 4294967295 is outside of the 20 items"),
        (positions(4, 4), r"a position among the items of \w+ occurs twice"),
    ],
    ids=["next", "last", "twice"],
)
@pytest.mark.parametrize(("liar", "number"), [(ANN, 0), (BEN, 2)], ids=["combiner", "passing on"])
def test_wrong_positions_name_their_sender(liar: PartyId, number: int, change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"^{liar}: {complaint}"):
        lie(ArrayChunk, change, number=number, liar=liar, parties=THREE)


def test_more_shared_items_than_the_smallest_set_has_are_refused() -> None:
    def lengthen(sent: Any) -> Any:
        if isinstance(sent, ArrayHeader) and sent.dtype == "<u4":
            return replace(sent, shape=(3,))
        if isinstance(sent, ArrayChunk) and sent.data.nbytes == 8:
            return ArrayChunk(np.arange(12, dtype=np.uint8))
        return sent

    dialogues = cast(parties=THREE, items={BEN: ITEMS[:2]})
    with pytest.raises(RemoteProtocolError, match=r"^ann: expected an array of at most 2 rows, found 3"):
        converse({**dialogues, ANN: altered(dialogues[ANN], lengthen)})


def test_lists_of_positions_of_different_lengths_are_refused() -> None:
    def change(sent: Any) -> Any:
        if isinstance(sent, ArrayHeader) and sent.dtype == "<u4":
            return replace(sent, shape=(19,))
        return ArrayChunk(sent.data[:76]) if isinstance(sent, ArrayChunk) and sent.data.nbytes == 80 else sent

    dialogues = cast(parties=THREE)
    with pytest.raises(RemoteProtocolError, match=r"^ben: expected an array of <u4 \(20\), found <u4 \(19,\)"):
        converse({**dialogues, BEN: altered(dialogues[BEN], change)})


@pytest.mark.parametrize("count", [-1, 21])
def test_impossible_counts_name_the_combiner(count: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ann: {count} items are shared, it says, the smallest set has 20"):
        lie(Shared, lambda _: Shared(count), liar=ANN, variant="count")


# --- openings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent: replace(sent, count=-1), "ben: a set has -1 items"),
        (lambda sent: replace(sent, columns=-1), "ben: a set has 20 items in -1 columns"),
        (lambda sent: replace(sent, session=sent.session ^ np.uint8(1)), "ben: expected an intersection of the same"),
        (lambda _: Points(np.empty((0, 32), np.uint8)), "ben: expected message psi_join.ecdh/opening"),
    ],
    ids=["count", "columns", "session", "order"],
)
def test_wrong_openings_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{complaint}"):
        lie(Opening, change)


@pytest.mark.parametrize("variant", ["intersect", "count", "sum", "unite"])
def test_an_announced_size_beyond_the_bound_is_refused_at_once(variant: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"ben: a set has 1152921504606846976 items.*at most 268435456"):
        lie(Opening, lambda sent: replace(sent, count=1 << 60), variant=variant)


# --- sums --------------------------------------------------------------------------------------------------------


def modulus(change: Callable[[int], int]) -> Change:
    def alter(sent: SumKey) -> SumKey:
        number = mpz(change(int.from_bytes(sent.modulus, "big")))
        return SumKey(bytes(number.to_bytes((number.bit_length() + 7) // 8, "big")))

    return alter


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda n: n + 1, "is even"),
        (lambda n: int(next_prime(n)), "is prime"),
        (lambda n: n >> 1024, "has 1024 bits, expected 2048"),
        (lambda n: int(next_prime(n)) * int(next_prime(2 * n)), "has 4096 bits, agreed are 2048"),
        (lambda n: 65521 * ((n // 65521) | 1), "has a prime factor below 65536"),
    ],
    ids=["even", "prime", "short", "long", "smooth"],
)
def test_wrong_keys_name_their_sender(change: Callable[[int], int], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: its Paillier modulus {complaint}"):
        lie(SumKey, modulus(change), variant="sum", holder=BEN)


def with_ciphertext(number: int) -> Change:
    def change(sent: ValuedPoints) -> ValuedPoints:
        ciphertexts = sent.ciphertexts.copy()
        ciphertexts[3, 0] = integers_to_rows([mpz(number)], ciphertexts.shape[2])[0]
        return replace(sent, ciphertexts=ciphertexts)

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (with_ciphertext(0), "ben: ciphertext 3 is zero"),
        (with_ciphertext((1 << 4096) - 1), "ben: ciphertext 3 is zero or not smaller"),
        (lambda sent: replace(sent, ciphertexts=sent.ciphertexts[1:]), r"ben: expected 20 points and ciphertexts"),
        (
            lambda sent: replace(sent, ciphertexts=sent.ciphertexts[:, :, 1:]),
            r"ben: expected 20 points and ciphertexts",
        ),
        (lambda sent: replace(sent, points=sent.points[1:]), "ben: expected 20 points and ciphertexts .* found 19"),
        (with_point(NEGATIVE), "ben: invalid point in a block of 20: row 7"),
        (lambda sent: replace(sent, points=sent.points[[*range(19), 3]]), "ben: the blinded items of ben hold 1 dup"),
    ],
    ids=["zero", "large", "rows", "bytes", "points", "invalid point", "duplicate"],
)
def test_wrong_valued_points_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{complaint}"):
        lie(ValuedPoints, change, variant="sum", holder=BEN)


def ciphertext_of(value: int) -> Any:
    key = PrivateKey.generate(Prg(bytes(32)), KEY_BITS).public
    return key.pack([key.encrypt(value, Prg(bytes(32)))])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent: replace(sent, ciphertexts=sent.ciphertexts[:0]), r"expected sums of shape \(1, 512\), found \(0"),
        (lambda sent: replace(sent, ciphertexts=sent.ciphertexts[:, 1:]), "expected sums of shape"),
        (lambda sent: replace(sent, ciphertexts=sent.ciphertexts & np.uint8(0)), "ciphertext 0 is zero"),
        (lambda sent: replace(sent, shared=None), "None items are shared, expected 0 to 20"),
        (lambda sent: replace(sent, shared=21), "21 items are shared, expected 0 to 20"),
        (lambda sent: replace(sent, shared=-1), "-1 items are shared"),
        (lambda sent: replace(sent, shared=0), "what comes out is no sum"),
        (lambda sent: replace(sent, ciphertexts=ciphertext_of(21 << 63)), "what comes out is no sum"),
        (lambda sent: replace(sent, ciphertexts=ciphertext_of(1 << 500)), "what comes out is no sum"),
    ],
    ids=["none", "bytes", "zero", "no number", "many", "negative", "too few", "large", "other slots"],
)
def test_wrong_sums_name_their_sender(change: Change, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: {complaint}"):
        lie(Sums, change, variant="sum", holder=ANN)


@pytest.mark.parametrize("recipients", [None, frozenset([ANN])], ids=["both", "matcher"])
def test_wrong_opened_sums_name_their_sender(recipients: frozenset[PartyId] | None) -> None:
    def change(sent: Any) -> Any:
        if isinstance(sent, ArrayChunk) and sent.data.nbytes == KEY_BITS // 8:
            return ArrayChunk(sent.data ^ np.uint8(64))
        return sent

    dialogues = cast("sum", holder=BEN, recipients=recipients)
    with pytest.raises(RemoteProtocolError, match=r"^ben: what comes out is no sum"):
        converse({**dialogues, BEN: altered(dialogues[BEN], change)})


@pytest.mark.parametrize("columns", [0, 1025])
def test_impossible_numbers_of_columns_are_refused(columns: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^ben: brings {columns} columns of values and this party 0"):
        lie(Opening, lambda sent: replace(sent, columns=columns), variant="sum", holder=BEN)


def test_a_key_that_is_too_small_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match="2048 to 8192 bits"):
        next(ecdh.total(Items.of(ITEMS), None, Meeting(ANN, (BEN,), Prg(bytes(32)), b""), key_bits=1024))


# --- secrets -----------------------------------------------------------------------------------------------------


def points_of_ben(anns_seed: bytes, bens: list[bytes] = ITEMS) -> set[bytes]:
    messages: list[Any] = []
    ann = ecdh.intersect(Items.of(ITEMS), Meeting(ANN, (BEN,), Prg(anns_seed), b"c"))
    ben = cast(items={BEN: bens})[BEN]
    converse({ANN: ann, BEN: altered(ben, kept(messages))})
    return {row.tobytes() for sent in messages if isinstance(sent, Points) for row in sent.points}


def test_the_salt_keeps_equal_secrets_from_linking_two_sessions() -> None:
    """A party that is resumed has the same secrets; salt and scalar still change with its peer's salt."""
    assert points_of_ben(bytes(32)) == points_of_ben(bytes(32))
    assert not points_of_ben(bytes(32)) & points_of_ben(b"\1" * 32)


def test_a_party_that_is_resumed_with_other_items_blinds_them_with_another_scalar() -> None:
    assert not points_of_ben(bytes(32)) & points_of_ben(bytes(32), ITEMS[:19])


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
        converse({BEN: cast()[BEN], ANN: ann})
    bens = drawn[::2]
    assert bens[0] == bens[1]
    assert bens[1] != bens[2]


def test_the_session_shows_no_secret() -> None:
    made: list[sessions.Session] = []

    def meet(me: PartyId, peer: PartyId) -> Dialogue[None]:
        meeting = Meeting(me, (peer,), Prg(bytes(32)).derive(me), b"c")
        made.append((yield from sessions.open_session(Items.of(ITEMS), meeting, "test")))

    converse({ANN: meet(ANN, BEN), BEN: meet(BEN, ANN)})
    shown = repr(made[0])
    assert "Prg(<secret>)" in shown
    assert "salt" not in shown
    assert "digests" not in shown
    assert "secret" in repr(made[0].scalar("pair"))


@pytest.mark.parametrize("variant", ["intersect", "count", "sum", "unite"])
def test_no_message_holds_an_item_in_the_clear(variant: str) -> None:
    messages: list[Any] = []
    items = [b"identifiable-person-%d" % number for number in range(5)]
    dialogues = cast(variant, items={ANN: items, BEN: items})
    converse({me: altered(dialogue, kept(messages)) for me, dialogue in dialogues.items()})
    assert len(messages) >= 6
    assert not any(b"person" in encode_bytes(sent) for sent in messages)


# --- cost and progress -------------------------------------------------------------------------------------------


def steps(dialogue: Dialogue[Any]) -> Dialogue[Any]:
    yield Enter(StepId("join"))
    yield from dialogue
    return (yield Leave())


def cost(variant: str, parties: tuple[PartyId, ...], items: dict[PartyId, list[bytes]], **how: Any) -> dict[Any, Any]:
    dialogues = cast(variant, parties, items=items, **how)
    return converse({me: steps(dialogue) for me, dialogue in dialogues.items()})


N = 600
MANY = [str(number).encode() for number in range(N)]
HEADERS = 1400
"""What openings and the heads of messages may add."""


@pytest.mark.parametrize("recipients", [None, frozenset([ANN]), frozenset([BEN])], ids=["both", "ann", "ben"])
def test_rounds_and_bytes_of_two_parties_are_as_documented(recipients: frozenset[PartyId] | None) -> None:
    for me, usage in cost("intersect", (ANN, BEN), dict.fromkeys((ANN, BEN), MANY), recipients=recipients).items():
        told = recipients or {ANN, BEN}
        expected = 32 * N + 12 * N * bool(told - {me})
        assert expected <= usage.bytes_sent <= expected + HEADERS
        assert usage.rounds == (3 if recipients is None else 2)


def test_rounds_and_bytes_of_a_ring_are_as_documented() -> None:
    for me, usage in cost("intersect", THREE, dict.fromkeys(THREE, MANY)).items():
        tags, told = (0, 2 * 4 * N) if me == ANN else (12 * N, 0)
        expected = 2 * 32 * N + tags + told + 2 * 4 * N
        assert expected <= usage.bytes_sent <= expected + HEADERS
        assert usage.rounds <= 7


@pytest.mark.parametrize(("parties", "rounds"), [((ANN, BEN), 3), (THREE, 5)], ids=["2", "3"])
def test_rounds_and_bytes_of_a_count_are_as_documented(parties: tuple[PartyId, ...], rounds: int) -> None:
    for me, usage in cost("count", parties, dict.fromkeys(parties, MANY)).items():
        expected = 32 * N * (len(parties) - 1) + (0 if me == ANN else 12 * N)
        assert expected <= usage.bytes_sent <= expected + HEADERS
        assert usage.rounds <= rounds


def test_rounds_and_bytes_of_a_sum_are_as_documented() -> None:
    few = MANY[:40]
    usages = cost("sum", (ANN, BEN), {ANN: few, BEN: MANY}, recipients=frozenset([BEN]))
    holder, matcher = 12 * N + (32 + KEY_BITS // 4) * len(few) + 2 * KEY_BITS // 8, 32 * N + KEY_BITS // 4
    assert holder <= usages[ANN].bytes_sent <= holder + HEADERS
    assert matcher <= usages[BEN].bytes_sent <= matcher + HEADERS
    assert usages[BEN].rounds <= 4


def test_rounds_and_bytes_of_a_union_are_as_documented() -> None:
    for usage in cost("unite", (ANN, BEN), {ANN: MANY, BEN: MANY[100:]}).values():
        assert usage.rounds <= 4
    usages = cost("unite", (ANN, BEN), {ANN: MANY, BEN: MANY[100:]})
    expected = 32 * N + 64 * (N - 100) + 32 * 100
    assert expected <= usages[ANN].bytes_sent <= expected + HEADERS


def test_large_sets_travel_in_blocks_and_show_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BLOCK", 8)
    events: list[Event] = []
    results = converse(cast(parties=THREE), observe=events.append)
    assert sorted(results[ANN].rows) == list(range(20))
    mine = [(event.done, event.total, event.note) for event in events if event.party == ANN]
    assert [done for done, _, _ in mine] == [8, 16, 20, 28, 36, 40, 48, 56, 60]
    assert {total for _, total, _ in mine} == {60}
    assert [note for _, _, note in mine][::3] == [f"blinding the items of {owner}" for owner in (ANN, CAT, BEN)]


@pytest.mark.parametrize("variant", ["intersect", "count", "sum", "unite"])
def test_progress_ends_at_its_total_and_blocks_do_not_change_the_result(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = converse(cast(variant))
    monkeypatch.setattr(sessions, "BLOCK", 7)
    monkeypatch.setattr("unseen.protocols.psi.ecdh.sums.VALUED_BLOCK", 3)
    events: list[Event] = []
    pieces = converse(cast(variant), observe=events.append)
    for me in (ANN, BEN):
        done = [event.done for event in events if event.party == me]
        assert done == sorted(done)
        assert done[-1] == next(event.total for event in events if event.party == me)
        assert repr(pieces[me]) == repr(whole[me])
