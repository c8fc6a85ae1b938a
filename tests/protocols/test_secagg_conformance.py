"""What every scheme for secure aggregation has to do, with a server or among peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, converse
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import plain, secagg_plus
from unseen.protocols.secure_aggregation.drive import client_side, rehearse, server_side
from unseen.protocols.secure_aggregation.port import Contribution, PeerSum, Setting, Total
from unseen.protocols.secure_aggregation.ring import ring_all_reduce
from unseen.protocols.secure_aggregation.roster import Terms
from unseen.protocols.secure_aggregation.secagg_server import Server
from unseen.protocols.secure_aggregation.shares import AdditiveShares

SERVER = PartyId("server")
Contributions = Mapping[PartyId, Contribution]
Scheme = Callable[[Contributions, Setting], dict[PartyId, Total]]


def with_server(clients: Mapping[PartyId, Dialogue[None]], server: Dialogue[Total]) -> dict[PartyId, Total]:
    found = converse({**clients, SERVER: server})
    return {SERVER: found[SERVER]}


def plain_scheme(contributions: Contributions, setting: Setting) -> dict[PartyId, Total]:
    roles = {name: plain.Client(setting, each, unprotected=True) for name, each in contributions.items()}
    clients = {name: client_side(role, SERVER) for name, role in roles.items()}
    return with_server(clients, server_side(plain.Server(setting, unprotected=True)))


def masked_scheme(contributions: Contributions, setting: Setting) -> dict[PartyId, Total]:
    keys = {name: Ed25519PrivateKey.from_private_bytes(name.encode().rjust(32)) for name in setting.clients}
    terms = Terms(setting, {name: key.public_key().public_bytes_raw() for name, key in keys.items()})
    roles = {
        name: secagg_plus.Client(terms, name, each, keys[name], Prg(name.encode().rjust(32)))
        for name, each in contributions.items()
    }
    clients = {name: client_side(role, SERVER) for name, role in roles.items()}
    return with_server(clients, server_side(Server(terms)))


def among_peers(scheme: PeerSum) -> Scheme:
    def run(contributions: Contributions, setting: Setting) -> dict[PartyId, Total]:
        return converse(
            {name: scheme(name, each, setting, Prg(name.encode().rjust(32))) for name, each in contributions.items()}
        )

    return run


SCHEMES: dict[str, Scheme] = {
    "plain": plain_scheme,
    "secagg_plus": masked_scheme,
    "shares_of_two": among_peers(AdditiveShares(2)),
    "shares_of_three": among_peers(AdditiveShares(3)),
    "ring": among_peers(ring_all_reduce),
}


@pytest.fixture(params=sorted(SCHEMES))
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


def cohort(count: int) -> tuple[PartyId, ...]:
    return tuple(sorted(PartyId(f"p{index}") for index in range(count)))


def contributions_of(setting: Setting, seed: int = 1) -> dict[PartyId, Contribution]:
    prg = Prg(seed.to_bytes(32, "little"))
    mask = np.uint64(setting.modulus_mask)
    made = {}
    for index, name in enumerate(setting.clients):
        words = (prg.derive(name).words(setting.length) & mask).astype(setting.dtype)
        made[name] = Contribution(words, weight=(1 << 63) + index if index < 2 else index)
    return made


def expected(contributions: Contributions, setting: Setting) -> tuple[list[int], int]:
    """The sum in Python's integers."""
    words = sum(each.words.astype(object) for each in contributions.values()) % (1 << setting.bits)
    return list(words), sum(each.weight for each in contributions.values()) % (1 << 64)


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize(("length", "bits"), [(1, 1), (35_001, 16), (2, 20), (70_001, 32), (33, 33), (1000, 64)])
def test_everybody_who_is_told_gets_the_exact_sum(scheme: Scheme, count: int, length: int, bits: int) -> None:
    setting = Setting(cohort(count), length, bits)
    contributions = contributions_of(setting)
    words, weight = expected(contributions, setting)
    totals = scheme(contributions, setting)
    assert totals
    for total in totals.values():
        assert total.words.tolist() == words
        assert total.words.dtype == setting.dtype
        assert total.weight == weight
        assert total.clients == setting.clients


def test_contributions_are_not_changed(scheme: Scheme) -> None:
    setting = Setting(cohort(3), 100)
    contributions = contributions_of(setting)
    for each in contributions.values():
        each.words.setflags(write=False)
    scheme(contributions, setting)


def test_the_same_randomness_gives_the_same_sum_again(scheme: Scheme) -> None:
    setting = Setting(cohort(3), 10)
    first, second = (scheme(contributions_of(setting), setting) for _ in range(2))
    assert [total.words.tolist() for total in first.values()] == [total.words.tolist() for total in second.values()]


@pytest.mark.parametrize(
    ("words", "weight", "wrong"),
    [
        (np.zeros(9, np.uint32), 1, "10 words"),
        (np.zeros(10, np.uint64), 1, "uint32"),
        (np.zeros((10, 1), np.uint32), 1, "10 words"),
        (np.zeros(10, np.uint32), -1, "weight"),
        (np.zeros(10, np.uint32), 1 << 64, "weight"),
        (np.full(10, 1 << 20, np.uint32), 1, "20 bits"),
    ],
)
def test_contributions_that_do_not_suit_are_refused(scheme: Scheme, words: object, weight: int, wrong: str) -> None:
    setting = Setting(cohort(3), 10, 20)
    contributions = contributions_of(setting)
    contributions[setting.clients[1]] = Contribution(words, weight)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=wrong):
        scheme(contributions, setting)


def test_contributions_do_not_print() -> None:
    assert "12345" not in repr(Contribution(np.full(3, 12345, np.uint32), weight=12345))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_sum_has_three_contributors_or_more(count: int) -> None:
    with pytest.raises(UsageError, match=f"3 to .* found {count}"):
        Setting(cohort(count), 1)


@pytest.mark.parametrize(
    ("clients", "length", "bits"),
    [
        (("b", "a", "c"), 1, 32),
        (("a", "a", "b", "c"), 1, 32),
        (("a", "b", "c"), 0, 32),
        (("a", "b", "c"), 1, 0),
        (("a", "b", "c"), 1, 65),
    ],
)
def test_settings_that_cannot_be_are_refused(clients: tuple[str, ...], length: int, bits: int) -> None:
    with pytest.raises(UsageError):
        Setting(tuple(map(PartyId, clients)), length, bits)


def test_plain_sums_have_to_be_labelled() -> None:
    setting = Setting(cohort(3), 1)
    with pytest.raises(UsageError, match="protects nothing"):
        plain.Server(setting)
    with pytest.raises(UsageError, match="protects nothing"):
        plain.Client(setting, Contribution(np.zeros(1, np.uint32)))


def test_plain_sums_go_on_without_those_that_dropped_out() -> None:
    setting = Setting(cohort(5), 10)
    contributions = contributions_of(setting)
    roles = {name: plain.Client(setting, each, unprotected=True) for name, each in contributions.items()}
    left = setting.clients[2:]
    total = rehearse(roles, plain.Server(setting, unprotected=True), stays=lambda name, kind: name in left)
    assert total.clients == left
    assert total.words.tolist() == expected({name: contributions[name] for name in left}, setting)[0]
