"""Starts one process per party, shows what they report, and says what happened when one dies."""

from __future__ import annotations

import json
import math
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

from unseen.codec import read_json
from unseen.demo.prepare import DemoPlan
from unseen.dialogue import CancelToken, Event, Observer, Usage
from unseen.errors import ERRORS, Cancelled, PeerFailed, TransportError, UnseenError, UsageError
from unseen.ids import PartyId, StepId

PATIENCE = 2.0
"""Seconds that the other parties get to notice that one has gone."""


POLL = 0.1
"""Seconds between looks at whether to stop."""


@dataclass(slots=True)
class _Child:
    """One party's process, and what is known about it."""

    party: PartyId
    process: subprocess.Popen[str]
    step: str = ""
    error: UnseenError | None = None
    threads: list[threading.Thread] = field(default_factory=list)


_Lines: TypeAlias = "queue.SimpleQueue[tuple[_Child, str | None]]"


def event_line(event: Event) -> str:
    """Return an event as one line of JSON."""
    usage = event.usage
    costs = (usage.bytes_sent, usage.bytes_received, usage.messages, usage.rounds, usage.seconds)
    return json.dumps([event.party, event.step, event.what, event.done, event.total, event.note, costs])


def error_line(error: UnseenError) -> str:
    """Return an error as one line of JSON."""
    return json.dumps({"error": type(error).__name__, "text": str(error), "notes": getattr(error, "__notes__", [])})


def run_parties(
    plan: DemoPlan,
    *,
    observe: Observer | None = None,
    cancel: CancelToken | None = None,
    wrapper: Mapping[PartyId, Sequence[str]] | None = None,
) -> None:
    """Run every party's side of the demo in a process of its own, until all are done.

    ``wrapper`` replaces the command line of some parties up to their arguments; tests use it to plant faults.

    Raises:
        UnseenError: A party failed; this is the first party's own reason, not the echo at the others.
        Cancelled: ``cancel`` was set; all parties have been stopped.
    """
    lines: _Lines = queue.SimpleQueue()
    children: list[_Child] = []
    try:
        _start(plan, wrapper or {}, lines, children)
        _watch(plan, children, lines, observe, cancel)
    finally:
        for child in children:
            _stop(child)


def _start(plan: DemoPlan, wrapper: Mapping[PartyId, Sequence[str]], lines: _Lines, children: list[_Child]) -> None:
    """Start the parties and add them to ``children``; each listens for those after it and dials those before it."""
    listeners = plan.parties[:-1]
    addresses = dict(zip(listeners, _free_addresses(len(listeners)), strict=True))
    for position, party in enumerate(plan.parties):
        # -P: a file called yaml.py in the folder where somebody tries the demo must not be imported.
        command = [*wrapper.get(party, (sys.executable, "-P", "-m", "unseen")), "party"]
        command += [str(plan.out / party / "party.yaml"), "--events"]
        if party in addresses:
            command += ["--listen", addresses[party]]
        for earlier in plan.parties[:position]:
            command += ["--peer", f"{earlier}={addresses[earlier]}"]
        log = (plan.out / party / "log.txt").open("a")
        with closing(log):
            # A reader that breaks off at bytes of a library that are no UTF-8 would never report the end.
            process = subprocess.Popen(  # noqa: S603  # our own program, no shell
                command, stdout=subprocess.PIPE, stderr=log, encoding="utf-8", errors="replace"
            )
        child = _Child(party, process)
        children.append(child)  # first of all, so that whatever fails from here on leaves no orphan
        reader = threading.Thread(target=_pump, args=(child, process.stdout, lines), daemon=True)
        reader.start()
        child.threads.append(reader)


def _free_addresses(count: int) -> list[str]:
    """Return addresses on this machine that nobody listens at, all different: each is held until the last is found."""
    with ExitStack() as held:
        probes = [held.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


def _pump(child: _Child, stream: IO[str] | None, lines: _Lines) -> None:
    if stream is not None:
        for line in stream:
            lines.put((child, line))
    lines.put((child, None))


def _watch(
    plan: DemoPlan,
    children: list[_Child],
    lines: _Lines,
    observe: Observer | None,
    cancel: CancelToken | None,
) -> None:
    """Show events until every process has ended.

    Once one has failed, the others get little time to say what they know of it; once one was killed, none.
    """
    running = len(children)
    failed: list[_Child] = []
    while running:
        heard = _next(plan.out, lines, cancel, PATIENCE if failed else math.inf)
        if heard is None:
            break
        child, line = heard
        if line is not None:
            _hear(child, line, observe)
            continue
        running -= 1
        code = child.process.wait()
        if code != 0:
            failed.append(child)
        if code < 0:
            break
    if failed:
        raise _cause(plan, failed)


def _next(folder: Path, lines: _Lines, cancel: CancelToken | None, patience: float) -> tuple[_Child, str | None] | None:
    """Return the next line of any process, or ``None`` once ``patience`` seconds have passed without one."""
    waited = 0.0
    while waited < patience:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"stopped on request; nothing is lost: go on with `unseen resume {folder}`")
        try:
            return lines.get(timeout=POLL)
        except queue.Empty:
            waited += POLL
    return None


def _hear(child: _Child, line: str, observe: Observer | None) -> None:
    said = _said(line)
    if isinstance(said, UnseenError):
        child.error = said
    elif said is not None:
        child.step = said.step or child.step
        if observe is not None:
            observe(said)


def _said(line: str) -> Event | UnseenError | None:
    """Return what ``event_line`` or ``error_line`` wrote.

    Anything else is ``None``: a library's own output, or half a line of a process that was killed.
    """
    try:
        match read_json(line):
            case {"error": str(name), "text": str(text), "notes": [*notes]}:
                return _error(name, text, notes)
            case [str(party), None | str() as step, str(what), int(done), int(total), str(note), [*costs]]:
                return Event(PartyId(party), StepId(step) if step else None, what, done, total, note, Usage(*costs))
    except (ValueError, TypeError, UsageError):
        pass
    return None


def _error(name: str, text: str, notes: list[Any]) -> UnseenError:
    error = ERRORS.get(name, UnseenError)(text)
    for note in notes:
        error.add_note(str(note))
    return error


def _cause(plan: DemoPlan, failed: list[_Child]) -> UnseenError:
    """Return the error that tells most: a process that was killed, then a party's own reason, then an echo."""
    for child in failed:
        if child.process.returncode < 0:
            number = -child.process.returncode
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            return PeerFailed(
                f"the process of {child.party} was killed ({name}) in step {child.step or 'start'}; nothing is lost: "
                f"go on with `unseen resume {plan.out}`"
            )
    told = [child.error for child in failed if child.error is not None]
    own = [error for error in told if not isinstance(error, (PeerFailed, TransportError))]
    if own or told:
        return (own or told)[0]
    first = failed[0]
    return PeerFailed(f"the process of {first.party} broke down; see {plan.out / first.party / 'log.txt'}")


def _stop(child: _Child) -> None:
    """End a process, politely at first."""
    if child.process.poll() is None:
        child.process.terminate()
        try:
            child.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
    for thread in child.threads:
        thread.join(timeout=PATIENCE)
    if child.process.stdout is not None:
        child.process.stdout.close()
