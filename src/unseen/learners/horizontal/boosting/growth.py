"""A tree while it grows at the server, from sums over all clients; between two rounds it is two vectors of integers.

Of two sisters only the one with the smaller sum of hessians is asked for, and the other one is what it leaves of their
parent: half of the bytes. That needs the same clients in both rounds. The marks of cohorts tell: when they change, the
level is asked for again, both sisters of every pair, and so is the rest of the tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError
from unseen.learners.binning import LARGEST_BINS
from unseen.learners.horizontal.boosting.forest import Bins, Forest
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import Integers, to_floats, to_integers
from unseen.learners.vertical.boosting.packing import Packed
from unseen.learners.vertical.boosting.setting import DEPTH, BoostingParams
from unseen.learners.vertical.boosting.splits import FeatureSpace, Split, lightgbm_split

_NOBODY = -1
_LARGEST = 1e30


@dataclass(slots=True)
class Node:
    """One node; sums are integers. ``best_…`` is its best split, where one was found (``best_feature`` ≥ 0)."""

    depth: int = 0
    parent: int = -1
    rows: int = 0
    gradient: int = 0
    hessian: int = 0
    feature: int = -1
    cut: int = 0
    missing_left: int = 0
    left: int = -1
    slot: int = -1
    """Where its sums by bin are kept, while they are needed."""
    best_feature: int = -1
    best_cut: int = 0
    best_missing_left: int = 0
    best_gain: int = 0
    """The bits of a 64-bit float, which as integers are in the same order."""
    best_gradient: int = 0
    best_hessian: int = 0


_FIELDS = [one.name for one in fields(Node)]


@dataclass(slots=True)
class Growth:
    """The nodes so far, and the pairs (asked for, left over) whose sums are not known yet; −1: nobody is left over."""

    nodes: list[Node] = field(default_factory=lambda: [Node()])
    pairs: list[tuple[int, int]] = field(default_factory=lambda: [(0, _NOBODY)])
    mark: int = -1
    """Of the cohort."""
    kept: dict[int, Integers] = field(default_factory=dict)
    """Sums by bin, (2, columns), by slot."""

    @property
    def asked(self) -> list[int]:
        """The nodes whose sums are wanted."""
        return [node for node, _ in self.pairs]

    @property
    def leaves(self) -> int:
        """Number of leaves so far."""
        return (len(self.nodes) + 1) // 2

    def shape(self) -> Vector:
        """Return (feature, cut, missing_left, left) × nodes, for clients to find their rows' nodes."""
        names = ("feature", "cut", "missing_left", "left")
        return np.array([[getattr(node, name) for node in self.nodes] for name in names], np.float32).reshape(-1)

    # --- between rounds

    def pack(self) -> tuple[Vector, Vector]:
        """Return nodes and pairs, and sums by bin."""
        head = np.array([len(self.nodes), len(self.pairs), self.mark, *sum(self.pairs, ())], np.int64)
        slots = sorted(self.kept)
        for node in self.nodes:
            node.slot = slots.index(node.slot) if node.slot in self.kept else -1
        table = [[getattr(node, name) for name in _FIELDS] for node in self.nodes]
        sums = [self.kept[slot].reshape(-1) for slot in slots]
        return (
            to_floats(np.concatenate([head, np.array(table, np.int64).reshape(-1)])),
            to_floats(np.concatenate([*sums, np.empty(0, np.int64)])),
        )

    @classmethod
    def unpack(cls, packed: Vector, sums: Vector | None = None, columns: int = 1) -> Self:
        """Return what ``pack`` took, without the sums by bin if they are not given."""
        values = to_integers(packed)
        nodes, pairs, mark = values[:3].tolist()
        _, flat, table = np.split(values, [3, 3 + 2 * pairs])
        return cls(
            [Node(*row) for row in table.reshape(nodes, -1).tolist()],
            [(int(asked), int(other)) for asked, other in flat.reshape(-1, 2)],
            mark,
            {} if sums is None else dict(enumerate(to_integers(sums).reshape(-1, 2, columns))),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Grower:
    """Grows trees over these bins; ``allowed`` says which features this tree may use."""

    params: BoostingParams
    bins: Bins
    gradient_scale: float
    hessian_scale: float
    allowed: NDArray[np.bool_]
    space: FeatureSpace = field(init=False)

    def __post_init__(self) -> None:
        numbers, missing = np.zeros(len(self.allowed), np.bool_), np.array(self.bins.missing)
        object.__setattr__(self, "space", FeatureSpace.of([(self.bins.counts, numbers, missing)]))

    def heard(self, growth: Growth, mark: int, found: Integers) -> bool:
        """Take in the sums of all nodes asked for, (nodes, 1 + 2 · columns); return whether the tree is complete."""
        if growth.mark not in (-1, mark) and any(other != _NOBODY for _, other in growth.pairs):
            growth.pairs = [(one, _NOBODY) for pair in growth.pairs for one in pair if one != _NOBODY]
            growth.mark = -2
            return False
        growth.mark = mark if growth.mark != -2 else -2
        for (node, other), row in zip(growth.pairs, found, strict=True):
            sums = row[1:].reshape(2, -1)
            if other != _NOBODY:
                parent = growth.nodes[growth.nodes[node].parent]
                self._know(growth, other, parent.rows - int(row[0]), growth.kept[parent.slot] - sums)
            self._know(growth, node, int(row[0]), sums)
        growth.pairs = []
        needed = {node.slot for node in growth.nodes if node.left < 0 and node.best_feature >= 0}
        growth.kept = {slot: sums for slot, sums in growth.kept.items() if slot in needed}
        while not growth.pairs and (chosen := self._choose(growth)):
            for node in chosen:
                self._divide(growth, node)
            if growth.leaves >= self.params.max_leaves:
                growth.pairs = []
                break
        return not growth.pairs

    def _know(self, growth: Growth, place: int, rows: int, sums: Integers) -> None:
        """Note a node's sums, and its best split if it may have one."""
        node = growth.nodes[place]
        first = slice(0, int(self.bins.offsets[1]))
        node.rows, node.gradient, node.hessian = rows, int(sums[0, first].sum()), int(sums[1, first].sum())
        if not self._may_split(node) or rows < 2 * self.params.min_rows_in_leaf:
            return
        packed = Packed(np.empty((0, 0), np.int64), 0, self.gradient_scale, self.hessian_scale)
        split = lightgbm_split(self.space, self.allowed, packed, sums, rows, self.params)
        if split is None:
            return
        node.slot = max(growth.kept, default=-1) + 1
        growth.kept[node.slot] = sums
        node.best_feature = split.feature
        node.best_cut, node.best_missing_left = self._cut(split, sums)
        node.best_gain = int(np.float64(split.gain).view(np.int64))
        node.best_gradient, node.best_hessian = split.left_gradient, split.left_hessian

    def _cut(self, split: Split, sums: Integers) -> tuple[int, int]:
        """Return the last bin that goes left, and whether missing values do.

        Where no row of the node decides, it is as in LightGBM: bins that are empty here go left with the one before,
        and so do missing values.
        """
        start, stop = self.bins.offsets[split.feature : split.feature + 2].tolist()
        apart = self.bins.missing[split.feature]
        filled: NDArray[np.bool_] = np.asarray(sums[:, start:stop].any(axis=0))
        left = np.unpackbits(split.left, count=LARGEST_BINS)[: stop - start].view(np.bool_)
        missing_left = apart and bool(left[-1] or not filled[-1])
        ordered, filled = (left[:-1], filled[:-1]) if apart else (left, filled)
        cut = int(ordered.sum()) - 1
        return cut + int(np.append(filled[cut + 1 :], True).argmax()), int(missing_left)

    def _may_split(self, node: Node) -> bool:
        """Return whether limits other than that of rows let a node be split."""
        weight = node.hessian / self.hessian_scale
        return node.depth < self.params.max_depth and node.hessian > 1 and weight >= 2 * self.params.min_child_weight

    def _choose(self, growth: Growth) -> list[int]:
        room = self.params.max_leaves - growth.leaves
        open_ = [place for place, node in enumerate(growth.nodes) if node.left < 0 and node.best_feature >= 0]
        ranked = sorted(open_, key=lambda place: (-growth.nodes[place].best_gain, place))
        return sorted(ranked[:room] if self.params.growth == DEPTH else ranked[: min(1, room)])

    def _divide(self, growth: Growth, place: int) -> None:
        """Split a node by its best split, and ask for the sums of one of its children if one may be split further."""
        node, first = growth.nodes[place], len(growth.nodes)
        node.feature, node.cut, node.missing_left = node.best_feature, node.best_cut, node.best_missing_left
        node.left = first
        left = Node(node.depth + 1, place, 0, node.best_gradient, node.best_hessian)
        right = Node(node.depth + 1, place, 0, node.gradient - left.gradient, node.hessian - left.hessian)
        growth.nodes += [left, right]
        if not (self._may_split(left) or self._may_split(right)):
            return
        if growth.mark == -2:
            growth.pairs += [(first, _NOBODY), (first + 1, _NOBODY)]
        elif left.hessian <= right.hessian:
            growth.pairs.append((first, first + 1))
        else:
            growth.pairs.append((first + 1, first))

    def finish(self, growth: Growth, base: NDArray[np.float64]) -> Forest:
        """Return the tree as a forest of its own, its nodes level by level.

        Raises:
            RemoteProtocolError: The sums are none of honest clients.
        """
        nodes, params = _by_level(growth.nodes), self.params
        sums = np.array([[node.gradient, node.hessian] for node in nodes], np.float64)
        weights = sums[:, 1] / self.hessian_scale + params.l2
        steps = np.divide(sums[:, 0] / self.gradient_scale, weights, out=np.zeros(len(nodes)), where=weights > 0)
        columns = [[node.feature, node.cut, node.missing_left] for node in nodes]
        feature, cut, missing_left = np.array(columns, np.int64).T
        inner = feature >= 0
        left = np.where(inner, 2 * (np.cumsum(inner) - inner) + 1, -1)
        values = np.where(inner, 0.0, -params.learning_rate * steps)
        if not (np.abs(values) < _LARGEST).all():
            raise RemoteProtocolError("the sums of a tree make leaves beyond all bounds: one of the clients cheats")
        return Forest(
            base, self.bins, np.array([0, len(nodes)]), feature, cut, missing_left, left, values.astype(np.float32)
        )


def _by_level(nodes: list[Node]) -> list[Node]:
    """Return the nodes of a tree so that each inner one's children follow those of the inner ones before."""
    found = [nodes[0]]
    for node in found:
        if node.left >= 0:
            found += nodes[node.left : node.left + 2]
    return found
