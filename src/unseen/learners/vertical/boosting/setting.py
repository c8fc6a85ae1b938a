"""What all parties of a boosting training agree on, and who they are, seen from one of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from unseen.errors import UsageError
from unseen.learners.vertical.setting import Participants

BINARY, MULTICLASS, SQUARED, POISSON, HUBER = "binary", "multiclass", "squared", "poisson", "huber"
OBJECTIVES = (BINARY, MULTICLASS, SQUARED, POISSON, HUBER)
DEPTH, LEAF = "depth", "leaf"
EVERYONE, MEMBERS = "everyone", "members"
LARGEST_LEAVES = 1 << 14


@dataclass(frozen=True, slots=True)
class BoostingParams:
    """What all parties agree on; the names are those of XGBoost and LightGBM where these agree.

    The objective is the mean loss, each row with its weight, + ``l2``/2 · the squared leaf values of each tree.
    """

    objective: str = BINARY
    """binary (log loss), multiclass (softmax), squared, poisson (log link), huber."""
    classes: int = 1
    """Number of classes with ``multiclass``; otherwise 1: one tree a round."""
    rounds: int = 100
    learning_rate: float = 0.1
    growth: str = DEPTH
    """depth: level by level, few messages; leaf: the best leaf first, one round trip a split."""
    max_depth: int = 5
    max_leaves: int = 31
    l2: float = 1.0
    """λ, on the leaf values."""
    min_split_gain: float = 0.0
    """γ: what G_L²/(H_L+λ) + G_R²/(H_R+λ) − G²/(H+λ) must exceed."""
    min_child_weight: float = 1.0
    """Smallest sum of hessians of a leaf."""
    min_rows_in_leaf: int = 20
    """Smallest number of rows of a leaf, judged by hessians beforehand; sums over fewer rows are never asked for."""
    category_smoothing: float = 10.0
    """Categories are ordered by G/(H + this): rare ones come to the middle."""
    row_rate: float = 1.0
    """Share of the rows, drawn without replacement, from which each round learns its splits."""
    column_rate: float = 1.0
    """Share of all parties' columns that each tree may use."""
    goss_top: float = 0.0
    """Gradient-based one-side sampling: share of the rows with the largest gradients that are all kept; 0: none."""
    goss_other: float = 0.1
    """Share of the rows that are drawn among the others, and weighted up."""
    patience: int = 0
    """Stop after so many rounds without a better validation loss, and keep the best; 0: never."""
    class_weights: tuple[float, ...] = ()
    """One a class; empty: all 1."""
    huber_delta: float = 1.0
    """Residuals beyond it count linearly."""
    instance_space: str = EVERYONE
    """Who learns what at a passive party's split: see ``training``."""
    max_sums_per_row: float = 0.1
    """Sums over bins that a passive party answers in a training, divided by the training rows: see ``training``."""
    share_gains: bool = False
    """Whether a passive party is told the gains of its own splits."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        expected = {BINARY: 2, MULTICLASS: self.classes}.get(self.objective, 0)
        if self.class_weights and len(self.class_weights) != expected:
            raise UsageError(f"class_weights: expected {expected}, found {len(self.class_weights)}")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.class_weights):
            raise UsageError(f"class_weights are positive, found {self.class_weights}")

    def _check_choices(self) -> None:
        for name, choices in (
            ("objective", OBJECTIVES),
            ("growth", (DEPTH, LEAF)),
            ("instance_space", (EVERYONE, MEMBERS)),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is one of {', '.join(choices)}, found {getattr(self, name)!r}")
        if (self.objective == MULTICLASS) != (self.classes > 1):
            raise UsageError(f"classes is at least 2 with multiclass, else 1; found {self.classes}, {self.objective}")

    def _check_numbers(self) -> None:
        ranges = {
            "rounds": (1, 1 << 20),
            "learning_rate": (1e-9, 1.0),
            "max_depth": (1, 64),
            "max_leaves": (2, LARGEST_LEAVES),
            "l2": (0.0, 1e12),
            "min_split_gain": (0.0, 1e12),
            "min_child_weight": (0.0, 1e12),
            "min_rows_in_leaf": (1, 1 << 40),
            "max_sums_per_row": (0.0, 1e12),
            "category_smoothing": (0.0, 1e12),
            "row_rate": (1e-9, 1.0),
            "column_rate": (1e-9, 1.0),
            "goss_top": (0.0, 1.0),
            "goss_other": (1e-9, 1.0),
            "patience": (0, 1 << 20),
            "huber_delta": (1e-12, 1e12),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} lies between {low:g} and {high:g}, found {getattr(self, name)}")
        if self.goss_top and (self.goss_top + self.goss_other > 1 or self.row_rate < 1):
            raise UsageError("goss_top + goss_other is at most 1, and row_rate is 1 with goss_top")

    @property
    def most_sums(self) -> int:
        """Sums over bins that a training takes at most if gradients and hessians fit into one word: else twice."""
        leaves = min(self.max_leaves, 1 << min(self.max_depth, 20))
        return self.rounds * self.classes * (leaves - 1)

    @property
    def terms(self) -> tuple[str, ...]:
        """One text for each parameter, equal if it is."""
        return tuple(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))


@dataclass(frozen=True, slots=True)
class BoostingSetting(Participants):
    """Who takes part in boosting; with no passive party all is local."""

    def check_role(self, *, active: bool) -> None:
        """Raise ``UsageError`` if this party has the other role."""
        if (self.me == self.active) != active:
            wanted = "the active party" if active else "a passive party"
            raise UsageError(f"{self.me} is not {wanted} here: {self.active} holds the label")
