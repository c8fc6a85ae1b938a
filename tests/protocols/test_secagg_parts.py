"""The parts of ``secagg_plus``: shares, masks, keys, graphs."""

from __future__ import annotations

import hmac
import pickle
from itertools import combinations
from math import comb

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.protocols.secure_aggregation import masks, shamir
from unseen.protocols.secure_aggregation.graph import Assumptions, choose, draw, rare, suffices
from unseen.protocols.secure_aggregation.keys import EphemeralKey, derive_key, is_signed, seal, sign, unseal

# --- shares --------------------------------------------------------------------------------------------------------


def test_the_field_is_the_smallest_prime_above_2_256() -> None:
    assert gmpy2.is_prime(shamir.PRIME, 64)
    assert gmpy2.next_prime(1 << 256) == shamir.PRIME
    assert (shamir.PRIME - 1).bit_length() <= 8 * shamir.SHARE_BYTES


def test_the_known_example() -> None:
    """Wikipedia, "Shamir's secret sharing": 1234 + 166 x + 94 x², modulo 1613."""
    points = range(1, 7)
    shares = [shamir.evaluate([1234, 166, 94], point, 1613) for point in points]
    assert shares == [1494, 329, 965, 176, 1188, 775]
    for chosen in combinations(points, 3):
        assert shamir.interpolate([shares[point - 1] for point in chosen], chosen, 1613) == 1234


@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 4), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, threshold: int, more: int, seed: int) -> None:
    prg = Prg(seed.to_bytes(32, "little"))
    points = (1 + prg.permutation(40)[: threshold + more]).tolist()
    shares = shamir.split(secret, threshold, points, prg.derive("polynomial"))
    assert all(len(share) == shamir.SHARE_BYTES for share in shares)
    chosen = prg.permutation(len(points))[:threshold].tolist()
    assert shamir.join([shares[i] for i in chosen], [points[i] for i in chosen]) == secret


def test_many_far_holders_give_the_secret_back() -> None:
    points = (1 + Prg(b"p" * 32).permutation(shamir.MAX_POINT)[:61]).tolist()
    assert max(points) > 16_000
    for threshold in (57, 58, 59, 60):  # of any rest modulo the four that share a word
        shares = shamir.split(b"s" * 32, threshold, points, Prg(bytes(32)))
        assert shamir.join(shares[:threshold], points[:threshold]) == b"s" * 32


def test_fewer_shares_say_nothing() -> None:
    """With one share less, every other secret is as likely: a polynomial through the shares exists for each."""
    secret, points = bytes(range(32)), [1, 2, 5]
    shares = [int.from_bytes(share, "little") for share in shamir.split(secret, 4, [1, 2, 5, 9], Prg(bytes(32)))[:3]]
    for other in (0, 1, shamir.PRIME - 1):
        # The unique cubic through (0, other) and the three shares.
        at_nine = shamir.interpolate([other, *shares], tuple(point - 9 for point in (0, *points)), shamir.PRIME)
        assert shamir.interpolate([*shares, at_nine], (1, 2, 5, 9), shamir.PRIME) == other


def test_polynomials_use_all_their_coefficients() -> None:
    shares = shamir.split(bytes(32), 3, [1, 2, 3, 4], Prg(bytes(32)))
    numbers = [int.from_bytes(share, "little") for share in shares]
    assert shamir.interpolate(numbers[:3], (1, 2, 3), shamir.PRIME) == 0
    assert shamir.interpolate(numbers[:2], (1, 2), shamir.PRIME) != 0
    assert numbers != [
        int.from_bytes(each, "little") for each in shamir.split(bytes(32), 3, [1, 2, 3, 4], Prg(b"1" * 32))
    ]


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (bytes(31), 1, [1]),
        (bytes(32), 2, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 1, [0]),
        (bytes(32), 1, [(1 << 14) + 1]),
        (bytes(32), 1, [1, 1]),
    ],
)
def test_shares_that_cannot_be_are_refused(secret: bytes, threshold: int, points: list[int]) -> None:
    with pytest.raises(UsageError):
        shamir.split(secret, threshold, points, Prg(bytes(32)))


def test_shares_of_different_secrets_do_not_join() -> None:
    first, second = (shamir.split(bytes([i]) * 32, 2, [1, 2], Prg(bytes([i]) * 32)) for i in range(2))
    # 2·(share of 1) − (share of 2) is the value at 0; here it lies in the field and below 2^256, as nearly always.
    assert shamir.join([first[0], second[1]], [1, 2]) not in (bytes(32), b"\x01" * 32)
    with pytest.raises(UsageError, match="do not belong together"):
        shamir.join([b"\xff" * 33], [1])


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "length"), [("<u4", 3), ("<u4", 40_001), ("<u8", 16_385)])
def test_masks_are_aes_256_in_counter_mode(dtype: str, length: int) -> None:
    """Against a stream that ``cryptography`` makes in one piece, and the key that RFC 2104's HMAC gives."""
    words, weight = np.arange(length).astype(dtype), np.array([7], np.uint64)
    plain = words.copy()
    masks.apply(words, weight, [Prg(b"a" * 32)], [Prg(b"b" * 32)])
    size = words.nbytes
    streams = [mask_stream(seed * 32, size + 8) for seed in (b"a", b"b")]
    (added, taken), (plus, minus) = zip(
        *((np.frombuffer(each[:size], dtype), int.from_bytes(each[size:], "little")) for each in streams), strict=True
    )
    assert (words == plain + added - taken).all()
    assert int(weight[0]) == (7 + plus - minus) % (1 << 64)


def mask_stream(seed: bytes, count: int) -> bytes:

    key = hmac.new(seed, b"unseen/prg/stream", "sha256").digest()
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def test_a_known_mask() -> None:
    words, weight = np.zeros(4, np.uint32), np.zeros(1, np.uint64)
    masks.apply(words, weight, [Prg(bytes(32))], [])
    assert words.tobytes().hex() == KNOWN_MASK[:32]
    assert weight.tobytes().hex() == KNOWN_MASK[32:]


KNOWN_MASK = "d7ef35e5075f790f8671dac844abd54a1530a9a6b69af5f0"


def test_masks_of_opposite_signs_cancel() -> None:
    words, weight = np.arange(50_000, dtype=np.uint32), np.array([5], np.uint64)
    seeds = [bytes([index]) * 32 for index in range(5)]
    masks.apply(words, weight, [Prg(seed) for seed in seeds[:3]], [Prg(seed) for seed in seeds[3:]])
    assert np.count_nonzero(words == np.arange(50_000)) < 5
    # Every byte of a mask is random: a bit is set half the time.
    assert abs(np.unpackbits(words.view(np.uint8)).mean() - 0.5) < 0.002
    masks.apply(words, weight, [Prg(seed) for seed in seeds[3:]], [Prg(seed) for seed in seeds[:3]])
    assert words.tolist() == list(range(50_000))
    assert int(weight[0]) == 5


# --- keys ----------------------------------------------------------------------------------------------------------


def test_agreed_keys_depend_on_everything_they_are_bound_to() -> None:
    alice, bob = (EphemeralKey.draw(Prg(bytes([index]) * 32)) for index in (1, 2))
    agreed = alice.agree(bob.public, "bob")
    assert agreed == bob.agree(alice.public, "alice")
    variants = [
        derive_key(agreed, b"context", b"purpose", b"a", b"b"),
        derive_key(agreed, b"other", b"purpose", b"a", b"b"),
        derive_key(agreed, b"context", b"other", b"a", b"b"),
        derive_key(agreed, b"context", b"purpose", b"ab"),
        derive_key(agreed, b"context", b"purpose", b"a", b"bb"),
        derive_key(bytes(32), b"context", b"purpose", b"a", b"b"),
    ]
    assert len(set(variants)) == len(variants)
    assert {len(each) for each in variants} == {32}


@pytest.mark.parametrize("point", [bytes(32), (1).to_bytes(32, "little"), ((1 << 255) - 20).to_bytes(32, "little")])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="mallory: its key is of low order"):
        EphemeralKey.draw(Prg(bytes(32))).agree(point, "mallory")


def test_sealed_messages_open_under_their_key_alone() -> None:
    sealed = seal(b"k" * 32, b"share")
    assert unseal(b"k" * 32, sealed) == b"share"
    assert unseal(b"l" * 32, sealed) is None
    assert unseal(b"k" * 32, sealed[:-1] + bytes([sealed[-1] ^ 1])) is None


def test_signatures_hold_for_one_purpose_and_one_list_of_parts() -> None:
    identity = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = identity.public_key().public_bytes_raw()
    signature = sign(identity, b"purpose", b"a", b"b")
    assert is_signed(public, signature, b"purpose", b"a", b"b")
    assert not is_signed(public, signature, b"other", b"a", b"b")
    assert not is_signed(public, signature, b"purpose", b"ab")
    assert not is_signed(b"\xff" * 32, signature, b"purpose", b"a", b"b")
    assert not is_signed(public, signature[:-1], b"purpose", b"a", b"b")


def test_ephemeral_keys_do_not_print_nor_pickle() -> None:
    key = EphemeralKey.draw(Prg(bytes(32)))
    assert "secret" in repr(key)
    with pytest.raises(UsageError, match="pickled"):
        pickle.dumps(key)


# --- graphs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [3, 34, 50])
def test_small_graphs_are_complete(members: int) -> None:
    graph = draw(bytes(32), members, members, Assumptions())
    assert graph.degree == members - 1
    assert graph.threshold == 2 * members // 3 + 1
    assert graph.neighbours(1) == [0, *range(2, members)]
    assert graph.holders(1) == list(range(members))


@pytest.mark.parametrize(
    ("members", "assumptions"), [(60, Assumptions(0.05)), (100, Assumptions()), (300, Assumptions(0.02))]
)
def test_sparse_graphs_are_circles_of_near_neighbours(members: int, assumptions: Assumptions) -> None:
    graph = draw(b"s" * 32, members, members, assumptions)
    assert graph.degree < members - 1
    assert sorted(graph.order) == list(range(members))
    for client in range(members):
        neighbours = graph.neighbours(client)
        assert len(set(neighbours)) == graph.degree
        assert client not in neighbours
        assert all(client in graph.neighbours(other) for other in neighbours)
        nearest = [graph.order[(graph.places[client] + step) % members] for step in (-1, 1)]
        assert set(nearest) <= set(neighbours)
    assert draw(b"t" * 32, members, members, assumptions).order != graph.order


def test_degrees_are_the_least_that_satisfy_both_bounds() -> None:
    """Pinned, as ``docs/security/secure_aggregation.md`` has them; and one less does not suffice."""
    found = {
        (share, members): choose(members, members, Assumptions(share))
        for share in (0.01, 0.05, 0.1)
        for members in (100, 1000, 10_000)
    }
    assert found == {
        (0.01, 100): (36, 25),
        (0.01, 1000): (132, 89),
        (0.01, 10_000): (168, 113),
        (0.05, 100): (36, 25),
        (0.05, 1000): (258, 173),
        (0.05, 10_000): (372, 249),
        (0.1, 100): (66, 45),
        (0.1, 1000): (462, 309),
        (0.1, 10_000): (714, 477),
    }
    for (share, members), (degree, threshold) in found.items():
        assert threshold == 2 * (degree + 1) // 3 + 1
        corrupt, dropped = int(share * members), members // 10
        assert suffices(degree // 6, members, corrupt, dropped, Assumptions(share))
        assert not suffices(degree // 6 - 1, members, corrupt, dropped, Assumptions(share))


def test_tails_are_exact() -> None:
    """Against a count of all samples: 4 marked of 10, 5 drawn, 3 or more marked."""
    hits = sum(sum(item < 4 for item in sample) >= 3 for sample in combinations(range(10), 5))
    assert hits == 66
    assert comb(10, 5) == 252
    # 66/252 = 2^-1.93
    assert rare(1, 10, 4, (5, 3), 1)
    assert not rare(1, 10, 4, (5, 3), 2)
    assert not rare(2, 10, 4, (5, 3), 1)


def test_honest_survivors_that_can_be_opened_hang_together() -> None:
    """The server's best attack on a small sparse graph: drop whole arcs to cut the circle; openings then fail first.

    Holders that are honest and dropped do not open: whoever stands next to a cut of k/2 clients misses more than K − t.
    """
    members = 120
    graph = draw(b"u" * 32, members, members, Assumptions(0.05))
    radius = graph.degree // 6
    for start in (0, 17, 90):
        cut = {graph.order[(start + step) % members] for step in range(graph.degree // 2)}
        beside = graph.order[(start - 1) % members]
        assert len(cut & set(graph.neighbours(beside))) == 3 * radius
        assert len(set(graph.holders(beside)) - cut) < graph.threshold
        # One position less, with r corrupt ones among the rest, would be enough: hence the bound on windows.
        assert len(set(graph.holders(beside)) - cut) + radius >= graph.threshold


@pytest.mark.parametrize(
    "wrong", [{"corrupt": 0.34}, {"dropouts": 0.5}, {"corrupt": -0.1}, {"security_bits": 0}, {"grinding_bits": -1}]
)
def test_assumptions_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Assumptions(**wrong)  # type: ignore[arg-type]
