"""Hands one party an encoded catalogue of the other's people: once for a table, for all look-ups in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from unseen.catalog.psi_catalogue import LOOKUP_CATALOGUE, hand_over, take_over
from unseen.component import TABLE, Component, Input, Leak, Output, Packed, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.protocols.psi.catalogue import MAX_POINTS


class PrepareLookupParams(Params):
    """Whose people can be looked up, and what comes with them."""

    holder: Literal["active", "passive"] = "passive"
    """Which of the two parties has the large table; the other one is the asker."""
    columns: tuple[str, ...] = ()
    """Columns of the holder that the asker gets of everybody whom it looks up and who is there."""
    max_points: int = Field(default=100_000, ge=1, le=MAX_POINTS)
    """How many people may be looked up in one session; the holder counts, and refuses more."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params, table = task.parameters(PrepareLookupParams), task.input("table", Table)
    if len(task.peers) != 1:
        raise UsageError(f"step {task.step}: a catalogue is a matter of two parties, found {len(task.roles)}")
    if task.role == params.holder:
        kept = yield from hand_over(task, table, params.columns, params.max_points)
    else:
        kept = yield from take_over(task)
    return {"catalogue": Packed.of(kept)}


COMPONENT = Component(
    name="prepare_lookup",
    version=1,
    summary="Hand over an encoded catalogue of a large table once, for every look-up of a few people in it.",
    params=PrepareLookupParams,
    inputs={"table": Input(TABLE, "the people that can be looked up, at the holder; the asker's is not used")},
    outputs={"catalogue": Output(LOOKUP_CATALOGUE, "what look-ups need; the holder's has a key")},
    leaks=(
        Leak("asker", "how many people the holder has"),
        Leak("asker", "names and kinds of the columns offered, and how long their longest text is, to 16 bytes"),
    ),
    run=_run,
)
