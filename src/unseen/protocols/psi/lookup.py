"""Looking up a few items in another party's large list, of which an encoded form was handed over before.

The *holder* has a key k of the oblivious function F of ``crypto.oprf`` (RFC 9497). Once for every version of its list
it hands the *asker* a catalogue: for each item x the first bytes of F(k, x), its *tag*, and, where there are payloads,
the payload of x, sealed under the last 32 bytes of F(k, x); all in the order of the tags (``publish``, ``obtain``). To
ask, the asker blinds its items, the holder applies k, and the asker, now with F(k, x), searches the tags and opens the
payloads of those it finds (``answer``, ``look_up``).

M. Freedman, Y. Ishai, B. Pinkas, O. Reingold, "Keyword Search and Oblivious Pseudorandom Functions" (TCC 2005), for
payloads under the function's values; the list encoded and sent ahead: Á. Kiss, J. Liu, T. Schneider, N. Asokan,
B. Pinkas, "Private Set Intersection for Unequal Set Sizes with Mobile Applications" (PoPETs 2017), and D. Kales and
others, "Mobile Private Contact Discovery at Scale" (USENIX Security 2019).

*Security model*: semi-honest, with the assumptions of ``crypto.oprf``: F is pseudo-random to the asker except at the
points that it was answered for, which the holder counts. So a guess costs the asker one answer, and nothing can be
tried offline. An asker that deviates gets no more than that; no catalogue proves to be that of the list.

*Leakage*: the asker learns the length of the list, of payloads their common length, and which of its items are in it,
with their payloads; the holder how many items were asked, at most ``max_points`` a session, and, if it is a recipient,
which of its own items they are. Blinds are fresh and uniform: the holder cannot tell whether two questions are about
the same item. The asker can, and knows F at all it ever asked: answers to several askers of one catalogue add up.
Two lists under one key would show what changed: every catalogue has a key of its own, derived from its content.

*Sealing*: payloads have one length, and their order follows from F alone; see ``psi.catalogue``.

*Errors*: tags have so many bits that with probability at least 1 − 2^-40 a session finds nothing that is not there,
and, with as much, no two items of the list have one tag.

*Rounds*: none to hand over (the holder sends); one to ask. *Bytes*: to hand over, the tag (11 for 10^7 items), and
16 and the payload, an item; to ask, 64 an item asked, and 8 a match if the holder is told.
*Work*, of one processor: to hand over, 54 µs an item of the list (10^7: nine minutes, shared by all processors), two
more with payloads; to ask, 100 µs (asker) and 45 µs (holder) an item asked, whatever the length of the list.
*Memory*: 50 bytes an item and payloads twice, at the holder, to hand over; to ask, what is asked and some pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.groups import POINT_BYTES, Scalar
from unseen.crypto.hashing import framed_digest
from unseen.crypto.oprf import MAX_INPUT_BYTES, OUTPUT_BYTES, blind, blind_evaluate, draw_blinds, evaluate, finalise
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.dialogue import CHUNK_BYTES, Dialogue, progress, receive, receive_array, send, send_array
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.blocks import pieces
from unseen.protocols.psi.catalogue import NAME_BYTES, Catalogue, Holding, Terms, seal
from unseen.protocols.psi.port import Alignment, Items, Meeting, check_items, strings

BLOCK = 1 << 13
"""Points in a message: enough to keep all processors busy, few enough to show progress every second."""
_TWO = "a catalogue is a matter of two parties"
_CONTENT = b"unseen/psi_lookup/content/1\0"


# --- messages ----------------------------------------------------------------------------------------------------


@message("psi_lookup/opening")
class Opening:
    """Announces a catalogue."""

    session: Annotated[NDArray[np.uint8], Shape(32)]
    """SHA-256 of the parties and the context."""
    terms: Terms


@message("psi_lookup/encoded")
class Encoded:
    """One more block of the list has been encoded: a sign of life, since nothing can be sent before all are sorted."""


@message("psi_lookup/entries")
class Entries:
    """The next entries of a catalogue, in the order of their tags."""

    tags: Annotated[NDArray[np.uint8], Shape(None, None)]
    sealed: Annotated[NDArray[np.uint8], Shape(None, None)]


@message("psi_lookup/question")
class Question:
    """Announces points to come: in which session, about which catalogue, and how many."""

    session: Annotated[NDArray[np.uint8], Shape(32)]
    name: bytes
    count: int


@message("psi_lookup/points")
class Points:
    """The next blinded items, or the answers to them."""

    points: Annotated[NDArray[np.uint8], Shape(None, POINT_BYTES)]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the asker learned."""

    alignment: Alignment
    """Which of its items are in the holder's list, in the order of the catalogue."""
    payloads: NDArray[np.uint8]
    """One row for each of them, shape (found, payload_bytes)."""


# --- once for every version of the list --------------------------------------------------------------------------


def publish(items: Items, payloads: NDArray[np.uint8], max_points: int, meeting: Meeting) -> Dialogue[Holding]:
    """Hand the only peer a catalogue of ``items`` and ``payloads``, shape (items, bytes); return what to keep.

    Raises:
        DataError: An item occurs twice or is too long, or ``Terms.fault`` finds something too large.
        UsageError: There are several peers.
    """
    asker = meeting.other(_TWO)
    _check_own(items, meeting)
    limits = str(max_points).encode()
    content = framed_digest(_CONTENT, meeting.session, limits, items.content, items.offsets, payloads)
    name = meeting.prg.derive("psi_lookup/name", content).bytes(NAME_BYTES)
    terms = Terms(name, len(items), payloads.shape[1], max_points)
    if fault := terms.fault:
        raise DataError(f"{meeting.me}: this list cannot be published: {fault}")
    # Safety: another list, other payloads or other limits have another key.
    key_seed = meeting.prg.derive("psi_lookup/key", content).bytes(SEED_BYTES)
    yield from send(asker, Opening(np.frombuffer(meeting.session, np.uint8), terms))
    tags, sealed = yield from _encode(items, payloads, terms, Scalar.derive(Prg(key_seed)), asker)
    order = np.argsort(strings(tags)).astype(np.uint32)
    for rows in pieces(len(items), _rows_per_message(terms)):
        yield from send(asker, Entries(tags[order[rows]], sealed[order[rows]]))
    return Holding(terms, key_seed, order)


def obtain(meeting: Meeting) -> Dialogue[Catalogue]:
    """Return the catalogue that the only peer publishes.

    Raises:
        RemoteProtocolError: It is malformed, or the peer publishes it elsewhere.
        UsageError: There are several peers.
    """
    holder = meeting.other(_TWO)
    opening = yield from receive(holder, Opening)
    terms = opening.terms
    if opening.session.tobytes() != meeting.session:
        raise RemoteProtocolError(f"{holder}: expected a catalogue for the same parties in the same context as ours")
    if fault := terms.fault:
        raise RemoteProtocolError(f"{holder}: announces a catalogue that cannot be: {fault}")
    for rows in pieces(terms.count, BLOCK):
        yield from receive(holder, Encoded)
        yield from progress(rows.stop, terms.count, f"{holder} encodes its list")
    return (yield from _receive_entries(holder, terms))


def _encode(
    items: Items, payloads: NDArray[np.uint8], terms: Terms, key: Scalar, asker: PartyId
) -> Dialogue[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return tags and sealed payloads in the order of ``items``."""
    tags = np.empty((len(items), terms.tag_bytes), np.uint8)
    sealed = np.empty((len(items), terms.sealed_bytes), np.uint8)
    for rows in pieces(len(items), BLOCK):
        outputs = evaluate(key, items[rows])
        tags[rows] = outputs[:, : terms.tag_bytes]
        if terms.payload_bytes:
            sealed[rows] = seal(outputs, payloads[rows], terms)
        yield from send(asker, Encoded())
        yield from progress(rows.stop, len(items), "encoding the list")
    return tags, sealed


def _receive_entries(holder: PartyId, terms: Terms) -> Dialogue[Catalogue]:
    # Growing buffers take in what has come, and no copy of all is made at the end.
    tags, sealed = bytearray(), bytearray()
    for rows in pieces(terms.count, _rows_per_message(terms)):
        found, count = (yield from receive(holder, Entries)), rows.stop - rows.start
        shapes = (count, terms.tag_bytes), (count, terms.sealed_bytes)
        if (found.tags.shape, found.sealed.shape) != shapes:
            raise RemoteProtocolError(
                f"{holder}: expected tags and payloads of shapes {shapes[0]} and {shapes[1]}, "
                f"found {found.tags.shape} and {found.sealed.shape}"
            )
        tags += found.tags.data
        sealed += found.sealed.data
        yield from progress(rows.stop, terms.count, f"receiving the catalogue of {holder}")
    widths = (tags, terms.tag_bytes), (sealed, terms.sealed_bytes)
    catalogue = Catalogue(terms, *(np.frombuffer(part, np.uint8).reshape(terms.count, width) for part, width in widths))
    ordered = strings(catalogue.tags)
    if (ordered[1:] <= ordered[:-1]).any():
        raise RemoteProtocolError(f"{holder}: the tags of the catalogue are not in ascending order")
    return catalogue


def _rows_per_message(terms: Terms) -> int:
    return max(1, CHUNK_BYTES // (terms.tag_bytes + terms.sealed_bytes))


# --- as often as there is something to ask -----------------------------------------------------------------------


def look_up(items: Items, catalogue: Catalogue, meeting: Meeting) -> Dialogue[Found]:
    """Return which of ``items`` are in the only peer's list, with their payloads; tell the peer if it is a recipient.

    Raises:
        DataError: An item occurs twice or is too long, or there are more than may be asked.
        RemoteProtocolError: The peer sent invalid points, a wrong number of them, or payloads that do not open.
        UsageError: There are several peers, or this party is no recipient.
    """
    holder, terms = meeting.other(_TWO), catalogue.terms
    _check_recipient(meeting, meeting.me)
    _check_own(items, meeting)
    if len(items) > terms.max_points:
        raise DataError(
            f"{len(items)} items are to be looked up, {holder} answers at most {terms.max_points} in a session: "
            "ask in several, or let the catalogue be made again with another limit"
        )
    yield from send(holder, Question(np.frombuffer(meeting.session, np.uint8), terms.name, len(items)))
    outputs = yield from _ask(items, terms, meeting)
    rows, places = catalogue.find(outputs)
    try:
        payloads = catalogue.open(outputs[rows], places)
    except DataError as error:
        raise RemoteProtocolError(f"{holder}: {error}: let it be made again") from error
    if meeting.learns(holder):
        yield from send_array(holder, places)
    return Found(Alignment(rows, {meeting.me: len(items), holder: terms.count}), payloads)


def answer(holding: Holding, meeting: Meeting) -> Dialogue[Alignment]:
    """Answer the only peer's question; return which items it found, in its order, if this party is a recipient.

    Raises:
        RemoteProtocolError: The peer asks too much, about another catalogue, or elsewhere, or sent invalid points.
        UsageError: There are several peers, or the peer is no recipient.
    """
    asker, terms = meeting.other(_TWO), holding.terms
    _check_recipient(meeting, asker)
    question = yield from receive(asker, Question)
    _check_question(question, terms, meeting)
    key = Scalar.derive(Prg(holding.key_seed))
    for rows in pieces(question.count, BLOCK):
        evaluated = yield from _work_on_points(asker, rows, partial(blind_evaluate, key))
        yield from send(asker, Points(evaluated))
        yield from progress(rows.stop, question.count, f"answering {asker}")
    told = (yield from _receive_places(asker, question, holding)) if meeting.learns(meeting.me) else None
    return Alignment(told, {meeting.me: terms.count, asker: question.count})


def _ask(items: Items, terms: Terms, meeting: Meeting) -> Dialogue[NDArray[np.uint8]]:
    """Return the function's values at ``items``, shape (items, 64)."""
    holder, count = meeting.other(_TWO), len(items)
    # Safety: blinds hide these items, in this order, in this session, and are used for nothing else.
    content = framed_digest(_CONTENT, meeting.session, terms.name, items.content, items.offsets)
    blinds = draw_blinds(meeting.prg.derive("psi_lookup/blinds", content), count)
    for rows in pieces(count, BLOCK):
        yield from send(holder, Points(blind(items[rows], blinds[rows])))
        yield from progress(rows.stop, 2 * count, "blinding the items")
    outputs = np.empty((count, OUTPUT_BYTES), np.uint8)
    for rows in pieces(count, BLOCK):
        outputs[rows] = yield from _work_on_points(holder, rows, partial(finalise, items[rows], blinds[rows]))
        yield from progress(count + rows.stop, 2 * count, f"taking in the answers of {holder}")
    return outputs


def _work_on_points(
    sender: PartyId, rows: slice, work: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Dialogue[NDArray[np.uint8]]:
    """Return what ``work`` makes of the next points of ``sender``, one for each of ``rows``."""
    found, count = (yield from receive(sender, Points)), rows.stop - rows.start
    if len(found.points) != count:
        raise RemoteProtocolError(f"{sender}: expected a block of {count} points, found {len(found.points)}")
    try:
        return work(found.points)
    except UsageError as error:
        raise RemoteProtocolError(f"{sender}: invalid point in a block of {count}: {error}") from error


def _receive_places(asker: PartyId, question: Question, holding: Holding) -> Dialogue[NDArray[np.int64]]:
    """Return the rows that the asker found."""
    places = yield from receive_array(asker, np.int64, Shape(None), most=question.count)
    rising = (places[1:] > places[:-1]).all()
    if len(places) > question.count or not rising or (places < 0).any() or (places >= holding.terms.count).any():
        raise RemoteProtocolError(
            f"{asker}: expected at most {question.count} rising places below {holding.terms.count}, found others"
        )
    return np.asarray(holding.order[places], np.int64)


# --- checks ------------------------------------------------------------------------------------------------------


def _check_recipient(meeting: Meeting, asker: PartyId) -> None:
    if not meeting.learns(asker):
        raise UsageError(f"{asker} asks, and so has to be a recipient of the result")


def _check_own(items: Items, meeting: Meeting) -> None:
    check_items(items, items.digests(meeting.context))
    longest = int(np.diff(items.offsets).max(initial=0))
    if longest > MAX_INPUT_BYTES:
        raise DataError(f"an item has {longest} bytes, at most {MAX_INPUT_BYTES} are allowed: shorten the ids")


def _check_question(question: Question, terms: Terms, meeting: Meeting) -> None:
    asker = meeting.other(_TWO)
    if question.session.tobytes() != meeting.session:
        raise RemoteProtocolError(f"{asker}: expected a question in the same context, to the same recipients, as ours")
    if question.name != terms.name:
        raise RemoteProtocolError(f"{asker}: asks about another catalogue than ours: hand it over again")
    if not 0 <= question.count <= terms.max_points:
        raise RemoteProtocolError(
            f"{asker}: asks for {question.count} items, at most {terms.max_points} were agreed for a session"
        )
    meeting.admit(asker, question.count)
