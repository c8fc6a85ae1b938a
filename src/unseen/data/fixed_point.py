"""Reals as integers and back: x stands for round(x · 2^bits).

Secure protocols compute on integers. A value keeps an absolute error of at most 2^-(bits+1), whatever its size, and a
product of two has the fractional bits of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError

LARGEST_BITS = 62


def to_fixed(
    values: NDArray[np.floating], bits: int, *, columns: Sequence[str] = (), max_bits: int = LARGEST_BITS
) -> NDArray[np.int64]:
    """Return ``values`` · 2^``bits``, rounded to the nearest integer, ties to even.

    Args:
        values: One column, shape (rows,), or a table, shape (rows, columns).
        bits: Fractional bits; may be negative.
        columns: Names for error messages.
        max_bits: No result is larger than 2^``max_bits`` in magnitude.

    Raises:
        DataError: A value is missing, infinite or too large; the message names its column and row.
    """
    _check_max_bits(max_bits)
    with np.errstate(over="ignore", under="ignore"):  # an overflow is infinite, which is refused below
        scaled = np.rint(np.ldexp(np.asarray(values, np.float64), bits))
    wrong = ~(np.abs(scaled) <= 2.0**max_bits)
    if wrong.any():
        row, *column = (int(index) for index in np.argwhere(wrong)[0])
        name = _name(columns, column[0] if column else 0)
        raise DataError(
            f"row {row} of {name} is {values[(row, *column)]}: expected a finite number of magnitude at most "
            f"2^{max_bits - bits}; clean the column, or scale it, or use fewer fractional bits than {bits}"
        )
    return scaled.astype(np.int64)


def from_fixed(values: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Return ``values`` / 2^``bits``; exact up to magnitudes of 2^53, correctly rounded beyond."""
    return np.ldexp(values.astype(np.float64), -bits)


def exponent_for(values: NDArray[np.floating], max_bits: int) -> int:
    """Return the largest b with |x| · 2^b ≤ 2^``max_bits`` for every x; for zeros only, that for x = 1.

    Raises:
        DataError: A value is missing or infinite.
    """
    _check_max_bits(max_bits)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not np.isfinite(largest):
        raise DataError("a column to be scaled holds missing or infinite values: clean it first")
    mantissa, exponent = np.frexp(largest or 1.0)
    return max_bits - int(exponent) + int(mantissa == 0.5)


def _check_max_bits(max_bits: int) -> None:
    if not 0 <= max_bits <= LARGEST_BITS:
        raise UsageError(f"fixed-point integers have 0 to {LARGEST_BITS} bits, found {max_bits}")


def _name(columns: Sequence[str], index: int) -> str:
    return f"column {columns[index]!r}" if index < len(columns) else f"column number {index}"
