"""The use cases that routes reach, and the token with which the first person is added."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from unseen.clock import Clock
from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.node.domain import JobState
from unseen.node.folder import Node
from unseen.node.partners import Partners
from unseen.node.store import Store
from unseen.node.usecases.audit import Audit
from unseen.node.usecases.catalogue import Catalogue
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.pairings import Pairings
from unseen.node.usecases.people import People
from unseen.node.usecases.projects import Projects
from unseen.node.usecases.runs import Runs
from unseen.node.usecases.sign_on import SignOn
from unseen.node.usecases.sources import Sources

SETUP_FILE = "set-up-token"
LEAST_FREE = 64 << 20
"""Bytes on the disk below which a node is not ready: its books could not be written."""

Check = Callable[[], str]


class SetUpToken:
    """Lets whoever can read the node's folder add the first person, once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SETUP_FILE

    def write(self) -> str:
        """Return a new token, which takes the place of an older one."""
        token = secrets.token_urlsafe(24)
        with whole_file(self._path) as file:
            file.write(hashlib.sha256(token.encode()).hexdigest().encode())
        return token

    def is_good(self, token: str) -> bool:
        """Return whether this is the token, and has not been used."""
        try:
            kept = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        return hmac.compare_digest(kept, hashlib.sha256(token.encode()).hexdigest())

    def use(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Services:
    """What a node does for its people."""

    name: PartyId
    people: People
    sign_on: SignOn
    catalogue: Catalogue
    sources: Sources
    projects: Projects
    jobs: Jobs
    runs: Runs
    audit: Audit
    partners: Partners
    pairings: Pairings
    set_up: SetUpToken
    clock: Clock
    store: Store
    registry: CollectorRegistry
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What has to be in order beside the database, for the node to work."""

    def readiness(self) -> Mapping[str, str]:
        """Return a word on everything that the node needs in order to work: ``ok``, or what is wrong."""
        return {"store": "ok" if self._answers() else "fails", **{name: check() for name, check in self.checks.items()}}

    def _answers(self) -> bool:
        try:
            with self.store.read() as kept:
                kept.jobs.count((JobState.RUNNING,))
        except DataError:
            return False
        return True


def checks_of(node: Node, clock: Clock) -> Mapping[str, Check]:
    """Return what has to be in order with a node's folder and certificate."""

    def disk() -> str:
        try:
            return "ok" if shutil.disk_usage(node.folder).free >= LEAST_FREE else "full"
        except OSError:
            return "unreadable"

    def certificate() -> str:
        try:
            found = node.status()
        except (UsageError, DataError):
            return "unreadable"
        if found.revoked:
            return "revoked"
        return "ok" if clock.now() < found.until else "expired"

    return {"disk": disk, "certificate": certificate}
