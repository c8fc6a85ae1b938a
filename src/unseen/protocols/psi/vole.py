"""Private set intersection from VOLE and an oblivious key-value store, for two parties and any number of items.

S. Raghuraman, P. Rindal, "Blazing Fast PSI from Improved OKVS and Subfield VOLE" (CCS 2022, eprint 2022/320), section
5, on the function F of ``vole_oprf``:

1. The *asker*, who learns the result (of two recipients the one with fewer items), gets F of its items; the *answerer*
   can evaluate F on any, and does so on its own.
2. The answerer sends the *tags* of its items, F cut to 40 + log2(n·n') bits, in sorted order.
3. The asker finds its own tags among them and, if both are to know, says which they were. The order of the tags is that
   of the alignment: random, and the same at both.

Items are 128-bit digests keyed by the context, hashed again under a joint salt. They are handled in buckets of about
2^20; a bucket's tags are filled up with random ones to a number that depends on n only, so that it is not shown how
many items it holds.

*Security model*: semi-honest parties, as ``vole_oprf``. Tags of items that the asker lacks are random to it. A party
that deviates can make the result wrong; either can bring made-up items to test who is in the other's list: bounds on
sizes and runs have to stand in front of the protocol.

*Leakage*: the number of items of both parties, and nothing else but the intersection, to the recipients.

*Rounds*: at most four of a party, and two more for each further bucket. *Bytes*: 21.7 an item of the asker (more if
there are fewer than 10^5), ⌈(40 + log2(n·n'))/8⌉ an item of the answerer (10 for 10^6), 2.7 MB a bucket. *Work*: about
half a microsecond an item and party; points of a curve are multiplied for 256 base transfers only, some 30 ms.

Distinct items match with probability below 2^-40 by their tags, and N²/2^128 by their digests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.okvs import STATISTICAL_BITS, most_in_a_part
from unseen.dialogue import Dialogue, progress, receive, receive_array, send, send_array
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.matching import arranged, matches
from unseen.protocols.psi.opening import Session, open_session
from unseen.protocols.psi.port import Alignment, Items, Meeting, check_items
from unseen.protocols.psi.vole_oprf import Answerer, Asker, Blocks, Layout

Words = NDArray[np.uint64]


@message("psi_join.vole/shared")
class Shared:
    """Which of a bucket's tags the asker has too, one bit each."""

    bits: Annotated[NDArray[np.uint8], Shape(None)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What both parties know after the opening."""

    session: Session
    layout: Layout
    """Of the asker's list."""
    tags: int
    """In each bucket."""
    tag_bytes: int

    @classmethod
    def of(cls, session: Session) -> _Plan:
        asked, answered = (session.sizes[party] for party in (session.asker, _answerer(session)))
        bits = STATISTICAL_BITS + math.log2(max(1, asked)) + math.log2(max(1, answered))
        most = most_in_a_part(answered, session.buckets, STATISTICAL_BITS)
        return cls(session, Layout.of(asked, session.buckets), most, math.ceil(bits / 8))

    @property
    def peer(self) -> PartyId:
        return self.session.meeting.peers[0]

    def learns(self, party: PartyId) -> bool:
        return self.session.meeting.learns(party)

    def cut(self, tags: Words) -> Words:
        """Cut ``tags``, shape (n, 2), to their length, and return them."""
        tags.view(np.uint8)[:, self.tag_bytes :] = 0
        return tags

    def report(self, buckets: int) -> Dialogue[None]:
        """Report how many buckets are done."""
        yield from progress(buckets, self.layout.buckets, f"matching items with {self.peer}")


def _answerer(session: Session) -> PartyId:
    return next(party for party in session.meeting.parties if party != session.asker)


def intersect(items: Items, meeting: Meeting) -> Dialogue[Alignment]:
    """Return which of ``items`` both parties hold; see ``Intersect`` and the head of this module.

    Raises:
        DataError: An item occurs twice; or both lists together are too long.
        UsageError: There are not two parties.
        RemoteProtocolError: The peer sent something of another form, or belongs elsewhere.
    """
    if len(meeting.peers) != 1:
        raise UsageError(f"this scheme is for two parties, found {', '.join(meeting.parties)}: use star")
    digests = items.digests(meeting.context)
    check_items(items, digests)
    session = yield from open_session(b"vole", digests, meeting)
    plan, keys = _Plan.of(session), session.functions.one_way(b"items", digests)
    rows = yield from (_ask if session.asker == meeting.me else _answer)(plan, keys)
    return Alignment(rows if meeting.learns(meeting.me) else None, session.sizes)


# --- the asker ---------------------------------------------------------------------------------------------------


def _ask(plan: _Plan, keys: Words) -> Dialogue[NDArray[np.int64]]:
    """Return the own shared items in the order of the answerer's tags, bucket by bucket.

    Tags of one bucket are read after the next one's store has been sent, so that neither party waits for the other.
    """
    session = plan.session
    asker = yield from Asker.open(session.functions, plan.layout, keys, plan.peer, session.prg.derive("vole"))
    found: list[NDArray[np.int64]] = []
    waiting: list[tuple[Words, NDArray[np.int32]]] = []
    for number in range(plan.layout.buckets):
        bucket, outputs = yield from asker.evaluate(number)
        tags, order = arranged(plan.cut(outputs))
        waiting.append((tags, bucket.rows[order]))
        if len(waiting) > 1:
            found.append((yield from _find(plan, *waiting.pop(0))))
            yield from plan.report(number)
    found.append((yield from _find(plan, *waiting.pop())))
    yield from plan.report(plan.layout.buckets)
    return np.concatenate(found)


def _find(plan: _Plan, own: Words, rows: NDArray[np.int32]) -> Dialogue[NDArray[np.int64]]:
    """Return which own items of a bucket the answerer has, in the order of its tags; tell it if it is a recipient."""
    tags = np.zeros((plan.tags, 2), np.uint64)
    raw = tags.view(np.uint8)

    def take(first: int, sent: NDArray[np.uint8]) -> None:
        raw[first : first + len(sent), : plan.tag_bytes] = sent

    yield from receive_array(plan.peer, np.uint8, Shape(plan.tags, plan.tag_bytes), each=take)
    if (tags[1:, 0] < tags[:-1, 0]).any():
        raise RemoteProtocolError(f"{plan.peer}: the tags of a bucket are not sorted")
    pairs, met = matches(own, tags), np.zeros(len(own), np.bool_)
    met[pairs[:, 0]] = True
    if np.count_nonzero(met) != len(pairs):
        raise RemoteProtocolError(f"{plan.peer}: a tag stands twice in a bucket")
    if plan.learns(plan.peer):
        shared = np.zeros(plan.tags, np.bool_)
        shared[pairs[:, 1]] = True
        yield from send(plan.peer, Shared(np.packbits(shared, bitorder="little")))
    return rows[pairs[:, 0]].astype(np.int64)


# --- the answerer ------------------------------------------------------------------------------------------------


def _answer(plan: _Plan, keys: Words) -> Dialogue[NDArray[np.int64]]:
    """Return the own shared items in the order of their tags, bucket by bucket; none if the asker alone learns."""
    session = plan.session
    answerer = yield from Answerer.open(
        session.functions, plan.layout, keys, (session.meeting.me, plan.peer), session.prg.derive("vole")
    )
    found: list[NDArray[np.int64]] = []
    waiting: list[NDArray[np.int32]] = []
    for number in range(plan.layout.buckets):
        bucket, outputs = yield from answerer.evaluate(number)
        waiting.append((yield from _send_tags(plan, number, bucket, outputs)))
        if len(waiting) > 1:
            found.append((yield from _told(plan, waiting.pop(0))))
            yield from plan.report(number)
    found.append((yield from _told(plan, waiting.pop())))
    yield from plan.report(plan.layout.buckets)
    return np.concatenate(found)


def _send_tags(plan: _Plan, number: int, bucket: Blocks, outputs: Words) -> Dialogue[NDArray[np.int32]]:
    """Send the sorted tags of a bucket, filled up with random ones; return which item each is of, or −1."""
    missing = plan.tags - len(outputs)
    if missing < 0:
        raise DataError(
            f"a bucket got {len(outputs)} items, of at most {plan.tags}: this happens once in 2^40 times; start the "
            "step again, with other random choices"
        )
    filling = plan.session.prg.derive("filling", number.to_bytes(4, "little")).words(2 * missing).reshape(-1, 2)
    tags, order = arranged(plan.cut(np.concatenate([outputs, filling])))
    yield from send_array(plan.peer, tags.view(np.uint8)[:, : plan.tag_bytes])
    return np.concatenate([bucket.rows, np.full(missing, -1, np.int32)])[order]


def _told(plan: _Plan, rows: NDArray[np.int32]) -> Dialogue[NDArray[np.int64]]:
    """Return those of ``rows``, the items behind the tags of a bucket, that the asker says are shared."""
    if not plan.learns(plan.session.meeting.me):
        return np.empty(0, np.int64)
    answer = yield from receive(plan.peer, Shared)
    if len(answer.bits) != -(-len(rows) // 8):
        raise RemoteProtocolError(f"{plan.peer}: expected {len(rows)} bits, found {8 * len(answer.bits)}")
    shared = rows[np.unpackbits(answer.bits, count=len(rows), bitorder="little").astype(np.bool_)]
    if (shared < 0).any():
        raise RemoteProtocolError(f"{plan.peer}: claims to hold items that nobody has")
    return shared.astype(np.int64)
