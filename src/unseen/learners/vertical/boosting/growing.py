"""A tree while it grows: its nodes, their histograms, and the node of every row. Nothing here talks to anyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.binned import sums
from unseen.learners.vertical.boosting.model import LEAF, Tree
from unseen.learners.vertical.boosting.packing import Packed
from unseen.learners.vertical.boosting.setting import DEPTH, BoostingParams
from unseen.learners.vertical.boosting.splits import MASK_BYTES, Split

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NOWHERE = (-1, False)


@dataclass(slots=True)
class Node:
    """One node; ``gradient`` and ``hessian`` are sums of fixed-point numbers over its rows."""

    depth: int
    gradient: int
    hessian: int
    rows: int
    summed: int
    """Rows that its sums are over: those that sampling left in."""
    above: Mapping[int, tuple[int, bool]]
    """Of each passive party (1, 2, …) its nearest split above, and whether this node is on its left."""
    sums: Integers | None = None
    """Histogram (words, columns of all parties), while it may be needed."""
    party: int = LEAF
    split: int = -1
    left: int = -1
    mask: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(MASK_BYTES, np.uint8))
    gain: float = 0.0
    closed: bool = False
    """Whether its sums, or what they leave of the parent's, would be over too few rows."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a node's left child has of it, from the rows that go there; all are sums over its training rows."""

    rows: int
    summed: int
    gradient: int
    hessian: int


@dataclass(slots=True)
class GrowingTree:
    """The nodes so far, and where the training rows (the first ``rows``) and validation rows are."""

    params: BoostingParams
    packed: Packed
    rows: int
    places: NDArray[np.uint16]
    nodes: list[Node]
    marked: Integers
    """The packed words of all rows, and below them a 1 for each row that has any, and a 1 for each row."""

    @classmethod
    def root(cls, params: BoostingParams, packed: Packed, rows: int, all_rows: int) -> GrowingTree:
        """Return the tree that is a root."""
        gradients, hessians = packed.unpack(packed.vectors.sum(axis=1, keepdims=True))
        drawn: Bools = np.asarray(packed.vectors.any(axis=0))
        root = Node(0, int(gradients[0]), int(hessians[0]), rows, int(np.count_nonzero(drawn)), {})
        marked = np.concatenate([packed.vectors, drawn[None, :], np.ones((1, rows), np.int64)])
        return cls(params, packed, rows, np.zeros(all_rows, np.uint16), [root], marked)

    @property
    def leaves(self) -> int:
        """Number of leaves so far: each division adds one leaf and two nodes."""
        return (len(self.nodes) + 1) // 2

    def may_split(self, node: int) -> bool:
        """Return whether the limits let the node be split, whatever its histogram."""
        found = self.nodes[node]
        weight = found.hessian / self.packed.hessian_scale
        return (
            found.depth < self.params.max_depth
            and self.leaves < self.params.max_leaves
            and found.rows > 1
            and not found.closed
            and found.summed >= 2 * self.params.min_rows_in_leaf
            and found.hessian > 1
            and weight >= 2 * self.params.min_child_weight
        )

    def choose(self, candidates: Mapping[int, Split]) -> list[int]:
        """Return the nodes to be split next: the best one, or a level's best ones as far as leaves are left."""
        left = self.params.max_leaves - self.leaves
        ranked = sorted(candidates, key=lambda node: (-candidates[node].gain, node))
        return sorted(ranked[:left] if self.params.growth == DEPTH else ranked[: min(1, left)])

    def vectors(self, nodes: Sequence[int]) -> Integers:
        """Return the packed words of all rows, zero outside of each node: shape (nodes · words, rows)."""
        words, places = self.packed.vectors, self.places[: self.rows]
        vectors = np.empty((len(nodes), *words.shape), np.int64)
        for vector, node in zip(vectors, nodes, strict=True):
            np.multiply(words, places == node, out=vector)
        return vectors.reshape(-1, self.rows)

    def inside(self, node: int) -> Bools:
        """Return for every row whether it is in the node."""
        found: Bools = self.places == node
        return found

    def share(self, node: int, left: Bools) -> Share:
        """Return what the rows of a node that go left add up to."""
        going: Bools = np.asarray(self.inside(node) & left)
        # In one pass: numpy's sums over chosen rows take several times as long.
        codes = going[None, : self.rows].view(np.uint8)
        found = sums(codes, np.array([0, 2]), self.marked.view(np.uint64)).view(np.int64)[:, 1:]
        gradients, hessians = self.packed.unpack(found[:-2])
        return Share(int(found[-1, 0]), int(found[-2, 0]), int(gradients[0]), int(hessians[0]))

    def divide(self, node: int, split: Split, owner: tuple[int, int], left: Bools, share: Share) -> tuple[int, int]:
        """Split a node by ``owner``'s (party, number of the split); return the children. ``left`` is about all rows."""
        parent, first = self.nodes[node], len(self.nodes)
        inside = self.inside(node)
        going = inside & left
        # Modulo 2^16, on all rows: some ten times as fast as assigning to chosen ones.
        self.places += inside * np.uint16(first + 1 - node) - going
        parent.party, parent.split, parent.left, parent.gain = *owner, first, split.gain
        if owner[0] == 0:
            parent.mask = split.left
        rest = Share(
            parent.rows - share.rows,
            parent.summed - share.summed,
            parent.gradient - share.gradient,
            parent.hessian - share.hessian,
        )
        closed = min(share.summed, rest.summed) < self.params.min_rows_in_leaf
        for side, part in ((True, share), (False, rest)):
            above = {**parent.above, owner[0]: (owner[1], side)}
            child = Node(parent.depth + 1, part.gradient, part.hessian, part.rows, part.summed, above, closed=closed)
            self.nodes.append(child)
        return first, first + 1

    def finish(self, values: Floats) -> Tree:
        """Return the tree with these values of its nodes, of which only the leaves' are kept."""
        nodes = self.nodes
        party = np.array([node.party for node in nodes], np.int64)
        return Tree(
            party,
            np.array([node.split for node in nodes], np.int64),
            np.array([node.left for node in nodes], np.int64),
            np.stack([node.mask for node in nodes]),
            np.where(party == LEAF, values, 0.0),
            np.array([node.gain for node in nodes]),
            np.array([node.rows for node in nodes], np.int64),
        )
