"""Rounds of a deployed run without training: a server and four clients, each a process, over mutual TLS on loopback.

``python -m benchmarks.deployment [--clients 4 --megabytes 10 --rounds 20 --nothing-kept --secure]`` prints a JSON line.
Clients add 1 to the model and send it back as an update of FedAvg; all else is as in a real run: the server keeps the
state of every round, and every client its answer, durably. The first three rounds are not measured.

* ``seconds_per_round``: on the wall, from the end of a round to the end of the next; the median. The longest one is
  ``slowest_round_seconds``.
* ``core_seconds_per_round``: CPU seconds of all processes with all their threads; the median.
* ``bytes_per_round``: what moved on the server's links in both directions, without HTTP/2 and TLS; the median.
* ``client_core_seconds``: CPU seconds of one client a round; the median over clients of their medians.
* with ``--secure``, the same again as ``secure_…`` for rounds whose mean is taken by SecAgg+.
* ``peak_rss_mb``: the peaks of all processes, added up; ``server_peak_rss_mb`` is the server's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.measure import core_seconds, peak_rss_mb
from benchmarks.parties import single_threaded
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Correction, Examples, Fit, LocalPlan, Process, Vector
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.events import Event, What
from unseen.rounds.identities import Signer, public_key, signing_key
from unseen.rounds.run import Round
from unseen.rounds.serve import Server, ServeSettings

# Of what imports gRPC the first: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.tls import Identity, issue, make_authority

RUN, SERVER = JobId("benchmark"), PartyId("server")
PROCESS = strategy("fed_avg")
SIGNING_KEY, ROSTER = "signing.key", "roster.json"
_WARM = 3
"""Rounds that are not measured: connections are made, memory is taken, kernels are loaded."""
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is played: how long the model is, whether things are kept, whether updates are hidden."""

    size: int
    kept: bool
    secure: bool

    def process(self, clients: int) -> Process:
        """Return the process for so many clients, the same at all of them."""
        return secure(PROCESS, SecureMean(clip=2.0, clients=clients, max_weight=1)) if self.secure else PROCESS

    def flags(self) -> list[str]:
        """Return the arguments for a client's program."""
        given = {"--nothing-kept": not self.kept, "--secure": self.secure}
        return ["--size", str(self.size), *(flag for flag, set_ in given.items() if set_)]


class AddOne:
    """A model that training changes by 1, so that a run can be checked."""

    def __init__(self, size: int) -> None:
        self.size = size

    def settle(self) -> None:
        """Prepare nothing."""

    def initial(self, seed: int) -> Vector:
        """Return zeros."""
        del seed
        return np.zeros(self.size, np.float32)

    def fit(
        self, model: Vector, examples: Examples, plan: LocalPlan, rng: np.random.Generator, correction: Correction
    ) -> Fit:
        """Return the model and 1."""
        del examples, plan, rng, correction
        return Fit(model + np.float32(1), 1, 0.0)

    def gradient(self, model: Vector, examples: Examples) -> tuple[Vector, float]:
        """Return the gradient that points there."""
        del examples
        return np.full_like(model, -1), 0.0

    def evaluate(self, model: Vector, examples: Examples) -> dict[str, float]:
        """Return how far the model has come."""
        del examples
        return {"first": float(model[0])}

    def part(self, *names: str) -> slice:
        """Return all of it."""
        del names
        return slice(None)


class Marks:
    """What this process has spent after each round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.core: list[float] = []
        self.bytes: list[int] = []

    def add(self, moved: int = 0) -> None:
        """Take note."""
        self.seconds.append(perf_counter())
        self.core.append(core_seconds())
        self.bytes.append(moved)

    def fields(self) -> dict[str, Any]:
        """Return the CPU seconds between rounds, and peak memory."""
        return {"core": np.diff(self.core).tolist(), "peak_rss_mb": peak_rss_mb()}


def play_client(folder: Path, name: PartyId, address: str, way: Way) -> None:
    """Attend the run to its end; leave what was measured in the folder."""
    identity, marks = Identity.load(folder / name), Marks()

    def watch(event: Event) -> None:
        if event.what is What.ANSWERED:
            marks.add()

    own, roster = folder / f"{name}-run" if way.kept else None, _roster(folder)
    signer = Signer(signing_key(folder / name / SIGNING_KEY), roster)
    settings = AttendSettings(RUN, seed=0, folder=own, patience=_PATIENCE, signer=signer, watch=watch)
    examples = Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    attend(
        lambda: GrpcChannel(identity, {SERVER: address}, options=Options(connect_grace=_PATIENCE)),
        way.process(len(roster)),
        AddOne(way.size),
        examples,
        settings,
    )
    (folder / f"{name}.json").write_text(json.dumps(marks.fields()), encoding="utf-8")


def play_server(folder: Path, names: list[PartyId], rounds: int, way: Way) -> dict[str, Any]:
    """Serve the run with a process for every client; return what was measured."""
    _make_identities(folder, names)
    marks, count = Marks(), len(names)
    settings = ServeSettings(
        RUN,
        cohort=Uniform(count),
        minimum=count,
        deadline=_PATIENCE,
        phase_deadline=_PATIENCE,
        roster=_roster(folder),
        folder=folder / "run" if way.kept else None,
    )
    channel = GrpcChannel(Identity.load(folder / SERVER), dict.fromkeys(names), listen="127.0.0.1:0")

    def observe(one: Round) -> None:
        marks.add(sum(channel.traffic(name) for name in names))
        print(f"round {one.number}: {one.seconds:.3f} s", file=sys.stderr)

    with ExitStack() as stack:
        clients = [stack.enter_context(_client(folder, name, channel.port, way)) for name in names]
        server = stack.enter_context(Server(channel, way.process(count), AddOne(way.size), settings))
        run = server.rounds(_WARM + rounds, observe=observe)
        server.finish()
        if any(client.wait(_PATIENCE) for client in clients):
            raise SystemExit("a client failed; its words are above")
    if not (run.state.model == _WARM + rounds).all():
        raise SystemExit(f"the model is {run.state.model}, expected {_WARM + rounds} everywhere")
    return _report(marks, [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names])


def _make_identities(folder: Path, names: list[PartyId]) -> None:
    now = datetime.now(UTC)
    authority = make_authority("Benchmark", days=1, now=now)
    for party in (SERVER, *names):
        issue(authority, party, days=1, now=now).save(folder / party)
    public = {name: public_key(signing_key(folder / name / SIGNING_KEY)).hex() for name in names}
    (folder / ROSTER).write_text(json.dumps(public), encoding="utf-8")


def _roster(folder: Path) -> dict[PartyId, bytes]:
    public = json.loads((folder / ROSTER).read_text(encoding="utf-8"))
    return {PartyId(name): bytes.fromhex(key) for name, key in public.items()}


def _report(marks: Marks, clients: list[dict[str, Any]]) -> dict[str, Any]:
    mine = marks.fields()
    warm = slice(_WARM - 1, None)
    cores = zip(*(one["core"][warm] for one in (mine, *clients)), strict=True)
    seconds = np.diff(marks.seconds)[warm]
    return {
        "seconds_per_round": round(float(np.median(seconds)), 4),
        "slowest_round_seconds": round(float(np.max(seconds)), 4),
        "core_seconds_per_round": round(statistics.median(map(sum, cores)), 4),
        "client_core_seconds": round(statistics.median(statistics.median(one["core"][warm]) for one in clients), 4),
        "bytes_per_round": int(np.median(np.diff(marks.bytes)[warm])),
        "peak_rss_mb": round(mine["peak_rss_mb"] + sum(one["peak_rss_mb"] for one in clients), 1),
        "server_peak_rss_mb": round(mine["peak_rss_mb"], 1),
    }


@contextmanager
def _client(folder: Path, name: PartyId, port: int, way: Way) -> Iterator[subprocess.Popen[bytes]]:
    """Start a client's process; it does not outlive the block."""
    command = [sys.executable, "-m", "benchmarks.deployment", "--attend", str(folder), name, f"127.0.0.1:{port}"]
    command += way.flags()
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, cwd=root, stdout=sys.stderr, env=single_threaded())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Run the benchmark, or one of its clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=10.0, help="of the model, in 32-bit numbers")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--nothing-kept", action="store_true", help="neither state nor answers are written to a disk")
    parser.add_argument("--secure", action="store_true", help="measure rounds by SecAgg+, too")
    parser.add_argument("--attend", nargs=3, metavar=("FOLDER", "NAME", "ADDRESS"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    kept = not asked.nothing_kept
    if asked.attend:
        folder, name, address = asked.attend
        play_client(Path(folder), PartyId(name), address, Way(asked.size, kept, asked.secure))
        return
    names = [PartyId(f"client-{number}") for number in range(asked.clients)]
    size = int(asked.megabytes * 1e6 / 4)
    found: dict[str, Any] = {}
    for hidden in (False, True)[: 1 + asked.secure]:
        with tempfile.TemporaryDirectory(prefix="unseen-benchmark-") as folder:
            figures = play_server(Path(folder), names, asked.rounds, Way(size, kept, hidden))
        found |= {f"secure_{key}" if hidden else key: value for key, value in figures.items()}
    what = {"clients": asked.clients, "megabytes": asked.megabytes, "rounds": asked.rounds, "kept": kept}
    print(json.dumps({"benchmark": "deployment", **what, **found}))


if __name__ == "__main__":
    main()
