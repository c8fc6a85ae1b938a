"""A client's folder: its last answer, its last consent to a sum, its secret; no other process works there meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unseen.codec import decode, encode
from unseen.crypto.prg import Prg
from unseen.data.atomic import locked, whole_file
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import JobId
from unseen.learners.horizontal.private.distributed import check_summed
from unseen.learners.horizontal.private.limit import limited_parts
from unseen.learners.horizontal.process import Process
from unseen.rounds.identities import secret_of
from unseen.rounds.messages import KeptAnswer, KeptSum
from unseen.rounds.settings import AttendSettings

_ANSWER, _SUMMED, _SECRET = "answer.bin", "summed.bin", "secret.bin"
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Notes:
    """What a client keeps beside its memory."""

    folder: Path

    def answer(self) -> KeptAnswer | None:
        """Return the last answer; raises ``DataError`` if its file is damaged."""
        return self._found(KeptAnswer, _ANSWER, "remove it; the round is trained again, unless an answer costs privacy")

    def keep_answer(self, kept: KeptAnswer) -> None:
        """Keep an answer in place of the last one."""
        with whole_file(self.folder / _ANSWER) as file:
            file.writelines(encode(kept))

    def sum(self) -> KeptSum | None:
        """Return with whom the last answer may have been added up; raises ``DataError`` if the file is damaged."""
        return self._found(KeptSum, _SUMMED, "this client takes part in no further round of the run")

    def keep_sum(self, note: KeptSum) -> None:
        """Keep a consent in place of the last one."""
        with whole_file(self.folder / _SUMMED) as file:
            file.writelines(encode(note))

    def secret(self) -> Prg:
        """Return what this client rounds with."""
        return secret_of(self.folder / _SECRET)

    def _found(self, kind: type[K], name: str, advice: str) -> K | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return decode(kind, path.read_bytes(), sender=str(path))
        except RemoteProtocolError as error:
            raise DataError(f"{error}: the file is damaged; {advice}") from error


@contextmanager
def only_here(run: JobId, process: Process, *folders: Path | None) -> Iterator[None]:
    """Keep other processes out of the folders of a party that trains.

    Raises:
        UsageError: Another process works there, or answers cost privacy and there is no folder to remember them in, or
            their noise is meant for a sum that the process does not take.
    """
    check_summed(process)
    held = sorted({folder.resolve() for folder in folders if folder is not None})
    if not held and limited_parts(process):
        raise UsageError(
            f"run {run}: whatever {process.name} lets out costs whom the examples belong to some ε, and there is no "
            "folder to remember it in: a process that is started again would have forgotten; give settings a folder"
        )
    with ExitStack() as stack:
        for folder in held:
            stack.enter_context(locked(folder))
        yield


@contextmanager
def client_folder(settings: AttendSettings, process: Process) -> Iterator[Path]:
    """Give a client its folder, and that of its budget, to itself; raises as ``only_here``."""
    with only_here(settings.run, process, settings.folder, settings.budget):
        if settings.folder is not None:
            yield settings.folder
            return
        with tempfile.TemporaryDirectory(prefix="unseen-client-") as folder:
            yield Path(folder)
