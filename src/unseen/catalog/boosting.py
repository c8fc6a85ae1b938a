"""What vertical and local boosting share: parameters, and the rows to learn from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unseen.catalog.binned_table import BinnedTable
from unseen.component import Params, Task
from unseen.data.table import Table
from unseen.errors import DataError
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting.setting import BoostingParams
from unseen.learners.vertical.boosting.training import LabelledRows


class LocalBoostingParams(Params):
    """What is learned, and how large trees grow; names are those of XGBoost and LightGBM where these agree."""

    objective: Literal["binary", "multiclass", "squared", "poisson", "huber"] = "binary"
    """binary: labels 0 and 1; multiclass: labels 0 to classes − 1; poisson: counts; squared, huber: amounts."""
    classes: int = Field(default=1, ge=1, le=1000)
    """Number of classes, with objective multiclass only."""
    rounds: int = Field(default=100, ge=1, le=100_000)
    """Trees at most (with multiclass: for each class)."""
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    """How much of each tree's correction is taken; lower needs more rounds."""
    growth: Literal["depth", "leaf"] = "depth"
    """depth: level by level, few rounds of messages; leaf: the best leaf first, a round of messages for every split."""
    max_depth: int = Field(default=5, ge=1, le=64)
    """Splits between root and leaf at most."""
    max_leaves: int = Field(default=31, ge=2, le=16_384)
    """Leaves of a tree at most."""
    l2: float = Field(default=1.0, ge=0)
    """λ: holds leaf values back."""
    min_split_gain: float = Field(default=0.0, ge=0)
    """γ: splits that gain less are not made."""
    min_child_weight: float = Field(default=1.0, ge=0)
    """Least sum of second derivatives in a leaf: with squared error the number of people."""
    min_rows_in_leaf: int = Field(default=20, ge=1)
    """Least number of people in a leaf, judged by second derivatives; sums over fewer people are never asked for."""
    category_smoothing: float = Field(default=10.0, ge=0)
    """Draws rare categories to the middle of the order in which categories are split."""
    row_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the people, drawn for each round, from whom its splits are learned."""
    column_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the columns, drawn for each tree, that it may use."""
    goss_top: float = Field(default=0.0, ge=0, lt=1)
    """Share of the people with the largest gradients who are always used while others are drawn; 0: no sampling."""
    goss_other: float = Field(default=0.1, gt=0, le=1)
    """Share of the people who are drawn from the others, if goss_top is not 0."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many rounds without a better validation loss, and keep the best; 0: never. Needs `validation`."""
    class_weights: tuple[float, ...] = ()
    """One weight a class, in the order of the labels; empty: all 1."""
    huber_delta: float = Field(default=1.0, gt=0)
    """With objective huber: errors beyond it count linearly."""


def learner_params(params: LocalBoostingParams) -> BoostingParams:
    """Return the parameters as the learner takes them."""
    return BoostingParams(**params.model_dump(exclude={"scheme", "min_rows"}))


def training_rows(task: Task, table: BinnedTable) -> LabelledRows:
    """Return the active party's training rows."""
    if table.label is None:
        raise DataError(f"step {task.step}: the table of {task.me} has no label to learn")
    return LabelledRows(table.columns, table.label, table.weight)


def validation_columns(task: Task, table: BinnedTable) -> BinnedColumns | None:
    """Return the validation rows in the bins of the training rows, if there are any."""
    return table.rules.apply(task.input("validation", Table)) if "validation" in task.inputs else None


def validation_rows(task: Task, table: BinnedTable) -> LabelledRows | None:
    """Return the active party's validation rows, if there are any."""
    columns = validation_columns(task, table)
    if columns is None:
        return None
    rows = task.input("validation", Table)
    return LabelledRows(columns, rows.label(), None if table.weight is None else rows.weights())
