"""``unseen node backup|restore|reconcile|purge``: a whole node in a file and back, and what a node lets go of."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from unseen.errors import UsageError
from unseen.node import backup as backups
from unseen.node import retention
from unseen.node.folder import Node
from unseen.node.storage import open_node_artifacts, open_node_store


def backup(*, folder: Path, file: Path, passphrase_file: Path | None) -> None:
    """Write everything into one encrypted file."""
    manifest = backups.make_backup(Node(folder), file, _passphrase(passphrase_file, twice=True), _now())
    _say(f"{file}: all of {manifest.name}, {file.stat().st_size} bytes, encrypted")
    _say("without the passphrase it is worth nothing: keep that elsewhere; restore it somewhere now and then")


def restore(
    *, file: Path, folder: Path, store: str | None, artifacts: str | None, passphrase_file: Path | None
) -> None:
    """Make the node again."""
    restored = backups.restore(
        file, folder, _passphrase(passphrase_file, twice=False), _now(), store=store, artifacts=artifacts
    )
    made = restored.manifest
    _say(f"{folder}: {made.name} as it was on {made.at:%Y-%m-%d at %H:%M} UTC, {restored.artifacts} artifacts")
    _say(f"{restored.ended} jobs that were going on then are over: propose them anew")
    _say("nothing starts with a partner before its receipts have been compared")
    _say(f"what was struck off, revoked or renewed since is not in it: look at `unseen node status {folder}`")


def reconcile(*, folder: Path) -> None:
    """Note that the files were put back by other means."""
    peers = backups.reconcile(Node(folder), _now())
    _say(f"nothing starts with {', '.join(peers) or 'anybody'} before receipts have been compared")


def purge(*, folder: Path, days: int) -> None:
    """Remove what is old."""
    node, now = Node(folder), _now()
    artifacts = open_node_artifacts(node)
    try:
        with open_node_store(node) as store:
            gone = retention.purge(store, artifacts, now - timedelta(days=days), now)
    finally:
        artifacts.close()
    _say(f"gone: {len(gone.jobs)} jobs, the content of {len(gone.artifacts)} tables, {gone.sessions} sessions")


def _passphrase(file: Path | None, *, twice: bool) -> str:
    """Return the first line of a file, or what somebody types."""
    if file is not None:
        try:
            return (file.read_text(encoding="utf-8").splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked for the passphrase: give --passphrase-file FILE")
    typed = getpass.getpass("Passphrase of the backup: ")
    if twice and typed != getpass.getpass("Once more: "):
        raise UsageError("the two passphrases differ")
    return typed


def _now() -> datetime:
    return datetime.now(UTC)


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
