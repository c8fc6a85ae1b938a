"""The worker's process: what it says, what it gives up, and that it does not outlive its node."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from organisations import BANK, INSURER, small_flow

from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.dialogue import CancelToken, Event, Usage, converse
from unseen.errors import Cancelled, DataError, LocalProtocolError, PeerUnreachable
from unseen.flow.executor import Seat, play
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Workspace
from unseen.ids import JobId, StepId
from unseen.node import worker as module
from unseen.node.logs import LogForm
from unseen.node.supervisor import _spawn
from unseen.node.worker import BUSY, Assignment, _assignment, _end_with, _Reporter, _Sizes, work


def assignment(folder: Path, **changes: object) -> Assignment:
    table = folder / "table.csv"
    table.write_text("phone,age,secret\n1,2,3\n")
    fields: Mapping[str, object] = {
        "party": BANK,
        "flow": FlowSpec.model_validate(small_flow(BANK, INSURER)),
        "job": JobId("job"),
        "workspace": folder / "workspace",
        "tables": {"customers": table},
        "points": {},
        "socket": folder / "none.sock",
        "token": "very secret",
        "memory_bytes": 8 << 30,
    }
    return Assignment(**{**fields, **changes})


def limits_of(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the limits of a worker once it has set them."""
    pause = threading.Event()
    while True:
        lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        soft = {line[:25].strip(): line[26:].split()[0] for line in lines}
        if soft["Max data size"] == str(8 << 30):
            return soft
        pause.wait(0.05)


def test_a_worker_gives_up_what_it_does_not_need_and_ends_with_its_node(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    (tmp_path / "home").mkdir()
    with _spawn(assignment(tmp_path, log=LogForm.JSON), tmp_path / "home") as process:
        assert process.stdin is not None
        soft = limits_of(process)
        assert b"PASSWORD" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.stdin.close()
        assert process.wait(timeout=30) == BUSY
    assert soft["Max core file size"] == "0"
    assert int(soft["Max open files"]) <= 4096
    log = (tmp_path / "home" / "worker.log").read_text()
    assert "very secret" not in log
    first, *_ = map(json.loads, log.splitlines())
    assert (first["job"], first["logger"]) == ("job", "unseen.node.worker")


def test_a_task_does_not_show_its_token_and_is_read_back(tmp_path) -> None:
    task = assignment(tmp_path)
    assert "very secret" not in repr(task)
    assert _assignment(task.model_dump_json(by_alias=True)) == task
    with pytest.raises(LocalProtocolError, match="a task that is none"):
        _assignment('{"party": "bank"}')


def test_progress_is_told_now_and_then_and_the_ends_of_steps_always() -> None:
    told: list[Mapping[str, object]] = []
    report = _Reporter(told.append, lambda: None)
    for what, done in (("enter", 0), *(("progress", done) for done in range(50)), ("leave", 50)):
        report(Event(BANK, StepId("train"), what, done, 50, "", Usage(1, 2, 3, 4, 5.0)))
    assert [line["event"]["what"] for line in told] == ["enter", "leave"]  # type: ignore[index]  # a mapping
    assert told[-1]["event"]["bytes_sent"] == 1  # type: ignore[index]  # a mapping


class Rehearsal:
    """Stands for the way to partners, which fails some times in the ways that are set."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends)

    def __call__(self, task: Assignment, seat: object, tell: object, cancel: CancelToken) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end


@pytest.fixture
def rehearse(monkeypatch, tmp_path):
    def run(*ends: Exception | None, stopped: bool = False) -> list[Mapping[str, object]]:
        told: list[Mapping[str, object]] = []
        cancel = threading.Event()
        if stopped:
            cancel.set()
        monkeypatch.setattr(module, "_drive", Rehearsal(*ends))
        monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0)
        work(assignment(tmp_path), told.append, cancel, threading.Semaphore(0))
        return told

    return run


def test_a_lost_way_is_tried_again_and_other_errors_are_not(rehearse) -> None:
    assert rehearse(PeerUnreachable("gone"), None) == [{"again": "gone"}]
    with pytest.raises(DataError, match="odd"):
        rehearse(DataError("odd"))
    with pytest.raises(Cancelled):
        rehearse(PeerUnreachable("gone"), stopped=True)


def test_a_job_has_one_worker_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
    (tmp_path / "workspace").mkdir()
    code = (
        "import sys; from pathlib import Path; from unseen.flow.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).locked_for('job'): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "workspace")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SystemExit) as ended:
            work(assignment(tmp_path), lambda _: None, threading.Event(), threading.Semaphore(0))
        assert ended.value.code == BUSY
        monkeypatch.setattr(module, "_drive", Rehearsal(None))
        work(assignment(tmp_path, job=JobId("another")), lambda _: None, threading.Event(), threading.Semaphore(0))
        holder.kill()


@pytest.fixture
def aligned(tmp_path) -> Seat:
    """A seat whose psi_join is finished, with two shared rows."""
    flow = FlowSpec.model_validate(small_flow(BANK, INSURER))
    del flow.steps[StepId("split")]
    graph = build_graph(flow, installed_components())
    seats = {}
    for party in (BANK, INSURER):
        table = tmp_path / f"{party}.csv"
        table.write_text("phone,age,secret\n1,2,3\n4,5,6\n")
        workspace = Workspace(tmp_path / party)
        workspace.start_job(JobId("job"), graph.spec, SystemClock().now())
        sources = {"customers": Source(table)}
        seats[party] = Seat(party, graph, JobId("job"), workspace, sources, SystemClock())
    converse({party: play(seat) for party, seat in seats.items()})
    return seats[BANK]


def test_nothing_of_a_step_leaves_before_the_node_has_judged_the_one_before(aligned) -> None:
    told: list[Mapping[str, object]] = []
    cancel, word = threading.Event(), threading.Semaphore(0)
    sizes = _Sizes(aligned, told.append, cancel, word)
    report = _Reporter(told.append, sizes.await_word)
    waiting = threading.Thread(target=report, args=(Event(BANK, StepId("split"), "enter"),))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert told == [{"size": ["align", 2]}]
    word.release()
    waiting.join()
    assert [next(iter(line)) for line in told] == ["size", "event"]
    # What was told is not told again, and not waited for.
    sizes.await_word()
    assert sizes.tell() == 0


def test_a_worker_without_an_answer_stops_when_it_is_told_to(aligned) -> None:
    cancel = threading.Event()
    cancel.set()
    sizes = _Sizes(aligned, lambda _: None, cancel, threading.Semaphore(0))
    with pytest.raises(Cancelled):
        sizes.await_word()


def test_only_the_word_of_the_node_lets_a_worker_go_on(monkeypatch) -> None:
    word, ends = threading.Semaphore(0), []
    monkeypatch.setattr(module.os, "_exit", ends.append)
    _end_with(io.StringIO("go \nGO\n\ngo\n"), word)
    assert ends == [BUSY]
    assert word.acquire(blocking=False)
    assert not word.acquire(blocking=False)
