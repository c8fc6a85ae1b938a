"""Brings every feature to mean 0 and standard deviation 1, missing values to the mean; each party for itself."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.component import ALIGNED_TABLE, Component, Document, Input, Kind, Output, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.learners.scaling import Standardiser, fit


class Scaler(Document):
    """The means and standard deviations of one party's features on the training rows."""

    fitted: Standardiser


SCALER = Kind("scaler", Scaler)


def scaled(table: Table, scaler: Scaler) -> Table:
    """Return the table with its features scaled."""
    names = scaler.fitted.names
    return table.with_features(scaler.fitted.transform(table.matrix(names)), names)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    table = task.input("table", Table)
    scaler = Scaler(fitted=fit(table.matrix(), table.schema.feature_names))
    return {"table": scaled(table, scaler), "scaler": scaler}


COMPONENT = Component(
    name="standardise",
    version=1,
    summary="Scale each feature to mean 0 and standard deviation 1 on these rows; missing values become the mean.",
    params=Params,
    inputs={"table": Input(ALIGNED_TABLE, "the rows to fit on, usually the training part")},
    outputs={
        "table": Output(ALIGNED_TABLE, "the same rows, scaled"),
        "scaler": Output(SCALER, "means and standard deviations, to scale other rows alike"),
    },
    leaks=(),
    run=_run,
)
