"""A whole federation in one process: every party runs the code it would run on its own, in one thread."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import polars as pl

from unseen.clock import Clock, SystemClock
from unseen.component import Registry, Source, Value, installed_components
from unseen.data.atomic import whole_file
from unseen.dialogue import CancelToken, Observer, Usage, converse
from unseen.errors import UsageError
from unseen.flow.builder import Flow, Port
from unseen.flow.executor import Seat, StepResult, noting_the_end, play
from unseen.flow.graph import Graph, build_graph
from unseen.flow.job_report import job_report
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Lineage, Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.report.model import Report

Tables: TypeAlias = Mapping[str, Mapping[str, str | Path | pl.DataFrame]]
"""Party → name of a table in the flow → its file, or a data frame."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a flow is run.

    ``only`` names steps to run alone on earlier results, ``again`` steps to run although they could be reused;
    ``resume`` continues the newest job of the workspace instead of starting one.
    """

    only: Collection[str] = ()
    again: Collection[str] = ()
    resume: bool = False
    observe: Observer | None = None
    cancel: CancelToken | None = None
    registry: Registry | None = None
    clock: Clock | None = None


class SimulationResult:
    """What a simulated flow left behind at every party."""

    def __init__(
        self,
        graph: Graph,
        job: JobId,
        workspaces: Mapping[PartyId, Workspace],
        steps: Mapping[PartyId, Mapping[StepId, StepResult]],
        created: datetime,
    ) -> None:
        self.created = created
        self.graph = graph
        self.job = job
        self.steps = steps
        self._workspaces = workspaces

    def get(self, output: Port | str, party: str) -> Value:
        """Return the value at ``step.port`` of one party.

        Raises:
            UsageError: The party has no such value.
        """
        step, ref_port, found = self._find(output, party)
        return self._workspaces[PartyId(party)].get(
            found.outputs[ref_port], self.graph.nodes[step].component.outputs[ref_port].kind
        )

    def lineage(self, output: Port | str, party: str) -> Lineage:
        """Return how the value at ``step.port`` of one party came to be."""
        _, port, found = self._find(output, party)
        return found.record.lineage[port]

    def reused(self) -> list[StepId]:
        """Return the steps whose earlier results were taken."""
        return [step for step, result in next(iter(self.steps.values())).items() if result.reused]

    def usage(self, step: str) -> dict[PartyId, Usage]:
        """Return what one step cost each party.

        Raises:
            UsageError: There is no such step, or it was not run.
        """
        name = self.graph.find(step)
        if any(name not in results for results in self.steps.values()):
            raise UsageError(f"step {step} was not run: it is not among those asked for, nor do they need it")
        return {party: results[name].usage for party, results in self.steps.items()}

    def report(self) -> Report:
        """Return what the job left behind at all parties as a report, see ``report.html.write``."""
        return job_report(self.graph, self.job, self._workspaces, self.created)

    def _find(self, output: Port | str, party: str) -> tuple[StepId, str, StepResult]:
        name, _, port = str(output).partition(".")
        step = self.graph.find(name)
        result = self.steps.get(PartyId(party), {}).get(step)
        if result is None or port not in result.outputs:
            raise UsageError(f"party {party} has no value {output}")
        return step, port, result


def simulate(
    flow: Flow | FlowSpec, tables: Tables, *, workspace: str | Path | None = None, options: Options | None = None
) -> SimulationResult:
    """Run a flow at all its parties in this process; return what it left behind.

    ``workspace`` keeps results for reuse by later runs; without it they live as long as the returned object.

    Raises:
        UsageError: The flow cannot run, or a table is missing; nothing has been run.
        UnseenError: A step failed; the message and notes say at which party and why.
    """
    settings = options or Options()
    spec = flow.spec if isinstance(flow, Flow) else flow
    registry = settings.registry if settings.registry is not None else installed_components()
    names = {party: set(tables.get(party, {})) for party in spec.parties}
    graph = build_graph(spec, registry, tables=names, name=spec.name)
    root = Path(workspace) if workspace is not None else Path(tempfile.mkdtemp(prefix="unseen-"))
    try:
        result = _run(graph, tables, root, settings)
    except BaseException:
        if workspace is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    if workspace is None:
        weakref.finalize(result, shutil.rmtree, root, ignore_errors=True)
    return result


def _run(graph: Graph, tables: Tables, root: Path, settings: Options) -> SimulationResult:
    clock = settings.clock or SystemClock()
    only, again = (tuple(graph.find(step) for step in steps) for steps in (settings.only, settings.again))
    workspaces = {party: Workspace(root / party) for party in graph.spec.parties}
    with ExitStack() as locks:
        for workspace in workspaces.values():
            locks.enter_context(workspace.locked())
        job = _job(workspaces, settings.resume)
        for workspace in workspaces.values():
            workspace.start_job(job, graph.spec, clock.now())
        seats = {
            party: Seat(
                me=party,
                graph=graph,
                job=job,
                workspace=workspace,
                sources=_sources(tables.get(party, {}), root / party),
                clock=clock,
                simulated=True,
                only=only,
                again=again,
            )
            for party, workspace in workspaces.items()
        }
        steps = _converse(seats, settings)
    return SimulationResult(graph, job, workspaces, steps, clock.now())


def _converse(seats: Mapping[PartyId, Seat], settings: Options) -> dict[PartyId, dict[StepId, StepResult]]:
    with noting_the_end(seats.values()):
        return converse(
            {party: play(seat) for party, seat in seats.items()},
            checkpoints={party: seat.workspace.checkpoints(seat.job) for party, seat in seats.items()},
            observe=settings.observe,
            cancel=settings.cancel,
        )


def _job(workspaces: Mapping[PartyId, Workspace], resume: bool) -> JobId:
    if not resume:
        return JobId(f"job-{secrets.token_hex(6)}")
    known = next(iter(workspaces.values())).jobs()
    if not known:
        raise UsageError("there is no job to resume in this workspace; run the flow first")
    return known[-1]


def _sources(tables: Mapping[str, str | Path | pl.DataFrame], folder: Path) -> dict[str, Source]:
    """Return the party's tables as files; data frames are written beside its workspace first."""
    sources = {}
    for name, table in tables.items():
        if isinstance(table, pl.DataFrame):
            path = folder / "tables" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                table.write_parquet(file)
            sources[name] = Source(path)
        else:
            sources[name] = Source(Path(table))
    return sources
