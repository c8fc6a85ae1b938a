import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.kernels import binned

bins_of_features = st.lists(st.sampled_from([1, 2, 3, 17, 256]), max_size=5)
seeds = st.integers(0, 2**32)


def table(bins, rows, seed, skewed=False):
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, count, rows) for count in bins], np.uint8).reshape(len(bins), rows)
    if skewed:
        codes[:, rng.random(rows) < 0.9] = 0
    return codes, np.concatenate([[0], np.cumsum(bins)]).astype(np.int64)


def words(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 2**63, 2**64 - 1, rng.integers(2**63)], np.uint64), shape)


def added_up(codes, offsets, vectors):
    out = np.zeros((len(vectors), offsets[-1]), np.uint64)
    for k, vector in enumerate(vectors):
        for feature, code in enumerate(codes):
            np.add.at(out[k], offsets[feature] + code.astype(np.int64), vector)
    return out


def with_scalars(monkeypatch):
    monkeypatch.setattr(binned, "_sums_of_one", binned.scalar_sums)
    monkeypatch.setattr(binned, "_sums_of_eight", binned.scalar_sums)
    monkeypatch.setattr(binned, "_add_hint", binned.scalar_add_hint)


@settings(deadline=None, derandomize=True)
@given(bins_of_features, st.integers(0, 1200), st.integers(0, 17), seeds)
@example([], 3, 2, 0)
@example([256, 1], 1, 1, 0)
@example([256, 1, 2], 5000, 1, 0)
@example([256, 1, 2], 1025, 9, 0)
def test_sums_are_those_of_numpy(bins, rows, count, seed):
    codes, offsets = table(bins, rows, seed)
    vectors = words((count, rows), seed)
    found = binned.sums(codes, offsets, vectors)
    assert found.flags.c_contiguous
    assert np.array_equal(found, added_up(codes, offsets, vectors))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("skewed", [False, True])
def test_vector_and_scalar_sums_agree(monkeypatch, count, skewed):
    codes, offsets = table([32, 5, 256], 3001, 1, skewed)
    vectors = np.random.default_rng(2).integers(0, 2**64, (count, 3001), np.uint64)
    found = binned.sums(codes, offsets, vectors)
    with_scalars(monkeypatch)
    assert np.array_equal(binned.sums(codes, offsets, vectors), found)


def test_vectors_may_be_a_view_and_read_only():
    codes, offsets = table([4], 100, 0)
    codes.setflags(write=False)
    vectors = words((100, 3), 5)
    vectors.setflags(write=False)
    assert np.array_equal(binned.sums(codes, offsets, vectors.T), added_up(codes, offsets, vectors.T))


def public_matrix(polynomials):
    """Return A as defined: row 512·t + i, column 512·κ + j is the coefficient of X^i in a[t, κ]·X^j."""
    blocks, rank, degree = polynomials.shape
    a = np.zeros((blocks, degree, rank, degree), np.uint64)
    for j in range(degree):
        # multiplication by X^j: what leaves at the top comes back below with the other sign
        a[:, :, :, j] = np.concatenate(
            [np.uint64(0) - polynomials[:, :, degree - j :], polynomials[:, :, : degree - j]], axis=2
        ).swapaxes(1, 2)
    return a.reshape(blocks * degree, rank * degree)


def hint_by_definition(codes, offsets, polynomials):
    a = public_matrix(polynomials)[: codes.shape[1]]
    out = np.zeros((offsets[-1], a.shape[1]), np.uint64)
    for feature, code in enumerate(codes):
        np.add.at(out, offsets[feature] + code.astype(np.int64), a)
    return out


@settings(deadline=None, derandomize=True, max_examples=12)
@given(st.lists(st.sampled_from([1, 2, 17, 256]), max_size=3), st.integers(1, 1100), st.booleans(), seeds)
@example([], 5, False, 0)
@example([1, 3], 1, False, 0)
@example([2, 256], 512, False, 0)
@example([5], 1024, True, 0)
@example([5], 1023, True, 0)
def test_hint_is_that_of_the_definition(bins, rows, skewed, seed):
    codes, offsets = table(bins, rows, seed, skewed)
    polynomials = words((-(-rows // 512), 2, 512), seed)
    out = np.full((offsets[-1], 1024), 2**63, np.uint64)
    binned.add_hint(codes, offsets, polynomials, out)
    assert np.array_equal(out - np.uint64(2**63), hint_by_definition(codes, offsets, polynomials))


@pytest.mark.parametrize("rows", [513, 4700])
def test_vector_and_scalar_hints_agree(monkeypatch, rows):
    codes, offsets = table([32, 1, 256], rows, 3)
    polynomials = np.random.default_rng(4).integers(-(2**63), 2**63, (-(-rows // 512), 2, 512))
    found, again = np.zeros((2, offsets[-1], 1024), np.uint64)
    binned.add_hint(codes, offsets, polynomials, found)
    with_scalars(monkeypatch)
    binned.add_hint(codes, offsets, polynomials, again)
    assert np.array_equal(found, again)


def test_hints_of_many_blocks_are_the_sum_of_those_of_their_parts():
    rows = 2 * 64 * 512 + 700
    codes, offsets = table([7, 2], rows, 5)
    polynomials = np.random.default_rng(6).integers(0, 2**64, (130, 1, 512), np.uint64)
    whole, parts = np.zeros((2, 9, 512), np.uint64)
    binned.add_hint(codes, offsets, polynomials, whole)
    for block in range(0, 130, 10):
        some = np.ascontiguousarray(codes[:, 512 * block : 512 * (block + 10)])
        binned.add_hint(some, offsets, polynomials[block : block + 10], parts)
    assert np.array_equal(whole, parts)


def test_threads_change_nothing(monkeypatch):
    codes, offsets = table([7, 2, 9, 256, 3], 3000, 5)
    polynomials, vectors = words((6, 1, 512), 1), words((3, 3000), 2)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("UNSEEN_THREADS", threads)
        out = np.zeros((offsets[-1], 512), np.uint64)
        binned.add_hint(codes, offsets, polynomials, out)
        found.append((out.tolist(), binned.sums(codes, offsets, vectors).tolist()))
    assert found[0] == found[1]


def test_right_codes_pass():
    binned.check_codes(*table([1, 256, 3], 1000, 0))
    binned.check_codes(*table([], 10, 0))
    binned.check_codes(*table([2], 0, 0))


@pytest.mark.parametrize(
    ("codes", "offsets", "complaint"),
    [
        (np.array([[0, 1], [0, 3]], np.uint8), [0, 2, 5], "feature 1 has 3 bins, found the code 3"),
        (np.zeros((1, 2), np.uint8), [1, 2], "start at 0"),
        (np.zeros((2, 2), np.uint8), [0, 0, 2], "1 to 256 bins"),
        (np.zeros((1, 2), np.uint8), [0, 257], "1 to 256 bins"),
        (np.zeros((1, 2), np.uint8), [0], "expected 2 int64 offsets"),
        (np.zeros((1, 2), np.int8), [0, 1], "uint8"),
        (np.zeros((2, 2), np.uint8).T, [0, 1, 2], "contiguous"),
        (np.zeros(2, np.uint8), [0, 1, 2], "features, rows"),
    ],
)
def test_wrong_codes_are_refused(codes, offsets, complaint):
    with pytest.raises(UsageError, match=complaint):
        binned.check_codes(codes, np.array(offsets, np.int64))


@pytest.mark.parametrize("vectors", [np.zeros((1, 4), np.uint64), np.zeros((1, 3)), np.zeros(3, np.uint64)])
def test_vectors_that_do_not_fit_are_refused(vectors):
    with pytest.raises(UsageError, match="expected words"):
        binned.sums(*table([2], 3, 0), vectors)


@pytest.mark.parametrize(
    ("polynomials", "out"),
    [
        (np.zeros((1, 5, 512), np.uint64), np.zeros((2, 2560), np.uint64)),
        (np.zeros((2, 5, 256), np.uint64), np.zeros((2, 2560), np.uint64)),
        (np.zeros((2, 5, 512)), np.zeros((2, 2560), np.uint64)),
        (np.zeros((2, 5, 512), np.uint64), np.zeros((3, 2560), np.uint64)),
        (np.zeros((2, 5, 512), np.uint64), np.zeros((2, 2560), np.int64)),
        (np.zeros((2, 5, 512), np.uint64), np.zeros((2560, 2), np.uint64).T),
    ],
)
def test_hints_that_do_not_fit_are_refused(polynomials, out):
    with pytest.raises(UsageError):
        binned.add_hint(*table([2], 600, 0), polynomials, out)
