"""The running of jobs: leased, watched, put back after a crash, ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from unseen.component import MODEL
from unseen.errors import DataError, UnseenError, UsageError
from unseen.flow.job_report import job_report
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Ref, Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.node.books import Books, Turn
from unseen.node.domain import Job, JobState, Lease
from unseen.node.usecases.asking import ask_of, graph_of, limits_of
from unseen.node.usecases.charging import judge
from unseen.node.usecases.deciding import known_job, note_done
from unseen.node.usecases.endings import end_job
from unseen.report.model import Report
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code
from unseen.trust.checks import grant_times
from unseen.trust.envelope import read_envelope, read_statement
from unseen.trust.grant import Grant
from unseen.trust.policy import tables_of

_log = logging.getLogger(__name__)

_HIDDEN: Mapping[str, str] = {
    DataError.__name__: "its data do not fit; the details stay at that party",
    UsageError.__name__: "what it was asked to do cannot be done there; the details stay at that party",
}


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that a worker needs to know of a job, apart from how it reaches others."""

    lease: Lease
    job: Job
    tables: Mapping[str, str]
    """Name → digest of the version."""
    points: Mapping[StepId, Mapping[PartyId, int]]


@dataclass(frozen=True, slots=True)
class Model:
    """This node's part of a trained model."""

    job: Job
    output: str
    """STEP.PORT."""
    component: str
    """What trained it."""
    ref: Ref


class Runs:
    """What workers and their supervisor do with jobs, and what is left of them.

    Args:
        books: The node's turns.
        workspaces: Folder of the projects' workspaces.
    """

    def __init__(self, books: Books, workspaces: Path) -> None:
        self._books = books
        self._workspaces = workspaces

    def workspace(self, job: Job) -> Path:
        """Return the folder in which a job's results lie: jobs of one project share it, and no others."""
        return self._workspaces / job.project

    # --- leases ------------------------------------------------------------------------------------------------------

    def lease(self, worker: str, seconds: float) -> Work | None:
        """Return the oldest job that nobody works on, now leased to ``worker``; ``None`` if there is none."""
        with self._books.turn() as turn:
            lease = turn.kept.jobs.lease(worker, turn.now, turn.now + timedelta(seconds=seconds))
            if lease is None:
                return None
            job = known_job(turn, lease.job)
            try:
                return _work(turn, lease, job)
            except UnseenError as error:
                end_job(turn, job, Code.FAILED, str(error), told=_told(error))
                return None

    def take_over(self) -> None:
        """Let all jobs be leased at once that run by an earlier process of this node: its workers end with it."""
        with self._books.turn() as turn:
            for job in turn.kept.jobs.all(states=(JobState.RUNNING,), limit=1_000_000):
                turn.kept.jobs.release(Lease(job.job, "", turn.kept.jobs.fence(job.job), turn.now))

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Return whether a worker may go on, for so many seconds: not if another one has the job, or it is over."""
        with self._books.turn() as turn:
            stands = _stands(turn, lease)
            return stands and turn.kept.jobs.renew(lease, turn.now + timedelta(seconds=seconds))

    def let_go(self, lease: Lease) -> None:
        """Let the job of a lease be leased anew, now that its worker has ended; nothing, if it is over."""
        with self._books.turn() as turn:
            turn.kept.jobs.release(lease)

    def stands(self, lease: Lease) -> bool:
        """Return whether the job of a lease still runs under it; a job that somebody holds does not run."""
        with self._books.turn() as turn:
            return _stands(turn, lease)

    # --- what workers say --------------------------------------------------------------------------------------------

    def note(self, lease: Lease, event: Mapping[str, object]) -> None:
        """Keep an event of a job's progress."""
        with self._books.turn() as turn:
            if _stands(turn, lease):
                turn.kept.lines.append(f"events/{lease.job}", json.dumps(event, separators=(",", ":")).encode())

    def note_size(self, lease: Lease, step: StepId, shared: int | None) -> bool:
        """Judge a step by how many rows it found to be shared; return whether its job goes on, which ends if not.

        Raises:
            DataError: What is known of earlier sessions is damaged.
        """
        with self._books.turn() as turn:
            if not _stands(turn, lease):
                return False
            job = known_job(turn, lease.job)
            reason = judge(turn, job, step, shared)
            if reason is not None:
                told = f"{turn.me} withholds the result of step {step}: a tripwire of the agreement; ask its owner"
                end_job(turn, job, Code.BUDGET, f"step {step}: {reason}", told=told)
            return reason is None

    def done(self, lease: Lease) -> None:
        """Note that this node has all results of a job, and tell its initiator."""
        with self._books.turn() as turn:
            if _stands(turn, lease):
                note_done(turn, known_job(turn, lease.job), turn.me)

    def failed(self, lease: Lease, error: UnseenError) -> None:
        """End a job that cannot go on; other parties are told no more of the reason than they may know."""
        with self._books.turn() as turn:
            if _stands(turn, lease):
                end_job(turn, known_job(turn, lease.job), Code.FAILED, str(error), told=_told(error))

    # --- what is left ------------------------------------------------------------------------------------------------

    def results(self, name: JobId) -> Mapping[str, Ref]:
        """Return what a finished job left at this node: ``step.port`` → artifact.

        Raises:
            UsageError: There is no such job, or it has not finished.
        """
        return self._results(self._finished(name))

    def result_files(self, name: JobId) -> Mapping[str, tuple[Ref, Path]]:
        """Return what a finished job left at this node, each with the file that holds it.

        Raises:
            UsageError: There is no such job, or it has not finished.
            DataError: A file is not there.
        """
        job = self._finished(name)
        workspace = Workspace(self.workspace(job))
        return {output: (ref, workspace.file(ref)) for output, ref in self._results(job).items()}

    def report(self, name: JobId) -> Report:
        """Return what a finished job left at this node as the content of a report.

        Raises:
            UsageError: There is no such job, or it has not finished.
            DataError: A result is damaged.
        """
        job = self._finished(name)
        graph = graph_of(FlowSpec.model_validate_json(job.flow))
        workspace = Workspace(self.workspace(job))
        return job_report(graph, name, {self._books.owner.me: workspace}, job.changed or job.created)

    def models(self, project: ProjectId) -> tuple[Model, ...]:
        """Return this node's parts of the models that finished jobs of a project have trained, the newest first."""
        with self._books.turn() as turn:
            jobs = turn.kept.jobs.all(project=project, states=(JobState.FINISHED,), limit=1_000_000)
        return tuple(model for job in jobs for model in self._models(job))

    def _models(self, job: Job) -> tuple[Model, ...]:
        try:
            nodes = graph_of(FlowSpec.model_validate_json(job.flow)).nodes
            found = [(*output.partition("."), ref) for output, ref in self._results(job).items()]
        except UnseenError as error:
            # Its workspace was emptied, or a component is not installed any more: others are shown all the same.
            _log.warning("its models cannot be listed: %s", error, extra={"job": job.job})
            return ()
        made = [(nodes[StepId(step)].component, step, port, ref) for step, _, port, ref in found]
        return tuple(
            Model(job, f"{step}.{port}", component.name, ref)
            for component, step, port, ref in made
            if component.outputs[port].kind.fits(MODEL)
        )

    def result_file(self, name: JobId, output: str) -> Path:
        """Return the file that holds one result, ``step.port``.

        Raises:
            UsageError: There is none.
        """
        job = self._finished(name)
        ref = self._results(job).get(output)
        if ref is None:
            raise UsageError(f"job {name} left no {output} at this node")
        return Workspace(self.workspace(job)).file(ref)

    def _finished(self, name: JobId) -> Job:
        with self._books.turn() as turn:
            job = known_job(turn, name)
        if job.state is not JobState.FINISHED:
            raise UsageError(f"job {name} has no results: it is {job.state}")
        return job

    def _results(self, job: Job) -> Mapping[str, Ref]:
        workspace = Workspace(self.workspace(job))
        found: dict[str, Ref] = {}
        for step, key in workspace.job(job.job).steps.items():
            record = workspace.finished(key)
            if record is not None:
                found |= {f"{step}.{port}": ref for port, ref in record.outputs.items()}
        return found


def _work(turn: Turn, lease: Lease, job: Job) -> Work:
    """Return what a worker has to know, after looking once more whether it may begin.

    Raises:
        UnseenError: It may not.
    """
    ask, of = ask_of(job), turn.gate(job.project).project
    grant = read_statement(
        read_envelope(turn.kept.jobs.grants(job.job)[turn.me], sender="store"), Grant, sender="store"
    )
    if objection := next(iter(grant_times(grant, of, turn.now)), None):
        raise UsageError(f"job {job.job}: {objection}")
    own = {str(held.name): held.digest for held in job.snapshots if held.owner == turn.me}
    tables = {name: own[name] for name in tables_of(ask.graph)}
    return Work(lease, job, tables, limits_of(turn, job, ask))


def _stands(turn: Turn, lease: Lease) -> bool:
    job = turn.kept.jobs.get(lease.job)
    runs = job is not None and job.state is JobState.RUNNING and not job.paused
    return runs and turn.kept.jobs.fence(lease.job) == lease.fence


def _told(error: UnseenError) -> str:
    return _HIDDEN.get(type(error).__name__, str(error))
