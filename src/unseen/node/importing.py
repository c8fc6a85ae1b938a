"""Files to tables in a process of their own: a file that is made to exhaust whoever reads it hurts nobody else.

``python -m unseen.node.importing`` reads from its standard input how much memory it may have, and one line of JSON:
what it has to import. It writes the table to a file, and answers with one line of JSON. It is given no keys and no
store; it is killed once its time is over, and ends when its input does: with its node.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unseen.data.cells import Limits
from unseen.data.import_report import ImportReport
from unseen.data.readers import read_table
from unseen.data.schema import Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import ERRORS, DataError, LocalProtocolError, UnseenError, UsageError
from unseen.node.processes import bare_environment

IMPORT_SECONDS = 3600.0
_LEAST_BYTES = 512 << 20
"""Of memory, for programs and libraries alone."""
_ANSWER_BYTES = 64 << 20
"""Of what a process answers; 20,000 columns with long names take less."""


class Task(BaseModel):
    """What is to be imported, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: Path
    target: Path
    """The table's file, which is made."""
    roles: dict[str, Role]
    kinds: dict[str, Kind]
    leave_out: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Columns that are kept, if not all of them."""
    repeated_ids: bool = False
    quarantine: Path | None = None
    """Bad rows go there; without, they are an error."""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it; the table itself is in its file."""

    schema: Schema
    rows: int
    report: ImportReport


Importer = Callable[[Task], Made]


def import_here(task: Task) -> Made:
    """Import in this process.

    Raises:
        DataError: The file is not what it has to be; the message counts causes.
        UsageError: Roles, kinds or columns do not fit.
    """
    table, report = read_table(
        task.source,
        task.roles,
        kinds=task.kinds,
        repeated_ids=task.repeated_ids,
        quarantine=task.quarantine,
        limits=task.limits,
    )
    kept = _only(table.leave_out(task.leave_out), task.only)
    kept.write(task.target)
    return Made(kept.schema, kept.rows, report)


class Apart:
    """Imports in a process of its own, each time.

    Args:
        memory_bytes: Of data, for one import; half of the machine's memory, if it is not said.
        seconds: For one import.
    """

    def __init__(self, memory_bytes: int | None = None, seconds: float = IMPORT_SECONDS) -> None:
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        self._memory_bytes, self._seconds = max(memory_bytes or half, _LEAST_BYTES), seconds

    def __call__(self, task: Task) -> Made:
        """Import.

        Raises:
            DataError: As ``import_here``, or it needs more memory or time than there is.
            UsageError: As ``import_here``.
        """
        process = subprocess.Popen(  # our own program, no shell
            (sys.executable, "-P", "-m", "unseen.node.importing"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a library's last words may quote cells
            encoding="utf-8",
            errors="replace",
            env=bare_environment(),
            start_new_session=True,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._seconds, stop)
        timer.daemon = True
        try:
            timer.start()
            line = _exchange(process, task, self._memory_bytes)
        finally:
            timer.cancel()
            process.kill()
            code = process.wait()
            _close(process)
        if late.is_set():
            raise DataError(f"{task.source}: importing needs more than {self._seconds:.0f} s: import a smaller part")
        return _understood(line, code, task, self._memory_bytes)


class _Answer(BaseModel):
    """How an import ended: what was made, or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    columns: str = ""
    rows: int = 0
    report: ImportReport | None = None
    error: str | None = None
    text: str = ""


_ANSWER = TypeAdapter(_Answer)


def _exchange(process: subprocess.Popen[str], task: Task, memory_bytes: int) -> str:
    """Tell the process what to do and return its answer; its input stays open, so that it ends if this one does."""
    if process.stdin is None or process.stdout is None:
        raise LocalProtocolError("a process was started without pipes")
    # One that is gone already is noticed by its answer, which is none.
    with suppress(OSError):
        process.stdin.write(f"{memory_bytes}\n{task.model_dump_json()}\n")
        process.stdin.flush()
    line = process.stdout.readline(_ANSWER_BYTES)
    return line if line.endswith("\n") else ""


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _understood(line: str, code: int, task: Task, memory_bytes: int) -> Made:
    """Return what an answer says; a process that gives none has been ended by its limit, or by the system."""
    if not line:
        needed = f"importing needs more than the {memory_bytes / 2**30:.1f} GiB of memory that it may have"
        raise DataError(f"{task.source}: {needed} (status {code}): import a smaller part, or fewer columns")
    try:
        answer = _ANSWER.validate_json(line)
    except ValidationError:
        raise LocalProtocolError(f"the process that imports {task.source} says what cannot be understood") from None
    if answer.error is not None:
        raise ERRORS.get(answer.error, LocalProtocolError)(answer.text)
    if answer.report is None:
        raise LocalProtocolError(f"the process that imports {task.source} says nothing of what it found")
    return Made(Schema.from_json(answer.columns), answer.rows, answer.report)


def _only(table: Table, names: tuple[str, ...]) -> Table:
    """Return the table with some of its columns, the id among them; all of them, if none is named."""
    if not names:
        return table
    unknown = set(names) - set(table.schema.names)
    if unknown:
        raise UsageError(
            f"there is no column {', '.join(sorted(unknown))}: the columns are {', '.join(table.schema.names)}"
        )
    if table.schema.id.name not in names:
        raise UsageError(f"columns: {table.schema.id.name}, which identifies people, is not among them")
    for column in (table.schema.label, table.schema.weight):
        if column is not None and column.name not in names:
            table = table.without(column.role)
    return table.select([name for name in table.schema.feature_names if name in names])


# --- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Do what the lines on the standard input say."""
    os.umask(0o077)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    memory_bytes = int(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    line = sys.stdin.readline()
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    try:
        made = import_here(Task.model_validate_json(line))
        answer = _Answer(columns=made.schema.to_json(), rows=made.rows, report=made.report)
    except UnseenError as error:
        answer = _Answer(error=type(error).__name__, text=str(error))
    except MemoryError:
        sys.exit(1)
    out.write(answer.model_dump_json() + "\n")
    out.flush()


def _end_with(stream: IO[str]) -> None:
    """End the process once its node has gone."""
    stream.read()
    os._exit(1)


if __name__ == "__main__":
    main()
