"""``unseen report``: what a job left behind, as one HTML file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from unseen.clock import SystemClock
from unseen.component import installed_components
from unseen.errors import UsageError
from unseen.flow.graph import build_graph
from unseen.flow.job_report import job_report
from unseen.flow.store import Workspace
from unseen.ids import PartyId
from unseen.report.html import write


def run(*, workspace: Path, out: Path) -> None:
    """Write the report of the newest job, as far as the workspaces in this folder know."""
    workspaces = _workspaces(workspace)
    job = next((jobs[-1] for place in workspaces.values() if (jobs := place.jobs())), None)
    if job is None:
        raise UsageError(f"{workspace} holds no job: run a flow first")
    flow = next(iter(workspaces.values())).job(job).flow
    graph = build_graph(flow, installed_components())
    path = write(job_report(graph, job, workspaces, SystemClock().now()), out)
    Console().print(f"report: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)


def _workspaces(folder: Path) -> dict[PartyId, Workspace]:
    """Return the workspaces of all parties in ``folder``, or of the one party whose own workspace it is."""
    if (folder / "jobs").is_dir():
        own = Workspace(folder)
        lines = sorted(folder.glob("artifacts/*/lineage.json"))
        if not lines:
            raise UsageError(f"{folder} holds no results yet")
        return {own.lineage_at(lines[0]).party: own}
    homes = [path.parent for path in sorted(folder.glob("*/jobs"))] + [
        path.parent for path in sorted(folder.glob("*/workspace/jobs"))
    ]
    if not homes:
        raise UsageError(f"{folder} is no workspace: expected the folder of `unseen run`, of a demo, or of one party")
    return {PartyId((home.parent if home.name == "workspace" else home).name): Workspace(home) for home in homes}
