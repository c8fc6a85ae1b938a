"""Columns as small integers: every value is replaced by the number of the bin into which it falls.

Bins are learned from a party's own training rows and stay with it. Three ways for numbers: ``quantile`` (bins of about
equal numbers of rows: those of LightGBM with ``min_data_in_bin=1``; a frequent value and the value 0 have bins of their
own, few distinct values have one bin each), ``width`` (bins of equal width), and edges given by the caller. A category
has its own bin if it is among the most frequent ones, else it falls into the bin «other». Missing values have the last
bin, if there were any in the training rows.

Source: Ke and others, LightGBM, NeurIPS 2017, section 2, and LightGBM 4.6, src/io/bin.cpp, FindBinWithZeroAsOneBin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LARGEST_BINS = 256
SAMPLE_ROWS = 200_000
"""Quantiles of larger columns are those of so many rows, always the same ones."""
QUANTILE, WIDTH = "quantile", "width"
_ZERO = 1e-35
"""Numbers no larger than this are 0, as in LightGBM."""


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """A column of categories: for each row the place of its name in ``names``, or −1 where it is missing."""

    places: NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.places) and not -1 <= self.places.min() <= self.places.max() < len(self.names):
            raise DataError(f"categories are numbered -1 to {len(self.names) - 1}, found others")

    def __len__(self) -> int:
        return len(self.places)


Values: TypeAlias = Floats | Categories


@dataclass(frozen=True, slots=True)
class Binning:
    """How bins are chosen: at most ``bins`` a column, the one of missing values included."""

    bins: int = 64
    method: str = QUANTILE

    def __post_init__(self) -> None:
        if not 3 <= self.bins <= LARGEST_BINS:
            raise UsageError(f"a column has 3 to {LARGEST_BINS} bins, found {self.bins}")
        if self.method not in (QUANTILE, WIDTH):
            raise UsageError(f"the method of binning is {QUANTILE!r} or {WIDTH!r}, found {self.method!r}")


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """The bins of one column; all fields can be written as JSON.

    Numbers: bin i holds the values v with ``edges[i − 1]`` < v ≤ ``edges[i]``, without limit at both ends.
    Categories: bin i is ``categories[i]``, and the next one all others.
    """

    name: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] | None = None
    missing: bool = False
    """Whether the last bin is that of missing values."""
    typical: int = 0
    """The bin of missing values if none was missing in training: the most frequent one, or «other»."""

    @property
    def categorical(self) -> bool:
        """Whether the bins have no order."""
        return self.categories is not None

    @property
    def bins(self) -> int:
        """Number of bins."""
        known = len(self.edges if self.categories is None else self.categories) + 1
        return known + int(self.missing)

    def transform(self, values: Values) -> Codes:
        """Return the bin of every value; what was not seen in training falls into the nearest bin, or «other».

        Raises:
            DataError: Numbers stand where categories are expected, or the reverse, or a number is infinite.
        """
        if isinstance(values, Categories) != self.categorical:
            wanted = "categories" if self.categorical else "numbers"
            raise DataError(f"column {self.name}: expected {wanted}; it has to be of the kind it had in training")
        if isinstance(values, Categories):
            return self._of_categories(values)
        _refuse_infinite(self.name, values)
        codes = np.searchsorted(np.array(self.edges), values, side="left").astype(np.uint8)
        codes[np.isnan(values)] = self._missing_code
        return codes

    @property
    def _missing_code(self) -> int:
        return self.bins - 1 if self.missing else self.typical

    def _of_categories(self, values: Categories) -> Codes:
        known = {name: code for code, name in enumerate(self.categories or ())}
        # The last place, which −1 reaches, is for missing values.
        table = [known.get(name, len(known)) for name in values.names] + [self._missing_code]
        return np.array(table, np.uint8)[values.places]


@dataclass(frozen=True, slots=True, eq=False)
class BinnedColumns:
    """Binned columns: ``codes`` (columns, rows), and for each column its number of bins and what they are."""

    codes: Codes
    bins: tuple[int, ...]
    categorical: tuple[bool, ...]
    missing: tuple[bool, ...]
    """Whether the last bin of a column is that of missing values."""

    def __post_init__(self) -> None:
        counts = {len(self.codes), len(self.bins), len(self.categorical), len(self.missing)}
        if self.codes.ndim != 2 or self.codes.dtype != np.uint8 or len(counts) != 1:
            raise UsageError(f"expected uint8 codes (columns, rows), found {self.codes.dtype} {self.codes.shape}")
        largest = self.codes.max(axis=1, initial=0)
        for column, (bins, code) in enumerate(zip(self.bins, largest, strict=True)):
            if not code < bins <= LARGEST_BINS:
                raise UsageError(f"column {column} has {bins} bins, found the code {code}")

    @classmethod
    def none(cls, rows: int) -> BinnedColumns:
        """Return no columns of so many rows."""
        return cls(np.empty((0, rows), np.uint8), (), (), ())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.codes.shape[1])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the bins of each column begin when those of all stand one after the other, and their number."""
        return np.concatenate([[0], np.cumsum(self.bins, dtype=np.int64)]).astype(np.int64)

    def pick(self, columns: Sequence[int] | NDArray[np.int64]) -> BinnedColumns:
        """Return some columns, in this order."""
        places = [int(column) for column in columns]
        return BinnedColumns(
            self.codes[places],
            tuple(self.bins[place] for place in places),
            tuple(self.categorical[place] for place in places),
            tuple(self.missing[place] for place in places),
        )


def fit_bins(
    name: str, values: Values, binning: Binning | None = None, *, edges: Sequence[float] | Floats | None = None
) -> ColumnBins:
    """Return the bins of a column of training rows; ``edges`` are used as they are if given.

    Raises:
        DataError: A number is infinite.
        UsageError: Edges are not finite and increasing, too many, or given for categories.
    """
    binning = binning or Binning()
    if isinstance(values, Categories):
        if edges is not None:
            raise UsageError(f"column {name}: categories have no edges")
        return _fit_categories(name, values, binning.bins)
    _refuse_infinite(name, values)
    absent = np.isnan(values)
    missing = bool(absent.any())
    present = values[~absent] if missing else values
    if edges is None:
        edges = _choose_edges(present, binning.bins - missing, binning.method)
    else:
        _check_edges(name, edges, missing)
    bins = ColumnBins(name, tuple(float(edge) for edge in edges), None, missing)
    if missing or not len(present):
        return bins
    counts = np.bincount(bins.transform(_sample(present)))
    return ColumnBins(name, bins.edges, None, missing, int(counts.argmax()))


def transform(columns: Sequence[ColumnBins], values: Sequence[Values], rows: int) -> BinnedColumns:
    """Return the codes of several columns of ``rows`` rows each.

    Raises:
        DataError: There is another number of columns or rows, or a column is of another kind than in training.
    """
    if len(columns) != len(values) or any(len(column) != rows for column in values):
        raise DataError(f"expected {len(columns)} columns of {rows} rows")
    codes = np.empty((len(columns), rows), np.uint8)
    for place, (bins, column) in enumerate(zip(columns, values, strict=True)):
        codes[place] = bins.transform(column)
    return BinnedColumns(
        codes,
        tuple(column.bins for column in columns),
        tuple(column.categorical for column in columns),
        tuple(column.missing for column in columns),
    )


def _refuse_infinite(name: str, values: Floats) -> None:
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise DataError(f"column {name}, row {infinite[0]}: infinite; mark missing values as NaN")


def _check_edges(name: str, edges: Sequence[float] | Floats, missing: bool) -> None:
    increasing = np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    if not increasing or len(edges) + 1 + missing > LARGEST_BINS:
        raise UsageError(f"column {name}: edges have to be finite, increasing and at most {LARGEST_BINS - 2}")


def _fit_categories(name: str, values: Categories, most: int) -> ColumnBins:
    counts = np.bincount(values.places[values.places >= 0], minlength=len(values.names))
    # By frequency, then by name, so that the order of names in a file does not matter.
    ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda place: (-counts[place], values.names[place]))
    kept = tuple(values.names[place] for place in ranked[: most - 2])
    return ColumnBins(name, (), kept, bool((values.places < 0).any()), len(kept))


def _sample(values: Floats) -> Floats:
    if len(values) <= SAMPLE_ROWS:
        return values
    return values[np.random.default_rng(0).integers(0, len(values), SAMPLE_ROWS)]


def _choose_edges(values: Floats, bins: int, method: str) -> Floats:
    if not len(values):
        return np.empty(0)
    if method == WIDTH:
        low, high = float(values.min()), float(values.max())
        steps = np.arange(1, bins) / bins
        edges = np.unique(low * (1 - steps) + high * steps)
        inner: Floats = edges[(edges >= low) & (edges < high)]
        return inner
    distinct, counts = np.unique(_sample(values), return_counts=True)
    ends = quantile_ends(distinct, counts, bins)
    lower, upper = distinct[ends], distinct[ends + 1]
    middle = lower / 2 + upper / 2
    # Between neighbouring floating-point numbers there is no middle.
    return np.where((middle >= lower) & (middle < upper), middle, lower)


def quantile_ends(distinct: Floats, counts: Integers, bins: int) -> Integers:
    """Return the places of the values, ascending and ``counts`` times there, after which a new bin begins."""
    return np.arange(len(distinct) - 1) if len(distinct) <= bins else _around_zero(distinct, counts, bins)


def _around_zero(distinct: Floats, counts: Integers, bins: int) -> Integers:
    """Return the last value of each bin but the last one; no bin holds numbers of two signs, or 0 and others.

    LightGBM keeps one bin for 0 even where it does not occur: here that bin, which would be empty, is left out.
    """
    below, above = np.searchsorted(distinct, [-_ZERO, _ZERO], side="right").tolist()
    negative, positive = int(counts[:below].sum()), int(counts[above:].sum())
    ends: list[int] = []
    if below:
        share = negative / (negative + positive)
        ends = [*_equal_shares(counts[:below], max(1, int(share * (bins - 1)))), below - 1]
    room = bins - 1 - len(ends)
    if room > 0 and above < len(distinct):
        if above > below:
            ends.append(above - 1)
        ends += [above + end for end in _equal_shares(counts[above:], room)]
    return np.array([end for end in ends if end < len(distinct) - 1], np.int64)


def _equal_shares(counts: Integers, bins: int) -> list[int]:
    """Return the last value of each bin but the last one: frequent values have their own, the others equal shares."""
    if len(counts) <= bins:
        return list(range(len(counts) - 1))
    frequent = counts * bins >= counts.sum()
    rows = np.concatenate([[0], np.cumsum(counts)])
    others = np.concatenate([[0], np.cumsum(np.where(frequent, 0, counts))])
    stops = np.append(np.flatnonzero(frequent), len(counts))
    left = bins - int(frequent.sum())
    share = others[-1] / left if left else math.inf
    ends: list[int] = []
    start = 0
    while len(ends) < bins - 1:
        # The value that fills the bin; before a frequent one, half full is enough, and what is less joins it.
        full = max(start, int(np.searchsorted(rows, rows[start] + share)) - 1)
        stop = int(stops[np.searchsorted(stops, start)])
        end = min(full, stop - (rows[stop] - rows[start] >= max(1, share / 2)))
        if end >= len(counts) - 1:
            break
        ends.append(end)
        start = end + 1
        if not frequent[end]:
            left -= 1
            share = (others[-1] - others[start]) / left if left else math.inf
    return ends
