"""Points of a step count once for what a peer said first: whoever begins it anew says the same, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.dialogue import converse
from unseen.errors import PermissionDenied, RemoteProtocolError
from unseen.flow.executor import Seat, StepResult, play
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Heard, Workspace
from unseen.ids import JobId, PartyId, StepId

ANN, BEN = PartyId("ann"), PartyId("ben")
ALIGN, JOB = StepId("align"), JobId("job")
FLOW = {
    "name": "points",
    "parties": {ANN: "active", BEN: "passive"},
    "steps": {
        "read": {"use": "read_table", "in": {"source": "tables.people"}},
        "align": {"use": "psi_join", "in": {"table": "read.table"}},
    },
}
GRAPH = build_graph(FlowSpec.model_validate(FLOW), installed_components())


def run(folder: Path, theirs: str, points: int = 3) -> dict[StepId, StepResult]:
    """Let both run the job; Ann evaluates so many points of Ben."""
    seats = {}
    for party, ids in ((ANN, "1 2 3"), (BEN, theirs)):
        path = folder / f"{party}.csv"
        path.write_text("id,age\n" + "".join(f"{number},40\n" for number in ids.split()))
        workspace = Workspace(folder / party)
        workspace.start_job(JOB, GRAPH.spec, SystemClock().now())
        limits = {ALIGN: {BEN: points}} if party == ANN else None
        seats[party] = Seat(party, GRAPH, JOB, workspace, {"people": Source(path)}, SystemClock(), points=limits)
    return converse({party: play(seat) for party, seat in seats.items()})[ANN]


def forget(folder: Path, *parties: PartyId) -> None:
    """Lose the results, not the job."""
    for party in parties:
        for path in (folder / party / "tasks").iterdir():
            path.unlink()


def test_a_step_that_is_begun_anew_with_the_same_people_ends_as_before(tmp_path) -> None:
    first = run(tmp_path, "2 3 4")
    forget(tmp_path, BEN)
    again = run(tmp_path, "2 3 4")
    assert not again[ALIGN].reused
    assert again[ALIGN].outputs == first[ALIGN].outputs


@pytest.mark.parametrize("both", [True, False], ids=["both forget", "one forgets"])
def test_other_people_under_the_same_points_are_refused(tmp_path, both) -> None:
    run(tmp_path, "2 3 4")
    forget(tmp_path, BEN, *([ANN] if both else []))
    with pytest.raises(RemoteProtocolError, match=r"ben has begun a step anew and says something else .* counts once"):
        run(tmp_path, "5 6 7")


def test_a_partner_with_another_seed_is_refused_too(tmp_path) -> None:
    run(tmp_path, "2 3 4")
    forget(tmp_path, ANN)
    shutil.rmtree(tmp_path / BEN)
    with pytest.raises(RemoteProtocolError, match="begun a step anew"):
        run(tmp_path, "2 3 4")


def test_what_was_not_granted_is_not_evaluated(tmp_path) -> None:
    with pytest.raises(PermissionDenied, match="ben brings 3 items, and ann evaluates at most 2"):
        run(tmp_path, "2 3 4", points=2)


def test_a_half_written_digest_counts_for_nothing(tmp_path) -> None:
    heard = Heard(tmp_path / "heard")
    heard.take(BEN, 0, b"a" * 32)
    with (tmp_path / "heard" / "ben").open("ab") as file:
        file.write(b"b" * 5)
    heard = Heard(tmp_path / "heard")
    heard.take(BEN, 0, b"a" * 32)
    heard.take(BEN, 1, b"c" * 32)
    assert (tmp_path / "heard" / "ben").read_bytes() == b"a" * 32 + b"c" * 32
    with pytest.raises(RemoteProtocolError, match="message 2"):
        Heard(tmp_path / "heard").take(BEN, 1, b"d" * 32)
