"""The supervisor, with workers that are told what to do: end, fail, die, babble, hang."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from organisations import ANN, BANK, INSURER, Organisation, allied, deliver, propose, register

from unseen.errors import DataError
from unseen.ids import JobId, StepId
from unseen.node import supervisor as module
from unseen.node.domain import JobState
from unseen.node.supervisor import Settings, Supervisor, Way
from unseen.node.usecases.runs import Runs
from unseen.node.watching import Cost, Result, Run
from unseen.node.worker import Assignment

DONE = 'print(\'{"size":["align",700]}\');print(\'{"end":"done"}\')'
ASKS = (
    'import sys;print(\'{"size":["align",%s]}\',flush=True);'
    + "print('{\"end\":\"done\"}' if sys.stdin.readline() == 'go\\n' else '')"
)
"""Ends well once it has been told that it goes on."""
SHOUTS = 'print("{\\"size\\":[\\"align\\",700]}\\n{\\"size\\":[\\"no-step\\",1]}\\n" * 50 + "{\\"end\\":\\"done\\"}")'
DIES = "import os;os.kill(os.getpid(), 9)"
HANGS = "import sys;sys.stdin.read()"
BABBLES = "print('{');print('[]');print('{\"event\":3}');print('{\"size\":[\"..\",1]}');print('é');" + DONE
WHAT = ("enter", "progress", "leave")
PATIENCE = 20.0


class Relay:
    """Notes who was let in."""

    def __init__(self) -> None:
        self.tokens: list[tuple[JobId, int]] = []
        self.forgotten: list[JobId] = []

    def admit_worker(self, job: JobId, fence: int) -> str:
        self.tokens.append((job, fence))
        return f"token {fence}"

    def forget_worker(self, job: JobId) -> None:
        self.forgotten.append(job)


class Files:
    def __init__(self) -> None:
        self.open_now = 0

    @contextmanager
    def open(self, digest: str) -> Iterator[Path]:
        self.open_now += 1
        yield Path("/nowhere") / digest
        self.open_now -= 1


class Workshop:
    """A supervisor of a node whose workers run the script that is set."""

    def __init__(self, node: Organisation, settings: Settings, patch: pytest.MonkeyPatch) -> None:
        self.node, self.relay, self.files, self.script = node, Relay(), Files(), DONE
        self.tasks: list[Assignment] = []
        patch.setattr(module, "_spawn", self._spawn)
        runs = Runs(node.books, node.folder / "workspaces")
        way = Way(self.relay, node.folder / "run" / "socket", self.files)
        self.supervisor = Supervisor(node.me, runs, node.jobs, way, settings)
        self.told: list[object] = []
        self.supervisor.watched_by(self)

    def run_began(self, run: Run) -> None:
        assert run.components["align"] == "psi_join"
        self.told.append(run.attempt)

    def step_began(self, run: Run, step: StepId) -> None:
        self.told.append(step)

    def step_ended(self, run: Run, step: StepId, cost: Cost) -> None:
        self.told.append(cost)

    def run_ended(self, run: Run, result: Result) -> None:
        self.told.append(result)

    def _spawn(self, task: Assignment, home: Path) -> subprocess.Popen[str]:
        self.tasks.append(task)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        return subprocess.Popen([sys.executable, "-S", "-c", self.script], **pipes)  # type: ignore[call-overload]

    def until(self, look: Callable[[], bool]) -> None:
        """Tick until something is so."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            self.supervisor.tick()
            if look():
                return
            pause.wait(0.01)
        pytest.fail("it did not come to that")

    def idle(self) -> bool:
        return not self.supervisor.running


@pytest.fixture
def nodes(tmp_path) -> tuple[Organisation, ...]:
    return allied(tmp_path, BANK, INSURER)


@pytest.fixture
def workshop(nodes, monkeypatch) -> Iterator[Workshop]:
    with ExitStack() as stack:
        made = Workshop(nodes[1], Settings(concurrent=1, lease_seconds=20.0, most_crashes=2), monkeypatch)
        stack.callback(made.supervisor.stop)
        yield made


def ready(nodes) -> JobId:
    job = propose(nodes[0], BANK, INSURER)
    deliver(nodes)
    return job


def state(nodes, job: JobId) -> list[JobState]:
    return [node.jobs.get(job).state for node in nodes]


def do_the_other_side(nodes, job: JobId) -> None:
    runs = Runs(nodes[0].books, nodes[0].folder / "other")
    runs.done(runs.lease("test", 60).lease)
    deliver(nodes)


def test_a_worker_that_is_done_ends_the_job_once_all_are(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    (task,) = workshop.tasks
    assert (task.party, task.job, task.token) == (INSURER, job, "token 1")
    assert workshop.told == [1, Result.DONE]
    assert task.points == {"align": {BANK: 2000}}
    assert set(task.tables) == {"customers"}
    assert workshop.relay.forgotten[-1] == job
    assert workshop.files.open_now == 0
    assert list((workshop.node.folder / "run").iterdir()) == []
    assert state(nodes, job)[1] is JobState.RUNNING
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


def test_whoever_is_done_helps_once_more_if_the_others_are_not(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    workshop.node.clock.time += timedelta(seconds=30)
    workshop.until(lambda: len(workshop.tasks) == 2)
    workshop.until(workshop.idle)
    assert workshop.relay.tokens == [(job, 1), (job, 2)]
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


def test_a_worker_that_is_killed_is_followed_by_another_with_a_higher_fence(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.script = DIES
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    workshop.supervisor.tick()
    assert len(workshop.tasks) == 1, "not before its lease has run out"
    workshop.script = DONE
    workshop.node.clock.time += timedelta(seconds=2)
    workshop.until(lambda: len(workshop.tasks) == 2)
    assert workshop.relay.tokens == [(job, 1), (job, 2)]


def test_a_job_whose_workers_keep_dying_ends_everywhere(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.script = DIES
    for attempt in range(1, 4):
        workshop.until(lambda: len(workshop.tasks) == attempt)  # noqa: B023  # used within the turn
        workshop.until(workshop.idle)
        workshop.node.clock.time += timedelta(seconds=60)
    deliver(nodes)
    assert state(nodes, job) == [JobState.FAILED] * 2
    assert workshop.told == [1, Result.LOST, 2, Result.LOST, 3, Result.LOST]
    assert "broke down 3 times, last with status -9" in nodes[0].jobs.get(job).reason


@pytest.mark.parametrize(
    ("script", "here", "there"),
    [
        ('print(\'{"end":"DataError","text":"row 7 is odd"}\')', "row 7 is odd", "its data do not fit"),
        ('print(\'{"end":"PermissionDenied","text":"too many"}\')', "too many", "too many"),
        ('print(\'{"end":"SystemExit","text":"no error of ours"}\')', "no error of ours", "no error of ours"),
    ],
)
def test_an_error_ends_the_job_everywhere(nodes, workshop, script, here, there) -> None:
    job = ready(nodes)
    workshop.script = script
    workshop.until(lambda: workshop.node.jobs.get(job).state.is_over)
    deliver(nodes)
    assert state(nodes, job) == [JobState.FAILED] * 2
    assert here in nodes[1].jobs.get(job).reason
    assert there in nodes[0].jobs.get(job).reason
    assert workshop.told == [1, Result.FAILED]


def test_those_who_watch_are_told_of_steps_of_the_flow_and_of_no_others(nodes, workshop) -> None:
    job = ready(nodes)
    events = ({"step": step, "what": what, "seconds": 2, "note": ""} for step in ("align", "x") for what in WHAT)
    workshop.script = ";".join(f"print({json.dumps(json.dumps({'event': event}))})" for event in events) + ";" + DONE
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    assert workshop.told == [1, "align", Cost(2.0, 0, 0, reused=False), Result.DONE]
    assert len(workshop.node.jobs.events(job)) == 2 * len(WHAT)


def test_what_a_worker_babbles_is_passed_over(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.script = BABBLES
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


@pytest.mark.parametrize(
    "how",
    ["cancelled here", "cancelled there", "paused here", "paused there", "revoked", "over time", "leased by another"],
)
def test_a_worker_that_may_not_go_on_is_stopped(nodes, workshop, how) -> None:
    job = ready(nodes)
    workshop.script = HANGS
    workshop.until(lambda: len(workshop.tasks) == 1)
    assert workshop.supervisor.running == (job,)
    bank, insurer = nodes
    if how == "cancelled here":
        insurer.jobs.cancel(job, "enough", ANN)
    elif how == "cancelled there":
        bank.jobs.cancel(job, "enough", ANN)
    elif how == "paused here":
        insurer.jobs.pause(job, "later", ANN)
    elif how == "paused there":
        bank.jobs.pause(job, "later", ANN)
    elif how == "revoked":
        bank.projects.revoke("credit", "enough", ANN)
    elif how == "over time":
        insurer.clock.time += timedelta(hours=3)
        insurer.jobs.expire()
    else:
        insurer.clock.time += timedelta(seconds=30)
        assert Runs(insurer.books, insurer.folder).lease("another", 60).lease.fence == 2
    deliver(nodes)
    workshop.until(workshop.idle)
    assert workshop.relay.forgotten[-1] == job
    assert workshop.files.open_now == 0
    assert workshop.told == [1, Result.STOPPED]


def test_a_job_that_was_paused_goes_on_at_once_when_it_is_let_go(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.script = HANGS
    workshop.until(lambda: len(workshop.tasks) == 1)
    nodes[1].jobs.pause(job, "later", ANN)
    workshop.until(workshop.idle)
    workshop.script = DONE
    workshop.supervisor.tick()
    assert len(workshop.tasks) == 1
    nodes[1].jobs.resume(job, ANN)
    workshop.until(lambda: len(workshop.tasks) == 2)
    assert [fence for _, fence in workshop.relay.tokens] == [1, 2]
    workshop.until(workshop.idle)
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


@pytest.mark.parametrize("words", ["pass", 'print(\'{"end":"LocalProtocolError","text":"no relay"}\',flush=True)'])
def test_a_worker_that_was_told_to_stop_and_then_may_go_on_has_not_failed(nodes, workshop, words) -> None:
    """A partner that pauses a job and lets it go on, again and again, does not end it that way."""
    job = ready(nodes)
    workshop.script = f"import sys;{words};sys.stdin.read()"
    for attempt in range(1, 5):
        workshop.until(lambda: len(workshop.tasks) == attempt)  # noqa: B023  # used within the turn
        nodes[1].jobs.pause(job, "later", ANN)
        workshop.supervisor.tick()
        nodes[1].jobs.resume(job, ANN)
        workshop.until(workshop.idle)
        nodes[1].clock.time += timedelta(seconds=60)
    workshop.until(lambda: len(workshop.tasks) == 5)
    assert workshop.told == [1, Result.STOPPED, 2, Result.STOPPED, 3, Result.STOPPED, 4, Result.STOPPED, 5]
    assert state(nodes, job)[1] is JobState.RUNNING


def test_no_more_jobs_run_at_once_than_may(nodes, workshop) -> None:
    register(nodes[0], "second")
    first, second = ready(nodes), propose(nodes[0], BANK, INSURER, points=0)
    deliver(nodes)
    workshop.script = HANGS
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.supervisor.tick()
    assert workshop.supervisor.running == (first,)
    nodes[1].jobs.cancel(first, "enough", ANN)
    workshop.until(lambda: first not in workshop.supervisor.running)
    assert second not in workshop.supervisor.running or len(workshop.supervisor.running) == 1


def test_a_node_that_stops_ends_its_workers_and_the_job_goes_on_later(nodes, workshop) -> None:
    job = ready(nodes)
    workshop.script = HANGS
    workshop.supervisor.start()
    pause = threading.Event()
    while not workshop.supervisor.running:
        pause.wait(0.01)
    workshop.supervisor.stop()
    assert workshop.told == [1, Result.STOPPED]
    assert workshop.files.open_now == 0
    assert state(nodes, job)[1] is JobState.RUNNING
    runs = Runs(nodes[1].books, nodes[1].folder)
    assert runs.lease("next", 60) is None
    runs.take_over()
    assert runs.lease("next", 60).lease.fence == 2


def test_a_worker_that_has_told_a_size_is_told_to_go_on(nodes, workshop) -> None:
    workshop.script = ASKS % 700
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


@pytest.mark.parametrize("size", [2, 49])
def test_a_size_that_a_tripwire_does_not_like_ends_the_job_before_the_next_step(nodes, workshop, size) -> None:
    """Its worker never hears that it may go on; the partner learns which step, and no size."""
    workshop.script = ASKS % size
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    deliver(nodes)
    assert state(nodes, job) == [JobState.FAILED] * 2
    assert not any(node.jobs.admits(peer, job) for node in nodes for peer in node.partners)
    assert str(size) in nodes[1].jobs.get(job).reason
    told = nodes[0].jobs.get(job).reason
    assert "insurer withholds the result of step align" in told
    assert str(size) not in told


def test_damaged_facts_end_the_job_instead_of_letting_it_wait(nodes, workshop, monkeypatch) -> None:
    def damaged(*_: object) -> bool:
        raise DataError("the facts contradict each other")

    monkeypatch.setattr(Runs, "note_size", damaged)
    workshop.script = ASKS % 700
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    assert "contradict" in nodes[1].jobs.get(job).reason
    assert state(nodes, job)[1] is JobState.FAILED


def test_a_size_that_cannot_be_judged_for_now_is_judged_when_the_next_worker_tells_it(
    nodes, workshop, monkeypatch
) -> None:
    """The database is locked for a moment: the worker would wait for ever for its word."""
    judge, failures = Runs.note_size, [OSError("the database is locked")]

    def locked(*told: object) -> bool:
        if failures:
            raise failures.pop()
        return judge(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(Runs, "note_size", locked)
    workshop.script = ASKS % 700
    job = ready(nodes)
    with pytest.raises(OSError, match="locked"):
        workshop.until(lambda: not failures and workshop.idle())
    workshop.until(workshop.idle)
    nodes[1].clock.time += timedelta(minutes=2)
    workshop.until(lambda: len(workshop.tasks) == 2)
    workshop.until(workshop.idle)
    deliver(nodes)
    do_the_other_side(nodes, job)
    assert state(nodes, job) == [JobState.FINISHED] * 2


def test_a_worker_that_tells_sizes_without_end_and_hears_nothing_does_not_stop_the_supervisor(nodes, workshop) -> None:
    workshop.script = SHOUTS
    job = ready(nodes)
    workshop.until(lambda: len(workshop.tasks) == 1)
    workshop.until(workshop.idle)
    with nodes[1].books.turn() as turn:
        assert len(list(turn.kept.lines.read(f"sizes/{job}"))) == 1
