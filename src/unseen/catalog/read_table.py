"""Reads a party's own file into a typed table and reports every problem in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from unseen.component import SOURCE, TABLE, Component, Document, Input, Kind, Output, Params, Source, Task, Value
from unseen.data.import_report import ImportReport
from unseen.data.readers import read_table
from unseen.data.schema import Kind as ColumnKind
from unseen.data.schema import Role
from unseen.dialogue import Dialogue
from unseen.errors import UsageError
from unseen.ids import PartyId


class ReadTableParams(Params):
    """What the columns are for, where their names do not say it (id; y or label; weight; all others: features)."""

    columns: dict[PartyId, dict[str, Role]] = Field(default_factory=dict)
    """Party → column → role."""
    kinds: dict[PartyId, dict[str, ColumnKind]] = Field(default_factory=dict)
    """Party → column → integer, real, text or boolean, where the cells do not tell it.

    Telephone numbers without blanks are text, for example: as integers they lose their zeros in front.
    """
    leave_out: dict[PartyId, tuple[str, ...]] = Field(default_factory=dict)
    """Party → features that are not used, text columns for instance."""
    repeated_ids: tuple[PartyId, ...] = ()
    """Parties in whose tables several rows may share an id; duplicates of psi_join says what becomes of them."""
    lenient: bool = False
    """Put bad rows aside (into a file beside the table) instead of refusing the table."""


class ImportSummary(Document):
    """What the import found."""

    rows_read: int
    rows_kept: int
    problems: dict[str, int]
    """Cause → how often it occurs."""
    places: dict[str, tuple[str, ...]]
    """Cause → the first places where."""
    missing: dict[str, int]
    """Column → values missing in the rows that were kept."""
    notes: tuple[str, ...]
    """What was taken as something else, or passed over."""

    @classmethod
    def of(cls, report: ImportReport) -> Self:
        """Return the counts and places of a report, without the cells that it quotes."""
        return cls(
            rows_read=report.rows_read,
            rows_kept=report.rows_kept,
            problems={problem.cause.value: problem.count for problem in report.problems},
            places={problem.cause.value: tuple(map(str, problem.places)) for problem in report.problems},
            missing=dict(report.missing),
            notes=report.notes,
        )


IMPORT_SUMMARY = Kind("import_summary", ImportSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    params, source = task.parameters(ReadTableParams), task.input("source", Source)
    unknown = sorted({*params.columns, *params.kinds, *params.leave_out, *params.repeated_ids} - set(task.roles))
    if unknown:
        raise UsageError(f"step {task.step}: its params name {', '.join(unknown)}, which take no part in the flow")
    quarantine = source.path.with_name(source.path.name + ".quarantine.csv") if params.lenient else None
    table, report = read_table(
        source.path,
        params.columns.get(task.me),
        kinds=params.kinds.get(task.me),
        repeated_ids=task.me in params.repeated_ids,
        quarantine=quarantine,
    )
    return {"table": table.leave_out(params.leave_out.get(task.me, ())), "report": ImportSummary.of(report)}


COMPONENT = Component(
    name="read_table",
    version=2,
    summary="Read this party's file (CSV or Parquet) into a typed table; every bad row is reported.",
    params=ReadTableParams,
    inputs={"source": Input(SOURCE, "one of the party's own files")},
    outputs={
        "table": Output(TABLE, "the rows that can be used"),
        "report": Output(
            IMPORT_SUMMARY, "how many rows were read and kept, which were refused for which cause, what is missing"
        ),
    },
    leaks=(),
    run=_run,
)
