"""Adds up one party's numbers over the people whom another one knows too, without telling who they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from unseen.catalog.join_keys import KeySummary, OneRowParams, check_parties, items_of, meeting_of, read_keys
from unseen.component import TABLE, Component, Input, Kind, Leak, Output, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.protocols.psi.ecdh import total


class PsiSumParams(OneRowParams):
    """By what people are matched, what is added up, and who is told."""

    columns: dict[PartyId, tuple[str, ...]] = Field(default_factory=dict)
    """The one party that brings numbers → its columns of integers or truth values."""
    recipients: tuple[PartyId, ...] = ()
    """Who learns the result; both parties if nobody is named."""
    min_shared: int = Field(default=10, ge=0)
    """Do not show sums over fewer people; a tripwire, since a recipient's own machine has seen them."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        """Refuse sums of no party or of several."""
        if len(self.columns) != 1 or not all(self.columns.values()):
            raise ValueError("one party brings the numbers, in one column or more")
        return self


class SumSummary(KeySummary):
    """How many people each party brought, how many are shared, and the sums over these."""

    totals: dict[str, int] | None
    """Column → its sum; ``None`` at a party that is no recipient, or if the sums are withheld."""
    shared: int | None
    """``None`` likewise."""
    withheld: bool | None
    """Whether fewer people are shared than results are shown for; ``None`` at a party that is no recipient."""


SUM_SUMMARY = Kind("sum_summary", SumSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(PsiSumParams)
    check_parties(task, "columns", params.columns)
    ((owner, names),) = params.columns.items()
    keys = read_keys(task, params, params.duplicates)
    table = task.input("table", Table)
    values = table.take(keys.firsts).integers(names) if task.me == owner else None
    found = yield from total(items_of(keys), values, meeting_of(task, params.recipients))
    withheld = None if found.shared is None else found.shared < params.min_shared
    shown = None if withheld or found.totals is None else dict(zip(names, found.totals, strict=True))
    summary = SumSummary(
        sizes=dict(found.sizes),
        changed=keys.changed,
        left_out=keys.left_out,
        totals=shown,
        shared=None if withheld else found.shared,
        withheld=withheld,
    )
    return {"summary": summary}


COMPONENT = Component(
    name="psi_sum",
    version=1,
    summary="Add up one party's numbers over the people whom both parties know, without telling who they are.",
    params=PsiSumParams,
    inputs={"table": Input(TABLE, "this party's people")},
    outputs={"summary": Output(SUM_SUMMARY, "how many people are shared, and the sums over them")},
    leaks=(
        Leak("every party", "how many distinct keys each party has, and how many columns are added up"),
        Leak("every party, if it brings no numbers", "how many people are shared, even if it is no recipient"),
        Leak(
            "every party, if it is a recipient",
            "how many people are shared, and the sums over them; sums over lists that differ in one person tell that "
            "person's numbers, whatever `min_shared` says",
        ),
    ),
    run=_run,
)
