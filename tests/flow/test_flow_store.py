import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import message
from unseen.component import SOURCE, TABLE, Document, Kind, Packed, Source
from unseen.data.schema import Column, Role, Schema
from unseen.data.schema import Kind as ColumnKind
from unseen.data.table import Table
from unseen.errors import DataError, LocalProtocolError, UsageError
from unseen.flow.builder import Flow
from unseen.flow.store import KEPT_CHECKPOINTS, Lineage, Ref, TaskRecord, Workspace, digest_of, task_key, write_file
from unseen.ids import JobId, PartyId, StepId

NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB, STEP = JobId("job-1"), StepId("train")


class Note(Document):
    text: str


@message("test_flow_store/words")
class Words:
    text: str


NOTE, BOX = Kind("note", Note), Kind("box", Packed)
SCHEMA = Schema((Column("id", Role.ID, ColumnKind.TEXT), Column("x", Role.FEATURE, ColumnKind.REAL)))


def table(*values):
    ids = [f"p{index}" for index in range(len(values))]
    return Table.from_frame(pl.DataFrame({"id": ids, "x": [float(value) for value in values]}), SCHEMA)


def lineage(step="train", **changes):
    fields = {
        "party": PartyId("bank"),
        "parties": {PartyId("bank"): "active"},
        "job": JOB,
        "flow": "00",
        "step": StepId(step),
        "component": "toy",
        "component_version": 1,
        "params": {"deep": [1, None]},
        "inputs": {"table": "11"},
        "output": "out",
        "code_version": "0",
        "created": NOW,
    }
    return Lineage(**(fields | changes))


def flow(name="f"):
    made = Flow(name, active="bank")
    made.step("read", "read_table")
    return made.spec


def record(key="ab", outputs=None, **changes):
    fields = {
        "key": key,
        "joint": "cd",
        "job": JOB,
        "outputs": outputs or {},
        "seconds": 1.5,
        "bytes_sent": 1,
        "bytes_received": 2,
        "rounds": 3,
        "messages": 4,
        "lineage": {},
    }
    return TaskRecord(**(fields | changes))


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "bank")


# --- artifacts ---


def test_what_is_put_is_what_is_got(workspace):
    for value, kind in ((table(1, 2), TABLE), (Note(text="ü"), NOTE), (Packed.of(Words("ü")), BOX)):
        ref = workspace.put(value, kind, lineage())
        assert ref == Ref(kind=kind.name, digest=digest_of(value))
        assert workspace.get(ref, kind) == value
        assert workspace.lineage(ref) == lineage()


def test_the_first_lineage_of_a_value_stays(workspace):
    first = workspace.put(Note(text="a"), NOTE, lineage("one"))
    again = workspace.put(Note(text="a"), NOTE, lineage("two"))
    assert first == again
    assert workspace.lineage(first).step == "one"


def test_a_changed_artifact_is_found_out(workspace):
    note, rows = workspace.put(Note(text="a"), NOTE, lineage()), workspace.put(table(1), TABLE, lineage())
    folder = workspace.root / "artifacts"
    path = folder / note.digest / "document.json"
    path.write_text(path.read_text().replace("a", "b"))
    with pytest.raises(DataError, match="was changed after it was written") as caught:
        workspace.get(note, NOTE)
    assert note.digest in str(caught.value)
    path.write_text("{}")
    with pytest.raises(DataError, match="missing or damaged"):
        workspace.get(note, NOTE)
    # A file that is right in itself, but is another table.
    table(2).write(folder / rows.digest / "table.parquet")
    with pytest.raises(DataError, match="was changed after it was written"):
        workspace.get(rows, TABLE)
    (folder / rows.digest / "table.parquet").unlink()
    with pytest.raises(DataError, match=r"table\.parquet"):
        workspace.get(rows, TABLE)


def test_a_changed_binary_artifact_is_found_out(workspace):
    ref = workspace.put(Packed.of(Words("a")), BOX, lineage())
    path = workspace.root / "artifacts" / ref.digest / "content.bin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(path.read_bytes()[:-1] + b"b")
    with pytest.raises(DataError, match="was changed after it was written"):
        workspace.get(ref, BOX)
    path.unlink()
    with pytest.raises(DataError, match=r"content\.bin is missing"):
        workspace.get(ref, BOX)


def test_a_source_is_no_artifact(workspace):
    with pytest.raises(LocalProtocolError, match="source is no kind of artifact"):
        workspace.get(Ref(kind="source", digest="00"), SOURCE)


def test_digests_tell_types_and_contents_apart(tmp_path):
    class Other(Document):
        text: str

    (tmp_path / "f").write_bytes(b"abc")
    assert digest_of(Note(text="a")) == digest_of(Note(text="a"))
    assert len({digest_of(value) for value in (Note(text="a"), Note(text="b"), Other(text="a"))}) == 3
    assert digest_of(Source(tmp_path / "f")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def break_off(*_):
    raise OSError("power cut")


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    write_file(tmp_path / "a.json", b"old")
    monkeypatch.setattr(Path, "replace", break_off)
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError, match=rf"{name} cannot be written: power cut"):
            write_file(tmp_path / name, b"new and longer")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    monkeypatch.undo()
    write_file(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_an_artifact_is_there_whole_or_not_at_all(workspace, monkeypatch):
    for value, kind in ((Note(text="a"), NOTE), (table(1), TABLE), (Packed.of(Words("a")), BOX)):
        monkeypatch.setattr(Path, "replace", break_off)
        with pytest.raises(DataError, match="power cut"):
            workspace.put(value, kind, lineage())
        monkeypatch.undo()
        ref = Ref(kind=kind.name, digest=digest_of(value))
        with pytest.raises(DataError, match=ref.digest):
            workspace.get(ref, kind)
        assert workspace.put(value, kind, lineage()) == ref
        assert workspace.get(ref, kind) == value
        assert workspace.lineage(ref) == lineage()


# --- one process at a time ---


def test_a_second_process_is_refused(workspace):
    with workspace.locked(), pytest.raises(UsageError, match="another process works in"), workspace.locked():
        pass
    code = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX); print('held',flush=True); input()"
    command = [sys.executable, "-S", "-c", code, str(workspace.root / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"another process works in {workspace.root}"), workspace.locked():
            pass
        other.kill()
    with workspace.locked():
        pass


# --- finished tasks ---


@pytest.mark.parametrize(("value", "kind"), [(Note(text="a"), NOTE), (Packed.of(Words("a")), BOX)])
def test_a_task_is_finished_only_with_all_its_artifacts(workspace, value, kind):
    assert workspace.finished("ab") is None
    ref = workspace.put(value, kind, lineage())
    done = record(outputs={"out": ref})
    workspace.finish(done)
    assert workspace.finished("ab") == done
    assert workspace.finished("abc") is None
    (workspace.root / "artifacts" / ref.digest).rename(workspace.root / "away")
    assert workspace.finished("ab") is None


def test_a_damaged_record_is_named(workspace):
    workspace.finish(record())
    (workspace.root / "tasks" / "ab.json").write_text("{}")
    with pytest.raises(DataError, match=r"ab\.json is missing or damaged"):
        workspace.finished("ab")


FACTS = {"params": {"a": 1, "b": 2.5}, "me": "bank", "parties": {"bank": "active"}, "inputs": {"table": "11"}}
CHANGES = [
    ("toys", 1, {}),
    ("toy", 2, {}),
    ("toy", 1, {"params": {"a": 1, "b": 2.6}}),
    ("toy", 1, {"params": {"a": 1}}),
    ("toy", 1, {"me": "shop"}),
    ("toy", 1, {"parties": {"bank": "active", "shop": "passive"}}),
    ("toy", 1, {"parties": {"bank": "passive"}}),
    ("toy", 1, {"inputs": {"table": "12"}}),
    ("toy", 1, {"inputs": {"tables": "11"}}),
]


def test_a_task_key_depends_on_everything_but_the_order():
    key = task_key("toy", 1, FACTS)
    assert task_key("toy", 1, dict(reversed(FACTS.items())) | {"params": {"b": 2.5, "a": 1}}) == key
    keys = {task_key(name, version, FACTS | change) for name, version, change in CHANGES}
    assert len(keys | {key}) == len(CHANGES) + 1


# --- jobs ---


def test_a_jobs_seed_is_secret(workspace):
    made = workspace.start_job(JOB, flow(), NOW)
    path = workspace.root / "jobs" / JOB / "job.json"
    assert made.seed in path.read_text()
    assert made.seed not in repr(made)
    assert made.seed not in str(made)
    for change in (
        lambda: None,
        lambda: workspace.note_step(JOB, STEP, "ab"),
        lambda: workspace.end_job(JOB, "failed"),
    ):
        change()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert workspace.start_job(JobId("job-2"), flow(), NOW).seed != made.seed


def test_a_job_that_is_there_goes_on(workspace):
    made = workspace.start_job(JOB, flow(), NOW)
    assert (made.state, made.reason, made.steps) == ("running", "", {})
    workspace.note_step(JOB, StepId("read"), "ab")
    workspace.note_step(JOB, STEP, "cd")
    workspace.end_job(JOB, "failed", reason="why")
    again = workspace.start_job(JOB, flow(), NOW + timedelta(days=1))
    assert again.seed == made.seed
    assert again.created == NOW
    assert again.steps == {"read": "ab", "train": "cd"}
    assert (again.state, again.reason) == ("failed", "why")
    assert workspace.job_prg(JOB).bytes(8) == workspace.job_prg(JOB).bytes(8)
    with pytest.raises(UsageError, match="job job-1 ran another flow"):
        workspace.start_job(JOB, flow("other"), NOW)


def test_jobs_stand_in_the_order_of_their_making(workspace):
    for number, second in ((3, 5), (1, 9), (2, 1)):
        workspace.start_job(JobId(f"job-{number}"), flow(), NOW + timedelta(seconds=second))
    (workspace.root / "jobs" / "job-9").mkdir()
    assert workspace.jobs() == ["job-2", "job-3", "job-1"]
    assert Workspace(workspace.root).jobs() == workspace.jobs()


def test_a_job_that_is_not_there_is_named(workspace):
    with pytest.raises(DataError, match=r"none/job\.json is missing or damaged"):
        workspace.job(JobId("none"))


# --- checkpoints ---


def test_checkpoints_are_kept_in_order_and_later_ones_forgotten(workspace):
    held = workspace.checkpoints(JOB)
    assert held.held(STEP) == 0
    for index in (1, 2, 3):
        held.save(STEP, index, bytes([index]))
    again = Workspace(workspace.root).checkpoints(JOB)
    assert again.held(STEP) == 3
    assert [again.load(STEP, index) for index in (1, 2, 3)] == [b"\1", b"\2", b"\3"]
    assert again.held(StepId("other")) == again.held(None) == 0
    again.save(STEP, 2, b"new")
    assert (again.held(STEP), again.load(STEP, 2)) == (2, b"new")
    files = list(again.root.rglob("*.bin"))
    assert sorted(path.name for path in files) == ["1.bin", "2.bin"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_gap_ends_what_is_held(workspace):
    held = workspace.checkpoints(JOB)
    for index in (1, 2, 3):
        held.save(STEP, index, b"")
    (held.root / STEP / "2.bin").unlink()
    assert held.held(STEP) == 1


@given(st.lists(st.integers(0, 1), max_size=9))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_files_hold_the_checkpoints_that_memory_would(tmp_path_factory, steps_back):
    """A party goes on from its newest state, or from the one before if a peer does not hold the newest."""
    held, model = Workspace(tmp_path_factory.mktemp("ws")).checkpoints(JOB), []
    for turn, back in enumerate(steps_back):
        index = max(1, len(model) + 1 - back)
        held.save(STEP, index, bytes([turn]))
        model[index - 1 :] = [bytes([turn])]
        assert held.held(STEP) == len(model)
        newest = range(max(0, len(model) - KEPT_CHECKPOINTS + 1), len(model))
        assert [held.load(STEP, place + 1) for place in newest] == [model[place] for place in newest]


def test_old_checkpoints_are_counted_but_not_kept(workspace):
    held = workspace.checkpoints(JOB)
    for index in range(1, KEPT_CHECKPOINTS + 2):
        held.save(STEP, index, b"state")
    assert held.held(STEP) == KEPT_CHECKPOINTS + 1
    assert held.load(STEP, 2) == b"state"
    with pytest.raises(DataError, match="not kept any more: a peer is 4 checkpoints behind"):
        held.load(STEP, 1)


def test_checkpoints_belong_to_one_run_of_a_step(workspace):
    workspace.start_job(JOB, flow(), NOW)
    held = workspace.checkpoints(JOB)
    workspace.begin_step(JOB, STEP, "aa")
    held.save(STEP, 1, b"x")
    workspace.begin_step(JOB, STEP, "aa")
    workspace.begin_step(JOB, StepId("other"), "bb")
    assert held.held(STEP) == 1
    workspace.begin_step(JOB, STEP, "bb")
    assert held.held(STEP) == 0


def test_the_checkpoints_of_a_finished_job_are_deleted(workspace):
    workspace.start_job(JOB, flow(), NOW)
    held = workspace.checkpoints(JOB)
    for state, left in (("failed", 1), ("cancelled", 1), ("finished", 0)):
        held.save(STEP, 1, b"secret")
        workspace.end_job(JOB, state)
        assert held.held(STEP) == left
    assert list(held.root.rglob("*")) == []
    assert workspace.job(JOB).state == "finished"


def test_a_power_failure_takes_neither_a_job_nor_what_was_heard(workspace, monkeypatch):
    """A job without its seed would say something else; a partner of whom nothing is known could do so."""
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(Path(f"/proc/self/fd/{file}").readlink()))
    workspace.start_job(JOB, flow(), NOW)
    workspace.heard(JOB, STEP).take(PartyId("shop"), 0, b"x" * 32)
    heard = workspace.root / "jobs" / JOB / "heard" / STEP
    assert {heard / "shop", heard, *heard.parents[:3]} <= synced


def test_beginning_anew_forgets_all_checkpoints(workspace):
    held = workspace.checkpoints(JOB)
    for index in range(1, KEPT_CHECKPOINTS + 3):
        held.save(STEP, index, b"state")
    held.clear(STEP)
    held.clear(STEP)
    assert held.held(STEP) == 0
    held.save(STEP, 1, b"anew")
    assert held.load(STEP, 1) == b"anew"


def test_what_a_killed_process_was_about_to_write_is_swept_away(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    litter = tmp_path / "ws" / "tasks" / ".ab.json.x1y2"
    litter.write_bytes(b"half a rec")
    with workspace.locked():
        assert not litter.exists()
    assert (tmp_path / "ws").stat().st_mode & 0o077 == 0
