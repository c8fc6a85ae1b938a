"""A grant: one owner's leave for one job, after its own check; and the proof that a message belongs to it.

A grant names everything that it is for, so that it is good for nothing else: the agreement, the flow, the job, who
asked for it, the exact versions of tables, points and ε, a time, and the keys of the certificates on whose connections
it may be used. A stolen grant is of no use without the certificate's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, ClassVar, Self

from pydantic import AwareDatetime, Field, StringConstraints, TypeAdapter, model_validator

from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import JobId, PartyId, StepId
from unseen.privacy.facts import MAX_ROWS, SessionId, TableId
from unseen.privacy.lines import read_line
from unseen.trust.agreement import ProjectId
from unseen.trust.envelope import Part, Statement
from unseen.trust.keys import Digest

MAX_VALIDITY = timedelta(days=7)
Rows = Annotated[int, Field(ge=0, le=MAX_ROWS)]
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Snapshot(Part):
    """One version of a table."""

    owner: PartyId
    name: TableId
    digest: Digest
    rows: Rows


class Binding(Part):
    """The certificate's key with which a party takes part."""

    party: PartyId
    certificate: Digest


class Grant(Statement):
    """What ``issuer`` lets happen, once.

    Raises:
        ValidationError: A field is missing, unknown or malformed, or it would be valid for too long.
    """

    kind: ClassVar[str] = "application/vnd.unseen.grant.v1+json"

    id: Nonce
    """Drawn at random for every grant."""
    issuer: PartyId
    project: ProjectId
    agreement: Digest
    flow: Digest
    job: JobId
    initiator: PartyId
    tables: tuple[Snapshot, ...]
    points: Rows
    """How many the issuer evaluates for each partner in this job at most."""
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(ge=0, lt=1)]
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    bindings: Annotated[tuple[Binding, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not timedelta(0) < self.valid_until - self.valid_from <= MAX_VALIDITY:
            raise ValueError(f"a grant is valid for more than nothing and at most {MAX_VALIDITY.days} days")
        return self


class Proof(Statement):
    """The place of one message in a job, and the digest of what it carries; the sender signs it."""

    kind: ClassVar[str] = "application/vnd.unseen.proof.v1+json"

    grant: Digest
    session: SessionId
    step: StepId
    sender: PartyId
    recipient: PartyId
    sequence: Annotated[int, Field(ge=1, lt=1 << 62)]
    """From 1 on, within a step, a direction and an attempt."""
    attempt: Annotated[int, Field(ge=1, lt=1 << 62)]
    """A step that is begun anew counts one up; what an earlier attempt still sends is refused."""
    body: Digest


class Mark(Part):
    """The last message that was taken on one way; kept durably before the message is acted upon."""

    grant: Digest
    session: SessionId
    step: StepId
    sender: PartyId
    attempt: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=1)]
    body: Digest

    @property
    def way(self) -> tuple[str, str, str, str]:
        """What has a mark of its own."""
        return self.grant, self.session, self.step, self.sender


_MARK = TypeAdapter(Mark)


def read_mark(line: bytes, where: str) -> Mark:
    """Return the mark in a line; ``where`` names it in messages.

    Raises:
        DataError: It is none.
    """
    return read_line(_MARK, line, where, "a mark")


@dataclass(frozen=True, slots=True)
class Marks:
    """How far each way has got: nothing is taken twice, out of order, or from an attempt that is over."""

    reached: Mapping[tuple[str, str, str, str], Mark] = field(default_factory=dict)

    def next(self, proof: Proof) -> Mark | None:
        """Return the mark to keep before the message is acted upon; ``None`` if it is the last one once more.

        A crash after the mark was kept may have come before the message was acted upon: whoever acts looks it up among
        what was received (``journal``).

        Raises:
            RemoteProtocolError: The message was taken before, is not the next one, or its attempt is over.
        """
        mark = Mark(
            grant=proof.grant,
            session=proof.session,
            step=proof.step,
            sender=proof.sender,
            attempt=proof.attempt,
            sequence=proof.sequence,
            body=proof.body,
        )
        last = self.reached.get(mark.way)
        if mark == last:
            return None
        if not _follows(mark, last):
            where = f"message {last.sequence} of attempt {last.attempt}" if last else "nothing"
            raise RemoteProtocolError(
                f"{proof.sender}, step {proof.step}: message {proof.sequence} of attempt {proof.attempt} comes after "
                f"{where}: it is a repetition, or some are missing"
            )
        return mark

    def after(self, mark: Mark) -> Marks:
        """Return the marks with one more.

        Raises:
            DataError: It does not follow: the file of marks is damaged.
        """
        if not _follows(mark, self.reached.get(mark.way)):
            raise DataError(f"marks of step {mark.step} from {mark.sender} contradict each other: restore them")
        return Marks({**self.reached, mark.way: mark})


def _follows(mark: Mark, last: Mark | None) -> bool:
    if last is not None and mark.attempt == last.attempt:
        return mark.sequence == last.sequence + 1
    return mark.sequence == 1 and (last is None or mark.attempt > last.attempt)
