"""The server of ``secagg_plus``, whose module says what the protocol is and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import masks, shamir
from unseen.protocols.secure_aggregation.keys import KEY_BYTES, SIGNATURE_BYTES, EphemeralKey
from unseen.protocols.secure_aggregation.port import Total, from_bytes, reduce_words
from unseen.protocols.secure_aggregation.roster import Bytes, Roster, RosterOf, Terms, as_places, as_rows, check_keys
from unseen.protocols.secure_aggregation.secagg_plus import (
    Consent,
    Consents,
    Delivery,
    Keys,
    Masked,
    Openings,
    Shares,
    Survivors,
)

_PROBE = EphemeralKey(bytes(KEY_BYTES))


class Server:
    """The server of one sum; a ``ServerRole``. It has no secrets of its own."""

    def __init__(self, terms: Terms) -> None:
        self._terms, self._setting, self._context = terms, terms.setting, terms.context
        self._phases: list[tuple[type, Callable[[PartyId, Any], object], Callable[[], dict[PartyId, object]]]] = [
            (Keys, self._check_keys, self._roster_of),
            (Shares, self._check_shares, self._deliver),
            (Masked, self._add, self._name_survivors),
            (Consent, self._check_consent, self._pass_consents),
            (Openings, self._check_openings, self._unmask),
        ]
        self._waiting = set(terms.setting.clients)
        self._keys: set[bytes] = set()
        self._found: dict[PartyId, Any] = {}
        """What this phase brought, by client."""
        self._words = np.zeros(terms.setting.length, terms.setting.dtype)
        self._weight = np.zeros(1, np.uint64)
        self._total: Total | None = None

    @property
    def expects(self) -> type[Any] | None:
        """The kind of message of this phase."""
        return self._phases[0][0] if self._phases else None

    @property
    def waiting(self) -> frozenset[PartyId]:
        """Who may still send one."""
        return frozenset(self._waiting)

    def accept(self, client: PartyId, message: object) -> None:
        """Take a client's message of this phase; see ``ServerRole``."""
        if self.expects is None or type(message) is not self.expects:
            wanted = self.expects.__name__ if self.expects else "nothing more"
            raise RemoteProtocolError(f"{client}: expected {wanted}, found {type(message).__name__}: too late or early")
        if client not in self._waiting:
            why = "a duplicate" if client in self._found else "it takes no part, or dropped out before"
            raise RemoteProtocolError(f"{client}: its {type(message).__name__} is refused: {why}")
        self._found[client] = self._phases[0][1](client, message)
        self._waiting.remove(client)

    def advance(self) -> dict[PartyId, object]:
        """End the phase; see ``ServerRole``."""
        if not self._phases:
            raise LocalProtocolError("a sum that is known was about to go on")
        (kind, _, work), *rest = self._phases
        # An error ends the sum: what has been sent may not be asked for again in another way.
        self._phases = []
        self._check_count(kind)
        outgoing = work()
        self._phases, self._waiting, self._found = rest, set(outgoing), {}
        return outgoing

    def total(self) -> Total:
        """Return the sum; see ``ServerRole``."""
        if self._total is None:
            raise LocalProtocolError(f"the sum is not known yet: clients still have to send {self.expects}")
        return self._total

    def _check_count(self, kind: type) -> None:
        """Pass if enough clients have sent what belongs to this phase."""
        least = self._setting.quorum
        if len(self._found) < least:
            missing = ", ".join(sorted(self._waiting)) or "nobody: the others had gone before"
            raise PeerUnreachable(
                f"{len(self._found)} of {len(self._setting.clients)} clients sent {kind.__name__}, at least {least} "
                f"have to; missing now: {missing}. Begin an attempt with a new name"
            )

    def _present(self) -> list[int]:
        """Return who sent what belongs to this phase, by places in the roster."""
        return [place for place, member in enumerate(self._roster.members) if member in self._found]

    def _tell(self, places: Sequence[int], content: object) -> dict[PartyId, object]:
        return {self._roster.members[place]: content for place in places}

    def _place(self, client: PartyId) -> int:
        return self._roster.members.index(client)

    def _check_keys(self, client: PartyId, keys: Keys) -> Keys:
        pair = keys.cipher_key.tobytes(), keys.mask_key.tobytes()
        check_keys(self._terms, self._context, client, pair, keys.signature.tobytes())
        for key in pair:
            # A key of low order gives zero with any other, and would stop its honest neighbours.
            _PROBE.agree(key, client)
        if len({*pair}) < 2 or self._keys.intersection(pair):
            raise RemoteProtocolError(f"{client}: its keys are not fresh: one stands twice in this sum")
        self._keys |= {*pair}
        return keys

    def _roster_of(self) -> dict[PartyId, object]:
        """Close U1."""
        cohort = [place for place, client in enumerate(self._setting.clients) if client in self._found]
        found: list[Keys] = [self._found[self._setting.clients[place]] for place in cohort]
        keys = np.stack([np.stack([each.cipher_key, each.mask_key]) for each in found])
        told = RosterOf(as_places(cohort), keys, np.stack([each.signature for each in found]))
        self._roster = Roster.read(self._terms, told, self._terms.server)
        return self._tell(self._present(), told)

    def _check_shares(self, client: PartyId, shares: Shares) -> Bytes:
        if len(shares.sealed) != self._roster.graph.degree:
            expected = self._roster.graph.degree
            raise RemoteProtocolError(
                f"{client}: expected shares for {expected} neighbours, found {len(shares.sealed)}"
            )
        return shares.sealed

    def _deliver(self) -> dict[PartyId, object]:
        """Close U2, and turn the shares over to those whom they are for."""
        graph, self._sharing = self._roster.graph, self._present()
        self._check_holders(self._sharing, self._sharing)
        self._neighbours = [graph.neighbours(place) for place in range(len(self._roster.members))]
        members, told, sharing = self._roster.members, as_places(self._sharing), set(self._sharing)
        outgoing: dict[PartyId, object] = {}
        for me in self._sharing:
            owners = [owner for owner in self._neighbours[me] if owner in sharing]
            rows = [self._found[members[owner]][self._neighbours[owner].index(me)] for owner in owners]
            outgoing[members[me]] = Delivery(told, np.stack(rows))
        return outgoing

    def _check_holders(self, owners: Sequence[int], present: Sequence[int]) -> None:
        """Pass if enough holders of the secrets of ``owners`` are present."""
        graph, there = self._roster.graph, set(present)
        for owner in owners:
            count = len(there.intersection(graph.holders(owner)))
            if count < graph.threshold:
                raise PeerUnreachable(
                    f"{count} of the {graph.degree + 1} clients that hold shares of {self._roster.members[owner]} are "
                    f"left, at least {graph.threshold} have to. Nothing has been revealed: begin an attempt with a new "
                    "name"
                )

    def _add(self, client: PartyId, masked: Masked) -> None:
        np.add(self._words, from_bytes(masked.words, self._setting, client), out=self._words)
        self._weight += masked.weight

    def _name_survivors(self) -> dict[PartyId, object]:
        """Close U3."""
        self._left = self._present()
        self._check_holders(self._sharing, self._left)
        return self._tell(self._left, Survivors(as_places(self._left)))

    def _check_consent(self, client: PartyId, consent: Consent) -> bytes:
        signature = consent.signature.tobytes()
        view = self._roster.view(self._sharing)
        if not self._roster.has_signed(self._place(client), signature, view, self._left):
            raise RemoteProtocolError(f"{client}: it has signed other survivors than those that it was told of")
        return signature

    def _pass_consents(self) -> dict[PartyId, object]:
        signers = self._present()
        signatures = as_rows([self._found[self._roster.members[place]] for place in signers], SIGNATURE_BYTES)
        return self._tell(signers, Consents(as_places(signers), signatures))

    def _check_openings(self, client: PartyId, openings: Openings) -> dict[int, bytes]:
        me = self._place(client)
        owners = self._roster.places(openings.owners, 0, client)
        if len(openings.shares) != len(owners) or not {*owners} <= {me, *self._neighbours[me]} & {*self._sharing}:
            raise RemoteProtocolError(f"{client}: it opens shares that it does not hold, or not all that it names")
        return {owner: share.tobytes() for owner, share in zip(owners, openings.shares, strict=True)}

    def _unmask(self) -> dict[PartyId, object]:
        """Take off the masks that do not cancel."""
        view, left = self._roster.view(self._sharing), set(self._left)
        added: list[Prg] = []
        taken = [self._roster.own_mask(self._opened(owner), view) for owner in self._left]
        for owner in sorted(set(self._sharing) - left):
            key = EphemeralKey(self._opened(owner))
            if key.public != self._roster.mask_keys[owner]:
                raise RemoteProtocolError(
                    f"the shares opened of {self._roster.members[owner]} do not give its mask key"
                )
            for peer in left.intersection(self._neighbours[owner]):
                # The peer added this mask if it is the lower end.
                (taken if peer < owner else added).append(self._roster.pair_mask(key, owner, peer, view))
        masks.apply(self._words, self._weight, added, taken)
        reduce_words(self._words, self._setting)
        members = tuple(self._roster.members[place] for place in self._left)
        self._total = Total(self._words, int(self._weight[0]), members)
        return {}

    def _opened(self, owner: int) -> bytes:
        """Return the one secret of ``owner`` that was opened."""
        threshold = self._roster.graph.threshold
        found = {
            holder: self._found[self._roster.members[holder]][owner]
            for holder in self._roster.graph.holders(owner)
            if owner in self._found.get(self._roster.members[holder], {})
        }
        holders = sorted(found)[:threshold]
        if len(holders) < threshold:
            raise PeerUnreachable(
                f"{len(holders)} shares of {self._roster.members[owner]} were opened, {threshold} are needed: too many "
                "clients are gone. Begin an attempt with a new name"
            )
        try:
            return shamir.join([found[holder] for holder in holders], [holder + 1 for holder in holders])
        except UsageError as error:
            raise RemoteProtocolError(
                f"the shares opened of {self._roster.members[owner]} are wrong: {error}"
            ) from error
