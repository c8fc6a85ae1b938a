"""Sums of ring-LWE ciphertexts: exact, with noise below its bound and flooding far above it."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unseen.crypto.hashing import framed_digest
from unseen.crypto.lattice_parameters import MODULUS, PRIMES
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.crypto.rlwe import PublicParts
from unseen.errors import PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.drive import rehearse
from unseen.protocols.secure_aggregation.port import Contribution, Setting
from unseen.protocols.secure_aggregation.rlwe import (
    DEGREE,
    Client,
    Decryption,
    Encrypted,
    KeyShare,
    PublicKey,
    Server,
    Summed,
    distance,
    flood_bits,
    noise_bound,
)

ALL = np.arange(3, dtype="<u4")


def setting_of(count: int, length: int, bits: int = 32) -> Setting:
    return Setting(tuple(sorted(PartyId(f"c{index}") for index in range(count))), length, bits)


def contribution(setting: Setting, name: PartyId) -> Contribution:
    words = Prg(b"x" * 32).derive(name).words(setting.length) & np.uint64(setting.modulus_mask)
    return Contribution(words.astype(setting.dtype), weight=1 + setting.clients.index(name))


def clients_of(setting: Setting) -> dict[PartyId, Client]:
    return {
        name: Client(setting, name, contribution(setting, name), Prg(name.encode().rjust(32)))
        for name in setting.clients
    }


@pytest.mark.parametrize(
    ("count", "length", "bits"), [(3, 1, 32), (3, DEGREE, 1), (5, DEGREE + 1, 32), (4, 100, 40), (12, 30, 20)]
)
def test_sums_are_exact(count: int, length: int, bits: int) -> None:
    setting = setting_of(count, length, bits)
    total = rehearse(clients_of(setting), Server(setting))
    each = [contribution(setting, name) for name in setting.clients]
    assert total.words.tolist() == list(sum(one.words.astype(object) for one in each) % (1 << bits))
    assert total.words.dtype == setting.dtype
    assert total.weight == sum(one.weight for one in each)
    assert total.clients == setting.clients


def test_the_noise_stays_below_its_bound_and_the_flooding_above_it() -> None:
    """In integers: what the server rounds, less Δ·total, is n floodings; without them it is the noise alone."""
    setting = setting_of(4, DEGREE)
    clients, server = clients_of(setting), Server(setting)
    for name, client in clients.items():
        server.accept(name, client.begin())
    key = server.advance()
    for name, client in clients.items():
        server.accept(name, client.answer(key[name]))
    parts, sums = server.advance(), server._sum.copy()
    exact = ring(DEGREE).zeros(1, 1)
    for client in clients.values():
        ring(DEGREE).contract(sums[None, :1, 1], client._key[None, None], exact)
    noise = centred(sums[0, 0], exact[0, 0], setting)
    assert 2**10 < max(map(abs, noise)) <= noise_bound(4)
    for name, client in clients.items():
        server.accept(name, client.answer(parts[name]))
    server.advance()
    flooded = [int(value) for value in lifted(server._opened[:, :DEGREE])]
    plain = ring(DEGREE).add(exact[0, 0], np.zeros_like(exact[0, 0]))
    ring(DEGREE).inverse(plain[None])
    floods = [(a - int(b) + MODULUS // 2) % MODULUS - MODULUS // 2 for a, b in zip(flooded, lifted(plain), strict=True)]
    width = 2 ** flood_bits(4, 32)
    assert 0.5 * width < max(map(abs, floods)) <= 4 * width
    deviation = math.sqrt(sum((flood / width) ** 2 for flood in floods) / DEGREE)
    assert 1.1 < deviation < 1.21  # four uniform ones on [−1, 1): √(4/3)


def lifted(residues: np.ndarray) -> list[int]:
    first, second = PRIMES
    inverse = pow(first, -1, second)
    return [(int(a) + first * ((int(b) - int(a)) * inverse % second)) % MODULUS for a, b in residues.T]


def centred(part: np.ndarray, product: np.ndarray, setting: Setting) -> list[int]:
    total = ring(DEGREE).add(part, product)
    ring(DEGREE).inverse(total[None])
    words = sum(contribution(setting, name).words.astype(object) for name in setting.clients) % (1 << 32)
    found = [value - (int(word) * MODULUS >> 32) for value, word in zip(lifted(total), words, strict=True)]
    return [(value + MODULUS // 2) % MODULUS - MODULUS // 2 for value in found]


def test_the_distance_is_kept_or_the_setting_refused() -> None:
    assert distance(setting_of(3, 1 << 20)) < 2**-47
    for wrong in (setting_of(100, 1 << 20), setting_of(16, 1 << 20, 40), setting_of(3, 10, 41), setting_of(3, 10, 64)):
        with pytest.raises(UsageError, match="no room for flooding"):
            Server(wrong)
    Server(setting_of(100, 1000, 20))


def test_decryption_cannot_fail() -> None:
    for count, bits in ((3, 32), (14, 32), (100, 20), (5, 40)):
        worst = noise_bound(count) + count * 2 ** flood_bits(count, bits)
        assert worst < MODULUS / 2 ** (bits + 1)


def test_weights_have_to_fit() -> None:
    setting = setting_of(4, 3)
    words = np.zeros(3, np.uint32)
    Client(setting, setting.clients[0], Contribution(words, (1 << 38) - 1), Prg(bytes(32)))
    with pytest.raises(UsageError, match="weights lie below"):
        Client(setting, setting.clients[0], Contribution(words, 1 << 38), Prg(bytes(32)))


def test_clients_may_drop_out_before_the_key_is_made_only() -> None:
    setting = setting_of(4, 10)
    gone = setting.clients[1]
    total = rehearse(clients_of(setting), Server(setting), stays=lambda name, kind: (name, kind) != (gone, KeyShare))
    assert total.clients == tuple(name for name in setting.clients if name != gone)
    expected = sum(contribution(setting, name).words for name in total.clients)
    assert total.words.tolist() == expected.astype(np.uint32).tolist()
    for late in (Encrypted, Decryption):
        with pytest.raises(PeerUnreachable, match=f"3 of 4 clients sent {late.__name__}.*{gone}"):
            rehearse(
                clients_of(setting), Server(setting), stays=lambda name, kind, late=late: (name, kind) != (gone, late)
            )


def test_ciphertexts_and_shares_look_uniform_and_never_repeat() -> None:
    setting = setting_of(3, 10)
    key = PublicKey(clients_of(setting)[setting.clients[0]].begin().share, ALL)
    found = []
    for words in (np.zeros(10, np.uint32), np.zeros(10, np.uint32), np.ones(10, np.uint32)):
        client = Client(setting, setting.clients[0], Contribution(words), Prg(bytes(32)))
        client.begin()
        found.append(client.answer(key).ciphertexts)
    assert (found[0] == found[1]).all()
    assert np.count_nonzero(found[0] == found[2]) < 5
    assert abs(float((found[0] / PRIMES[0]).mean()) - 0.5) < 0.01
    other = Client(setting, setting.clients[0], Contribution(np.zeros(10, np.uint32)), Prg(bytes(32)))
    other.begin()
    # Another key, other randomness: else the difference would betray u.
    changed = key.key.copy()
    changed[0, 0] ^= 1
    assert np.count_nonzero(other.answer(PublicKey(changed, ALL)).ciphertexts[:, 1] == found[0][:, 1]) < 5


def small_quotient(numerator: np.ndarray, divisor: np.ndarray) -> bool:
    """Whether spectra (2, 8192) have a quotient with coefficients of −1, 0 and 1, as without noise."""
    inverses = [[pow(int(value), -1, p) for value in row] for row, p in zip(divisor, PRIMES, strict=True)]
    quotient = np.array(
        [
            [int(x) * y % p for x, y in zip(*rows, strict=True)]
            for *rows, p in zip(numerator, inverses, PRIMES, strict=True)
        ],
        np.uint64,
    )
    ring(DEGREE).inverse(quotient[None])
    return all(np.isin(row, (0, 1, p - 1)).all() for row, p in zip(quotient, PRIMES, strict=True))


def test_every_part_has_noise_of_its_own() -> None:
    """Without it, a division by public polynomials returns the secrets; a part made without noise is the control."""
    setting = setting_of(3, 10)
    name = setting.clients[0]
    client = Client(setting, name, Contribution(np.zeros(10, np.uint32), 0), Prg(bytes(32)))
    a = PublicParts(framed_digest(b"unseen/rlwe_sum/1/a", setting.context)).part(0)
    share = client.begin().share
    assert not small_quotient(share, a)
    exact = ring(DEGREE).zeros(1, 1)
    ring(DEGREE).contract(a[None, None], client._key[None, None], exact)
    assert small_quotient(exact[0, 0], a)
    key = clients_of(setting)[setting.clients[1]].begin().share
    part_b, part_a = client.answer(PublicKey(key, ALL)).ciphertexts[0]  # of zeros
    assert not small_quotient(part_a, a)
    assert not small_quotient(part_b, key)


def test_messages_that_do_not_fit_are_refused() -> None:
    setting = setting_of(3, 10)
    clients, server = clients_of(setting), Server(setting)
    first, second, third = setting.clients
    share = clients[first].begin()
    with pytest.raises(RemoteProtocolError, match=f"{first}: a coefficient is not below its prime"):
        server.accept(first, KeyShare(np.full_like(share.share, PRIMES[0])))
    server.accept(first, share)
    with pytest.raises(RemoteProtocolError, match=f"{first}: its KeyShare is refused"):
        server.accept(first, share)
    for name in (second, third):
        server.accept(name, clients[name].begin())
    told: Any = server.advance()
    encrypted = clients[first].answer(told[first])
    with pytest.raises(RemoteProtocolError, match=f"{first}: expected 2 polynomials, found 1"):
        server.accept(first, replace(encrypted, ciphertexts=encrypted.ciphertexts[:1]))
    with pytest.raises(RemoteProtocolError, match="expected Summed, found PublicKey"):
        clients[first].answer(told[first])
    for name in setting.clients:
        server.accept(name, encrypted if name == first else clients[name].answer(told[name]))
    summed: Any = server.advance()
    with pytest.raises(RemoteProtocolError, match="server: expected 2 polynomials, found 1"):
        clients[second].answer(Summed(summed[second].parts[:1]))
    with pytest.raises(RemoteProtocolError, match="expected nothing more"):
        clients[second].answer(summed[second])
    decryption = clients[first].answer(summed[first])
    with pytest.raises(RemoteProtocolError, match=f"{first}: expected 11 coefficients, found 10"):
        server.accept(first, Decryption(decryption.coefficients[:, 1:]))


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([1, 2, 3, 4], "a key in which it has no share"),
        ([0, 1, 2], "at least 4 have to be left"),
        ([0, 1, 1, 2, 3], "not ascending"),
        ([0, 1, 2, 5], "names client number 5 of 5"),
    ],
)
def test_a_key_has_shares_of_enough_and_of_the_client_itself(members: list[int], complaint: str) -> None:
    setting = setting_of(5, 10)
    client = clients_of(setting)[setting.clients[0]]
    share = client.begin().share
    with pytest.raises(RemoteProtocolError, match=complaint):
        client.answer(PublicKey(share, np.array(members, "<u4")))
    assert client.hears is None


def test_clients_are_told_over_whom_the_sum_is() -> None:
    setting = setting_of(4, 10)
    clients, server = clients_of(setting), Server(setting)
    others = setting.clients[1:]
    for name in others:
        server.accept(name, clients[name].begin())
    for name, key in server.advance().items():
        clients[name].answer(key)
        assert clients[name].left == others


def test_clients_keep_their_secrets() -> None:
    setting = setting_of(3, 1)
    client = clients_of(setting)[setting.clients[0]]
    assert "secret" in repr(client)
    with pytest.raises(UsageError, match="pickled"):
        pickle.dumps(client)
