"""Whatever moment of a job one party is killed at, the job that is resumed ends as if nothing had happened.

All parties of a job run in one process, each with a workspace on disk. At the n-th moment, the party that is at work
dies: before or after a message leaves or is acted upon, before or after a file is synchronised, put in its place,
emptied or deleted; half-written files stay behind. The others go on until they wait for it. Then all begin anew from
their disks. For every n, results, and what was heard in steps that cost points, come out the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.dialogue import Receive, converse, message
from unseen.errors import Deadlock
from unseen.flow.executor import Seat, play
from unseen.flow.graph import Graph, build_graph
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.trust.policy import VARIANTS

BANK, PARTNER, SHOP, NOBODY = (PartyId(name) for name in ("bank", "partner", "shop", "nobody"))
JOB = JobId("job")
FEWEST = 300
ROWS = 130


class Crash(BaseException):
    """Nothing catches it: the process is gone."""


@message("tests/silence")
class Silence:
    """Never comes."""


@dataclass
class Fate:
    """Counts moments; whoever is at work at the n-th one dies there."""

    n: int | None = None
    count: int = 0
    at_work: PartyId | None = None
    dead: PartyId | None = None

    def moment(self) -> None:
        if self.dead is None:
            self.count += 1
            if self.count == self.n:
                self.dead = self.at_work
                raise Crash


def mortal(seat: Seat, fate: Fate) -> Iterator[Any]:
    """One party's side of a job, from the first to the last file that it writes."""
    dialogue, answer = play(seat), None
    try:
        while True:
            fate.at_work = seat.me
            try:
                effect = dialogue.send(answer)
            except StopIteration:
                break
            fate.moment()
            answer = yield effect
            fate.at_work = seat.me
            fate.moment()
        seat.workspace.end_job(seat.job, "finished")
    except Crash:
        yield Receive(NOBODY, Silence)


@pytest.fixture
def fated(monkeypatch: pytest.MonkeyPatch) -> list[Fate]:
    """The fate that holds now, of all that is done to files; the dead do nothing more, not even clear up."""
    now = [Fate()]

    def dying(name: str) -> None:
        does = getattr(os, name)

        def done(target: Any, *more: Any, **options: Any) -> Any:
            fate = now[0]
            owner = next((part for part in Path(target).parts if part in PARTIES), "") if name != "fsync" else ""
            if fate.dead is not None and owner == fate.dead:
                return None
            fate.moment()
            result = does(target, *more, **options)
            fate.moment()
            return result

        monkeypatch.setattr(os, name, done)

    for name in ("fsync", "replace", "truncate", "unlink"):
        dying(name)
    return now


PARTIES = frozenset({BANK, PARTNER, SHOP})


class World:
    """The parties of one job, their tables and their disks."""

    def __init__(self, graph: Graph, home: Path, tables: Path) -> None:
        self.graph, self.home, self.tables = graph, home, tables

    def run(self, fate: Fate) -> None:
        """Let all parties go as far as they can."""
        with ExitStack() as locks:
            seats = {}
            for party in self.graph.spec.parties:
                workspace = Workspace(self.home / party)
                locks.enter_context(workspace.locked())
                asking = [name for name, node in self.graph.nodes.items() if node.component.name in VARIANTS]
                points = {name: dict.fromkeys(PARTIES, ROWS) for name in asking}
                source = {"people": Source(self.tables / f"{party}.parquet")}
                seats[party] = Seat(party, self.graph, JOB, workspace, source, SystemClock(), points=points)
            with suppress(Crash, *([Deadlock] if fate.n else [])):
                converse(
                    {party: mortal(seat, fate) for party, seat in seats.items()},
                    checkpoints={party: seat.workspace.checkpoints(JOB) for party, seat in seats.items()},
                )

    def outcome(self) -> dict[str, object]:
        """All results, and what peers said where that costs points."""
        found: dict[str, object] = {}
        for party in self.graph.spec.parties:
            workspace = Workspace(self.home / party)
            record = workspace.job(JOB)
            assert record.state == "finished"
            for step, key in record.steps.items():
                done = workspace.finished(key)
                assert done is not None
                found |= {f"{party} {step}.{port}": ref.digest for port, ref in done.outputs.items()}
            heard = workspace.root / "jobs" / JOB / "heard"
            found |= {f"{party} {path.relative_to(heard)}": path.read_bytes() for path in heard.glob("*/*")}
            assert not [path for path in workspace.root.rglob(".*") if path.is_file()]
        return found


# --- the jobs ---------------------------------------------------------------------------------------------------------


def tables(folder: Path, parties: tuple[PartyId, ...]) -> None:
    draw = np.random.default_rng(5)
    age = draw.normal(size=ROWS)
    for party in parties:
        columns = {"id": [f"p{number}" for number in range(ROWS)]}
        columns |= {f"{party}_{column}": draw.normal(size=ROWS) + age for column in range(2)}
        if party == BANK:
            columns["y"] = (draw.random(ROWS) < 1 / (1 + np.exp(-age))).astype(int)
        elif party == PARTNER:
            columns["spent"] = draw.integers(0, 100, ROWS)
        pl.DataFrame(columns).write_parquet(folder / f"{party}.parquet")


def step(use: str, params: Mapping[str, object] | None = None, **inputs: str) -> dict[str, object]:
    return {"use": use, "in": inputs, "params": dict(params or {})}


READ = {"read": step("read_table", source="tables.people")}
ALIGN = {**READ, "align": step("psi_join", {"protocol": "ecdh"}, table="read.table")}
SCALED = {**ALIGN, "scale": step("standardise", table="align.table")}


def trained(component: str, **params: object) -> dict[str, object]:
    """A training of few rounds, its scores and their evaluation."""
    return {
        **SCALED,
        "train": step(component, {"max_iterations": 3, **params}, table="scale.table"),
        "score": step("score", table="scale.table", model="train.model"),
    }


EVALUATED = {"evaluate": step("evaluate", scores="score.scores")}
JOBS: dict[str, dict[str, object]] = {
    "intersection on a curve": {
        **ALIGN,
        "again": step("psi_join", {"protocol": "ecdh", "keep_ids": ["bank"]}, table="read.table"),
        "count": step("psi_count", table="read.table"),
        "split": step("split", {"test": 0.4}, table="align.table"),
    },
    "intersection by VOLE": {
        **READ,
        "align": step("psi_join", {"protocol": "vole"}, table="read.table"),
        "again": step("psi_join", {"protocol": "vole", "keep_ids": ["bank"]}, table="read.table"),
        "split": step("split", {"test": 0.4}, table="align.table"),
    },
    "count, sum, union": {
        **READ,
        "count": step("psi_count", table="read.table"),
        "sum": step("psi_sum", {"columns": {"partner": ["spent"]}}, table="read.table"),
        "union": step("psi_union", table="read.table"),
        "narrow": step("psi_count", {"recipients": ["bank"]}, table="read.table"),
    },
    "look-up": {
        **READ,
        "prepare": step("prepare_lookup", {"columns": ["spent"], "max_points": ROWS}, table="read.table"),
        "ask": step("psi_lookup", table="read.table", catalogue="prepare.catalogue"),
        "both": step("psi_lookup", {"recipients": "both"}, table="read.table", catalogue="prepare.catalogue"),
    },
    "preparation": {
        **ALIGN,
        "split": step("split", {"test": 0.3}, table="align.table"),
        "scale": step("standardise", table="split.train"),
        "scale_test": step("apply_scaler", table="split.test", scaler="scale.scaler"),
        "bin": step("bin_columns", {"max_bins": 8}, table="split.train"),
        "wide": step("bin_columns", {"max_bins": 8, "method": "width"}, table="split.train"),
    },
    "logistic regression, private": {**trained("logistic_regression"), **EVALUATED},
    "logistic regression, linearised": {**trained("logistic_regression", mode="linearised"), **EVALUATED},
    "logistic regression, exact": {**trained("logistic_regression", mode="exact"), **EVALUATED},
    "linear regression": trained("linear_regression"),
    "Poisson regression": trained("poisson_regression"),
    "Tweedie regression": trained("tweedie_regression"),
    "softmax regression": trained("softmax_regression", classes=2),
    "boosting": {
        **ALIGN,
        "bin": step("bin_columns", {"max_bins": 6}, table="align.table"),
        "prepare": step("prepare_histograms", table="bin.table"),
        "train": step(
            "vertical_boosting",
            {"rounds": 2, "max_depth": 2, "min_rows_in_leaf": 10, "max_sums_per_row": 5},
            table="bin.table",
            setup="prepare.setup",
        ),
        "score": step("score", table="align.table", model="train.model"),
        **EVALUATED,
    },
    "three parties": {**trained("logistic_regression", mode="linearised"), **EVALUATED},
}


@dataclass(frozen=True)
class Undisturbed:
    """A job that nobody was killed in."""

    world: World
    moments: int
    expected: Mapping[str, object]

    def survives(self, n: int, folder: Path, fated: list[Fate]) -> None:
        """Kill whoever is at work at moment ``n``, go on, and compare."""
        shutil.copytree(self.world.home, folder)
        world = World(self.world.graph, folder, self.world.tables)
        fated[0] = Fate(n)
        world.run(fated[0])
        died = fated[0].dead
        fated[0] = Fate()
        world.run(fated[0])
        assert world.outcome() == self.expected, f"{died} died at moment {n} of {self.moments}"
        shutil.rmtree(folder)


def undisturbed(name: str, folder: Path, fated: list[Fate]) -> Undisturbed:
    parties = (BANK, PARTNER, SHOP) if name == "three parties" else (BANK, PARTNER)
    roles = {party: "active" if party == BANK else "passive" for party in parties}
    spec = FlowSpec.model_validate({"name": "crashes", "parties": roles, "steps": JOBS[name]})
    graph = build_graph(spec, installed_components())
    tables(folder, parties)
    for party in parties:
        Workspace(folder / "before" / party).start_job(JOB, spec, SystemClock().now())
    shutil.copytree(folder / "before", folder / "undisturbed")
    fated[0] = Fate()
    world = World(graph, folder / "undisturbed", folder)
    world.run(fated[0])
    assert set(graph.nodes) == {StepId(str(key).split()[1].split(".")[0]) for key in world.outcome() if "." in str(key)}
    return Undisturbed(World(graph, folder / "before", folder), fated[0].count, world.outcome())


@pytest.mark.parametrize(
    ("name", "part"),
    [("intersection on a curve", 0.6), ("look-up", 0.4), ("logistic regression, private", 0.8), ("boosting", 0.5)],
)
def test_a_kill_changes_nothing(name: str, part: float, tmp_path: Path, fated: list[Fate]) -> None:
    found = undisturbed(name, tmp_path, fated)
    found.survives(int(part * found.moments), tmp_path / "killed", fated)


@pytest.mark.evidence
@pytest.mark.parametrize("name", JOBS)
def test_no_kill_anywhere_changes_anything(name: str, tmp_path: Path, fated: list[Fate], record_count: Any) -> None:
    found = undisturbed(name, tmp_path, fated)
    stride = max(1, found.moments // (FEWEST + 20))
    killed = range(1, found.moments + 1, stride)
    for n in killed:
        found.survives(n, tmp_path / "killed", fated)
    record_count(f"kills in {name}, of {found.moments:,} moments, with identical outcome", len(killed))
    assert len(killed) >= FEWEST
