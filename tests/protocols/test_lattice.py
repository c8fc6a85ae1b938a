import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import Shape, encode_bytes
from unseen.crypto import rlwe
from unseen.crypto.lattice_parameters import PRIMES, ROUNDING_VARIANCE, VECTOR_DEVIATION
from unseen.crypto.lwe import OneTimeSecret
from unseen.crypto.prg import Prg
from unseen.crypto.rlwe import DEGREE
from unseen.dialogue import ArrayChunk, Progress, Send, converse, receive, receive_array, send, send_array
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.upper_bits import SHORT
from unseen.protocols.linear_map import lattice
from unseen.protocols.linear_map.agreement import Call, Terms
from unseen.protocols.linear_map.lattice import (
    Answer,
    Lattice,
    Opening,
    Query,
    Scaling,
    Unmask,
    _naming,
    _packing,
    _places,
)
from unseen.protocols.linear_map.matrices import BinnedMatrix, DenseMatrix
from unseen.protocols.linear_map.port import Bounds, Recipient, hold_matrix, hold_vectors, reconstruct

A, B = PartyId("a"), PartyId("b")
SCHEME = Lattice()
TO_A, TO_B, TO_BOTH = Recipient.VECTOR_HOLDER, Recipient.MATRIX_HOLDER, Recipient.SHARED


def bounds_of(matrix, vectors):
    def largest(array, axis):
        norms = np.sqrt(np.square(array.astype(float)).sum(axis=axis))
        return float(max(norms.max(initial=0), 1))

    return Bounds(*matrix.shape, largest(matrix, 0), largest(vectors, 1))


def matrix_holder(matrix, bounds, calls, *, seed=b"b" * 32):
    matrix = DenseMatrix.of(matrix) if isinstance(matrix, np.ndarray) else matrix
    side = yield from hold_matrix(SCHEME, matrix, bounds, peer=A, prg=Prg(seed))
    results = []
    for count, recipient in calls:
        results.append((yield from side.multiply(count, recipient)))
    return results


def vector_holder(batches, bounds, *, seed=b"a" * 32):
    side = yield from hold_vectors(SCHEME, bounds, peer=B, prg=Prg(seed))
    results = []
    for vectors, recipient in batches:
        results.append((yield from side.multiply(vectors, recipient)))
    return results


def run(matrix, batches, bounds=None):
    bounds = bounds or bounds_of(matrix, np.concatenate([vectors for vectors, _ in batches]))
    calls = [(len(vectors), recipient) for vectors, recipient in batches]
    return converse({A: vector_holder(batches, bounds), B: matrix_holder(matrix, bounds, calls)})


def assert_exact(matrix, batches, bounds=None):
    results = run(matrix, batches, bounds)
    shift = SCHEME.share_shift(bounds or bounds_of(matrix, np.concatenate([vectors for vectors, _ in batches])))
    for index, (vectors, recipient) in enumerate(batches):
        knows, ignorant = (A, B) if recipient is TO_A else (B, A)
        found = results[knows][index]
        if recipient is TO_BOTH:
            found = reconstruct(found, results[ignorant][index], shift)
        else:
            assert results[ignorant][index] is None
        assert found.dtype == np.int64
        assert np.array_equal(found, vectors @ matrix)


def recorded(dialogue, log):
    """Run a dialogue and write down the frames that it sends."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            log.append(encode_bytes(effect.message))
        answer = yield effect


# --- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipient", list(Recipient))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (511, 3), (512, 12), (513, 1), (1500, 40), (3, 0)])
def test_products_are_exact(rows, columns, recipient):
    rng = np.random.default_rng(rows)
    matrix = rng.integers(-1000, 1001, (rows, columns))
    vectors = rng.integers(-1000, 1001, (3, rows))
    assert_exact(matrix, [(vectors[:1], recipient), (vectors[1:], recipient)])


def test_recipients_may_alternate_and_calls_may_be_empty():
    rng = np.random.default_rng(1)
    matrix, vectors = rng.integers(0, 2, (70, 5)), rng.integers(-99, 100, (2, 70))
    calls = [(vectors, TO_A), (vectors[:0], TO_B), (vectors, TO_B), (vectors[:0], TO_A), (vectors, TO_BOTH)]
    assert_exact(matrix, [*calls, (vectors[:0], TO_BOTH), (vectors, TO_A)])


@pytest.mark.parametrize("recipient", list(Recipient))
def test_results_reach_their_bounds(recipient):
    matrix = np.array([[1, -1, 0]] * 600, np.int64)
    scale = 2**33
    vectors = np.array([[scale] * 600, [-scale] * 600, [0] * 600], np.int64)
    assert_exact(matrix, [(vectors, recipient)])


@pytest.mark.parametrize("recipient", list(Recipient))
def test_large_entries_are_exact_up_to_the_capacity(recipient):
    matrix = np.array([[2**25, -(2**25)]], np.int64)
    bounds = bounds_of(matrix, np.array([[1]]))
    room = 2 ** (63 - 25 - 36)
    assert_exact(matrix, [(np.array([[room], [-room], [1]], np.int64), recipient)], Bounds(1, 2, 2.0**25, float(room)))
    assert Scaling.of(bounds).shift > Scaling.of(Bounds(1, 2, 2.0**25, float(room))).shift


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(1, 700), st.integers(1, 6), st.integers(0, 12), st.integers(0, 2**32), st.sampled_from(Recipient))
def test_products_of_any_sparse_matrix_are_exact(rows, columns, bits, seed, recipient):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-(2**bits), 2**bits + 1, (rows, columns)) * rng.integers(0, 2, (rows, columns))
    assert_exact(matrix, [(rng.integers(-(2**bits), 2**bits + 1, (2, rows)), recipient)])


def test_indicators_of_bins_are_exact():
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 32, (12, 1300)).astype(np.uint8)
    matrix, vectors = BinnedMatrix(codes, (32,) * 12), rng.integers(-(2**20), 2**20, (9, 1300))
    bounds = Bounds(1300, 384, 1300**0.5, 2.0**26)
    results = run(matrix, [(vectors, TO_A)], bounds)
    assert np.array_equal(results[A][0], vectors @ matrix.rows_of(slice(0, 1300)))


def test_the_polynomials_travel_in_pieces_after_the_encryption_of_zero():
    packing = _packing(Bounds(9, 9600, 3.0, 3.0))
    assert (packing.groups, packing.polynomials) == (3, 1280)
    places = _places(packing)
    assert places[:3] == [slice(0, 1), slice(1, 33), slice(33, 65)]
    assert places[-1] == slice(1249, 1281)
    assert _places(_packing(Bounds(9, 2, 3.0, 3.0))) == [slice(0, 1), slice(1, 2)]


def test_groups_work_together(monkeypatch):
    monkeypatch.setattr(rlwe, "_GROUP", 3)
    rng = np.random.default_rng(8)
    assert _packing(Bounds(40, 7, 99.0, 99.0)).groups == 3
    matrix, vectors = rng.integers(-9, 10, (40, 7)), rng.integers(-9, 10, (2, 40))
    assert_exact(matrix, [(vectors, recipient) for recipient in Recipient])


def effects(dialogue, log):
    """Run a dialogue and write down all its effects."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        log.append(effect)
        answer = yield effect


def test_the_set_up_tells_how_far_the_hint_is(monkeypatch):
    rng = np.random.default_rng(2)
    matrix, vectors = rng.integers(-9, 10, (1300, 2)), rng.integers(-9, 10, (1, 1300))
    bounds, log, whole = bounds_of(matrix, vectors), [], []
    with monkeypatch.context() as patch:
        patch.setattr(lattice, "_HINT_ROWS", 512)
        batch = [(vectors, TO_A)]
        talk = {A: vector_holder(batch, bounds), B: effects(matrix_holder(matrix, bounds, [(1, TO_A)]), log)}
        assert np.array_equal(converse(talk)[A][0], vectors @ matrix)
    told = [(effect.done, effect.total) for effect in log if isinstance(effect, Progress)]
    assert told == [(512, 1300), (1024, 1300), (1300, 1300), (0, 1), (1, 1)]
    converse({A: vector_holder(batch, bounds), B: effects(matrix_holder(matrix, bounds, [(1, TO_A)]), whole)})
    sent, sent_whole = (
        [encode_bytes(effect.message) for effect in each if isinstance(effect, Send)] for each in (log, whole)
    )
    assert sent == sent_whole


def test_long_vectors_leave_before_the_last_is_encrypted(monkeypatch):
    monkeypatch.setattr(lattice, "_LONG", 1)
    drawn, hidden = [], []
    original = OneTimeSecret.draw

    def draw(*args):
        drawn.append(len(hidden))
        return original(*args)

    monkeypatch.setattr(OneTimeSecret, "draw", draw)
    vectors = np.arange(20, dtype=np.int64).reshape(10, 2)
    batches, bounds = [(vectors, TO_B), (vectors, TO_A)], Bounds(2, 2, 3.0, 99.0)

    def watched(dialogue):
        answer = None
        while True:
            try:
                effect = dialogue.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send) and isinstance(effect.message, ArrayChunk):
                hidden.append(effect)
            answer = yield effect

    matrix = np.array([[1, 2], [2, 0]])
    done = converse(
        {A: watched(vector_holder(batches, bounds)), B: matrix_holder(matrix, bounds, [(10, TO_B), (10, TO_A)])}
    )
    assert drawn[:10] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert np.array_equal(done[A][1], vectors @ matrix)
    assert np.array_equal(done[B][0], vectors @ matrix)


def test_all_that_hides_the_vectors_of_a_batch_leaves_before_their_queries():
    log, vectors = [], np.arange(20, dtype=np.int64).reshape(10, 2)
    bounds, matrix = Bounds(2, 2, 3.0, 99.0), np.array([[1, 2], [2, 0]])
    talk = {A: effects(vector_holder([(vectors, TO_A)], bounds), log), B: matrix_holder(matrix, bounds, [(10, TO_A)])}
    assert np.array_equal(converse(talk)[A][0], vectors @ matrix)
    sent = [type(effect.message) for effect in log if isinstance(effect, Send)]
    assert [kind for kind in sent if kind in (ArrayChunk, Query)] == [
        *[ArrayChunk] * 8,
        *[Query] * 8,
        *[ArrayChunk] * 2,
        *[Query] * 2,
    ]


# --- bounds and scaling ------------------------------------------------------------------------------------------


def test_bounds_that_do_not_fit_are_refused_with_what_would_fit():
    with pytest.raises(UsageError, match=r"Scale the vectors down by (\d+\.\d) bits") as refused:
        SCHEME.check(Bounds(1000, 10, 2.0**25, 2.0**20))
    missing = float(str(refused.value).split("vectors down by ")[1].split(" bits")[0])
    SCHEME.check(Bounds(1000, 10, 2.0**25, 2.0 ** (20 - missing - 1)))
    with pytest.raises(UsageError):
        SCHEME.check(Bounds(1000, 10, 2.0**25, 2.0 ** (20 - missing + 1)))
    for column_norm, vector_norm in [(float("inf"), 1.0), (1e200, 1e-200), (1e200, 1e200), (float("nan"), 1.0)]:
        with pytest.raises(UsageError):
            SCHEME.check(Bounds(5, 1, column_norm, vector_norm))
    with pytest.raises(UsageError, match="split the rows"):
        SCHEME.check(Bounds(2**80, 1, 2.0**21, 1.0))
    assert SCHEME.name == "lattice"


def test_set_up_refuses_what_check_refuses():
    bounds = Bounds(1, 1, 2.0**30, 2.0**30)
    for dialogue in (
        SCHEME.set_up_matrix(DenseMatrix(np.ones((1, 1), np.int64)), bounds, peer=A, prg=Prg.fresh()),
        SCHEME.set_up_vectors(bounds, peer=B, prg=Prg.fresh()),
    ):
        with pytest.raises(UsageError, match="lattice scheme carries"):
            next(dialogue)


@given(
    st.integers(1, 2**20),
    st.integers(0, 5000),
    st.floats(1e-3, 2**16),
    st.floats(1e-3, 2**16),
    st.sampled_from([None, *Recipient]),
)
def test_scaling_leaves_room_for_noise_and_results(rows, columns, column_norm, vector_norm, recipient):
    scaling = Scaling.of(Bounds(rows, columns, column_norm, vector_norm, recipient=recipient))
    delta = 2**scaling.shift
    assert delta * scaling.largest <= 2**63
    assert 2 * delta * (scaling.largest + 1) > 2**63
    sigma, rounding = VECTOR_DEVIATION * column_norm, ROUNDING_VARIANCE**0.5 * column_norm
    assert delta / 2 >= 9.4 * (sigma + rounding) + scaling.width
    assert scaling.variance >= columns * sigma**2
    if recipient in (None, TO_B):
        assert delta / 2 >= 9.4 * ((sigma**2 + scaling.variance) ** 0.5 + rounding)
    results = np.array([0, 1, -1, scaling.largest - 1, 1 - scaling.largest], np.int64)
    for noise in (-delta // 2, delta // 2 - 1):
        assert np.array_equal(scaling.rounded(scaling.scaled(results) + np.uint64(noise % 2**64)), results)
    width = scaling.width
    extremes = scaling.noise(np.array([0, 2**64 - 1, 2 * width - 1], np.uint64)).view(np.int64)
    assert extremes.tolist() == [-width, width - 1, width - 1]


def test_answers_are_hidden_as_far_as_there_is_room():
    # An exact power of two as the largest result: Δ halves with every step, and with it the noise of answers.
    widths = {}
    for bits in range(30, 60):
        try:
            scaling = Scaling.of(Bounds(100, 4, 10.0, 2.0**bits / 10, recipient=TO_A))
        except UsageError:
            break
        widths[scaling.shift] = scaling.width
    spread = lattice._spread(100 * VECTOR_DEVIATION**2, 4) + lattice._spread(100 * ROUNDING_VARIANCE, 4)
    assert min(widths) == (2 * spread - 1).bit_length()
    assert all(width <= 2**shift // 2 - spread for shift, width in widths.items())
    assert all(width == 2**shift // 4 for shift, width in widths.items() if 2**shift >= 4 * spread)
    words = Prg(bytes(32)).words(9)
    assert not Scaling(10, 1, 0, 5).noise(words).any()


@pytest.mark.parametrize("columns", [1, 50, 3200])
def test_a_recipient_agreed_on_alone_makes_room(columns):
    def room(recipient):
        vectors = (2.0**bits for bits in range(60))
        fits = [norm for norm in vectors if accepts(Bounds(10**6, columns, 1000.0, norm, recipient=recipient))]
        return max(fits)

    assert room(None) == min(room(recipient) for recipient in Recipient)
    assert room(TO_A) == room(TO_BOTH) >= room(TO_B) * columns**0.5 / 2


def accepts(bounds):
    try:
        SCHEME.check(bounds)
    except UsageError:
        return False
    return True


def test_residues_that_do_not_fit_are_refused_with_what_would_fit():
    bounds = Bounds(10**6, 3200, 1000.0, 1.0, wrap=50, recipient=TO_A)
    with pytest.raises(UsageError, match=r"carries residues of up to (\d+) bits .* and 50 are asked for") as refused:
        SCHEME.check(bounds)
    fit = int(str(refused.value).split("up to ")[1].split(" bits")[0])
    assert accepts(replace(bounds, wrap=fit))
    assert not accepts(replace(bounds, wrap=fit + 1))
    assert SCHEME.share_shift(replace(bounds, wrap=fit)) == 64 - fit
    assert fit >= 46, "boosting packs a gradient and a curvature into one word"


# --- what is sent ------------------------------------------------------------------------------------------------


ROWS = 30


def frames(vectors, *, recipient=TO_A, seed=b"a" * 32, other=b"b" * 32, matrix=None, norm=1000.0):
    """Return all frames of the vector holder."""
    matrix = np.eye(ROWS, 2, dtype=np.int64) if matrix is None else matrix
    bounds = Bounds(ROWS, 2, 50.0, norm)
    log: list[bytes] = []
    converse(
        {
            A: recorded(vector_holder([(vectors, recipient)], bounds, seed=seed), log),
            B: matrix_holder(matrix, bounds, [(len(vectors), recipient)], seed=other),
        }
    )
    return log


VECTORS = np.arange(2 * ROWS, dtype=np.int64).reshape(2, ROWS)
FIRST_HIDDEN = 3  # Opening, Call, array header, array chunk


def hidden_words(log, index=0):
    """Return what hides a vector; the two lowest bits of its words would hold words of a longer one."""
    return np.frombuffer(log[FIRST_HIDDEN + 2 * index][-8 * SHORT :], np.uint64)[:ROWS]


def test_a_resumed_task_sends_the_same_bytes():
    vectors = np.concatenate([VECTORS] * 5)
    for recipient in Recipient:
        assert frames(vectors, recipient=recipient) == frames(vectors, recipient=recipient)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": b"c" * 32},
        {"other": b"c" * 32},
        {"recipient": TO_B},
        {"matrix": np.ones((ROWS, 2), np.int64)},
        {"norm": 3000.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_meets_fresh_secrets(change):
    one, two = frames(VECTORS), frames(VECTORS, **change)
    words = [hidden_words(log) for log in (one, two)]
    assert not (words[0] == words[1]).any()
    # With equal secrets the difference would be that of two scaled vectors: a multiple of 2^40, or small.
    difference = (words[0] - words[1]).view(np.int64)
    assert (difference % 2**30 != 0).mean() > 0.9


def test_another_vector_meets_fresh_secrets_also_at_the_same_place():
    changed = VECTORS.copy()
    changed[0, 0] += 1
    one, two = frames(VECTORS), frames(changed)
    words = [hidden_words(log) for log in (one, two)]
    assert not (words[0] == words[1]).any()
    same = frames(np.stack([VECTORS[0], VECTORS[0]]))
    assert hidden_words(same, 0).any()
    assert not (hidden_words(same, 0) == hidden_words(same, 1)).any()


def test_the_matrix_holder_never_encrypts_two_matrices_with_one_key():
    def hint(matrix):
        log = []
        bounds = Bounds(ROWS, 2, 50.0, 10.0)
        converse({A: vector_holder([], bounds), B: recorded(matrix_holder(matrix, bounds, []), log)})
        return b"".join(log[1:])

    zero, ones = np.zeros((ROWS, 2), np.int64), np.ones((ROWS, 2), np.int64)
    assert hint(zero) == hint(zero)
    one, two = (np.frombuffer(hint(matrix)[-(1 << 16) :], np.uint64) for matrix in (zero, ones))
    assert not (one == two).any()


def opened(monkeypatch, matrix, recipient, bounds, count=400):
    """Return what the recipient rounds to zero, for zero vectors."""
    original, seen = Scaling.rounded, []

    def spy(self, words):
        seen.extend(words.view(np.int64).astype(float))
        return original(self, words)

    monkeypatch.setattr(Scaling, "rounded", spy)
    vectors = np.zeros((count, ROWS), np.int64)
    results = run(matrix, [(vectors, recipient)], bounds)
    assert not results[A if recipient is TO_A else B][0].any()
    assert len(seen) == count
    return np.array(seen)


def test_the_matrix_holder_hides_what_its_matrix_makes_of_the_noise(monkeypatch):
    bounds = Bounds(ROWS, 2, 50.0, 1000.0)
    words = opened(monkeypatch, np.ones((ROWS, 2), np.int64), TO_A, bounds)
    relative = words / 2 ** Scaling.of(bounds).shift
    assert abs(relative).max() <= 0.2501
    assert abs(relative.std() - 0.5 / 12**0.5) < 0.01


@pytest.mark.parametrize("entry", [0, 9])
def test_the_vector_holder_hides_its_noise_from_a_matrix_holder_that_learns_the_result(monkeypatch, entry):
    bounds = Bounds(ROWS, 2, 50.0, 1000.0)
    words = opened(monkeypatch, np.full((ROWS, 2), entry, np.int64), TO_B, bounds)
    hiding = 2 * (VECTOR_DEVIATION * 50.0) ** 2
    hidden = ROWS * (VECTOR_DEVIATION * entry) ** 2
    assert abs(words.std() / (hiding + hidden) ** 0.5 - 1) < 0.1
    assert hiding >= np.linalg.eigvalsh(np.full((2, 2), float(hidden))).max()


def test_what_the_matrix_holder_gets_is_rounded_without_bias(monkeypatch):
    rows, exact, sent = 4000, [], []
    encrypt, products = lattice.encrypt_all, DenseMatrix.products

    def spy(*args):
        exact.append(encrypt(*args).copy())
        return exact[-1]

    def hear(self, vectors):
        sent.append(vectors.copy())
        return products(self, vectors)

    monkeypatch.setattr(lattice, "encrypt_all", spy)
    monkeypatch.setattr(DenseMatrix, "products", hear)
    assert_exact(np.ones((rows, 1), np.int64), [(np.full((3, rows), 77), recipient) for recipient in Recipient])
    errors = (np.concatenate(sent) - np.concatenate(exact)).view(np.int64)
    values, counts = np.unique(errors, return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(counts / errors.size, [0.125, 0.25, 0.25, 0.25, 0.125], atol=0.012)
    assert abs(errors.mean()) < 4 * (ROUNDING_VARIANCE / errors.size) ** 0.5
    assert abs(errors.var() / ROUNDING_VARIANCE - 1) < 0.03


def test_sides_do_not_print_and_have_no_secrets_to_pickle():
    bounds = Bounds(2, 1, 5.0, 5.0)

    def keep(dialogue):
        return (yield from dialogue)

    sides = converse(
        {
            A: keep(hold_vectors(SCHEME, bounds, peer=B, prg=Prg(b"a" * 32))),
            B: keep(hold_matrix(SCHEME, DenseMatrix(np.ones((1, 2), np.int64)), bounds, peer=A, prg=Prg(b"b" * 32))),
        }
    )
    for side in sides.values():
        with pytest.raises(UsageError):
            pickle.dumps(side)


# --- what peers may get wrong ------------------------------------------------------------------------------------

SMALL = Bounds(3, 2, 5.0, 5.0)
MATRIX = np.array([[1, 2], [0, 1], [2, 0]], np.int64)
TERMS = Terms.of(SMALL)
HELLO = Opening(TERMS, b"x" * 32)
GOOD_A = np.zeros((2, DEGREE), np.uint64)
GOOD_B = np.zeros((2, 2), np.uint64)
TOO_LARGE = np.array([[PRIMES[0]], [0]], np.uint64)


def rogue_vectors(*, opening=HELLO, call=None, hidden=None, query=None, unmask=None):
    yield from send(B, opening)
    theirs = yield from receive(B, Opening)
    naming = _naming(TERMS, lattice._digest(b"public", opening.contribution, theirs.contribution))
    for _ in range(2):
        naming.update((yield from receive_array(B, np.uint64, Shape(1, 1, 2, DEGREE))).data)
    yield from send(B, call or Call(1, TO_B.value, naming.digest()))
    yield from send_array(B, np.zeros((1, SHORT), np.uint64) if hidden is None else hidden)
    yield from send(B, query or Query(GOOD_A, GOOD_B))
    yield from send(B, unmask or Unmask(np.zeros((1, 2), np.uint64)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"opening": Opening(replace(TERMS, rows=4), b"x" * 32)},
        {"opening": Opening(replace(TERMS, columns=3), b"x" * 32)},
        {"opening": Opening(replace(TERMS, vector_norm=float("nan")), b"x" * 32)},
        {"opening": Opening(TERMS, b"x" * 31)},
        {"call": Call(2, TO_B.value, b"")},
        {"call": Call(1, TO_A.value, b"")},
        {"call": Call(1, TO_B.value, b"another")},
        {"hidden": np.zeros((2, SHORT), np.uint64)},
        {"hidden": np.zeros((1, SHORT), np.int64)},
        {"hidden": np.zeros((1, SHORT + 1), np.uint64)},
        {"hidden": np.zeros(3, np.uint64)},
        {"query": Query(GOOD_A[:0], GOOD_B)},
        {"query": Query(np.concatenate([GOOD_A, GOOD_A]), GOOD_B)},
        {"query": Query(GOOD_A, GOOD_B[:, :1])},
        {"query": Query(GOOD_A + TOO_LARGE, GOOD_B)},
        {"query": Query(GOOD_A, GOOD_B + TOO_LARGE)},
        {"unmask": Unmask(np.zeros((1, 3), np.uint64))},
        {"unmask": Unmask(np.zeros((2, 2), np.uint64))},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_matrix_holder_refuses_malformed_messages(wrong):
    with pytest.raises(RemoteProtocolError, match=r"^a: "):
        converse({A: rogue_vectors(**wrong), B: matrix_holder(MATRIX, SMALL, [(1, TO_B)])})


NONE = np.zeros((1, 1, 2, DEGREE), np.uint64)


def rogue_matrix(*, opening=HELLO, hint=(NONE, NONE), answer=None):
    yield from send(A, opening)
    yield from receive(A, Opening)
    for piece in hint:
        yield from send_array(A, piece)
    yield from receive(A, Call)
    yield from receive_array(A, np.uint64, Shape(1, SHORT))
    yield from receive(A, Query)
    yield from send(A, answer or Answer(np.zeros((1, 2), np.uint64)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"opening": Opening(replace(TERMS, vector_norm=6.0), b"x" * 32)},
        {"hint": (NONE, np.concatenate([NONE, NONE]))},
        {"hint": (NONE[:, :, :1], NONE)},
        {"hint": (NONE, NONE[:, :0])},
        {"hint": (NONE + TOO_LARGE, NONE)},
        {"hint": (NONE, NONE + TOO_LARGE)},
        {"answer": Answer(np.zeros((1, 1), np.uint64))},
        {"answer": Answer(np.zeros((2, 2), np.uint64))},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_vector_holder_refuses_malformed_messages(wrong):
    batch = (np.ones((1, 3), np.int64), TO_A)
    with pytest.raises(RemoteProtocolError, match=r"^b: "):
        converse({A: vector_holder([batch], SMALL), B: rogue_matrix(**wrong)})


def test_a_product_beyond_the_bounds_is_refused():
    bounds = Bounds(3, 200, 5.0, 5.0)
    matrix = np.ones((3, 200), np.int64)

    def liar():
        side = yield from hold_matrix(SCHEME, DenseMatrix.of(matrix), bounds, peer=A, prg=Prg(b"b" * 32))
        inner, answer = side.multiply(1, TO_A), None
        while True:
            effect = inner.send(answer)
            if isinstance(effect, Send):
                yield from send(A, Answer(Prg(b"z" * 32).words(200).reshape(1, 200)))
                return
            answer = yield effect

    with pytest.raises(RemoteProtocolError, match=r"^b: a product exceeds"):
        converse({A: vector_holder([(np.ones((1, 3), np.int64), TO_A)], bounds), B: liar()})


def test_own_arguments_are_checked():
    bad = np.full((3, 2), 100, np.int64)
    with pytest.raises(UsageError, match="norm"):
        next(SCHEME.set_up_matrix(DenseMatrix.of(bad), SMALL, peer=A, prg=Prg.fresh()))
    with pytest.raises(UsageError, match="norm"):
        converse({A: vector_holder([(bad.T[:1] * 9, TO_A)], SMALL), B: matrix_holder(MATRIX, SMALL, [(1, TO_A)])})


def test_the_bytes_are_those_of_the_documentation():
    rows, columns = 600, 12  # three blocks of 256 rows, the last one begun
    bounds = Bounds(rows, columns, 30.0, 30.0)
    sent_a, sent_b = [], []
    vectors = np.ones((1, rows), np.int64)
    converse(
        {
            A: recorded(vector_holder([(vectors, TO_A)], bounds), sent_a),
            B: recorded(matrix_holder(np.ones((rows, columns), np.int64), bounds, [(1, TO_A)]), sent_b),
        }
    )
    envelope = 100
    set_up = sum(map(len, sent_b[:-1]))
    assert 0 <= set_up - 5 * 2**17 < envelope * len(sent_b)
    assert 0 <= len(sent_b[-1]) - 8 * columns < envelope
    per_vector = sum(map(len, sent_a[1:]))
    assert 0 <= per_vector - (3 * 1984 + 2**17 + 16 * columns) < envelope * len(sent_a)


def test_the_wire_is_pinned():
    """A change of this digest needs a higher version of a message, or of the scheme's own digests."""
    digest = hashlib.sha256(b"".join(frames(VECTORS, recipient=TO_B))).hexdigest()
    assert digest == "1340807545f9af2bd8b1a013d4b31910053c1a8e556937ae052fd12ac6672ff8"
