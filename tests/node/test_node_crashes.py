"""Whatever transaction of whatever node a crash comes before or after, what becomes of a project is the same.

Nodes live in one process and go through a job, a revocation and a refusal. At the n-th transaction one of them "dies":
what it did in it is lost, or kept and not answered. It begins anew from its database, and everybody goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from organisations import BANK, BEN, CREDIT, INSURER, SHOP, Organisation, allied, deliver, outcome, propose

from unseen.errors import PermissionDenied
from unseen.ids import PartyId, StepId
from unseen.node.domain import JobState
from unseen.node.store import Kept, Store
from unseen.node.usecases.deciding import done_at
from unseen.node.usecases.runs import Runs

TWO, THREE = (BANK, INSURER), (BANK, INSURER, SHOP)
LEASE = 60.0


class Crash(BaseException):
    """Nothing catches it: the process is gone."""


class Mortal:
    """Stores of one world, the n-th transaction of which is the last thing that a process does."""

    def __init__(self, n: int | None = None, *, kept: bool = False) -> None:
        self.count, self.n, self.kept = 0, n, kept

    @contextmanager
    def begin(self, store: Store) -> Iterator[Kept]:
        self.count += 1
        dies = self.count == self.n
        with store.begin() as kept:
            yield kept
            if dies and not self.kept:
                raise Crash
        if dies:
            raise Crash


class MortalStore:
    """What ``Books`` takes for a store."""

    def __init__(self, store: Store, mortal: Mortal) -> None:
        self._store, self._mortal = store, mortal

    def begin(self):
        return self._mortal.begin(self._store)

    def read(self):
        return self._store.read()  # changes nothing, so that nothing depends on when it fails


def world(template: Path, folder: Path, names: tuple[PartyId, ...], mortal: Mortal) -> tuple[Organisation, ...]:
    """Return nodes that begin where those in a folder have stopped."""
    for name in names:
        shutil.copy(template / f"{name}.db", folder / f"{name}.db")
    nodes = tuple(Organisation(name, folder, partners=set(names) - {name}) for name in names)
    for node in nodes:
        node.store = MortalStore(node.store, mortal)  # type: ignore[assignment]  # all that is asked of a store
        node.start()
    return nodes


def live(nodes: tuple[Organisation, ...], names: tuple[PartyId, ...]) -> None:
    """Do what is left to be done."""
    first = nodes[0]
    if not first.jobs.all():
        propose(first, *names)
    deliver(nodes)
    job = first.jobs.all()[-1]
    for node in nodes:
        work(node, job.job)
    deliver(nodes)
    if nodes[1].agreed().revoked is None:
        nodes[1].projects.revoke(CREDIT, "we stop", BEN)
    deliver(nodes)
    if len(first.jobs.all()) == 1:
        with suppress(PermissionDenied):
            propose(first, *names)
    deliver(nodes)


def work(node: Organisation, job) -> None:
    """Do what a worker would, unless it is done."""
    with node.books.turn() as turn:
        known = turn.kept.jobs.get(job)
        if known.state.is_over or node.me in done_at(turn, known):
            return
    node.clock.time += timedelta(seconds=LEASE + 1)  # an earlier worker's lease has run out
    runs = Runs(node.books, node.folder / "workspaces")
    found = runs.lease("test", LEASE)
    assert found is not None
    runs.note_size(found.lease, StepId("align"), 700)
    runs.done(found.lease)


@pytest.fixture(scope="module", params=[TWO, THREE], ids=["two", "three"])
def undisturbed(request, tmp_path_factory) -> tuple[Path, tuple[PartyId, ...], int, list[object]]:
    names = request.param
    template, folder = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("undisturbed")
    for node in allied(template, *names):
        node.store.close()
    mortal = Mortal()
    nodes = world(template, folder, names, mortal)
    live(nodes, names)
    count, expected = mortal.count, outcome(nodes)
    assert [known.state for known in nodes[-1].jobs.all()][-1] is JobState.FINISHED
    return template, names, count, expected


def survive(undisturbed, folder: Path, n: int, *, kept: bool) -> None:
    template, names, _, expected = undisturbed
    nodes = world(template, folder, names, Mortal(n, kept=kept))
    for _ in range(2):
        try:
            live(nodes, names)
        except Crash:
            for node in nodes:
                node.start()
    assert outcome(nodes) == expected, f"{'after' if kept else 'in'} transaction {n}"


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_crash_changes_nothing(undisturbed, tmp_path, part, kept) -> None:
    survive(undisturbed, tmp_path, int(part * undisturbed[2]), kept=kept)


@pytest.mark.evidence
@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
def test_no_crash_anywhere_changes_anything(undisturbed, tmp_path, kept, record_count) -> None:
    for n in range(1, undisturbed[2] + 1):
        (folder := tmp_path / str(n)).mkdir()
        survive(undisturbed, folder, n, kept=kept)
    assert undisturbed[2] > 50
    how = "kept" if kept else "lost"
    record_count(f"crashes of nodes, one for each transaction of {len(undisturbed[1])} nodes, {how}", undisturbed[2])
