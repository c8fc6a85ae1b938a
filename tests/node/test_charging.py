"""What is charged is what is evaluated: every change of a flow, against what the executor really computes anew."""

from __future__ import annotations

import copy
from pathlib import Path

import polars as pl
import pytest
from organisations import (
    ANN,
    BANK,
    BEN,
    CREDIT,
    INSURER,
    Organisation,
    acquainted,
    agreement_text,
    deliver,
    propose,
    register,
    site,
    small_flow,
)

from unseen.flow.spec import FlowSpec
from unseen.ids import StepId
from unseen.node.domain import JobState
from unseen.node.usecases.asking import ask_of, methods_of
from unseen.node.usecases.runs import Runs
from unseen.simulation import Options, simulate

ALIGN = StepId("align")
CHANGES: dict[str, dict[str, dict[str, object]]] = {
    "nothing": {},
    "a step below": {"split": {"test": 0.4}},
    "the comparison, otherwise as strict": {"align": {"min_shared": 1}},
    "whose ids are kept": {"align": {"keep_ids": [INSURER]}},
    "the columns above": {"read": {"leave_out": {}}},
}
FREE = {"nothing", "a step below"}
UP_TO_HERE = Options(only=("read", "align"))


def changed(name: str) -> dict[str, object]:
    flow = copy.deepcopy(small_flow(BANK, INSURER))
    for step, params in CHANGES[name].items():
        made = flow["steps"][step]  # type: ignore[index]  # it is a mapping
        made["params"] = {**made.get("params", {}), **params}
    return flow


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nodes whose agreement lets parameters be what they are in any of the changes."""
    folder = tmp_path_factory.mktemp("signed")
    nodes = acquainted(folder, BANK, INSURER)
    text = agreement_text(BANK, INSURER)
    text["tables"] = [
        {
            **table,
            "columns": [{**column, "role": column["role"].replace("never", "feature")} for column in table["columns"]],
        }
        for table in text["tables"]  # type: ignore[attr-defined]  # it is a list
    ]
    for component in text["components"]:  # type: ignore[attr-defined]  # it is a list
        if component["name"] == "read_table":
            component["bounds"]["leave_out"]["values"].append({})
        if component["name"] == "psi_join":
            component["bounds"] |= {
                "min_shared": {"bound": "range", "low": 0, "high": 9},
                "keep_ids": {"bound": "one-of", "values": [[], [INSURER]]},
            }
    nodes[0].projects.draft(text, ANN)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, BEN)
        node.projects.set_policy(CREDIT, site(BANK, INSURER), ANN)
    deliver(nodes)
    for node in nodes:
        node.store.close()
    return folder


@pytest.fixture
def nodes(signed: Path, tmp_path: Path) -> tuple[Organisation, ...]:
    for name in (BANK, INSURER):
        (tmp_path / f"{name}.db").write_bytes((signed / f"{name}.db").read_bytes())
    return tuple(Organisation(me, tmp_path, partners={other}) for me, other in ((BANK, INSURER), (INSURER, BANK)))


def charged(nodes: tuple[Organisation, ...], flow: dict[str, object]) -> dict[str, dict[StepId, int]]:
    """Let a job run at nodes; return what each let the other have evaluated, which is what it charged."""
    bank = nodes[0]
    before = {node.me: receipts(node) for node in nodes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("organisations.small_flow", lambda *_: flow)
        job = propose(bank, BANK, INSURER)
    deliver(nodes)
    limits = {}
    for node in nodes:
        assert node.jobs.get(job).state is JobState.READY, node.jobs.get(job).reason
        runs = Runs(node.books, node.folder / "workspaces")
        work = runs.lease("test", 60)
        assert work is not None
        limits[node.me] = {step: sum(counts.values()) for step, counts in work.points.items()}
        assert receipts(node) - before[node.me] == sum(limits[node.me].values())
        for step in work.points:
            runs.note_size(work.lease, step, 700)
        runs.done(work.lease)
    deliver(nodes)
    assert [node.jobs.get(job).state for node in nodes] == [JobState.FINISHED] * 2
    return limits


def both(limits: dict[StepId, int]) -> dict[str, dict[StepId, int]]:
    return {BANK: limits, INSURER: limits}


def receipts(node: Organisation) -> int:
    (partner,) = node.partners
    with node.books.turn() as turn:
        return sum(receipt.charge.partner_rows for receipt in turn.ledger(CREDIT, partner).receipts)


def tables() -> dict[str, dict[str, pl.DataFrame]]:
    frame = pl.DataFrame({"phone": range(9), "age": range(9), "secret": range(9)})
    return {party: {"customers": frame} for party in (BANK, INSURER)}


@pytest.mark.parametrize("second", CHANGES)
def test_both_sides_charge_what_the_executor_computes_anew(tmp_path, nodes, second) -> None:
    """After a job as it was, one with a change: free if, and only if, the comparison is taken from the first one."""
    flows = [FlowSpec.model_validate(changed(name)) for name in ("nothing", second)]
    for flow in flows:
        result = simulate(flow, tables(), workspace=tmp_path / "simulated", options=UP_TO_HERE)
    reused = ALIGN in result.reused()
    assert reused == (second in FREE)
    assert charged(nodes, changed("nothing")) == both({ALIGN: 2000})
    anew = 0 if reused else 2000
    assert charged(nodes, changed(second)) == both({ALIGN: anew})
    # What was computed once, by either, is computed no more.
    assert charged(nodes, changed("nothing")) == both({ALIGN: 0})
    assert charged(nodes, changed(second)) == both({ALIGN: 0})


def test_a_comparison_that_stands_twice_in_a_flow_is_computed_and_charged_once(nodes) -> None:
    flow = changed("nothing")
    flow["steps"]["more"] = flow["steps"]["align"]  # type: ignore[index]  # it is a mapping
    options = Options(only=("read", "align", "more"))
    results = simulate(FlowSpec.model_validate(flow), tables(), options=options).steps[BANK]
    assert results[StepId("more")].record.joint == results[ALIGN].record.joint
    assert charged(nodes, flow) == both({StepId("more"): 0, ALIGN: 2000})


def test_another_version_of_any_partys_table_is_another_method(nodes) -> None:
    """Even of one that the session's own question does not name."""
    bank = nodes[0]
    job = propose(bank, BANK, INSURER)
    first = methods_of(ask_of(bank.jobs.get(job)))
    register(nodes[1], "second")
    nodes[1].projects.announce_tables()
    deliver(nodes)
    second = methods_of(ask_of(bank.jobs.get(propose(bank, BANK, INSURER))))
    assert first.keys() == second.keys()
    assert all(first[step] != second[step] for step in first)


def test_what_a_node_cannot_tell_to_be_the_same_it_charges(nodes) -> None:
    """Sessions of an older version, or lost lines: charged once more, never computed for nothing."""
    charged(nodes, changed("nothing"))
    for node in nodes:
        with node.books.turn() as turn:
            turn.kept.lines.drop(f"methods/{CREDIT}")
    assert charged(nodes, changed("nothing")) == both({ALIGN: 2000})
