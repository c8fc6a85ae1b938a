"""Channels and vouched keys for rounds of horizontal learning, by an identity in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.node.folder import load_identity
from unseen.transport.grpc import GrpcChannel
from unseen.transport.vouchers import vouch, vouched


def server_channel(identity: Path, clients: Sequence[PartyId], listen: str) -> GrpcChannel:
    """Return the server's channel, which all clients dial.

    Raises:
        UsageError: The identity cannot be read, or the port is not free.
    """
    if len(set(clients)) != len(clients):
        raise UsageError(f"a client is named twice: {', '.join(sorted(clients))}")
    return GrpcChannel(load_identity(identity), dict.fromkeys(clients), listen=listen)


def client_channels(identity: Path, server: PartyId, address: str) -> tuple[PartyId, Callable[[], GrpcChannel]]:
    """Return a client's name, and what makes its channel to the server.

    Raises:
        UsageError: The identity cannot be read.
    """
    own = load_identity(identity)
    return own.party, lambda: GrpcChannel(own, {server: address})


def peer_channel(
    identity: Path,
    addresses: Mapping[PartyId, str | None],
    listen: str | None,
    linked: Callable[[PartyId], Set[PartyId]],
) -> GrpcChannel:
    """Return a channel to those peers that a party is ``linked`` with; those without an address dial it.

    Raises:
        UsageError: The identity cannot be read, the port is not free, or nobody can dial.
    """
    own = load_identity(identity)
    needed = {peer: addresses[peer] for peer in sorted(linked(own.party))}
    dialling = [peer for peer, address in needed.items() if address is None]
    if dialling and listen is None:
        raise UsageError(f"{own.party} has no address of {', '.join(dialling)}: give it, or listen for them")
    return GrpcChannel(own, needed, listen=listen if dialling else None)


def voucher(identity: Path, public: bytes) -> tuple[PartyId, bytes]:
    """Return who this is, and a voucher for its signing key, which goes to all others and is no secret.

    Raises:
        UsageError: The identity cannot be read.
    """
    own = load_identity(identity)
    return own.party, vouch(own, public)


def read_roster(identity: Path, folder: Path, now: datetime) -> dict[PartyId, bytes]:
    """Return the signing keys of all clients by the vouchers in a folder, ``NAME.json`` each.

    Raises:
        UsageError: A voucher cannot be read or believed, or there is none.
    """
    own, found = load_identity(identity), {}
    for path in sorted(folder.glob("*.json")):
        name = PartyId(path.stem)
        party, public = vouched(path.read_bytes(), own, now)
        if party != name:
            raise UsageError(f"{path} is the voucher of {party}: a voucher's file is named for its party")
        found[party] = public
    if not found:
        raise UsageError(f"{folder} has no vouchers: each client makes its own (`unseen vouch`), and all get all")
    return found
