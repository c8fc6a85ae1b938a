"""Sums without a server, by additive shares: a committee of peers adds up what it cannot read.

Every peer splits its vector into c random shares whose sum it is, one for each member of a committee; each member adds
what it gets and sends the sum to everybody, and all add up the c sums. That is textbook additive secret sharing (R.
Cramer, I. Damgård, J. Nielsen, "Secure Multiparty Computation and Secret Sharing", 2015, chapter 1: secure addition).
Of c − 1 shares only the seed travels, from which AES-256 in counter mode makes the words (as H. Corrigan-Gibbs, D.
Boneh, "Prio", NSDI 2017, compress theirs).

*Security model*: semi-honest peers, of which any number may work together as long as one of the committee does not;
links are authenticated and secret. The coalition learns the total, thus the sum of the others' vectors. If the whole
committee works together it learns every vector. *Leakage*: nothing else. *Rounds*: 2. *Bytes*: everybody sends one
vector and c − 1 seeds, a member also n − 1 vectors. *Work*: c − 1 streams at a peer, about n at a member. Nobody may
drop out; a member that lies makes the total wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import masks
from unseen.protocols.secure_aggregation.port import (
    Contribution,
    Setting,
    Total,
    Words,
    from_bytes,
    reduce_words,
    to_bytes,
)

Bytes = NDArray[np.uint8]


# --- messages ----------------------------------------------------------------------------------------------------


@message("additive_shares/seed")
class Seed:
    """A share that is the stream of a seed."""

    context: Annotated[Bytes, Shape(32)]
    """Digest of the setting and the committee."""
    seed: Annotated[Bytes, Shape(SEED_BYTES)]


@message("additive_shares/rest")
class Rest:
    """A share in full: what is left of vector and weight when the streams are taken off."""

    context: Annotated[Bytes, Shape(32)]
    words: Annotated[Bytes, Shape(None)]
    weight: Annotated[NDArray[np.uint64], Shape(1)]


@message("additive_shares/sum")
class PartSum:
    """The sum of all shares that a member of the committee got."""

    words: Annotated[Bytes, Shape(None)]
    weight: Annotated[NDArray[np.uint64], Shape(1)]


# --- the dialogue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AdditiveShares:
    """The scheme; a ``PeerSum``. The committee are the first peers by name, the same for all."""

    committee: int = 3

    def __call__(self, me: PartyId, contribution: Contribution, setting: Setting, prg: Prg) -> Dialogue[Total]:
        """Return the total over all peers; see ``PeerSum``.

        Raises:
            UsageError: The committee has fewer than two members or more than there are peers, or ``me`` is no peer.
        """
        if not 2 <= self.committee <= len(setting.clients) or me not in setting.clients:
            raise UsageError(
                f"{me}: expected to be one of {len(setting.clients)} peers with a committee of 2 to as many, found "
                f"{self.committee}"
            )
        table = _Table(me, setting, setting.clients[: self.committee])
        own = yield from _hand_out(table, contribution.checked(setting), prg)
        if me in table.members:
            words, weight = yield from _add_up(table, own)
            for peer in table.peers:
                # Copies: what is on its way must not change under the additions that follow.
                yield from send(peer, PartSum(to_bytes(words.copy()), weight.copy()))
        else:
            words, weight = np.zeros(setting.length, setting.dtype), np.zeros(1, "<u8")
        for member in table.members:
            if member != me:
                part = yield from receive(member, PartSum)
                np.add(words, from_bytes(part.words, setting, member), out=words)
                weight += part.weight
        reduce_words(words, setting)
        return Total(words, int(weight[0]), setting.clients)


@dataclass(frozen=True, slots=True)
class _Table:
    """Who sits where, seen from one peer."""

    me: PartyId
    setting: Setting
    members: tuple[PartyId, ...]

    @property
    def peers(self) -> list[PartyId]:
        return [peer for peer in self.setting.clients if peer != self.me]

    @property
    def context(self) -> bytes:
        names = [member.encode() for member in self.members]
        return framed_digest(b"unseen/additive_shares/1", self.setting.context, *names)

    def gets_rest(self, peer: PartyId) -> PartyId:
        """Return the member that gets the share in full: peers take turns, so that members get about the same."""
        return self.members[self.setting.clients.index(peer) % len(self.members)]


@dataclass(frozen=True, slots=True, repr=False)
class _Own:
    """What a peer keeps for itself as a member: a seed, or the rest."""

    seed: bytes | None = None
    rest: tuple[Words, NDArray[np.uint64]] | None = field(default=None)


def _hand_out(table: _Table, contribution: Contribution, prg: Prg) -> Dialogue[_Own]:
    """Send each member its share; return the own one, if this is a member."""
    context = np.frombuffer(table.context, np.uint8)
    seeds = _seeds(table, contribution, prg)
    words, weight = contribution.words.copy(), np.array([contribution.weight], "<u8")
    masks.apply(words, weight, [], [_stream(table, table.me, seed) for seed in seeds.values()])
    reduce_words(words, table.setting)
    rest = table.gets_rest(table.me)
    for member in table.members:
        if member == table.me:
            continue
        if member == rest:
            yield from send(member, Rest(context, to_bytes(words), weight))
        else:
            yield from send(member, Seed(context, np.frombuffer(seeds[member], np.uint8)))
    return _Own(rest=(words, weight)) if rest == table.me else _Own(seed=seeds.get(table.me))


def _seeds(table: _Table, contribution: Contribution, prg: Prg) -> Mapping[PartyId, bytes]:
    """Return a seed for every member but the one that gets the rest."""
    weight = contribution.weight.to_bytes(8, "little")
    data = framed_digest(b"unseen/additive_shares/1/data", to_bytes(contribution.words), weight)
    # Safety: another vector has other seeds, even if a generator is used twice.
    fresh = prg.derive("additive_shares/seeds", table.context, table.me.encode(), data)
    rest = table.gets_rest(table.me)
    return {member: fresh.derive(member).bytes(SEED_BYTES) for member in table.members if member != rest}


def _stream(table: _Table, owner: PartyId, seed: bytes) -> Prg:
    return Prg(seed).derive("additive_shares/share", table.context, owner.encode())


def _add_up(table: _Table, own: _Own) -> Dialogue[tuple[Words, NDArray[np.uint64]]]:
    """Return the sum of the shares of all peers at this member."""
    setting = table.setting
    words, weight = np.zeros(setting.length, setting.dtype), np.zeros(1, np.uint64)
    streams = [] if own.seed is None else [_stream(table, table.me, own.seed)]
    if own.rest is not None:
        words, weight = own.rest
    for peer in table.peers:
        if table.gets_rest(peer) == table.me:
            rest = yield from receive(peer, Rest)
            _check(table, peer, rest.context)
            np.add(words, from_bytes(rest.words, setting, peer), out=words)
            weight += rest.weight
        else:
            share = yield from receive(peer, Seed)
            _check(table, peer, share.context)
            streams.append(_stream(table, peer, share.seed.tobytes()))
    masks.apply(words, weight, streams, [])
    reduce_words(words, setting)
    return words, weight


def _check(table: _Table, peer: PartyId, context: Bytes) -> None:
    if context.tobytes() != table.context:
        raise RemoteProtocolError(
            f"{peer}: expected a sum with the same peers, sizes, session, model and committee as ours"
        )
