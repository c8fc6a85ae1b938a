"""Vertical logistic regression: one model over all parties' columns, each party keeping its own coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unseen.catalog.linear_model import (
    COMMON_LEAKS,
    LINEAR_MODEL,
    PRIVATE_LEAKS,
    LinearModel,
    LinearParams,
    class_weights,
    train_linear,
)
from unseen.component import ALIGNED_TABLE, Component, Input, Leak, Output, Task, Value
from unseen.dialogue import Dialogue
from unseen.learners.vertical.glm_params import GlmParams

__all__ = ["COMPONENT", "LINEAR_MODEL", "LinearModel", "LogisticRegressionParams"]


class LogisticRegressionParams(LinearParams):
    """What is trained, and how it is protected."""

    mode: Literal["private", "linearised", "exact"] = "private"
    """private: the model of pooled data, nobody sees a score of any row; one passive party.
    linearised: the same privacy, a model close to that of pooled data; any number of passive parties.
    exact: the model of pooled data, but passive parties show the label holder scores."""
    balanced: bool = False
    """Give both classes the same total weight; mode private only."""
    class_weights: tuple[float, ...] = ()
    """The weights of label 0 and of label 1; empty: both 1. Mode private only."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(LogisticRegressionParams)
    learner = GlmParams(
        mode=params.mode,
        l2=params.l2,
        l1=params.l1,
        max_iterations=params.max_iterations,
        tolerance=params.tolerance,
        class_weights=class_weights(task, params.class_weights, balanced=params.balanced),
    )
    return {"model": (yield from train_linear(task, learner, params))}


LINEARISED, EXACT = {"mode": "linearised"}, {"mode": "exact"}
COMPONENT = Component(
    name="logistic_regression",
    version=3,
    summary="Logistic regression over all parties' columns; each party keeps its own coefficients.",
    params=LogisticRegressionParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows without missing values; the label at one party")},
    outputs={"model": Output(LINEAR_MODEL, "this party's part of the model")},
    leaks=(
        *COMMON_LEAKS,
        *(Leak(leak.who, leak.learns, {"mode": "private"}) for leak in PRIVATE_LEAKS),
        Leak(
            "every party",
            "in each round, step lengths, and the products of its own columns with each peer's scores along the search "
            "direction, for each peer by itself",
            LINEARISED,
        ),
        Leak(
            "passive parties",
            "the products of their own columns with the residuals of the label holder's own model, and one scale",
            LINEARISED,
        ),
        Leak("active party", "in each round, five inner products of each passive party's own vectors", LINEARISED),
        Leak(
            "active party",
            "in each round, one score for every row from each passive party; after as many rounds as a party has "
            "columns, the space that they span",
            EXACT,
        ),
        Leak("passive parties", "in each round, the gradient of their own coefficients", EXACT),
    ),
    run=_run,
)
