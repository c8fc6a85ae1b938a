"""What can be decided about a session and about its result, and why; a closed set."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from unseen.privacy.facts import Fact, SessionId


class Reason(enum.StrEnum):
    """Why a session or its result is not let through; stable, for programs."""

    NOT_ALLOWED = "not_allowed"
    """No limits are declared for this partner, table, key columns and variant."""
    NOT_VALID_NOW = "not_valid_now"
    NAME_USED = "name_used"
    """There is a session of this name."""
    FROZEN = "frozen"
    UNKNOWN_SIZE = "unknown_size"
    TOO_FEW_OWN_ROWS = "too_few_own_rows"
    TOO_FEW_PARTNER_ROWS = "too_few_partner_rows"
    RATIO = "ratio"
    POINTS_PER_SESSION = "points_per_session"
    POINTS_TOTAL = "points_total"
    NEW_POINTS = "new_points"
    SESSIONS_PER_DAY = "sessions_per_day"
    CONCURRENT = "concurrent"
    NOT_CHARGED = "not_charged"
    """A result of a session that did not begin, or began otherwise."""
    LOW_HIT_RATE = "low_hit_rate"
    SMALL_INTERSECTION = "small_intersection"
    ONLY_HITS = "only_hits"
    OWN_SHARE = "own_share"
    DIFFERENCING = "differencing"


@dataclass(frozen=True, slots=True)
class Allow:
    """The session may begin once ``records``, its charge among them, are durable."""

    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class FromCache:
    """The same two versions were intersected before: give the result of ``session`` again, evaluate nothing."""

    session: SessionId
    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """The session must not begin; both sides may read why."""

    reason: Reason
    message: str
    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The result may go out once ``records`` are durable."""

    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Withhold:
    """The result must not go out; the session stays charged. Only the owner may read the reason, which tells sizes."""

    reason: Reason
    message: str
    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """As ``Withhold``; and no session of this partner with this table begins until the owner lifts it (``Thawed``)."""

    reason: Reason
    message: str
    records: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a session found."""

    at: datetime
    """By the owner's own clock."""
    size: int | None
    """How many rows are shared; ``None`` if this party does not learn it."""
