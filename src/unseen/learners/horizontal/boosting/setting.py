"""What server and clients of horizontal boosting agree on, and what a broadcast says of the round."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np

from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import Limbs, head_size, whole
from unseen.learners.horizontal.tables.sketch import NOISY_ROUNDS, ROUNDS, WIDTH
from unseen.learners.vertical.boosting.setting import BINARY, DEPTH, MULTICLASS, SQUARED, BoostingParams

OBJECTIVES = (BINARY, MULTICLASS, SQUARED)
_FRACTION = 20
"""Binary digits that gradients have at least, in the unit of their bound."""
_MARGIN = 4
"""By how much the rows of a cohort may grow before scales are chosen anew."""
_SLACK = 4.0
"""Residuals beyond so many times the largest label are clipped; none is, unless a step overshoots."""
_LARGEST_ROOM = 40
_FEW_BINS = 64
"""With fewer bins counts are as many as with so many."""


class Phase(enum.IntEnum):
    """What a round is for."""

    BINS = 0
    """Counts values in ranges."""
    BASE = 1
    """Sums labels."""
    NODES = 2
    """Sums gradients and hessians of some nodes by bin."""
    DONE = 3
    """Nothing: the forest is complete."""


@dataclass(frozen=True, slots=True)
class ForestPlan:
    """What a forest is to be; the names are those of LightGBM and XGBoost where these agree."""

    objective: str = BINARY
    """``binary``, ``multiclass`` or ``squared``."""
    classes: int = 1
    """Number of classes with ``multiclass``."""
    trees: int = 100
    """Boosting rounds; with ``multiclass`` each has a tree for every class."""
    learning_rate: float = 0.1
    """What leaf values are multiplied by."""
    max_leaves: int = 31
    max_depth: int = 5
    growth: str = DEPTH
    """``depth``: level by level, a round each; ``leaf``: the best leaf first, a round for every split."""
    min_rows: int = 20
    """Smallest number of rows of a leaf, judged by hessians."""
    min_child_weight: float = 1e-3
    """Smallest sum of hessians of a leaf."""
    min_split_gain: float = 0.0
    l2: float = 0.0
    """λ, on leaf values."""
    bins: int = 64
    """Of a column, at most."""
    row_rate: float = 1.0
    """Share of the rows that each boosting round learns from, by a coin for each row."""
    column_rate: float = 1.0
    """Share of the columns that each tree may use."""
    bin_noise: float = 0.0
    """Deviation of the noise on the counts of which bins are made; the server needs ``with_bin_noise``."""
    seed: int = 0
    """Of the draws of rows and columns; public."""

    def params(self) -> BoostingParams:
        """Return what the growing of trees needs; raises ``UsageError`` if a number is not what it has to be."""
        return BoostingParams(
            objective=self.objective,
            classes=self.classes,
            rounds=self.trees,
            learning_rate=self.learning_rate,
            growth=self.growth,
            max_depth=self.max_depth,
            max_leaves=self.max_leaves,
            l2=self.l2,
            min_split_gain=self.min_split_gain,
            min_child_weight=self.min_child_weight,
            min_rows_in_leaf=self.min_rows,
            row_rate=self.row_rate,
            column_rate=self.column_rate,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """What server and clients agree on.

    Raises:
        UsageError: A number is not what it has to be, or the objective is none for horizontal tables.
    """

    params: BoostingParams
    columns: tuple[str, ...]
    """Names of the features, in their order."""
    clients: int
    """In a cohort, at most."""
    bins: int = 64
    """Of a column, at most, that of missing values included."""
    seed: int = 0
    """Of the draws of rows and columns; public."""
    bin_noise: float = 0.0
    """Deviation of the noise on the counts of which bins are made; 0: none."""
    head: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = {
            f"objective is one of {', '.join(OBJECTIVES)}": self.params.objective not in OBJECTIVES,
            "there is at least one column": not self.columns,
            "columns have different names": len(set(self.columns)) != len(self.columns),
            "bins lie between 3 and 256": not 3 <= self.bins <= 256,
            "bin_noise is not negative": not 0 <= self.bin_noise < math.inf,
        }
        if found := [fault for fault, present in faults.items() if present]:
            raise UsageError(f"boosting: {', '.join(found)}; found {self}")
        object.__setattr__(self, "head", head_size(self.clients))

    @property
    def sketch_rounds(self) -> int:
        """Rounds of counting of which bins are made; with noise each costs privacy."""
        return NOISY_ROUNDS if self.bin_noise else ROUNDS

    @property
    def sketch_width(self) -> int:
        """Counts of a column in such a round, about."""
        return WIDTH * max(_FEW_BINS, self.bins)

    @property
    def outputs(self) -> int:
        """Trees of a boosting round."""
        return self.params.classes

    @property
    def trees(self) -> int:
        """Trees of the forest."""
        return self.params.rounds * self.params.classes

    @property
    def rounds(self) -> int:
        """Rounds after which the forest is complete, at most, if the same clients take part in all."""
        params = self.params
        steps = min(params.max_depth, params.max_leaves - 1) if params.growth == DEPTH else params.max_leaves - 1
        return self.sketch_rounds + 1 + self.trees * steps

    @property
    def counted(self) -> int:
        """Columns of the sketch: all features, and for amounts the label, of which the magnitude is wanted."""
        return len(self.columns) + (self.params.objective == SQUARED)


COUNTS = 40
"""Bits of counts of rows."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How reals become integers whose sums fit: room for 2^``room`` rows, gradients and labels up to 2^``bound``."""

    room: int
    bound: int

    @classmethod
    def of(cls, rows: int, bound: int) -> Scale:
        """Return the scale for a cohort with so many rows."""
        return cls(math.ceil(math.log2(_MARGIN * max(1, rows))), bound)

    def holds(self, rows: int) -> bool:
        """Return whether sums over so many rows fit."""
        return rows <= 1 << self.room

    def limbs(self, clients: int) -> Limbs:
        """Return how sums by bin travel."""
        return Limbs(clients, min(62, 1 + self.room + _FRACTION))

    def gradients(self, clients: int) -> float:
        """Return what gradients are multiplied by."""
        return math.ldexp(1.0, self.limbs(clients).room - 1 - self.room - self.bound)

    def hessians(self, clients: int) -> float:
        """Return what hessians, which are at most 1, are multiplied by."""
        return math.ldexp(1.0, self.limbs(clients).room - 1 - self.room)

    def labels(self, clients: int) -> float:
        """Return what labels are multiplied by where they are summed as they are."""
        return math.ldexp(1.0, Limbs(clients, 62).room - 1 - self.room - self.bound)

    @property
    def limit(self) -> float:
        """Gradients are clipped to it."""
        return math.ldexp(1.0, self.bound)


def label_bound(largest: float) -> int:
    """Return the power of two that bounds residuals of labels up to ``largest`` in magnitude."""
    return math.ceil(math.log2(_SLACK * max(largest, 1e-30)))


def control(phase: Phase, scale: Scale, size: int) -> Vector:
    """Return what takes the model's place in a broadcast: the phase and the scale."""
    return np.array([phase, scale.room, scale.bound, *[0] * (size - 3)], np.float32)


def read_control(vector: Vector) -> tuple[Phase, Scale]:
    """Return what ``control`` took.

    Raises:
        RemoteProtocolError: It cannot have made the vector.
    """
    numbers = whole(vector[:3]).tolist()
    if len(numbers) != 3 or numbers[0] not in list(Phase):
        raise RemoteProtocolError("the broadcast of a round of boosting says nothing that is known here")
    phase, room, bound = numbers
    if not (0 <= room <= _LARGEST_ROOM and -200 <= bound <= 200):
        raise RemoteProtocolError(f"the broadcast of a round of boosting has a scale of {room} and {bound} bits")
    return Phase(phase), Scale(room, bound)
