"""Rounds without a server and without training: peers that are processes, over mutual TLS on loopback.

``python -m benchmarks.peers [--peers 8 --size 1000000 --rounds 5]`` prints one JSON line. Each peer adds 1 to a model
of ``size`` numbers. For ``shares``, ``ring`` (sums of 32-bit words) and ``gossip`` (a ring of neighbours):

* ``…_seconds_per_round``: on the wall, the median over rounds of the slowest peer; the first round is not measured.
* ``…_core_seconds_per_round``: CPU seconds of all peers with all their threads, start and first round not counted.
* ``…_mb_per_peer``: millions of bytes that a peer sent in a round, the most of all peers and the median of them.
* ``ring_bound_mb``: 2·(n − 1)/n vectors, what any all-reduce of this kind sends.

A round with a server is measured by ``benchmarks.deployment``.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployment import AddOne
from benchmarks.measure import core_seconds, peak_rss_mb
from benchmarks.parties import single_threaded
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.topology import Topology
from unseen.rounds.neighbours import NeighbourSettings, exchange_models, neighbours_of
from unseen.rounds.peers import PeerSettings, take_part
from unseen.rounds.run import Round, Run

# Of what imports gRPC the first: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.tls import Identity, issue, make_authority

KINDS = ("shares", "ring", "gossip")
_PATIENCE = 300.0


def play(folder: Path, me: PartyId, kind: str, ports: list[int], asked: argparse.Namespace) -> None:
    """Play one peer to its end; leave what was measured in the folder."""
    names, run = names_of(asked.peers), JobId("benchmark")
    here, process, trainer = names.index(me), strategy("fed_avg"), AddOne(asked.size)
    marks = [core_seconds()]

    def observe(one: Round) -> None:
        del one
        marks.append(core_seconds())

    gossip = NeighbourSettings(run, names, Topology("ring"), asked.rounds + 1, deadline=_PATIENCE, observe=observe)
    linked = neighbours_of(gossip, me) if kind == "gossip" else frozenset(names) - {me}
    # Of two peers the later one dials.
    ends = {peer: f"127.0.0.1:{ports[names.index(peer)]}" if peer < me else None for peer in sorted(linked)}
    listen = f"127.0.0.1:{ports[here]}" if None in ends.values() else None
    options = Options(connect_grace=_PATIENCE)
    channel = GrpcChannel(Identity.load(folder / me), ends, listen=listen, options=options)
    examples = Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    found: Run
    if kind == "gossip":
        found = exchange_models(channel, process, trainer, examples, gossip).run
    else:
        mean = SecureMean(clip=4.0, clients=len(names), max_weight=1)
        settings = PeerSettings(run, names, asked.rounds + 1, kind, deadline=_PATIENCE, observe=observe)
        found = take_part(channel, secure(process, mean), trainer, examples, settings)
    if not np.allclose(found.state.model, asked.rounds + 1, atol=1e-3):
        raise SystemExit(f"the model is {found.state.model[:3]}, expected {asked.rounds + 1} everywhere")
    measured = found.history[1:]
    fields = {
        "seconds": [one.seconds for one in measured],
        "core": (marks[-1] - marks[1]) / asked.rounds,
        "bytes": statistics.median(one.bytes_up for one in measured),
        "rss": peak_rss_mb(),
    }
    (folder / f"{me}-{kind}.json").write_text(json.dumps(fields), encoding="utf-8")


def names_of(count: int) -> tuple[PartyId, ...]:
    """Return the peers' names, in ascending order."""
    return tuple(PartyId(f"peer-{number:03}") for number in range(count))


def measure(folder: Path, kind: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Start all peers, and return what was measured."""
    names = names_of(asked.peers)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = ",".join(str(one.getsockname()[1]) for one in sockets)
    sizes = ["--peers", str(asked.peers), "--size", str(asked.size), "--rounds", str(asked.rounds)]
    root, processes = Path(__file__).resolve().parent.parent, []
    try:
        for me in names:
            command = [sys.executable, "-m", "benchmarks.peers", *sizes, "--play", str(folder), me, kind, ports]
            processes.append(subprocess.Popen(command, cwd=root, stdout=sys.stderr, env=single_threaded()))
        if any(process.wait(_PATIENCE * 2) for process in processes):
            raise SystemExit("a peer failed; its words are above")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = [json.loads((folder / f"{me}-{kind}.json").read_text(encoding="utf-8")) for me in names]
    slowest = [max(times) for times in zip(*(one["seconds"] for one in found), strict=True)]
    sent = [one["bytes"] / 1e6 for one in found]
    return {
        f"{kind}_seconds_per_round": round(statistics.median(slowest), 4),
        f"{kind}_core_seconds_per_round": round(sum(one["core"] for one in found), 4),
        f"{kind}_mb_per_peer": [round(max(sent), 3), round(statistics.median(sent), 3)],
        f"{kind}_peak_rss_mb": round(max(one["rss"] for one in found), 1),
    }


def main() -> None:
    """Run the benchmark, or one of its peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--size", type=int, default=1_000_000, help="numbers of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        folder, me, kind, ports = asked.play
        play(Path(folder), PartyId(me), kind, [int(port) for port in ports.split(",")], asked)
        return
    now, found = datetime.now(UTC), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="unseen-benchmark-") as folder:
        authority = make_authority("Benchmark", days=1, now=now)
        for me in names_of(asked.peers):
            issue(authority, me, days=1, now=now).save(Path(folder) / me)
        for kind in KINDS:
            found |= measure(Path(folder), kind, asked)
    bound = 2 * (asked.peers - 1) / asked.peers * asked.size * 4 / 1e6
    what = {"peers": asked.peers, "size": asked.size, "rounds": asked.rounds, "ring_bound_mb": round(bound, 3)}
    print(json.dumps({"benchmark": "peers", **what, **found}))


if __name__ == "__main__":
    main()
