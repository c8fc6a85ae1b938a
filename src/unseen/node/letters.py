"""Letters: what nodes tell each other about projects and jobs, apart from the jobs' own data.

======================  ==================  ========================================================================
letter                  from → to           says
======================  ==================  ========================================================================
``Card``                each → partner      the key with which the sender signs statements
``AgreementOffered``    each → members      an agreement with the signatures that the sender knows of
``Revoked``             each → members      a member's signed word that an agreement is over
``TablesHeld``          owner → members     the versions of agreed tables that a job may name
``JobProposed``         initiator → owners  a job, with everything that a grant names
``JobGranted``          owner → initiator   a grant; the initiator passes it on to all others
``JobRefused``          owner → initiator   all that stands against the job
``Charged``             owner → partner     a receipt for points, before any is evaluated
``Acknowledged``        partner → owner     the receipt with both signatures
``ReceiptsHeld``        partner → owner     receipts that the owner's ledger has lost
``ReceiptsAsked``       each → partner      the sender was put back from a backup, and asks what it has lost
``ReceiptsShown``       partner → asker     that is all
``JobPaused``           see below           a party wants nobody to work on the job for a while
``JobResumed``          see below           that party lets it go on
``JobDone``             owner → initiator   the sender has all its results
``JobEnded``            see below           the job is over, and why
``HeadSigned``          each → members      how far the sender's trail has got
======================  ==================  ========================================================================

What concerns one job goes through its initiator: others tell it, it tells them. Letters from one node to another
arrive in order, so nobody hears of a job before it was proposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from types import MappingProxyType

from unseen.codec import decode, encode_bytes, message, shown
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.trust.grant import Snapshot

MAX_LETTER = 1 << 20
"""Bytes; agreements and flows, the longest things in letters, are a fraction of it."""


@message("node/letter/envelope")
class Envelope:
    """A letter and what kind it is."""

    kind: str
    body: bytes


@message("node/letter/card")
class Card:
    """The sender's key for statements, and SHA-256 of the SubjectPublicKeyInfo of its root, both in hexadecimal."""

    key: str
    certificate: str


@message("node/letter/agreement-offered")
class AgreementOffered:
    """An agreement in its envelope."""

    frame: bytes


@message("node/letter/revoked")
class Revoked:
    """A revocation in its envelope."""

    project: str
    frame: bytes


@message("node/letter/table-held")
class TableHeld:
    """One version of one table."""

    owner: str
    name: str
    digest: str
    rows: int


@message("node/letter/tables-held")
class TablesHeld:
    """The newest versions of the sender's tables in a project; what it said before is over."""

    project: str
    tables: tuple[TableHeld, ...]


@message("node/letter/job-proposed")
class JobProposed:
    """A job that the sender asks for."""

    project: str
    job: str
    flow: str
    """Canonical JSON of its spec."""
    tables: tuple[TableHeld, ...]
    points: int
    epsilon: float
    delta: float
    valid_until: str
    """ISO 8601."""


@message("node/letter/job-granted")
class JobGranted:
    """A grant in its envelope."""

    project: str
    job: str
    issuer: str
    frame: bytes


@message("node/letter/job-refused")
class JobRefused:
    """Why the sender grants nothing."""

    project: str
    job: str
    reasons: tuple[str, ...]


@message("node/letter/job-paused")
class JobPaused:
    """``party`` wants nobody to work on the job until it says so."""

    project: str
    job: str
    party: str
    reason: str


@message("node/letter/job-resumed")
class JobResumed:
    """``party`` lets the job go on."""

    project: str
    job: str
    party: str


@message("node/letter/job-done")
class JobDone:
    """The sender's side of the job is finished."""

    project: str
    job: str


@message("node/letter/job-ended")
class JobEnded:
    """The job is over; ``party`` brought that about."""

    project: str
    job: str
    party: str
    code: str
    reason: str


@message("node/letter/charged")
class Charged:
    """A receipt, signed by the owner."""

    project: str
    frame: bytes


@message("node/letter/acknowledged")
class Acknowledged:
    """A receipt with both signatures."""

    project: str
    frame: bytes


@message("node/letter/receipts-held")
class ReceiptsHeld:
    """Receipts with both signatures, in order."""

    project: str
    frames: tuple[bytes, ...]


@message("node/letter/receipts-asked")
class ReceiptsAsked:
    """Asks for all receipts that concern the sender."""


@message("node/letter/receipts-shown")
class ReceiptsShown:
    """The sender has shown all that it was asked for."""


@message("node/letter/head-signed")
class HeadSigned:
    """The head of the sender's trail of a project."""

    project: str
    frame: bytes


AnyLetter = (
    Card
    | AgreementOffered
    | Revoked
    | TablesHeld
    | JobProposed
    | JobGranted
    | JobRefused
    | JobPaused
    | JobResumed
    | JobDone
    | JobEnded
    | Charged
    | Acknowledged
    | ReceiptsHeld
    | ReceiptsAsked
    | ReceiptsShown
    | HeadSigned
)

_KINDS: Mapping[str, type[AnyLetter]] = MappingProxyType(
    {
        "card": Card,
        "agreement-offered": AgreementOffered,
        "revoked": Revoked,
        "tables-held": TablesHeld,
        "job-proposed": JobProposed,
        "job-granted": JobGranted,
        "job-refused": JobRefused,
        "job-paused": JobPaused,
        "job-resumed": JobResumed,
        "job-done": JobDone,
        "job-ended": JobEnded,
        "charged": Charged,
        "acknowledged": Acknowledged,
        "receipts-held": ReceiptsHeld,
        "receipts-asked": ReceiptsAsked,
        "receipts-shown": ReceiptsShown,
        "head-signed": HeadSigned,
    }
)
_NAMES = {kind: name for name, kind in _KINDS.items()}


def write_letter(letter: AnyLetter) -> bytes:
    """Return the bytes of a letter."""
    return encode_bytes(Envelope(_NAMES[type(letter)], encode_bytes(letter)))


def read_letter(body: bytes, sender: PartyId) -> AnyLetter:
    """Return the letter in some bytes.

    Raises:
        RemoteProtocolError: There is none, or it is too long.
    """
    if len(body) > MAX_LETTER:
        raise RemoteProtocolError(f"{sender}: a letter has {len(body)} bytes, expected {MAX_LETTER} at most")
    envelope = decode(Envelope, body, sender=sender)
    kind = _KINDS.get(envelope.kind)
    if kind is None:
        raise RemoteProtocolError(f"{sender}: there is no letter of kind {shown(envelope.kind)}: is its node newer?")
    letter = decode(kind, envelope.body, sender=sender)
    if any("\0" in text for text in _texts(astuple(letter))):
        raise RemoteProtocolError(f"{sender}: a text in a letter of kind {envelope.kind} has a zero character")
    return letter


def _texts(values: Iterable[object]) -> Iterator[str]:
    """Yield the texts in a letter: PostgreSQL keeps none with a zero character, and such a letter would come again."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from _texts(value)


def snapshot_of(table: TableHeld) -> Snapshot:
    """Return the version of a table that a letter names.

    Raises:
        ValidationError: A name, the digest or the number of rows cannot be.
    """
    return Snapshot.model_validate(
        {"owner": table.owner, "name": table.name, "digest": table.digest, "rows": table.rows}
    )
