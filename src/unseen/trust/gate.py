"""The gate: every grant and every message passes here, and every answer is in the trail before it is given.

It is the one place where the kernel's parts meet: agreement, policy, marks and trail. What it needs to remember is in
the trail and in the marks, so that a gate made from both after a crash answers as before.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from unseen.clock import Clock
from unseen.errors import DataError, PermissionDenied, RemoteProtocolError
from unseen.ids import JobId, PartyId
from unseen.trust.agreement import Project
from unseen.trust.audit import Code, Event, Record, Trail
from unseen.trust.checks import check_grant, grant_times
from unseen.trust.envelope import Envelope, open_envelope, read_envelope, read_statement, seal
from unseen.trust.grant import Grant, Marks, Proof, read_mark
from unseen.trust.keys import SigningKey
from unseen.trust.policy import (
    Ask,
    Left,
    Objection,
    Refused,
    Site,
    SitePolicy,
    TableUse,
    decide,
)

Keep = Callable[[bytes], object]
"""Writes a line durably before it returns."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The durable lines of a node: what is there, and how to add."""

    trail: Iterable[bytes]
    marks: Iterable[bytes]
    keep_record: Keep
    keep_mark: Keep


class Gate:
    """One node's gate of one project; for one caller at a time, as a node's turns see to it: nothing in it is locked.

    Args:
        me: This party.
        key: Its key for statements.
        project: The agreement and its revocations.
        memory: Trail and marks.
        clock: What time it is.

    Raises:
        DataError: Trail or marks are damaged, or the trail is another party's, or signed by another key; or it tells
            of a version or a revocation that is not there any more.
    """

    def __init__(self, me: PartyId, key: SigningKey, project: Project, memory: Memory, clock: Clock) -> None:
        self.me, self.project = me, project
        self._key, self._memory, self._clock = key, memory, clock
        self._given: dict[tuple[PartyId, JobId], str] = {}
        self._ended: set[JobId] = set()
        self._live: dict[str, tuple[Grant, Ask]] = {}
        self.trail, self.marks = Trail(), Marks()
        for line in memory.trail:
            self.trail = self.trail.after(line)
            record = Record.model_validate_json(line)
            if record.event is Event.OPENED and (record.party, record.subject) != (me, key.public):
                raise DataError(f"the trail was opened by {record.party}, or with another key than {key!r} of {me}")
            self._compare(record)
            self._remember(record)
        for line in memory.marks:
            self.marks = self.marks.after(read_mark(line, "the file of marks"))
        if not self.trail.count:
            self.note(Event.OPENED, party=me, subject=key.public)

    def _compare(self, record: Record) -> None:
        """Refuse to go on with less of the project than the trail says there was: somebody removed it."""
        gone = {
            Event.AGREEMENT: record.subject is not None and not self.project.has(record.subject),
            Event.REVOCATION: record.subject is not None and not self.project.has_revoked(record.subject),
        }.get(record.event, False)
        if gone:
            raise DataError(
                f"{self.project.current.project}: the {record.event} of {record.at.isoformat()} (record "
                f"{record.number} of the trail, agreement {str(record.subject)[:16]}…) was removed from the store: put "
                "it back from a backup; nothing is granted before"
            )

    def note(self, event: Event, **fields: object) -> None:
        """Add a record to the trail."""
        record = self.trail.record(event, self._clock.now(), **fields)
        line = record.payload()
        self._memory.keep_record(line)
        self.trail = self.trail.after(line)
        self._remember(record)

    # --- grants ------------------------------------------------------------------------------------------------------

    def issue(
        self, ask: Ask, policy: SitePolicy | None, tables: tuple[TableUse, ...], left: Left, nonce: str
    ) -> Envelope:
        """Return this node's signed grant for a job.

        Raises:
            PermissionDenied: Something stands against it; the message lists all of it.
        """
        site = Site(self.me, policy, tables, left, self._clock.now())
        decision = self._strange(ask) or self._once(ask, self.me) or decide(ask, self.project, site, nonce)
        if isinstance(decision, Refused):
            self._refuse(Event.GRANT_REFUSED, decision.reasons, ask)
        envelope = seal(decision.grant, self._key)
        self._give(Event.GRANT_ISSUED, decision.grant, ask)
        return envelope

    def take(self, frame: bytes, issuer: PartyId, ask: Ask) -> Grant:
        """Return another owner's grant, which is good for this job; its own one as well, after a restart.

        Raises:
            PermissionDenied: It is not; the message says why.
        """
        checked = check_grant(frame, issuer, self.project, ask, self._clock.now())
        if isinstance(checked, Grant):
            checked = self._strange(ask) or self._once(ask, issuer, checked.digest) or checked
        if isinstance(checked, Refused):
            self._refuse(Event.GRANT_REJECTED, checked.reasons, ask)
        self._give(Event.GRANT_TAKEN, checked, ask)
        return checked

    def end(self, job: JobId, code: Code) -> None:
        """Close a job: its grants are good for nothing any more."""
        self.note(Event.JOB_ENDED, job=job, code=code, project=self.project.current.project)

    def _strange(self, ask: Ask) -> Refused | None:
        """Refuse jobs under an agreement that this node cannot have signed: its key there is another one."""
        member = self.project.current.member(self.me)
        if member is not None and member.key == self._key.public:
            return None
        where, rule = f"key of {self.me}, for job {ask.job}", str(self.project.current)
        return Refused((Objection(Code.AGREEMENT, rule, where, "the one with which this node signs"),))

    def _once(self, ask: Ask, issuer: PartyId, digest: str | None = None) -> Refused | None:
        """Refuse a job that is over, or a second grant for one."""
        given = self._given.get((issuer, ask.job))
        if ask.job not in self._ended and given in (None, digest):
            return None
        return Refused((Objection(Code.REPLAY, f"grants of {issuer}", f"job {ask.job}", "one grant, while it runs"),))

    def _give(self, event: Event, grant: Grant, ask: Ask) -> None:
        if (grant.issuer, grant.job) not in self._given:
            self.note(event, party=grant.issuer, project=grant.project, job=grant.job, subject=grant.digest)
        self._live[grant.digest] = (grant, ask)

    def _remember(self, record: Record) -> None:
        if record.job is None:
            return
        if record.event is Event.JOB_ENDED:
            self._ended.add(record.job)
        if record.event in (Event.GRANT_ISSUED, Event.GRANT_TAKEN) and record.party and record.subject:
            self._given[record.party, record.job] = record.subject

    def _refuse(self, event: Event, reasons: tuple[Objection, ...], ask: Ask) -> NoReturn:
        self.note(
            event,
            code=reasons[0].code,
            party=ask.initiator,
            project=self.project.current.project,
            job=ask.job,
            subject=ask.graph.spec.digest,
            count=len(reasons),
        )
        raise PermissionDenied(f"job {ask.job}: {Refused(reasons)}")

    # --- messages ----------------------------------------------------------------------------------------------------

    def admit(self, frame: bytes, body: bytes, certificate: str) -> Proof:
        """Return the proof of a message that came over a connection with this certificate's key.

        The last message once more is let through: whether it was acted upon before a crash, the journal knows.

        Raises:
            PermissionDenied: The message has no place here; the message says why.
        """
        try:
            envelope = read_envelope(frame, sender="message")
            proof = read_statement(envelope, Proof, sender="message")
        except RemoteProtocolError as error:
            self._reject(None, certificate, Objection(Code.SIGNATURE, "proof", str(error), "the proof of a message"))
        if objection := self._misplaced(proof, certificate) or self._forged(envelope, proof, body):
            self._reject(proof, certificate, objection)
        try:
            mark = self.marks.next(proof)
        except RemoteProtocolError as error:
            self._reject(proof, certificate, Objection(Code.REPLAY, "proof", str(error), "the next message"))
        if mark is not None:
            self._memory.keep_mark(mark.payload())
            self.marks = self.marks.after(mark)
        return proof

    def _misplaced(self, proof: Proof, certificate: str) -> Objection | None:
        grant, ask = self._live.get(proof.grant, (None, None))
        if grant is None or ask is None or grant.job in self._ended:
            return Objection(Code.REPLAY, "proof", f"grant {proof.grant[:16]}…", "a grant of a job that runs")
        if objection := next(grant_times(grant, self.project, self._clock.now()), None):
            return objection
        if proof.step not in ask.graph.nodes:
            return Objection(Code.FLOW, "proof", f"step {proof.step}", "a step of the flow")
        if proof.recipient != self.me or proof.sender == self.me:
            return Objection(Code.BINDING, "proof", f"{proof.sender} to {proof.recipient}", f"a message to {self.me}")
        bound = {binding.party: binding.certificate for binding in grant.bindings}
        wanted = bound.get(proof.sender)
        if wanted is None or not hmac.compare_digest(wanted.encode(), certificate.encode()):
            return Objection(Code.BINDING, "proof", f"certificate {certificate[:16]}…", f"that of {proof.sender}")
        return None

    def _forged(self, envelope: Envelope, proof: Proof, body: bytes) -> Objection | None:
        member = self.project.current.member(proof.sender)
        try:
            open_envelope(envelope, Proof, [member.key] if member else [], sender=proof.sender)
        except RemoteProtocolError as error:
            return Objection(Code.SIGNATURE, "proof", str(error), f"a message that {proof.sender} signed")
        if hashlib.sha256(body).hexdigest() != proof.body:
            return Objection(Code.SIGNATURE, "proof", "body", "the one that was signed")
        return None

    def _reject(self, proof: Proof | None, certificate: str, objection: Objection) -> NoReturn:
        # Whose connection it was: the message may name anybody.
        members = self.project.current.members
        live = self._live.get(proof.grant) if proof else None
        self.note(
            Event.MESSAGE_REJECTED,
            code=objection.code,
            party=next((member.party for member in members if member.certificate == certificate), None),
            step=proof.step if proof else None,
            job=live[0].job if live else None,
            project=self.project.current.project,
        )
        raise PermissionDenied(f"message refused: {objection}")
