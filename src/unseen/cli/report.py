"""``unseen report``: what a job, or a run of horizontal learning, left behind, as one HTML file or in the console."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from unseen.cli.learn import quiet_accountant
from unseen.cli.learned import Learned, page, tell
from unseen.clock import SystemClock
from unseen.component import installed_components
from unseen.errors import UsageError
from unseen.flow.graph import build_graph
from unseen.flow.job_report import job_report
from unseen.flow.store import Workspace
from unseen.ids import PartyId
from unseen.report.console import comparison_table, steps_table
from unseen.report.federated import write_learning
from unseen.report.html import write
from unseen.report.model import Report
from unseen.rounds.kept import holds_run


def run(*, folder: Path, out: Path, table: bool) -> None:
    """Write, or print, the report of the run in a folder, or of the newest job that the workspaces in it know."""
    console = Console()
    if holds_run(folder):
        quiet_accountant()
        learned = Learned.read(folder)
        if table:
            tell(console, learned)
            return
        path = write_learning(page(learned), out)
    else:
        found = _job(folder)
        if table:
            console.print(comparison_table(found), steps_table(found))
            return
        path = write(found, out)
    console.print(f"report: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)


def _job(workspace: Path) -> Report:
    workspaces = _workspaces(workspace)
    job = next((jobs[-1] for place in workspaces.values() if (jobs := place.jobs())), None)
    if job is None:
        raise UsageError(f"{workspace} holds no job: run a flow first")
    flow = next(iter(workspaces.values())).job(job).flow
    graph = build_graph(flow, installed_components())
    return job_report(graph, job, workspaces, SystemClock().now())


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
        raise UsageError(
            f"{folder} is no workspace: expected the folder of `unseen run`, of a demo, of one "
            "party, or of `unseen learn`"
        )
    return {PartyId((home.parent if home.name == "workspace" else home).name): Workspace(home) for home in homes}
