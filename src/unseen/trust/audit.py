"""A trail of what was decided: records that are only added, each naming the hash of the one before.

A chain shows an edited, lost, added or moved record by itself, unless somebody computes it anew from there on, or cuts
its end off. Against that, **heads** are signed (how many records, and the hash of the last one) and given to the other
parties of a project: a trail that does not pass through every head that others hold was rewritten.

Records hold kinds, names, digests, counts and codes: no rows, no ids of people, no free text. An organisation's own
people are named in its node's own trail only, which no partner sees, not in those of projects.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field, ValidationError

from unseen.errors import DataError, RemoteProtocolError
from unseen.flow.spec import canonical_json
from unseen.ids import Identifier, JobId, PartyId, StepId
from unseen.trust.agreement import ProjectId
from unseen.trust.envelope import NOTHING, Envelope, Part, Statement, open_envelope, read_statement
from unseen.trust.keys import Digest


class Event(enum.StrEnum):
    """What a record is about; a closed set."""

    OPENED = "opened"
    """The first record: whose trail it is, and (as subject) the key that signs its heads."""
    AGREEMENT = "agreement"
    REVOCATION = "revocation"
    GRANT_ISSUED = "grant-issued"
    GRANT_REFUSED = "grant-refused"
    """Somebody asked this node for a grant."""
    GRANT_TAKEN = "grant-taken"
    GRANT_REJECTED = "grant-rejected"
    """Somebody brought a grant that is not good."""
    MESSAGE_REJECTED = "message-rejected"
    CHARGED = "charged"
    RELEASED = "released"
    WITHHELD = "withheld"
    JOB_ENDED = "job-ended"
    HEAD_SIGNED = "head-signed"
    HEAD_RECEIVED = "head-received"
    PERSON_ADDED = "person-added"
    PERSON_CHANGED = "person-changed"
    PASSWORD_SET = "password-set"  # noqa: S105  # the kind of a record
    SIGN_ON_LINKED = "sign-on-linked"
    """Somebody may come by an identity provider, as whom ``subject`` is the digest of; by none any more, without."""
    JOB_APPROVED = "job-approved"
    AGREEMENT_SIGNED = "agreement-signed"
    POLICY_SET = "policy-set"
    """What this site lets a project do; ``subject`` is the digest of that, and missing if it is nothing."""


class Code(enum.StrEnum):
    """Why; a closed set."""

    NONE = ""
    AGREEMENT = "agreement"
    SITE = "site-policy"
    REVOKED = "revoked"
    TIME = "time"
    BUDGET = "budget"
    TABLES = "tables"
    FLOW = "flow"
    SIGNATURE = "signature"
    BINDING = "binding"
    REPLAY = "replay"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


Name = Annotated[str, Field(pattern=f"^{Identifier.pattern.pattern}$")]


class Colleague(Part):
    """Somebody of the organisation whose trail it is, as they stood at that moment."""

    name: Name
    duties: tuple[Name, ...]
    projects: tuple[ProjectId, ...]
    active: bool
    added: AwareDatetime
    """Since when they are there: an approval by somebody who was added a moment before is worth a look."""
    changed: AwareDatetime | None
    """When somebody else last changed what they may do or how they sign in: as telling, of an account that slept."""


class Record(Part):
    """One line of a trail."""

    number: Annotated[int, Field(ge=1, lt=1 << 62)]
    previous: Digest
    at: AwareDatetime
    event: Event
    code: Code = Code.NONE
    party: PartyId | None = None
    project: ProjectId | None = None
    job: JobId | None = None
    step: StepId | None = None
    subject: Digest | None = None
    """What it is about: an agreement, a grant, a flow, a result."""
    count: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None
    person: Colleague | None = None
    """Who approved or signed; whom an admin added or changed."""
    by: Name | None = None
    """Who did that to ``person``; nobody, for the first one, who came by the node's token."""

    def payload(self) -> bytes:
        """Return the one spelling; fields that older records do not have are left out where they say nothing."""
        fields = self.model_dump(mode="json")
        return canonical_json({name: fields[name] for name in fields if name not in _LATER or fields[name]}).encode()


_LATER = frozenset({"person", "by"})


class Head(Statement):
    """Whose trail has how many records, and the hash of the last one."""

    kind: ClassVar[str] = "application/vnd.unseen.head.v1+json"

    party: PartyId
    opened: Digest
    """Hash of the first record, which tells two trails of one party apart."""
    count: Annotated[int, Field(ge=1, lt=1 << 62)]
    last: Digest
    at: AwareDatetime


def line_hash(line: bytes) -> str:
    """Return the hash by which the next record names this one."""
    return hashlib.sha256(b"unseen audit record 1\n" + line).hexdigest()


@dataclass(frozen=True, slots=True)
class Trail:
    """Where a trail has got to: enough to go on with it, and to verify what comes after."""

    count: int = 0
    digest: str = NOTHING
    opened: str = NOTHING

    def record(self, event: Event, at: AwareDatetime, **fields: object) -> Record:
        """Return the next record; ``fields`` are those of ``Record``."""
        return Record.model_validate(
            {"number": self.count + 1, "previous": self.digest, "at": at, "event": event, **fields}
        )

    def after(self, line: bytes) -> Trail:
        """Return where the trail is after one more line.

        Raises:
            DataError: The line is not a record, or not the one that follows.
        """
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"trail: line {self.count + 1} is no record: edited or damaged") from error
        if (record.number, record.previous) != (self.count + 1, self.digest):
            raise DataError(
                f"trail: line {self.count + 1} says it is record {record.number} after {record.previous[:16]}…, "
                f"expected {self.count + 1} after {self.digest[:16]}…: lines were edited, removed, added or moved"
            )
        if (record.number == 1) != (record.event is Event.OPENED) or record.payload() != line:
            raise DataError(f"trail: line {self.count + 1} is not as it was written")
        digest = line_hash(line)
        return Trail(record.number, digest, self.opened if self.count else digest)

    def head(self, party: PartyId, at: AwareDatetime) -> Head:
        """Return the statement to sign and give to others.

        Raises:
            DataError: The trail has no record.
        """
        if not self.count:
            raise DataError("an empty trail has no head")
        return Head(party=party, opened=self.opened, count=self.count, last=self.digest, at=at)


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of a trail that passed."""

    party: PartyId
    key: str
    count: int
    digest: str
    heads: int
    vouched: int
    """Up to which record others hold heads: what was cut off behind it cannot be seen."""


def verify(lines: Iterable[bytes], heads: Sequence[Envelope] = ()) -> Verified:
    """Return what a trail is, if its records follow each other and pass through every head.

    Raises:
        DataError: It was edited, cut, or is another history than one of the heads; the message says where.
        RemoteProtocolError: A head is not signed by the trail's key.
    """
    trail, first = Trail(), None
    digests: list[str] = []
    for line in lines:
        trail = trail.after(line)
        first = first or Record.model_validate_json(line)
        digests.append(trail.digest)
    if first is None or first.party is None or first.subject is None:
        raise DataError("the trail does not begin with whose it is and the key that signs its heads")
    known = [open_head(envelope, first.party, first.subject) for envelope in heads]
    for head in known:
        check_head(head, trail, digests.__getitem__)
    vouched = max((head.count for head in known), default=0)
    return Verified(first.party, first.subject, trail.count, trail.digest, len(known), vouched)


def open_head(envelope: Envelope, party: PartyId, key: str) -> Head:
    """Return the head that ``party`` signed.

    Raises:
        RemoteProtocolError: It is not one.
    """
    head = open_envelope(envelope, Head, (key,), sender=f"head of {party}")
    if head.party != party:
        raise RemoteProtocolError(f"the head is one of {head.party}, expected {party}")
    return head


def check_head(head: Head, trail: Trail, digest_at: Callable[[int], str]) -> None:
    """Check that a trail passes through a head; ``digest_at(i)`` is the hash of record i + 1.

    Raises:
        DataError: It does not.
    """
    if head.opened != trail.opened:
        raise DataError(f"{head.party} showed a head of another trail: this one was begun anew")
    if head.count > trail.count:
        raise DataError(
            f"{head.party} signed a head of {head.count} records and the trail has {trail.count}: its end was cut off, "
            "or it was put back from a backup"
        )
    if digest_at(head.count - 1) != head.last:
        raise DataError(f"the trail is another history than {head.party} signed at record {head.count}: a fork")


def check_heads(earlier: Envelope, later: Envelope, key: str) -> None:
    """Check what can be said of two heads without the trail: equal counts have equal hashes, and time does not go back.

    Raises:
        DataError: The party has two histories, or went back in one.
    """
    party = read_statement(earlier, Head, sender="head").party
    one, other = open_head(earlier, party, key), open_head(later, party, key)
    if one.opened != other.opened or (one.count == other.count and one.last != other.last):
        raise DataError(f"{party} signed two histories of its trail at record {other.count}: a fork")
    if other.count < one.count:
        raise DataError(f"{party} signed {one.count} records before and {other.count} now: its trail was put back")
