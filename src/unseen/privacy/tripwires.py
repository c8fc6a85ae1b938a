"""Why a result may not go out: each check returns a verdict, or ``None`` if it has nothing against it.

Whoever knows these wires can step over them: made-up points pass a minimum of rows, known members a minimum of hits,
and a new key hides that lists are alike. They are for the careless; the budget of points holds for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unseen.privacy.budgets import Case, Verdict, frozen, new_points, not_valid
from unseen.privacy.decisions import Reason, Result
from unseen.privacy.differencing import Measured, near_lists, near_sizes
from unseen.privacy.facts import AGGREGATES, Request, SessionId
from unseen.privacy.ledger import Course


@dataclass(frozen=True, slots=True)
class Found(Case):
    """A result, beside what it is judged by."""

    result: Result
    course: Course

    @property
    def others(self) -> tuple[Course, ...]:
        """The other sessions whose results were let go."""
        return tuple(course for course in self.spent.counted if course.released and course != self.course)


def _size_not_told(found: Found) -> Verdict | None:
    if found.result.size is not None or found.allowance.unknown_size:
        return None
    return Reason.UNKNOWN_SIZE, f"session {found.request.session}: the size of the result is not known"


def low_hit_rate(found: Found) -> Verdict | None:
    """Judge all points since the last freeze was lifted, so that small sessions do not slip through."""
    if found.result.size is None:
        return None
    rows, hits = found.spent.hits()
    rows, hits = rows + found.request.partner_rows, hits + found.result.size
    if rows <= found.allowance.probes_judged or hits >= found.allowance.min_hit_rate * rows:
        return None
    return Reason.LOW_HIT_RATE, (
        f"{found.request.partner} had {rows:,} points on {found.request.what} and {hits:,} of them are there, expected "
        f"{found.allowance.min_hit_rate:.1%} or more: ask the partner what these lists are"
    )


def _small_intersection(found: Found) -> Verdict | None:
    size, least = found.result.size, found.allowance.min_intersection
    if size is None or size >= least:
        return None
    return Reason.SMALL_INTERSECTION, (
        f"session {found.request.session} with {found.request.partner} found {size:,} rows of {found.request.what}, "
        f"expected {least:,} or more"
    )


def _only_hits(found: Found) -> Verdict | None:
    """Judge a short list of known members: with one stranger in it, its size tells whether that one is there."""
    size, rows, allowance = found.result.size, found.request.partner_rows, found.allowance
    if size is None or rows > allowance.short_list or size <= allowance.max_hit_rate * rows:
        return None
    return Reason.ONLY_HITS, (
        f"session {found.request.session}: {size:,} of {rows:,} points of {found.request.partner} are there, expected "
        f"at most {allowance.max_hit_rate:.0%} in so short a list"
    )


def _own_share(found: Found) -> Verdict | None:
    size, most = found.result.size, found.allowance.max_own_share * found.request.own_rows
    if size is None or size <= most:
        return None
    return Reason.OWN_SHARE, (
        f"session {found.request.session} with {found.request.partner} found {size:,} of {found.request.own_rows:,} "
        f"rows of {found.request.what}, expected at most {found.allowance.max_own_share:.0%}"
    )


def _differencing(found: Found) -> Verdict | None:
    points, request = found.allowance.differencing_points, found.request
    if not points or request.variant not in AGGREGATES:
        return None
    alike = tuple(course for course in found.others if abs(course.asked.own_rows - request.own_rows) <= points)
    names = _by_fingerprints(found, alike, points) or _by_sizes(found, alike, points)
    if not names:
        return None
    return Reason.DIFFERENCING, (
        f"session {request.session} of {request.partner} with {request.what} differs by at most {points} points from "
        f"{' and '.join(names)}: together they tell about few people; ask the partner for lists that differ by more"
    )


def _by_fingerprints(found: Found, alike: tuple[Course, ...], points: int) -> tuple[SessionId, ...]:
    mine = found.course.seen
    pairs = ((course.asked.session, course.seen) for course in alike)
    if mine is None:
        return ()
    return tuple(name for name, seen in pairs if seen and near_lists(mine.fingerprints, seen.fingerprints, points))[:1]


def _by_sizes(found: Found, alike: tuple[Course, ...], points: int) -> tuple[SessionId, ...]:
    """Judge by numbers alone, also where fingerprints differ: the partner may have taken a new key."""
    if found.result.size is None:
        return ()
    new = Measured(found.request.partner_rows, found.result.size)
    sized = [(course, Measured(course.asked.partner_rows, course.size)) for course in alike if course.size is not None]
    others = [(course, size) for course, size in sized if size != new or not _same_lists(course.asked, found.request)]
    near = near_sizes(new, [size for _, size in others], points)
    return tuple(others[index][0].asked.session for index in near)


def _same_lists(left: Request, right: Request) -> bool:
    """Return whether both are said to be over the same lists, as when a sum follows a count."""
    mine, other = (left.own_snapshot, left.partner_snapshot), (right.own_snapshot, right.partner_snapshot)
    return mine == other and set(left.key_columns) == set(right.key_columns)


TRIPWIRES: tuple[Callable[[Found], Verdict | None], ...] = (
    lambda found: not_valid(found, found.result.at),
    frozen,
    _size_not_told,
    _small_intersection,
    _only_hits,
    _own_share,
    new_points,
    _differencing,
)
"""What withholds a result; the rate of hits (``low_hit_rate``) freezes besides."""
