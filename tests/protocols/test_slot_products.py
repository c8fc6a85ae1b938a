import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import Shape, encode_bytes
from unseen.crypto.prg import Prg
from unseen.crypto.slots import DEGREE, T
from unseen.dialogue import Receive, Send, converse, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.protocols.slot_products import (
    GROUP,
    Answer,
    Block,
    Call,
    Evaluator,
    KeyHolder,
    Opening,
    ProductBounds,
    PublicKey,
)

K, L = "bank", "insurer"
PRG = Prg(b"\x0c" * 32)
RNG = np.random.default_rng(11)
LARGE = np.uint64(2**62)
BLOCK = encode_bytes(Block(bytes(32)))[:-32]


def key_holder(calls, prg):
    side = yield from KeyHolder.set_up(peer=L, prg=prg.derive(K))
    shares = []
    for factors, bounds in calls:
        shares.append((yield from side.multiply(factors, bounds)))
    return shares


def evaluator(calls, prg):
    side = yield from Evaluator.set_up(peer=K, prg=prg.derive(L))
    shares = []
    for factors, bounds in calls:
        shares.append((yield from side.multiply(factors, bounds)))
    return shares


def recorded(dialogue, log):
    """The same dialogue, whose messages (bytes) and waits (None) are appended to ``log``."""
    answer = None
    try:
        while True:
            effect = dialogue.send(answer)
            if isinstance(effect, Send):
                log.append(encode_bytes(effect.message))
            if isinstance(effect, Receive):
                log.append(None)
            answer = yield effect
    except StopIteration as end:
        return end.value


def run(calls, prg=PRG):
    """Return both sides' shares of each call (F, G, bounds), and what each side sent."""
    logs = {K: [], L: []}
    dialogues = {
        K: recorded(key_holder([(G, bounds) for _, G, bounds in calls], prg), logs[K]),
        L: recorded(evaluator([(F, bounds) for F, _, bounds in calls], prg), logs[L]),
    }
    found = converse(dialogues)
    return found[L], found[K], {party: [m for m in log if m] for party, log in logs.items()}, logs


def drawn(rank, rows, bits=12, rng=RNG):
    largest = (1 << bits) - 1
    F, G = (rng.integers(-largest, largest + 1, (rank, rows)) for _ in range(2))
    return F, G, ProductBounds(rows, rank, min(30, 2 * bits + rank.bit_length()), bits)


def check(F, G, x, y, bounds):
    # None of these few rows comes out wrong by t: the chance of that is below 2^-15, and the seed is fixed.
    assert np.array_equal(x + y, (F * G).sum(axis=0))
    assert x.dtype == y.dtype == np.int64
    if len(x):
        assert y.min() >= 0
        assert y.max() < T
        assert x.max() <= 0
        assert x.min() > -T


@pytest.mark.parametrize(
    ("rank", "rows"), [(1, 1), (1, 0), (3, 0), (16, 1), (1, DEGREE), (2, DEGREE + 1), (16, 2 * DEGREE - 5), (2, 50_000)]
)
def test_shares_add_up_exactly(rank, rows):
    F, G, bounds = drawn(rank, rows)
    (x,), (y,), _, _ = run([(F, G, bounds)])
    assert x.shape == y.shape == (rows,)
    check(F, G, x, y, bounds)


@settings(deadline=None, derandomize=True, max_examples=8)
@given(st.integers(1, 4), st.integers(1, DEGREE + 20), st.integers(1, 14), st.integers(0, 2**32))
def test_shares_add_up_for_any_size(rank, rows, bits, seed):
    F, G, bounds = drawn(rank, rows, bits, np.random.default_rng(seed))
    (x,), (y,), _, _ = run([(F, G, bounds)])
    check(F, G, x, y, bounds)


def test_largest_factors_of_either_sign():
    largest = (1 << 13) - 1
    signs = np.array(list(itertools.product((-1, 1, 0), repeat=2))).T
    F, G = np.repeat(signs[:, None] * largest, 16, axis=1)
    bounds = ProductBounds(9, 16, 30, 13)
    (x,), (y,), _, _ = run([(F, G, bounds)])
    check(F, G, x, y, bounds)


def test_several_calls_with_different_bounds_in_one_set_up():
    calls = [drawn(2, 30), drawn(1, DEGREE + 3), drawn(2, 30, 5)]
    found_x, found_y, _, _ = run(calls)
    for (F, G, bounds), x, y in zip(calls, found_x, found_y, strict=True):
        check(F, G, x, y, bounds)


def test_a_repeated_task_sends_identical_bytes():
    calls = [drawn(2, 30), drawn(1, DEGREE + 1)]
    *_, sent, _ = run(calls)
    *_, again, _ = run([(F.copy(), G.copy(), bounds) for F, G, bounds in calls])
    assert sent == again


def test_no_mask_and_no_nonce_meets_two_messages():
    F, G, bounds = drawn(1, DEGREE * 2)
    F[:, DEGREE:], G[:, DEGREE:] = F[:, :DEGREE], G[:, :DEGREE]
    other_F, other_G = F.copy(), G.copy()
    other_F[0, 3] += 1 - 2 * (other_F[0, 3] > 0)
    other_G[0, 3] += 1 - 2 * (other_G[0, 3] > 0)
    wider = ProductBounds(bounds.rows, 1, bounds.result_bits + 1, 12)
    runs = [run([(F, G, bounds), (F, G, bounds)]), run([(other_F, G, bounds)])]
    runs += [run([(F, other_G, bounds)]), run([(F, G, wider)]), run([(F, G, bounds)], Prg(b"\1" * 32))]
    blocks = [share[part] for x, *_ in runs for share in x for part in (slice(DEGREE), slice(DEGREE, None))]
    # The second blocks of the variants in F and G have nothing to tell apart and are alike: the replay of one message.
    alike = {(1, 5), (1, 7), (5, 7)}
    for (i, one), (j, other) in itertools.combinations(enumerate(blocks), 2):
        if (i, j) not in alike:
            assert (one == other).mean() < 0.01
    # The same with the key holder's nonces, which decide its parts a and its noise: they know nothing of F.
    nonces = [message for _, _, sent, _ in runs for message in sent[K] if message.startswith(BLOCK)]
    assert len(nonces) == 12
    alike = {(0, 4), (1, 5), (1, 7), (5, 7)}
    for (i, one), (j, other) in itertools.combinations(enumerate(nonces), 2):
        assert (one == other) == ((i, j) in alike)


def test_a_sum_that_leaves_the_range_comes_out_wrong_by_t(monkeypatch):
    masks = np.array([0, 0, T - 1, T - 1, T - 3, 2, 5, T - 6], np.uint64)
    sums = np.array([-1, 1, 1, -1, 3, -3, -5, 5])
    wraps = np.array([1, 0, -1, 0, -1, 1, 0, 0])
    monkeypatch.setattr(Prg, "below", chosen(Prg.below, masks))
    bounds = ProductBounds(8, 1, 3, 3)
    (x,), (y,), _, _ = run([(sums[None], np.ones((1, 8), np.int64), bounds)])
    assert np.array_equal(x, -masks.astype(np.int64))
    assert np.array_equal(x + y, sums + wraps * T)
    # Modulo a power of two there is next to nothing of it left.
    size = np.int64((1 << 38) - 1)
    assert np.array_equal((x + y - sums) & size, (-wraps * 65535) & size)


def chosen(below, values):
    """Prg.below with the first masks replaced; randomness of other kinds has other bounds, or comes before."""

    def draw(prg, bound, count):
        found = below(prg, bound, count)
        if bound == T:
            found[: len(values)] = values
        return found

    return draw


def test_the_failure_is_that_of_the_largest_sum_under_a_uniform_mask():
    assert ProductBounds(1 << 20, 1, 30, 12).failure == pytest.approx(2.0**-12)
    assert ProductBounds(1 << 20, 16, 40, 12).distance == ProductBounds(1 << 20, 16, 1, 12).distance


def test_shares_tell_nothing_about_the_sums():
    rows = 4 * DEGREE
    F, G, bounds = drawn(2, rows)
    F[:, : rows // 2] = 0
    (x,), (y,), _, _ = run([(F, G, bounds)])
    for share in (-x, y):
        counts, _ = np.histogram(share.astype(float), bins=16, range=(0, T))
        expected = rows / 16
        assert ((counts - expected) ** 2 / expected).sum() < 45  # 15 degrees of freedom: exceeded once in 10^4
    assert abs(y[: rows // 2].mean() - y[rows // 2 :].mean()) < 5 * (T / 12**0.5) * (2 / (rows / 2)) ** 0.5
    sums = (F * G).sum(axis=0)
    assert abs(np.corrcoef(sums, y)[0, 1]) < 5 / rows**0.5


def test_bytes_are_as_stated_and_blocks_stream():
    rows = DEGREE * (3 * GROUP + 1)
    F, G, bounds = drawn(1, rows, 3)
    _, _, sent, logs = run([(F, G, bounds)])
    kib = {party: sum(map(len, messages)) / 1024 for party, messages in sent.items()}
    assert 0 < kib[K] - 192 - 192 * bounds.blocks < 0.02 * kib[K]
    assert 0 < kib[L] - 384 * bounds.blocks < 0.02 * kib[L]
    waits = [i for i, message in enumerate(logs[K]) if message is None]
    large = [i for i, message in enumerate(logs[K]) if message and len(message) > 100_000]
    first_answer = waits[2]
    assert sum(i < first_answer for i in large) == 1 + 2 * GROUP


# --- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [(-1, 1, 20, 10), (5, 0, 20, 10), (5, 17, 20, 10), (5, 1, 41, 10), (5, 1, 20, 29)])
def test_bounds_that_the_scheme_does_not_carry_are_refused(wrong):
    with pytest.raises(UsageError, match="between"):
        ProductBounds(*wrong)


@pytest.mark.parametrize(
    "factors",
    [np.zeros((2, 4), np.int64), np.zeros((1, 5), np.int32), np.full((1, 5), 1 << 10), np.full((1, 5), -(2**63))],
)
def test_factors_beyond_the_bounds_are_refused(factors):
    with pytest.raises(UsageError):
        ProductBounds(5, 1, 20, 10).check(factors)


def test_the_distance_to_the_simulated_view():
    assert 2**-22 < ProductBounds(1 << 20, 16, 1, 12).distance < 2**-21


# --- what a peer may send ----------------------------------------------------------------------------------------

BOUNDS = ProductBounds(20, 2, 20, 6)
FACTORS = np.ones((2, 20), np.int64)
CALL = BOUNDS.call()
BODIES = np.zeros((2, 3, DEGREE), np.uint64)


def as_key_holder(opening=bytes(32), key=0, call=CALL, nonce=bytes(32), bodies=BODIES):
    yield from send(L, Opening(opening))
    yield from receive(L, Opening)
    yield from send(L, PublicKey(np.full((3, DEGREE), key, np.uint64)))
    yield from send(L, call)
    yield from receive(L, Call)
    yield from send(L, Block(nonce))
    yield from send_array(L, bodies)
    yield from receive(L, Answer)


def as_evaluator(opening=bytes(32), call=CALL, answer=0):
    yield from send(K, Opening(opening))
    yield from receive(K, Opening)
    yield from receive(K, PublicKey)
    yield from send(K, call)
    yield from receive(K, Call)
    yield from receive(K, Block)
    yield from receive_array(K, np.uint64, Shape(2, 3, DEGREE))
    yield from send(K, Answer(np.full((2, 3, DEGREE), answer, np.uint64)))


def test_the_impostors_are_believed_as_long_as_they_are_well_formed():
    converse({K: as_key_holder(), L: evaluator([(FACTORS, BOUNDS)], PRG)})
    converse({L: as_evaluator(), K: key_holder([(FACTORS, BOUNDS)], PRG)})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"opening": bytes(31)}, "32 bytes"),
        ({"key": LARGE}, "below their primes"),
        ({"call": Call(21, 2, 20, 6)}, "multiplies with"),
        ({"call": Call(20, 1, 20, 6)}, "multiplies with"),
        ({"call": Call(20, 2, 21, 6)}, "multiplies with"),
        ({"call": Call(20, 2, 20, 7)}, "multiplies with"),
        ({"nonce": b""}, "32 bytes"),
        ({"bodies": BODIES + LARGE}, "below their primes"),
        ({"bodies": BODIES[:1]}, "expected an array"),
        ({"bodies": BODIES.astype(np.float64)}, "expected an array"),
    ],
)
def test_the_evaluator_refuses_malformed_messages(wrong, reason):
    with pytest.raises(RemoteProtocolError, match=reason):
        converse({K: as_key_holder(**wrong), L: evaluator([(FACTORS, BOUNDS)], PRG)})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"opening": bytes(33)}, "32 bytes"),
        ({"call": Call(20, 2, 20, 5)}, "multiplies with"),
        ({"answer": LARGE}, "below their primes"),
    ],
)
def test_the_key_holder_refuses_malformed_messages(wrong, reason):
    with pytest.raises(RemoteProtocolError, match=reason):
        converse({L: as_evaluator(**wrong), K: key_holder([(FACTORS, BOUNDS)], PRG)})


def test_sides_do_not_pickle():
    sides = converse({K: KeyHolder.set_up(peer=L, prg=PRG), L: Evaluator.set_up(peer=K, prg=PRG)})
    for side in sides.values():
        with pytest.raises(UsageError):
            pickle.dumps(side)
