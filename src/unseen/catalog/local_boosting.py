"""Gradient boosting on the label holder's own columns: what it can do alone, to compare the joint model with."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.binned_table import BINNED_TABLE, BinnedTable
from unseen.catalog.boosting import LocalBoostingParams, learner_params, training_rows, validation_rows
from unseen.catalog.tree_model import BOOSTING_REPORT, TREE_MODEL, TreeModel, active_report
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Packed, Role, Task, Value
from unseen.dialogue import Dialogue
from unseen.learners.vertical.boosting.setting import BoostingSetting
from unseen.learners.vertical.boosting.training import train_active


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    if not task.is_active:
        yield from ()
        return {}
    table, params = task.input("table", Packed).unpack(BinnedTable), task.parameters(LocalBoostingParams)
    train, others = training_rows(task, table), validation_rows(task, table)
    alone = BoostingSetting(me=task.me, active=task.me, passives=(), prg=task.prg)
    result = yield from train_active(train, learner_params(params), alone, validation=others)
    model = TreeModel(table.bins, params.objective, (), result.model, None)
    return {"model": Packed.of(model), "report": active_report(task.me, table.rules, result)}


COMPONENT = Component(
    name="local_boosting",
    version=1,
    summary="Gradient boosting of trees on the label holder's own columns only, as a yardstick.",
    params=LocalBoostingParams,
    inputs={
        "table": Input(BINNED_TABLE, "training rows in bins; only the label holder's are used"),
        "validation": Input(ALIGNED_TABLE, "rows to stop by, as they are: not in bins", required=False),
    },
    outputs={
        "model": Output(TREE_MODEL, "the label holder's model", at=Role.ACTIVE),
        "report": Output(BOOSTING_REPORT, "losses after each round, and importance of the columns", at=Role.ACTIVE),
    },
    leaks=(),
    run=_run,
)
