"""``compressed``: a strategy whose clients send their updates through a codec, with or without error feedback.

Source: S. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, Algorithm 1, and S. P.
Karimireddy, Q. Rebjock, S. Stich, M. Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML
2019, Algorithm 2: what a message has left out is kept and added to the next one, e ← p − C(p) with p = Δ + e, so that
nothing is lost for good, and a biased codec reaches the optimum, too.

What travels is the message of the codec; the update that goes on is what the server reads in it. Only the difference of
the model is encoded: control variates and other extra vectors travel as they are. Compression comes last, after
clipping and noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.compression.encoded import Codec, Encoded, wire_bytes
from unseen.learners.horizontal.process import (
    Assignment,
    Memory,
    Postprocessor,
    Process,
    Trainer,
    Update,
    Vector,
    Work,
    refuse_diverged,
)
from unseen.learners.horizontal.strategies.parts import Personal, named
from unseen.learners.horizontal.sums import SumAggregator


@dataclass(frozen=True, slots=True)
class Compressed:
    """Work, and its postprocessors, whose update is then encoded; with ``feedback`` the rest is kept as ``residual``.

    Metrics gain ``upload_bytes``, the length of the message, and ``lost``, ‖p − C(p)‖²/‖p‖².

    Raises:
        DataError: The update holds numbers that are not finite: no codec can hide them.
    """

    work: Work
    postprocessors: tuple[Postprocessor, ...]
    codec: Codec
    feedback: bool

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update as the server reads it, and what the client keeps."""
        update, memory, encoded = self.encoded(trainer, assignment)
        del encoded
        return update, memory

    def encoded(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory, Encoded]:
        """Return the same, and the message that travels in place of the update's difference."""
        update, memory = self.work(trainer, assignment)
        for postprocess in self.postprocessors:
            update = postprocess(update, assignment)
        wanted = update.delta
        refuse_diverged(assignment.client, wanted)
        if self.feedback:
            wanted = wanted + named(assignment.memory, "residual", len(wanted))
        encoded = self.codec.encode(wanted, assignment.rng)
        sent = self.codec.decode(encoded, len(wanted))
        metrics = {**update.metrics, "upload_bytes": float(wire_bytes(encoded)), "lost": lost(wanted, sent)}
        kept = {**memory, "residual": wanted - sent} if self.feedback else memory
        return replace(update, delta=sent, metrics=metrics), kept, encoded

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the client's own model, if the strategy has one, else that of all."""
        work = self.work
        return work.personal(trainer, assignment) if isinstance(work, Personal) else assignment.broadcast.model


def lost(wanted: Vector, sent: Vector) -> float:
    """Return ‖wanted − sent‖²/‖wanted‖², 0 for zeros."""
    whole = float(np.sum(np.square(wanted, dtype=np.float64)))
    return float(np.sum(np.square(np.subtract(wanted, sent, dtype=np.float64)))) / whole if whole else 0.0


def compressed(process: Process, codec: Codec, *, feedback: bool | None = None) -> Process:
    """Return a strategy whose clients send through a codec; by default with error feedback if the codec is biased.

    Raises:
        UsageError: It is compressed already, or its updates are summed under secure aggregation.
    """
    if isinstance(process.work, Compressed):
        raise UsageError(f"{process.name} is compressed already, by {process.work.codec.scheme}")
    if isinstance(process.aggregator, SumAggregator):
        raise UsageError(
            f"{process.name} needs a sum of its updates, and messages of {codec.scheme} have none: choose either "
            "compression or secure aggregation"
        )
    keep = not codec.unbiased if feedback is None else feedback
    work = Compressed(process.work, process.postprocessors, codec, keep)
    return replace(process, name=f"{process.name}, {codec.scheme}", work=work, postprocessors=())
