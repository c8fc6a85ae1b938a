"""The live picture of a job: one line per step, with how far it is, its time and its bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.dialogue import Event, Observer, Usage
from unseen.ids import PartyId, StepId
from unseen.report.units import bytes_text, seconds_text


@dataclass(slots=True)
class _Line:
    """What is known about one step."""

    state: str = ""
    note: str = ""
    usage: dict[PartyId, Usage] = field(default_factory=dict)
    left: set[PartyId] = field(default_factory=set)


class Board:
    """Collects events of all parties and draws them."""

    def __init__(self, steps: Iterable[StepId], parties: int) -> None:
        self._lines = {step: _Line() for step in steps}
        self._parties = parties
        self._lock = threading.Lock()

    def hear(self, event: Event) -> StepId | None:
        """Take an event in; return the step if this event completed it."""
        with self._lock:
            line = self._lines.get(event.step) if event.step is not None else None
            if line is None or event.step is None:
                return None
            line.usage[event.party] = event.usage
            if event.what == "progress":
                line.state = f"{event.done}/{event.total}"
                line.note = harmless(event.note)
            elif event.what == "enter":
                line.state = line.state or "…"
            else:
                line.left.add(event.party)
                if len(line.left) == self._parties:
                    line.state = "reused" if event.note == "reused" else "done"
                    return event.step
            return None

    def cells(self, step: StepId) -> tuple[str, str, str, str]:
        """Return state, time, bytes and note of a step."""
        with self._lock:
            line = self._lines[step]
            seconds = max((usage.seconds for usage in line.usage.values()), default=0.0)
            sent = sum(usage.bytes_sent for usage in line.usage.values())
            known = bool(line.usage)
            return line.state, seconds_text(seconds) if known else "", bytes_text(sent) if known else "", line.note

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("step", "state"):
            table.add_column(name)
        for name in ("time", "bytes"):
            table.add_column(name, justify="right")
        table.add_column("")
        for step in self._lines:
            state, seconds, sent, note = self.cells(step)
            style = {"done": "green", "reused": "cyan"}.get(state, "yellow")
            table.add_row(Text(step), Text(state, style=style), seconds, sent, Text(note, style="dim"))
        return table


@contextmanager
def watching(console: Console, steps: Iterable[StepId], parties: int) -> Iterator[Observer]:
    """Show the board while the block runs: live on a terminal, else one line for each finished step."""
    board = Board(steps, parties)
    if console.is_terminal:
        with Live(board, console=console, refresh_per_second=8):
            yield lambda event: _ignore(board.hear(event))
        return

    def tell(event: Event) -> None:
        done = board.hear(event)
        if done is not None:
            state, seconds, sent, note = board.cells(done)
            console.print(f"{done:<16} {state:<7} {seconds:>9} {sent:>10}  {note}", highlight=False, markup=False)

    yield tell


def _ignore(_: object) -> None:
    return None
