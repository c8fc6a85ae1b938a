"""Applies a linear model to rows, with or without labels; the label holder gets the probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.logistic_regression import LINEAR_MODEL, LinearModel
from unseen.component import ALIGNED_TABLE, TABLE, Component, Input, Kind, Leak, Output, Params, Role, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.learners.vertical.logistic import Setting, score_active, score_passive

PROBABILITY = "probability"
SCORES = Kind("scores", Table, general=TABLE)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    if "model" not in task.inputs:
        yield from ()
        return {}
    table, model = task.input("table", Table), task.input("model", LinearModel)
    if table.schema.feature_names != model.names:
        raise DataError(
            f"step {task.step}: the model was trained on columns {', '.join(model.names)}, "
            f"the table has {', '.join(table.schema.feature_names)}"
        )
    setting = Setting(me=task.me, active=task.active, passives=model.passives, prg=task.prg)
    if not task.is_active:
        yield from score_passive(model.part, table.matrix(), setting=setting)
        return {}
    probabilities = yield from score_active(model.part, table.matrix(), setting=setting)
    return {"scores": table.with_features(probabilities[:, None], [PROBABILITY])}


COMPONENT = Component(
    name="score",
    version=1,
    summary="Apply a linear model to rows; the label holder gets each row's probability.",
    params=Params,
    inputs={
        "table": Input(ALIGNED_TABLE, "rows scaled as the training rows were"),
        "model": Input(LINEAR_MODEL, "the parties' parts of the model", at=Role.ACTIVE),
    },
    outputs={"scores": Output(SCORES, "id, probability, and the label where known", at=Role.ACTIVE)},
    leaks=(Leak("active party", "for every scored row, the sum of the passive parties' linear scores"),),
    run=_run,
)
