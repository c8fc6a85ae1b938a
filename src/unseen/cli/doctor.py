"""``unseen doctor``: what keeps a link from coming up, and what to do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.errors import PeerUnreachable
from unseen.ids import PartyId
from unseen.node.checkup import Examined, Patient, examine_peer, warnings


def run(*, peer: str | None, at: Path, as_json: bool) -> None:
    """Walk the way to one peer, or to all of them; the first thing that is wrong ends the way."""
    patient = Patient.at(at)
    soon = list(warnings(patient, datetime.now(UTC)))
    names = [PartyId(peer)] if peer is not None else sorted(patient.peers)
    if as_json:
        found = [examine_peer(patient, name) for name in names]
        facts = {"warnings": soon, "peers": [asdict(each) for each in found]}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        for warning in soon:
            _print(f"! {warning}")
        found = [_show(examine_peer(patient, name)) for name in names]
    broken = [each.peer for each in found if not each.fine]
    if broken:
        raise PeerUnreachable(f"no link to {', '.join(broken)}; above is why, and what to do")


def _show(found: Examined) -> Examined:
    lines = [found.peer, *(f"  ok      {stage}" for stage in found.passed)]
    _print("\n".join([*lines, f"  {'fine  ' if found.fine else 'BROKEN'}  {found.text}"]))
    return found


def _print(text: str) -> None:
    Console().print(Text(harmless(text)), soft_wrap=True)
