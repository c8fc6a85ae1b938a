"""Logistic regression on the label holder's own columns: what it can do alone, to compare the joint model with."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from unseen.catalog.linear_model import LINEAR_MODEL, LinearModel, class_weights, weights_of
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Params, Role, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.learners.vertical import glm
from unseen.learners.vertical.setting import Setting


class LocalLogisticRegressionParams(Params):
    """What holds the coefficients back, and how much classes count."""

    l2: float = Field(default=1e-3, ge=0)
    """Penalty ½·l2·‖coefficients‖² on top of the mean log loss."""
    balanced: bool = False
    """Give both classes the same total weight."""
    class_weights: tuple[float, ...] = ()
    """The weights of label 0 and of label 1; empty: both 1."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    if not task.is_active:
        yield from ()
        return {}
    table, params = task.input("table", Table), task.parameters(LocalLogisticRegressionParams)
    learner = glm.GlmParams(
        l2=params.l2,
        class_weights=class_weights(task, params.class_weights, balanced=params.balanced),
    )
    alone = Setting(me=task.me, active=task.me, passives=(), prg=task.prg)
    part = yield from glm.train_active(table.matrix(), table.label(), learner, alone, weights=weights_of(table))
    return {"model": LinearModel.of(part, table.schema.feature_names, ())}


COMPONENT = Component(
    name="local_logistic_regression",
    version=2,
    summary="Logistic regression on the label holder's own columns only, as a yardstick.",
    params=LocalLogisticRegressionParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows; only the label holder's are used")},
    outputs={"model": Output(LINEAR_MODEL, "the label holder's model", at=Role.ACTIVE)},
    leaks=(),
    run=_run,
)
