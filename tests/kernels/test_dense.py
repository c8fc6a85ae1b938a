import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.kernels import dense

TYPES = [np.int8, np.int16, np.int32, np.int64]


def matrix(dtype, columns, rows, seed):
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    entries = rng.integers(limits.min, limits.max, (columns, rows), dtype, endpoint=True)
    extreme = rng.choice(np.array([limits.min, limits.max, -1, 0, 1], dtype), (columns, rows))
    return np.where(rng.random((columns, rows)) < 0.5, entries, extreme)


def words(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, rng.integers(2**63)], np.uint64), shape)


def by_integers(columns, vectors):
    # Python's integers; modulo 2^64 only at the end
    exact = vectors.astype(object) @ columns.T.astype(object)
    return np.array(exact % 2**64, np.uint64).reshape(len(vectors), len(columns))


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(TYPES), st.integers(0, 3), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32))
@example(np.int16, 2, 1, 1, 0)
@example(np.int8, 2, 2049, 3, 0)
@example(np.int64, 1, 4103, 2, 0)
@example(np.int32, 1, 4096, 1, 0)
def test_products_are_those_of_exact_integers(dtype, columns, rows, count, seed):
    m, vectors = matrix(dtype, columns, rows, seed), words((count, rows), seed)
    found = dense.products(m, vectors)
    assert found.flags.c_contiguous
    assert np.array_equal(found, by_integers(m, vectors))


@pytest.mark.parametrize("dtype", TYPES)
def test_vector_and_scalar_products_agree(monkeypatch, dtype):
    m = matrix(dtype, 3, 5003, 1)
    vectors = np.random.default_rng(2).integers(0, 2**64, (3, 5003), np.uint64)
    found = dense.products(m, vectors)
    monkeypatch.setattr(dense, "_wide", dense.scalar_products)
    monkeypatch.setattr(dense, "_narrow", dense.scalar_products)
    assert np.array_equal(dense.products(m, vectors), found)


def test_no_rows_give_zeros():
    assert dense.products(np.zeros((3, 0), np.int16), np.zeros((2, 0), np.uint64)).tolist() == [[0] * 3] * 2


def test_threads_change_nothing(monkeypatch):
    m, vectors = matrix(np.int16, 5, 100, 0), words((2, 100), 1)
    monkeypatch.setenv("UNSEEN_THREADS", "1")
    alone = dense.products(m, vectors)
    monkeypatch.setenv("UNSEEN_THREADS", "3")
    assert np.array_equal(dense.products(m, vectors), alone)


@pytest.mark.parametrize(
    ("columns", "vectors"),
    [
        (np.zeros((2, 3), np.uint16), np.zeros((1, 3), np.uint64)),
        (np.zeros((2, 3)), np.zeros((1, 3), np.uint64)),
        (np.zeros((3, 2), np.int16).T, np.zeros((1, 3), np.uint64)),
        (np.zeros(3, np.int16), np.zeros((1, 3), np.uint64)),
        (np.zeros((2, 3), np.int16), np.zeros((1, 4), np.uint64)),
        (np.zeros((2, 3), np.int16), np.zeros((1, 3), np.int64)),
        (np.zeros((2, 3), np.int16), np.zeros(3, np.uint64)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(columns, vectors):
    with pytest.raises(UsageError):
        dense.products(columns, vectors)
