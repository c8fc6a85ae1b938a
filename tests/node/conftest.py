"""Two nodes in folders, and what comes between them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unseen.ids import PartyId
from unseen.node.folder import Node

sys.path.insert(0, str(Path(__file__).parent))  # for ``organisations``

from organisations import allied  # found through the line above
from servers import mariadb, postgres, s3  # noqa: F401  # fixtures for all tests of nodes

BANK, PARTNER = PartyId("bank"), PartyId("partner")


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def bank(tmp_path, free_port, now) -> Node:
    return Node.create(tmp_path / "bank", BANK, f"127.0.0.1:{free_port}", now)


@pytest.fixture
def partner(tmp_path, now) -> Node:
    return Node.create(tmp_path / "partner", PARTNER, None, now)


@pytest.fixture
def paired(bank, partner, now) -> tuple[Node, Node]:
    """The partner dials the bank, and each has the other's root."""
    bank.partners.add(PARTNER, partner.identity().ca_pem, None, now)
    partner.partners.add(BANK, bank.identity().ca_pem, bank.config.listen, now)
    return bank, partner


@pytest.fixture
def allies(tmp_path):
    """Two nodes with an agreement in force."""
    return allied(tmp_path, PartyId("bank"), PartyId("insurer"))
