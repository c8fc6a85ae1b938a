"""``python -m unseen.demo.node_process FOLDER``: a node, and at its standard input the people of the organisation.

A request is a line of JSON, ``{"do": NAME, …arguments}``; the answer is ``{"value": …}``, or ``{"error": TYPE,
"text": …}``. What people do goes through the same use cases as everywhere; only the demo and its tests need this.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unseen.clock import SystemClock
from unseen.errors import UnseenError
from unseen.flow.spec import FlowSpec
from unseen.ids import JobId
from unseen.node.domain import Duty, Person
from unseen.node.start import Running, run_node
from unseen.node.usecases.catalogue import Catalogue, Import
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import verify
from unseen.trust.envelope import read_envelope
from unseen.trust.policy import SiteProject

READY = "ready"


class Office:
    """The people of one organisation: Ann owns its data and asks for jobs, Ben signs and approves."""

    def __init__(self, running: Running, project: ProjectId) -> None:
        now = datetime.now(UTC)
        self._node, self._project = running, project
        self._ann = Person("ann", frozenset({Duty.ANALYST, Duty.DATA_OWNER}), now, projects=frozenset({project}))
        self._ben = Person("ben", frozenset({Duty.APPROVER}), now)

    def register(self, name: str, path: str) -> dict[str, Any]:
        """Put a file into the catalogue; return what an agreement has to say of it."""
        catalogue = Catalogue(self._node.store, self._node.artifacts, SystemClock())
        entry, _ = catalogue.add(name, Path(path), Import(Path(path).name, {}, {}), self._ann)
        return {
            "owner": self._node.node.name,
            "name": name,
            "schema_digest": entry.schema_digest,
            "rows": entry.rows,
            "columns": [[column.name, column.role] for column in entry.columns],
        }

    def draft(self, text: Mapping[str, Any]) -> str:
        """Write an agreement and offer it."""
        return self._node.projects.draft(text, self._ann)

    def sign(self) -> bool:
        """Sign what waits; return whether all have signed."""
        return self._node.projects.sign(self._project, self._ben) is None

    def status(self) -> dict[str, Any]:
        """Return how far the agreement is, as this node sees it."""
        pending = any(found.agreement.project == self._project for found in self._node.projects.pending())
        with self._node.books.turn() as turn:
            of = turn.project(self._project)
        if of is None:
            return {"pending": pending, "in_force": False, "revoked": None, "digest": None}
        revoked = None if of.revoked is None else [of.revoked.by, of.revoked.reason]
        return {
            "pending": pending,
            "in_force": of.in_force(datetime.now(UTC)),
            "revoked": revoked,
            "digest": of.current.digest,
        }

    def allow(self, policy: Mapping[str, Any]) -> None:
        """Say what this site lets the project do."""
        made = SiteProject.model_validate_json(json.dumps(policy))
        self._node.projects.set_policy(self._project, made, self._ann)

    def propose(self, flow: Mapping[str, Any], hours: float = 1.0) -> str:
        """Ask for a job."""
        spec = FlowSpec.model_validate(flow)
        until = datetime.now(UTC) + timedelta(hours=hours)
        return self._node.jobs.propose(self._project, spec, {}, None, 0.0, 0.0, until, self._ann)

    def approve(self, job: str) -> str:
        """Approve a job; return its state."""
        return self._node.jobs.approve(JobId(job), self._ben).state

    def cancel(self, job: str, reason: str) -> None:
        """End a job."""
        self._node.jobs.cancel(JobId(job), reason, self._ann)

    def job(self, job: str) -> dict[str, Any]:
        """Return how a job stands here; an empty state if this node has not heard of it."""
        with self._node.books.turn() as turn:
            known = turn.kept.jobs.get(JobId(job))
        events = [event for _, event in self._node.jobs.events(known.job)] if known is not None else []
        return {
            "state": known.state if known is not None else "",
            "reason": known.reason if known is not None else "",
            "done": [event["step"] for event in events if event["what"] == "leave"],
        }

    def results(self, job: str) -> dict[str, str]:
        """Return the results of a job, by name, each with its digest."""
        return {name: ref.digest for name, ref in self._node.runs.results(JobId(job)).items()}

    def revoke(self, reason: str) -> None:
        """End the agreement."""
        self._node.projects.revoke(self._project, reason, self._ben)

    def heads(self) -> dict[str, str]:
        """Return the heads of others' trails that this node holds."""
        return {head.party: head.frame.hex() for head in self._node.audit.heads(self._project)}

    def verify(self, heads: list[str]) -> dict[str, Any]:
        """Check this node's trail against the heads that others hold of it."""
        lines = self._node.audit.lines(self._project)
        found = verify(lines, [read_envelope(bytes.fromhex(head), sender="partner") for head in heads])
        return {"records": found.count, "vouched": found.vouched, "heads": found.heads}

    def workers(self) -> list[int]:
        """Return the process ids of this node's workers."""
        return list(self._node.supervisor.processes)


def main() -> None:
    """Run the node in a folder, and do what is asked at the standard input until it ends."""
    folder, project = Path(sys.argv[1]), ProjectId(sys.argv[2])
    run_node(folder, ready=lambda running: _open(Office(running, project)))


def _open(office: Office) -> None:
    threading.Thread(target=_serve, args=(office,), daemon=True).start()


def _serve(office: Office) -> None:
    _answer({"value": READY})
    for line in sys.stdin:
        _answer(_do(office, json.loads(line)))
    os.kill(os.getpid(), signal.SIGTERM)


def _do(office: Office, request: dict[str, Any]) -> dict[str, Any]:
    action: Callable[..., object] = getattr(office, request.pop("do"))
    try:
        return {"value": action(**request)}
    except UnseenError as error:
        return {"error": type(error).__name__, "text": str(error)}


def _answer(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
