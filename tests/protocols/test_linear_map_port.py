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
from unseen.protocols.linear_map.port import Bounds

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
    bounds.check_matrix(np.empty((4, 0), np.int64))


def test_a_matrix_at_its_norm_passes() -> None:
    BOUNDS.check_matrix(np.array([[3, 0], [4, 0], [0, 0], [0, -5]]))


def test_a_column_beyond_its_norm_is_named() -> None:
    with pytest.raises(UsageError, match=re.escape("column 1 has norm 5.09902, agreed are 5")):
        BOUNDS.check_matrix(np.array([[3, 1], [4, 0], [0, 0], [0, -5]]))


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        (np.zeros((4, 3), np.int64), "int64 (4, 3)"),
        (np.zeros((2, 4), np.int64), "int64 (2, 4)"),
        (np.zeros(4, np.int64), "int64 (4,)"),
        (np.zeros((4, 2)), "float64 (4, 2)"),
        (np.zeros((4, 2), np.int32), "int32 (4, 2)"),
    ],
)
def test_another_matrix_than_agreed_is_refused(matrix: NDArray[Any], found: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"expected an int64 matrix 4 × 2, found {found}")):
        BOUNDS.check_matrix(matrix)


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


def test_norms_do_not_overflow() -> None:
    largest = np.full((4, 2), np.iinfo(np.int64).max)
    with pytest.raises(UsageError, match=re.escape("column 0 has norm 1.84467e+19")):
        BOUNDS.check_matrix(largest)
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
    bounds.check_matrix(matrix)
    bounds.check_vectors(vector[None, :])
    assert np.abs(matrix.T @ vector).max() <= bounds.result
