"""``unseen party``: one party's process."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from unseen.cli.board import watching
from unseen.cli.interrupt import cancel_on_signal
from unseen.demo.processes import error_line, event_line
from unseen.dialogue import CancelToken, Event
from unseen.errors import UnseenError, UsageError
from unseen.flow.spec import read_flow
from unseen.ids import PartyId
from unseen.node.app import PartyConfig, run_party


def run(*, config: Path, listen: str | None, peer: list[str] | None, events: bool) -> None:
    """Run the party's side of the job until it is done; SIGTERM and SIGINT cancel it, the peers are told."""
    settings = PartyConfig.read(config).reach(listen, dict(map(_address, peer or [])))
    with cancel_on_signal() as cancel:
        if events:
            _report_events(settings, cancel)
            return
        console = Console()
        with watching(console, read_flow(settings.flow).steps, parties=1) as observe:
            result = run_party(settings, observe=observe, cancel=cancel)
    console.print(f"done: results are in {result.workspace.root}", highlight=False)


def _report_events(settings: PartyConfig, cancel: CancelToken) -> None:
    def tell(event: Event) -> None:
        sys.stdout.write(event_line(event) + "\n")
        sys.stdout.flush()

    try:
        run_party(settings, observe=tell, cancel=cancel)
    except UnseenError as error:
        sys.stdout.write(error_line(error) + "\n")
        sys.stdout.flush()
        raise


def _address(text: str) -> tuple[PartyId, str]:
    name, found, address = text.partition("=")
    if not found:
        raise UsageError(f"--peer {text}: expected NAME=HOST:PORT")
    return PartyId(name), address
