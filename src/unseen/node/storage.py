"""Where a node keeps what: its database, its artifacts and their key, as its folder and ``node.yaml`` say.

::

    node.db         the database, unless ``node.yaml`` says ``store: URL``
    artifacts/      artifacts, unless it says ``artifacts: URL``
    artifacts.key   the key under which they lie encrypted, wherever they lie
    run/plain/      plain content while somebody reads it
"""

from __future__ import annotations

import secrets
from pathlib import Path

from unseen.data.atomic import whole_file
from unseen.errors import DataError
from unseen.node.artifacts import KEY_BYTES, Artifacts
from unseen.node.folder import Node, read_private
from unseen.node.partners import locked
from unseen.node.places import open_place
from unseen.node.store import Store

STORE_FILE = "node.db"
ARTIFACTS_FOLDER = "artifacts"
ARTIFACTS_KEY_FILE = "artifacts.key"
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
    return Artifacts(artifacts_root(node), _key(node), scratch=scratch_folder(node))


def _key(node: Node) -> bytes:
    path = node.folder / ARTIFACTS_KEY_FILE
    with locked(node.folder):
        if not path.exists():
            if next(open_place(artifacts_root(node)).names(), None) is not None:
                raise DataError(f"{path} is gone, and artifacts need it: bring it back from a backup")
            with whole_file(path) as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        return read_private(path)
