"""Where a node keeps what: its database, its artifacts and their key, as its folder and ``node.yaml`` say.

::

    node.db         the database, unless ``node.yaml`` says ``store: URL``
    artifacts/      artifacts, unless it says ``artifacts: URL``
    artifacts.key   the key under which they lie encrypted, wherever they lie
    run/plain/      plain content while somebody reads it
"""

from __future__ import annotations

from pathlib import Path

from unseen.errors import DataError
from unseen.node.artifacts import KEY_FILE, Artifacts, artifacts_key
from unseen.node.blobs import open_blobs
from unseen.node.folder import Node
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
