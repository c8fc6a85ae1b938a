"""Scales further rows with the means and standard deviations of the training rows."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.standardise import SCALER, Scaler, scaled
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    return {"table": scaled(task.input("table", Table), task.input("scaler", Scaler))}


COMPONENT = Component(
    name="apply_scaler",
    version=1,
    summary="Scale further rows as the training rows were scaled.",
    params=Params,
    inputs={
        "table": Input(ALIGNED_TABLE, "the rows to scale"),
        "scaler": Input(SCALER, "what `standardise` learned"),
    },
    outputs={"table": Output(ALIGNED_TABLE, "the same rows, scaled")},
    leaks=(),
    run=_run,
)
