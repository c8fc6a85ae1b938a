"""Sets up the encrypted sums that vertical boosting needs: once for a binned table, for all trainings on it."""

from __future__ import annotations

from collections.abc import Mapping

from unseen.catalog.binned_table import BINNED_TABLE, BinnedTable
from unseen.catalog.histogram_setup import (
    HISTOGRAM_SETUP,
    LAYOUT_LEAK,
    KeptActive,
    KeptPassive,
    make_active_setup,
    make_passive_setup,
)
from unseen.catalog.schemes import SchemeName
from unseen.component import Component, Input, Output, Packed, Params, Task, Value
from unseen.dialogue import Dialogue


class PrepareHistogramsParams(Params):
    """How the sums are protected."""

    scheme: SchemeName = "lattice"
    """How sums over rows are protected; plain works only in simulation."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    scheme, table = task.parameters(PrepareHistogramsParams).scheme, task.input("table", Packed).unpack(BinnedTable)
    if task.is_active:
        kept = KeptActive.of(scheme, (yield from make_active_setup(task, table, scheme)))
        return {"setup": Packed.of(kept)}
    mine = KeptPassive.of(scheme, (yield from make_passive_setup(task, table, scheme)))
    return {"setup": Packed.of(mine)}


COMPONENT = Component(
    name="prepare_histograms",
    version=2,
    summary="Set up the encrypted sums over a binned table once, for every boosting on it.",
    params=PrepareHistogramsParams,
    inputs={"table": Input(BINNED_TABLE, "training rows in bins")},
    outputs={"setup": Output(HISTOGRAM_SETUP, "what boosting on this very table needs; passive parties' have a key")},
    leaks=(LAYOUT_LEAK,),
    run=_run,
)
