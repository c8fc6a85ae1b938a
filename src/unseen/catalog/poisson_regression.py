"""Vertical Poisson regression: counts, with the log link, over all parties' columns."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.linear_model import COMMON_LEAKS, LINEAR_MODEL, PRIVATE_LEAKS, LinearParams, train_family
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Task, Value
from unseen.dialogue import Dialogue


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(LinearParams)
    return {"model": (yield from train_family(task, "poisson", params))}


COMPONENT = Component(
    name="poisson_regression",
    version=2,
    summary="Poisson regression over all parties' columns, for counts; each party keeps its own coefficients.",
    params=LinearParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows without missing values; the label at one party")},
    outputs={"model": Output(LINEAR_MODEL, "this party's part of the model")},
    leaks=(*COMMON_LEAKS, *PRIVATE_LEAKS),
    run=_run,
)
