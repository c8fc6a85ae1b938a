"""Runs the two parties of a benchmark, each in a process of its own, over gRPC and mutual TLS on loopback.

The parent makes the certificates and starts a child once a party. The child makes its own data
from the seed, meets its peer, waits until both are ready, plays its side of the dialogue, and leaves what it measured
in the run's folder. No file and no flow is involved; tables never leave the process that made them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.measure import Meter, PartyRun, peak_rss_mb
from unseen.codec import message
from unseen.dialogue import Dialogue, Enter, Leave, receive, send
from unseen.ids import JobId, PartyId, StepId
from unseen.kernels.blocks import threads as threads_of_kernels

# First of what imports gRPC: it sets what gRPC reads then.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.session import Session
from unseen.transport.tls import Identity, issue, make_authority

R = TypeVar("R")

ACTIVE, PASSIVE = PartyId("active"), PartyId("passive")
BOTH = (ACTIVE, PASSIVE)
_OPTIONS = "options.json"
_PATIENCE = 900.0
_POLL = 0.05
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
_THREADS = ("UNSEEN_THREADS", *_LIBRARIES)


@dataclass(frozen=True, slots=True)
class Part:
    """One party's side of a benchmark: what it plays in stages, and what it tells of the result, as JSON has it."""

    dialogue: Dialogue[Any]
    report: Callable[[Any], dict[str, Any]]


@message("benchmarks/ready")
class Ready:
    """The sender has made its data."""


def stage(name: str, dialogue: Dialogue[R]) -> Dialogue[R]:
    """Play ``dialogue`` and let it be measured under ``name``."""
    yield Enter(StepId(name))
    result = yield from dialogue
    yield Leave()
    return result


def other(me: PartyId) -> PartyId:
    """Return the other party."""
    return PASSIVE if me == ACTIVE else ACTIVE


def single_threaded(threads: int = 1) -> dict[str, str]:
    """Return this process's environment with as many threads for every numerical library."""
    return {**os.environ, **dict.fromkeys(_THREADS, str(threads))}


# --- the parent ----------------------------------------------------------------------------------------------------


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--threads``, for ``use_threads``."""
    parser.add_argument("--threads", type=int, help="threads of each party; all cores if not given, as in the product")


def use_threads(asked: int | None) -> int:
    """Let this process and the parties it starts use as many threads each; return how many they use."""
    if asked is not None:
        os.environ.update(single_threaded(asked))
    return threads_of_kernels()


def run_parties(part: str, options: Mapping[str, Any]) -> tuple[PartyRun, PartyRun]:
    """Return what the active and the passive party measured, each with the threads of the environment: all cores.

    ``part`` names a function, ``module:function``, that takes a party and ``options`` and returns its ``Part``.

    Raises:
        SystemExit: A process failed; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="unseen-benchmark-") as name:
        folder = Path(name)
        _prepare(folder, options)
        address = f"127.0.0.1:{_free_port()}"
        processes = [_start(part, me, folder, address) for me in BOTH]
        try:
            _wait(processes)
        finally:
            _stop(processes)
        found = [PartyRun.read(json.loads((folder / f"{me}.json").read_text(encoding="utf-8"))) for me in BOTH]
    return found[0], found[1]


def _prepare(folder: Path, options: Mapping[str, Any]) -> None:
    (folder / _OPTIONS).write_text(json.dumps(options), encoding="utf-8")
    now = datetime.now(UTC)
    authority = make_authority("Benchmark", days=1, now=now)
    for me in BOTH:
        issue(authority, me, days=1, now=now).save(folder / me)


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


def _start(part: str, me: PartyId, folder: Path, address: str) -> subprocess.Popen[bytes]:
    # Not -m: then this module would exist twice, as __main__ and under its name.
    command = [sys.executable, "-c", "from benchmarks.parties import main; main()", part, me, str(folder), address]
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(command, cwd=root, stdout=sys.stderr)


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    while any(process.poll() is None for process in processes):
        _check(processes)
        time.sleep(_POLL)
    _check(processes)


def _check(processes: list[subprocess.Popen[bytes]]) -> None:
    for me, process in zip(BOTH, processes, strict=True):
        if process.poll():
            raise SystemExit(f"the {me} party's process ended with code {process.returncode}; its words are above")


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


# --- a child -------------------------------------------------------------------------------------------------------


def _play(part: Part, me: PartyId, folder: Path, address: str) -> PartyRun:
    listen, endpoint = (address, None) if me == ACTIVE else (None, address)
    meter = Meter()
    with (
        GrpcChannel(
            Identity.load(folder / me), {other(me): endpoint}, listen=listen, options=Options(connect_grace=_PATIENCE)
        ) as channel,
        Session(channel, job=JobId("benchmark"), observe=meter) as session,
    ):
        session.run(_meet(other(me)))
        result = session.run(part.dialogue)
        peak = peak_rss_mb()
    return PartyRun(meter.stages, peak, part.report(result))


def _meet(peer: PartyId) -> Dialogue[None]:
    """Wait for the peer to be ready."""
    yield from send(peer, Ready())
    yield from receive(peer, Ready)


def main() -> None:
    """Play one party."""
    parser = argparse.ArgumentParser(description="One party of a benchmark; started by the benchmark itself.")
    for name in ("part", "party", "folder", "address"):
        parser.add_argument(name)
    asked = parser.parse_args()
    module, _, function = asked.part.partition(":")
    folder, me = Path(asked.folder), PartyId(asked.party)
    options = json.loads((folder / _OPTIONS).read_text(encoding="utf-8"))
    part: Part = getattr(importlib.import_module(module), function)(me, options)
    run = _play(part, me, folder, asked.address)
    (folder / f"{me}.json").write_text(json.dumps(run.fields()), encoding="utf-8")


if __name__ == "__main__":
    main()
