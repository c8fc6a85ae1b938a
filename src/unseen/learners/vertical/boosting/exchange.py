"""What the active party and the passive ones say to each other while a tree grows, in both roles.

The active party leads: each passive one is told by an ``Order`` what comes next: vectors of the linear map, of which
the active party learns the sums over bins; or splits of some nodes by the passive party's columns, answered with one
bit a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message, shown
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.binned import sums
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting.growing import NOWHERE, GrowingTree, Share
from unseen.learners.vertical.boosting.model import PassiveModel
from unseen.learners.vertical.boosting.rows import Reach, Rows, unpacked
from unseen.learners.vertical.boosting.setting import EVERYONE, MEMBERS, BoostingParams
from unseen.learners.vertical.boosting.splits import MASK_BYTES, FeatureSpace, Split
from unseen.protocols.linear_map.port import MatrixSide, Recipient, VectorSide

Integers = NDArray[np.int64]
Bits = NDArray[np.uint8]

SUMS, SPLITS, TREE, ROUND, END = "sums", "splits", "tree", "round", "end"
# Vectors that are sent at a time; two such groups are under way at most, which bounds what is held in memory.
_GROUP = 16


@message("vertical_boosting/order")
class Order:
    """What comes next: ``sums``, ``splits`` (``count`` of them), or the end of a tree, of a round, of the training."""

    what: str
    count: int


@message("vertical_boosting/splits")
class Splits:
    """Splits of nodes by the receiver's columns; with the policy members, one bit a row and node follows."""

    columns: Annotated[Integers, Shape(None)]
    """In the order of the set-up."""
    left: Annotated[Bits, Shape(None, MASK_BYTES)]
    parents: Annotated[Integers, Shape(None)]
    """The nearest split above by the receiver's columns, or −1, and whether the node is on its left."""
    sides: Annotated[NDArray[np.bool_], Shape(None)]


# --- the active party ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lines:
    """The active party's own rows, and its sides of the linear maps, in the order of the passive parties."""

    own: BinnedColumns
    rows: Rows
    space: FeatureSpace
    sides: Mapping[PartyId, VectorSide]
    params: BoostingParams

    def ask_sums(self, tree: GrowingTree, nodes: Sequence[int]) -> Dialogue[dict[int, Integers]]:
        """Return the histogram of each of ``nodes`` over all parties' columns, shape (words, columns)."""
        words = len(tree.packed.vectors)
        step = max(1, _GROUP // words)
        groups = [nodes[start : start + step] for start in range(0, len(nodes), step)]
        columns: list[list[Integers]] = []
        for index, group in enumerate(groups):
            vectors = tree.vectors(group)
            for peer, side in self.sides.items():
                yield from send(peer, Order(SUMS, len(vectors)))
                yield from side.submit(vectors, Recipient.VECTOR_HOLDER)
            own = sums(self.own.codes, self.own.offsets, vectors.view(np.uint64)).view(np.int64)
            columns.append([own])
            if index:
                yield from self._collect(columns[index - 1])
        yield from self._collect(columns[-1])
        found = np.concatenate([np.concatenate(parts, axis=1) for parts in columns])
        found = found.reshape(len(nodes), words, self.space.columns)
        self._check(tree, nodes, found)
        return dict(zip(nodes, found, strict=True))

    def _collect(self, parts: list[Integers]) -> Dialogue[None]:
        """Add every passive party's answer to the oldest group of vectors."""
        for peer, side in self.sides.items():
            found = yield from side.collect()
            if found is None:
                raise LocalProtocolError(f"the linear map with {peer} gave its recipient nothing")
            parts.append(found)

    def _check(self, tree: GrowingTree, nodes: Sequence[int], found: Integers) -> None:
        """Raise unless every feature's bins add up to the node's total: each row is in one bin of each column."""
        starts = np.cumsum(self.space.bins) - self.space.bins
        for node, histogram in zip(nodes, found, strict=True):
            gradients, hessians = tree.packed.unpack(np.add.reduceat(histogram, starts, axis=1))
            expected = tree.nodes[node]
            wrong = np.flatnonzero((gradients != expected.gradient) | (hessians != expected.hessian))
            if len(wrong):
                party = int(self.space.party[wrong[0]])
                name = [None, *self.sides][party]
                if name is None:
                    raise LocalProtocolError("the sums over own bins do not add up")
                raise RemoteProtocolError(f"{name}: the sums over a column's bins do not add up to those of the node")

    def ask_splits(
        self, tree: GrowingTree, chosen: Mapping[int, Split], made: Mapping[PartyId, list[int]]
    ) -> Dialogue[dict[int, tuple[int, Bits]]]:
        """Return, for each node that a passive party's column splits, the split's number there and the rows' bits.

        ``made`` are the columns of all splits of each party so far; the new ones are added.
        """
        answers: dict[int, tuple[int, Bits]] = {}
        asked: dict[PartyId, tuple[int, list[int]]] = {}
        for place, peer in enumerate(self.sides, start=1):
            nodes = [node for node, split in chosen.items() if self.space.party[split.feature] == place]
            if not nodes:
                continue
            asked[peer] = len(made[peer]), nodes
            columns = [int(self.space.local[chosen[node].feature]) for node in nodes]
            made[peer].extend(columns)
            above = [tree.nodes[node].above.get(place, NOWHERE) for node in nodes]
            masks = np.stack([chosen[node].left for node in nodes])
            parents, sides = np.array([p for p, _ in above], np.int64), np.array([s for _, s in above], np.bool_)
            yield from send(peer, Order(SPLITS, len(nodes)))
            yield from send(peer, Splits(np.array(columns, np.int64), masks, parents, sides))
            if self.params.instance_space == MEMBERS:
                yield from send_array(peer, np.stack([np.packbits(tree.inside(node)) for node in nodes]))
        for peer, (first, nodes) in asked.items():
            bits = yield from receive_array(peer, np.uint8, Shape(len(nodes), self.rows.bytes))
            answers |= {node: (first + index, bits[index]) for index, node in enumerate(nodes)}
        return answers

    def divide(
        self, tree: GrowingTree, chosen: Mapping[int, Split], made: Mapping[PartyId, list[int]]
    ) -> Dialogue[list[tuple[int, int, int]]]:
        """Split the nodes; return each with its children."""
        answers = yield from self.ask_splits(tree, chosen, made)
        families = []
        for node, split in chosen.items():
            if node in answers:
                number, bits = answers[node]
                owner, left = (int(self.space.party[split.feature]), number), unpacked(bits, self.rows.count)
            else:
                column = int(self.space.local[split.feature])
                owner, left = (0, column), self.rows.left(column, split.left)
            share = tree.share(node, left)
            self._check_share(split, share)
            families.append((node, *tree.divide(node, split, owner, left, share)))
        return families

    def _check_share(self, split: Split, share: Share) -> None:
        """Raise unless the rows that go left have the sums for which the split was chosen."""
        if (share.gradient, share.hessian) == (split.left_gradient, split.left_hessian):
            return
        name = [None, *self.sides][int(self.space.party[split.feature])]
        if name is None:
            raise LocalProtocolError("the sums over own bins are not those of the rows that go left")
        raise RemoteProtocolError(f"{name}: the rows that go left at a split are not those of its sums over bins")


# --- a passive party -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PassiveTree:
    """What a passive party knows of the tree that grows, and what the active one may still ask in it."""

    number: int
    reach: Reach
    before: int = 0
    """Sums that were answered in earlier trees of the training."""
    vectors: int = 0
    splits: int = 0

    @property
    def answered(self) -> int:
        """Sums that were answered in the training so far."""
        return self.before + self.vectors


@dataclass(frozen=True, slots=True)
class Answering:
    """A passive party's rows, columns in the order of the set-up, and its side of the linear map."""

    active: PartyId
    rows: Rows
    side: MatrixSide
    params: BoostingParams

    def sums(self, tree: PassiveTree, count: int) -> Dialogue[None]:
        """Answer vectors of the linear map."""
        tree.vectors += count
        # Every node has at most two words.
        if not 1 <= count <= tree.vectors <= 4 * self.params.max_leaves:
            raise RemoteProtocolError(f"{self.active}: asks for {tree.vectors} sums in a tree, more than it can need")
        self._check_total(tree.answered)
        yield from self.side.multiply(count, Recipient.VECTOR_HOLDER)

    def _check_total(self, answered: int) -> None:
        """Raise before more sums are answered than were agreed on: enough of them give the bins of every row away."""
        rows, limit = self.rows.parts[0].rows, self.params.max_sums_per_row
        if answered > limit * rows:
            raise UsageError(
                f"{self.active} asks for sum {answered} over {rows} training rows, but max_sums_per_row = {limit:g} "
                f"allows {math.floor(limit * rows)}: from enough sums the bins of every row can be solved for. Train "
                "fewer rounds or smaller trees (max_leaves, max_depth), take more rows, or agree on a higher limit "
                "knowing this"
            )

    def splits(self, tree: PassiveTree, count: int, model: PassiveModel) -> Dialogue[PassiveModel]:
        """Answer splits with the rows' bits; return the model with these splits, columns in the order of the set-up."""
        asked = yield from receive(self.active, Splits)
        tree.splits += count
        self._check(asked, count, tree, model)
        first = len(model.features)
        above = list(zip(asked.parents.tolist(), asked.sides.tolist(), strict=True))
        columns = asked.columns.tolist()
        if self.params.instance_space == EVERYONE:
            bits = [tree.reach.bits(first + i, columns[i], asked.left[i], above[i]) for i in range(count)]
        else:
            members = yield from receive_array(self.active, np.uint8, Shape(count, self.rows.bytes))
            bits = [np.packbits(self.rows.left(columns[i], asked.left[i])) & members[i] for i in range(count)]
        yield from send_array(self.active, np.stack(bits))
        return PassiveModel(
            model.columns,
            np.concatenate([model.features, asked.columns]),
            np.concatenate([model.left, asked.left]),
            np.concatenate([model.trees, np.full(count, tree.number)]),
            np.concatenate([model.parents, asked.parents]),
            np.concatenate([model.sides, asked.sides]),
            model.gains,
        )

    def _check(self, asked: Splits, count: int, tree: PassiveTree, model: PassiveModel) -> None:
        sizes = {len(asked.columns), len(asked.left), len(asked.parents), len(asked.sides)}
        if sizes != {count} or count < 1 or tree.splits >= self.params.max_leaves:
            raise RemoteProtocolError(f"{self.active}: asks for {shown(tuple(sizes))} splits after {tree.splits}")
        bins = self.rows.parts[0].bins
        for column, left, parent in zip(asked.columns.tolist(), asked.left, asked.parents.tolist(), strict=True):
            if not 0 <= column < len(bins):
                raise RemoteProtocolError(f"{self.active}: splits by column {column} of {len(bins)}")
            places = np.flatnonzero(np.unpackbits(left))
            if not 0 < len(places) < bins[column] or places[-1] >= bins[column]:
                raise RemoteProtocolError(f"{self.active}: a split sends impossible bins of a column to the left")
            if parent != -1 and not (0 <= parent < len(model.features) and model.trees[parent] == tree.number):
                raise RemoteProtocolError(f"{self.active}: a split is said to be below split {parent}")
