"""Replaces every value by the number of its bin, which is what tree models are trained on; each party for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from unseen.catalog.binned_table import BINNED_TABLE, BINS, BinnedTable, Bins, values_of
from unseen.component import ALIGNED_TABLE, Component, Input, Output, Packed, Params, Task, Value
from unseen.data.schema import Kind as ColumnKind
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.learners.binning import Binning, fit_bins


class BinColumnsParams(Params):
    """How bins are chosen, and which columns are categories where their kind does not say it (text always is one)."""

    max_bins: int = Field(default=32, ge=3, le=256)
    """Bins of a column at most, the one of missing values included; time and traffic grow with their number."""
    method: Literal["quantile", "width"] = "quantile"
    """quantile: bins of about equal numbers of people; width: bins of equal width."""
    categorical: dict[PartyId, tuple[str, ...]] = Field(default_factory=dict)
    """Party → columns of numbers that are names of categories, such as a code of a branch."""
    edges: dict[PartyId, dict[str, tuple[float, ...]]] = Field(default_factory=dict)
    """Party → column → its bins' upper ends, the last one left out, where they are not to be learned."""


def learn_bins(table: Table, params: BinColumnsParams, me: PartyId) -> Bins:
    """Return the bins of this party's columns.

    Raises:
        UsageError: A parameter names a column that is no feature here, or edges are out of order.
    """
    chosen, edges = params.categorical.get(me, ()), params.edges.get(me, {})
    unknown = sorted({*chosen, *edges} - set(table.schema.feature_names))
    if unknown:
        raise UsageError(f"{me}: {', '.join(unknown)} are no features: {', '.join(table.schema.feature_names)}")
    binning = Binning(params.max_bins, params.method)
    return Bins(
        columns=tuple(
            fit_bins(
                column.name,
                values_of(table, column.name, categorical=column.kind is ColumnKind.TEXT or column.name in chosen),
                binning,
                edges=edges.get(column.name),
            )
            for column in table.schema.features
        )
    )


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    table, params = task.input("table", Table), task.parameters(BinColumnsParams)
    strangers = sorted({*params.categorical, *params.edges} - set(task.roles))
    if strangers:
        raise UsageError(f"step {task.step}: its params name {', '.join(strangers)}, which take no part in the flow")
    bins = learn_bins(table, params, task.me)
    return {"table": Packed.of(BinnedTable.of(table, bins)), "bins": bins}


COMPONENT = Component(
    name="bin_columns",
    version=1,
    summary="Put every value into one of a few bins, missing values into one of their own: the rows that trees need.",
    params=BinColumnsParams,
    inputs={"table": Input(ALIGNED_TABLE, "training rows, as they are: not scaled, values may be missing")},
    outputs={
        "table": Output(BINNED_TABLE, "the same rows in bins, with labels and weights where this party has them"),
        "bins": Output(BINS, "the bins of this party's columns; a model that is trained on them keeps them"),
    },
    leaks=(),
    run=_run,
)
