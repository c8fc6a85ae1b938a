"""Applies a model to rows, with or without labels; the label holder gets the predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unseen.catalog.class_model import ClassModel, score_classes
from unseen.catalog.linear_model import LinearModel, score_linear
from unseen.catalog.tree_model import TreeModel, score_trees
from unseen.component import (
    ALIGNED_TABLE,
    MODEL,
    TABLE,
    Component,
    Input,
    Kind,
    Leak,
    Output,
    Packed,
    Params,
    Role,
    Task,
    Value,
)
from unseen.data.table import Table
from unseen.dialogue import Dialogue

PROBABILITY, PREDICTION = "probability", "prediction"
SCORES = Kind("scores", Table, general=TABLE)


def class_columns(count: int) -> list[str]:
    """Return the names of the columns with the probabilities of ``count`` classes."""
    return [f"{PROBABILITY}_{number}" for number in range(count)]


def shown(predictions: NDArray[np.float64], *, chances: bool) -> tuple[NDArray[np.float64], list[str]]:
    """Return the columns that are kept of predictions, shape (rows,) or (rows, classes), and their names."""
    if predictions.ndim == 1:
        return predictions[:, None], [PROBABILITY if chances else PREDICTION]
    best = predictions.argmax(axis=1).astype(np.float64)
    return np.column_stack([best, predictions]), [PREDICTION, *class_columns(predictions.shape[1])]


def _predictions(task: Task) -> Dialogue[tuple[NDArray[np.float64] | None, bool]]:
    """Return what the model predicts, at the active party, and whether this is the probability of label 1."""
    table, model = task.input("table", Table), task.inputs["model"]
    if isinstance(model, LinearModel):
        return (yield from score_linear(task, table, model)), model.family == "binomial"
    if isinstance(model, ClassModel):
        return (yield from score_classes(task, table, model)), False
    trees = task.input("model", Packed).unpack(TreeModel)
    return (yield from score_trees(task, table, trees)), trees.objective == "binary"


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    if "model" not in task.inputs:
        yield from ()
        return {}
    predictions, chances = yield from _predictions(task)
    if predictions is None:
        return {}
    return {"scores": task.input("table", Table).with_features(*shown(predictions, chances=chances))}


COMPONENT = Component(
    name="score",
    version=2,
    summary="Apply a model to rows; the label holder gets each row's probability, prediction or class.",
    params=Params,
    inputs={
        "table": Input(ALIGNED_TABLE, "rows as in training: scaled for linear models, as they are for trees"),
        "model": Input(MODEL, "the parties' parts of the model", at=Role.ACTIVE),
    },
    outputs={
        "scores": Output(
            SCORES, "id, the label where known, and probability, or prediction and probability_0, …", at=Role.ACTIVE
        )
    },
    leaks=(
        Leak(
            "active party, linear models",
            "for every scored row (and class), the sum of the passive parties' linear scores",
        ),
        Leak(
            "active party, trees",
            "for every scored row, to which side it goes at each passive party's split, except where that party's own "
            "splits above keep it away; over many rows these are value ranges of columns without a name",
        ),
        Leak("passive parties, trees", "which of their splits belong to the same tree"),
    ),
    run=_run,
)
