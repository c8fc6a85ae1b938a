"""Views over facts: what became of each session, and what sessions have spent.

No view depends on the order of the facts, nor on facts of other partners or other tables. A session counts once,
however often its facts are repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from unseen.errors import DataError
from unseen.ids import PartyId
from unseen.privacy.facts import Began, Ended, Fact, Froze, Released, Request, Seen, SessionId, TableId, Thawed

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Course:
    """What became of one session; the fields are named as facts are in JSON."""

    asked: Request
    began: Began | None = None
    seen: Seen | None = None
    released: Released | None = None
    ended: Ended | None = None
    froze: Froze | None = None
    thawed: Thawed | None = None

    @property
    def running(self) -> bool:
        """Whether it was charged and is not known to be over; after a crash it stays so until it is ended."""
        return self.began is not None and self.over is None

    @property
    def over(self) -> Released | Ended | None:
        """How it ended; a result that was let go stays let go, even if the session failed afterwards."""
        return self.released or self.ended

    @property
    def size(self) -> int | None:
        """How many rows were shared, where it is known."""
        return self.over.size if self.over else None

    @property
    def frozen(self) -> bool:
        """Whether its result stopped further sessions, and nobody has lifted that."""
        return self.froze is not None and self.thawed is None


def courses(facts: Iterable[Fact], partner: PartyId) -> dict[SessionId, Course]:
    """Return what became of each session that ``partner`` asked for.

    Raises:
        DataError: Facts of this partner contradict each other, or one is missing that has to come before another.
    """
    kept: dict[SessionId, dict[str, Fact]] = defaultdict(dict)
    for fact in facts:
        if fact.partner != partner:
            continue
        if kept[fact.session].setdefault(fact.fact, fact) != fact:
            raise _damage(partner, fact.session, f"there are two different facts {fact.fact!r}, expected one")
    return {session: _course(partner, session, parts) for session, parts in kept.items()}


_BEFORE = {
    "began": "asked",
    "seen": "began",
    "released": "began",
    "ended": "began",
    "froze": "began",
    "thawed": "froze",
}
"""What has to have happened first."""


def _course(partner: PartyId, session: SessionId, parts: Mapping[str, Fact]) -> Course:
    for kind in parts:
        if kind in _BEFORE and _BEFORE[kind] not in parts:
            raise _damage(partner, session, f"there is a fact {kind!r}, and none {_BEFORE[kind]!r} before it")
    return Course(**parts)  # type: ignore[arg-type]  # each fact stands under the name of its own kind


def _damage(partner: PartyId, session: SessionId, what: str) -> DataError:
    return DataError(f"facts about {partner}, session {session}: {what}; restore them before anything goes out")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The sessions of one partner that count against the budget of one table and one set of key columns."""

    counted: tuple[Course, ...]
    """Charged sessions with this table that share a key column: a key of two columns is probed through either."""
    frozen: tuple[SessionId, ...]
    """Sessions that stopped this partner from using this table, by whatever columns."""

    @property
    def points(self) -> int:
        """Points charged, whatever became of the sessions."""
        return sum(course.asked.partner_rows for course in self.counted)

    @property
    def new_points(self) -> int:
        """Distinct points as far as fingerprints tell; points that were not seen count as distinct."""
        seen = [np.frombuffer(course.seen.fingerprints, "<u8") for course in self.counted if course.seen]
        distinct = len(np.unique(np.concatenate(seen))) if seen else 0
        return distinct + sum(_unseen(course) for course in self.counted)

    @property
    def running(self) -> tuple[Course, ...]:
        """Sessions that have begun and are not over."""
        return tuple(course for course in self.counted if course.running)

    def begun_today(self, now: datetime) -> int:
        """Return how many sessions began in the 24 hours before ``now``, or after it, should a clock have jumped."""
        return sum(course.began is not None and course.began.at > now - DAY for course in self.counted)

    def hits(self) -> tuple[int, int]:
        """Return points and hits of all sessions of known size that ended since the last freeze was lifted."""
        lifted = max((course.thawed.at for course in self.counted if course.thawed), default=None)
        judged = [course for course in self.counted if course.over and (lifted is None or course.over.at > lifted)]
        known = [(course.asked.partner_rows, course.size) for course in judged if course.size is not None]
        return sum(rows for rows, _ in known), sum(size for _, size in known)


def ledger(sessions: Mapping[SessionId, Course], table: TableId, key_columns: Iterable[str]) -> Ledger:
    """Return what of one partner's sessions counts for ``table`` and ``key_columns``."""
    keys = frozenset(key_columns)
    here = {session: course for session, course in sessions.items() if course.asked.table == table}
    counted = [course for course in here.values() if course.began and not keys.isdisjoint(course.asked.key_columns)]
    counted.sort(key=lambda course: course.asked.session)
    return Ledger(tuple(counted), tuple(sorted(session for session, course in here.items() if course.frozen)))


def _unseen(course: Course) -> int:
    seen = len(course.seen.fingerprints) // 8 if course.seen else 0
    return max(course.asked.partner_rows - seen, 0)
