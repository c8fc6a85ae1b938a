"""Finds the people whom all parties know, and puts their rows into one order at every party."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unseen.catalog.join_keys import (
    KeyParams,
    KeySummary,
    check_parties,
    check_shared,
    items_of,
    meeting_of,
    read_keys,
    without_keys,
)
from unseen.component import ALIGNED_TABLE, TABLE, Component, Input, Kind, Leak, Output, Task, Value
from unseen.data.keys import Duplicates, JoinKeys
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.protocols.psi.automatic import Choice, Scheme, choose, intersect
from unseen.protocols.psi.pairs import MAX_PAIRS, pair_up
from unseen.protocols.psi.port import Alignment, Meeting


class PsiJoinParams(KeyParams):
    """By what people are matched, how the intersection is computed, and what it leaves behind."""

    duplicates: Duplicates = Duplicates.REFUSE
    """What becomes of rows that share a key; first: the first one stays; all_pairs: as a database joins."""
    max_pairs: int = Field(default=10_000_000, ge=1, le=MAX_PAIRS)
    """With all_pairs: the most rows that may come out."""
    protocol: Choice = "auto"
    """ecdh: blinded points of an elliptic curve; vole: oblivious transfers; auto: ecdh for up to 1000 people."""
    keep_ids: tuple[PartyId, ...] = ()
    """Parties whose own ids stay in their own output; at all others the numbers of the rows take their place."""
    min_shared: int = Field(default=0, ge=0)
    """Stop if fewer people are shared; a tripwire against mistakes, since all parties know by then who is."""


class JoinSummary(KeySummary):
    """How many people each party brought, and how many are shared: what every party learned."""

    shared: int
    """How many keys all parties hold."""
    rows: int
    """How many rows came out: as many, or more with all_pairs."""
    protocol: Scheme


JOIN_SUMMARY = Kind("join_summary", JoinSummary)


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    params, meeting = task.parameters(PsiJoinParams), meeting_of(task)
    check_parties(task, "keep_ids", params.keep_ids)
    keys = read_keys(task, params, params.duplicates)
    found = yield from intersect(items_of(keys), meeting, protocol=params.protocol)
    check_shared(len(found.known()), params.min_shared)
    table = without_keys(task.input("table", Table), keys.changed)
    aligned = table.take((yield from _rows(keys, found, meeting, params)))
    summary = JoinSummary(
        sizes=dict(found.sizes),
        changed=keys.changed,
        left_out=keys.left_out,
        shared=len(found.known()),
        rows=aligned.rows,
        protocol=choose(params.protocol, found.sizes),
    )
    return {"table": aligned if task.me in params.keep_ids else aligned.numbered(), "summary": summary}


def _rows(keys: JoinKeys, found: Alignment, meeting: Meeting, params: PsiJoinParams) -> Dialogue[NDArray[np.int64]]:
    """Return the rows of the shared keys in the common order."""
    shared = found.known()
    if params.duplicates is not Duplicates.ALL_PAIRS:
        return keys.firsts[shared]
    pairs = yield from pair_up(keys.counts[shared], meeting, limit=params.max_pairs)
    return keys.rows.take(keys.starts[shared][pairs.keys] + pairs.occurrences)


COMPONENT = Component(
    name="psi_join",
    version=2,
    summary="Private set intersection on ids or other columns; rows come out in the same order at every party.",
    params=PsiJoinParams,
    inputs={"table": Input(TABLE, "this party's people")},
    outputs={
        "table": Output(ALIGNED_TABLE, "the people whom all parties know, without the key; row numbers for ids"),
        "summary": Output(
            JOIN_SUMMARY, "how many people each party brought and how many are shared; what was changed or left out"
        ),
    },
    leaks=(
        Leak("every party", "how many distinct keys each party has"),
        Leak("every party", "which of its own people all the others have too, and so how many all share"),
        Leak(
            "every party, if its name comes first of three or more, unless the protocol is vole",
            "how many people each group of parties shares, not who they are",
        ),
        Leak(
            "every party",
            "how often the key of each shared person occurs at every other party",
            {"duplicates": Duplicates.ALL_PAIRS},
        ),
        Leak(
            "every party, if named in `keep_ids`",
            "nothing more; but the list of shared ids stands in its results, for whoever may read these",
        ),
    ),
    run=_run,
)
