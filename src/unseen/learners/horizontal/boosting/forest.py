"""A forest as a flat vector of 32-bit floats that grows with its trees, and what it says about rows.

Header (outputs, features, trees, nodes, edges), base scores; of each feature the number of edges, whether missing
values have a bin, and which bin they fall into otherwise; edges; the first node of each tree; then of each node two
numbers: −1 and its value if it is a leaf, else twice its feature, and one more if missing values go left, and the last
bin that goes left. Nodes of a tree stand level by level, so that the children of its r-th inner node are nodes 2r + 1
and 2r + 2. Base scores and edges are 64-bit floats in three parts, leaf values 32-bit floats: what is trained is
exactly what is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, RemoteProtocolError
from unseen.kernels.jit import compiled
from unseen.learners.binning import LARGEST_BINS
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import to_floats, to_reals, whole
from unseen.learners.vertical.boosting.model import Importance, importance

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Codes = NDArray[np.uint8]

_HEADER = 5
_FIELDS = 2
_LARGEST = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """The bins of all features."""

    edges: tuple[Floats, ...]
    missing: tuple[bool, ...]
    """Whether the last bin of a feature is that of missing values."""
    typical: tuple[int, ...]
    """Where missing values go if none was missing in training."""

    @property
    def counts(self) -> Integers:
        """Bins of each feature."""
        return np.array([len(own) + 1 + gone for own, gone in zip(self.edges, self.missing, strict=True)], np.int64)

    @property
    def offsets(self) -> Integers:
        """Where the bins of each feature begin when those of all stand one after the other, and their number."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    def codes(self, inputs: Floats) -> Codes:
        """Return the bin of every value: inputs (rows, features), codes (features, rows).

        Raises:
            DataError: The inputs have another number of columns.
        """
        if inputs.ndim != 2 or inputs.shape[1] != len(self.edges):
            raise DataError(f"the forest was trained on {len(self.edges)} columns, found inputs of {inputs.shape}")
        codes = np.empty(inputs.shape[::-1], np.uint8)
        for place, edges in enumerate(self.edges):
            column = np.ascontiguousarray(inputs[:, place], np.float64)
            code = np.searchsorted(edges, column, side="left")
            absent = np.isnan(column)
            if absent.any():
                code[absent] = len(edges) + 1 if self.missing[place] else self.typical[place]
            codes[place] = code
        return codes


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Bins, base scores (outputs,), and trees in the order in which they were grown, one an output and round."""

    base: Floats
    bins: Bins
    starts: Integers
    """The first node of each tree, and the number of nodes."""
    feature: Integers
    cut: Integers
    missing_left: Integers
    left: Integers
    value: Vector

    @classmethod
    def empty(cls, base: Floats, bins: Bins) -> Self:
        """Return the forest without trees."""
        none = np.empty(0, np.int64)
        return cls(base, bins, np.zeros(1, np.int64), none, none, none, none, np.empty(0, np.float32))

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.starts) - 1

    @property
    def outputs(self) -> int:
        """Scores of a row: 1, or one a class."""
        return len(self.base)

    @property
    def leaves(self) -> list[int]:
        """Leaves of each tree."""
        return [int(nodes + 1) // 2 for nodes in np.diff(self.starts)]

    def planted(self, tree: Forest) -> Forest:
        """Return the forest with the only tree of another one."""
        return replace(
            self,
            starts=np.append(self.starts, self.starts[-1] + len(tree.feature)),
            feature=np.concatenate([self.feature, tree.feature]),
            cut=np.concatenate([self.cut, tree.cut]),
            missing_left=np.concatenate([self.missing_left, tree.missing_left]),
            left=np.concatenate([self.left, tree.left]),
            value=np.concatenate([self.value, tree.value]),
        )

    def first(self, trees: int) -> Forest:
        """Return the forest of the first ``trees`` trees."""
        nodes = int(self.starts[trees])
        return Forest(
            self.base,
            self.bins,
            self.starts[: trees + 1],
            self.feature[:nodes],
            self.cut[:nodes],
            self.missing_left[:nodes],
            self.left[:nodes],
            self.value[:nodes],
        )

    def begins(self, other: Forest, trees: int) -> bool:
        """Return whether the first ``trees`` trees, and what they stand on, are those of another forest."""
        mine, its = self.first(trees), other.first(trees)
        return (
            (mine.bins.missing, mine.bins.typical) == (its.bins.missing, its.bins.typical)
            and len(mine.bins.edges) == len(its.bins.edges)
            and all(map(np.array_equal, mine.bins.edges, its.bins.edges))
            and all(
                np.array_equal(getattr(mine, name), getattr(its, name))
                for name in ("base", "starts", "feature", "cut", "missing_left", "value")
            )
        )

    # --- as a vector

    def vector(self) -> Vector:
        """Return the flat vector."""
        bins = self.bins
        counts = [len(own) for own in bins.edges]
        header = [self.outputs, len(bins.edges), self.trees, len(self.feature), sum(counts)]
        about = np.array([counts, bins.missing, bins.typical]).reshape(-1)
        first = [
            header,
            to_floats(self.base),
            about,
            to_floats(np.concatenate([*bins.edges, np.empty(0)])),
            self.starts,
        ]
        inner = self.feature >= 0
        nodes = [np.where(inner, 2 * self.feature + self.missing_left, -1), np.where(inner, self.cut, self.value)]
        return np.concatenate([*first, *nodes]).astype(np.float32)

    @classmethod
    def of(cls, vector: Vector) -> Forest:
        """Return the forest of a flat vector.

        Raises:
            DataError: It holds none.
        """
        try:
            return cls._read(vector)
        except (ValueError, IndexError, OverflowError, RemoteProtocolError) as error:
            raise DataError("the vector holds no forest: is it the model of another learner?") from error

    @classmethod
    def _read(cls, vector: Vector) -> Forest:
        if not np.isfinite(vector).all():
            raise ValueError("not finite")
        outputs, features, trees, nodes, edges = (_size(number) for number in vector[:_HEADER])
        lengths = [3 * outputs, features, features, features, 3 * edges, trees + 1, *_FIELDS * [nodes]]
        if sum(lengths) + _HEADER != len(vector):
            raise ValueError("another length")
        parts = np.split(vector[_HEADER:], np.cumsum(lengths)[:-1])
        counts, missing, typical = map(whole, parts[1:4])
        own = np.split(to_reals(parts[4]), np.cumsum(counts)[:-1]) if features else []
        bins = Bins(tuple(own), tuple((missing > 0).tolist()), tuple(typical.tolist()))
        starts, code = map(whole, parts[5:7])
        if starts[0] != 0 or starts[-1] != nodes or not (np.diff(starts) > 0).all():
            raise ValueError("trees")
        inner = code >= 0
        before: Integers = np.cumsum(inner) - inner
        left: Integers = 2 * (before - np.repeat(before[starts[:-1]], np.diff(starts))) + 1
        cut = whole(np.where(inner, parts[7], np.float32(0)))
        value = np.where(inner, np.float32(0), parts[7])
        forest = cls(
            to_reals(parts[0]),
            bins,
            starts,
            np.where(inner, code // 2, -1),
            cut,
            np.where(inner, code % 2, 0),
            np.where(inner, left, -1),
            value,
        )
        forest._check(counts, edges)
        return forest

    def _check(self, counts: Integers, edges: int) -> None:
        """Raise ``ValueError`` unless every walk from a root ends at a leaf of its tree."""
        sizes = np.diff(self.starts)
        inner = self.feature >= 0
        own = np.arange(len(self.feature)) - np.repeat(self.starts[:-1], sizes)
        ends = np.repeat(sizes, sizes)
        good = (
            counts.sum() == edges
            and (counts >= 0).all()
            and self.bins.counts.max(initial=1) <= LARGEST_BINS
            and all((np.diff(one) > 0).all() for one in self.bins.edges)
            and all(0 <= code < count for code, count in zip(self.bins.typical, self.bins.counts, strict=True))
            and (self.feature < len(self.bins.edges)).all()
            and (self.left[inner] > own[inner]).all()
            and (self.left[inner] + 1 < ends[inner]).all()
        )
        if not good:
            raise ValueError("nodes or edges")

    # --- what it says

    def grown(self, tree: Integers, codes: Codes) -> Integers:
        """Return the node of every row in a tree that is growing: (feature, cut, missing_left, left) × nodes."""
        return _places(codes, self._absent(), tree)

    def add(self, codes: Codes, trees: range, scores: Floats) -> None:
        """Add what these trees say about rows (features, rows) to scores (rows, outputs)."""
        nodes, absent = np.stack([self.feature, self.cut, self.missing_left, self.left]), self._absent()
        for tree in trees:
            own = slice(self.starts[tree], self.starts[tree + 1])
            scores[:, tree % self.outputs] += self.value[own][_places(codes, absent, nodes[:, own])]

    def raw(self, inputs: Floats) -> Floats:
        """Return the scores of rows, before the link function: shape (rows, outputs)."""
        scores = np.tile(self.base, (len(inputs), 1))
        self.add(self.bins.codes(inputs), range(self.trees), scores)
        return scores

    def importance(self, gains: Floats | None = None) -> Importance:
        """Return how often each column decides."""
        chosen = self.feature[self.feature >= 0]
        return importance(chosen, np.zeros(len(chosen)) if gains is None else gains, len(self.bins.edges))

    def _absent(self) -> Integers:
        """Return the bin of missing values of each feature, −1 where they have none."""
        return np.where(self.bins.missing, self.bins.counts - 1, -1).astype(np.int64)


def _size(number: float) -> int:
    if not (0 <= number <= _LARGEST and number == int(number)):
        raise ValueError(f"a size is {number}")
    return int(number)


def _places(codes: Codes, absent: Integers, tree: Integers) -> Integers:
    """Return the node of every row, shape (rows,), in a tree (feature, cut, missing_left, left) × nodes."""
    places = np.zeros(codes.shape[1], np.int64)
    _walk(codes, absent, np.ascontiguousarray(tree), places)
    return places


@compiled
def _walk(codes: Codes, absent: Integers, tree: Integers, places: Integers) -> None:
    for row in range(len(places)):
        node = np.int64(0)
        while tree[0, node] >= 0:
            feature = tree[0, node]
            code = np.int64(codes[feature, row])
            goes_left = tree[2, node] > 0 if code == absent[feature] else code <= tree[1, node]
            node = tree[3, node] + np.int64(not goes_left)
        places[row] = node
