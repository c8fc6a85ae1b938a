"""What a supervisor tells whoever keeps figures or traces of its work: facts about runs and steps, none about rows.

A worker's memory has seen partners' data, so that what it says of a step is checked: the step is one of its flow, and
its costs are numbers.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from unseen.ids import JobId, StepId
from unseen.trust.agreement import ProjectId

_MOST = 2**63
_log = logging.getLogger(__name__)


class Result(enum.StrEnum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    """The worker ended without a word; another one follows."""
    STOPPED = "stopped"
    """It was told to."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one worker does for a job."""

    job: JobId
    project: ProjectId
    attempt: int
    """1 for the first one since the node began."""
    components: Mapping[StepId, str]
    """Of the steps of its flow."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step has cost this party."""

    seconds: float
    bytes_sent: int
    bytes_received: int
    reused: bool
    """Whether it had been done before, and only its results were taken."""


class Watcher(Protocol):
    """Whoever is told; called in the supervisor's thread, which must not wait."""

    def run_began(self, run: Run) -> None:
        """Note that a worker has begun."""
        ...

    def step_began(self, run: Run, step: StepId) -> None:
        """Note that a step has begun."""
        ...

    def step_ended(self, run: Run, step: StepId, cost: Cost) -> None:
        """Note that a step is over."""
        ...

    def run_ended(self, run: Run, result: Result) -> None:
        """Note that a worker has ended."""
        ...


def tell(watchers: tuple[Watcher, ...], run: Run, event: Mapping[str, object]) -> None:
    """Pass on what a worker said of a step, if it is one of its flow; progress in between is of no interest here."""
    step = next((step for step in run.components if step == event.get("step")), None)
    if step is None:
        return
    for watcher in watchers:
        if event.get("what") == "enter":
            watcher.step_began(run, step)
        elif event.get("what") == "leave":
            watcher.step_ended(run, step, _cost(event))
    if event.get("what") == "leave":
        _note(run, step, _cost(event))


def _note(run: Run, step: StepId, cost: Cost) -> None:
    _log.info(
        "step %s is over%s",
        step,
        ", reused" if cost.reused else "",
        extra={
            "job": run.job,
            "project": run.project,
            "step": step,
            "component": run.components[step],
            "milliseconds": round(1000 * cost.seconds),
        },
    )


def _cost(event: Mapping[str, object]) -> Cost:
    sent, received = (_whole(event.get(name)) for name in ("bytes_sent", "bytes_received"))
    seconds = event.get("seconds")
    sound = isinstance(seconds, int | float) and 0 <= seconds < _MOST and not math.isnan(seconds)
    return Cost(float(seconds) if sound else 0.0, sent, received, reused=bool(event.get("note")))  # type: ignore[arg-type]


def _whole(number: object) -> int:
    return number if isinstance(number, int) and 0 <= number < _MOST else 0
