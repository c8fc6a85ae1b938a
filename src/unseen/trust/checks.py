"""Whether the grant of another owner is good: for exactly this job, signed by its issuer, and now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.trust.agreement import Agreement, Project
from unseen.trust.audit import Code
from unseen.trust.envelope import open_envelope, read_envelope
from unseen.trust.grant import Grant
from unseen.trust.policy import Ask, Objection, Refused, bindings

_SKEW = timedelta(seconds=60)
"""By how much the issuer's clock may be ahead of ours."""


def check_grant(frame: bytes, issuer: PartyId, project: Project, ask: Ask, now: datetime) -> Grant | Refused:
    """Return another owner's grant if it is one for exactly this job, and everything that is wrong with it if not."""
    member = project.current.member(issuer)
    if member is None:
        return Refused((Objection(Code.AGREEMENT, str(project.current), f"issuer {issuer}", "a member"),))
    try:
        envelope = read_envelope(frame, sender=f"grant of {issuer}")
        grant = open_envelope(envelope, Grant, (member.key,), sender=f"grant of {issuer}")
    except RemoteProtocolError as error:
        return Refused((Objection(Code.SIGNATURE, f"grant of {issuer}", str(error), "a grant that it signed"),))
    reasons = (*_unlike(grant, issuer, project.current, ask), *grant_times(grant, project, now))
    return Refused(reasons) if reasons else grant


def _unlike(grant: Grant, issuer: PartyId, agreement: Agreement, ask: Ask) -> Iterator[Objection]:
    expected: tuple[tuple[Code, str, object, object], ...] = (
        (Code.SIGNATURE, "issuer", grant.issuer, issuer),
        (Code.AGREEMENT, "project", grant.project, agreement.project),
        (Code.AGREEMENT, "agreement", grant.agreement, agreement.digest),
        (Code.FLOW, "flow", grant.flow, ask.graph.spec.digest),
        (Code.FLOW, "job", grant.job, ask.job),
        (Code.FLOW, "initiator", grant.initiator, ask.initiator),
        (Code.TABLES, "tables", grant.tables, ask.snapshots),
        (Code.BUDGET, "points", grant.points, ask.points),
        (Code.BUDGET, "epsilon", grant.epsilon, ask.epsilon),
        (Code.BUDGET, "delta", grant.delta, ask.delta),
        (Code.TIME, "valid_until", grant.valid_until, ask.valid_until),
        (Code.BINDING, "bindings", grant.bindings, bindings(agreement, ask)),
    )
    for code, name, found, wanted in expected:
        if found != wanted:
            yield Objection(code, f"grant of {issuer}", name, "what this job is")


def grant_times(grant: Grant, project: Project, now: datetime) -> Iterator[Objection]:
    """Object to a grant out of its time, or under an agreement that is over; asked anew for each message."""
    rule = f"grant of {grant.issuer}"
    if project.revoked is not None:
        yield Objection(Code.REVOKED, "revocation", f"{project.current}", "an agreement that stands")
    if grant.agreement != project.current.digest or not project.in_force(now):
        yield Objection(Code.AGREEMENT, rule, f"{project.current}", "the version in force")
    if not grant.valid_from - _SKEW <= now < min(grant.valid_until, project.current.valid_until):
        window = f"{grant.valid_from.isoformat()} to {grant.valid_until.isoformat()}"
        yield Objection(Code.TIME, rule, f"the time {now.isoformat()}", window)
