"""Why a session may not begin: each check returns a verdict, or ``None`` if it has nothing against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from unseen.privacy.decisions import Reason
from unseen.privacy.facts import Request
from unseen.privacy.ledger import Ledger
from unseen.privacy.limits import Allowance

Verdict = tuple[Reason, str]
"""Why not, as a code and as a sentence."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, what covers it, and what has been spent."""

    request: Request
    allowance: Allowance
    spent: Ledger


def not_allowed(request: Request) -> Verdict:
    """Return the verdict on a request that no allowance covers."""
    return Reason.NOT_ALLOWED, (
        f"{request.partner} asked for {request.variant} on {request.what}, and no limits are declared for that: "
        "ask the owner to declare them"
    )


def not_valid(case: Case, now: datetime) -> Verdict | None:
    """Object to a moment outside of the time for which the allowance was given."""
    allowance = case.allowance
    if allowance.valid_from <= now < allowance.valid_until:
        return None
    return Reason.NOT_VALID_NOW, (
        f"{case.request.partner} may use {case.request.what} from {allowance.valid_from.isoformat()} until "
        f"{allowance.valid_until.isoformat()}, and it is {now.isoformat()}: ask the owner to renew"
    )


def frozen(case: Case) -> Verdict | None:
    """Object while an earlier result has stopped this partner, and nobody has lifted that."""
    if not case.spent.frozen:
        return None
    return Reason.FROZEN, (
        f"sessions of {case.request.partner} with {case.request.table} are stopped since "
        f"{', '.join(case.spent.frozen)}: the owner has to look at it and lift the stop"
    )


def _unknown_size(case: Case) -> Verdict | None:
    if case.request.owner_learns or case.allowance.unknown_size:
        return None
    return Reason.UNKNOWN_SIZE, (
        f"{case.request.partner} asked for a result on {case.request.what} whose size the owner would not learn: "
        "let the owner learn it, or ask for a limit with unknown_size"
    )


def _rows(case: Case) -> Verdict | None:
    request, allowance = case.request, case.allowance
    if request.own_rows < allowance.min_own_rows:
        return Reason.TOO_FEW_OWN_ROWS, (
            f"{request.what} has {request.own_rows:,} rows, expected {allowance.min_own_rows:,} or more"
        )
    if request.partner_rows < allowance.min_partner_rows:
        return Reason.TOO_FEW_PARTNER_ROWS, (
            f"{request.partner} brings {request.partner_rows:,} rows, expected {allowance.min_partner_rows:,} or more: "
            "ask about more people at once"
        )
    if request.partner_rows > allowance.max_ratio * request.own_rows:
        return Reason.RATIO, (
            f"{request.partner} brings {request.partner_rows:,} rows for {request.own_rows:,} of {request.what}, "
            f"expected at most {allowance.max_ratio:g} for each: bring fewer rows, or ask the owner"
        )
    return None


def _points(case: Case) -> Verdict | None:
    request, allowance, left = case.request, case.allowance, case.allowance.points_total - case.spent.points
    if request.partner_rows > allowance.points_per_session:
        return Reason.POINTS_PER_SESSION, (
            f"{request.partner} asked for {request.partner_rows:,} points on {request.what}, expected at most "
            f"{allowance.points_per_session:,} in a session ({max(left, 0):,} are left in all): bring fewer "
            "rows, or ask the owner"
        )
    if request.partner_rows > left:
        return Reason.POINTS_TOTAL, (
            f"{request.partner} asked for {request.partner_rows:,} points on {request.what}; {max(left, 0):,} of "
            f"{allowance.points_total:,} are left: bring fewer rows, or ask the owner for a larger budget"
        )
    return None


def new_points(case: Case) -> Verdict | None:
    """Object if more different points were used than are allowed, those of a running session among them."""
    limit = case.allowance.new_points_total
    if limit is None or case.spent.new_points <= limit:
        return None
    return Reason.NEW_POINTS, (
        f"{case.request.partner} has used {case.spent.new_points:,} different points on {case.request.what}, and "
        f"{limit:,} are allowed: ask the owner for a larger budget"
    )


def _pace(case: Case) -> Verdict | None:
    request, allowance, spent = case.request, case.allowance, case.spent
    if spent.begun_today(request.at) >= allowance.sessions_per_day:
        return Reason.SESSIONS_PER_DAY, (
            f"{request.partner} began {spent.begun_today(request.at)} sessions with {request.what} in 24 hours, and "
            f"{allowance.sessions_per_day} are allowed: ask again later"
        )
    if len(spent.running) >= allowance.concurrent:
        names = ", ".join(course.asked.session for course in spent.running)
        return Reason.CONCURRENT, (
            f"{len(spent.running)} sessions of {request.partner} with {request.what} are not over ({names}), and "
            f"{allowance.concurrent} may run at once: ask again when they are"
        )
    return None


STANDING: tuple[Callable[[Case], Verdict | None], ...] = (
    lambda case: not_valid(case, case.request.at),
    frozen,
    _unknown_size,
)
"""What has to hold even for a result that was given before."""
COSTS: tuple[Callable[[Case], Verdict | None], ...] = (_rows, _points, new_points, _pace)
"""What a session that evaluates points has to meet as well."""
