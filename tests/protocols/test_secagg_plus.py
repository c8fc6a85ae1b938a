"""``secagg_plus``: exact sums whoever drops out and whenever; what a lying server or client can and cannot do."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import decode, encode_bytes
from unseen.crypto.prg import Prg
from unseen.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import masks
from unseen.protocols.secure_aggregation.drive import rehearse
from unseen.protocols.secure_aggregation.graph import Assumptions
from unseen.protocols.secure_aggregation.keys import sign
from unseen.protocols.secure_aggregation.port import Contribution, Setting, Total
from unseen.protocols.secure_aggregation.roster import SIGNED_KEYS, RosterOf, Terms, as_places
from unseen.protocols.secure_aggregation.secagg_plus import (
    Client,
    Consents,
    Delivery,
    Keys,
    Masked,
    Openings,
    Shares,
    Survivors,
)
from unseen.protocols.secure_aggregation.secagg_plus import Consent as Signed
from unseen.protocols.secure_aggregation.secagg_server import Server

PHASES = (Keys, Shares, Masked, Signed, Openings)
LENGTH = 50
SPARSE = Assumptions(corrupt=0.05)


@dataclass
class Federation:
    """A cohort with its keys and vectors; ``attempt`` makes its randomness another."""

    terms: Terms
    identities: Mapping[PartyId, Ed25519PrivateKey]
    attempt: int = 0

    @classmethod
    def of(
        cls, count: int, *, session: bytes = b"1", model: bytes = b"m", assumptions: Assumptions = SPARSE
    ) -> Federation:
        names = tuple(sorted(PartyId(f"c{index}") for index in range(count)))
        keys = {name: Ed25519PrivateKey.from_private_bytes(name.encode().rjust(32)) for name in names}
        public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
        return cls(Terms(Setting(names, LENGTH, session=session, model=model), public, assumptions), keys)

    @property
    def names(self) -> tuple[PartyId, ...]:
        return self.terms.setting.clients

    def contribution(self, name: PartyId) -> Contribution:
        words = np.frombuffer(Prg(b"x" * 32).derive(name).bytes(4 * LENGTH), np.uint32)
        return Contribution(words, weight=1 + self.names.index(name))

    def client(self, name: PartyId, **changes: Any) -> Client:
        prg = Prg(self.attempt.to_bytes(32, "little")).derive(name)
        arguments = {"contribution": self.contribution(name), "identity": self.identities[name], "prg": prg}
        return Client(self.terms, name, **(arguments | changes))

    def clients(self) -> dict[PartyId, Client]:
        return {name: self.client(name) for name in self.names}

    def check(self, total: Total, left: Iterable[PartyId]) -> None:
        left = sorted(left)
        assert list(total.clients) == left
        assert total.words.tolist() == sum_of(self.contribution(name).words for name in left).tolist()
        assert total.weight == sum(self.contribution(name).weight for name in left)


def sum_of(vectors: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum(list(vectors), axis=0, dtype=np.uint32)


def gone_before(when: Mapping[PartyId, type]) -> Callable[[PartyId, type], bool]:
    return lambda name, kind: when.get(name) is not kind


def talk(federation: Federation, until: type) -> tuple[dict[PartyId, Client], Server, dict[PartyId, Any]]:
    """Run an honest sum until the server is about to send messages of a kind; return the parties and these messages."""
    clients, server = federation.clients(), Server(federation.terms)
    told: Mapping[PartyId, Any] = {}
    while True:
        for name in sorted(server.waiting):
            server.accept(name, clients[name].answer(told[name]) if told else clients[name].begin())
        told = server.advance()
        if isinstance(next(iter(told.values())), until):
            return clients, server, dict(told)


# --- drop-outs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("index", range(5))
def test_any_one_of_five_may_drop_out_at_any_time(phase: type, index: int) -> None:
    federation = Federation.of(5)
    name = federation.names[index]
    total = rehearse(federation.clients(), Server(federation.terms), stays=gone_before({name: phase}))
    has_sent = PHASES.index(phase) > PHASES.index(Masked)
    federation.check(total, [other for other in federation.names if other != name or has_sent])


@pytest.mark.parametrize(("first", "second"), list(product(PHASES, PHASES)))
def test_two_of_seven_may_drop_out_at_any_two_times(first: type, second: type) -> None:
    federation = Federation.of(7)
    when = {federation.names[2]: first, federation.names[5]: second}
    total = rehearse(federation.clients(), Server(federation.terms), stays=gone_before(when))
    early = {name for name, phase in when.items() if PHASES.index(phase) <= PHASES.index(Masked)}
    federation.check(total, set(federation.names) - early)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("count", [3, 6, 7, 9])
def test_a_third_missing_ends_the_sum(phase: type, count: int) -> None:
    federation = Federation.of(count)
    missing = federation.names[: count - federation.terms.setting.quorum + 1]
    server = Server(federation.terms)
    with pytest.raises(PeerUnreachable, match=rf"{phase.__name__}.* at least \d.*{missing[0]}.*new name"):
        rehearse(federation.clients(), server, stays=gone_before(dict.fromkeys(missing, phase)))
    with pytest.raises(LocalProtocolError, match="not known"):
        server.total()
    with pytest.raises(RemoteProtocolError):
        server.accept(federation.names[-1], federation.client(federation.names[-1]).begin())


@given(st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_pattern_gives_the_exact_sum_or_none(data: st.DataObject) -> None:
    federation = Federation.of(data.draw(st.integers(3, 8)))
    when = data.draw(st.dictionaries(st.sampled_from(federation.names), st.sampled_from(PHASES), max_size=4))
    enough = len(federation.names) - len(when) >= federation.terms.setting.quorum
    try:
        total = rehearse(federation.clients(), Server(federation.terms), stays=gone_before(when))
    except PeerUnreachable:
        assert not enough
    else:
        assert enough
        early = {name for name, phase in when.items() if PHASES.index(phase) <= PHASES.index(Masked)}
        federation.check(total, set(federation.names) - early)


@pytest.mark.parametrize("phase", [Shares, Masked, Openings])
def test_sparse_graphs_give_the_exact_sum(phase: type) -> None:
    federation = Federation.of(60)
    missing = federation.names[::9]
    server = Server(federation.terms)
    total = rehearse(federation.clients(), server, stays=gone_before(dict.fromkeys(missing, phase)))
    assert server._roster.graph.degree < 25
    federation.check(total, set(federation.names) - (set() if phase is Openings else set(missing)))


def test_a_neighbourhood_that_is_gone_ends_the_sum_though_the_quorum_is_there() -> None:
    federation = Federation.of(60)
    server = Server(federation.terms)

    def stays(name: PartyId, kind: type) -> bool:
        if kind is not Masked:
            return True
        graph = server._roster.graph
        lost = graph.neighbours(7)[: graph.degree + 2 - graph.threshold]
        return server._roster.members.index(name) not in lost

    with pytest.raises(PeerUnreachable, match=r"hold shares of .* are left, at least"):
        rehearse(federation.clients(), server, stays=stays)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.evidence) for seed in range(2, 60))])
def test_random_patterns_in_large_cohorts(seed: int) -> None:
    """Sparse graphs of up to 200 clients, up to a third gone at random times: the exact sum, or none."""
    rng = np.random.default_rng(seed)
    federation = Federation.of(
        int(rng.integers(51, 201)), assumptions=Assumptions(float(rng.choice([0.01, 0.05, 0.1])))
    )
    missing = rng.choice(federation.names, int(rng.integers(0, len(federation.names) // 3 + 2)), replace=False).tolist()
    when = {PartyId(name): PHASES[int(rng.integers(5))] for name in missing}
    server = Server(federation.terms)
    try:
        total = rehearse(federation.clients(), server, stays=gone_before(when))
    except PeerUnreachable:
        assert len(missing) > len(federation.names) // 10
        with pytest.raises(LocalProtocolError):
            server.total()
    else:
        early = {name for name, phase in when.items() if PHASES.index(phase) <= PHASES.index(Masked)}
        federation.check(total, set(federation.names) - early)


@pytest.mark.parametrize("count", [3, 4, *(pytest.param(count, marks=pytest.mark.evidence) for count in (5, 6))])
def test_all_patterns_in_small_cohorts(count: int) -> None:
    federation = Federation.of(count)
    for pattern in product([None, *PHASES], repeat=count):
        when = {name: phase for name, phase in zip(federation.names, pattern, strict=True) if phase is not None}
        if len(when) > count - federation.terms.setting.quorum + 1:
            continue  # what is lost then is lost with fewer already
        enough = count - len(when) >= federation.terms.setting.quorum
        try:
            total = rehearse(federation.clients(), Server(federation.terms), stays=gone_before(when))
        except PeerUnreachable:
            assert not enough
        else:
            assert enough
            early = {name for name, phase in when.items() if PHASES.index(phase) <= PHASES.index(Masked)}
            federation.check(total, set(federation.names) - early)


# --- honest roles keep to the rules --------------------------------------------------------------------------------


def test_duplicates_and_late_messages_are_refused_with_the_client_named() -> None:
    federation = Federation.of(4)
    clients, server = federation.clients(), Server(federation.terms)
    first, second, third, fourth = federation.names
    keys = {name: client.begin() for name, client in clients.items()}
    for name in (first, second, third):
        server.accept(name, keys[name])
    with pytest.raises(RemoteProtocolError, match=f"{first}.*duplicate"):
        server.accept(first, keys[first])
    with pytest.raises(RemoteProtocolError, match=r"stranger.*takes no part"):
        server.accept(PartyId("stranger"), keys[first])
    told = server.advance()
    with pytest.raises(RemoteProtocolError, match=f"{fourth}.*expected Shares, found Keys.*late"):
        server.accept(fourth, keys[fourth])
    shares = {name: clients[name].answer(told[name]) for name in told}
    with pytest.raises(RemoteProtocolError, match=f"{fourth}.*Shares is refused.*dropped out"):
        server.accept(fourth, shares[first])
    # Refusals have changed nothing.
    for name in told:
        server.accept(name, shares[name])
    assert set(server.advance()) == {first, second, third}


def test_a_client_that_runs_again_sends_the_same_bytes() -> None:
    federation = Federation.of(4)
    name = federation.names[1]
    journals = []
    for _ in range(2):
        clients, server = federation.clients(), Server(federation.terms)
        told: Mapping[PartyId, Any] = {}
        journal = []
        while server.expects is not None:
            for other in sorted(server.waiting):
                answer = clients[other].answer(told[other]) if told else clients[other].begin()
                server.accept(other, answer)
                if other == name:
                    journal.append(encode_bytes(answer))
            told = server.advance()
        journals.append(journal)
    assert len(journals[0]) == 5
    assert journals[0] == journals[1]


def test_another_vector_weight_attempt_or_model_has_other_keys_under_the_same_randomness() -> None:
    federation = Federation.of(4)
    name = federation.names[0]
    base = federation.contribution(name)
    others = [
        federation.client(name, contribution=Contribution(base.words + np.uint32(1), base.weight)),
        federation.client(name, contribution=Contribution(base.words, base.weight + 1)),
        Federation.of(4, session=b"2").client(name),
        Federation.of(4, model=b"n").client(name),
        Federation.of(5).client(name),
    ]
    keys = [client.begin() for client in [federation.client(name), federation.client(name), *others]]
    assert keys[0].mask_key.tobytes() == keys[1].mask_key.tobytes()
    for kind in ("mask_key", "cipher_key"):
        assert len({getattr(each, kind).tobytes() for each in keys}) == len(keys) - 1


def test_a_client_begins_once_and_keeps_its_secrets() -> None:
    federation = Federation.of(3)
    client = federation.client(federation.names[0])
    client.begin()
    with pytest.raises(LocalProtocolError, match="twice"):
        client.begin()
    assert "secret" in repr(client)
    with pytest.raises(UsageError, match="pickled"):
        pickle.dumps(client)


def test_an_identity_has_to_be_the_known_one() -> None:
    federation = Federation.of(3)
    first, second, _ = federation.names
    with pytest.raises(UsageError, match=first):
        federation.client(first, identity=federation.identities[second])
    with pytest.raises(UsageError, match=second):
        Terms(federation.terms.setting, {first: bytes(32)})


def test_masks_hide_a_vector_until_all_but_the_pair_of_two_honest_clients_are_known() -> None:
    federation = Federation.of(5)
    clients, server, told = talk(federation, Delivery)
    sent = {name: clients[name].answer(told[name]) for name in federation.names}
    honest = federation.names[:2]
    words = {}
    for name in honest:
        client, roster = clients[name], server._roster
        view = roster.view(range(5))
        words[name] = sent[name].words.view(np.uint32).copy()
        known = [roster.own_mask(client._seed, view)]
        pairs = {peer: roster.pair_mask(client._mask, client._place, peer, view) for peer in (2, 3, 4)}
        masks.apply(words[name], np.zeros(1, np.uint64), [], [*known, *pairs.values()])
        assert not np.any(words[name] == federation.contribution(name).words)
    # What is left is the mask of the pair: it cancels in their sum, and nowhere else.
    pair = sum_of(words.values())
    assert pair.tolist() == sum_of(federation.contribution(name).words for name in honest).tolist()


# --- a server that lies --------------------------------------------------------------------------------------------


def test_the_server_cannot_swap_keys() -> None:
    federation = Federation.of(4)
    clients, _, told = talk(federation, RosterOf)
    victim = federation.names[2]
    made_up = told[victim].keys.copy()
    made_up[0, 1] = 9
    with pytest.raises(RemoteProtocolError, match=f"{federation.names[0]}: its keys are not signed"):
        clients[victim].answer(replace(told[victim], keys=made_up))
    with pytest.raises(RemoteProtocolError, match="expected nothing more"):
        clients[victim].answer(told[victim])


def test_the_server_cannot_sign_for_a_client_with_another_ones_signature() -> None:
    federation = Federation.of(4)
    clients, _, told = talk(federation, RosterOf)
    roster = told[federation.names[3]]
    keys, signatures = roster.keys.copy(), roster.signatures.copy()
    keys[0], signatures[0] = keys[1], signatures[1]
    with pytest.raises(RemoteProtocolError, match=f"{federation.names[0]}: its keys are not signed"):
        clients[federation.names[3]].answer(replace(roster, keys=keys, signatures=signatures))


@pytest.mark.parametrize(
    "changes", [{"session": b"2"}, {"model": b"another model"}, {"assumptions": Assumptions(0.01)}]
)
def test_keys_of_another_attempt_model_or_agreement_are_refused(changes: dict[str, Any]) -> None:
    federation, other = Federation.of(4), Federation.of(4, **changes)
    _, _, told = talk(other, RosterOf)
    victim = federation.client(federation.names[0])
    victim.begin()
    with pytest.raises(RemoteProtocolError, match="not signed by its identity for this sum"):
        victim.answer(told[federation.names[0]])


def test_a_client_that_was_told_of_another_model_stays_out() -> None:
    federation, other = Federation.of(4), Federation.of(4, model=b"made for c0")
    with pytest.raises(RemoteProtocolError, match="c0: its keys are not signed"):
        Server(federation.terms).accept(PartyId("c0"), other.client(PartyId("c0")).begin())


def test_rosters_of_an_earlier_run_are_refused() -> None:
    federation = Federation.of(4)
    _, _, told = talk(federation, RosterOf)
    name = federation.names[0]
    again = replace(federation, attempt=1).client(name)
    again.begin()
    with pytest.raises(RemoteProtocolError, match="belong to another attempt"):
        again.answer(told[name])


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ([0, 1], "at least 3"),
        ([1, 2, 3], "without c0"),
        ([1, 0, 2], "ascending"),
        ([0, 1, 9], "number 9 of 4"),
        ([0, 0, 1, 2], "ascending"),
    ],
)
def test_rosters_that_cannot_be_are_refused(members: list[int], wrong: str) -> None:
    federation = Federation.of(4)
    clients, _, told = talk(federation, RosterOf)
    roster = told[federation.names[0]]
    rows = [min(member, 3) for member in members]
    made = RosterOf(as_places(members), roster.keys[rows], roster.signatures[rows])
    with pytest.raises(RemoteProtocolError, match=wrong):
        clients[federation.names[0]].answer(made)


def test_clients_with_other_survivors_in_mind_do_not_open_anything() -> None:
    """The attack of Bonawitz and others, section 6.2: half of them are told that the victim is gone."""
    federation = Federation.of(7)
    clients, _, _ = talk(federation, Survivors)
    everybody, without = as_places(range(7)), as_places(range(1, 7))
    half = federation.names[1:4]
    lists = {name: Survivors(without if name in half else everybody) for name in federation.names}
    signed = {name: clients[name].answer(lists[name]) for name in federation.names}
    signatures = np.stack([signed[name].signature for name in federation.names])
    with pytest.raises(RemoteProtocolError, match=f"{half[0]} has not signed the survivors"):
        clients[federation.names[0]].answer(Consents(everybody, signatures))
    # Each half alone is no quorum.
    with pytest.raises(RemoteProtocolError, match="names 4 clients, at least 5"):
        clients[federation.names[4]].answer(Consents(as_places([0, 4, 5, 6]), signatures[[0, 4, 5, 6]]))
    with pytest.raises(RemoteProtocolError, match="names 3 clients, at least 5"):
        clients[half[0]].answer(Consents(as_places([1, 2, 3]), signatures[1:4]))


def test_one_client_never_opens_both_kinds_of_shares() -> None:
    federation = Federation.of(5)
    clients, _, told = talk(federation, Consents)
    name = federation.names[4]
    opened = clients[name].answer(told[name])
    # All survive: of everybody it opens the seed's share, of nobody the mask key's.
    for owner, share in zip(opened.owners.tolist(), opened.shares, strict=True):
        of_key, of_seed = clients[name]._held[owner]
        assert share.tobytes() == of_seed != of_key
    with pytest.raises(RemoteProtocolError, match="expected nothing more"):
        clients[name].answer(Survivors(as_places([1, 2, 3, 4])))
    with pytest.raises(RemoteProtocolError, match="expected nothing more"):
        clients[name].answer(told[name])


def test_survivors_are_asked_for_once() -> None:
    federation = Federation.of(5)
    clients, _, told = talk(federation, Survivors)
    name = federation.names[4]
    clients[name].answer(told[name])
    with pytest.raises(RemoteProtocolError, match="expected Consents, found Survivors"):
        clients[name].answer(Survivors(as_places([1, 2, 3, 4])))


@pytest.mark.parametrize(
    ("members", "wrong"), [([0, 1, 2], "at least 4"), ([1, 2, 3, 4], "without c0"), ([0, 1, 2, 7], "number 7")]
)
def test_survivors_that_cannot_be_are_refused(members: list[int], wrong: str) -> None:
    federation = Federation.of(5)
    clients, _, _ = talk(federation, Survivors)
    with pytest.raises(RemoteProtocolError, match=wrong):
        clients[federation.names[0]].answer(Survivors(as_places(members)))


def test_survivors_who_had_dropped_out_before_are_refused() -> None:
    federation = Federation.of(7)
    clients, _, told = talk(federation, Delivery)
    name = federation.names[0]
    clients[name].answer(Delivery(as_places(range(6)), told[name].sealed[:5]))
    with pytest.raises(RemoteProtocolError, match="not there before"):
        clients[name].answer(Survivors(as_places(range(7))))


def test_consents_of_another_attempt_do_not_count() -> None:
    federation = Federation.of(4)
    _, _, old = talk(federation, Consents)
    clients, _, told = talk(replace(federation, attempt=1), Consents)
    name = federation.names[0]
    assert old[name].members.tolist() == told[name].members.tolist()
    with pytest.raises(RemoteProtocolError, match="has not signed"):
        clients[name].answer(old[name])


def test_clients_that_were_told_different_second_lists_do_not_fit_together() -> None:
    """Masks are bound to U2, so that those of a pair cancel only if both were told the same; nor do consents count."""
    federation = Federation.of(7)
    clients, server, told = talk(federation, Delivery)
    alone = federation.names[0]
    sent = {name: clients[name].answer(told[name]) for name in federation.names[1:]}
    sent[alone] = clients[alone].answer(Delivery(as_places(range(6)), told[alone].sealed[:5]))
    same, other = server._roster.view(range(7)), server._roster.view(range(6))
    pair = [server._roster.pair_mask(clients[alone]._mask, 0, 1, view).bytes(16) for view in (same, other)]
    assert pair[0] != pair[1]
    for name in federation.names:
        server.accept(name, sent[name])
    survivors = server.advance()
    with pytest.raises(RemoteProtocolError, match="not there before"):
        clients[alone].answer(survivors[alone])


def test_shares_that_the_server_exchanges_are_of_no_use() -> None:
    federation = Federation.of(5)
    clients, _, told = talk(federation, Delivery)
    name = federation.names[0]
    sealed = told[name].sealed[[1, 0, 2, 3]]
    clients[name].answer(replace(told[name], sealed=sealed))
    assert sorted(clients[name]._held) == [0, 3, 4]


def test_shares_that_the_server_sends_back_are_of_no_use() -> None:
    """Keys are bound to their direction; else one key would seal two messages under one nonce."""
    federation = Federation.of(4)
    clients, server, told = talk(federation, RosterOf)
    name, peer = federation.names[:2]
    shares = {other: clients[other].answer(told[other]) for other in federation.names}
    for other in federation.names:
        server.accept(other, shares[other])
    delivery: Any = server.advance()[name]
    sealed = delivery.sealed.copy()
    sealed[0] = shares[name].sealed[0]
    assert server._roster.members.index(peer) == 1
    clients[name].answer(replace(delivery, sealed=sealed))
    assert sorted(clients[name]._held) == [0, 2, 3]


@pytest.mark.parametrize("kind", [RosterOf, Delivery, Survivors, Consents])
def test_messages_out_of_turn_end_a_clients_part(kind: type) -> None:
    federation = Federation.of(4)
    clients, _, _ = talk(federation, kind)
    name = federation.names[0]
    with pytest.raises(RemoteProtocolError, match=f"expected {kind.__name__}, found Keys"):
        clients[name].answer(federation.client(name).begin())


def test_too_few_neighbours_are_refused() -> None:
    federation = Federation.of(5)
    clients, _, told = talk(federation, Delivery)
    with pytest.raises(RemoteProtocolError, match="at least 4"):
        clients[federation.names[0]].answer(Delivery(as_places([0, 1, 2]), told[federation.names[0]].sealed[:2]))
    with pytest.raises(RemoteProtocolError, match="too few neighbours"):
        clients[federation.names[1]].answer(Delivery(as_places([0, 2, 3, 4]), told[federation.names[1]].sealed))
    with pytest.raises(RemoteProtocolError, match="shares of 4 neighbours, found 3"):
        clients[federation.names[2]].answer(
            replace(told[federation.names[2]], sealed=told[federation.names[2]].sealed[:3])
        )


# --- clients that lie ----------------------------------------------------------------------------------------------


def test_keys_of_low_order_are_refused() -> None:
    federation = Federation.of(3)
    name = federation.names[0]
    honest = federation.client(name).begin()
    keys = honest.cipher_key.tobytes(), bytes(32)
    signature = sign(federation.identities[name], SIGNED_KEYS, federation.terms.context, name.encode(), *keys)
    weak = Keys(*(np.frombuffer(part, np.uint8) for part in (*keys, signature)))
    with pytest.raises(RemoteProtocolError, match=f"{name}: its key is of low order"):
        Server(federation.terms).accept(name, weak)


def test_keys_of_somebody_else_are_refused() -> None:
    federation = Federation.of(3)
    first, second, _ = federation.names
    server = Server(federation.terms)
    honest = federation.client(first).begin()
    server.accept(first, honest)
    with pytest.raises(RemoteProtocolError, match=f"{second}: its keys are not signed"):
        server.accept(second, honest)
    keys = honest.cipher_key.tobytes(), honest.mask_key.tobytes()
    signature = sign(federation.identities[second], SIGNED_KEYS, federation.terms.context, second.encode(), *keys)
    copied = Keys(*(np.frombuffer(part, np.uint8) for part in (*keys, signature)))
    with pytest.raises(RemoteProtocolError, match=f"{second}: its keys are not fresh"):
        server.accept(second, copied)


def test_vectors_of_another_size_are_refused() -> None:
    federation = Federation.of(3)
    clients, server, told = talk(federation, Delivery)
    name = federation.names[0]
    masked = clients[name].answer(told[name])
    with pytest.raises(RemoteProtocolError, match=f"{name}: expected a vector of 200 bytes, found 196"):
        server.accept(name, replace(masked, words=masked.words[:-4]))


def test_signatures_of_other_survivors_are_refused() -> None:
    federation = Federation.of(4)
    clients, server, _ = talk(federation, Survivors)
    name = federation.names[0]
    signed = clients[name].answer(Survivors(as_places([0, 1, 2])))
    with pytest.raises(RemoteProtocolError, match=f"{name}: it has signed other survivors"):
        server.accept(name, signed)


def test_wrong_numbers_of_shares_are_refused() -> None:
    federation = Federation.of(4)
    clients, server, told = talk(federation, RosterOf)
    name = federation.names[0]
    shares = clients[name].answer(told[name])
    with pytest.raises(RemoteProtocolError, match=f"{name}: expected shares for 3 neighbours, found 2"):
        server.accept(name, Shares(shares.sealed[:2]))


def test_shares_of_strangers_are_not_opened() -> None:
    federation = Federation.of(4)
    clients, server, told = talk(federation, Consents)
    name = federation.names[0]
    opened = clients[name].answer(told[name])
    with pytest.raises(RemoteProtocolError, match=f"{name}: it opens shares"):
        server.accept(name, Openings(opened.owners, opened.shares[:2]))
    with pytest.raises(RemoteProtocolError, match=f"{name}: a list names client number 8"):
        server.accept(name, Openings(as_places([8]), opened.shares[:1]))


def test_wrong_shares_of_a_client_that_is_gone_are_found_out() -> None:
    federation = Federation.of(4)
    clients, server, told = talk(federation, Delivery)
    lost = federation.names[3]
    for name in federation.names[:3]:
        server.accept(name, clients[name].answer(told[name]))
    told = dict(server.advance())
    for name in told:
        server.accept(name, clients[name].answer(told[name]))
    told = dict(server.advance())
    for name in told:
        opened = clients[name].answer(told[name])
        shares = opened.shares.copy()
        shares[-1, 5] ^= name == federation.names[0]  # the lowest three bits of a scalar do not count
        server.accept(name, replace(opened, shares=shares))
    with pytest.raises(RemoteProtocolError, match=f"of {lost} (do not give its mask key|are wrong)"):
        server.advance()


@given(
    st.binary(max_size=200), st.sampled_from([Keys, RosterOf, Shares, Delivery, Masked, Survivors, Consents, Openings])
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_malformed_frames_are_refused(noise: bytes, kind: type) -> None:
    name = kind.wire_name.encode()  # type: ignore[attr-defined]
    frame = b"UN\x01" + bytes([len(name)]) + name + b"\x01\x00" + noise
    with pytest.raises(RemoteProtocolError):
        decode(kind, frame + b"\xff" * 8)
