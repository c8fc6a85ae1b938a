from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayHeader, Dialogue, converse, receive_all, send_array
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi.pairs import MAX_PAIRS, Pairs, pair_up
from unseen.protocols.psi.port import Meeting

NAMES = [PartyId(name) for name in ("clinic", "archive", "bank")]


def meeting_of(me: PartyId, parties: Sequence[PartyId]) -> Meeting:
    return Meeting(me, tuple(party for party in parties if party != me), Prg(bytes(32)), b"session")


def run(counts: Sequence[Sequence[int]], limit: int = MAX_PAIRS) -> dict[PartyId, Pairs]:
    parties = NAMES[: len(counts)]
    dialogues = {
        party: pair_up(np.array(own, np.int64), meeting_of(party, parties), limit=limit)
        for party, own in zip(parties, counts, strict=True)
    }
    return converse(dialogues)


def expected(counts: Sequence[Sequence[int]]) -> list[tuple[int, dict[PartyId, int]]]:
    """Return every pair as its key and what stands in it of each party, one after the other as people would."""
    ordered = sorted(zip(NAMES, counts, strict=False))
    return [
        (key, dict(zip([name for name, _ in ordered], combination, strict=True)))
        for key in range(len(counts[0]))
        for combination in product(*(range(own[key]) for _, own in ordered))
    ]


@given(
    st.integers(0, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(1, 4), min_size=n, max_size=n), min_size=2, max_size=3)
    )
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_all_parties_make_the_same_pairs(counts: list[list[int]]) -> None:
    wanted = expected(counts)
    for party, pairs in run(counts).items():
        assert pairs.keys.dtype == pairs.occurrences.dtype == np.int64
        assert pairs.keys.tolist() == [key for key, _ in wanted]
        assert pairs.occurrences.tolist() == [combination[party] for _, combination in wanted]


def test_no_shared_keys_make_no_pairs() -> None:
    for pairs in run([[], []], limit=1).values():
        assert len(pairs.keys) == len(pairs.occurrences) == 0


def test_the_limit_is_on_all_pairs_together() -> None:
    counts = [[2, 3], [4, 5]]
    assert len(run(counts, limit=23)[NAMES[0]].keys) == 23
    with pytest.raises(DataError, match=r"about 23 pairs, at most 22 .* up to 5 times at archive, 3 times at clinic"):
        run(counts, limit=22)


def test_no_limit_is_above_what_memory_holds() -> None:
    with pytest.raises(DataError, match=f"at most {MAX_PAIRS} are allowed"):
        run([[MAX_PAIRS], [2]], limit=1 << 62)


@pytest.mark.parametrize("made_up", [[1 << 62, 1 << 62], [(1 << 63) - 1, 1]])
def test_made_up_multiplicities_do_not_overflow(made_up: list[int]) -> None:
    with pytest.raises(DataError, match="at most 100 are allowed"):
        run([[4, 4], made_up, made_up], limit=100)


def liar(sent: np.ndarray[Any, Any]) -> Dialogue[Any]:
    """Send this array to the clinic and read what comes back."""
    yield from send_array(NAMES[0], sent)
    yield from receive_all([NAMES[0]], ArrayHeader)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (np.array([1, 0], np.int64), "archive: a shared key occurs 0 times in its list"),
        (np.array([-3, 1], np.int64), "archive: a shared key occurs -3 times in its list"),
        (np.array([1], np.int64), "archive: expected an array of <i8 .*2.*, found <i8"),
        (np.array([1, 1, 1], np.int64), "archive: expected an array"),
        (np.array([1, 1], np.float64), "archive: expected an array of <i8"),
    ],
)
def test_impossible_multiplicities_name_their_sender(sent: np.ndarray[Any, Any], message: str) -> None:
    honest = pair_up(np.array([1, 2]), meeting_of(NAMES[0], NAMES[:2]))
    with pytest.raises(RemoteProtocolError, match=message):
        converse({NAMES[0]: honest, NAMES[1]: liar(sent)})
