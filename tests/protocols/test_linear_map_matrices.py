"""Both kinds of matrices give the products and hints that their definition says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.lwe import PublicMatrix
from unseen.errors import UsageError
from unseen.protocols.linear_map.matrices import BinnedMatrix, DenseMatrix

FAST = settings(deadline=None, derandomize=True, max_examples=30)


@st.composite
def matrices(draw):
    """Return a matrix, and the same written out (rows, columns) in Python's integers."""
    rows, features = draw(st.integers(1, 40)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        bins = tuple(draw(st.lists(st.integers(1, 256), min_size=features, max_size=features)))
        codes = np.array([rng.integers(0, count, rows) for count in bins], np.uint8).reshape(features, rows)
        table = np.zeros((rows, sum(bins)), object)
        for feature, row in np.ndindex(features, rows):
            table[row, sum(bins[:feature]) + int(codes[feature, row])] = 1
        return BinnedMatrix(codes, bins), table
    kind = draw(st.sampled_from([np.int8, np.int16, np.int32, np.int64]))
    values = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, (features, rows), kind, endpoint=True)
    return DenseMatrix(values), values.T.astype(object)


@FAST
@given(matrices(), st.integers(0, 9), st.integers(0, 2**32))
def test_products_are_those_of_the_written_out_matrix(problem, count, seed):
    matrix, table = problem
    words = np.random.default_rng(seed).integers(0, 2**64, (count, matrix.rows), np.uint64)
    expected = (words.astype(object) @ table).reshape(count, matrix.columns) % 2**64
    found = matrix.products(words)
    assert found.dtype == np.uint64
    assert np.array_equal(found, expected.astype(np.uint64))
    assert np.array_equal(matrix.products(np.asfortranarray(words)), found)


@FAST
@given(matrices())
def test_sizes_norms_and_rows_are_those_of_the_written_out_matrix(problem):
    matrix, table = problem
    assert (matrix.rows, matrix.columns) == table.shape
    norms = np.sqrt((table.astype(float) ** 2).sum(axis=0))
    assert np.allclose(matrix.column_norms(), norms, rtol=1e-12)
    assert matrix.largest_entry() == max((abs(entry) for entry in table.flat), default=0)
    for rows in (slice(0, matrix.rows), slice(1, 3), slice(2, 2)):
        assert matrix.rows_of(rows).dtype == np.int64
        assert np.array_equal(matrix.rows_of(rows), table[rows])


def some_matrices(rows):
    rng = np.random.default_rng(rows)
    binned = BinnedMatrix(rng.integers(0, 3, (2, rows)).astype(np.uint8), (3, 5))
    return [binned, DenseMatrix.of(binned.rows_of(slice(0, rows))), DenseMatrix(rng.integers(-999, 999, (3, rows)))]


@pytest.mark.parametrize("rows", [1, 512, 1300])
def test_hints_of_blocks_add_up_to_the_hint(rows):
    public = PublicMatrix(bytes(range(32)), rows)
    for matrix in some_matrices(rows):
        whole = public.hint(np.ascontiguousarray(matrix.rows_of(slice(0, rows)).T))
        for block in (512, 1024, 1 << 18):
            parts = list(matrix.hints(public, block))
            assert len(parts) == -(-rows // block)
            assert np.array_equal(sum(parts), whole)


def test_digests_name_the_content():
    binned, same, other = some_matrices(20)
    again, _, _ = some_matrices(20)
    assert binned.digest == again.digest
    changed = binned.codes.copy()
    changed[0, 0] ^= 1
    matrices = [binned, same, other, BinnedMatrix(changed, (4, 5)), BinnedMatrix(binned.codes, (4, 5))]
    matrices += [DenseMatrix(same.values.astype(np.int64)), DenseMatrix(same.values.reshape(4, -1))]
    assert len({matrix.digest for matrix in matrices}) == len(matrices)


@pytest.mark.parametrize(
    ("largest", "kind"), [(127, np.int8), (-129, np.int16), (2**15, np.int32), (-(2**31) - 1, np.int64)]
)
def test_a_dense_matrix_is_kept_in_the_narrowest_type(largest, kind):
    matrix = DenseMatrix.of(np.array([[1, largest], [0, 0]]))
    assert matrix.values.dtype == kind
    assert matrix.rows_of(slice(0, 2)).tolist() == [[1, largest], [0, 0]]


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros((2, 2), np.uint64), np.zeros(3, np.int64)])
def test_other_arrays_are_no_dense_matrix(values):
    with pytest.raises(UsageError, match="expected signed integers"):
        DenseMatrix(values)


@pytest.mark.parametrize(
    ("codes", "bins"),
    [
        (np.zeros((1, 2), np.int64), (2,)),
        (np.zeros(2, np.uint8), (2,)),
        (np.zeros((1, 2), np.uint8), (2, 2)),
        (np.zeros((1, 2), np.uint8), (0,)),
        (np.zeros((1, 2), np.uint8), (257,)),
        (np.array([[1, 2]], np.uint8), (2,)),
    ],
    ids=["type", "axes", "features", "no bins", "too many bins", "code"],
)
def test_codes_that_do_not_fit_their_bins_are_refused(codes, bins):
    with pytest.raises(UsageError):
        BinnedMatrix(codes, bins)
