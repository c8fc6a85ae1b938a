"""Looks up a few people in another party's large table, of which ``prepare_lookup`` made a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unseen.catalog.psi_catalogue import LOOKUP_CATALOGUE, LOOKUP_SUMMARY, KeptCatalogue, look_up_people, summary_of
from unseen.component import TABLE, Component, Input, Leak, Output, Packed, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue


class PsiLookupParams(Params):
    """Who learns the result."""

    recipients: Literal["asker", "both"] = "asker"
    """asker: the holder gets an empty table; both: it gets its own rows of the people found, in the same order."""


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table, kept = task.input("table", Table), task.input("catalogue", Packed).unpack(KeptCatalogue)
    tell = task.parameters(PsiLookupParams).recipients == "both"
    people, alignment = yield from look_up_people(task, table, kept, tell=tell)
    return {"table": people, "summary": summary_of(alignment)}


COMPONENT = Component(
    name="psi_lookup",
    version=1,
    summary="Look up a few people, by their ids, in a large table and get the columns that its holder offers of them.",
    params=PsiLookupParams,
    inputs={
        "table": Input(TABLE, "the asker's people; at the holder the table of the catalogue, if it is to be told"),
        "catalogue": Input(LOOKUP_CATALOGUE, "what prepare_lookup made"),
    },
    outputs={
        "table": Output(TABLE, "the asker's people who are there, with the columns offered; the holder's, if told"),
        "summary": Output(LOOKUP_SUMMARY, "how many were asked for, how many there are, how many were found"),
    },
    leaks=(
        Leak("holder", "how many people are looked up"),
        Leak("holder", "which of its own people are looked up", when={"recipients": "both"}),
        Leak("asker", "the offered columns of anybody whose id it knows or makes up, as often as the holder answers"),
    ),
    run=_run,
)
