"""Who is let in over a channel, now and later: asks the identity's trust, and passes revocation lists on.

Without a trust there is nothing to ask beyond TLS, and nothing to pass on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from unseen.errors import UnseenError
from unseen.ids import PartyId
from unseen.transport.diagnosis import pinned
from unseen.transport.tls import Identity

# Revocation lists travel as metadata of calls, of which gRPC takes 8 KiB.
_REVOKED = "unseen-revoked-bin"
_REVOKED_BYTES = 6 << 10

_log = logging.getLogger(__name__)


class Guard:
    """Judges the certificates of one channel's peers."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._trust = identity.trust
        self._watched: dict[PartyId, bytes] = {}

    def trusted_at(self, endpoint: str, peer: PartyId) -> bytes | None:
        """Return what to trust at an endpoint, PEM, or ``None`` if nobody to be trusted is there.

        That is everybody's authority, or else the one certificate that was looked at and judged.
        """
        return self.identity.ca_pem if self._trust is None else pinned(endpoint, self.identity, peer)

    def own_list(self) -> tuple[tuple[str, bytes], ...]:
        """Return the metadata that hand this party's revocation list to a peer."""
        own = b"" if self._trust is None else self._trust.own_list()
        if len(own) > _REVOKED_BYTES:
            _log.warning("the revocation list of %s is too long for a link: send it as a file", self.identity.party)
        return ((_REVOKED, own),) if 0 < len(own) <= _REVOKED_BYTES else ()

    def learn(self, peer: PartyId, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """Keep the revocation list in a peer's metadata, if there is one."""
        for key, value in metadata or ():
            if self._trust is not None and key == _REVOKED and isinstance(value, bytes):
                try:
                    self._trust.learn(peer, value)
                except UnseenError as error:
                    _log.warning("%s", error)

    def objection(self, peer: PartyId, certificate_pem: bytes) -> str | None:
        """Return why there is no link to ``peer`` under this certificate, or ``None``; the peer may be told."""
        try:
            return self.identity.objection(peer, certificate_pem)
        except UnseenError as error:  # who cannot be judged is not trusted, and need not learn of files here
            _log.error("%s cannot judge %s: %s", self.identity.party, peer, error)
            return f"{peer} cannot be judged here at present: {self.identity.party} has to look into its log"

    def let_in(self, peer: PartyId, certificate_pem: bytes) -> str | None:
        """Return the objection, or watch over the certificate from now on."""
        objection = self.objection(peer, certificate_pem)
        if objection is None and self._trust is not None:
            self._watched[peer] = certificate_pem
        return objection

    def watched(self, peer: PartyId) -> bytes | None:
        """Return the certificate under which ``peer`` was let in last, PEM."""
        return self._watched.get(peer)

    def turned_bad(self) -> list[tuple[PartyId, str]]:
        """Return, once each, the peers that were let in and would not be any more, and why."""
        bad = []
        for peer, certificate_pem in list(self._watched.items()):
            try:
                objection = self.identity.objection(peer, certificate_pem)
            except UnseenError as error:  # for the people here
                objection = str(error)
            if objection is not None:
                self._watched.pop(peer, None)
                bad.append((peer, objection))
        return bad
