"""Sums among peers: what travels says nothing, and who takes part in another sum is found out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.codec import decode, encode_bytes
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Receive, Send, converse
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.keys import derive_key
from unseen.protocols.secure_aggregation.port import Contribution, PeerSum, Setting, Total
from unseen.protocols.secure_aggregation.ring import Key, Piece, _draw_key, ring_all_reduce
from unseen.protocols.secure_aggregation.shares import AdditiveShares, PartSum, Rest, Seed

NAMES = tuple(PartyId(name) for name in ("a", "b", "c", "d"))
LENGTH = 1000
SETTING = Setting(NAMES, LENGTH, session=b"1")
SCHEMES = [AdditiveShares(2), AdditiveShares(4), ring_all_reduce]
Sent = list[tuple[PartyId, PartyId, Any]]


def contribution(name: PartyId) -> Contribution:
    return Contribution(np.full(LENGTH, ord(name), np.uint32), weight=ord(name))


def prg(name: PartyId) -> Prg:
    return Prg(name.encode().rjust(32))


def tapped(me: PartyId, dialogue: Dialogue[Total], sent: Sent) -> Generator[Any, Any, Total]:
    """Play a dialogue, and take note of what it sends."""
    answer = None
    try:
        while True:
            effect = dialogue.send(answer)
            if isinstance(effect, Send):
                kind = type(effect.message)
                sent.append((me, effect.peer, decode(kind, encode_bytes(effect.message))))
            answer = yield effect
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def transcript(scheme: PeerSum) -> Sent:
    sent: Sent = []
    converse({name: tapped(name, scheme(name, contribution(name), SETTING, prg(name)), sent) for name in NAMES})
    return sent


def looks_random(data: np.ndarray) -> bool:
    bits = np.unpackbits(data)
    return bool(abs(bits.mean() - 0.5) < 4 / np.sqrt(len(bits)))


def test_shares_are_random_and_so_are_the_committees_sums() -> None:
    vectors = [each for _, _, each in transcript(AdditiveShares(3)) if isinstance(each, Rest | PartSum)]
    assert len(vectors) == 1 + 9  # members keep their own rest; three members tell three others
    assert all(looks_random(each.words) for each in vectors)
    assert not looks_random(contribution(NAMES[0]).words.view(np.uint8))


def test_all_shares_but_one_say_nothing() -> None:
    """A peer's shares sum to its vector; without any one of them, what is left is random."""
    # d is in no committee of three: all its shares travel.
    outgoing = [each for sender, _, each in transcript(AdditiveShares(3)) if sender == "d"]
    rest = next(each for each in outgoing if isinstance(each, Rest))
    seeds = [each for each in outgoing if isinstance(each, Seed)]
    streams = []
    for each in seeds:
        words = np.empty(LENGTH, np.uint32)
        Prg(each.seed.tobytes()).derive("additive_shares/share", each.context.tobytes(), b"d").fill(
            words.view(np.uint8)
        )
        streams.append(words)
    assert (rest.words.view(np.uint32) + streams[0] + streams[1] == contribution(NAMES[3]).words).all()
    assert looks_random((rest.words.view(np.uint32) + streams[0]).view(np.uint8))
    assert looks_random((streams[0] + streams[1]).view(np.uint8))


def test_members_take_turns_in_getting_a_whole_vector() -> None:
    receivers = [to for _, to, each in transcript(AdditiveShares(2)) if isinstance(each, Rest)]
    assert sorted(receivers) == ["a", "b"]  # a's own stays at a, b's at b


def test_partial_sums_on_the_ring_are_random_until_the_last() -> None:
    pieces = [each for sender, _, each in transcript(ring_all_reduce) if sender == "a" and isinstance(each, Piece)]
    assert len(pieces) == 2 * (len(NAMES) - 1)
    assert all(looks_random(each.words) for each in pieces[:3])
    total = sum(map(ord, NAMES))
    assert all((each.words.view(np.uint32) == total).all() for each in pieces[3:])


def test_masks_on_the_ring_follow_from_what_two_peers_agree_on() -> None:
    """The first piece of a is its vector with three masks, made here from the others' secret keys."""
    sent = transcript(ring_all_reduce)
    first = next(each for sender, _, each in sent if sender == "a" and isinstance(each, Piece)).words.view(np.uint32)
    public = {sender: each.public.tobytes() for sender, _, each in sent if isinstance(each, Key)}
    expected = contribution(NAMES[0]).words[: LENGTH // 4].copy()
    for peer in NAMES[1:]:
        key = _draw_key(peer, contribution(peer), SETTING, prg(peer))
        assert key.public == public[peer]
        ends = b"a", public["a"], peer.encode(), public[peer]
        agreed = key.agree(public["a"], "a")
        stream = Prg(derive_key(agreed, SETTING.context, b"unseen/ring_sum/1/mask", *ends)).bytes(LENGTH)
        expected += np.frombuffer(stream, np.uint32)
    assert first.tolist() == expected.tolist()


def test_the_ring_carries_two_vectors_a_peer() -> None:
    pieces = [each for sender, _, each in transcript(ring_all_reduce) if sender == "b" and isinstance(each, Piece)]
    assert sum(each.words.nbytes for each in pieces) == 2 * 3 * LENGTH // 4 * 4


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "changes", [{"session": b"2"}, {"model": b"x"}, {"length": LENGTH - 1}, {"bits": 31}, {"clients": NAMES[:3]}]
)
def test_a_peer_in_another_sum_is_found_out(scheme: PeerSum, changes: dict[str, Any]) -> None:
    other = replace(SETTING, **changes)
    dialogues = {}
    for name in NAMES:
        setting = other if name == "b" else SETTING
        words = np.zeros(setting.length, np.uint32)
        dialogues[name] = scheme(name, Contribution(words), setting, prg(name))
    if scheme == AdditiveShares(4) and len(other.clients) < 4:
        with pytest.raises(UsageError, match="committee"):
            converse(dialogues)
        return
    with pytest.raises(RemoteProtocolError, match="expected a sum with the same peers"):
        converse(dialogues)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strangers_are_refused(scheme: PeerSum) -> None:
    with pytest.raises(UsageError, match="z"):
        next(scheme(PartyId("z"), contribution(NAMES[0]), SETTING, prg(NAMES[0])))


@pytest.mark.parametrize("committee", [0, 1, 5])
def test_a_committee_has_two_members_or_more(committee: int) -> None:
    with pytest.raises(UsageError, match="committee of 2"):
        next(AdditiveShares(committee)(NAMES[0], contribution(NAMES[0]), SETTING, prg(NAMES[0])))


def test_another_vector_has_other_seeds_and_masks_under_the_same_randomness() -> None:
    for scheme, kind, read in (
        (AdditiveShares(3), Seed, lambda each: each.seed.tobytes()),
        (ring_all_reduce, Key, lambda each: each.public.tobytes()),
    ):
        found = []
        for vector in (contribution(NAMES[0]), contribution(NAMES[0]), contribution(NAMES[1])):
            dialogue = scheme("a", vector, SETTING, prg(NAMES[0]))
            effect = next(dialogue)
            while not (isinstance(effect, Send) and isinstance(effect.message, kind)):
                effect = dialogue.send(None)
            found.append(read(effect.message))
        assert found[0] == found[1] != found[2]


def test_pieces_of_another_size_or_with_large_words_are_refused() -> None:
    setting = Setting(NAMES, 4, bits=20)

    def evil(piece: np.ndarray) -> Dialogue[Total]:
        """Play d, which sends bad pieces to a."""
        dialogue = ring_all_reduce(NAMES[3], Contribution(np.zeros(4, np.uint32)), setting, prg(NAMES[3]))
        answer = None
        while True:
            effect = dialogue.send(answer)
            if isinstance(effect, Send) and isinstance(effect.message, Piece):
                effect = Send(effect.peer, Piece(piece))
            answer = yield effect

    for piece, wrong in ((np.zeros(8, np.uint8), "d: expected a piece of 4 bytes, found 8"),
                         (np.full(4, 255, np.uint8), "d: a piece holds words of more than 20 bits")):  # fmt: skip
        honest = {
            name: ring_all_reduce(name, Contribution(np.zeros(4, np.uint32)), setting, prg(name)) for name in NAMES[:3]
        }
        with pytest.raises(RemoteProtocolError, match=wrong):
            converse({**honest, NAMES[3]: evil(piece)})


def test_a_peer_waits_for_nobody_before_it_has_sent() -> None:
    """So that no order of peers can lock up: the first effects are sends to every other peer that needs one."""
    for scheme in (AdditiveShares(4), ring_all_reduce):
        dialogue = scheme(NAMES[1], contribution(NAMES[1]), SETTING, prg(NAMES[1]))
        effects = [next(dialogue)]
        while not isinstance(effects[-1], Receive):
            effects.append(dialogue.send(None))
        assert [effect.peer for effect in effects[:-1]] == ["a", "c", "d"]
