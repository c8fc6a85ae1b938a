"""Wherever a worker or its node dies in the life of a job that is charged, budgets and trails come out the same, too.

A job goes from its proposal to its end at two nodes with databases, whose workers are threads. What can be lost or kept
is each transaction of a node beside each effect of a worker, see ``crash_points``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from crash_points import Crash, Job, Mortals, Point, outcome, run, spread, tell_of
from job_kinds import BANK, SHOP, columns_of, flow_of, tables
from organisations import (
    ANN,
    BEN,
    CREDIT,
    NOW,
    Organisation,
    acquainted,
    agreement_text,
    deliver,
    digest_of,
    site,
)
from organisations import outcome as books_of

from unseen.component import installed_components
from unseen.data.schema import Role
from unseen.ids import PartyId
from unseen.node.domain import CatalogueTable, Column, JobState
from unseen.node.usecases.runs import Runs, Work
from unseen.node.worker import Tell
from unseen.privacy.facts import TableId

PARTIES, LEASE = (BANK, SHOP), 60.0
PEOPLE, ROWS = TableId("customers"), 2000
KINDS = ("one_join", "logistic_linearised")
ROLES = {"id": Role.ID, "label": Role.LABEL, "feature": Role.FEATURE, "": None}
AGREED = {"id": "join-key", "label": "label", "feature": "feature", "": "never"}


class MortalStore:
    """What ``Books`` takes for a store."""

    def __init__(self, node: Organisation, mortals: Mortals) -> None:
        self._store, self._me, self._mortals = node.store, node.me, mortals

    def begin(self):
        return self._mortals.turn(self._me, self._store)

    def read(self):
        return self._store.read()

    def close(self) -> None:
        self._store.close()


def agreement(kind: str) -> dict[str, object]:
    """Return what both agree upon: all that the flow does, and points for one intersection."""
    found = installed_components()
    steps = flow_of(kind).steps.values()
    names = sorted({step.use for step in steps})
    params = {name: [step.params for step in steps if step.use == name] for name in names}
    text = agreement_text(*PARTIES)
    for points in text["points"]:
        points["allowance"]["key_columns"] = ["id"]
    return {
        **text,
        "tables": [
            {
                "owner": party,
                "name": PEOPLE,
                "schema_digest": digest_of(f"schema of {party}"),
                "columns": [{"name": name, "role": AGREED[role]} for name, role in columns_of(party, "binary").items()],
            }
            for party in PARTIES
        ],
        "components": [
            {
                "name": name,
                "version": found[name].version,
                "bounds": {
                    field: {"bound": "one-of", "values": [value]}
                    for each in params[name]
                    for field, value in each.items()
                },
                "outputs": {port: list(PARTIES) for port in found[name].outputs},
            }
            for name in names
        ],
    }


def register(node: Organisation) -> None:
    columns = tuple(Column(name, "integer", ROLES[role]) for name, role in columns_of(node.me, "binary").items())
    with node.books.turn() as turn:
        version = 1 + len(turn.kept.tables.all())
        digests = digest_of(f"people of {node.me}"), digest_of(f"schema of {node.me}")
        turn.kept.tables.add(CatalogueTable(PEOPLE, version, *digests, ROWS, columns, "test", "ann", NOW))


def prepared(folder: Path, kind: str) -> None:
    """Make databases of nodes that may run a kind of job."""
    nodes = acquainted(folder, *PARTIES)
    for node in nodes:
        register(node)
    nodes[0].projects.draft(agreement(kind), ANN)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, BEN)
        components = {step.use: {} for step in flow_of(kind).steps.values()}
        node.projects.set_policy(CREDIT, site(*PARTIES, components=components), ANN)
    deliver(nodes)
    for node in nodes:
        node.store.close()


@dataclass
class World:
    """Both nodes with their workspaces, and what befalls them."""

    folder: Path
    kind: str
    tables: Mapping[PartyId, Mapping[str, Path]]
    mortals: Mortals

    def __post_init__(self) -> None:
        self.nodes = tuple(Organisation(name, self.folder, partners=set(PARTIES) - {name}) for name in PARTIES)
        for node in self.nodes:
            node.store = MortalStore(node, self.mortals)  # type: ignore[assignment]  # all that is asked of a store
            node.start()

    def live(self) -> None:
        """Do what is left to be done, until somebody dies."""
        first = self.nodes[0]
        if not first.jobs.all():
            until = first.clock.now() + timedelta(hours=2)
            first.jobs.propose(CREDIT, flow_of(self.kind), {}, None, 0.0, 0.0, until, ANN)
        deliver(self.nodes)
        if any(not node.jobs.all()[-1].state.is_over for node in self.nodes):
            self._work()
        deliver(self.nodes)

    def _work(self) -> None:
        """Run the job at both: who is done already may be needed by the other one."""
        runs = {node.me: Runs(node.books, self.folder) for node in self.nodes}
        leased: dict[PartyId, Work] = {}
        for node in self.nodes:
            node.clock.time += timedelta(seconds=LEASE + 1)  # an earlier worker's lease has run out
            found = runs[node.me].lease("test", LEASE)
            assert found is not None, [known.reason for known in node.jobs.all()]
            leased[node.me] = found

        def hear(party: PartyId) -> Tell:
            def told(line: Mapping[str, object]) -> None:
                if "size" in line:
                    runs[party].note_size(leased[party].lease, *line["size"])
                else:
                    runs[party].done(leased[party].lease)

            return told

        run(self.job({party: work.points for party, work in leased.items()}), self.mortals, hear)
        if self.mortals.dead:
            raise Crash

    def job(self, points: Mapping[PartyId, object] | None = None) -> Job:
        """Return the job as its workers see it."""
        name = self.nodes[0].jobs.all()[-1].job
        return Job(flow_of(self.kind), self.folder / "workspaces", self.tables, name, points)

    def restart(self) -> None:
        """Begin both nodes anew, each from its database."""
        self.mortals.dead.clear()
        for node in self.nodes:
            node.start()

    def outcome(self) -> object:
        """Return what became of the job at both nodes, and in their workspaces."""
        return books_of(self.nodes), outcome(self.job())


class Trial:
    """A kind of job that has been run undisturbed, and can be run again with a death in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        (folder / "template").mkdir()
        prepared(folder / "template", kind)
        (folder / "tables").mkdir()
        self.tables = tables(folder / "tables")
        world = self.world(None)
        world.live()
        self.points = world.mortals.points()
        self.log = {party: tuple(log) for party, log in world.mortals.log.items()}
        self._expected = world.outcome()
        assert [node.jobs.all()[-1].state for node in world.nodes] == [JobState.FINISHED] * 2
        self.leave(world)

    def world(self, point: Point | None) -> World:
        folder = self.folder / "world"
        (folder / "workspaces").mkdir(parents=True)
        for name in PARTIES:
            shutil.copy(self.folder / "template" / f"{name}.db", folder)
        return World(folder, self.kind, self.tables, Mortals(folder / "workspaces", point))

    def leave(self, world: World) -> None:
        for node in world.nodes:
            node.store.close()
        shutil.rmtree(world.folder)

    def survive(self, point: Point) -> None:
        world = self.world(point)
        with pytest.raises(Crash):
            world.live()
        world.restart()
        world.live()
        assert world.outcome() == self._expected, point
        self.leave(world)


@pytest.mark.parametrize("kind", KINDS)
def test_budgets_and_trails_survive_a_death(kind, tmp_path) -> None:
    trial = Trial(kind, tmp_path)
    trial.survive(trial.points[(2 + KINDS.index(kind)) * len(trial.points) // 5])


@pytest.mark.evidence
@pytest.mark.parametrize("kind", KINDS)
def test_budgets_and_trails_survive_a_death_at_any_point(kind, tmp_path, capsys) -> None:
    began = time.monotonic()
    trial = Trial(kind, tmp_path)
    chosen = spread(trial.points)
    for point in chosen:
        trial.survive(point)
    with capsys.disabled():
        tell_of(chosen, trial.log, charged_job=kind, of=len(trial.points), seconds=round(time.monotonic() - began, 1))
