"""One organisation's node in a folder: its own root, the certificate that it shows, and its partners.

::

    node.yaml         name and listen; written by `unseen node init`
    root.pem          certificate of the root: what partners pin
    root-key.pem      its key; needed to renew and to revoke only, and may lie elsewhere meanwhile
    node.pem          key and certificate of the node, valid for at most 90 days
    issued.json       serial numbers of its certificates, and which were revoked
    revoked.crl       the signed list of those, for partners
    partners.json     who was paired with

Every file appears whole or not at all, and only its owner may read it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import yaml
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, Field, model_validator

from unseen.data.atomic import whole_file
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.node.logs import LogForm
from unseen.node.oidc import OidcConfig
from unseen.node.partners import LIST_FILE, Partner, Partners, locked, read_record
from unseen.node.settings import read_settings, variable
from unseen.node.sources.config import SourceConfig, SourceName
from unseen.transport.diagnosis import split_endpoint
from unseen.transport.revocation import LEAF_DAYS, make_list
from unseen.transport.tls import Authority, Identity, fingerprint, issue, make_authority, read_certificate, read_key

CONFIG_FILE = "node.yaml"
ROOT_FILE = "root.pem"
ROOT_KEY_FILE = "root-key.pem"
_NODE_FILE = "node.pem"
_ISSUED_FILE = "issued.json"
_ROOT_DAYS = 3652
RENEW_DAYS = 30
"""With fewer days left, people are told to renew."""
_TOKEN_LENGTH = 16
# Of a common name in X.509.
_NAME_LENGTH = 64
_KEY_END = b"-----END PRIVATE KEY-----\n"


class NodeConfig(BaseModel):
    """What people may edit; each field is a variable as well (``settings``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: PartyId
    listen: str | None = None
    """``host:port`` of the one port, or nothing for a node that only dials."""
    store: str | None = Field(default=None, repr=False)
    """URL of the database; a file in the folder, if it is not said."""
    artifacts: str | None = None
    """URL of the place for tables; the folder, if it is not said."""
    jobs: int = Field(default=2, ge=1)
    """How many jobs run at once."""
    worker_gib: float | None = Field(default=None, gt=0)
    """How much data one worker may hold in memory."""
    http: str | None = None
    """``host:port`` for the organisation's own people; nobody is served there if it is not said."""
    http_hosts: tuple[str, ...] = ()
    """Further names by which people reach it: what their browsers send as ``Host``."""
    http_certificate: Path | None = None
    """PEM file; needed if ``http`` is reached from other machines. Relative to the folder."""
    http_key: Path | None = None
    metrics_token: str | None = Field(default=None, repr=False, min_length=_TOKEN_LENGTH)
    """Whoever reads ``/metrics`` shows it; nobody does without one."""
    metrics_token_file: Path | None = None
    """File that holds it instead. Relative to the folder."""
    log: LogForm = LogForm.TEXT
    """How the log is written."""
    oidc: OidcConfig | None = None
    """The organisation's identity provider; people have passwords here, if it is not said."""
    sources: Mapping[SourceName, SourceConfig] = Field(default_factory=dict)
    """Databases and buckets from which data owners may import tables, by name."""

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.metrics_token is not None and self.metrics_token_file is not None:
            raise ValueError("metrics_token and metrics_token_file are both given: leave one of them out")
        return self


class Issued(BaseModel):
    """One certificate of this node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: int
    until: datetime
    revoked: datetime | None = None


class _Register(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    """Of the newest revocation list."""
    issued: tuple[Issued, ...] = Field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Status:
    """What there is to know about a node."""

    name: PartyId
    listen: str | None
    root: str
    """Fingerprint."""
    root_until: datetime
    root_key_here: bool
    serial: int
    until: datetime
    revoked: bool
    """Whether the certificate in use was revoked by this node itself."""
    revocations: int
    partners: Mapping[PartyId, Partner]

    def days_left(self, now: datetime) -> int:
        """Return for how many whole days the certificate is still valid; negative afterwards."""
        return (self.until - now).days


class Node:
    """The node in a folder.

    Raises:
        UsageError: There is none, or its configuration is wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read_config(folder / CONFIG_FILE, os.environ)
        self.partners = Partners(folder)

    @classmethod
    def create(cls, folder: Path, name: PartyId, listen: str | None, now: datetime, *, http: str | None = None) -> Node:
        """Make a node with a root, a key and a certificate of its own.

        Raises:
            UsageError: The folder holds something already, or ``listen`` is not ``host:port``.
        """
        if listen is not None:
            split_endpoint(listen)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} holds something already: choose another folder, or `unseen node status` it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made aside, so that there is a whole node or none.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
            made = Path(aside) / "node"
            made.mkdir(mode=0o700)
            root = make_authority(f"Unseen node {name}"[:_NAME_LENGTH], days=_ROOT_DAYS, now=now, party=name)
            _write(made / ROOT_KEY_FILE, root.key_pem)
            _write(made / ROOT_FILE, root.certificate_pem)
            _renew(made, name, root, LEAF_DAYS, now)
            config = NodeConfig(name=name, listen=listen, http=http)
            said = config.model_dump(mode="json", exclude_defaults=True)
            _write(made / CONFIG_FILE, yaml.safe_dump({"listen": None, **said}, sort_keys=False).encode())
            made.replace(folder)
        return cls(folder)

    @property
    def name(self) -> PartyId:
        """The organisation's name, which partners know it by."""
        return self.config.name

    def metrics_token(self) -> str | None:
        """Return what whoever reads ``/metrics`` has to show; ``None`` if nobody does.

        Raises:
            UsageError: The file that holds it cannot be read, or what it holds is too short.
        """
        path = self.config.metrics_token_file
        if path is None:
            return self.config.metrics_token
        token = _read(self.folder / path).decode("utf-8", "replace").strip()
        if len(token) < _TOKEN_LENGTH:
            raise UsageError(f"{self.folder / path} has {len(token)} characters, expected {_TOKEN_LENGTH} at least")
        return token

    def identity(self) -> Identity:
        """Return what this node shows to partners, and its partner list as trust.

        Raises:
            UsageError: A file is missing or does not fit, others may read the key, or the certificate was revoked here.
        """
        path = self.folder / _NODE_FILE
        content = read_private(path)
        key_pem, end, certificate_pem = content.partition(_KEY_END)
        identity = Identity(
            self.name, certificate_pem, key_pem + end, _read(self.folder / ROOT_FILE), trust=self.partners
        )
        serial = read_certificate(certificate_pem).serial_number
        if any(entry.serial == serial and entry.revoked for entry in self._register().issued):
            raise UsageError(f"the certificate in {path} was revoked by this node: unseen node renew {self.folder}")
        return identity

    def identity_mark(self) -> tuple[int, int]:
        """Return what differs once another key and certificate are in place; 0 and 0 if none can be seen."""
        try:
            status = (self.folder / _NODE_FILE).stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def renew(self, now: datetime, *, days: int = LEAF_DAYS, root_key: Path | None = None) -> datetime:
        """Put a new key and certificate in place; return until when it is valid.

        The one before stays valid until it runs out, so that processes with it go on.

        Raises:
            UsageError: The root's key is not there or not the root's.
        """
        root = self._root(root_key)
        with locked(self.folder):
            return _renew(self.folder, self.name, root, days, now)

    def revoke(self, now: datetime, *, root_key: Path | None = None) -> int:
        """Revoke every certificate that this node has had, and put a new one in place; return how many those are.

        Raises:
            UsageError: The root's key is not there or not the root's.
        """
        root = self._root(root_key)
        with locked(self.folder):
            register = self._register()
            issued = tuple(
                entry if entry.revoked else entry.model_copy(update={"revoked": now})
                for entry in register.issued
                if entry.until > now
            )
            # The time as number: a node that was brought back from a copy does not repeat one.
            number = max(register.number + 1, int(now.timestamp()))
            revoked = {entry.serial: entry.revoked for entry in issued if entry.revoked}
            _write_register(self.folder, _Register(number=number, issued=issued))
            _write(self.folder / LIST_FILE, make_list(root, number, revoked, now=now))
            _renew(self.folder, self.name, root, LEAF_DAYS, now)
        return len(revoked)

    def status(self) -> Status:
        """Return what there is to know about the node."""
        root = read_certificate(_read(self.folder / ROOT_FILE))
        content = read_private(self.folder / _NODE_FILE)
        leaf = read_certificate(content.partition(_KEY_END)[2])
        issued = self._register().issued
        return Status(
            name=self.name,
            listen=self.config.listen,
            root=fingerprint(root.public_bytes(serialization.Encoding.PEM)),
            root_until=root.not_valid_after_utc,
            root_key_here=(self.folder / ROOT_KEY_FILE).exists(),
            serial=leaf.serial_number,
            until=leaf.not_valid_after_utc,
            revoked=any(entry.serial == leaf.serial_number and entry.revoked for entry in issued),
            revocations=sum(entry.revoked is not None for entry in issued),
            partners=self.partners.all(),
        )

    def _register(self) -> _Register:
        return read_record(self.folder / _ISSUED_FILE, _Register)

    def _root(self, root_key: Path | None) -> Authority:
        path = root_key or self.folder / ROOT_KEY_FILE
        if not path.exists():
            raise UsageError(
                f"the key of the root is not at {path}: bring it, and say where it is with --root-key FILE"
            )
        root_pem, key_pem = _read(self.folder / ROOT_FILE), read_private(path)
        if read_key(key_pem).public_key() != read_certificate(root_pem).public_key():
            raise UsageError(f"{path} is not the key of the root of {self.folder}")
        return Authority(root_pem, key_pem)


def is_node(path: Path) -> bool:
    """Return whether there is a node in a folder."""
    return (path / CONFIG_FILE).exists()


def load_identity(path: Path) -> Identity:
    """Return the identity of a node, or of a folder with ``certificate.pem``, ``key.pem`` and ``authority.pem``."""
    return Node(path).identity() if is_node(path) else Identity.load(path)


def read_private(path: Path) -> bytes:
    """Return the content of a file with a key.

    Raises:
        UsageError: It cannot be read, or not by its owner alone.
    """
    content = _read(path)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} holds a private key, and others may read it: chmod 600 {path}")
    return content


def _renew(folder: Path, name: PartyId, root: Authority, days: int, now: datetime) -> datetime:
    if not 1 <= days <= LEAF_DAYS:
        raise UsageError(f"a node's certificate is valid for 1 to {LEAF_DAYS} days, not for {days}")
    fresh = issue(root, name, days=days, now=now)
    leaf = read_certificate(fresh.certificate_pem)
    path = folder / _ISSUED_FILE
    register = read_record(path, _Register) if path.exists() else _Register()
    # A certificate that ran out need not be remembered; a day more, for clocks that differ.
    kept = tuple(entry for entry in register.issued if entry.until + timedelta(days=1) > now)
    entry = Issued(serial=leaf.serial_number, until=leaf.not_valid_after_utc)
    # First: a certificate that was never used does no harm in the register; one that is not in it could not be revoked.
    _write_register(folder, register.model_copy(update={"issued": (*kept, entry)}))
    _write(folder / _NODE_FILE, fresh.key_pem + fresh.certificate_pem)
    return leaf.not_valid_after_utc.astimezone(UTC)


def _write_register(folder: Path, register: _Register) -> None:
    _write(folder / _ISSUED_FILE, register.model_dump_json(indent=1).encode())


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _read_config(path: Path, environment: Mapping[str, str]) -> NodeConfig:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no node in {path.parent}: make one with `unseen node init`") from error
    except yaml.MarkedYAMLError as error:
        # Not the error's own words: they quote the file, which may hold secrets.
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise UsageError(f"{path}, line {line}: {error.problem}") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    config = read_settings(NodeConfig, said, environment, str(path))
    if isinstance(said, dict) and said.get("name") not in (None, config.name):
        raise UsageError(
            f"{variable('name')} is {config.name}, and the node in {path.parent} is {said['name']}: it keeps its name"
        )
    return config
