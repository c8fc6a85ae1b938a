"""``python -m unseen.node.worker``: one party's side of one job, in a process that knows nothing else.

It reads what it has to do from its standard input, one line of JSON; it has no keys, no store, and no way to others but
the node's socket. It tells its supervisor what happens, one line of JSON each, and ends when its input does: a worker
does not outlive its node. After it has told a size, it waits for the line ``go``: nothing of the next step leaves
before the node has judged what this one revealed.

=================================  ====================================================
line                               says
=================================  ====================================================
``{"event": {…}}``                 how far a step is, and what it has cost
``{"size": [step, shared]}``       how many rows a step found to be shared; ``null``: this party does not know
``{"again": TEXT}``                it lost its way to a partner, and begins anew from the last checkpoints
``{"end": "done"}``                this party has all its results
``{"end": TYPE, "text": …}``       why it stopped, as an error of ``unseen.errors``
=================================  ====================================================
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.dialogue import Event, Observer
from unseen.errors import Cancelled, LocalProtocolError, PeerFailed, TransportError, UnseenError, UsageError
from unseen.flow.executor import Seat, noting_the_end, play
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.flow.store import TaskRecord, Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.node.logs import LogForm, about, configure
from unseen.transport.relay import RelayChannel
from unseen.transport.session import SILENCE_SECONDS, Session
from unseen.trust.policy import VARIANTS

_log = logging.getLogger("unseen.node.worker")  # not by __name__, which is that of the program

BUSY = 75
"""Exit status if an earlier worker of the job has not ended yet; EX_TEMPFAIL of sysexits.h."""
_LOCK_SECONDS = 10.0
_EVENT_SECONDS = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
_OPEN_FILES = 4096
_LOOK_SECONDS = 0.2
GO = "go\n"

Tell = Callable[[Mapping[str, object]], None]


class Assignment(BaseModel):
    """What a worker is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    party: PartyId
    flow: FlowSpec
    job: JobId
    workspace: Path
    tables: dict[str, Path]
    points: dict[StepId, dict[PartyId, int]]
    """Step → partner → how many of its ids may be evaluated."""
    socket: Path
    token: str = Field(repr=False)
    memory_bytes: int | None = None
    silence_seconds: float = SILENCE_SECONDS
    log: LogForm = LogForm.TEXT


def work(task: Assignment, tell: Tell, cancel: threading.Event, word: threading.Semaphore) -> None:
    """Run a job until it is done; ``word`` is released each time the node says that it goes on.

    Raises:
        UnseenError: It cannot go on.
    """
    graph = build_graph(task.flow, installed_components(), tables={task.party: set(task.tables)}, name=task.flow.name)
    workspace = Workspace(task.workspace)
    with _alone(workspace, task.job):
        workspace.start_job(task.job, graph.spec, SystemClock().now())
        sources = {name: Source(path) for name, path in task.tables.items()}
        seat = Seat(task.party, graph, task.job, workspace, sources, SystemClock(), points=task.points)
        sizes = _Sizes(seat, tell, cancel, word)
        try:
            _persist(task, seat, tell, cancel, sizes)
        finally:
            sizes.tell()


def _persist(task: Assignment, seat: Seat, tell: Tell, cancel: threading.Event, sizes: _Sizes) -> None:
    """Run the job, again and again if the way to partners is lost: theirs may have been killed, and be back soon."""
    pause = _FIRST_PAUSE
    while True:
        try:
            _drive(task, seat, _Reporter(tell, sizes.await_word), cancel)
        except (TransportError, PeerFailed) as error:
            _log.warning("begins anew from its checkpoints: %s", error)
            tell({"again": str(error)})
            if cancel.wait(pause):
                raise Cancelled(f"{task.party}: stopped on request") from error
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return


@contextmanager
def _alone(workspace: Workspace, job: JobId) -> Iterator[None]:
    """Wait until an earlier worker of the job has ended; it does once it notices that its node has gone."""
    until = time.monotonic() + _LOCK_SECONDS
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(workspace.locked_for(job))
                break
            except UsageError:
                if time.monotonic() > until:
                    sys.exit(BUSY)
                time.sleep(0.1)
        yield


def _drive(task: Assignment, seat: Seat, observe: Observer, cancel: threading.Event) -> None:
    with (
        noting_the_end([seat]),
        RelayChannel(task.party, seat.peers, task.socket, task.token, task.job) as channel,
        Session(
            channel,
            job=task.job,
            checkpoints=seat.workspace.checkpoints(task.job),
            observe=observe,
            cancel=cancel,
            silence=task.silence_seconds,
        ) as session,
    ):
        session.run(play(seat))


class _Reporter:
    """Tells of progress, not too often; calls ``before_each`` before anything of a step leaves."""

    def __init__(self, tell: Tell, before_each: Callable[[], None]) -> None:
        self._tell, self._before_each = tell, before_each
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        if event.what == "enter":
            self._before_each()
        now = time.monotonic()
        if event.what == "progress" and now - self._last < _EVENT_SECONDS:
            return
        self._last = now
        usage = event.usage
        if event.what != "progress":
            how = "begins" if event.what == "enter" else f"is over after {usage.seconds:.1f} s"
            _log.info("step %s %s", event.step, how, extra={"step": event.step})
        self._tell(
            {
                "event": {
                    "step": event.step,
                    "what": event.what,
                    "done": event.done,
                    "total": event.total,
                    "note": event.note,
                    "seconds": round(usage.seconds, 3),
                    "bytes_sent": usage.bytes_sent,
                    "bytes_received": usage.bytes_received,
                }
            }
        )


class _Sizes:
    """Tells how many rows were found to be shared, by each step that is finished, once."""

    def __init__(self, seat: Seat, tell: Tell, cancel: threading.Event, word: threading.Semaphore) -> None:
        self._seat, self._tell, self._cancel, self._word = seat, tell, cancel, word
        self._told = set[StepId]()

    def tell(self) -> int:
        """Tell what is not told yet; return how many steps that were."""
        found = {
            step: record
            for step, key in self._seat.workspace.job(self._seat.job).steps.items()
            if step not in self._told
            and self._seat.graph.nodes[step].component.name in VARIANTS
            and (record := self._seat.workspace.finished(key)) is not None
        }
        for step, record in found.items():
            self._told.add(step)
            self._tell({"size": [step, self._shared(step, record)]})
        return len(found)

    def await_word(self) -> None:
        """Tell what is not told yet, and wait until the node lets the job go on after each of it.

        Raises:
            Cancelled: It does not.
        """
        for _ in range(self.tell()):
            while not self._word.acquire(timeout=_LOOK_SECONDS):
                if self._cancel.is_set():
                    raise Cancelled(f"{self._seat.me}: stopped on request")

    def _shared(self, step: StepId, record: TaskRecord) -> int | None:
        if "summary" not in record.outputs:
            return None
        kind = self._seat.graph.nodes[step].component.outputs["summary"].kind
        summary = self._seat.workspace.get(record.outputs["summary"], kind)
        found = getattr(summary, "shared", getattr(summary, "found", None))
        return found if isinstance(found, int) else None


# --- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Do what the line on the standard input says."""
    os.umask(0o077)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is for the log, not for the supervisor
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell = _teller(out)
    try:
        task = _assignment(sys.stdin.readline())
        configure(task.log, secrets=(task.token,))
        word = threading.Semaphore(0)
        threading.Thread(target=_end_with, args=(sys.stdin, word), daemon=True).start()
        _limit(task)
        with about(job=task.job):
            _log.info("the worker begins, process %d", os.getpid())
            work(task, tell, cancel, word)
            _log.info("the worker is done")
    except UnseenError as error:
        _log.error("the worker stops: %s: %s", type(error).__name__, error)
        tell({"end": type(error).__name__, "text": str(error)})
        sys.exit(1)
    tell({"end": "done"})


def _assignment(line: str) -> Assignment:
    try:
        return Assignment.model_validate_json(line)
    except ValidationError as error:
        raise LocalProtocolError(f"the node gave its worker a task that is none: {error.errors()[0]['loc']}") from error


def _teller(out: IO[str]) -> Tell:
    def tell(line: Mapping[str, object]) -> None:
        out.write(json.dumps(line, separators=(",", ":")) + "\n")
        out.flush()

    return tell


def _end_with(stream: IO[str], word: threading.Semaphore) -> None:
    """Pass the node's word on; end the process once it has gone."""
    for line in stream:
        if line == GO:
            word.release()
    os._exit(BUSY)


def _limit(task: Assignment) -> None:
    """Give up what is not needed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if task.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (task.memory_bytes, task.memory_bytes))


if __name__ == "__main__":
    main()
