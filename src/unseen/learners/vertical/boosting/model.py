"""What a boosting training leaves behind: each party has its half of the model, in messages of ``codec``."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.learners.vertical.boosting.splits import MASK_BYTES

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Masks = NDArray[np.uint8]

LEAF = -1
OWN = 0


@message("vertical_boosting/tree")
class Tree:
    """One tree as the active party knows it, one entry a node; node 0 is the root, children come after parents."""

    party: Annotated[Integers, Shape(None)]
    """−1: a leaf; 0: split by the active party; p: by the p-th passive one."""
    split: Annotated[Integers, Shape(None)]
    """The active party's column, or the number of the passive party's split; −1 at leaves."""
    left: Annotated[Integers, Shape(None)]
    """The left child; the right one is the next node. −1 at leaves."""
    masks: Annotated[Masks, Shape(None, MASK_BYTES)]
    """Bins that go left at the active party's own splits, packed; zeros elsewhere."""
    values: Annotated[Floats, Shape(None)]
    """What a leaf adds to the score; 0 elsewhere."""
    gains: Annotated[Floats, Shape(None)]
    rows: Annotated[Integers, Shape(None)]
    """Training rows of the node."""

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return int(np.count_nonzero(self.party == LEAF))


@message("vertical_boosting/active-model")
class ActiveModel:
    """The active party's half: all trees; of passive parties' splits it knows their numbers only.

    ``trees`` are in the order of the rounds, with ``len(base)`` trees a round, one an output.
    """

    objective: str
    base: Annotated[Floats, Shape(None)]
    passives: tuple[str, ...]
    columns: int
    trees: tuple[Tree, ...]


@message("vertical_boosting/passive-model")
class PassiveModel:
    """A passive party's half: its own splits, in the order in which they were made."""

    columns: int
    features: Annotated[Integers, Shape(None)]
    """The column that decides."""
    left: Annotated[Masks, Shape(None, MASK_BYTES)]
    """The bins that go left, packed."""
    trees: Annotated[Integers, Shape(None)]
    """The tree of each split, counted from 0."""
    parents: Annotated[Integers, Shape(None)]
    """The nearest own split above, or −1, and whether this one is on its left."""
    sides: Annotated[NDArray[np.bool_], Shape(None)]
    gains: Annotated[Floats, Shape(None)]
    """Gain of each split, or nothing if the active party keeps gains to itself."""

    def importance(self) -> Importance:
        """Return how often each own column decides, and its total gain (0 if that is not told)."""
        gains = self.gains if len(self.gains) else np.zeros(len(self.features))
        return importance(self.features, gains, self.columns)


@message("vertical_boosting/importance")
class Importance:
    """How much one party's columns matter, one entry a column."""

    splits: Annotated[Integers, Shape(None)]
    gains: Annotated[Floats, Shape(None)]


@message("vertical_boosting/report")
class BoostingReport:
    """How a training went, at the active party."""

    losses: Annotated[Floats, Shape(None)]
    """Mean loss on the training rows after each round that was kept."""
    validation_losses: Annotated[Floats, Shape(None)]
    """The same on the validation rows, of all rounds; empty without them."""
    leaves: Annotated[Integers, Shape(None)]
    """Leaves of each tree that was kept."""
    importances: tuple[Importance, ...]
    """Of each party's columns, the active one's first; passive parties' columns are known by opaque numbers only."""
    note: str


@message("vertical_boosting/active-result")
class ActiveResult:
    """The active party's half of the model, and how it came to be."""

    model: ActiveModel
    report: BoostingReport


def importance(columns: Integers, gains: Floats, count: int) -> Importance:
    """Return how often each of ``count`` columns occurs, and the sum of its gains."""
    return Importance(
        np.bincount(columns, minlength=count).astype(np.int64), np.bincount(columns, gains, count).astype(np.float64)
    )
