"""Counts the people whom all parties know, without telling who they are."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from unseen.catalog.join_keys import KeySummary, OneRowParams, items_of, meeting_of, read_keys
from unseen.component import TABLE, Component, Input, Kind, Leak, Output, Task, Value
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.protocols.psi.ecdh import count


class PsiCountParams(OneRowParams):
    """By what people are matched, and who is told how many are shared."""

    recipients: tuple[PartyId, ...] = ()
    """Who learns the result; every party if nobody is named."""
    min_shared: int = Field(default=10, ge=0)
    """Do not show a smaller number; a tripwire, since a recipient's own machine has seen it."""


class CountSummary(KeySummary):
    """How many people each party brought, and how many are shared."""

    shared: int | None
    """``None`` at a party that is no recipient, or if the number is withheld."""
    withheld: bool | None
    """Whether the number is smaller than is shown; ``None`` at a party that is no recipient."""


COUNT_SUMMARY = Kind("count_summary", CountSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params = task.parameters(PsiCountParams)
    keys = read_keys(task, params, params.duplicates)
    found = yield from count(items_of(keys), meeting_of(task, params.recipients))
    withheld = None if found.shared is None else found.shared < params.min_shared
    summary = CountSummary(
        sizes=dict(found.sizes),
        changed=keys.changed,
        left_out=keys.left_out,
        shared=None if withheld else found.shared,
        withheld=withheld,
    )
    return {"summary": summary}


COMPONENT = Component(
    name="psi_count",
    version=1,
    summary="Count the people whom all parties know, without telling who they are.",
    params=PsiCountParams,
    inputs={"table": Input(TABLE, "this party's people")},
    outputs={"summary": Output(COUNT_SUMMARY, "how many people each party brought and how many are shared")},
    leaks=(
        Leak("every party", "how many distinct keys each party has"),
        Leak(
            "every party, if it is a recipient",
            "how many people all parties share; counts over lists that differ in one person tell about that person, "
            "whatever `min_shared` says",
        ),
        Leak(
            "every party, if its name comes first of the recipients of three parties or more",
            "how many people each group of parties shares",
        ),
    ),
    run=_run,
)
