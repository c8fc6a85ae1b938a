"""Splits aligned people into those to train on, those to test on, and those without a label, who are to be scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unseen.codec import Shape, message
from unseen.component import ALIGNED_TABLE, Component, Input, Leak, Output, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue, receive, send_all
from unseen.errors import DataError, RemoteProtocolError

PARTS = ("train", "test", "unlabelled")


class SplitParams(Params):
    """How labelled people are divided."""

    test: float = Field(default=0.3, gt=0, lt=1)
    """Share of the labelled people who are kept for testing."""
    stratify: bool = True
    """Keep the share of each label value the same in both parts."""


@message("split/assignment")
class Assignment:
    """Where every row goes: 0 train, 1 test, 2 unlabelled."""

    part: Annotated[NDArray[np.uint8], Shape(None)]


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table = task.input("table", Table)
    if task.is_active:
        part = assign(table, task.parameters(SplitParams), task.prg.permutation(table.rows))
        yield from send_all(task.peers, Assignment(part))
    else:
        part = (yield from receive(task.active, Assignment)).part
        if len(part) != table.rows or (part >= len(PARTS)).any():
            raise RemoteProtocolError(f"{task.active}: a split of {len(part)} rows does not fit {table.rows} rows")
    return {name: table.take(np.flatnonzero(part == index)) for index, name in enumerate(PARTS)}


def assign(table: Table, params: SplitParams, shuffled: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the part of every row, taking the rows in the order ``shuffled``."""
    missing = table.label_missing()
    labels = table.label()
    part = np.zeros(table.rows, np.uint8)
    part[missing] = 2
    known = shuffled[~missing[shuffled]]
    groups = [known[labels[known] == value] for value in np.unique(labels[known])] if params.stratify else [known]
    for group in groups:
        part[group[: round(params.test * len(group))]] = 1
    if not (part == 0).any() or not (part == 1).any():
        raise DataError(
            f"{len(known)} of {table.rows} shared people have a label, too few to split: provide more, "
            "or check that the ids are written alike at all parties"
        )
    return part


COMPONENT = Component(
    name="split",
    version=1,
    summary="Split aligned people into train, test, and those without a label.",
    params=SplitParams,
    inputs={"table": Input(ALIGNED_TABLE, "the people whom all parties know")},
    outputs={
        "train": Output(ALIGNED_TABLE, "people to learn from"),
        "test": Output(ALIGNED_TABLE, "people to evaluate on"),
        "unlabelled": Output(ALIGNED_TABLE, "people whose label is unknown: to be scored"),
    },
    leaks=(Leak("passive parties", "which shared people have no label yet, and who is in the test part"),),
    run=_run,
)
