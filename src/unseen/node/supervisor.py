"""The supervisor: leases jobs that are ready, starts a worker process for each, watches it, and starts it anew.

A worker that lost its way to a partner tries again by itself. One that was killed is followed by another one once its
lease has run out, which is let go a little later each time; the job goes on from its checkpoints. Any other error ends
the job at all parties.
"""

from __future__ import annotations

import logging
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol

from unseen.codec import read_json, shown
from unseen.errors import ERRORS, Cancelled, LocalProtocolError, UnseenError, UsageError
from unseen.flow.spec import FlowSpec
from unseen.ids import JobId, PartyId, StepId
from unseen.node.books import Turn
from unseen.node.logs import LogForm
from unseen.node.processes import bare_environment
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.runs import Runs, Work
from unseen.node.watching import Result, Run, Watcher, tell
from unseen.node.worker import GO, Assignment

_log = logging.getLogger(__name__)


class Relay(Protocol):
    """The node's port, as far as workers need it."""

    def admit_worker(self, job: JobId, fence: int) -> str:
        """Return the token with which a worker may speak for a job at the socket; earlier ones are over."""
        ...

    def forget_worker(self, job: JobId) -> None:
        """Let nobody speak for a job any more."""
        ...


class Files(Protocol):
    """Where the content of tables is."""

    def open(self, digest: str) -> AbstractContextManager[Path]:
        """Give a readable file with the content of this digest, as long as the block lasts."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """What workers are given: a way to partners, and files."""

    relay: Relay
    socket: Path
    files: Files


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs are run."""

    concurrent: int = 2
    """How many jobs at once."""
    lease_seconds: float = 20.0
    first_pause: float = 1.0
    """Seconds until a worker is started anew; twice as many each time, up to ``longest_pause``."""
    longest_pause: float = 60.0
    most_crashes: int = 5
    """After so many without a finished step in between, the job ends."""
    memory_bytes: int | None = None
    """Of data, for one worker."""
    silence_seconds: float = 600.0
    grace_seconds: float = 5.0
    """For a worker that is told to stop."""
    idle_seconds: float = 0.5
    log: LogForm = LogForm.TEXT
    """How workers log."""


@dataclass(slots=True)
class _Worker:
    """A process and what is known of it."""

    work: Work
    run: Run
    process: subprocess.Popen[str]
    files: ExitStack
    end: UnseenError | str | None = None
    """What it said at its end; ``done``, or an error."""
    stopping: float | None = None
    """When it was told to stop."""
    renewed: float = field(default_factory=time.monotonic)
    judged: set[StepId] = field(default_factory=set)
    """Steps whose size it has told."""

    @property
    def fields(self) -> dict[str, str]:
        """What lines of the log about it are about."""
        return {"job": self.run.job, "project": self.run.project}


@dataclass(slots=True)
class _History:
    """What happened to a job's workers so far."""

    attempts: int = 0
    crashes: int = 0


class Supervisor:
    """Runs the jobs of a node; ``start`` begins, ``stop`` ends it.

    Args:
        me: Whose node it is.
        runs: What is done with jobs.
        jobs: For those whose time is over.
        way: What workers are given.
        settings: How jobs are run.
        chores: What is to be looked after now and then.
    """

    def __init__(
        self,
        me: PartyId,
        runs: Runs,
        jobs: Jobs,
        way: Way,
        settings: Settings,
        chores: tuple[Callable[[], None], ...] = (),
    ) -> None:
        self._me, self._runs, self._jobs, self._way, self._settings = me, runs, jobs, way, settings
        self._chores = (jobs.expire, *chores)
        self._name = f"supervisor-{secrets.token_hex(4)}"
        self._workers: dict[JobId, _Worker] = {}
        self._history: dict[JobId, _History] = {}
        self._watchers: tuple[Watcher, ...] = ()
        self._heard: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._chores_done = 0.0

    def watched_by(self, watcher: Watcher) -> None:
        """Tell somebody what workers do, from now on."""
        self._watchers = (*self._watchers, watcher)

    def start(self) -> None:
        """Begin to run jobs, in a thread; no other process runs those of this node."""
        self._runs.take_over()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop all workers; their jobs go on when the node is started again."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            self._reap(worker)
            self._note_end(worker, Result.STOPPED)
        self._workers.clear()

    def stir(self, turn: Turn) -> None:
        """Look for work soon, if a turn brought any."""
        if turn.ready or turn.posted:
            self._wake.set()

    @property
    def running(self) -> tuple[JobId, ...]:
        """Jobs for which there is a worker."""
        return tuple(self._workers)

    @property
    def processes(self) -> tuple[int, ...]:
        """The process ids of the workers."""
        return tuple(worker.process.pid for worker in self._workers.values())

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.tick()
            except Exception:  # noqa: BLE001  # the outermost loop of the node
                # Whatever it was, partners' letters and people's requests must not wait for it.
                _log.exception("the supervisor failed; it goes on in a second")
                self._stopped.wait(1.0)
            self._wake.wait(self._settings.idle_seconds)
            self._wake.clear()

    def tick(self) -> None:
        """Take in what workers said, stop those that may not go on, and start others."""
        self._listen()
        self._look_after()
        if time.monotonic() - self._chores_done >= 1.0:
            self._chores_done = time.monotonic()
            for chore in self._chores:
                chore()
        while len(self._workers) < self._settings.concurrent:
            work = self._runs.lease(self._name, self._settings.lease_seconds)
            if work is None:
                break
            self._begin(work)

    def _begin(self, work: Work) -> None:
        files, flow = ExitStack(), FlowSpec.model_validate_json(work.job.flow)
        try:
            tables = self._lend(files, work.tables)
            token = self._way.relay.admit_worker(work.job.job, work.lease.fence)
            process = _spawn(self._assignment(work, flow, tables, token), self._runs.workspace(work.job))
        except UnseenError as error:
            files.close()
            self._runs.failed(work.lease, error)
            return
        except BaseException:
            files.close()
            raise
        history = self._history.setdefault(work.job.job, _History())
        history.attempts += 1
        components = {step: of.use for step, of in flow.steps.items()}
        worker = _Worker(work, Run(work.job.job, work.job.project, history.attempts, components), process, files)
        self._workers[work.job.job] = worker
        for watcher in self._watchers:
            watcher.run_began(worker.run)
        _log.info("a worker begins, attempt %d, process %d", history.attempts, process.pid, extra=worker.fields)
        threading.Thread(target=self._pump, args=(worker, process.stdout), daemon=True).start()

    def _lend(self, files: ExitStack, wanted: Mapping[str, str]) -> dict[str, Path]:
        """Return plain files of tables in a folder of their own, where reading may leave something beside them."""
        self._way.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(files.enter_context(TemporaryDirectory(prefix="tables-", dir=self._way.socket.parent)))
        for name, digest in wanted.items():
            (folder / name).symlink_to(files.enter_context(self._way.files.open(digest)))
        return {name: folder / name for name in wanted}

    def _assignment(self, work: Work, flow: FlowSpec, tables: Mapping[str, Path], token: str) -> Assignment:
        return Assignment(
            party=self._me,
            flow=flow,
            job=work.job.job,
            workspace=self._runs.workspace(work.job),
            tables=dict(tables),
            points={step: dict(limits) for step, limits in work.points.items()},
            socket=self._way.socket,
            token=token,
            memory_bytes=self._settings.memory_bytes,
            silence_seconds=self._settings.silence_seconds,
            log=self._settings.log,
        )

    def _pump(self, worker: _Worker, stream: IO[str] | None) -> None:
        if stream is not None:
            for line in stream:
                self._heard.put((worker, line))
                self._wake.set()
        self._heard.put((worker, None))
        self._wake.set()

    def _listen(self) -> None:
        while True:
            try:
                worker, line = self._heard.get_nowait()
            except queue.Empty:
                return
            if line is not None:
                self._hear(worker, line)
            elif self._workers.get(worker.work.job.job) is worker:
                self._conclude(worker)

    def _hear(self, worker: _Worker, line: str) -> None:
        """Act on what a worker says; its memory has seen partners' data, so that nothing in it is taken for granted."""
        lease = worker.work.lease
        try:
            match read_json(line):
                case {"event": dict(event)} if len(line) < 4096:
                    if event.get("what") == "leave":
                        self._history[lease.job].crashes = 0
                    self._runs.note(lease, event)
                    tell(self._watchers, worker.run, event)
                case {"size": [str(step), int() | None as shared]}:
                    self._judge(worker, StepId(step), shared)
                case {"again": str(text)}:
                    _log.warning("it begins anew from its checkpoints: %s", shown(text, limit=500), extra=worker.fields)
                case {"end": "done"}:
                    worker.end = "done"
                case {"end": str(name), "text": str(text)}:
                    worker.end = _error(name, text)
        except (ValueError, UnseenError) as error:
            _log.warning("its worker says what cannot be understood: %s", error, extra=worker.fields)

    def _judge(self, worker: _Worker, step: StepId, shared: int | None) -> None:
        """Let a worker go on, which waits for that, if the size of a step's result allows it.

        Once a step: one that says it again and again, and hears nothing, would fill its input, and stop this thread.
        """
        if step in worker.judged or step not in worker.run.components:
            raise UsageError(f"the size of step {step}, which was told before, or is not in the flow")
        worker.judged.add(step)
        try:
            goes_on = self._goes_on(worker, step, shared)
        except Exception:
            # It would wait for ever for a word that does not come; the next worker tells the size again.
            self._tell_to_stop(worker)
            raise
        stream = worker.process.stdin
        if goes_on and stream is not None:
            with suppress(OSError, ValueError):  # it may have ended by now
                stream.write(GO)
                stream.flush()

    def _goes_on(self, worker: _Worker, step: StepId, shared: int | None) -> bool:
        try:
            return self._runs.note_size(worker.work.lease, step, shared)
        except UnseenError as error:
            self._runs.failed(worker.work.lease, error)
            return False

    def _look_after(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.stopping is not None:
                if now - worker.stopping > self._settings.grace_seconds:
                    worker.process.kill()
            elif now - worker.renewed < self._settings.lease_seconds / 4:
                if not self._runs.stands(worker.work.lease):
                    self._tell_to_stop(worker)
            elif self._runs.renew(worker.work.lease, self._settings.lease_seconds):
                worker.renewed = now
            else:
                self._tell_to_stop(worker)

    def _tell_to_stop(self, worker: _Worker) -> None:
        worker.stopping = time.monotonic()
        worker.process.terminate()
        self._way.relay.forget_worker(worker.work.job.job)

    # --- the end of a worker -----------------------------------------------------------------------------------------

    def _conclude(self, worker: _Worker) -> None:
        """Note how a worker ended, and what that means for its job."""
        lease, job = worker.work.lease, worker.work.job.job
        code = self._reap(worker)
        del self._workers[job]
        history = self._history[job]
        stands = self._runs.stands(lease)
        self._note_end(worker, _result(worker, stands=stands))
        if not stands:
            self._history.pop(job)
            self._runs.let_go(lease)
            return
        if worker.end == "done":
            self._runs.done(lease)
            # Until all others are done as well, one of them may need this side once more.
            self._pause(worker, history)
        elif worker.stopping is not None or isinstance(worker.end, Cancelled):
            # If it was told to, however it ended: its job was paused, and let go on before it had ended.
            self._pause(worker, history)
        elif isinstance(worker.end, UnseenError):
            self._runs.failed(lease, worker.end)
        else:
            history.crashes += 1
            _log.warning("its worker ended with status %d", code, extra=worker.fields)
            if history.crashes > self._settings.most_crashes:
                broken = LocalProtocolError(f"its worker broke down {history.crashes} times, last with status {code}")
                self._runs.failed(lease, broken)
            else:
                self._pause(worker, history)

    def _note_end(self, worker: _Worker, result: Result) -> None:
        for watcher in self._watchers:
            watcher.run_ended(worker.run, result)
        _log.info("a worker ended: %s", result, extra=worker.fields)

    def _pause(self, worker: _Worker, history: _History) -> None:
        """Let the lease run out a little later."""
        seconds = min(self._settings.first_pause * 2 ** (history.attempts - 1), self._settings.longest_pause)
        self._runs.renew(worker.work.lease, seconds)

    def _reap(self, worker: _Worker) -> int:
        """Give back all that a worker had, and return the status with which it ended."""
        try:
            code = worker.process.wait(timeout=self._settings.grace_seconds)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._way.relay.forget_worker(worker.work.job.job)
        worker.files.close()
        return code


def _result(worker: _Worker, *, stands: bool) -> Result:
    if not stands:
        return Result.STOPPED
    if worker.end == "done":
        return Result.DONE
    if worker.stopping is not None or isinstance(worker.end, Cancelled):
        return Result.STOPPED
    return Result.FAILED if isinstance(worker.end, UnseenError) else Result.LOST


def _spawn(task: Assignment, home: Path) -> subprocess.Popen[str]:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "worker.log").open("a") as log:
        process = subprocess.Popen(  # our own program, no shell
            (sys.executable, "-P", "-m", "unseen.node.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            errors="replace",
            env=bare_environment(),
            start_new_session=True,
        )
    if process.stdin is not None:
        # A worker that is gone already is noticed when its output ends.
        with suppress(OSError):
            process.stdin.write(task.model_dump_json(by_alias=True) + "\n")
            process.stdin.flush()
    return process


def _error(name: str, text: str) -> UnseenError:
    return ERRORS.get(name, LocalProtocolError)(text)
