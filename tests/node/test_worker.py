"""The worker's process: what it says, what it gives up, and that it does not outlive its node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from organisations import BANK, INSURER, small_flow

from unseen.dialogue import CancelToken, Event, Usage
from unseen.errors import Cancelled, DataError, LocalProtocolError, PeerUnreachable
from unseen.flow.spec import FlowSpec
from unseen.ids import JobId, StepId
from unseen.node import worker as module
from unseen.node.logs import LogForm
from unseen.node.supervisor import _spawn
from unseen.node.worker import BUSY, Assignment, _assignment, _Reporter, work


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
    report = _Reporter(told.append)
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
        work(assignment(tmp_path), told.append, cancel)
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
            work(assignment(tmp_path), lambda _: None, threading.Event())
        assert ended.value.code == BUSY
        monkeypatch.setattr(module, "_drive", Rehearsal(None))
        work(assignment(tmp_path, job=JobId("another")), lambda _: None, threading.Event())
        holder.kill()
