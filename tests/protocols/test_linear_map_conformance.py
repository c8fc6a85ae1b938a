"""What every scheme for Mᵀv must do. A new scheme is one more line in ``SCHEMES``."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import decode, encode_bytes, message
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayHeader, Send, converse
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.lattice import Lattice
from unseen.protocols.linear_map.matrices import BinnedMatrix, DenseMatrix
from unseen.protocols.linear_map.paillier import Paillier
from unseen.protocols.linear_map.plain import Plain
from unseen.protocols.linear_map.port import Bounds, Recipient, hold_matrix, hold_vectors, reconstruct

SCHEMES = [
    Plain(simulation=True),
    Paillier(key_bits=2048),
    Lattice(),
]
UNPROTECTED = {"plain"}
WITHOUT_RESIDUES = {"paillier"}

VICKY, MAX, MIA = PartyId("vicky"), PartyId("max"), PartyId("mia")
SLOW = settings(deadline=None, derandomize=True, max_examples=8)

each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
each_recipient = pytest.mark.parametrize("recipient", list(Recipient), ids=lambda recipient: recipient.value)
each_with_residues = pytest.mark.parametrize(
    "scheme", [each for each in SCHEMES if each.name not in WITHOUT_RESIDUES], ids=lambda scheme: scheme.name
)


# --- driving a scheme --------------------------------------------------------------------------------------------


def prg(label):
    return Prg(bytes(range(32))).derive(label)


def matrix_dialogue(scheme, matrix, bounds, calls, *, seed="matrix"):
    """Set up, then answer each of ``calls``: (count, recipient)."""
    side = yield from hold_matrix(scheme, as_matrix(matrix), bounds, peer=VICKY, prg=prg(seed))
    return (yield from answering(side, calls))


def answering(side, calls):
    results = []
    for count, recipient in calls:
        results.append((yield from side.multiply(count, recipient)))
    return results


def vector_dialogue(scheme, bounds, calls, *, peer=MAX, seed="vectors"):
    """Set up, then submit each of ``calls``: (vectors, recipient)."""
    side = yield from hold_vectors(scheme, bounds, peer=peer, prg=prg(seed))
    return (yield from asking(side, calls))


def asking(side, calls):
    results = []
    for vectors, recipient in calls:
        results.append((yield from side.multiply(vectors, recipient)))
    return results


def as_matrix(matrix):
    return DenseMatrix.of(matrix) if isinstance(matrix, np.ndarray) else matrix


def table(matrix):
    """Return a matrix, rows × columns."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.rows_of(slice(0, matrix.rows))


def run(scheme, matrix, bounds, calls):
    """Return the results of the matrix holder and of the vector holder."""
    counts = [(len(vectors), recipient) for vectors, recipient in calls]
    done = converse(
        {MAX: matrix_dialogue(scheme, matrix, bounds, counts), VICKY: vector_dialogue(scheme, bounds, calls)}
    )
    return done[MAX], done[VICKY]


def recorded(dialogue, log):
    """Pass a dialogue through, and append the frames it sends to ``log``."""

    def note(sent):
        log.append(encode_bytes(sent))
        return sent

    return tampered(dialogue, note)


def tampered(dialogue, change: Callable[[object], object]):
    """Pass a dialogue through, with ``change`` applied to every message it sends."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield (replace(effect, message=change(effect.message)) if isinstance(effect, Send) else effect)


def ints(*rows, width):
    return np.array(rows, np.int64).reshape(len(rows), width)


def bounds_for(matrix, vectors):
    """Return the tightest bounds."""
    entries = table(matrix).astype(float)
    columns = np.sqrt(np.square(entries).sum(axis=0)).max(initial=1.0)
    norms = np.sqrt(np.square(vectors.astype(float)).sum(axis=1)).max(initial=1.0)
    return Bounds(*entries.shape, column_norm=columns, vector_norm=norms)


def exactly(vectors, matrix, wrap=None):
    """Return Mᵀv for every vector, in Python's integers, centred if they are residues."""
    entries = table(matrix)
    product = (vectors.astype(object) @ entries.astype(object)).reshape(len(vectors), entries.shape[1])
    if wrap is not None:
        product = (product + (1 << (wrap - 1))) % (1 << wrap) - (1 << (wrap - 1))
    return product.astype(np.int64)


def check_result(scheme, bounds, recipient, mine, theirs, expected):
    """Compare what the matrix holder and the vector holder got of one call with what they should get."""
    if recipient is Recipient.SHARED:
        assert mine.shape == theirs.shape == expected.shape
        got = reconstruct(mine, theirs, scheme.share_shift(bounds))
    else:
        got, other = (mine, theirs) if recipient is Recipient.MATRIX_HOLDER else (theirs, mine)
        assert other is None
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, expected)


def check_exact(scheme, matrix, calls, bounds=None):
    """Run ``calls`` and compare what the recipients, and only they, get."""
    bounds = bounds or bounds_for(matrix, np.concatenate([vectors for vectors, _ in calls]))
    for_matrix, for_vectors = run(scheme, matrix, bounds, calls)
    for (vectors, recipient), mine, theirs in zip(calls, for_matrix, for_vectors, strict=True):
        check_result(scheme, bounds, recipient, mine, theirs, exactly(vectors, matrix, bounds.wrap))


# --- exactness ---------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    rows, columns, count = draw(st.integers(1, 6)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    binned = draw(st.booleans())
    size = 1 << draw(st.integers(0, 17))
    entries = st.one_of(st.just(0), st.sampled_from([-1, 1]), st.integers(-size, size))
    vectors = draw(st.lists(entries, min_size=rows * count, max_size=rows * count))
    cells = draw(st.lists(st.integers(0, 2) if binned else entries, min_size=rows * columns, max_size=rows * columns))
    matrix = np.array(cells, np.int64).reshape(rows, columns)
    if binned:
        matrix = BinnedMatrix(matrix.T.astype(np.uint8), (3,) * columns)
    return matrix, np.array(vectors, np.int64).reshape(count, rows)


@each_scheme
@each_recipient
@SLOW
@given(problem=problems())
def test_the_recipient_and_nobody_else_gets_the_exact_product(scheme, recipient, problem):
    matrix, vectors = problem
    check_exact(scheme, matrix, [(vectors, recipient)])


@each_scheme
def test_several_calls_follow_one_setup(scheme):
    matrix = ints((1, -2), (0, 3), (5, 0), width=2)
    first, second = ints((1, 2, 3), (-1, 0, 7), width=3), ints((4, -4, 0), width=3)
    check_exact(scheme, matrix, [(first, Recipient.VECTOR_HOLDER), *((second, each) for each in Recipient)])


@each_scheme
@each_recipient
@pytest.mark.parametrize(
    ("matrix", "vectors"),
    [
        pytest.param(ints((3, -7, 0), width=3), ints((-5,), width=1), id="one row"),
        pytest.param(ints((), (), width=0), ints((1, -1), width=2), id="no columns"),
        pytest.param(ints((1,), (2,), width=1), ints(width=2), id="no vectors"),
        pytest.param(ints((), (), width=0), ints(width=2), id="no columns and no vectors"),
        pytest.param(ints((0, 0), (0, 0), width=2), ints((9, -9), width=2), id="zero matrix"),
        pytest.param(ints((4, 5), (6, 7), width=2), ints((0, 0), width=2), id="zero vector"),
        pytest.param(ints((1, 0), (1, 0), (0, 1), width=2), ints((-2, 2, 5), width=3), id="indicators"),
        pytest.param(BinnedMatrix(np.zeros((0, 2), np.uint8), ()), ints((1, -1), width=2), id="no bins"),
        pytest.param(BinnedMatrix(np.array([[1], [0]], np.uint8), (2, 1)), ints((7,), width=1), id="one binned row"),
    ],
)
def test_degenerate_sizes_are_no_special_case(scheme, recipient, matrix, vectors):
    check_exact(scheme, matrix, [(vectors, recipient)])


@each_scheme
def test_arrays_need_not_be_contiguous_or_writable(scheme):
    values, vectors = np.asfortranarray(ints((1, 2), (3, -4), width=2)), ints((1, 9), (-2, 9), width=2)[:, ::-1]
    values.setflags(write=False)
    vectors.setflags(write=False)
    check_exact(scheme, DenseMatrix(values), [(vectors, Recipient.VECTOR_HOLDER)])


@each_scheme
@each_recipient
def test_more_vectors_than_any_batch_are_exact(scheme, recipient):
    matrix, vectors = ints((1, -2), (3, 4), width=2), np.arange(20, dtype=np.int64).reshape(10, 2) - 9
    check_exact(scheme, matrix, [(vectors, recipient), (vectors[:8], recipient)])


@each_scheme
def test_several_submissions_may_wait_for_their_products(scheme):
    matrix = ints((1, -2), (3, 4), width=2)
    calls = [(ints((k, -k), width=2), recipient) for k, recipient in enumerate([*Recipient, *Recipient])]
    calls.insert(1, (ints(width=2), Recipient.VECTOR_HOLDER))
    bounds = bounds_for(matrix, np.concatenate([vectors for vectors, _ in calls]))

    def vicky():
        side = yield from hold_vectors(scheme, bounds, peer=MAX, prg=prg("vectors"))
        for vectors, recipient in calls:
            yield from side.submit(vectors, recipient)
        results = []
        for _ in calls:
            results.append((yield from side.collect()))  # noqa: PERF401  # a comprehension cannot yield
        with pytest.raises(LocalProtocolError, match="submit some first"):
            next(side.collect())
        return results

    counts = [(len(vectors), recipient) for vectors, recipient in calls]
    done = converse({MAX: matrix_dialogue(scheme, matrix, bounds, counts), VICKY: vicky()})
    for (vectors, recipient), mine, theirs in zip(calls, done[MAX], done[VICKY], strict=True):
        check_result(scheme, bounds, recipient, mine, theirs, exactly(vectors, matrix))


# --- residues ----------------------------------------------------------------------------------------------------


@each_with_residues
@each_recipient
@pytest.mark.parametrize("bits", [1, 20, 45])
def test_residues_wrap_exactly(scheme, recipient, bits):
    rng = np.random.default_rng(bits)
    matrix = BinnedMatrix(rng.integers(0, 3, (2, 40)).astype(np.uint8), (3, 4))
    vectors = rng.integers(0, 1 << bits, (3, 40))
    vectors[1], vectors[2] = 0, (1 << bits) - 1
    bounds = Bounds(40, 7, column_norm=40**0.5, vector_norm=1.0, wrap=bits)
    check_exact(scheme, matrix, [(vectors, recipient)], bounds)


@each_with_residues
def test_residues_of_a_dense_matrix_wrap_exactly(scheme):
    rng = np.random.default_rng(3)
    matrix, vectors = rng.integers(-9, 10, (30, 3)), rng.integers(0, 1 << 41, (2, 30))
    bounds = Bounds(30, 3, column_norm=50.0, vector_norm=1.0, wrap=41)
    check_exact(scheme, matrix, [(vectors, recipient) for recipient in Recipient], bounds)


def test_a_scheme_without_residues_says_why():
    with pytest.raises(UsageError, match="whole results, which are more than was agreed"):
        Paillier().check(Bounds(2, 2, 2.0, 2.0, wrap=10))


# --- set-ups that are kept ---------------------------------------------------------------------------------------


def set_up(scheme, matrix, bounds):
    """Return the set-ups of the matrix holder and of the vector holder."""
    done = converse(
        {
            MAX: scheme.set_up_matrix(as_matrix(matrix), bounds, peer=VICKY, prg=prg("matrix")),
            VICKY: scheme.set_up_vectors(bounds, peer=MAX, prg=prg("vectors")),
        }
    )
    return done[MAX], done[VICKY]


def reloaded(setup):
    return decode(type(setup), encode_bytes(setup))


def use(setups, matrix, calls, *, seed, log=None):
    """Return what both holders get in a dialogue that uses kept set-ups."""
    log = [] if log is None else log
    mine, theirs = (reloaded(setup) for setup in setups)
    counts = [(len(vectors), recipient) for vectors, recipient in calls]
    done = converse(
        {
            MAX: answering(mine.side(as_matrix(matrix), peer=VICKY, prg=prg(f"{seed}/matrix")), counts),
            VICKY: recorded(asking(theirs.side(peer=MAX, prg=prg(f"{seed}/vectors")), calls), log),
        }
    )
    return done[MAX], done[VICKY]


@each_scheme
def test_a_kept_set_up_serves_later_dialogues(scheme):
    matrix = BinnedMatrix(np.array([[0, 1, 1, 0], [2, 0, 1, 2]], np.uint8), (2, 3))
    vectors = ints((1, -2, 3, 4), (0, 0, 5, -6), width=4)
    bounds = bounds_for(matrix, vectors)
    setups = set_up(scheme, matrix, bounds)
    assert setups[0].name == setups[1].name == reloaded(setups[0]).name
    for seed in ("first", "second"):
        calls = [(vectors, recipient) for recipient in Recipient]
        for (_, recipient), mine, theirs in zip(calls, *use(setups, matrix, calls, seed=seed), strict=True):
            check_result(scheme, bounds, recipient, mine, theirs, exactly(vectors, matrix))


@each_scheme
def test_a_kept_set_up_is_for_one_matrix(scheme):
    mine, _ = set_up(scheme, MATRIX, BOUNDS)
    with pytest.raises(UsageError, match="set up for another matrix"):
        mine.side(as_matrix(MATRIX + 1), peer=VICKY, prg=prg("x"))


@each_scheme
def test_a_kept_set_up_shows_no_secret(scheme):
    for setup in set_up(scheme, MATRIX, BOUNDS):
        shown = repr(setup)
        assert len(shown) < 2000
        secret = getattr(setup, "key_seed", b"no secret")
        assert str(secret)[2:-1] not in shown
        assert secret.hex() not in shown


@each_scheme
def test_holders_with_different_set_ups_notice(scheme):
    bounds = replace(BOUNDS, vector_norm=20.0)
    mine, _ = set_up(scheme, MATRIX, BOUNDS)
    _, theirs = set_up(scheme, MATRIX, bounds)
    with pytest.raises(RemoteProtocolError, match="vicky: it uses the set-up"):
        use((mine, theirs), MATRIX, [(VECTORS, Recipient.VECTOR_HOLDER)], seed="x")


# --- capacity ----------------------------------------------------------------------------------------------------


def accepts(scheme, bounds):
    try:
        scheme.check(bounds)
    except UsageError:
        return False
    return True


def largest_bounds(scheme, *, rows, columns, column_norm, recipient=None):
    """Return the largest bounds, by a power of two, that a scheme carries."""
    bounds = Bounds(rows, columns, column_norm, 1.0, recipient=recipient)
    assert accepts(scheme, bounds)
    while accepts(scheme, larger := replace(bounds, vector_norm=2 * bounds.vector_norm)):
        bounds = larger
        assert bounds.vector_norm < 2.0**100, "the scheme claims to carry everything"
    return bounds


@each_scheme
@each_recipient
@pytest.mark.parametrize("alone", [False, True], ids=["any", "alone"])
def test_values_at_the_bounds_are_exact(scheme, recipient, alone):
    agreed = recipient if alone else None
    bounds = largest_bounds(scheme, rows=3, columns=2, column_norm=2.0**10, recipient=agreed)
    assert bounds.result >= 2.0**30, "a scheme that carries less is of no use to the learners"
    high, far = 1 << 10, int(bounds.vector_norm)
    matrix = ints((high, 0), (0, -high), (0, 0), width=2)
    vectors = ints((far, 0, 0), (0, far, 0), (-far, 0, 0), (0, 0, far), width=3)
    check_exact(scheme, matrix, [(vectors, recipient)], bounds)


@each_scheme
@each_recipient
def test_only_the_agreed_recipient_is_served(scheme, recipient):
    other = Recipient.SHARED if recipient is not Recipient.SHARED else Recipient.MATRIX_HOLDER
    bounds = replace(BOUNDS, recipient=other)
    mine, theirs = set_up(scheme, MATRIX, bounds)
    with pytest.raises(UsageError, match="agreed is the"):
        next(mine.side(as_matrix(MATRIX), peer=VICKY, prg=prg("x")).multiply(1, recipient))
    with pytest.raises(UsageError, match="agreed is the"):
        next(theirs.side(peer=MAX, prg=prg("x")).submit(VECTORS, recipient))
    (found,), (share,) = use((mine, theirs), MATRIX, [(VECTORS, other)], seed="y")
    check_result(scheme, bounds, other, found, share, exactly(VECTORS, MATRIX))


@each_scheme
@each_recipient
def test_one_vector_holder_serves_several_matrix_holders(scheme, recipient):
    matrices = {MAX: ints((1, 2), (3, 4), width=2), MIA: BinnedMatrix(np.array([[1, 0]], np.uint8), (2,))}
    vectors = ints((7, -8), width=2)

    def vicky():
        sides = {}
        for peer, matrix in matrices.items():
            bounds = bounds_for(matrix, vectors)
            sides[peer] = yield from hold_vectors(scheme, bounds, peer=peer, prg=prg("vectors"))
        for side in sides.values():
            yield from side.submit(vectors, recipient)
        results = {}
        for peer, side in sides.items():
            results[peer] = yield from side.collect()
        return results

    holders = {
        peer: matrix_dialogue(scheme, matrix, bounds_for(matrix, vectors), [(1, recipient)], seed=peer)
        for peer, matrix in matrices.items()
    }
    done = converse({VICKY: vicky(), **holders})
    for peer, matrix in matrices.items():
        bounds, expected = bounds_for(matrix, vectors), exactly(vectors, matrix)
        check_result(scheme, bounds, recipient, done[peer][0], done[VICKY][peer], expected)


# --- refusals of our own side ------------------------------------------------------------------------------------

BOUNDS = Bounds(rows=2, columns=2, column_norm=10.0, vector_norm=10.0)
MATRIX = ints((1, 2), (3, 4), width=2)
VECTORS = ints((5, -6), (0, 1), width=2)


@each_scheme
@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(ints((1, 2, 3), (4, 5, 6), width=3), id="too many columns"),
        pytest.param(ints((1, 2), width=2), id="too few rows"),
        pytest.param(ints((8, 0), (8, 0), width=2), id="norm too large"),
    ],
)
def test_a_matrix_beyond_the_bounds_is_refused_before_anything_is_sent(scheme, matrix):
    with pytest.raises(UsageError):
        next(scheme.set_up_matrix(as_matrix(matrix), BOUNDS, peer=VICKY, prg=prg("x")))


@each_scheme
@pytest.mark.parametrize(
    "vectors",
    [
        pytest.param(ints((1, 2, 3), width=3), id="too long"),
        pytest.param(np.array([1, 2], np.int64), id="one axis"),
        pytest.param(VECTORS.astype(np.int32), id="narrow integers"),
        pytest.param(ints((8, 8), width=2), id="norm too large"),
    ],
)
def test_vectors_beyond_the_bounds_are_refused_before_anything_is_sent(scheme, vectors):
    log: list[bytes] = []
    in_setup: list[int] = []

    def vicky():
        side = yield from hold_vectors(scheme, BOUNDS, peer=MAX, prg=prg("x"))
        in_setup.append(len(log))
        return (yield from side.multiply(vectors, Recipient.VECTOR_HOLDER))

    holder = matrix_dialogue(scheme, MATRIX, BOUNDS, [(1, Recipient.VECTOR_HOLDER)])
    with pytest.raises(UsageError):
        converse({MAX: holder, VICKY: recorded(vicky(), log)})
    assert in_setup == [len(log)]


@each_scheme
def test_results_beyond_the_capacity_are_refused_before_anything_is_sent(scheme):
    huge = Bounds(2, 2, 2.0**40, 2.0**40)
    with pytest.raises(UsageError, match=r"\^|bits|norm"):
        scheme.check(huge)
    with pytest.raises(UsageError):
        next(scheme.set_up_matrix(as_matrix(MATRIX), huge, peer=VICKY, prg=prg("x")))
    with pytest.raises(UsageError):
        next(scheme.set_up_vectors(huge, peer=MAX, prg=prg("x")))


@each_scheme
def test_a_scheme_is_known_by_its_name(scheme):
    assert scheme.name == type(scheme).__name__.lower()


def test_plain_refuses_to_run_unless_told_that_it_is_a_simulation():
    with pytest.raises(UsageError, match="simulation=True"):
        Plain()


# --- randomness --------------------------------------------------------------------------------------------------


def frames(scheme, *, matrix=MATRIX, vectors=VECTORS, recipient=Recipient.MATRIX_HOLDER):
    """Return all that the matrix holder, and all that the vector holder, sends, with fixed seeds."""
    from_matrix: list[bytes] = []
    from_vectors: list[bytes] = []
    holder = matrix_dialogue(scheme, matrix, BOUNDS, [(len(vectors), recipient)])
    submitter = vector_dialogue(scheme, BOUNDS, [(vectors, recipient)])
    converse({MAX: recorded(holder, from_matrix), VICKY: recorded(submitter, from_vectors)})
    return from_matrix, from_vectors


def share_of_equal_bytes(left, right):
    """Compare the large frames at the same place: those that carry values."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if len(a) == len(b) > 200]
    assert pairs
    equal = sum(
        np.count_nonzero(np.frombuffer(a, np.uint8)[100:] == np.frombuffer(b, np.uint8)[100:]) for a, b in pairs
    )
    return equal / sum(len(a) - 100 for a, _ in pairs)


@each_scheme
@each_recipient
def test_the_same_seeds_send_the_same_bytes(scheme, recipient):
    assert frames(scheme, recipient=recipient) == frames(scheme, recipient=recipient)


protected = pytest.mark.parametrize(
    "scheme", [each for each in SCHEMES if each.name not in UNPROTECTED], ids=lambda scheme: scheme.name
)


def submitted(scheme, vectors, *, calls=1):
    """Return what the vector holder sends in each of several calls after the set-up."""
    logs: list[list[bytes]] = [[] for _ in range(calls)]

    def vicky():
        side = yield from hold_vectors(scheme, BOUNDS, peer=MAX, prg=prg("vectors"))
        for log in logs:
            yield from recorded(side.multiply(vectors, Recipient.VECTOR_HOLDER), log)

    counts = [(len(vectors), Recipient.VECTOR_HOLDER)] * calls
    converse({MAX: matrix_dialogue(scheme, MATRIX, BOUNDS, counts), VICKY: vicky()})
    return logs


@protected
def test_another_vector_under_the_same_seed_meets_other_randomness(scheme):
    # The vectors agree in one entry of two: what hides it must not.
    (first,) = submitted(scheme, ints((5, -6), width=2))
    (second,) = submitted(scheme, ints((5, -7), width=2))
    assert share_of_equal_bytes(first, second) < 0.5


@protected
def test_the_same_vector_again_meets_other_randomness(scheme):
    first, second = submitted(scheme, VECTORS, calls=2)
    assert share_of_equal_bytes(first, second) < 0.5


@protected
def test_another_matrix_under_the_same_seed_meets_other_randomness(scheme):
    first, _ = frames(scheme)
    second, _ = frames(scheme, matrix=ints((1, 2), (3, 5), width=2))
    assert share_of_equal_bytes(first, second) < 0.5


@each_scheme
def test_a_kept_set_up_sends_the_same_bytes_in_a_resumed_dialogue_and_fresh_ones_in_another(scheme):
    setups = set_up(scheme, MATRIX, BOUNDS)
    calls = [(VECTORS, recipient) for recipient in Recipient]
    one, again, other = [], [], []
    for seed, log in (("one", one), ("one", again), ("other", other)):
        use(setups, MATRIX, calls, seed=seed, log=log)
    assert one == again
    if scheme.name not in UNPROTECTED:
        assert share_of_equal_bytes(one, other) < 0.5


@protected
def test_a_share_alone_looks_uniform(scheme):
    # One vector again and again, zero, against a matrix of ones: nothing but randomness can move the shares.
    bounds = Bounds(1, 24, column_norm=2.0, vector_norm=2.0)
    vectors = np.zeros((3, 1), np.int64)
    for shares in run(scheme, np.ones((1, 24), np.int64), bounds, [(vectors, Recipient.SHARED)]):
        words = shares[0].view(np.uint64)
        assert len(np.unique(words)) == words.size
        bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert abs(bits - 0.5).max() < 0.5 * 5 / words.size**0.5


# --- peers that misbehave ----------------------------------------------------------------------------------------


@message("linear_map.test/nonsense")
class Nonsense:
    number: int


def nonsense_at(position):
    """Return a change that replaces the message at ``position`` with another kind."""
    seen = iter(range(1 << 30))
    return lambda sent: Nonsense(0) if next(seen) == position else sent


@each_scheme
def test_messages_of_a_wrong_kind_are_the_peers_fault(scheme):
    calls = [(VECTORS, Recipient.MATRIX_HOLDER)]
    from_matrix, from_vectors = frames(scheme)
    for position in range(len(from_matrix)):
        holder = matrix_dialogue(scheme, MATRIX, BOUNDS, [(2, Recipient.MATRIX_HOLDER)])
        with pytest.raises(RemoteProtocolError, match="max"):
            converse({MAX: tampered(holder, nonsense_at(position)), VICKY: vector_dialogue(scheme, BOUNDS, calls)})
    for position in range(len(from_vectors)):
        submitter = vector_dialogue(scheme, BOUNDS, calls)
        holder = matrix_dialogue(scheme, MATRIX, BOUNDS, [(2, Recipient.MATRIX_HOLDER)])
        with pytest.raises(RemoteProtocolError, match="vicky"):
            converse({MAX: holder, VICKY: tampered(submitter, nonsense_at(position))})


@each_scheme
@pytest.mark.parametrize(
    ("count", "recipient"),
    [
        pytest.param(3, Recipient.VECTOR_HOLDER, id="fewer vectors than agreed"),
        pytest.param(1, Recipient.VECTOR_HOLDER, id="more vectors than agreed"),
        pytest.param(2, Recipient.MATRIX_HOLDER, id="another recipient"),
    ],
)
def test_a_call_that_was_not_agreed_is_refused(scheme, count, recipient):
    holder = matrix_dialogue(scheme, MATRIX, BOUNDS, [(count, recipient)])
    submitter = vector_dialogue(scheme, BOUNDS, [(VECTORS, Recipient.VECTOR_HOLDER)])
    with pytest.raises(RemoteProtocolError, match=r"vicky|max"):
        converse({MAX: holder, VICKY: submitter})


@each_scheme
@pytest.mark.parametrize("other", [replace(BOUNDS, rows=3), replace(BOUNDS, columns=3)], ids=["rows", "columns"])
def test_parties_that_disagree_on_the_size_notice(scheme, other):
    vectors = np.ones((1, other.rows), np.int64)
    holder = matrix_dialogue(scheme, MATRIX, BOUNDS, [(1, Recipient.VECTOR_HOLDER)])
    submitter = vector_dialogue(scheme, other, [(vectors, Recipient.VECTOR_HOLDER)])
    with pytest.raises(RemoteProtocolError, match=r"vicky|max"):
        converse({MAX: holder, VICKY: submitter})


def cut(sent):
    """Shorten every array, announced sizes and all, along the first axis that the message leaves free."""
    if isinstance(sent, ArrayHeader):
        return replace(sent, shape=(*sent.shape[:-1], sent.shape[-1] // 2))
    for field in fields(sent):
        value = getattr(sent, field.name)
        if isinstance(value, np.ndarray):
            shorter = (replace(sent, **{field.name: np.delete(value, 0, axis)}) for axis in range(value.ndim))
            sent = next(each for each in shorter if can_be_sent(each))
    return sent


def can_be_sent(sent):
    try:
        encode_bytes(sent)
    except LocalProtocolError:
        return False
    return True


@each_scheme
def test_arrays_of_a_wrong_size_are_the_peers_fault(scheme):
    calls, answers = [(VECTORS, Recipient.VECTOR_HOLDER)], [(2, Recipient.VECTOR_HOLDER)]
    with pytest.raises(RemoteProtocolError, match="vicky"):
        converse(
            {
                MAX: matrix_dialogue(scheme, MATRIX, BOUNDS, answers),
                VICKY: tampered(vector_dialogue(scheme, BOUNDS, calls), cut),
            }
        )
    with pytest.raises(RemoteProtocolError, match="max"):
        converse(
            {
                MAX: tampered(matrix_dialogue(scheme, MATRIX, BOUNDS, answers), cut),
                VICKY: vector_dialogue(scheme, BOUNDS, calls),
            }
        )
