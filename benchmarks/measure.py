"""What a stretch of work costs: seconds on the wall, CPU seconds, bytes, memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from unseen.dialogue import Event

R = TypeVar("R")

_STATUS = Path("/proc/self/status")


def core_seconds() -> float:
    """Return the CPU seconds of this process, all its threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_mb() -> float:
    """Return the most memory that this process has held, in MB (10⁶ bytes)."""
    # On Linux ru_maxrss also remembers the process that started this one, from before its exec.
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the wall, CPU seconds, and bytes of the messages sent."""

    seconds: float = 0.0
    core_seconds: float = 0.0
    bytes: int = 0

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.seconds - other.seconds, self.core_seconds - other.core_seconds, self.bytes - other.bytes)


def timed(work: Callable[[], R]) -> tuple[R, Cost]:
    """Return what ``work`` returns, and what it cost this process."""
    before = Cost(time.perf_counter(), core_seconds())
    result = work()
    return result, Cost(time.perf_counter(), core_seconds()) - before


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a party had spent since its beginning when an event came."""

    what: str
    done: int
    total: int
    spent: Cost

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return what ``dataclasses.asdict`` took apart."""
        return cls(fields["what"], fields["done"], fields["total"], Cost(**fields["spent"]))


class Meter:
    """Stamps the events of one party's dialogue, stage by stage; an observer."""

    def __init__(self) -> None:
        self.stages: dict[str, list[Stamp]] = {}

    def __call__(self, event: Event) -> None:
        """Take note of what has been spent until now."""
        spent = Cost(time.perf_counter(), core_seconds(), event.usage.bytes_sent)
        self.stages.setdefault(event.step or "", []).append(Stamp(event.what, event.done, event.total, spent))
        if event.what != "enter":
            print(f"{event.party} {event.step} {event.what} {event.done}/{event.total} {event.note}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class PartyRun:
    """What one party's process measured in each stage, from ``enter`` to ``leave``, and what it reports."""

    stages: dict[str, list[Stamp]]
    peak_rss_mb: float
    report: dict[str, Any]

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return what ``dataclasses.asdict`` took apart."""
        stages = {name: [Stamp.read(each) for each in stamps] for name, stamps in fields["stages"].items()}
        return cls(stages, fields["peak_rss_mb"], fields["report"])

    def fields(self) -> dict[str, Any]:
        """Return all as JSON has it."""
        return asdict(self)

    def cost(self, stage: str) -> Cost:
        """Return what a whole stage cost this party."""
        stamps = self.stages[stage]
        return stamps[-1].spent - stamps[0].spent

    def laps(self, stage: str, *, not_of: int = 0) -> list[Cost]:
        """Return what lies between the beginning of a stage and its first progress, then between each two.

        Progress of a total of ``not_of`` is something else's, such as a set-up's, which counts rows.
        """
        found: list[Cost] = []
        last = self.stages[stage][0]
        for stamp in self.stages[stage]:
            new = (stamp.done, stamp.total) != (last.done, last.total) or last.what == "enter"
            if stamp.what == "progress" and stamp.total != not_of and new:
                found.append(stamp.spent - last.spent)
                last = stamp
        return found


def together(costs: Sequence[Cost]) -> Cost:
    """Return the cost of all parties: CPU seconds and bytes add up, the wall's seconds are the first party's."""
    return Cost(costs[0].seconds, sum(cost.core_seconds for cost in costs), sum(cost.bytes for cost in costs))


def whole(runs: Sequence[PartyRun], stage: str) -> Cost:
    """Return what a stage cost all parties."""
    return together([run.cost(stage) for run in runs])


def laps(runs: Sequence[PartyRun], stage: str, *, not_of: int = 0) -> list[Cost]:
    """Return ``PartyRun.laps`` over all parties; only those that every party told of."""
    return [together(lap) for lap in zip(*(run.laps(stage, not_of=not_of) for run in runs), strict=False)]


def median(costs: Iterable[Cost]) -> Cost:
    """Return the medians of seconds, CPU seconds and bytes, each for itself; zeros if there is none."""
    found = list(costs) or [Cost()]
    return Cost(
        statistics.median(cost.seconds for cost in found),
        statistics.median(cost.core_seconds for cost in found),
        int(statistics.median(cost.bytes for cost in found)),
    )
