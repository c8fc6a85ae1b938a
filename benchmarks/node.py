"""What a node adds to the work itself: two nodes as processes of their own on loopback, as in ``unseen demo-nodes``.

``python -m benchmarks.node [--jobs 3 --rows 2000 --requests 300]`` prints a JSON line; the flow is the main job's.

* ``submit_seconds``: from a proposal over HTTP until a worker has begun at all parties, two approvals over HTTP
  included: grants exchanged, points charged and countersigned, worker started. The median; one job of all runs first.
* ``job_seconds``, ``simulation_seconds``: the same flow on the same tables, from the beginning of its first step to the
  end of the job; and by ``simulate`` in this process, with compiled loops warm. The share of rows for testing differs
  from job to job, in both: what comes after the split is computed anew, the intersection is reused.
* ``overhead_per_step_seconds``: their difference, by the steps of the flow. The nodes' two processes share the machine.
* ``requests_per_second``: ``GET /api/v1/session``, one after the other over one connection and by four at once.
* ``recovery_seconds``: from ``kill -9`` of a node in mid-job, and its start at once, until the job runs there
  again; ``restart_seconds`` of it until people can sign in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unseen.data.demo import write_parties
from unseen.demo.flow import TABLE, credit_flow
from unseen.demo.nodes import PROJECT, NodeProcess, agree, make_nodes, propose, started
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId
from unseen.simulation import simulate

BANK, PARTNER = PartyId("bank"), PartyId("partner")
_STEP = 0.02


def _quiet(text: str) -> None:
    del text


def _variant(flow: FlowSpec, number: int) -> FlowSpec:
    """Return the flow with another share for testing, so that nothing of an earlier job is reused."""
    plain = flow.model_dump(mode="json", by_alias=True)
    plain["steps"]["split"]["params"]["test"] = round(0.3 + number / 1000, 3)
    return FlowSpec.model_validate(plain)


def _all_of(flows: Sequence[FlowSpec]) -> FlowSpec:
    """Return a flow with the splits of all of them, so that an agreement on it allows each."""
    plain = flows[0].model_dump(mode="json", by_alias=True)
    for number, flow in enumerate(flows[1:]):
        plain["steps"][f"split_{number}"] = flow.model_dump(mode="json", by_alias=True)["steps"]["split"]
    return FlowSpec.model_validate(plain)


def _until_running(nodes: Sequence[NodeProcess], job: str) -> None:
    while not all(node.job(job)["state"] in {"running", "finished"} for node in nodes):
        time.sleep(_STEP)


def _finished(nodes: Sequence[NodeProcess], job: str) -> None:
    for node in nodes:
        node.ann.wait(PROJECT, job, seconds=120)


def _jobs(nodes: Sequence[NodeProcess], flows: Sequence[FlowSpec]) -> tuple[list[float], list[float]]:
    """Return the seconds until each job ran, and from then until it was finished."""
    submitted, worked = [], []
    for flow in flows:
        began = time.perf_counter()
        job = propose(nodes, flow, _quiet)
        _until_running(nodes, job)
        submitted.append(time.perf_counter() - began)
        _finished(nodes, job)
        worked.append(time.perf_counter() - began - submitted[-1])
    return submitted, worked


def _requests(node: NodeProcess, count: int) -> dict[str, float]:
    began = time.perf_counter()
    for _ in range(count):
        node.ann.me()
    alone = count / (time.perf_counter() - began)
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as people:
        list(people.map(lambda _: node.ann.me(), range(count)))
    return {
        "requests_per_second": round(alone, 1),
        "requests_per_second_by_four": round(count / (time.perf_counter() - began), 1),
    }


def _recovery(nodes: Sequence[NodeProcess], flow: FlowSpec) -> dict[str, float]:
    bank = nodes[0]
    job = propose(nodes, flow, _quiet)
    for event in bank.ann.events(PROJECT, job):
        if event.get("step") == "scale":
            break
    began = time.perf_counter()
    bank.kill()
    bank.start()
    restarted = time.perf_counter() - began
    for event in bank.ann.events(PROJECT, job):
        if event.get("what") == "state" or event.get("step") == "train":
            break
    while bank.job(job)["state"] not in {"running", "finished"}:
        time.sleep(_STEP)
    recovered = time.perf_counter() - began
    _finished(nodes, job)
    return {"recovery_seconds": round(recovered, 2), "restart_seconds": round(restarted, 2)}


def _simulated(flow: FlowSpec, files: dict[PartyId, Path]) -> float:
    tables = {party: {TABLE: path} for party, path in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        simulate(flow, tables, workspace=folder)
        began = time.perf_counter()
        simulate(_variant(flow, 99), tables, workspace=folder)
        return time.perf_counter() - began


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what is printed."""
    flow = credit_flow(BANK, [PARTNER]).spec
    files = {PartyId(name): path for name, path in write_parties(folder / "data", rows=asked.rows).items()}
    variants = [_variant(flow, number) for number in range(asked.jobs + 2)]
    simulation = _simulated(flow, files)
    folders = make_nodes(folder / "nodes", [BANK, PARTNER], _quiet)
    with started(folders.values()) as nodes:
        agree(nodes, _all_of(variants), files, _quiet)
        submitted, worked = _jobs(nodes, variants[:-1])
        requests = _requests(nodes[0], asked.requests)
        recovery = _recovery(nodes, variants[-1])
    job = statistics.median(worked[1:])
    return {
        "name": "node",
        "rows": asked.rows,
        "steps": len(flow.steps),
        "submit_seconds": round(statistics.median(submitted[1:]), 2),
        "job_seconds": round(job, 2),
        "simulation_seconds": round(simulation, 2),
        "overhead_per_step_seconds": round((job - simulation) / len(flow.steps), 3),
        **requests,
        **recovery,
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="What a node adds to the work itself.")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unseen-node-") as folder:
        print(json.dumps(measure(asked, Path(folder))))


if __name__ == "__main__":
    main()
