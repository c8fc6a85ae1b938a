"""Where a node keeps what, and where it takes tables from, as its folder and ``node.yaml`` say.

::

    node.db         the database, unless ``node.yaml`` says ``store: URL``
    artifacts/      artifacts, unless it says ``artifacts: URL``
    artifacts.key   the key under which they lie encrypted, wherever they lie
    run/plain/      plain content while somebody reads it
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unseen.clock import Clock
from unseen.errors import DataError, UsageError
from unseen.node.artifacts import KEY_FILE, Artifacts, artifacts_key
from unseen.node.blobs import open_blobs
from unseen.node.folder import Node, read_private
from unseen.node.sources.bucket import Bucket
from unseen.node.sources.config import SourceConfig, SourceKind
from unseen.node.sources.database import Database
from unseen.node.sources.port import Bounds, Source
from unseen.node.store import Store

STORE_FILE = "node.db"
ARTIFACTS_FOLDER = "artifacts"
RUN_FOLDER = "run"


def store_url(node: Node) -> str:
    """Return the URL of a node's database."""
    return node.config.store or f"sqlite:///{node.folder.resolve() / STORE_FILE}"


def artifacts_root(node: Node) -> str:
    """Return the URL of a node's artifacts."""
    return node.config.artifacts or (node.folder.resolve() / ARTIFACTS_FOLDER).as_uri()


def scratch_folder(node: Node) -> Path:
    """Return the folder for plain content."""
    return node.folder.resolve() / RUN_FOLDER / "plain"


def open_node_store(node: Node) -> Store:
    """Open a node's database."""
    return Store(store_url(node))


def open_node_artifacts(node: Node) -> Artifacts:
    """Open a node's artifacts; their key is made when there are none yet.

    Raises:
        DataError: There are some, and their key is gone.
    """
    root = artifacts_root(node)
    if not (node.folder / KEY_FILE).exists() and next(open_blobs(root).names(), None) is not None:
        raise DataError(f"{node.folder / KEY_FILE} is gone, and artifacts need it: bring it back from a backup")
    return Artifacts(root, artifacts_key(node.folder), scratch_folder(node))


def open_sources(node: Node, clock: Clock, bounds: Bounds | None = None) -> Mapping[str, Source]:
    """Return a node's sources by name; none of them is asked for anything yet.

    Raises:
        UsageError: A library is not installed, or a file with a password cannot be read, or others may read it.
    """
    found = node.config.sources.items()
    return {name: _opened(node, name, config, clock, bounds or Bounds()) for name, config in found}


def _opened(node: Node, name: str, config: SourceConfig, clock: Clock, bounds: Bounds) -> Source:
    if config.kind is SourceKind.S3:
        return Bucket(name, config, clock, bounds)
    file, authority = config.password_file, config.authority
    password = read_private(node.folder / file).decode("utf-8", "replace").strip() if file is not None else None
    if authority is not None and not (node.folder / authority).is_file():
        raise UsageError(f"source {name}: there is no file {node.folder / authority}")
    return Database(name, config, password, node.folder / authority if authority else None, clock, bounds)
