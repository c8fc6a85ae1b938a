"""Bins of all clients' values together, from counts alone: a few rounds, all columns at once, no value leaves a client.

A value is mapped to a 64-bit integer of the same order (its bits as a floating-point number). The first round counts
rows by sign and exponent, every further one splits ranges into smaller ones of equal width: those that hold more than
n/(8·bins) rows, and those in which a bin is to end, with their neighbours. What remains are ranges with counts, narrow
where bins end. Of the values of a range only this is used: its plainest number, the one with the fewest digits in
binary; so integers, halves, … that are alone in their range are known exactly.

*Bins are LightGBM's.* They are chosen as LightGBM chooses them among values (``binning``), ranges in their places: a
range that has been split for an end, or of which splits leave all rows together, counts as one value, any other one as
up to 16 values with equal shares. Where the ends then found lie in ranges of one value, they are those that all values
would lead to. With columns of money, of continuous or of few different numbers, that is so after twelve rounds up to
100,000 rows and 64 bins, and mostly with 255 bins; else some bins end a few rows before or after. An edge is the middle
between the plainest numbers on both sides of it: rows to train on lie on the same side of it as with LightGBM, another
number may lie between the two edges.

*Who learns what*: the server, and whoever sees the bins, learns how many rows of all clients together lie in each
range. Where a bin ends, as LightGBM's edges would tell too, and in the far tails a range may hold one row. ``noise`` of
the process hides single rows; ranges are then split in fewer rounds, and never for an end.

*Rank error* with noise: a bin ends at the end of a range. A range with more than n/(8·bins) rows is split in every
round, into parts that hold some 2·n/``width`` rows if values are spread evenly within. After four rounds, values can
share such a range, and count as one, only if they agree in sign, exponent and the first 33 binary digits (where all of
a column are as near as that to each other) or the first 5 (whatever the other values are).

The idea is that of a trie of counts (W. Zhu and others, "Federated Heavy Hitters Discovery with Differential Privacy",
AISTATS 2020; G. Cormode and others, "Frequency Estimation under Local Privacy", 2011-21, on hierarchical histograms).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError
from unseen.learners.binning import quantile_ends
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import Integers, to_floats, to_integers

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

WIDTH = 64
"""Ranges for each bin into which a round splits those of a column."""
ROUNDS, NOISY_ROUNDS = 12, 4
"""How often counts are taken, without and with noise."""
_FINE = 8
"""Ranges with more than n/(8·bins) rows are split."""
_ONE_VALUE = 2
"""A range that is settled so often counts as one value, others as ``_VALUES`` values."""
_VALUES = 16
_FIELDS = 5
_SIGN = np.uint64(1 << 63)
_ALL = 64
_FIRST = 12
"""Bits of sign and exponent."""
_TINY = 1e-35
"""Numbers no larger than this are 0, as in LightGBM."""
_LARGEST = float(np.finfo(np.float64).max)


def keys(values: Floats) -> Keys:
    """Return integers in the order of the values; none may be NaN."""
    bits = np.where(np.abs(values) <= _TINY, 0.0, values).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def numbers(found: Keys) -> Floats:
    """Return the values of keys; keys beyond infinity are infinite."""
    bits = np.where(found & _SIGN, found ^ _SIGN, ~found)
    values = bits.view(np.float64)
    return np.where(np.isnan(values), np.where(found & _SIGN, np.inf, -np.inf), values)


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Ranges of one column that hold rows, in ascending order: range i holds 2^shift[i] keys from start[i] on."""

    start: Keys
    shift: Integers
    rows: Integers
    split: Integers
    """Into 2^split[i] ranges the next round divides it; 0: it stays as it is."""
    settled: Integers
    """How many splits have been for the end of a bin, or left all its rows together."""
    missing: int = 0

    @classmethod
    def everything(cls) -> Ranges:
        """Return the one range of all numbers."""
        return cls(
            np.zeros(1, np.uint64), np.array([_ALL]), np.zeros(1, np.int64), np.array([_FIRST]), np.zeros(1, np.int64)
        )

    @property
    def fields(self) -> tuple[Keys | Integers, ...]:
        """All that is said of each range."""
        return self.start, self.shift, self.rows, self.split, self.settled

    @property
    def _parts(self) -> Integers:
        """Into how many ranges the next round divides each; 0: it stays as it is."""
        return np.where(self.split > 0, 1 << self.split, 0)

    @property
    def asked(self) -> int:
        """How many counts the next round brings: one for each part, and one of missing values."""
        return int(self._parts.sum()) + 1

    def question(self) -> Ranges:
        """Return what a client needs for its counts: the ranges to be split, without how many rows they hold."""
        wanted = self.split > 0
        none = np.zeros(int(wanted.sum()), np.int64)
        return Ranges(self.start[wanted], self.shift[wanted], none, self.split[wanted], none)

    def count(self, column: Floats) -> Integers:
        """Return these counts for a client's column, shape (asked,)."""
        absent = np.isnan(column)
        found = keys(column[~absent])
        split = self.split > 0
        start, shift, bits = self.start[split], self.shift[split], self.split[split]
        counts = np.zeros(self.asked, np.int64)
        counts[-1] = absent.sum()
        if len(start) and len(found):
            place = np.searchsorted(start, found, side="right") - 1
            inside = place >= 0
            place, found = place[inside], found[inside]
            away = found - start[place]
            # 2^64 is no 64-bit number: the range of everything holds whatever there is.
            inside = (shift[place] == _ALL) | (away >> np.minimum(shift[place], _ALL - 1).astype(np.uint64) == 0)
            place, away = place[inside], away[inside]
            first = np.cumsum(1 << bits) - (1 << bits)
            part = away >> (shift[place] - bits[place]).astype(np.uint64)
            counts[:-1] += np.bincount(first[place] + part.astype(np.int64), minlength=len(counts) - 1)
        return counts

    def refined(self, counts: Integers) -> Ranges:
        """Return the ranges after a round that brought these counts.

        A range of whose rows less than half are found again, since noise hides them or clients are away, stays whole.
        """
        owner = np.repeat(np.arange(len(self.rows)), self._parts)
        found = np.bincount(owner, counts[:-1], len(self.rows))
        whole = (self.split == 0) | (2 * found < self.rows)
        part = np.flatnonzero((counts[:-1] > 0) & ~whole[owner])
        owner = owner[part]
        width = self.shift[owner] - self.split[owner]
        place = (part - (np.cumsum(self._parts) - self._parts)[owner]).astype(np.uint64)
        whole &= self.rows > 0
        start = np.concatenate([self.start[whole], self.start[owner] + (place << width.astype(np.uint64))])
        order = np.argsort(start, kind="stable")
        shift = np.concatenate([self.shift[whole], width])[order]
        rows = np.concatenate([self.rows[whole], counts[part]])[order]
        settled = self.settled[owner] + (counts[part] == self.rows[owner])
        settled = np.concatenate([self.settled[whole], settled])[order]
        return Ranges(start[order], shift, rows, np.zeros_like(rows), settled, int(counts[-1]))

    def planned(self, bins: int, width: int, least: float = 0.0) -> Ranges:
        """Return the ranges with what the next round is to split.

        Args:
            bins: How many there are to be.
            width: Into how many ranges.
            least: With noise, how many rows or more parts hold if values are even.
        """
        bins = max(1, bins - (self.missing > 0))
        total, few, small = int(self.rows.sum()), len(self.rows) <= 2 * bins, self._small(bins)
        wanted, settled = few | ~small, self.settled
        if least > 0:
            width = int(np.clip(total / least, min(width, 2 * bins), width))
        else:
            ends = self._ends(bins)
            near = np.clip(np.stack([ends - 1, ends, ends + 1]), 0, max(0, len(self.rows) - 1))
            wanted[near] |= self.rows[near] > 1
            settled = settled + (wanted & small & (not few))
        wanted &= self.shift > 0
        split = np.zeros(len(self.rows), np.int64)
        if wanted.any():
            split[wanted] = np.minimum(self._digits(wanted, small, width), self.shift[wanted])
        return replace(self, split=split, settled=settled)

    def _digits(self, wanted: NDArray[np.bool_], small: NDArray[np.bool_], width: int) -> Integers:
        """Return by how many binary digits wanted ranges are split: half of the width evenly, half by their rows.

        Full ranges of which splits leave all rows together are hardly split any more: most are one value, and many of
        them would use up the width.
        """
        settled = self.settled[wanted]
        shares = np.maximum(1, self.rows[wanted]) * 0.25**settled
        open_ = small[wanted] | (settled < _ONE_VALUE)
        even = np.where(open_, width / (2 * max(1, open_.sum())), 0)
        parts = np.maximum(2, np.maximum(even, width * shares / (2 * shares.sum())))
        digits: Integers = np.floor(np.log2(parts)).astype(np.int64)
        return digits

    def _small(self, bins: int) -> NDArray[np.bool_]:
        return np.asarray(self.rows * _FINE * bins <= self.rows.sum())

    @property
    def _plainest(self) -> tuple[Floats, Floats]:
        """Return the number with the fewest digits in each range, and the last one."""
        last = self.start + ((np.uint64(1) << self.shift.astype(np.uint64)) - np.uint64(1))
        return numbers(np.where(self.start & _SIGN, self.start, last)), numbers(last)

    def _ends(self, bins: int) -> Integers:
        """Return the ranges after which a new bin begins."""
        if len(self.rows) <= bins:
            return np.arange(len(self.rows) - 1)
        one = (self.settled >= _ONE_VALUE) | (self.shift == 0) | ~self._small(bins)
        parts = np.where(one, 1, np.clip(self.rows, 1, _VALUES))
        owner = np.repeat(np.arange(len(self.rows)), parts)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
        rows = (self.rows // parts)[owner] + (number < (self.rows % parts)[owner])
        ends = np.unique(owner[quantile_ends(self._plainest[0][owner], rows, bins)])
        return ends[ends < len(self.rows) - 1]

    def bins(self, most: int) -> tuple[Floats, bool, int]:
        """Return the edges of at most ``most`` bins, whether the last one is of missing values, and the fullest bin.

        Bin i holds the values v with edge[i − 1] < v ≤ edge[i].
        """
        missing = self.missing > 0
        if not len(self.rows):
            return np.empty(0), missing, 0
        (plainest, last), ends = self._plainest, self._ends(max(1, most - missing))
        low, high = plainest[ends], plainest[ends + 1]
        with np.errstate(over="ignore"):
            middle = np.clip(low / 2, -_LARGEST, _LARGEST) + np.clip(high / 2, -_LARGEST, _LARGEST)
        edges = np.clip(middle, last[ends], numbers(self.start[ends + 1] - np.uint64(1)))
        edges = np.clip(edges, -_LARGEST, _LARGEST)
        sizes = np.add.reduceat(self.rows, np.concatenate([[0], ends + 1]))
        return edges, missing, int(sizes.argmax())


def pack(columns: list[Ranges]) -> Vector:
    """Return the ranges of all columns as 32-bit floats."""
    header = np.array([[len(one.rows), one.missing] for one in columns], np.int64).reshape(-1)
    body = [part.view(np.int64) for one in columns for part in one.fields]
    return to_floats(np.concatenate([np.array([len(columns)]), header, *body]))


def unpack(packed: Vector) -> list[Ranges]:
    """Return what ``pack`` took.

    Raises:
        RemoteProtocolError: It cannot have been made by it.
    """
    values = to_integers(packed)
    count = int(values[0]) if len(values) else -1
    header = values[1 : 1 + 2 * count].reshape(-1, 2) if 0 <= 2 * count < len(values) else np.empty((0, 2), np.int64)
    lengths = header[:, 0]
    if len(header) != count or (lengths < 0).any() or 1 + 2 * count + _FIELDS * int(lengths.sum()) != len(values):
        raise RemoteProtocolError("the ranges of a sketch are malformed")
    at, columns = 1 + 2 * count, []
    for length, missing in header.tolist():
        start, shift, rows, split, settled = values[at : at + _FIELDS * length].reshape(_FIELDS, -1)
        ordered = (np.diff(start.view(np.uint64).astype(object)) > 0).all() if length else True
        if (
            not (ordered and ((split >= 0) & (split <= shift) & (shift <= _ALL)).all())
            or (split > 20).any()
            or not ((settled >= 0) & (settled <= _ALL)).all()
        ):
            raise RemoteProtocolError("the ranges of a sketch are malformed")
        columns.append(Ranges(start.view(np.uint64), shift, rows, split, settled, missing))
        at += _FIELDS * length
    return columns
