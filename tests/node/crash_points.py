"""Lets a party of a job die at any effect: each message, file and word to its supervisor, before it and after it.

A party is a thread that runs what its worker's process would (``unseen.node.worker.work``), over a network in memory,
in a workspace on disk. A *crash point* is a party, the number of one of its effects, and whether that is lost or kept.
Whoever is dead does nothing more: what is written in ``finally`` blocks is not. Others find its channel closed.

=========  =======================================================  =================================================
effect     lost                                                     kept
=========  =======================================================  =================================================
send       the message is not sent                                  it is
receive    the message was taken in, and nothing follows            the same, so that it is no point of its own
tell       the supervisor does not hear of it                       it does
turn       a transaction of the party's node did not happen         it did
fsync      the end of what was written since is missing             it is there
others     a file or folder is not made, replaced, removed, cut     it is
=========  =======================================================  =================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from unseen.codec import Buffer
from unseen.component import installed_components
from unseen.flow import store
from unseen.flow.graph import Graph, build_graph
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.node import worker
from unseen.node.store import Kept, Store
from unseen.node.worker import Assignment, Tell
from unseen.transport.channel import Waiting
from unseen.transport.memory import MemoryChannel, MemoryNetwork
from unseen.trust.policy import VARIANTS

R = TypeVar("R")
JOB = JobId("job")
ITEMS = 1000
"""Of each partner in each step that compares ids: more than there are, so that none is refused."""
LEAST = 300
"""Crash points of a kind of job that `make evidence` goes through."""
PATIENCE = 60.0
TORN = 13
"""Bytes that are missing of a file that a crash came upon before it was on the disk."""
_CHANGES = ("replace", "unlink", "mkdir", "rmdir", "truncate")


class Crash(BaseException):
    """Nothing catches it: the process is gone."""


class Stopped(BaseException):
    """A worker whose partner has died is stopped before it tries again."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a party dies: at its n-th effect, which is counted from 1."""

    party: PartyId
    effect: int
    kept: bool


@dataclass
class Mortals:
    """What parties do, each in a thread of its name, until one of them dies."""

    root: Path
    point: Point | None = None
    log: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    dead: set[str] = field(default_factory=set)

    def effect(self, what: str, do: Callable[[], R], *, lost: Callable[[], object] = lambda: None) -> R:
        """Do something for the party of this thread, or die before it or after it."""
        dies = self._dies(what, threading.current_thread().name)
        if dies and not self.kept:
            lost()
            raise Crash
        result = do()
        if dies:
            raise Crash
        return result

    @contextmanager
    def turn(self, party: PartyId, store: Store) -> Iterator[Kept]:
        """One transaction of a party's node, which may die in it or after it."""
        dies = self._dies("turn", party)
        with store.begin() as kept:
            yield kept
            if dies and not self.kept:
                raise Crash
        if dies:
            raise Crash

    @property
    def kept(self) -> bool:
        """Whether the last effect of the party that dies is kept."""
        return self.point is not None and self.point.kept

    def _dies(self, what: str, party: str) -> bool:
        if party in self.dead:
            raise Crash
        self.log[party].append(what)
        dies = self.point is not None and (self.point.party, self.point.effect) == (party, len(self.log[party]))
        if dies:
            self.dead.add(party)
        return dies

    def live(self) -> None:
        """Raise if the party of this thread has died."""
        if threading.current_thread().name in self.dead:
            raise Crash

    def points(self) -> list[Point]:
        """Return all points at which a party could have died."""
        return [
            Point(PartyId(party), number, kept)
            for party in sorted(self.log)
            for number, what in enumerate(self.log[party], 1)
            for kept in ((False,) if what == "receive" else (False, True))
        ]

    @contextmanager
    def on_disk(self) -> Iterator[None]:
        """Take what is done to files below ``root`` for effects; nothing waits for the disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CHANGES:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            patch.setattr(os, "open", self._opening(os.open))
            patch.setattr(os, "fsync", self._syncing)
            yield

    def _ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{self.root}/")

    def _watched(self, name: str, change: Callable[..., object]) -> Callable[..., object]:
        def changed(path: object, *rest: object, **options: object) -> object:
            if not self._ours(path):
                return change(path, *rest, **options)
            return self.effect(name, lambda: change(path, *rest, **options))

        return changed

    def _opening(self, opened: Callable[..., int]) -> Callable[..., int]:
        def open_(path: object, flags: int, *rest: object, **options: object) -> int:
            if not flags & os.O_CREAT or not self._ours(path):
                return opened(path, flags, *rest, **options)
            return self.effect("create", lambda: opened(path, flags, *rest, **options))

        return open_

    def _syncing(self, file: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        if self._ours(path):
            self.effect("fsync", lambda: None, lost=lambda: _tear(Path(path)))


def _tear(path: Path) -> None:
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(max(0, path.stat().st_size - TORN))


class MortalChannel:
    """A channel whose owner may die."""

    def __init__(self, channel: MemoryChannel, mortals: Mortals) -> None:
        self.party, self.peers = channel.party, channel.peers
        self.notices, self.traffic, self.flush, self.close = (
            channel.notices,
            channel.traffic,
            channel.flush,
            channel.close,
        )
        self._channel, self._mortals = channel, mortals

    def send(self, peer: PartyId, parts: Sequence[Buffer], *, waiting: Waiting | None = None) -> None:
        self._mortals.effect("send", lambda: self._channel.send(peer, parts, waiting=waiting))

    def receive(self, peer: PartyId, timeout: float) -> memoryview | bytes:
        found = self._channel.receive(peer, timeout)
        return self._mortals.effect("receive", lambda: found)

    def notify(self, peer: PartyId, notice: bytes) -> None:
        self._mortals.live()  # the dead do not say why
        self._channel.notify(peer, notice)

    def __enter__(self) -> MortalChannel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Job:
    """A job of some parties: what each of them is told, and where its workspace lies below ``root``."""

    flow: FlowSpec
    root: Path
    tables: Mapping[PartyId, Mapping[str, Path]]
    name: JobId = JOB
    points: Mapping[PartyId, Mapping[StepId, Mapping[PartyId, int]]] | None = None
    """Party → step → peer → how many of its items may be evaluated; more than there are if omitted."""

    @cached_property
    def graph(self) -> Graph:
        """The flow with its components."""
        return build_graph(self.flow, installed_components(), name=self.flow.name)

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """Who takes part."""
        return tuple(sorted(self.flow.parties))

    def workspace(self, party: PartyId) -> Workspace:
        """Return a party's workspace."""
        return Workspace(self.root / party)

    def assignment(self, party: PartyId) -> Assignment:
        """Return what a party's supervisor would tell its worker."""
        compares = [step for step, spec in self.flow.steps.items() if spec.use in VARIANTS]
        many = {step: {peer: ITEMS for peer in self.parties if peer != party} for step in compares}
        return Assignment(
            party=party,
            flow=self.flow,
            job=self.name,
            workspace=self.root / party,
            tables=dict(self.tables[party]),
            points=many if self.points is None else self.points[party],
            socket=self.root / "none.sock",
            token="",
            silence_seconds=PATIENCE,
        )


Hear = Callable[[PartyId], Tell]
"""Returns what a party's supervisor does when it is told something."""


def run(job: Job, mortals: Mortals, hear: Hear = lambda _: lambda _: None) -> None:
    """Let all parties work until each is done, dead, or stopped since another one died."""
    network = MemoryNetwork(job.parties)
    broken: dict[PartyId, BaseException] = {}

    def live(party: PartyId) -> None:
        try:
            _work(job, party, mortals, hear(party))
        except (Crash, Stopped):
            pass
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the test that runs the party
            broken[party] = error
        finally:
            network.channel(party).close()  # it may not have got as far as to have one

    def channel(party: PartyId, *_: object) -> MortalChannel:
        return MortalChannel(network.channel(party), mortals)

    with pytest.MonkeyPatch.context() as patch, mortals.on_disk():
        patch.setattr(worker, "RelayChannel", channel)
        patch.setattr(store, "secrets", SimpleNamespace(token_hex=_seed))
        threads = [threading.Thread(target=live, args=(party,), name=party, daemon=True) for party in job.parties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), f"{thread.name} hangs"
    for party, error in broken.items():
        raise AssertionError(f"the job failed at {party}: {error}") from error


def _work(job: Job, party: PartyId, mortals: Mortals, told: Tell) -> None:
    word = threading.Semaphore(0)

    def tell(line: Mapping[str, object]) -> None:
        mortals.live()
        if "again" in line:
            raise Stopped
        if "size" in line:
            mortals.effect("tell", lambda: told(line))
            word.release()

    worker.work(job.assignment(party), tell, threading.Event(), word)
    mortals.effect("tell", lambda: told({"end": "done"}))


def _seed(size: int) -> str:
    """Return the same seed for a party whenever it begins a job: results depend on it."""
    return hashlib.shake_256(threading.current_thread().name.encode()).hexdigest(size)


def outcome(job: Job) -> dict[PartyId, object]:
    """Return what a job left at each party, and nothing of how it came to that.

    Every artifact has to be what its name says; whatever else lies about counts as left behind, too.
    """
    return {party: _left_at(job, job.workspace(party)) for party in job.parties}


def _left_at(job: Job, workspace: Workspace) -> object:
    record = workspace.job(job.name)
    assert (record.state, record.reason) == ("finished", "")
    digests: dict[str, str] = {}
    for step, key in record.steps.items():
        task = workspace.finished(key)
        assert task is not None
        outputs = job.graph.nodes[StepId(step)].component.outputs
        for port, ref in task.outputs.items():
            workspace.get(ref, outputs[port].kind)  # or it is not what it was
            digests[f"{step}.{port}"] = ref.digest
    paths = (str(path.relative_to(workspace.root)) for path in workspace.root.rglob("*"))
    files = sorted(path.replace(job.name, "job") for path in paths)
    heard = workspace.root / "jobs" / job.name / "heard"
    said = {str(path.relative_to(heard)): path.read_bytes() for path in heard.rglob("*") if path.is_file()}
    return record.steps, digests, files, said


def spread(points: Sequence[Point]) -> list[Point]:
    """Return as many points as evidence takes, at equal distances."""
    assert len(points) >= LEAST
    return [points[number * len(points) // LEAST] for number in range(LEAST)]


def tell_of(points: Sequence[Point], log: Mapping[str, Sequence[str]], **line: object) -> None:
    """Print a line of JSON: which crash points a kind of job has survived."""
    done = Counter(log[point.party][point.effect - 1] for point in points)
    sys.stdout.write(
        "\n" + json.dumps({**line, "crash_points": len(points), "effects": dict(done.most_common())}) + "\n"
    )
