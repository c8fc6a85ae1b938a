"""Bins of all clients' values together, from counts alone: a few rounds, all columns at once, no value leaves a client.

A value is mapped to a 64-bit integer of the same order (its bits as a floating-point number). The first round counts
rows by sign and exponent, every further one splits the ranges that hold much into smaller ones of equal width: as many
for each as its share of the rows, so that each is to hold about n/``width`` rows. What remains are ranges with counts.
Of the values of a range only this is used: its plainest number, the one with the fewest digits in binary; so integers,
halves, … that are alone in their range are known exactly, and with few distinct values bins are cut where LightGBM cuts
them. Bins are chosen as LightGBM chooses them among values (``binning``), ranges in their places.

*Rank error*: a bin ends at the end of a range. A range with more than n/(8·bins) rows is split in every round, into
parts that hold some 2·n/``width`` rows if values are spread evenly within. After four rounds, values can share such a
range, and count as one, only if they agree in sign, exponent and the first 33 binary digits (where all of a column are
as near as that to each other) or the first 3·log2(``width``/(16·bins)) (6 with 64 bins; whatever the other values are).

*Who learns what*: the server, and whoever sees the bins, learns how many rows of all clients together lie in each
range. In the far tails, a range may hold one row. ``noise`` of the process hides single rows.

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

WIDTH = 4096
"""Ranges into which a round splits those of a column, at most."""
ROUNDS = 4
_FINE = 8
"""Ranges with more than n/(8·bins) rows are split."""
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
    missing: int = 0

    @classmethod
    def everything(cls) -> Ranges:
        """Return the one range of all numbers."""
        return cls(np.zeros(1, np.uint64), np.array([_ALL]), np.zeros(1, np.int64), np.array([_FIRST]))

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
        return Ranges(self.start[wanted], self.shift[wanted], none, self.split[wanted])

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
        return Ranges(start[order], shift, rows, np.zeros_like(rows), int(counts[-1]))

    def planned(self, bins: int, width: int, least: float = 0.0) -> Ranges:
        """Return the ranges with what the next round is to split, so that parts hold ``least`` rows or more if even."""
        total, few = int(self.rows.sum()), len(self.rows) <= 2 * bins
        if least > 0:
            width = int(np.clip(total / least, min(width, 2 * bins), width))
        wanted = (self.shift > 0) & (few | (self.rows > total / (_FINE * bins)))
        chosen = np.maximum(1, self.rows[wanted])
        if not len(chosen):
            return replace(self, split=np.zeros(len(self.rows), np.int64))
        even, fair = width / (2 * len(chosen)), width * chosen / (2 * chosen.sum())
        bits = np.floor(np.log2(np.maximum(2, np.maximum(even, fair)))).astype(np.int64)
        split = np.zeros(len(self.rows), np.int64)
        split[wanted] = np.minimum(bits, self.shift[wanted])
        return replace(self, split=split)

    def bins(self, most: int) -> tuple[Floats, bool, int]:
        """Return the edges of at most ``most`` bins, whether the last one is of missing values, and the fullest bin.

        Bin i holds the values v with edge[i − 1] < v ≤ edge[i].
        """
        missing = self.missing > 0
        if not len(self.rows):
            return np.empty(0), missing, 0
        first, last = self.start, self.start + ((np.uint64(1) << self.shift.astype(np.uint64)) - np.uint64(1))
        plainest = numbers(np.where(first & _SIGN, first, last))
        ends = quantile_ends(plainest, self.rows, max(1, most - missing))
        low, high = plainest[ends], plainest[ends + 1]
        with np.errstate(over="ignore"):
            middle = np.clip(low / 2, -_LARGEST, _LARGEST) + np.clip(high / 2, -_LARGEST, _LARGEST)
        edges = np.clip(np.maximum(middle, numbers(last)[ends]), -_LARGEST, _LARGEST)
        sizes = np.add.reduceat(self.rows, np.concatenate([[0], ends + 1]))
        return edges, missing, int(sizes.argmax())


def pack(columns: list[Ranges]) -> Vector:
    """Return the ranges of all columns as 32-bit floats."""
    header = np.array([[len(one.rows), one.missing] for one in columns], np.int64).reshape(-1)
    body = [part.view(np.int64) for one in columns for part in (one.start, one.shift, one.rows, one.split)]
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
    if len(header) != count or (lengths < 0).any() or 1 + 2 * count + 4 * int(lengths.sum()) != len(values):
        raise RemoteProtocolError("the ranges of a sketch are malformed")
    at, columns = 1 + 2 * count, []
    for length, missing in header.tolist():
        start, shift, rows, split = values[at : at + 4 * length].reshape(4, -1)
        ordered = (np.diff(start.view(np.uint64).astype(object)) > 0).all() if length else True
        if not (ordered and ((split >= 0) & (split <= shift) & (shift <= _ALL)).all()) or (split > 20).any():
            raise RemoteProtocolError("the ranges of a sketch are malformed")
        columns.append(Ranges(start.view(np.uint64), shift, rows, split, missing))
        at += 4 * length
    return columns
