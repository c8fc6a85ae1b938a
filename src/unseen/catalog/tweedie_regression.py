"""Vertical Tweedie regression: amounts that are often zero, with the log link, over all parties' columns."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from unseen.catalog.linear_model import COMMON_LEAKS, LINEAR_MODEL, PRIVATE_LEAKS, LinearParams, train_family
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Task, Value
from unseen.dialogue import Dialogue


class TweedieRegressionParams(LinearParams):
    """What is trained, and how it is protected."""

    power: float = Field(default=1.5, gt=1, lt=2)
    """The variance grows as this power of the mean: near 1 as for counts, near 2 as for amounts that are never zero."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(TweedieRegressionParams)
    return {"model": (yield from train_family(task, "tweedie", params, power=params.power))}


COMPONENT = Component(
    name="tweedie_regression",
    version=2,
    summary="Tweedie regression over all parties' columns, for amounts that are often zero; each keeps its own part.",
    params=TweedieRegressionParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows without missing values; the label at one party")},
    outputs={"model": Output(LINEAR_MODEL, "this party's part of the model")},
    leaks=(*COMMON_LEAKS, *PRIVATE_LEAKS),
    run=_run,
)
