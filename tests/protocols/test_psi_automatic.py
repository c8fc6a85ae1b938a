"""Which scheme an intersection takes if nobody says so, and that both parties take the same one."""

from typing import Any

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Receive, Send, converse
from unseen.errors import PermissionDenied, RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi import automatic, vole
from unseen.protocols.psi.automatic import Choice, Size, choose, intersect, points
from unseen.protocols.psi.port import Items, Meeting

ANN, BEN, CAT = PartyId("ann"), PartyId("ben"), PartyId("cat")


@pytest.mark.parametrize(
    ("protocol", "sizes", "expected"),
    [
        ("auto", (10, 10), "ecdh"),
        ("auto", (automatic.SMALL, 0), "ecdh"),
        ("auto", (0, automatic.SMALL + 1), "vole"),
        ("auto", (10**6, 10**6, 10**6), "vole"),
        ("auto", (9, 9, 9), "ecdh"),
        ("ecdh", (10**6, 10**6), "ecdh"),
        ("vole", (1, 1), "vole"),
    ],
)
def test_choice(protocol: Choice, sizes: tuple[int, ...], expected: str) -> None:
    assert choose(protocol, dict(zip((ANN, BEN, CAT), sizes, strict=False))) == expected


def items(first: int, last: int) -> Items:
    return Items.of(f"person-{number}".encode() for number in range(first, last))


def dialogue(me: PartyId, peers: tuple[PartyId, ...], own: Items, protocol: Choice = "auto") -> Dialogue[Any]:
    return intersect(own, Meeting(me, peers, Prg(bytes(32)).derive(me), b"c"), protocol=protocol)


def schemes(cast: dict[PartyId, Dialogue[Any]]) -> set[str]:
    """Return what the messages of a conversation are called, up to the slash."""
    seen: set[str] = set()

    def noted(inner: Dialogue[Any]) -> Dialogue[Any]:
        answer: Any = None
        while True:
            try:
                effect = inner.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send):
                seen.add(type(effect.message).wire_name.partition("/")[0])  # type: ignore[attr-defined]  # a message
            answer = yield effect

    converse({me: noted(inner) for me, inner in cast.items()})
    return {name for name in seen if "." in name}


@pytest.mark.parametrize("small", [5, 60])
def test_both_sides_of_the_limit_align(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(automatic, "SMALL", small)
    ann, ben = items(0, 50), items(45, 52)
    results = converse({ANN: dialogue(ANN, (BEN,), ann), BEN: dialogue(BEN, (ANN,), ben)})
    np.testing.assert_array_equal(results[ANN].known(), results[BEN].known() + 45)
    cast = {ANN: dialogue(ANN, (BEN,), ann), BEN: dialogue(BEN, (ANN,), ben)}
    assert schemes(cast) == {"psi_join.ecdh" if small == 60 else "psi_join.vole"}


@pytest.mark.parametrize("small", [5, 60])
def test_three_parties(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(automatic, "SMALL", small)
    everybody = (ANN, BEN, CAT)
    found = schemes({me: dialogue(me, tuple(p for p in everybody if p != me), items(0, 9)) for me in everybody})
    assert found == ({"psi_join.ecdh"} if small == 60 else {"psi_join.vole", "psi_join.star"})


def test_a_negative_size_is_refused() -> None:
    def liar() -> Dialogue[Any]:
        yield Send(ANN, Size(-3))

    with pytest.raises(RemoteProtocolError, match="ben: a set has -3 items"):
        converse({ANN: dialogue(ANN, (BEN,), items(0, 4)), BEN: liar()})


def test_a_size_that_is_not_kept_is_refused() -> None:
    """Otherwise a peer could choose the scheme by a size that it does not have."""

    def liar() -> Dialogue[Any]:
        yield Send(ANN, Size(10**6))
        inner = vole.intersect(items(0, 9), Meeting(BEN, (ANN,), Prg(bytes(32)), b"c"))
        yield Receive(ANN, Size)
        return (yield from inner)

    with pytest.raises(RemoteProtocolError, match="ben: said it has 1000000 items, then brought 9"):
        converse({ANN: dialogue(ANN, (BEN,), items(0, 4)), BEN: liar()})


def test_a_peer_that_only_says_that_its_list_is_long_does_not_choose_the_scheme() -> None:
    """By the other one, four ids would give it answers about 1,530."""

    def liar() -> Dialogue[Any]:
        yield Send(ANN, Size(5000))

    meeting = Meeting(ANN, (BEN,), Prg(bytes(32)).derive(ANN), b"c", None, {BEN: 4})
    with pytest.raises(PermissionDenied, match="ben brings 5000 items, and ann evaluates at most 4"):
        converse({ANN: intersect(items(0, 4), meeting), BEN: liar()})


@pytest.mark.parametrize(
    ("protocol", "count", "longest", "expected"),
    [
        ("ecdh", 4, 10**6, 4),
        ("auto", 4, 1000, 4),
        ("auto", 4, 1001, 1530),
        ("auto", 2000, 100, 2797),
        ("vole", 4, 4, 1530),
    ],
)
def test_what_a_party_can_come_to_test_depends_on_the_scheme(
    protocol: Choice, count: int, longest: int, expected: int
) -> None:
    assert points(protocol, count, longest) == expected
    # Whoever then says it has less, or meets a shorter list, has no more of it.
    assert all(points(protocol, fewer, longest) <= expected for fewer in range(0, count, 7))
