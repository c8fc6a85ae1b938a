"""A whole node in one encrypted file, and the node again from it.

::

    UNSEENBK 1   magic
    salt         16 bytes; scrypt (RFC 7914) makes the file's key from the passphrase
    archive      sealed like an artifact (``sealed``): a tar with manifest.json, then

        node/…             files of the folder: configuration, keys, certificates, partners, workspaces
        database/NAME      each table's rows (``store.dump``)
        artifacts/NAME     as they lie, encrypted under the node's own key

The database is copied first and at one moment, while the node may run. Artifacts are kept before the database names
them, so that every one is there that the copy names. A node that comes from a backup has forgotten what its partners
know: see ``store.recovery``.
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

import sqlalchemy as sql
import yaml
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.node.blobs import open_blobs
from unseen.node.domain import JobState
from unseen.node.folder import CONFIG_FILE, Node
from unseen.node.scratch import Scratch
from unseen.node.sealed import open_file, seal_file
from unseen.node.settings import variable
from unseen.node.storage import (
    ARTIFACTS_FOLDER,
    RUN_FOLDER,
    STORE_FILE,
    artifacts_root,
    open_node_store,
    scratch_folder,
    store_url,
)
from unseen.node.store.dump import fill, tables_of
from unseen.node.store.jobs import JobRows
from unseen.node.store.recovery import RecoveryRows

_MAGIC = b"UNSEENBK\x00\x01"
_SALT, _BOUND = 16, "backup"
_SCRYPT_N = 1 << 16
"""64 MiB and about a fifth of a second for each guess at a passphrase."""
SHORTEST = 12
_MOST_JOBS = 1_000_000
_MANIFEST, _NODE, _DATABASE, _ARTIFACTS = "manifest.json", "node", "database", "artifacts"


class Manifest(BaseModel):
    """What a backup says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: PartyId
    at: AwareDatetime
    revision: Annotated[str, Field(pattern=r"[0-9]{4}")]
    """Of the database's schema."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back."""

    manifest: Manifest
    ended: int
    """Jobs that were going on when the backup was made, and are over now."""
    artifacts: int


def make_backup(node: Node, file: Path, passphrase: str, now: datetime) -> Manifest:
    """Write everything that a node has into a new file, which is there as a whole or not at all.

    Raises:
        UsageError: The file is there already or in the node's folder, or the passphrase is too short.
        DataError: Something cannot be read or written.
    """
    _check_passphrase(passphrase)
    if file.exists():
        raise UsageError(f"{file} is there already: choose another name, or remove it")
    if file.resolve().is_relative_to(node.folder.resolve()):
        raise UsageError(f"{file} is in the node's own folder: the next backup would hold it; choose another place")
    with Scratch(scratch_folder(node)) as scratch, tempfile.TemporaryFile(dir=scratch.folder) as plain:
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
            manifest = _pack(archive, node, scratch.folder, now)
        plain.seek(0)
        salt = secrets.token_bytes(_SALT)
        with whole_file(file) as target:
            target.write(_MAGIC + salt)
            seal_file(plain, target, _key(passphrase, salt), _BOUND)
    return manifest


def restore(
    file: Path,
    folder: Path,
    passphrase: str,
    now: datetime,
    *,
    store: str | None = None,
    artifacts: str | None = None,
) -> Restored:
    """Make a node in an empty folder from a backup; other places for database and artifacts may be said.

    Raises:
        UsageError: The folder or the database is not empty, or the passphrase is another one.
        DataError: The file is damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already: give an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made aside, so that there is a whole node or none.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        made = Path(aside) / "node"
        made.mkdir(mode=0o700)
        with tempfile.TemporaryFile(dir=aside) as plain:
            _open(file, passphrase, plain)
            plain.seek(0)
            try:
                with tarfile.open(fileobj=plain, mode="r:") as archive:
                    restored = _unpack(archive, made, now, store, artifacts)
            except (tarfile.TarError, ValidationError, ValueError, KeyError) as error:
                raise DataError(f"{file} is not a backup of a node: {error}") from error
        made.replace(folder)
    return restored


def reconcile(node: Node, now: datetime) -> tuple[PartyId, ...]:
    """Note that a node's files were put back by other means; return the partners with whom it has to compare."""
    with open_node_store(node) as store, store.begin() as kept:
        _end_jobs(kept.jobs, now)
        kept.recovery.begin(node.partners.all(), now)
        return kept.recovery.open()


# --- the file --------------------------------------------------------------------------------------------------------


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(passphrase.encode())


def _check_passphrase(passphrase: str) -> None:
    if len(passphrase) < SHORTEST:
        raise UsageError(f"the passphrase has {len(passphrase)} characters: take at least {SHORTEST}, at random")


def _open(file: Path, passphrase: str, plain: IO[bytes]) -> None:
    try:
        with file.open("rb") as source:
            magic, salt = source.read(len(_MAGIC)), source.read(_SALT)
            if magic == _MAGIC:
                return open_file(source, plain, _key(passphrase, salt), _BOUND)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{file} does not open: another passphrase made it, or it is damaged") from error
    raise DataError(f"{file} is no backup of a node")


# --- packing ---------------------------------------------------------------------------------------------------------


def _pack(archive: tarfile.TarFile, node: Node, scratch: Path, now: datetime) -> Manifest:
    with open_node_store(node) as store, store.snapshot() as connection:
        revision, tables = tables_of(connection)
        manifest = Manifest(name=node.name, at=now, revision=revision)
        _add_bytes(archive, _MANIFEST, manifest.model_dump_json().encode())
        for path in _files(node.folder):
            _add(archive, f"{_NODE}/{path.relative_to(node.folder).as_posix()}", path)
        for name, lines in tables.items():
            with tempfile.NamedTemporaryFile(dir=scratch) as rows:
                rows.writelines(lines)
                rows.flush()
                _add(archive, f"{_DATABASE}/{name}", Path(rows.name))
    blobs, copy = open_blobs(artifacts_root(node)), scratch / "copy"
    for name in blobs.names():
        try:
            blobs.get(name, copy)
        except DataError:
            if blobs.has(name):
                raise
            continue  # it was deleted a moment ago
        _add(archive, f"{_ARTIFACTS}/{name}", copy)
    return manifest


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that make the node: not the database, artifacts and what only lives while it runs."""
    for path in sorted(folder.rglob("*")):
        top, *_ = path.relative_to(folder).parts
        if top in (ARTIFACTS_FOLDER, RUN_FOLDER) or top.startswith((STORE_FILE, ".")):
            continue
        if path.is_file() and not path.is_symlink():
            yield path


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
            archive.addfile(info, file)
    except FileNotFoundError:
        return  # it was there a moment ago: a running node replaces and removes files
    except OSError as error:
        raise DataError(f"{path} cannot be copied: {error.strerror or error}") from error


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    archive.addfile(info, io.BytesIO(content))


# --- unpacking -------------------------------------------------------------------------------------------------------


def _unpack(archive: tarfile.TarFile, made: Path, now: datetime, store: str | None, artifacts: str | None) -> Restored:
    members = archive.getmembers()
    manifest = Manifest.model_validate_json(_content(archive, archive.getmember(_MANIFEST)).read())
    for member, path in _within(members, _NODE):
        target = made / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(archive, member, target)
    config = yaml.safe_load((made / CONFIG_FILE).read_text(encoding="utf-8"))
    if store is not None or artifacts is not None:
        config |= {"store": store or config.get("store"), "artifacts": artifacts or config.get("artifacts")}
        with whole_file(made / CONFIG_FILE) as written:
            written.write(yaml.safe_dump(config, sort_keys=False).encode())
    node = Node(made)
    for field, asked, found in (("store", store, node.config.store), ("artifacts", artifacts, node.config.artifacts)):
        if asked not in (None, found):
            raise UsageError(f"{variable(field)} says another place than --{field}: leave one of them out")
    blobs, count = open_blobs(artifacts_root(node)), 0
    for member, path in _within(members, _ARTIFACTS):
        with tempfile.NamedTemporaryFile(dir=made.parent) as copy:
            _write(archive, member, Path(copy.name))
            blobs.put(path.name, Path(copy.name))
        count += 1
    ended = _fill(archive, members, node, manifest, now)
    return Restored(manifest, ended, count)


def _fill(
    archive: tarfile.TarFile, members: list[tarfile.TarInfo], node: Node, manifest: Manifest, now: datetime
) -> int:
    ended = 0

    def begin_anew(connection: sql.Connection) -> None:
        nonlocal ended
        ended = _end_jobs(JobRows(connection), now)
        RecoveryRows(connection).begin(node.partners.all(), now)

    tables = ((path.name, _content(archive, member)) for member, path in _within(members, _DATABASE))
    fill(store_url(node), manifest.revision, tables, begin_anew)
    return ended


def _end_jobs(jobs: JobRows, now: datetime) -> int:
    """End all jobs: what became of them since, only others know."""
    live = jobs.all(states=[state for state in JobState if not state.is_over], limit=_MOST_JOBS)
    for job in live:
        jobs.move(job.job, JobState.FAILED, "this node was put back from a backup: propose the job anew", now)
    return len(live)


def _within(members: Iterable[tarfile.TarInfo], top: str) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yield the plain files below a folder of the archive, with their paths in it, which lead nowhere else."""
    for member in members:
        path = PurePosixPath(member.name)
        if path.parts[:1] != (top,):
            continue
        if not member.isreg() or ".." in path.parts or len(path.parts) < 2:
            raise DataError(f"the backup has a member {member.name!r} that is no plain file in its place")
        yield member, path.relative_to(top)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise DataError(f"the backup has a member {member.name!r} that is no plain file")
    return file


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    with _content(archive, member) as source, whole_file(path) as target:
        while piece := source.read(1 << 20):
            target.write(piece)
