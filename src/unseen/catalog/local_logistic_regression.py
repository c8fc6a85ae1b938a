"""Logistic regression on the label holder's own columns: what it can do alone, to compare the joint model with."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.logistic_regression import (
    LINEAR_MODEL,
    LinearModel,
    LocalParams,
    check_weights,
)
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Role, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.learners.vertical.logistic import LogisticParams, Setting, train_active


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    if not task.is_active:
        yield from ()
        return {}
    table, params = task.input("table", Table), task.parameters(LocalParams)
    check_weights(task, table)
    learner = LogisticParams(l2=params.l2, max_iterations=params.max_iterations, tolerance=params.tolerance)
    alone = Setting(me=task.me, active=task.me, passives=(), prg=task.prg)
    part = yield from train_active(table.matrix(), table.label(), params=learner, setting=alone)
    return {"model": LinearModel.of(part, table.schema.feature_names, ())}


COMPONENT = Component(
    name="local_logistic_regression",
    version=1,
    summary="Logistic regression on the label holder's own columns only, as a yardstick.",
    params=LocalParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows; only the label holder's are used")},
    outputs={"model": Output(LINEAR_MODEL, "the label holder's model", at=Role.ACTIVE)},
    leaks=(),
    run=_run,
)
