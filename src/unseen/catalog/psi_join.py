"""Finds the people whom all parties know, and puts their rows into one order at every party."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unseen.component import ALIGNED_TABLE, TABLE, Component, Document, Input, Kind, Leak, Output, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.protocols.psi.ecdh import intersect
from unseen.protocols.psi.port import Items, Meeting


class PsiJoinParams(Params):
    """How the intersection is computed."""

    protocol: Literal["ecdh"] = "ecdh"
    """The protocol; ecdh: blinded points of an elliptic curve."""


class JoinSummary(Document):
    """How many people each party brought, and how many are shared: what every party learned."""

    sizes: dict[PartyId, int]
    shared: int


JOIN_SUMMARY = Kind("join_summary", JoinSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table = task.input("table", Table)
    meeting = Meeting(task.me, task.peers, task.prg, task.step.encode())
    found = yield from intersect(Items(*table.id_buffer()), meeting)
    rows = found.known()
    return {"table": table.take(rows), "summary": JoinSummary(sizes=dict(found.sizes), shared=len(rows))}


COMPONENT = Component(
    name="psi_join",
    version=1,
    summary="Private set intersection on the id column; rows come out in the same order at every party.",
    params=PsiJoinParams,
    inputs={"table": Input(TABLE, "this party's people")},
    outputs={
        "table": Output(ALIGNED_TABLE, "the people whom all parties know"),
        "summary": Output(JOIN_SUMMARY, "how many people each party brought, and how many are shared"),
    },
    leaks=(
        Leak("every party", "how many people each party has"),
        Leak("every party", "which of its own people all the others have too"),
        Leak("every party, if there are three or more", "which of its own people each single other party has"),
    ),
    run=_run,
)
