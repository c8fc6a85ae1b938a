"""What server and clients of a regression agree on, and what a broadcast says of the round."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.linear.model import Floats
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import Integers, head_size, to_floats, to_integers, to_reals

LOGISTIC, SQUARED = "logistic", "squared"
"""Families."""
EXPONENT = 100
"""Numbers from 2^-100 to 2^100 in magnitude are told apart; smaller ones count as 0, larger ones are refused."""
COUNTS = 40
"""Bits of counts of rows."""
SUMS = 62
"""Bits of other sums."""
LOSS = 1024.0
"""A row's loss counts as this at most."""


class Phase(enum.IntEnum):
    """What a round is for."""

    MAGNITUDES = 0
    MEANS = 1
    DEVIATIONS = 2
    STEPS = 3
    DONE = 4


@dataclass(frozen=True, slots=True)
class LinearSetting:
    """What server and clients agree on.

    Raises:
        UsageError: A number is not what it has to be.
    """

    family: str
    columns: tuple[str, ...]
    clients: int
    l2: float = 0.0

    def __post_init__(self) -> None:
        faults = {
            "family is logistic or squared": self.family not in (LOGISTIC, SQUARED),
            "there is at least one column": not self.columns,
            "columns have different names": len(set(self.columns)) != len(self.columns),
            "l2 is not negative": not 0 <= self.l2 < math.inf,
        }
        if found := [fault for fault, present in faults.items() if present]:
            raise UsageError(f"linear regression: {', '.join(found)}; found {self}")
        head_size(self.clients)

    @property
    def amounts(self) -> int:
        """Columns that are scaled: all features, and for least squares the label, which comes last."""
        return len(self.columns) + (self.family == SQUARED)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a broadcast says of the round; all columns are those of ``LinearSetting.amounts``."""

    phase: Phase
    room: int
    """Sums over 2^``room`` rows fit."""
    exponents: Integers
    """Numbers of a column are below 2^exponent in magnitude."""
    means: Floats
    deviations: Floats
    """1 for constant columns."""
    steps: int
    weights: Floats
    """Of standardised columns, and the intercept: where gradient and Hessian are wanted."""

    @classmethod
    def start(cls, setting: LinearSetting) -> Plan:
        """Return that of the first round."""
        count = setting.amounts
        zeros = np.zeros(count)
        return cls(
            Phase.MAGNITUDES, 0, np.zeros(count, np.int64), zeros, zeros + 1, 0, np.zeros(len(setting.columns) + 1)
        )

    def pack(self) -> Vector:
        """Return the plan as 32-bit floats."""
        head = to_floats(np.array([self.phase, self.room, self.steps, *self.exponents], np.int64))
        return np.concatenate([head, to_floats(np.concatenate([self.means, self.deviations, self.weights]))])

    @classmethod
    def unpack(cls, packed: Vector, setting: LinearSetting) -> Plan:
        """Return what ``pack`` took.

        Raises:
            RemoteProtocolError: It is no plan for such columns.
        """
        count, border = setting.amounts, 3 * (3 + setting.amounts)
        if len(packed) != border + 3 * (2 * count + len(setting.columns) + 1):
            raise RemoteProtocolError(f"the plan of a round of regression has {len(packed)} numbers, expected others")
        (phase, room, steps), exponents = np.split(to_integers(packed[:border]), [3])
        means, deviations, weights = np.split(to_reals(packed[border:]), [count, 2 * count])
        finite = np.isfinite(np.concatenate([means, deviations, weights])).all() and (deviations > 0).all()
        if phase not in list(Phase) or not 0 <= room <= 40 or not finite or np.abs(exponents).max() > EXPONENT + 1:
            raise RemoteProtocolError("the plan of a round of regression is malformed")
        return cls(Phase(phase), int(room), exponents, means, deviations, int(steps), weights)

    @property
    def factor(self) -> float:
        """What sums of numbers up to 1 in magnitude are multiplied by."""
        return math.ldexp(1.0, SUMS - 1 - self.room)

    @property
    def spans(self) -> Floats:
        """Powers of two that bound the magnitudes of standardised columns."""
        largest = (np.ldexp(1.0, self.exponents) + np.abs(self.means)) / self.deviations
        return np.exp2(np.ceil(np.log2(largest)))
