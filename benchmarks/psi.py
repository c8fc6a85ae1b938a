"""Private set intersection from Parquet to Parquet, two processes over mutual TLS on loopback.

``python -m benchmarks.psi --n 1000000 [--protocol vole|ecdh|auto]`` prints one JSON line. Each party has a file of n
rows, an id of 19 characters and one number, in random order; half of the people are shared. A party reads its file into
a table (every row is checked), takes the ids, meets the other, and writes its shared rows, in the common order.

* ``seconds``: from before the files are read until both are written, of the slower party; medians of ``--runs`` runs in
  new processes. They have started by then, libraries and the compiler's run time included, and have met; compiled
  kernels are loaded from disk within this time.
* ``core_seconds``: CPU of both parties within it, all threads; ``bytes``: all messages of both.
* ``peak_rss_mb``: of the larger process, from its start to its end, the making of its file left out.
* ``…_protocol``: the dialogue alone, without files.
* ``peer_…``: a peer's library on the same ids, from CSV to CSV, if its environment exists: ``UNSEEN_PEER_PYTHON`` is
  its interpreter, ``UNSEEN_PEER_BENCH`` a script that is called ``script PROTOCOL CURVE n folder 1`` where the folder
  holds ``alice_n.csv`` and ``bob_n.csv``, and prints a line of JSON with ``wall_med``, ``cpu_med``, ``MB``, ``rss_MB``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.measure import PartyRun
from benchmarks.parties import ACTIVE, BOTH, Part, add_threads, other, run_parties, stage, use_threads
from unseen.crypto.prg import Prg
from unseen.data.keys import KeyColumn, join_keys
from unseen.data.readers import read_table
from unseen.dialogue import Dialogue, Enter, Leave
from unseen.ids import PartyId, StepId
from unseen.protocols.psi.automatic import Choice, intersect
from unseen.protocols.psi.port import Items, Meeting

_WARM_UP = 3000
_PEER_PATIENCE = 1800
_PEERS = (("RR22", "-"), ("KKRT", "-"))


def ids(count: int, me: PartyId) -> NDArray[np.int64]:
    """Return the numbers of a party's people in the order of its rows; half of each are the other's too."""
    first = 0 if me == ACTIVE else count - count // 2
    return first + np.random.default_rng(7 if me == ACTIVE else 8).permutation(count)


def frame(count: int, me: PartyId) -> pl.DataFrame:
    """Return a party's rows."""
    numbers = pl.Series("id", ids(count, me))
    text = ("u" + (10**17 + numbers * 7919).cast(pl.String).str.zfill(18)).alias("id")
    return pl.DataFrame([text, (numbers % 1000).cast(pl.Float64).alias("x")])


# --- a party -------------------------------------------------------------------------------------------------------


def part(me: PartyId, options: dict[str, Any]) -> Part:
    """Return one party's side: from its file to its file."""
    Items.of([b""]).digests(b"")  # the compiler's run time is loaded with the first kernel
    return Part(_side(me, Path(options["folder"]), options["protocol"]), lambda shared: {"shared": shared})


def _side(me: PartyId, folder: Path, protocol: Choice) -> Dialogue[int]:
    """Play the party; stage ``whole`` is cut in three, of which ``protocol`` is the middle one."""
    yield Enter(StepId("read"))
    table, _ = read_table(folder / f"{me}.parquet")
    keys = join_keys(table, [KeyColumn(table.schema.id.name)])
    yield Leave()
    meeting = Meeting(me, (other(me),), Prg.fresh(), b"benchmark")
    found = yield from stage("protocol", intersect(Items(keys.content, keys.offsets), meeting, protocol=protocol))
    yield Enter(StepId("write"))
    shared = table.take(keys.firsts[found.known()])
    shared.write(folder / f"{me}.shared.parquet")
    yield Leave()
    return shared.rows


# --- the parent ----------------------------------------------------------------------------------------------------


def measure(n: int, protocol: str, folder: Path) -> dict[str, Any]:
    """Return what one run with ``n`` rows a party costs, once the result has been checked.

    Raises:
        SystemExit: The parties' files do not hold the shared people in one order.
    """
    runs = run_parties("benchmarks.psi:part", {"folder": str(folder), "protocol": protocol})
    _check(n, folder)
    names = ("read", "protocol", "write")
    costs = [[run.cost(name) for name in names] for run in runs]
    return {
        "seconds": max(_elapsed(run) for run in runs),
        "core_seconds": sum(cost.core_seconds for own in costs for cost in own),
        "bytes": sum(cost.bytes for own in costs for cost in own),
        "peak_rss_mb": max(run.peak_rss_mb for run in runs),
        "seconds_protocol": max(own[1].seconds for own in costs),
        "core_seconds_protocol": sum(own[1].core_seconds for own in costs),
    }


def _elapsed(run: PartyRun) -> float:
    return run.stages["write"][-1].spent.seconds - run.stages["read"][0].spent.seconds


def _check(n: int, folder: Path) -> None:
    found = [pl.read_parquet(folder / f"{me}.shared.parquet")["id"] for me in BOTH]
    expected = set(ids(n, ACTIVE)) & set(ids(n, other(ACTIVE))) if n <= _WARM_UP else None
    if not found[0].equals(found[1]) or len(found[0]) != n // 2 or (expected and len(expected) != n // 2):
        raise SystemExit(f"the parties' results differ, or are not the {n // 2} people whom both know")


def make_files(n: int, folder: Path) -> None:
    """Write both parties' files, in a process of its own, so that no party's memory counts them."""
    code = "import sys; from benchmarks.psi import write_files; write_files(int(sys.argv[1]), sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(n), str(folder)], check=True)


def write_files(n: int, folder: str) -> None:
    """Write both parties' Parquet files, and the CSV files of ids that a peer's script reads."""
    for me, name in zip(BOTH, ("alice", "bob"), strict=True):
        rows = frame(n, me)
        rows.write_parquet(Path(folder) / f"{me}.parquet")
        rows.select("id").write_csv(Path(folder) / f"{name}_{n}.csv")


def peer(n: int, folder: Path) -> dict[str, Any]:
    """Return what the peer's protocols cost on the same ids, or why that is not known."""
    python, script = os.environ.get("UNSEEN_PEER_PYTHON"), os.environ.get("UNSEEN_PEER_BENCH")
    if not python or not script or not Path(python).exists() or not Path(script).exists():
        return {"peer": "skipped: UNSEEN_PEER_PYTHON and UNSEEN_PEER_BENCH name no interpreter and script"}
    found: dict[str, Any] = {}
    (folder / "data").mkdir(exist_ok=True)  # where the script writes
    for protocol, curve in _PEERS:
        command = [python, script, protocol, curve, str(n), str(folder), "1", "1", "1"]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, timeout=_PEER_PATIENCE, check=True, cwd=folder
            ).stdout
            line = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        except (OSError, subprocess.SubprocessError, StopIteration, ValueError) as error:
            return found | {"peer": f"skipped: {type(error).__name__}"}
        name = f"peer_{protocol.lower()}"
        found |= {f"{name}_seconds": line["wall_med"], f"{name}_core_seconds": line["cpu_med"]}
        found |= {f"{name}_mb": line["MB"], f"{name}_peak_rss_mb": max(line["rss_MB"])}
        found["peer"] = line["lib"]
    return found


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Private set intersection, from Parquet to Parquet.")
    parser.add_argument("--n", type=int, default=1_000_000, help="rows of each party")
    parser.add_argument("--protocol", choices=("auto", "ecdh", "vole"), default="auto")
    parser.add_argument("--runs", type=int, default=3)
    add_threads(parser)
    asked = parser.parse_args()
    threads = use_threads(asked.threads)
    with tempfile.TemporaryDirectory(prefix="unseen-psi-") as name:
        folder = Path(name)
        make_files(_WARM_UP, folder)
        measure(_WARM_UP, "vole", folder)  # compiles the kernels
        make_files(asked.n, folder)
        runs = [measure(asked.n, asked.protocol, folder) for _ in range(asked.runs)]
        costs = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        line = {
            "name": "psi",
            "n": asked.n,
            "protocol": asked.protocol,
            "threads": threads,
            "runs": asked.runs,
            **costs,
        }
        line |= peer(asked.n, folder)
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
