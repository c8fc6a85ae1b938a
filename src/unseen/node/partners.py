"""The organisations that a node trusts: each one's root, where to dial it, and what it has revoked.

All is in one file, which changes as a whole. Whenever somebody asks, the file is looked at, and read if it is another
one, so that a partner who is struck off here is refused by processes that run already.
"""

from __future__ import annotations

import base64
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unseen.data.atomic import whole_file
from unseen.errors import DataError, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.transport.revocation import RevocationList, leaf_problem, read_list
from unseen.transport.tls import fingerprint
from unseen.trust.keys import certificate_fingerprint

PARTNERS_FILE = "partners.json"
LIST_FILE = "revoked.crl"
_LOCK_FILE = "lock"
_RUNNING_FILE = ".running"

# Two files that were written within one tick of the file system's clock may look the same.
_TICK_NS = 100_000_000

M = TypeVar("M", bound=BaseModel)


class Partner(BaseModel):
    """One organisation that was paired with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    """Certificate of its root, PEM: what is pinned."""
    endpoint: str | None
    """Where it listens, or ``None`` if it dials this node."""
    since: datetime
    struck: datetime | None = None
    """When it was struck off here."""
    revoked: str = ""
    """Its newest revocation list, DER in base64."""

    @property
    def fingerprint(self) -> str:
        """The start of the root's SHA-256, for people to compare."""
        return fingerprint(self.root.encode())

    def revocations(self, name: PartyId) -> RevocationList | None:
        """Return what it has revoked, if it ever handed over a list.

        Raises:
            DataError: The list was damaged here.
        """
        if not self.revoked:
            return None
        try:
            return read_list(base64.b64decode(self.revoked, validate=True), self.root.encode(), sender=name)
        except (ValueError, RemoteProtocolError) as error:
            raise DataError(
                f"{PARTNERS_FILE}: the revocation list of {name} is damaged: bring the file back from a copy"
            ) from error


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    partners: dict[PartyId, Partner] = Field(default_factory=dict)


class Partners:
    """The partner list of the node in a folder; a ``Trust``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / PARTNERS_FILE
        self._read: tuple[tuple[int, int, int], Mapping[PartyId, Partner]] | None = None

    def all(self) -> Mapping[PartyId, Partner]:
        """Return every partner, those that were struck off included.

        Raises:
            DataError: The file is damaged.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        mark, read = (status.st_ino, status.st_mtime_ns, status.st_size), self._read
        if read is not None and read[0] == mark:
            return read[1]
        found = read_record(self._path, _File).partners
        if time.time_ns() - status.st_mtime_ns > _TICK_NS:
            self._read = (mark, found)
        return found

    def endpoints(self) -> Mapping[PartyId, str | None]:
        """Return every partner that is trusted now, with the endpoint to dial it at, or ``None``.

        Raises:
            DataError: The file is damaged.
        """
        return {peer: partner.endpoint for peer, partner in self.all().items() if partner.struck is None}

    def roots(self) -> Mapping[PartyId, str]:
        """Return every partner that is trusted now, with the digest of its root's key.

        Raises:
            DataError: The file is damaged.
        """
        trusted = {peer: partner.root for peer, partner in self.all().items() if partner.struck is None}
        return {peer: _digest_of(root) for peer, root in trusted.items()}

    def get(self, peer: PartyId) -> Partner:
        """Return one partner.

        Raises:
            UsageError: There is none of this name.
        """
        found = self.all()
        if peer not in found:
            known = ", ".join(sorted(found)) or "nobody"
            raise UsageError(f"{peer} is not a partner of the node in {self._folder}: it was paired with {known}")
        return found[peer]

    def add(self, peer: PartyId, root_pem: bytes, endpoint: str | None, now: datetime) -> None:
        """Keep a partner, or its new endpoint.

        Raises:
            PermissionDenied: A partner of this name has another root.
        """
        with locked(self._folder):
            self.check_root(peer, root_pem)
            found = self.all()
            known, root = found.get(peer), root_pem.decode("ascii")
            revoked = known.revoked if known is not None and known.root == root else ""
            self._write({**found, peer: Partner(root=root, endpoint=endpoint, since=now, revoked=revoked)})

    def check_root(self, peer: PartyId, root_pem: bytes) -> None:
        """Raise ``PermissionDenied`` if a partner of this name has another root."""
        known = self.all().get(peer)
        if known is not None and known.struck is None and known.root.encode() != root_pem:
            raise PermissionDenied(
                f"{peer} is a partner already, with another root; if it made its node anew, strike the old one off "
                f"first: unseen node revoke {self._folder} --partner {peer}"
            )

    def strike(self, peer: PartyId, now: datetime) -> None:
        """Trust a partner no more; processes that run notice within seconds.

        Raises:
            UsageError: There is no such partner.
        """
        with locked(self._folder):
            partner = self.get(peer).model_copy(update={"struck": now})
            self._write({**self.all(), peer: partner})

    # --- as a trust

    def authority_of(self, peer: PartyId) -> bytes:
        """Return the root of a partner, PEM."""
        return self.get(peer).root.encode()

    def objection(self, peer: PartyId, certificate: x509.Certificate) -> str | None:
        """Return why a certificate does not stand for a partner (any more)."""
        partner = self.all().get(peer)
        if partner is None:
            return f"{peer} is not a partner of this node"
        if partner.struck is not None:
            return f"{peer} was struck off the partner list of this node on {partner.struck:%Y-%m-%d}"
        problem = leaf_problem(certificate, partner.root.encode(), peer, now=datetime.now(UTC))
        if problem is not None:
            return problem
        revoked = partner.revocations(peer)
        if revoked is not None and certificate.serial_number in revoked.revoked:
            when = revoked.revoked[certificate.serial_number]
            return f"this certificate of {peer} was revoked by {peer} on {when:%Y-%m-%d %H:%M} UTC"
        return None

    def own_list(self) -> bytes:
        """Return this node's own revocation list, DER, or nothing."""
        path = self._folder / LIST_FILE
        return path.read_bytes() if path.exists() else b""

    def learn(self, peer: PartyId, revoked: bytes) -> None:
        """Keep a partner's revocation list, unless it is not newer than the one known."""
        with locked(self._folder):
            partner = self.get(peer)
            found = read_list(revoked, partner.root.encode(), sender=peer)
            known = partner.revocations(peer)
            if known is None or found.number > known.number:
                text = base64.b64encode(revoked).decode("ascii")
                self._write({**self.all(), peer: partner.model_copy(update={"revoked": text})})

    def _write(self, partners: Mapping[PartyId, Partner]) -> None:
        with whole_file(self._path) as file:
            file.write(_File(partners=dict(partners)).model_dump_json(indent=1).encode())


@lru_cache(maxsize=4096)
def _digest_of(root: str) -> str:
    return certificate_fingerprint(root.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change a node's files; a killed process loses its lock by itself."""
    with open(folder / _LOCK_FILE, "a", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the one process that runs the node in a folder; a killed process loses its place by itself.

    Raises:
        UsageError: Another one runs it.
    """
    with open(folder / _RUNNING_FILE, "a", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"the node in {folder} runs already, in another process: stop that one first") from error
        yield


def read_record(path: Path, kind: type[M]) -> M:
    """Return what a JSON file holds.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DataError(f"{path} is missing or damaged ({reason}): bring it back from a copy") from error
