"""Where a run stands, kept in a folder: the state after its last finished round, its history, its clients' memories.

A round counts once its state has been written; what a killed run had begun of the next round is played again, with the
same random numbers. Memories are kept by client and round: a resumed run reads those of the rounds that count.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, decode, encode_bytes, message, read_json
from unseen.data.atomic import whole_file
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Memory, State, Update, Vector

_STATE = "state.bin"
_RUN = "run.json"
_MEMORY = re.compile(r"(?P<client>[0-9a-f]+)\.(?P<round>\d+)\.bin")


@message("rounds/named-vector")
class NamedVector:
    """A vector and what it is called."""

    name: str
    values: Annotated[NDArray[np.float32], Shape(None)]


@message("rounds/state")
class KeptState:
    """A server's state after a round, and the history up to it as JSON."""

    round: int
    model: Annotated[NDArray[np.float32], Shape(None)]
    extra: tuple[NamedVector, ...]
    history: str


@message("rounds/memory")
class KeptMemory:
    """What a client keeps."""

    vectors: tuple[NamedVector, ...]


@message("rounds/update")
class KeptUpdate:
    """An update that waits for its aggregation; metrics as JSON."""

    delta: Annotated[NDArray[np.float32], Shape(None)]
    weight: float
    extra: tuple[NamedVector, ...]
    metrics: str


def pack(vectors: Mapping[str, Vector]) -> tuple[NamedVector, ...]:
    """Return named vectors as they are sent and kept, in the order of their names."""
    return tuple(NamedVector(name, vectors[name]) for name in sorted(vectors))


def unpack(vectors: tuple[NamedVector, ...]) -> dict[str, Vector]:
    """Return what ``pack`` took."""
    return {vector.name: vector.values for vector in vectors}


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The folder of one run."""

    folder: Path
    lasting: bool = True
    """Whether it outlives the program; if not, only what other processes read is kept."""

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / _RUN).exists()

    def begin(self, description: Mapping[str, Any]) -> None:
        """Keep what the run is about, or check that it is the one that was begun here.

        Raises:
            UsageError: Another run was begun in this folder; the message says in which respects it differs.
            DataError: The file is damaged.
        """
        path = self.folder / _RUN
        (self.folder / "memory").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with whole_file(path) as file:
                file.write(json.dumps(description, indent=1, sort_keys=True).encode())
            return
        before = _parsed(path.read_bytes(), path)
        if not isinstance(before, dict):
            raise DataError(f"{path} is damaged: start the run again in another folder")
        changed = sorted(key for key in {*before, *description} if before.get(key) != description.get(key))
        if changed:
            raise UsageError(
                f"{self.folder} holds another run, with other {', '.join(changed)}: choose another folder, or the same "
                "settings to go on with it"
            )

    def load(self) -> tuple[State, list[dict[str, Any]]] | None:
        """Return the state after the last finished round and the history, or ``None`` if there is none.

        Raises:
            DataError: The file is damaged.
        """
        path = self.folder / _STATE
        if not path.exists():
            return None
        kept = _decoded(KeptState, path)
        return State(kept.round, kept.model, unpack(kept.extra)), _parsed(kept.history, path)

    def save(self, state: State, history: list[dict[str, Any]]) -> None:
        """Keep the state after a finished round durably."""
        if self.lasting:
            kept = KeptState(state.round, state.model, pack(state.extra), json.dumps(history))
            with whole_file(self.folder / _STATE) as file:
                file.write(encode_bytes(kept))
        self._forget(state.round)

    def memory(self, client: ClientId, finished: int) -> Memory:
        """Return what a client kept in the last of the ``finished`` rounds in which it took part."""
        return self.memories(finished)(client)

    def memories(self, finished: int) -> Callable[[ClientId], Memory]:
        """Return ``memory`` for many clients, after one look at the folder."""
        newest: dict[str, int] = {}
        for name in os.listdir(self.folder / "memory"):
            match = _MEMORY.fullmatch(name)
            if match is not None and int(match["round"]) < finished:
                newest[match["client"]] = max(newest.get(match["client"], -1), int(match["round"]))

        def of(client: ClientId) -> Memory:
            number = newest.get(client.encode().hex())
            return {} if number is None else unpack(_decoded(KeptMemory, self._path(client, number)).vectors)

        return of

    def keep(self, client: ClientId, round_number: int, memory: Memory) -> None:
        """Keep what a client has after a round, beside what it had before."""
        if not memory:
            return
        path, content = self._path(client, round_number), encode_bytes(KeptMemory(pack(memory)))
        if not self.lasting:
            path.write_bytes(content)
            return
        with whole_file(path) as file:
            file.write(content)

    def park(self, number: int, update: Update) -> None:
        """Keep an update that waits, by a number of its own."""
        kept = KeptUpdate(update.delta, float(update.weight), pack(update.extra), json.dumps(dict(update.metrics)))
        (self.folder / "waiting").mkdir(exist_ok=True)
        with whole_file(self._parked(number)) as file:
            file.write(encode_bytes(kept))

    def parked(self, number: int) -> Update:
        """Return an update that waits.

        Raises:
            DataError: It is not there, or its file is damaged.
        """
        path = self._parked(number)
        if not path.exists():
            raise DataError(f"{path} is missing: somebody removed a part of this run; start it in another folder")
        kept = _decoded(KeptUpdate, path)
        return Update(kept.delta, kept.weight, unpack(kept.extra), _parsed(kept.metrics, path))

    def unpark(self, waiting: Collection[int]) -> None:
        """Remove all updates but those that are still waiting."""
        for path in (self.folder / "waiting").glob("*.bin"):
            if int(path.stem) not in waiting:
                path.unlink()

    def _parked(self, number: int) -> Path:
        return self.folder / "waiting" / f"{number}.bin"

    def _path(self, client: ClientId, round_number: int) -> Path:
        return self.folder / "memory" / f"{client.encode().hex()}.{round_number}.bin"

    def _forget(self, finished: int) -> None:
        """Remove memories that a newer one of a finished round has replaced."""
        newest: dict[str, tuple[int, Path]] = {}
        for path in sorted((self.folder / "memory").iterdir()):
            match = _MEMORY.fullmatch(path.name)
            if match is None or int(match["round"]) >= finished:
                continue
            number, client = int(match["round"]), match["client"]
            if client in newest:
                older = min(newest[client], (number, path))
                older[1].unlink()
            newest[client] = max(newest.get(client, (-1, path)), (number, path))


def _decoded(kind: type[Any], path: Path) -> Any:
    try:
        return decode(kind, path.read_bytes(), sender=str(path))
    except RemoteProtocolError as error:
        raise DataError(f"{error}: the file is damaged; start the run again in another folder") from error


def _parsed(text: str | bytes, path: Path) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): start the run again in another folder") from error
