"""The bounds that both holders of a linear map agree on are kept, or the work does not begin."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.protocols.linear_map.matrices import DenseMatrix
from unseen.protocols.linear_map.port import Bounds, reconstruct

BOUNDS = Bounds(rows=4, columns=2, column_norm=5.0, vector_norm=2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"rows": -1},
        {"columns": -1},
        {"column_norm": 0.0},
        {"column_norm": -1.0},
        {"vector_norm": 0.0},
        {"vector_norm": math.nan},
        {"column_norm": math.nan},
        {"column_norm": math.inf},
    ],
    ids=str,
)
def test_meaningless_bounds_are_refused(wrong: dict[str, Any]) -> None:
    fields = {"rows": 4, "columns": 2, "column_norm": 5.0, "vector_norm": 2.0}
    with pytest.raises(UsageError, match="at least one row and finite positive norms"):
        Bounds(**{**fields, **wrong})


def test_a_matrix_without_columns_is_allowed() -> None:
    bounds = Bounds(rows=4, columns=0, column_norm=1.0, vector_norm=1.0)
    bounds.check_matrix(DenseMatrix(np.empty((0, 4), np.int64)))


def test_a_matrix_at_its_norm_passes() -> None:
    BOUNDS.check_matrix(DenseMatrix.of(np.array([[3, 0], [4, 0], [0, 0], [0, -5]])))


def test_a_column_beyond_its_norm_is_named() -> None:
    with pytest.raises(UsageError, match=re.escape("column 1 has norm 5.09902, agreed are 5")):
        BOUNDS.check_matrix(DenseMatrix.of(np.array([[3, 1], [4, 0], [0, 0], [0, -5]])))


def test_an_entry_beyond_its_bound_is_told() -> None:
    bounds = Bounds(rows=1, columns=2, column_norm=5.0, vector_norm=2.0, entry=2)
    bounds.check_matrix(DenseMatrix.of(np.array([[-2, 1]])))
    with pytest.raises(UsageError, match="an entry of the matrix is 3, agreed are at most 2"):
        bounds.check_matrix(DenseMatrix.of(np.array([[-3, 1]])))


@pytest.mark.parametrize("shape", [(4, 3), (2, 4), (3, 2)])
def test_another_matrix_than_agreed_is_refused(shape: tuple[int, int]) -> None:
    found = f"expected a matrix 4 × 2, found {shape[0]} × {shape[1]}"
    with pytest.raises(UsageError, match=re.escape(found)):
        BOUNDS.check_matrix(DenseMatrix.of(np.zeros(shape, np.int64)))


def test_vectors_within_their_norm_pass() -> None:
    BOUNDS.check_vectors(np.array([[1, -1, 1, 1], [0, 0, 2, 0], [0, 0, 0, 0]]))
    BOUNDS.check_vectors(np.empty((0, 4), np.int64))


def test_a_vector_beyond_its_norm_is_named() -> None:
    with pytest.raises(UsageError, match=re.escape("vector 1 has norm 2.23607, agreed are 2")):
        BOUNDS.check_vectors(np.array([[1, 1, 1, 1], [0, 1, 2, 0]]))


@pytest.mark.parametrize(
    "vectors", [np.zeros(4, np.int64), np.zeros((1, 3), np.int64), np.zeros((1, 4)), np.zeros((1, 4), np.uint64)]
)
def test_other_vectors_than_agreed_are_refused(vectors: NDArray[Any]) -> None:
    expected = f"expected int64 vectors of length 4, found {vectors.dtype} {vectors.shape}"
    with pytest.raises(UsageError, match=re.escape(expected)):
        BOUNDS.check_vectors(vectors)


def test_a_vector_beyond_its_sum_is_named() -> None:
    bounds = Bounds(rows=4, columns=2, column_norm=5.0, vector_norm=9.0, entry=2.0, vector_sum=3.0)
    assert bounds.result == 6.0
    bounds.check_vectors(np.array([[1, -1, 1, 0]]))
    with pytest.raises(UsageError, match=re.escape("the entries of vector 0 add up to 4, agreed are 3")):
        bounds.check_vectors(np.array([[1, -1, 1, 1]]))


def test_all_of_a_long_vector_counts_and_its_own_norm_is_within_bounds() -> None:
    vector = np.random.default_rng(3).integers(-(2**40), 2**40, (1, 50_001))
    norm, total = math.sqrt(sum(value**2 for value in vector[0].tolist())), float(sum(map(abs, vector[0].tolist())))
    Bounds(50_001, 1, 1.0, norm, vector_sum=total).check_vectors(vector)
    with pytest.raises(UsageError, match="vector 0 has norm"):
        Bounds(50_001, 1, 1.0, norm * (1 - 1e-9)).check_vectors(vector)
    with pytest.raises(UsageError, match="the entries of vector 0 add up to"):
        Bounds(50_001, 1, 1.0, norm, vector_sum=total * (1 - 1e-9)).check_vectors(vector)


def test_residues_have_their_own_bounds() -> None:
    bounds = Bounds(rows=2, columns=2, column_norm=5.0, vector_norm=1.0, wrap=10)
    assert bounds.result == 512
    bounds.check_vectors(np.array([[0, 1023]]))
    bounds.check_vectors(np.empty((0, 2), np.int64))
    for wrong in (-1, 1024):
        with pytest.raises(UsageError, match=re.escape("residues lie in [0, 2^10), found")):
            bounds.check_vectors(np.array([[0, wrong]]))
    for bits in (0, 64):
        with pytest.raises(UsageError, match="residues have 1 to 63 bits"):
            Bounds(rows=2, columns=2, column_norm=5.0, vector_norm=1.0, wrap=bits)


@given(st.integers(-(2**40), 2**40), st.integers(0, 2**64 - 1), st.integers(0, 20), st.floats(-0.49, 0.49))
def test_shares_are_put_together_and_rounded(value: int, share: int, shift: int, noise: float) -> None:
    word = (value << shift) + int(noise * (1 << shift)) - share
    mine, theirs = (np.array([part % 2**64], np.uint64).view(np.int64) for part in (share, word))
    assert reconstruct(mine, theirs, shift).tolist() == [value]


def test_norms_do_not_overflow() -> None:
    largest = np.full((4, 2), np.iinfo(np.int64).max)
    with pytest.raises(UsageError, match=re.escape("column 0 has norm 1.84467e+19")):
        BOUNDS.check_matrix(DenseMatrix.of(largest))
    with pytest.raises(UsageError, match=re.escape("vector 0 has norm 1.84467e+19")):
        BOUNDS.check_vectors(np.full((1, 4), np.iinfo(np.int64).min))


@given(
    st.lists(st.lists(st.integers(-100, 100), min_size=3, max_size=3), min_size=1, max_size=8),
    st.data(),
)
def test_no_result_exceeds_the_bound(rows: list[list[int]], data: st.DataObject) -> None:
    matrix = np.array(rows, np.int64)
    vector = np.array(data.draw(st.lists(st.integers(-100, 100), min_size=len(rows), max_size=len(rows))), np.int64)
    norms = float(np.linalg.norm(matrix, axis=0).max()) + 1e-9, float(np.linalg.norm(vector)) + 1e-9
    bounds = Bounds(rows=len(rows), columns=3, column_norm=norms[0], vector_norm=norms[1])
    bounds.check_matrix(DenseMatrix.of(matrix))
    bounds.check_vectors(vector[None, :])
    assert np.abs(matrix.T @ vector).max() <= bounds.result
