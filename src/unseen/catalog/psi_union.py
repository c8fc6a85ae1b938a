"""Makes one place for everybody whom either of two parties knows, without telling which places the other one fills."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from unseen.catalog.join_keys import (
    KeySummary,
    OneRowParams,
    check_shared,
    items_of,
    meeting_of,
    read_keys,
    without_keys,
)
from unseen.component import ALIGNED_TABLE, TABLE, Component, Input, Kind, Leak, Output, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.protocols.psi.ecdh import unite


class PsiUnionParams(OneRowParams):
    """By what people are matched."""

    min_shared: int = Field(default=0, ge=0)
    """Stop if fewer people are shared; a tripwire against mistakes."""


class UnionSummary(KeySummary):
    """How many people each party brought, and how many there are in all."""

    places: int
    """How many people either party knows."""
    shared: int
    """How many both know, which follows from the other numbers."""


UNION_SUMMARY = Kind("union_summary", UnionSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(PsiUnionParams)
    keys = read_keys(task, params, params.duplicates)
    spine = yield from unite(items_of(keys), meeting_of(task))
    places = len(spine.rows)
    shared = sum(spine.sizes.values()) - places
    check_shared(shared, params.min_shared)
    table = without_keys(task.input("table", Table), keys.changed).take(keys.firsts).spread(spine.rows)
    summary = UnionSummary(
        sizes=dict(spine.sizes), changed=keys.changed, left_out=keys.left_out, places=places, shared=shared
    )
    return {"table": table, "summary": summary}


COMPONENT = Component(
    name="psi_union",
    version=1,
    summary="Private set union: one row for everybody whom either party knows, empty where this party does not.",
    params=PsiUnionParams,
    inputs={"table": Input(TABLE, "this party's people")},
    outputs={
        "table": Output(ALIGNED_TABLE, "everybody, without the key; rows of people whom this party lacks are missing"),
        "summary": Output(UNION_SUMMARY, "how many people each party brought, how many there are, how many are shared"),
    },
    leaks=(
        Leak("every party", "how many distinct keys each party has, and how many people both have"),
        Leak(
            "every party",
            "of the places that it does not fill itself: that the other one fills them; later steps that tell whose "
            "label or values are missing tell which places a party does not fill",
        ),
    ),
    run=_run,
)
