"""Vertical softmax regression: several classes over all parties' columns, each party keeping its own coefficients."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from unseen.catalog.class_model import CLASS_MODEL, ClassModel
from unseen.catalog.linear_model import COMMON_LEAKS, StoppingParams, check_rows, linear_setting, weights_of
from unseen.component import ALIGNED_TABLE, Component, Input, Leak, Output, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.learners.vertical import softmax


class SoftmaxRegressionParams(StoppingParams):
    """What is trained, and how it is protected."""

    classes: int = Field(default=3, ge=2, le=1000)
    """Number of classes; labels are 0 to classes − 1."""
    l2: float = Field(default=1e-3, gt=0)
    """Penalty ½·l2·‖coefficients‖² on top of the mean loss; without it there is no single best model."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table, params = task.input("table", Table), task.parameters(SoftmaxRegressionParams)
    check_rows(task, table, params.min_rows)
    if weights_of(table) is not None:
        raise UsageError(f"step {task.step}: softmax regression knows no weights of rows; leave out the column")
    setting = linear_setting(task, params.scheme)
    learner = softmax.SoftmaxParams(params.classes, params.l2, params.max_iterations, params.tolerance)
    if task.is_active:
        part = yield from softmax.train_active(table.matrix(), table.label(), learner, setting)
    else:
        part = yield from softmax.train_passive(table.matrix(), learner, setting)
    return {"model": ClassModel.of(part, table.schema.feature_names, task.passives)}


COMPONENT = Component(
    name="softmax_regression",
    version=2,
    summary="Softmax regression over all parties' columns, for several classes; passive parties show partial scores.",
    params=SoftmaxRegressionParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows without missing values; the label at one party")},
    outputs={"model": Output(CLASS_MODEL, "this party's part of the model")},
    leaks=(
        *COMMON_LEAKS,
        Leak(
            "active party",
            "in each round, up to classes − 1 scores for every row from each passive party; after as many as a party "
            "has columns, the space that they span",
        ),
        Leak("passive parties", "in each round, the gradients of their own coefficients for all classes"),
    ),
    run=_run,
)
