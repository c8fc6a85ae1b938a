"""``unseen doctor``: what keeps a link from coming up, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.errors import PeerUnreachable
from unseen.ids import PartyId
from unseen.node.checkup import Patient, examine_peer, warnings


def run(*, peer: str | None, at: Path) -> None:
    """Walk the way to one peer, or to all of them; the first thing that is wrong ends the way."""
    patient = Patient.at(at)
    for warning in warnings(patient, datetime.now(UTC)):
        _print(f"! {warning}")
    broken = []
    for name in [PartyId(peer)] if peer is not None else sorted(patient.peers):
        found = examine_peer(patient, name)
        lines = [name, *(f"  ok      {stage}" for stage in found.passed)]
        _print("\n".join([*lines, f"  {'fine  ' if found.fine else 'BROKEN'}  {found.text}"]))
        if not found.fine:
            broken.append(name)
    if broken:
        raise PeerUnreachable(f"no link to {', '.join(broken)}; above is why, and what to do")


def _print(text: str) -> None:
    Console().print(Text(harmless(text)), soft_wrap=True)
