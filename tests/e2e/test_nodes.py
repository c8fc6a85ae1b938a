"""Nodes as organisations run them: processes of their own, mutual TLS, databases; and what a kill leaves of a job."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import psycopg
import pytest
import yaml
from tests.node.servers import postgres  # noqa: F401  # a fixture

from unseen.data.demo import write_parties
from unseen.data.readers import read_table
from unseen.demo.flow import TABLE, credit_flow
from unseen.demo.nodes import (
    NodeProcess,
    agree,
    make_nodes,
    propose,
    revoke,
    started,
    until,
    verify_trails,
)
from unseen.flow.spec import FlowSpec
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId
from unseen.simulation import Options, simulate

BANK, PARTNER = PartyId("bank"), PartyId("partner")
SHOP = PartyId("shop")
FLOW = credit_flow(BANK, [PARTNER]).spec
THREE = credit_flow(BANK, [PARTNER, SHOP], mode="linearised").spec


def imported(path: Path) -> Path:
    """Return a file as a node's catalogue keeps it."""
    made = path.with_suffix(".parquet")
    read_table(path)[0].write(made)
    return made


def simulated(
    out: Path, job: str, files: Mapping[PartyId, Path], flow: FlowSpec = FLOW
) -> dict[PartyId, dict[str, str]]:
    """Return what the simulation makes of the same tables with the same seeds: party → ``step.port`` → digest."""
    for party in flow.parties:
        record = Workspace(out / party / "workspaces" / "credit").job(JobId(job))
        Workspace(out / "simulation" / party).start_job(record.job, record.flow, record.created)
        Workspace(out / "simulation" / party).write_job(record.model_copy(update={"steps": {}}))
    tables = {party: {TABLE: imported(path)} for party, path in files.items()}
    found = simulate(flow, tables, workspace=out / "simulation", options=Options(resume=True))
    return {
        party: {f"{step}.{port}": ref.digest for step, result in steps.items() for port, ref in result.outputs.items()}
        for party, steps in found.steps.items()
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[PartyId, Path]:
    return {PartyId(name): path for name, path in write_parties(tmp_path / "data", rows=400).items()}


def ended(nodes: tuple[NodeProcess, ...], job: str) -> bool:
    return all(node.job(job)["state"] == "finished" for node in nodes)


def after(node: NodeProcess, job: str, step: str) -> None:
    """Wait until a step is done at a node."""
    for event in node.ann.events("credit", job):
        if event["what"] == "leave" and event["step"] == step:
            return


def workers(node: NodeProcess) -> list[int]:
    """Return the process ids of a node's workers."""
    children = Path(f"/proc/{node.process.pid}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def test_two_nodes_run_the_main_job_though_a_worker_is_killed(tmp_path: Path, files: dict[PartyId, Path]) -> None:
    said: list[str] = []
    folders = make_nodes(tmp_path, [BANK, PARTNER], said.append)
    with started(folders.values()) as nodes:
        bank, partner = nodes
        agree(nodes, FLOW, files, said.append)
        job = propose(nodes, FLOW, said.append)
        after(bank, job, "align")
        (worker,) = until(lambda: workers(partner), "there is a worker")
        os.kill(worker, signal.SIGKILL)
        until(lambda: ended(nodes, job), "it is finished", 120)
        results = {node.name: node.results(job) for node in nodes}
        assert results == simulated(tmp_path, job, files)
        found = {model["name"]: model["digest"] for model in bank.ann.models("credit")}
        assert found == {name: results[BANK][name] for name in ("train.model", "train_alone.model")}
        bank.ann.report("credit", job, tmp_path / "bank.html")
        page = (tmp_path / "bank.html").read_text()
        assert page.startswith("<!DOCTYPE html>")
        assert "gradient" in page
        revoke(partner, nodes, FLOW, said.append)
        verify_trails(nodes, said.append)
    assert any("the next job is refused" in line for line in said)


@pytest.mark.evidence
@pytest.mark.parametrize("step", ["read", "align", "train", "score_test", "evaluate_alone"])
@pytest.mark.parametrize("at", [0, 1], ids=["initiator", "other"])
def test_a_node_is_killed_after_a_step(tmp_path: Path, files: dict[PartyId, Path], step: str, at: int) -> None:
    folders = make_nodes(tmp_path, [BANK, PARTNER], lambda _: None)
    with started(folders.values()) as nodes:
        agree(nodes, FLOW, files, lambda _: None)
        job = propose(nodes, FLOW, lambda _: None)
        after(nodes[at], job, step)
        nodes[at].kill()
        nodes[at].start()
        until(lambda: ended(nodes, job), "it is finished", 180)
        assert {node.name: node.results(job) for node in nodes} == simulated(tmp_path, job, files)
        verify_trails(nodes, lambda _: None)


def split_in_three(files: dict[PartyId, Path]) -> dict[PartyId, Path]:
    """Give some of the partner's columns to a shop."""
    frame = pl.read_csv(files[PARTNER])
    names = [name for name in frame.columns if name != "id"]
    shop = files[PARTNER].with_name("shop.csv")
    frame.select("id", *names[::2]).write_csv(shop)
    frame.select("id", *names[1::2]).write_csv(files[PARTNER])
    return {**files, SHOP: shop}


def test_three_nodes_with_postgresql(tmp_path: Path, files: dict[PartyId, Path], postgres: str) -> None:  # noqa: F811
    files, said = split_in_three(files), list[str]()
    folders = make_nodes(tmp_path, [BANK, PARTNER, SHOP], said.append)
    with psycopg.connect(postgres, autocommit=True) as server:
        for party, folder in folders.items():
            server.execute(f"CREATE DATABASE nodes_{party}")  # type: ignore[call-overload]
            config = yaml.safe_load((folder / "node.yaml").read_text())
            config["store"] = f"{postgres.rpartition('/')[0]}/nodes_{party}"
            (folder / "node.yaml").write_text(yaml.safe_dump(config))
    with started(folders.values()) as nodes:
        agree(nodes, THREE, files, said.append)
        job = propose(nodes, THREE, said.append)
        until(lambda: ended(nodes, job), "it is finished", 180)
        results = {node.name: node.results(job) for node in nodes}
        assert results == simulated(tmp_path, job, files, THREE)
        revoke(nodes[2], nodes, THREE, said.append)
        verify_trails(nodes, said.append)
    assert not any((folder / "node.db").exists() for folder in folders.values())
    assert sum("heads that others hold" in line for line in said) == 3
