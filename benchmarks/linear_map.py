"""The secure linear map Mᵀv: scheme ``lattice``, measured, beside Paillier, extrapolated, on the same job.

``python -m benchmarks.linear_map [--rows 100000 --features 50 --bins 32]`` prints one JSON line. Two jobs:

* *histogram*: sums of one vector over every bin of every feature, for the vector holder; what a node of a tree needs.
  Vectors come in the batches of trees of depth 5 (1, 1, 2, 4, 8: the smaller child of every pair of siblings).
* *dense* (keys ``dense_…``): Xᵀd for as many fixed-point columns, for the matrix holder; a linear model's gradient.

``lattice_core_seconds`` are CPU seconds of both parties, each a process with links over gRPC and mutual TLS, all their
threads, **per vector** after the set-up; ``…_setup`` is the set-up, needed once a table, and ``…_with_setup`` a vector
and its share of the set-up if nothing but ``vectors`` vectors ever followed.
``paillier_core_seconds`` is **extrapolated** to the same rows from single operations of our own scheme ``paillier``
measured in this run: one encryption a row, one addition a row and feature, one re-randomisation and one decryption a
column of M (two statistics may share a ciphertext, as they do a word). ``paillier_check`` is the CPU time of a small
complete run, divided by the same extrapolation to its size: near 1, the extrapolation can be trusted.
``…_per_tree``: 16 vectors for ``lattice``; for Paillier one encryption a row for the whole tree and additions over all
rows at the root and half of them at each of four further levels, as systems built on it do.
``peer_…``: the same extrapolation for the library of a peer, if its environment exists: ``UNSEEN_PEER_PYTHON`` is its
interpreter and ``UNSEEN_PEER_BENCH`` the script that measures its operations (Okamoto–Uchiyama, 2048 bits).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import timed, whole
from benchmarks.parties import ACTIVE, PASSIVE, Part, run_parties, single_threaded, stage
from unseen.crypto.paillier import PrivateKey
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, converse
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.lattice import Lattice
from unseen.protocols.linear_map.matrices import BinnedMatrix, DenseMatrix, IntegerMatrix
from unseen.protocols.linear_map.paillier import Paillier
from unseen.protocols.linear_map.port import Bounds, LinearMap, Recipient, hold_matrix, hold_vectors

HISTOGRAM, DENSE = "histogram", "dense"
_TREE = (1, 1, 2, 4, 8)
_ROWS_PER_TREE = 3.0
"""Root and half of the rows at each of four further levels."""
_LARGEST_NORMAL = 4
_PEER_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """Whose rows meet how many vectors, in which batches."""

    kind: str
    rows: int
    features: int
    bins: int
    trees: int
    seed: int

    @property
    def batches(self) -> tuple[int, ...]:
        """Vectors of each call."""
        return _TREE * self.trees

    @property
    def columns(self) -> int:
        """Columns of M."""
        return self.features * (self.bins if self.kind == HISTOGRAM else 1)

    @property
    def recipient(self) -> Recipient:
        """Who learns the products."""
        return Recipient.VECTOR_HOLDER if self.kind == HISTOGRAM else Recipient.MATRIX_HOLDER

    def fitted(self, scheme: LinearMap) -> Fitted:
        """Return the job with the finest numbers that ``scheme`` carries exactly."""
        for matrix_bits, vector_bits in _PRECISIONS[self.kind]:
            found = Fitted(self, matrix_bits, vector_bits)
            try:
                scheme.check(found.bounds)
            except UsageError:
                continue
            return found
        raise SystemExit(f"scheme {scheme.name} carries no such job: {self}")


_PRECISIONS = {
    HISTOGRAM: [(0, bits) for bits in range(40, 8, -1)],
    DENSE: [(bits, bits + more) for bits in range(11, 4, -1) for more in (2, 1, 0)],
}
"""Fractional bits of columns and of vectors, the best first."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A job in fixed point; the root mean square of columns is about 2^matrix_bits, of vectors below 2^vector_bits."""

    job: Job
    matrix_bits: int
    vector_bits: int

    @property
    def bounds(self) -> Bounds:
        """What both parties agree on."""
        job, root = self.job, math.sqrt(self.job.rows)
        binned = job.kind == HISTOGRAM
        return Bounds(
            job.rows,
            job.columns,
            column_norm=root if binned else 1.2 * root * 2**self.matrix_bits,
            vector_norm=root * 2**self.vector_bits,
            entry=1 if binned else _LARGEST_NORMAL << self.matrix_bits,
            vector_sum=job.rows * 2.0**self.vector_bits,
            recipient=job.recipient,
        )

    def codes(self) -> NDArray[np.int64]:
        """Return the bin, or the fixed-point value, of every feature and row, shape (features, rows)."""
        job, stream = self.job, np.random.default_rng([self.job.seed, 1])
        if job.kind == HISTOGRAM:
            return stream.integers(job.bins, size=(job.features, job.rows))
        values = stream.standard_normal((job.features, job.rows)).clip(-_LARGEST_NORMAL, _LARGEST_NORMAL)
        return np.rint(values * 2**self.matrix_bits).astype(np.int64)

    def matrix(self) -> IntegerMatrix:
        """Return M."""
        if self.job.kind == HISTOGRAM:
            return BinnedMatrix(self.codes().astype(np.uint8), (self.job.bins,) * self.job.features)
        return DenseMatrix(self.codes().astype(np.int16))

    def vectors(self) -> NDArray[np.int64]:
        """Return all vectors, shape (count, rows)."""
        limit, count = 1 << self.vector_bits, max(1, sum(self.job.batches))
        return np.random.default_rng([self.job.seed, 2]).integers(1 - limit, limit, size=(count, self.job.rows))

    def product(self, vector: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return Mᵀv, worked out by numpy."""
        codes = self.codes()
        if self.job.kind == DENSE:
            return codes @ vector
        # Below 2^52 floating-point sums of integers are exact.
        low, high = vector & 0xFFFFF, vector >> 20
        sums = [[np.bincount(each, half, self.job.bins) for half in (low, high)] for each in codes]
        return np.concatenate([a.astype(np.int64) + (b.astype(np.int64) << 20) for a, b in sums])


# --- the two parties -----------------------------------------------------------------------------------------------


def part(me: PartyId, fields: dict[str, Any]) -> Part:
    """Return one party's side of a job under the scheme ``lattice``."""
    job, scheme = Job(**fields), Lattice()
    fitted = job.fitted(scheme)
    holder = _vector_holder(fitted, scheme) if me == ACTIVE else _matrix_holder(fitted, scheme)

    def report(found: NDArray[np.int64] | None) -> dict[str, Any]:
        right = found is None or np.array_equal(found, fitted.product(fitted.vectors()[-1]))
        return {"knows": found is not None, "right": bool(right), "bits": [fitted.matrix_bits, fitted.vector_bits]}

    return Part(holder, report)


def _matrix_holder(fitted: Fitted, scheme: LinearMap) -> Dialogue[NDArray[np.int64] | None]:
    job, matrix = fitted.job, fitted.matrix()
    side = yield from stage("setup", hold_matrix(scheme, matrix, fitted.bounds, peer=ACTIVE, prg=Prg.fresh()))

    def answer() -> Dialogue[NDArray[np.int64] | None]:
        found = None
        for count in job.batches:
            found = yield from side.multiply(count, job.recipient)
        return None if found is None else found[-1]

    return (yield from stage("multiply", answer()))


def _vector_holder(fitted: Fitted, scheme: LinearMap) -> Dialogue[NDArray[np.int64] | None]:
    job = fitted.job
    batches = np.split(fitted.vectors(), np.cumsum(job.batches)[:-1])
    side = yield from stage("setup", hold_vectors(scheme, fitted.bounds, peer=PASSIVE, prg=Prg.fresh()))

    def ask() -> Dialogue[NDArray[np.int64] | None]:
        found = None
        for batch in batches:
            found = yield from side.multiply(batch, job.recipient)
        return None if found is None else found[-1]

    return (yield from stage("multiply", ask()))


# --- lattice, measured ---------------------------------------------------------------------------------------------


def lattice(job: Job) -> dict[str, Any]:
    """Return what the scheme costs, per vector."""
    runs = run_parties("benchmarks.linear_map:part", asdict(job))
    setup, multiply, count = whole(runs, "setup"), whole(runs, "multiply"), sum(job.batches)
    told = [run.report for run in runs]
    if not all(each["right"] for each in told) or not any(each["knows"] for each in told):
        raise SystemExit(f"the scheme 'lattice' gave a wrong product: {job}")
    return {
        "lattice_core_seconds": multiply.core_seconds / count,
        "lattice_core_seconds_setup": setup.core_seconds,
        "lattice_core_seconds_with_setup": (multiply.core_seconds + setup.core_seconds) / count,
        "lattice_core_seconds_per_tree": multiply.core_seconds / job.trees,
        "lattice_seconds": multiply.seconds / count,
        "lattice_seconds_setup": setup.seconds,
        "lattice_bytes": multiply.bytes // count,
        "lattice_bytes_setup": setup.bytes,
        "lattice_peak_rss_mb": round(max(run.peak_rss_mb for run in runs)),
        "lattice_matrix_bits": told[0]["bits"][0],
        "lattice_vector_bits": told[0]["bits"][1],
    }


# --- Paillier, extrapolated ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operations:
    """CPU seconds of one operation of an additively homomorphic scheme."""

    encrypt: float
    add: float
    scale: float
    """Multiply by a fixed-point number and add."""
    close: float
    """Whatever comes once a result: re-randomisation, decryption."""

    def job(self, job: Job) -> float:
        """Return the CPU seconds of one vector."""
        each = self.add if job.kind == HISTOGRAM else self.scale
        return job.rows * (self.encrypt + job.features * each) + job.columns * self.close

    def tree(self, job: Job) -> float:
        """Return the CPU seconds of a tree whose rows are encrypted once."""
        additions = _ROWS_PER_TREE * job.rows * job.features * self.add
        return job.rows * self.encrypt + additions + sum(_TREE) * job.columns * self.close


def paillier_operations(samples: int = 64) -> Operations:
    """Return the cost of our own Paillier's operations, modulus and plaintexts as the scheme has them."""
    prg = Prg.fresh()
    key = PrivateKey.generate(prg.derive("key"))
    public, values = key.public, list(range(samples))
    ciphertexts = [key.encrypt(value, prg) for value in values]
    spread = ciphertexts * 16
    weights = Fitted(Job(DENSE, len(spread), 1, 1, 1, 1), *_PRECISIONS[DENSE][0]).codes()[0]
    return Operations(
        encrypt=_each(lambda: [key.encrypt(value, prg) for value in values], samples),
        add=_each(lambda: public.combine(spread, np.ones(len(spread), np.int64)), len(spread)),
        scale=_each(lambda: public.combine(spread, weights), len(spread)),
        close=_each(lambda: [key.decrypt(public.rerandomise(each, prg)) for each in ciphertexts], samples),
    )


def _each(work: Callable[[], object], count: int) -> float:
    return timed(work)[1].core_seconds / count


def paillier(job: Job, costs: Operations, check_rows: int) -> dict[str, Any]:
    """Return what Paillier would cost, and how a small complete run compares with such an extrapolation."""
    small = Job(job.kind, check_rows, 4, min(8, job.bins), 0, job.seed)
    return {
        "paillier_core_seconds": costs.job(job),
        "paillier_core_seconds_per_tree": costs.tree(job),
        "paillier_check": _complete(small) / costs.job(small),
    }


def _complete(job: Job) -> float:
    """Return the CPU seconds of one vector under the scheme ``paillier``, all of it but the key's generation."""
    scheme = Paillier()
    fitted = job.fitted(scheme)
    vector, started = fitted.vectors(), 0.0

    def holder() -> Dialogue[NDArray[np.int64] | None]:
        side = yield from hold_matrix(scheme, fitted.matrix(), fitted.bounds, peer=ACTIVE, prg=Prg.fresh())
        return (yield from side.multiply(1, job.recipient))

    def asker() -> Dialogue[NDArray[np.int64] | None]:
        nonlocal started
        side = yield from hold_vectors(scheme, fitted.bounds, peer=PASSIVE, prg=Prg.fresh())
        started = time.process_time()
        return (yield from side.multiply(vector, job.recipient))

    found = converse({ACTIVE: asker(), PASSIVE: holder()})
    ended = time.process_time()
    answer = found[ACTIVE] if job.kind == HISTOGRAM else found[PASSIVE]
    if answer is None or not np.array_equal(answer[0], fitted.product(vector[0])):
        raise SystemExit(f"the scheme 'paillier' gave a wrong product: {job}")
    return ended - started


# --- the peer's library --------------------------------------------------------------------------------------------


def peer_operations() -> tuple[str, Operations | None]:
    """Return the name of the peer's library and its costs, or why there are none."""
    python, script = os.environ.get("UNSEEN_PEER_PYTHON"), os.environ.get("UNSEEN_PEER_BENCH")
    if not python or not script or not Path(python).exists() or not Path(script).exists():
        return "skipped: UNSEEN_PEER_PYTHON and UNSEEN_PEER_BENCH name no interpreter and script", None
    try:
        said = subprocess.run(
            [python, script, "OU", "2000", "3"],
            env=single_threaded(),
            capture_output=True,
            text=True,
            timeout=_PEER_PATIENCE,
            check=True,
        ).stdout
        rates = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        return f"{rates['lib']} {rates['schema']}", _read(rates)
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError, KeyError) as error:
        return f"skipped: {type(error).__name__}", None


def _read(rates: dict[str, Any]) -> Operations:
    costs = {name: 1 / value["per_cpu_s"] for name, value in _measured(rates)}
    add = next(cost for name, cost in costs.items() if name.startswith("bucket_sum"))
    scale = next(cost for name, cost in costs.items() if name.startswith("mul_ct_pt"))
    return Operations(costs["encrypt"], add, scale + costs["add_ct_ct"], costs["decrypt"] + costs["encrypt"])


def _measured(rates: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    return ((name, value) for name, value in rates.items() if isinstance(value, dict))


# --- the line ------------------------------------------------------------------------------------------------------


def compare(job: Job, costs: Operations, peer: Operations | None, check_rows: int) -> dict[str, Any]:
    """Return the figures of one job."""
    found = lattice(job) | paillier(job, costs, check_rows)
    if peer is not None:
        found |= {"peer_core_seconds": peer.job(job), "peer_core_seconds_per_tree": peer.tree(job)}
    for name in ("paillier", "peer") if peer else ("paillier",):
        cost = found[f"{name}_core_seconds"]
        found[f"{name}_ratio"] = cost / found["lattice_core_seconds"]
        found[f"{name}_ratio_with_setup"] = cost / found["lattice_core_seconds_with_setup"]
        found[f"{name}_ratio_per_tree"] = (
            found[f"{name}_core_seconds_per_tree"] / found["lattice_core_seconds_per_tree"]
        )
    if job.kind == DENSE:
        found = {name: value for name, value in found.items() if not name.endswith("per_tree")}
    return {name: _short(value) for name, value in found.items()}


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--trees", type=int, default=2, help="batches of 16 vectors")
    parser.add_argument("--check-rows", type=int, default=300, help="rows of the complete run with Paillier")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    jobs = [Job(kind, asked.rows, asked.features, asked.bins, asked.trees, asked.seed) for kind in (HISTOGRAM, DENSE)]
    for job in jobs:
        lattice(Job(job.kind, 2000, 2, asked.bins, 1, asked.seed))  # compiles what is not in the cache yet
    peer, rates = peer_operations()
    costs = paillier_operations()
    histogram, dense = (compare(job, costs, rates, asked.check_rows) for job in jobs)
    line = {
        "name": "linear_map",
        **asdict(jobs[0]),
        "vectors": sum(jobs[0].batches),
        "counted": "CPU seconds of both parties per vector; paillier and peer extrapolated per operation",
        "paillier_key_bits": Paillier().key_bits,
        "peer": peer,
        **histogram,
        **{f"dense_{name}": value for name, value in dense.items()},
    }
    print(json.dumps({name: value for name, value in line.items() if name != "kind"}))


if __name__ == "__main__":
    main()
