"""Decisions of a table's owner that keep private set intersection from becoming a telephone book.

Cryptography stops a partner from guessing ids offline. Nothing in it stops a partner from bringing ids that it made up
and learning which of them are there, one session after the other. What bounds that is counting the points that the
owner's own side evaluates and refusing past a budget: each evaluated point tells at most one id. Everything else here
is a tripwire: it stops the careless, and costs the careful a few points. ``docs/security/enumeration.md`` has the
threat, the arithmetic, and what is not promised.

* ``before`` decides when a session is asked for: ``Allow``, ``FromCache`` or ``Refuse``.
* ``after`` decides when its result is there: ``Release``, ``Withhold`` or ``Freeze``.

An answer holds the facts to record. **They have to be durable before anything is done about it**, and deciding and
recording have to be one transaction: then no crash and no interleaving of sessions lets a partner have more points
than its budget. More facts never allow a session that fewer would not, with three exceptions: the end of a session
frees its place among those that run, a lifted freeze is lifted, and fingerprints may show that points are not new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from unseen.errors import UsageError
from unseen.privacy.budgets import COSTS, STANDING, Case, Verdict, not_allowed
from unseen.privacy.decisions import Allow, Freeze, FromCache, Reason, Refuse, Release, Result, Withhold
from unseen.privacy.facts import Began, Ended, Fact, Froze, Released, Request, SessionId
from unseen.privacy.ledger import Ledger, courses, ledger
from unseen.privacy.limits import Allowance, Limits
from unseen.privacy.tripwires import TRIPWIRES, Found, low_hit_rate

C = TypeVar("C", bound=Case)
_NO_TIME = datetime(1, 1, 1, tzinfo=UTC)


def before(
    request: Request, facts: Iterable[Fact], limits: Limits, same: Collection[SessionId] | None = None
) -> Allow | FromCache | Refuse:
    """Return whether the session may begin.

    ``same`` are the sessions that computed the very result that this one asks for, as far as the caller can tell; only
    theirs is given again. ``None``: whatever the lists and the question are the same of.

    Raises:
        DataError: The facts about this partner are damaged; nothing may go out before they are restored.
    """
    sessions = courses(facts, request.partner)
    if request.session in sessions:
        return Refuse(Reason.NAME_USED, f"there was a session {request.session}: ask again under a new name", ())
    allowance = limits.allowance(request)
    if allowance is None:
        return Refuse(*not_allowed(request), (request,))
    case = Case(request, allowance, ledger(sessions, request.table, request.key_columns))
    if verdict := _first(STANDING, case):
        return Refuse(*verdict, (request,))
    if earlier := _released_before(request, case.spent, same):
        return FromCache(earlier, (request,))
    if verdict := _first(COSTS, case):
        return Refuse(*verdict, (request,))
    return Allow((request, Began(partner=request.partner, session=request.session, at=request.at)))


def _first(checks: Iterable[Callable[[C], Verdict | None]], case: C) -> Verdict | None:
    return next((verdict for check in checks if (verdict := check(case))), None)


def _released_before(request: Request, spent: Ledger, same: Collection[SessionId] | None) -> SessionId | None:
    asked, released = _question(request), (course.asked for course in spent.counted if course.released)
    alike = (earlier.session for earlier in released if _question(earlier) == asked)
    return next((session for session in alike if same is None or session in same), None)


def _question(request: Request) -> Request:
    """Return what requests with one answer for the same parties have in common: all but name, time, order."""
    keys, values = tuple(sorted(request.key_columns)), tuple(sorted(request.value_columns))
    return replace(request, session=SessionId("any"), at=_NO_TIME, key_columns=keys, value_columns=values)


def after(request: Request, result: Result, facts: Iterable[Fact], limits: Limits) -> Release | Withhold | Freeze:
    """Return whether the result of a session that was allowed may go out.

    Raises:
        DataError: The facts about this partner are damaged; nothing may go out before they are restored.
        UsageError: No intersection of lists of these lengths has that size.
    """
    _check_size(request, result)
    sessions = courses(facts, request.partner)
    course = sessions.get(request.session)
    if course is None or course.began is None or course.asked != request:
        return Withhold(Reason.NOT_CHARGED, f"session {request.session} was not charged as it stands here", ())
    if course.over:
        return Withhold(Reason.NAME_USED, f"session {request.session} is over: it has one result", ())
    ended = Ended(partner=request.partner, session=request.session, at=result.at, how="withheld", size=result.size)
    allowance = limits.allowance(request)
    if allowance is None:
        return Withhold(*not_allowed(request), (ended,))
    found = Found(request, allowance, ledger(sessions, request.table, request.key_columns), result, course)
    if verdict := low_hit_rate(found):
        frozen = Froze(partner=request.partner, session=request.session, at=result.at)
        return Freeze(*verdict, (ended, frozen))
    if verdict := _first(TRIPWIRES, found):
        return Withhold(*verdict, (ended,))
    return Release((Released(partner=request.partner, session=request.session, at=result.at, size=result.size),))


def _check_size(request: Request, result: Result) -> None:
    most = min(request.own_rows, request.partner_rows)
    if result.size is not None and not 0 <= result.size <= most:
        raise UsageError(f"session {request.session}: {result.size} rows are shared, expected 0 to {most}")


# --- for display -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of an allowance at one moment."""

    points: int
    """Of the budget in all."""
    points_next: int
    """Of it, what the next session may take."""
    new_points: int | None
    """``None`` if new points have no limit of their own."""
    sessions_today: int
    places: int
    """How many more sessions may run at once."""
    frozen: tuple[SessionId, ...]
    """Sessions that stopped all others; while there is one, nothing is allowed."""
    valid: bool


def remaining(allowance: Allowance, facts: Iterable[Fact], now: datetime) -> Remaining:
    """Return what is left of ``allowance``.

    Raises:
        DataError: The facts about this partner are damaged.
    """
    spent = ledger(courses(facts, allowance.partner), allowance.table, allowance.key_columns)
    points, new = max(allowance.points_total - spent.points, 0), allowance.new_points_total
    return Remaining(
        points=points,
        points_next=min(points, allowance.points_per_session),
        new_points=None if new is None else max(new - spent.new_points, 0),
        sessions_today=max(allowance.sessions_per_day - spent.begun_today(now), 0),
        places=max(allowance.concurrent - len(spent.running), 0),
        frozen=spent.frozen,
        valid=allowance.valid_from <= now < allowance.valid_until,
    )
