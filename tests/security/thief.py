"""A bank that does what it likes on its own side to find out who is in the insurer's table; and a meter beside it.

Its node's people, tables, flows, workers, files and database are its own to change. The insurer's node is as shipped.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.node.organisations import (
    ANN,
    BANK,
    BEN,
    CREDIT,
    INSURER,
    Organisation,
    acquainted,
    agreement_text,
    deliver,
    register,
    site,
    small_flow,
)

from unseen.clock import SystemClock
from unseen.component import Source
from unseen.dialogue import Dialogue, converse
from unseen.errors import UnseenError
from unseen.flow.executor import Seat, play
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Workspace
from unseen.ids import JobId, StepId
from unseen.node.domain import Job, JobState
from unseen.node.usecases import deciding
from unseen.node.usecases.asking import graph_of
from unseen.node.usecases.runs import Runs
from unseen.protocols.psi.ecdh import session as ecdh_session
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code, Event, Record

OTHER = ProjectId("credit2")
ANNA = replace(ANN, projects=frozenset({CREDIT, OTHER}))
MEMBERS = range(1000, 1040)
"""The insurer's customers."""
SESSION, BUDGET = 40, 100
"""Points in a session, and in all, as the insurer has signed it."""
OPEN = {"points_per_session": 10**6, "points_total": 10**9}
"""What the bank lets the insurer have: nothing that it asks for may fail on its own side."""
LEAST = {"min_own_rows": 1, "min_partner_rows": 1, "min_intersection": 0, "max_ratio": 100.0, "max_hit_rate": 1.0}
MANY = {"sessions_per_day": 10_000, "concurrent": 1_000, "differencing_points": 0}
"""No tripwires: the budget alone has to hold."""
FREE = ("keep_ids", "min_shared", "duplicates", "max_pairs")
"""Parameters of psi_join that the agreement leaves to whoever proposes."""


class Power(Exception):
    """The bank's worker was killed, by the bank."""


@dataclass
class Meter:
    """Counts at the insurer's own curve what it evaluates for the bank, whatever anybody says about it."""

    points: set[bytes] = field(default_factory=set)
    batches: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        evaluate = ecdh_session.multiplied

        def counted(scalar: Any, points: np.ndarray, sender: str) -> np.ndarray:
            if sender == BANK:
                self.batches += 1
                self.points |= {row.tobytes() for row in points}
            return evaluate(scalar, points, sender)

        monkeypatch.setattr(ecdh_session, "multiplied", counted)
        charge = deciding.charge
        # The bank's own node charges nobody: it is not the bank's budget that has to hold.
        monkeypatch.setattr(deciding, "charge", lambda turn, job: turn.me == BANK or charge(turn, job))

    @property
    def tested(self) -> int:
        """How many ids the bank has had tested, at most: each point stands for one."""
        return len(self.points)


def agreed(project: str = "credit", **allowance: object) -> dict[str, object]:
    """Return an agreement with a small budget of the insurer's for the bank, and a large one the other way."""
    text: dict[str, Any] = agreement_text(BANK, INSURER, project=project)
    for entry in text["points"]:
        limits = {"points_per_session": SESSION, "points_total": BUDGET, **allowance}
        entry["allowance"] |= {**LEAST, **MANY, **(limits if entry["owner"] == INSURER else OPEN)}
    for component in text["components"]:
        if component["name"] == "psi_join":
            whole = {"bound": "range", "low": 0, "high": 10**7}
            component["bounds"] |= dict.fromkeys(("min_shared", "max_pairs"), whole)
            component["bounds"]["duplicates"] = {"bound": "one-of", "values": ["refuse", "first", "all_pairs"]}
            component["bounds"]["keep_ids"] = {"bound": "one-of", "values": [[], ["bank"], ["insurer"]]}
    return text


@dataclass
class Heist:
    """The two nodes, their files, and what the bank can do with its own."""

    folder: Path
    bank: Organisation
    insurer: Organisation
    meter: Meter
    lists: int = 0

    @classmethod
    def begin(cls, folder: Path, meter: Meter) -> Heist:
        for party in (BANK, INSURER):
            shutil.copy(_allied() / f"{party}.db", folder / f"{party}.db")
        _write(folder / "insurer.csv", MEMBERS)
        return cls.of(folder, (Organisation(BANK, folder), Organisation(INSURER, folder)), meter)

    @classmethod
    def of(cls, folder: Path, nodes: tuple[Organisation, ...], meter: Meter) -> Heist:
        """Both have partners and look at one clock."""
        bank, insurer = nodes
        bank.clock, bank.partners, insurer.partners = insurer.clock, {INSURER}, {BANK}
        bank.start()
        return cls(folder, bank, insurer, meter)

    @property
    def nodes(self) -> tuple[Organisation, Organisation]:
        return self.bank, self.insurer

    def sign(self, text: Mapping[str, object]) -> None:
        """Let both sign an agreement, and let both sites do what it says."""
        project = ProjectId(str(text["project"]))
        self.bank.projects.draft(text, ANN)
        deliver(self.nodes)
        for node in self.nodes:
            node.projects.sign(project, BEN)
            deliver(self.nodes)
        for node in self.nodes:
            node.projects.set_policy(project, site(BANK, INSURER, max_points=10**6), ANN)
        for node in self.nodes:
            node.projects.announce_tables()
        deliver(self.nodes)

    # --- what the bank does ------------------------------------------------------------------------------------------

    def bring(self, ids: Iterable[int], rows: int | None = None, content: str | None = None) -> Path:
        """Register a list as the newest version of the bank's table; say what one likes about its length and digest."""
        self.lists += 1
        ids = list(ids)
        register(self.bank, content or f"list {self.lists}", len(ids) if rows is None else rows)
        self.bank.projects.announce_tables()
        deliver(self.nodes)
        return _write(self.folder / f"bank-{self.lists}.csv", ids)

    def propose(
        self, project: ProjectId = CREDIT, *, points: int | None = None, joins: int = 1, **params: object
    ) -> JobId:
        """Propose a job with so many intersections; what the insurer makes of it is for ``job`` to tell."""
        flow: dict[str, Any] = small_flow(BANK, INSURER)
        del flow["steps"]["split"]
        flow["steps"]["align"]["params"] |= params
        for number in range(1, joins):
            step = flow["steps"]["align"]
            flow["steps"][f"align{number}"] = {**step, "params": {**step["params"], "min_shared": -number % 3}}
        return self.bank.jobs.propose(
            project,
            FlowSpec.model_validate(flow),
            {},
            points,
            0.0,
            0.0,
            self.bank.clock.now() + timedelta(hours=2),
            ANNA,
        )

    def run(
        self, path: Path, *, killed: Callable[[], bool] = lambda: False, anew: bool = False, says_done: bool = True
    ) -> UnseenError | Power | None:
        """Let both sides work on the insurer's oldest job; return how that ended.

        ``path`` is the list that the bank's worker brings, whatever its node said; it dies once ``killed`` is true;
        ``anew``: it has lost its seeds and results before; ``says_done``: it tells when it has all.
        """
        runs = Runs(self.insurer.books, self.folder / "insurer")
        self.insurer.clock.time += timedelta(seconds=61)  # whatever lease there was has run out
        work = runs.lease("worker", 60.0)
        if work is None:
            return None
        if anew:
            shutil.rmtree(self.folder / "bank", ignore_errors=True)
        graph = graph_of(FlowSpec.model_validate_json(work.job.flow))
        plays = {
            INSURER: play(self._seat(INSURER, work.job, graph, self.folder / "insurer.csv", work.points)),
            BANK: _mortal(play(self._seat(BANK, work.job, graph, path, None)), killed),
        }
        try:
            converse(plays)
        except Power as power:
            return power
        except UnseenError as error:
            runs.failed(work.lease, error)
            deliver(self.nodes)
            return error
        for step in graph.nodes:
            if step.startswith("align"):
                runs.note_size(work.lease, StepId(step), 1)
        runs.done(work.lease)
        if says_done:
            self._own_side(work.job.job)
        return None

    def _own_side(self, job: JobId) -> None:
        own = Runs(self.bank.books, self.folder / "none")
        while (mine := own.lease("worker", 3600.0)) is not None:
            if mine.job.job == job:
                own.done(mine.lease)
        deliver(self.nodes)

    def _seat(self, me: Any, job: Job, graph: Any, path: Path, points: Any) -> Seat:
        workspace = Workspace(self.folder / me / "workspaces")
        workspace.start_job(job.job, graph.spec, SystemClock().now())
        return Seat(me, graph, job.job, workspace, {"customers": Source(path)}, SystemClock(), points=points)

    def try_out(self, ids: Iterable[int], **how: Any) -> UnseenError | Power | None:
        """Bring a list, propose, and run whatever the insurer lets run."""
        path = self.bring(ids)
        self.propose(**how)
        deliver(self.nodes)
        return self.run(path)

    # --- what is there to see ----------------------------------------------------------------------------------------

    def charged(self, project: ProjectId = CREDIT) -> int:
        with self.insurer.books.turn() as turn:
            return sum(receipt.charge.partner_rows for receipt in turn.ledger(project, BANK).receipts)

    def last_refusal(self) -> tuple[str, list[Record], list[Record]]:
        """Return why the newest job was refused, as the bank read it, and what both trails say about it."""
        (job, *_) = self.bank.jobs.all(limit=1)
        assert job.state in {JobState.REFUSED, JobState.FAILED}, job.reason
        trails = [[one for one in node.audit.records(job.project) if one.job == job.job] for node in self.nodes]
        return job.reason, trails[0], trails[1]


def names_the_budget(heist: Heist) -> None:
    """Pass if the last job was refused for its budget, in words for people, and in both trails."""
    reason, bank, insurer = heist.last_refusal()
    assert "points" in reason, reason
    assert any(word in reason for word in ("budget of insurer", "are left", "of its 0 points")), reason
    assert Code.BUDGET in {one.code for one in insurer}, [(one.event, one.code) for one in insurer]
    assert Event.JOB_ENDED in {one.event for one in bank}
    for node in heist.nodes:
        node.audit.verify(CREDIT)


@cache
def _allied() -> Path:
    """Return a folder with the databases of both, after all have signed."""
    folder = Path(tempfile.mkdtemp(prefix="unseen-heist-"))
    atexit.register(shutil.rmtree, folder)
    made = Heist.of(folder, acquainted(folder, BANK, INSURER), Meter())
    register(made.insurer, "members", len(MEMBERS))
    made.insurer.projects.announce_tables()
    made.sign(agreed())
    for node in made.nodes:
        node.store.close()
    return folder


def _mortal(dialogue: Dialogue[Any], killed: Callable[[], bool]) -> Dialogue[Any]:
    """Run a dialogue until its process is killed."""
    answer: object = None
    try:
        while True:
            effect = dialogue.send(answer)
            if killed():
                raise Power
            answer = yield effect
    except StopIteration as end:
        return end.value
    finally:
        dialogue.close()


def _write(path: Path, ids: Iterable[int]) -> Path:
    path.write_text("phone,age,secret\n" + "".join(f"{number},40,1\n" for number in ids))
    return path
