"""What drives the roles of one sum: dialogues when everybody stays, ``rehearse`` with drop-outs in one thread.

A dialogue waits for every client. A driver with deadlines does what ``rehearse`` does: it hands over what has come,
closes the link of whoever breaks the rules or is late, and advances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unseen.codec import decode, encode_bytes
from unseen.dialogue import Dialogue, receive, send
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.port import ClientRole, ServerRole, Total


def client_side(role: ClientRole, server: PartyId) -> Dialogue[None]:
    """Play a client to its end."""
    yield from send(server, role.begin())
    while (kind := role.hears) is not None:
        told = yield from receive(server, kind)
        yield from send(server, role.answer(told))


def server_side(role: ServerRole) -> Dialogue[Total]:
    """Play the server with clients that all stay; return the total."""
    while (kind := role.expects) is not None:
        for client in sorted(role.waiting):
            role.accept(client, (yield from receive(client, kind)))
        for client, told in role.advance().items():
            yield from send(client, told)
    return role.total()


Stays = Callable[[PartyId, type], bool]


def _everybody(client: PartyId, kind: type) -> bool:
    """Return true: nobody drops out."""
    return True


def rehearse(
    clients: Mapping[PartyId, ClientRole], server: ServerRole, *, stays: Stays = _everybody, name: str = "server"
) -> Total:
    """Run a whole sum in one thread; every message is encoded and decoded.

    A client for which ``stays(client, kind)`` is false is gone before it sends its message of that kind.

    Raises:
        PeerUnreachable: Too few clients are left.
        RemoteProtocolError: A role broke the rules.
    """
    told: Mapping[PartyId, object] = {}
    gone: set[PartyId] = set()
    while (kind := server.expects) is not None:
        gone |= {client for client in server.waiting if not stays(client, kind)}
        for client in sorted(server.waiting - gone):
            role = clients[client]
            heard = role.hears
            frame = None if heard is None else encode_bytes(told[client])
            answer = role.begin() if heard is None or frame is None else role.answer(decode(heard, frame, sender=name))
            server.accept(client, decode(kind, encode_bytes(answer), sender=client))
        told = server.advance()
    return server.total()
