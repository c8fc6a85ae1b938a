"""Vertical gradient boosting: one forest over all parties' columns, of which each party keeps its own splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from unseen.catalog.binned_table import BINNED_TABLE, BinnedTable
from unseen.catalog.boosting import (
    LocalBoostingParams,
    learner_params,
    training_rows,
    validation_columns,
    validation_rows,
)
from unseen.catalog.histogram_setup import HISTOGRAM_SETUP, LAYOUT_LEAK, active_setup, boosting_setting, passive_setup
from unseen.catalog.linear_model import refuse_passive_weights
from unseen.catalog.schemes import SchemeName
from unseen.catalog.tree_model import BOOSTING_REPORT, TREE_MODEL, TreeModel, active_report, passive_report
from unseen.component import ALIGNED_TABLE, Component, Input, Leak, Output, Packed, Task, Value
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.learners.vertical.boosting.training import train_active, train_passive


class VerticalBoostingParams(LocalBoostingParams):
    """What is learned, and what parties learn about each other."""

    instance_space: Literal["everyone", "members"] = "everyone"
    """At a passive party's split, everyone: the label holder learns which of all people go left, the passive party
    not who is in the node. members: the label holder learns it of the node's people only, and names these."""
    share_gains: bool = False
    """Tell each passive party how much its own splits gain."""
    max_sums_per_row: float = Field(default=0.1, ge=0)
    """Sums over bins that a passive party answers in a training, divided by the people; then it refuses. From enough
    sums the bins of every person can be solved for: "Who learns what" has figures."""
    scheme: SchemeName = "lattice"
    """How sums over rows are protected, where no set-up is given; plain works only in simulation."""
    min_rows: int = Field(default=100, ge=2)
    """Refuse to train on fewer rows: sums over few rows tell about single people."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table, params = task.input("table", Packed).unpack(BinnedTable), task.parameters(VerticalBoostingParams)
    rows = table.codes.shape[1]
    if rows < params.min_rows:
        raise DataError(
            f"step {task.step}: {rows} rows are fewer than min_rows = {params.min_rows}: share more people; "
            "a lower min_rows lets sums over few rows tell about each of them"
        )
    refuse_passive_weights(task, table.weight)
    return (yield from (_active(task, table, params) if task.is_active else _passive(task, table, params)))


def _active(task: Task, table: BinnedTable, params: VerticalBoostingParams) -> Dialogue[Mapping[str, Value]]:
    train, others = training_rows(task, table), validation_rows(task, table)
    setup = yield from active_setup(task, table, params.scheme)
    setting = boosting_setting(task)
    result = yield from train_active(train, learner_params(params), setting, setup, validation=others)
    model = TreeModel(table.bins, params.objective, result.model.passives, result.model, None)
    return {"model": Packed.of(model), "report": active_report(task.me, table.rules, result)}


def _passive(task: Task, table: BinnedTable, params: VerticalBoostingParams) -> Dialogue[Mapping[str, Value]]:
    others = validation_columns(task, table)
    setup = yield from passive_setup(task, table, params.scheme)
    setting = boosting_setting(task)
    found = yield from train_passive(table.columns, learner_params(params), setting, setup, validation=others)
    model = TreeModel(table.bins, params.objective, task.passives, None, found)
    return {"model": Packed.of(model), "report": passive_report(task.me, table.rules, params.objective, found)}


EVERYONE, MEMBERS = {"instance_space": "everyone"}, {"instance_space": "members"}
COMPONENT = Component(
    name="vertical_boosting",
    version=2,
    summary="Gradient boosting of trees over all parties' columns; each party keeps its own splits.",
    params=VerticalBoostingParams,
    inputs={
        "table": Input(BINNED_TABLE, "training rows in bins; the label at one party"),
        "validation": Input(ALIGNED_TABLE, "rows to stop by, as they are: not in bins", required=False),
        "setup": Input(
            HISTOGRAM_SETUP, "what `prepare_histograms` made of this very table, to save it", required=False
        ),
    },
    outputs={
        "model": Output(TREE_MODEL, "this party's half of the model: trees at the label holder, own splits elsewhere"),
        "report": Output(BOOSTING_REPORT, "losses after each round, and importance of the columns this party may know"),
    },
    leaks=(
        Leak("every party", "the parameters, numbers of training and validation rows, and of rounds"),
        LAYOUT_LEAK,
        Leak(
            "active party",
            "for every node that may be split further, sums of gradients and hessians over each bin of each passive "
            "party's columns, by the numbers of the columns; hence about how many people of the node are in a bin",
        ),
        Leak(
            "active party",
            "from many such sums, what bins single people are in, of all columns, used or not: it knows every gradient "
            "exactly, so that with enough sums the bins of every row can be solved for; max_sums_per_row bounds the "
            "sums of one training, not those of several trainings together",
        ),
        Leak(
            "active party",
            "with scheme lattice and some 30,000 rows or more, for each sum over a bin another one, of small random "
            "numbers that it knows; with fewer rows noise hides most of it",
        ),
        Leak(
            "active party",
            "at each passive party's split that is used, which of all training and validation rows go left, except "
            "those that the passive party's own splits above keep away",
            EVERYONE,
        ),
        Leak("active party", "at each passive party's split that is used, which of the node's rows go left", MEMBERS),
        Leak(
            "passive parties",
            "their own splits: the column, the bins that go left, which of their splits is below which, in which tree",
        ),
        Leak(
            "passive parties",
            "at each of their own splits, which rows are in the node: people with similar labels, which may be guessed",
            MEMBERS,
        ),
        Leak("passive parties", "how many sums were asked for in each tree"),
        Leak("passive parties", "the gains of their own splits", {"share_gains": True}),
    ),
    run=_run,
)
