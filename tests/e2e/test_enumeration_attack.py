"""The same attacker as in ``tests/security``, with nodes as organisations run them: processes, TLS, databases, workers.

The bank's programs are its own: they charge nobody, die where they like, and bring other lists than they have said. The
partner's are as they are shipped, but for a meter: it writes down each point that is evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unseen.demo.flow import TABLE
from unseen.demo.nodes import PROJECT, NodeProcess, agreement_text, make_nodes, site_policy, until, verify_trails
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId

BANK, PARTNER = PartyId("bank"), PartyId("partner")
LIST, BUDGET = 120, 300
POINT_BYTES = 32
FREE = {"min_own_rows": 1, "min_partner_rows": 1, "min_intersection": 0, "max_ratio": 100.0, "max_hit_rate": 1.0}
MANY = {"sessions_per_day": 1000, "concurrent": 100, "differencing_points": 0}

CHEAT = """
import os, sys
from pathlib import Path
if "unseen.node.worker" in sys.orig_argv:
    from dataclasses import replace
    from unseen.catalog import psi_join
    from unseen.protocols.psi.port import Items
    HERE = Path(__file__).parent
    items_of, intersect = psi_join.items_of, psi_join.intersect
    def other_items(keys):
        other = HERE / "list"
        return Items.of(other.read_bytes().split()) if other.exists() else items_of(keys)
    def mortal(items, meeting, *, protocol):
        found = yield from intersect(items, replace(meeting, points=None), protocol=protocol)
        if (HERE / "die").exists():
            (HERE / "die").rename(HERE / "died")
            os._exit(9)
        return found
    psi_join.items_of, psi_join.intersect = other_items, mortal
elif "start" in sys.orig_argv:
    from unseen.node.usecases import deciding
    deciding.charge = lambda turn, job: None
"""
METER = """
import sys
from pathlib import Path
if "unseen.node.worker" in sys.orig_argv:
    from unseen.protocols.psi.ecdh import session
    multiplied = session.multiplied
    def counted(scalar, points, sender):
        with Path(__file__).with_name("evaluated").open("ab") as file:
            file.write(points.tobytes())
        return multiplied(scalar, points, sender)
    session.multiplied = counted
"""


@contextmanager
def running(folder: Path, program: Path, code: str) -> Iterator[NodeProcess]:
    """Run a node whose workers begin with some code."""
    program.mkdir(exist_ok=True)
    (program / "sitecustomize.py").write_text(code)
    node = started(folder, program)
    try:
        yield node
    finally:
        node.stop()


def started(node: Path | NodeProcess, program: Path) -> NodeProcess:
    """Start a node, or start it again, with a folder of code before all others."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{program}{os.pathsep}{before}"
    try:
        if isinstance(node, Path):
            return NodeProcess(node)
        node.start()
        return node
    finally:
        os.environ["PYTHONPATH"] = before


def written(path: Path, ids: Iterable[int]) -> Path:
    path.write_text("id,age\n" + "".join(f"{number},40\n" for number in ids))
    return path


def flow(**params: object) -> dict[str, Any]:
    return {
        "name": "join",
        "parties": {BANK: "active", PARTNER: "passive"},
        "steps": {
            "read": {"use": "read_table", "in": {"source": f"tables.{TABLE}"}},
            "align": {"use": "psi_join", "in": {"table": "read.table"}, "params": {"protocol": "ecdh", **params}},
        },
    }


def agree(bank: NodeProcess, partner: NodeProcess, tables: list[Mapping[str, Any]]) -> None:
    """Let both sign a small budget of the partner's for the bank, and a large one the other way."""
    spec = FlowSpec.model_validate(flow())
    text = agreement_text(spec, tables)
    for entry in text["points"]:
        small = entry["owner"] == PARTNER
        limits = (LIST, BUDGET) if small else (10**6, 10**9)
        entry["allowance"] |= FREE | MANY | {"points_per_session": limits[0], "points_total": limits[1]}
    until(lambda: drafted(bank, text), "keys are known")
    nodes = (bank, partner)
    until(lambda: all(node.standing() == "draft" for node in nodes), "the draft has arrived")
    for node in nodes:
        node.ben.sign(PROJECT, node.ben.project(PROJECT)["waiting"]["digest"])
    until(lambda: all(node.standing() == "in-force" for node in nodes), "all have signed")
    for node in nodes:
        node.ann.set_policy(PROJECT, {**site_policy(spec, BANK), "automatic": True})


def drafted(node: NodeProcess, text: Mapping[str, Any]) -> bool:
    try:
        node.ann.draft(text)
    except Exception as error:
        if "introduced" not in str(error):
            raise
        return False
    return True


def bring(node: NodeProcess, path: Path) -> dict[str, Any]:
    table = node.ann.upload(TABLE, path)["table"]
    return {**table, "owner": node.name, "columns": [(one["name"], one["role"]) for one in table["columns"]]}


def outcome(bank: NodeProcess, partner: NodeProcess, **terms: Any) -> tuple[str, str]:
    """Propose a job, wait until it is over at both, and return how it ended at the bank, and why."""
    params = terms.pop("params", {})
    job = until(lambda: proposed(bank, flow(**params), terms), "tables are known")
    for node in (bank, partner):
        until(lambda node=node: node.job(job)["state"] in {"finished", "failed", "refused"}, f"{job} is over", 120)
    found = bank.job(job)
    return str(found["state"]), str(found["reason"])


def proposed(bank: NodeProcess, asked: Mapping[str, Any], terms: Mapping[str, Any]) -> str | None:
    try:
        return str(bank.ann.propose(PROJECT, asked, hours=1.0, **terms)["job"])
    except Exception as error:
        if "has not said" not in str(error):
            raise
        return None


@dataclass
class Scene:
    """Both nodes while they run, and what the bank does with its own."""

    folder: Path
    bank: NodeProcess
    partner: NodeProcess

    @property
    def cheat(self) -> Path:
        return self.folder / "cheat"

    @property
    def tested(self) -> int:
        """How many ids the meter has seen, at most: each point stands for one."""
        log = self.folder / "meter" / "evaluated"
        content = log.read_bytes() if log.exists() else b""
        return len({content[at : at + POINT_BYTES] for at in range(0, len(content), POINT_BYTES)})

    def register(self, number: int, count: int = LIST) -> None:
        ids = range(number * LIST, number * LIST + count)
        bring(self.bank, written(self.folder / "list.csv", ids))

    @contextmanager
    def lying(self, first: int, count: int = LIST) -> Iterator[None]:
        """Let the bank's workers bring another list than its node has said."""
        (self.cheat / "list").write_text("\n".join(str(number) for number in range(first, first + count)))
        yield
        (self.cheat / "list").unlink()

    def is_refused(self, points: int) -> None:
        """Pass if a job is refused for the budget, in words that the bank reads, and in the partner's trail."""
        state, reason = outcome(self.bank, self.partner, points=points)
        assert (state, "budget of partner" in reason) == ("refused", True), reason
        assert b'"code":"budget"' in self.partner.max.audit(PROJECT)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    folders = make_nodes(tmp_path, [BANK, PARTNER], lambda _: None)
    with (
        running(folders[BANK], tmp_path / "cheat", CHEAT) as bank,
        running(folders[PARTNER], tmp_path / "meter", METER) as partner,
    ):
        tables = [
            bring(bank, written(tmp_path / "list.csv", range(LIST))),
            bring(partner, written(tmp_path / "members.csv", range(50, 250))),
        ]
        agree(bank, partner, tables)
        yield Scene(tmp_path, bank, partner)


@pytest.mark.evidence
def test_a_bank_with_a_program_of_its_own_stops_at_the_budget(scene: Scene, record_count) -> None:
    bank, partner = scene.bank, scene.partner
    # Dead with the answer in its hands; then another list under the same charge.
    (scene.cheat / "die").touch()
    job = until(lambda: proposed(bank, flow(), {"points": LIST}), "tables are known")
    until((scene.cheat / "died").exists, "the bank's worker has died", 40)
    with scene.lying(900):
        until(lambda: bank.job(job)["state"] == "failed", "it has failed", 120)
    assert scene.tested == LIST
    bank.kill()
    started(bank, scene.cheat)
    scene.register(1)
    assert outcome(bank, partner, points=LIST)[0] == "finished"
    assert scene.tested == 2 * LIST
    # The same version once more, which is free, while the worker brings another list.
    with scene.lying(1900):
        outcome(bank, partner, points=LIST)
    assert scene.tested == 2 * LIST
    # What is left is enough for half a list; the worker brings four.
    scene.register(2)
    scene.is_refused(LIST)
    scene.register(3, LIST // 2)
    with scene.lying(2900, 4 * LIST):
        assert outcome(bank, partner, points=LIST // 2)[0] == "failed"
    # By now all is charged.
    scene.register(4, 10)
    scene.is_refused(10)
    assert scene.tested == 2 * LIST <= BUDGET
    verify_trails((partner,), lambda _: None)
    record_count(f"ids tested at a running node, of {BUDGET} agreed", scene.tested)
