"""Worker processes that train clients: forked, one thread each, sharing data and models in memory.

Workers are forked, so that neither data nor model factories are copied or sent; whatever can be built in the parent
works in them. What travels per client is its number, and small values back; updates are written into memory that all
share. A worker that dies, or a client whose work fails, ends the run with an error that names the client.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.errors import LocalProtocolError, UnseenError, UsageError

Job: TypeAlias = Callable[[int, Any], Any]
"""What worker number … does with a task; tasks and answers are small and can be pickled, within one program."""
Collect: TypeAlias = Callable[[int, int, Any], Any]
"""What becomes of the answer to task number … by worker number …, before that one begins its next."""

_PATIENCE = 5.0


def shared_floats(rows: int, columns: int) -> NDArray[np.float32]:
    """Return zeros, shape (rows, columns), in memory that processes forked from now on share."""
    size = max(1, rows * columns * 4)
    return np.frombuffer(mmap.mmap(-1, size), np.float32, rows * columns).reshape(rows, columns)


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    task: int | None = None


class Closing:
    """What is closed at the end of a ``with``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what was taken."""
        raise NotImplementedError


class Workers(Closing):
    """As many processes as asked for, which play ``job``; with one, the calling process does it all.

    Raises:
        UsageError: ``count`` is not positive, or this system cannot fork.
    """

    def __init__(self, job: Job, count: int, *, prepare: Callable[[], None] | None = None) -> None:
        if count < 1:
            raise UsageError(f"a simulation has at least one worker, found {count}")
        if count > 1 and not hasattr(os, "fork"):
            raise UsageError("this system cannot fork processes: simulate with one worker")
        self._job = job
        self._workers = [_start(number, job, prepare) for number in range(count)] if count > 1 else []
        if prepare is not None and count == 1:
            prepare()

    def map(self, tasks: Sequence[Any], *, name: Callable[[int], str], collect: Collect) -> list[Any]:
        """Return what ``collect`` makes of the answer to each task, in their order; who is free takes the next one.

        Raises:
            UnseenError: The job's own error of a task, with ``name`` of its number in a note, unless it has one.
            LocalProtocolError: A worker died, or the job raised anything else.
        """
        if not self._workers:
            return [collect(n, 0, _played(self._job, task, name(n))) for n, task in enumerate(tasks)]
        answers: list[Any] = [None] * len(tasks)
        waiting = iter(range(len(tasks)))
        for worker in self._workers:
            _hand_out(worker, waiting, tasks)
        while busy := {worker.pipe: worker for worker in self._workers if worker.task is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # only pipes were waited for
                number = worker.task or 0
                answers[number] = collect(number, worker.number, _answer(worker, name(number)))
                _hand_out(worker, waiting, tasks)
        return answers

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []


def _hand_out(worker: _Worker, waiting: Any, tasks: Sequence[Any]) -> None:
    worker.task = next(waiting, None)
    if worker.task is not None:
        worker.pipe.send(tasks[worker.task])


def _answer(worker: _Worker, name: str) -> Any:
    try:
        done, value = worker.pipe.recv()
    except (EOFError, OSError) as error:
        worker.process.join(_PATIENCE)
        code = worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        raise LocalProtocolError(
            f"the worker process that trained {name} ended with {how}: memory may have run out; use fewer workers"
        ) from error
    if done:
        return value
    failure, story = value
    if isinstance(failure, UnseenError):
        _place(failure, name)
        raise failure
    raise LocalProtocolError(f"the work of {name} failed:\n{story}")


def _played(job: Job, task: Any, name: str) -> Any:
    try:
        return job(0, task)
    except UnseenError as error:
        _place(error, name)
        raise


def _place(error: UnseenError, name: str) -> None:
    """Say where an error comes from, if it does not itself."""
    if not getattr(error, "__notes__", None):
        error.add_note(f"at {name}")


def _start(number: int, job: Job, prepare: Callable[[], None] | None) -> _Worker:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(number, job, prepare, theirs, mine), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, mine)


def _serve(number: int, job: Job, prepare: Callable[[], None] | None, pipe: Connection, parents: Connection) -> None:
    """Play tasks until the parent closes its end."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if prepare is not None:
        prepare()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, job(number, task)
        except UnseenError as error:
            answer = False, (error, "")
        except Exception as error:  # noqa: BLE001  # whatever a user's model raises has to reach the user
            answer = False, (None, "".join(traceback.format_exception(error)))
        with suppress(BrokenPipeError):  # the parent has stopped, and the next look tells
            pipe.send(answer)
