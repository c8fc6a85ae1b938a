"""One party's workspace on disk: artifacts named by their content, records of finished tasks, and jobs.

::

    workspace/
      lock                             held while a process works here
      artifacts/<digest>/              table.parquet, document.json or content.bin, and lineage.json
      tasks/<key>.json                 what a finished task left behind
      jobs/<job>/job.json              flow, seed, state          (readable by the owner only)
      jobs/<job>/heard/<step>/<peer>   digests of what a peer said in a step that evaluates points for it
      jobs/<job>/checkpoints/<step>/   states from which a step can go on, and the name of the run they belong to

A file appears whole or not at all, and only its owner may read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unseen.component import Document, Kind, Packed, Source, Value
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.data.atomic import locked, sync_folder, whole_file
from unseen.data.table import Table
from unseen.errors import DataError, LocalProtocolError, RemoteProtocolError, UsageError
from unseen.flow.spec import FlowSpec, canonical_json
from unseen.ids import JobId, PartyId, StepId

D = TypeVar("D", bound=BaseModel)

KEPT_CHECKPOINTS = 4
"""States of one step that stay readable; earlier ones are only counted, since each may hold a number for every row."""
TABLE, DOCUMENT, CONTENT = "table.parquet", "document.json", "content.bin"


class Frozen(BaseModel):
    """Base of the records kept as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Ref(Frozen):
    """Names an artifact: the kind of value, and the SHA-256 of its content."""

    kind: str
    digest: str


class Lineage(Frozen):
    """How an artifact came to be."""

    party: PartyId
    parties: dict[PartyId, str]
    job: JobId
    flow: str
    step: StepId
    component: str
    component_version: int
    params: dict[str, object]
    inputs: dict[str, str]
    """Input port → digest of the artifact that stood there."""
    output: str
    code_version: str
    created: datetime


class Mark(Frozen):
    """What a task had spent when it told of progress: after a tree, an iteration, a block of rows."""

    done: int
    total: int
    seconds: float
    bytes_sent: int
    bytes_received: int


class TaskRecord(Frozen):
    """A finished task; ``joint`` is the same at all parties that took part in this very run of it."""

    key: str
    joint: str
    job: JobId
    """The job that computed it."""
    outputs: dict[str, Ref]
    lineage: dict[str, Lineage]
    """How each output came to be here; equal artifacts of other steps have a lineage of their own."""
    seconds: float
    bytes_sent: int
    bytes_received: int
    rounds: int
    messages: int
    course: tuple[Mark, ...] = ()
    """Its progress; of a long one some marks are left out."""


class JobRecord(Frozen):
    """One run of a flow at this party; ``seed`` is secret."""

    job: JobId
    flow: FlowSpec
    seed: str = Field(repr=False)
    created: datetime
    state: str = "running"
    """``running``, ``finished``, ``failed`` or ``cancelled``."""
    reason: str = ""
    steps: dict[StepId, str] = Field(default_factory=dict)
    """The keys of the steps that are done, computed by this job or an earlier one."""


class Workspace:
    """What one party keeps of its work."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("artifacts", "tasks", "jobs"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this workspace; a killed process loses its lock by itself."""
        with locked(self.root):
            self._clear_litter()
            yield

    @contextmanager
    def locked_for(self, job: JobId) -> Iterator[None]:
        """Keep others from working on this job here, and from clearing the workspace; other jobs go on beside it."""
        with (self.root / "lock").open("a") as whole, (self.root / "jobs" / f"{job}.lock").open("a") as own:
            try:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"another process works on job {job} in {self.root}") from error
            try:
                fcntl.flock(whole, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._clear_litter()
            except BlockingIOError:
                pass  # others are at work, and write files of their own
            fcntl.flock(whole, fcntl.LOCK_SH)
            yield

    def _clear_litter(self) -> None:
        """Remove what a killed process was about to write."""
        for litter in self.root.rglob(".*"):
            litter.unlink()

    # --- artifacts ---

    def put(self, value: Value, kind: Kind, lineage: Lineage) -> Ref:
        """Keep a value and how it came to be; return its name."""
        ref = Ref(kind=kind.name, digest=digest_of(value))
        folder = self.root / "artifacts" / ref.digest
        folder.mkdir(exist_ok=True)
        if isinstance(value, Table):
            value.write(folder / TABLE)
        elif isinstance(value, Packed):
            value.write(folder / CONTENT)
        elif isinstance(value, Document):
            write_file(folder / DOCUMENT, value.model_dump_json(indent=1).encode())
        if not (folder / "lineage.json").exists():
            write_file(folder / "lineage.json", lineage.model_dump_json(indent=1).encode())
        return ref

    def get(self, ref: Ref, kind: Kind) -> Value:
        """Return the value called ``ref``.

        Raises:
            DataError: It is not there, or not what it was.
        """
        folder = self.root / "artifacts" / ref.digest
        if issubclass(kind.type, Table):
            value: Value = Table.read(folder / TABLE)
        elif issubclass(kind.type, Packed):
            value = Packed.read(folder / CONTENT)
        elif issubclass(kind.type, Document):
            value = _read_record(folder / DOCUMENT, kind.type)
        else:
            raise LocalProtocolError(f"{kind.name} is no kind of artifact")
        if digest_of(value) != ref.digest:
            raise DataError(f"{folder} was changed after it was written: delete it and run the flow again")
        return value

    def table_path(self, ref: Ref) -> Path:
        """Return the Parquet file in which a table lies, for other programs to read."""
        return self.root / "artifacts" / ref.digest / TABLE

    def file(self, ref: Ref) -> Path:
        """Return the file that holds the content of an artifact.

        Raises:
            DataError: It is not there.
        """
        folder = self.root / "artifacts" / ref.digest
        for name in (TABLE, DOCUMENT, CONTENT):
            if (folder / name).exists():
                return folder / name
        raise DataError(f"{folder} is not there: run the flow again")

    def lineage(self, ref: Ref) -> Lineage:
        """Return how an artifact came to be."""
        return self.lineage_at(self.root / "artifacts" / ref.digest / "lineage.json")

    @staticmethod
    def lineage_at(path: Path) -> Lineage:
        """Return the lineage in a file of this workspace."""
        return _read_record(path, Lineage)

    # --- finished tasks ---

    def finished(self, key: str) -> TaskRecord | None:
        """Return the record of a finished task whose artifacts are all there."""
        path = self.root / "tasks" / f"{key}.json"
        if not path.exists():
            return None
        record = _read_record(path, TaskRecord)
        folders = [self.root / "artifacts" / ref.digest for ref in record.outputs.values()]
        complete = all(any((folder / name).exists() for name in (TABLE, DOCUMENT, CONTENT)) for folder in folders)
        return record if complete else None

    def finish(self, record: TaskRecord) -> None:
        """Keep the record of a task that is done."""
        write_file(self.root / "tasks" / f"{record.key}.json", record.model_dump_json(indent=1).encode())

    # --- jobs ---

    def jobs(self) -> list[JobId]:
        """Return all jobs, the newest last."""
        folders = [path for path in (self.root / "jobs").iterdir() if (path / "job.json").exists()]
        records = sorted((self.job(JobId(path.name)) for path in folders), key=lambda record: record.created)
        return [record.job for record in records]

    def start_job(self, job: JobId, flow: FlowSpec, now: datetime) -> JobRecord:
        """Return the record of ``job``, made now unless it is there.

        Raises:
            UsageError: The job exists with another flow.
        """
        path = self.root / "jobs" / job / "job.json"
        if path.exists():
            record = self.job(job)
            if record.flow.digest != flow.digest:
                raise UsageError(f"job {job} ran another flow; start a new job to run the changed one")
            return record
        path.parent.mkdir(mode=0o700, exist_ok=True)  # it is there if a process was killed just here
        sync_folder(path.parent.parent)
        record = JobRecord(job=job, flow=flow, seed=secrets.token_hex(SEED_BYTES), created=now)
        self.write_job(record)
        return record

    def job(self, job: JobId) -> JobRecord:
        """Return the record of a job."""
        return _read_record(self.root / "jobs" / job / "job.json", JobRecord)

    def write_job(self, record: JobRecord) -> None:
        """Keep a job's record."""
        write_file(self.root / "jobs" / record.job / "job.json", record.model_dump_json(indent=1).encode())

    def begin_step(self, job: JobId, step: StepId, joint: str) -> None:
        """Note which run of a step begins or goes on; the checkpoints of another run of it are deleted."""
        self.checkpoints(job).keep_only(step, joint)

    def note_step(self, job: JobId, step: StepId, key: str) -> None:
        """Note that a step of a job is done."""
        record = self.job(job)
        self.write_job(record.model_copy(update={"steps": {**record.steps, step: key}}))

    def end_job(self, job: JobId, state: str, *, reason: str = "") -> None:
        """Note how a job ended; the checkpoints of a finished one are deleted."""
        self.write_job(self.job(job).model_copy(update={"state": state, "reason": reason}))
        if state == "finished":
            for path in sorted(self.checkpoints(job).root.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    def job_prg(self, job: JobId) -> Prg:
        """Return the generator from which all secrets of a job are derived at this party."""
        return Prg(bytes.fromhex(self.job(job).seed))

    def heard(self, job: JobId, step: StepId) -> Heard:
        """Return what peers said in a step of a job so far."""
        return Heard(self.root / "jobs" / job / "heard" / step)

    def checkpoints(self, job: JobId) -> FileCheckpoints:
        """Return the checkpoints of a job."""
        return FileCheckpoints(self.root / "jobs" / job / "checkpoints")


class Heard:
    """What peers said in one step of a job, as digests in order: whoever begins it anew has to say the same again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[PartyId, bytes] = {}

    def take(self, peer: PartyId, index: int, said: bytes) -> None:
        """Keep the digest of message ``index`` durably, unless it was said before.

        Raises:
            RemoteProtocolError: Something else was.
        """
        path = self._folder / peer
        if peer not in self._known:
            content = path.read_bytes() if path.exists() else b""
            self._known[peer] = content[: len(content) // len(said) * len(said)]
        known, place = self._known[peer], index * len(said)
        if place < len(known):
            if known[place : place + len(said)] != said:
                raise RemoteProtocolError(
                    f"{peer} has begun a step anew and says something else than before (message {index + 1}): what was "
                    "evaluated for it counts once, and for what it said first"
                )
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(place)  # over what a killed process has begun to write
            file.write(said)
            file.flush()
            os.fsync(file.fileno())
        if not known:
            for folder in (self._folder, *self._folder.parents[:2]):  # of the step, of all steps, of the job
                sync_folder(folder)
        self._known[peer] = known + said


class FileCheckpoints:
    """Checkpoints of one job's steps, one file each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, step: StepId | None, index: int) -> Path:
        return self.root / (step or "_") / f"{index}.bin"

    def keep_only(self, step: StepId, run: str) -> None:
        """Forget the checkpoints of a step unless they belong to ``run``, and note that later ones do."""
        note = self.root / step / "run"
        if note.exists() and note.read_text(encoding="utf-8") == run:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        self.clear(step)
        write_file(note, run.encode())

    def held(self, step: StepId | None) -> int:
        """Return how many checkpoints are held."""
        index = 0
        while self._path(step, index + 1).exists():
            index += 1
        return index

    def save(self, step: StepId | None, index: int, state: bytes) -> None:
        """Keep checkpoint ``index`` durably and forget later ones."""
        path = self._path(step, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._forget_after(step, index)
        write_file(path, state)
        # No party is ever ahead of another by more than one, so that earlier states are not asked for again.
        if index > KEPT_CHECKPOINTS:
            os.truncate(self._path(step, index - KEPT_CHECKPOINTS), 0)

    def clear(self, step: StepId | None) -> None:
        """Forget all checkpoints of a step."""
        self._forget_after(step, 0)

    def _forget_after(self, step: StepId | None, index: int) -> None:
        # From the last to the first, so that a crash in between leaves no gap behind a newer state.
        for later in range(self.held(step), index, -1):
            self._path(step, later).unlink()

    def load(self, step: StepId | None, index: int) -> bytes:
        """Return checkpoint ``index``.

        Raises:
            DataError: It was emptied, since many later ones are there.
        """
        state = self._path(step, index).read_bytes()
        if not state:
            raise DataError(
                f"{self._path(step, index)} is not kept any more: a peer is {self.held(step) - index} checkpoints "
                "behind, as if its workspace had been replaced by an old copy; start a new job"
            )
        return state


def digest_of(value: Value) -> str:
    """Return the SHA-256, in hexadecimal, of a value's content."""
    if isinstance(value, Table | Packed):
        return value.digest
    if isinstance(value, Source):
        try:
            with value.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{value.path} cannot be read: {error.strerror}") from error
    text = canonical_json({"type": type(value).__qualname__, "value": value.model_dump(mode="json")})
    return hashlib.sha256(text.encode()).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; it is there whole or not at all, also after a power cut."""
    with whole_file(path) as file:
        file.write(content)


def task_key(component: str, version: int, facts: Mapping[str, object]) -> str:
    """Return the name of a task at this party: a hash of everything its result depends on."""
    return hashlib.sha256(canonical_json({"component": component, "version": version, **facts}).encode()).hexdigest()


def _read_record(path: Path, kind: type[D]) -> D:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DataError(f"{path} is missing or damaged ({reason}): delete it and run the flow again") from error
