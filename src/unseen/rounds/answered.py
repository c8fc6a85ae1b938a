"""What a client of a private run has answered, written down before an answer leaves; nothing that comes takes it back.

An answer costs a client ε whoever asks for it, however the round is called, and in whichever run. So the client counts
its answers by itself, in a file of lines that are only ever added, and gives none beyond those that its ε allows. In
one run it answers rounds in ascending order, each for one model, once: the same assignment again gets the answer that
was kept, or none. A failure is an answer as well: that a training fails tells about the examples.

A budget is the file in a folder: all answers there add up, of all runs. They are about one client and cost the same
each; what another noise costs beside would need another calibration, and is refused. Whoever takes the file away, or
puts an older one in its place, has undone the count, and nobody can tell.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter

from unseen.data.atomic import whole_file
from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.ids import ClientId, JobId
from unseen.learners.horizontal.private.limit import Limited
from unseen.privacy.events import Spend
from unseen.privacy.lines import read_line

_FILE = "answered.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A client has answered an assignment, or is about to; ``spent`` is what that one answer costs."""

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)

    fact: Literal["answered"] = "answered"
    run: str
    client: str
    round: int
    assigned: str
    """The fingerprint of the assignment, in hexadecimal."""
    spent: tuple[Spend, ...]


_LINE: TypeAdapter[Answered] = TypeAdapter(Answered)


class Answers:
    """The answers of one client that count on one budget; the folder is this process's alone.

    Args:
        folder: Of the budget.
        run: Whose assignments come.
        client: Who answers.
        parts: What makes answers cost something; at least one.
        new: Whether the run has just begun; if not, the file has to be there.

    Raises:
        DataError: The file is damaged or missing.
        UsageError: It counts answers of another client, or such as cost something else.
    """

    def __init__(
        self, folder: Path, run: JobId, client: ClientId, parts: tuple[Limited, ...], *, new: bool = False
    ) -> None:
        self._path, self._run, self._client = folder / _FILE, run, client
        self._most = min(part.answers for part in parts)
        self._cost = tuple(part.spend(run, client, 1) for part in parts)
        if not self._path.exists():
            if not new:
                raise DataError(
                    f"{self._path} is missing, which counts what {client} has answered, and run {run} was begun here: "
                    "give it the folder of its budget again, or begin another run"
                )
            with whole_file(self._path):
                pass
        self._facts = _read(self._path)
        for fact in self._facts:
            self._check_same(fact)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def last(self) -> Answered | None:
        """What was answered last in this run."""
        return next((fact for fact in reversed(self._facts) if fact.run == self._run), None)

    def has_last(self, assigned: bytes) -> bool:
        """Return whether the last answer of this run is that to an assignment."""
        return self.last is not None and self.last.assigned == assigned.hex()

    def check(self, number: int, assigned: bytes, *, kept: bool) -> None:
        """Pass if an assignment may be answered: a new one that the ε allows, or the last one if its answer is kept.

        Raises:
            PermissionDenied: It may not; the message says why.
        """
        last, asked = self.last, f"{self._client} is asked for round {number + 1}"
        if last is not None and last.round == number and last.assigned == assigned.hex():
            if not kept:
                raise PermissionDenied(f"{asked} again, could not answer it or has not kept the answer: wait for more")
            return
        if last is not None and last.round >= number:
            raise PermissionDenied(
                f"{asked}, and has answered round {last.round + 1} of this run with another model: it goes on from "
                "there alone; a server that has lost its state begins a run with another name"
            )
        if len(self) >= self._most:
            raise PermissionDenied(
                f"{asked}, and has given all {self._most} answers that its ε allows: use more noise, or draw it less "
                "often"
            )

    def add(self, number: int, assigned: bytes) -> None:
        """Write down that an assignment is answered; durably, so that its answer may leave then.

        Raises:
            DataError: The file cannot be written.
        """
        fact = Answered(run=self._run, client=self._client, round=number, assigned=assigned.hex(), spent=self._cost)
        try:
            with self._path.open("ab") as file:
                file.write(_LINE.dump_json(fact) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._facts.append(fact)

    def _check_same(self, fact: Answered) -> None:
        mine = tuple(replace(one, run=fact.run) for one in self._cost)
        if (fact.client, fact.spent) != (self._client, mine):
            raise UsageError(
                f"{self._path} counts answers of {fact.client} in run {fact.run} that cost something else than those "
                f"of {self._client} in run {self._run}: ε was worked out for one noise; take the same, or another "
                "folder for the budget if its examples are others or more may be told about them"
            )


def _read(path: Path) -> list[Answered]:
    """Return the facts in a file; a last line whose writing was cut off was never acted upon, and is removed."""
    *whole, cut = path.read_bytes().split(b"\n")
    if cut:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(cut))
    return [read_line(_LINE, line, f"{path}, line {number}", "an answer") for number, line in enumerate(whole, 1)]
