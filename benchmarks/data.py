"""People made from a seed, of whom every process can make any column by itself; and a data set in two files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_FACTORS = 8
_SHARED = 0.6
"""Share of a column's variance that all columns' common factors make."""
_LABEL, _WEIGHTS, _FACTOR = 1 << 32, (1 << 32) + 1, (1 << 32) + 2
"""Streams beyond those of the columns, which are named by their numbers."""


def _no_labels() -> Floats:
    return np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Somebody's columns in the rows to train on and the rows to test on; labels if they know them."""

    features: Floats
    test_features: Floats
    labels: Floats = field(default_factory=_no_labels)
    test_labels: Floats = field(default_factory=_no_labels)

    @classmethod
    def at(cls, rows: int, features: Floats, labels: Floats | None = None) -> Split:
        """Return the first ``rows`` to train on, the rest to test on."""
        if labels is None:
            return cls(features[:rows], features[rows:])
        return cls(features[:rows], features[rows:], labels[:rows], labels[rows:])

    @classmethod
    def without(cls, test: ArrayLike, features: Floats, labels: Floats | None = None) -> Split:
        """Return the rows named by ``test`` to test on, the others to train on."""
        tested = np.zeros(len(features), bool)
        tested[np.asarray(test)] = True
        order = np.argsort(tested, kind="stable")
        return cls.at(int((~tested).sum()), features[order], None if labels is None else labels[order])


@dataclass(frozen=True, slots=True)
class Population:
    """Rows of correlated columns of unit variance, first the active party's, then the passive party's."""

    rows: int
    active: int
    passive: int
    seed: int = 1

    @property
    def columns(self) -> int:
        """Columns of both parties."""
        return self.active + self.passive

    def active_features(self) -> Floats:
        """Return the active party's columns, shape (rows, active)."""
        return self._features(range(self.active))

    def passive_features(self) -> Floats:
        """Return the passive party's columns, shape (rows, passive)."""
        return self._features(range(self.active, self.columns))

    def pooled_features(self) -> Floats:
        """Return all columns, shape (rows, columns)."""
        return self._features(range(self.columns))

    def linear_labels(self) -> Floats:
        """Return labels of a logistic model over all columns."""
        weights = self._stream(_WEIGHTS).standard_normal(self.columns)
        factors, score = self._factors(), np.zeros(self.rows)
        for index, weight in enumerate(weights):
            score += weight * self._column(index, factors)
        return self._labels(1.5 * score / score.std())

    def tree_labels(self) -> Floats:
        """Return labels in which columns of both parties interact, as no linear model can tell."""
        factors = self._factors()
        a = [self._column(index % max(1, self.active), factors) for index in range(5)]
        b = [self._column(self.active + index % self.passive, factors) for index in range(5)]
        bent = 1.5 * np.tanh(a[0] * b[1]) + 1.2 * (b[2] > 0.7) * (a[3] < 0) - 0.8 * np.abs(b[4])
        straight = a[0] - a[1] + a[2] + b[0] + b[3] - b[1]
        return self._labels(bent / bent.std() + straight / straight.std())

    def _features(self, indices: range) -> Floats:
        factors = self._factors()
        found = np.empty((self.rows, len(indices)))
        for place, index in enumerate(indices):
            found[:, place] = self._column(index, factors)
        return found

    def _factors(self) -> NDArray[np.float32]:
        return self._stream(_FACTOR).standard_normal((self.rows, _FACTORS), dtype=np.float32)

    def _column(self, index: int, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        stream = self._stream(index)
        loadings = stream.standard_normal(_FACTORS)
        loadings *= np.sqrt(_SHARED) / np.linalg.norm(loadings)
        noise = stream.standard_normal(self.rows, dtype=np.float32)
        return factors @ loadings.astype(np.float32) + np.float32(np.sqrt(1 - _SHARED)) * noise

    def _labels(self, score: Floats) -> Floats:
        centred = score - score.mean() - 1.0
        chances = 1 / (1 + np.exp(-centred))
        return (self._stream(_LABEL).random(self.rows) < chances).astype(np.float64)

    def _stream(self, name: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence([self.seed, name])))


@dataclass(frozen=True, slots=True)
class CreditSet:
    """The files ``default_credit_hetero_guest.csv`` (active party, label ``y``) and ``…_host.csv`` of a folder."""

    folder: Path

    def active(self) -> tuple[Floats, Floats]:
        """Return columns and labels of the active party, in the order of the file."""
        table = self._table("guest")
        return table.drop("id", "y").to_numpy().astype(np.float64), table["y"].to_numpy().astype(np.float64)

    def passive(self) -> Floats:
        """Return the columns of the passive party, in the order of the file."""
        return self._table("host").drop("id").to_numpy().astype(np.float64)

    def pooled(self) -> tuple[Floats, Floats]:
        """Return all columns, the active party's first, and the labels."""
        if not self._table("guest")["id"].equals(self._table("host")["id"]):
            raise SystemExit(f"{self.folder}: the two files are not about the same people in the same order")
        features, labels = self.active()
        return np.hstack([features, self.passive()]), labels

    def _table(self, side: str) -> pl.DataFrame:
        return pl.read_csv(self.folder / f"default_credit_hetero_{side}.csv")
