"""The mailroom: letters from partners come in here, each one turn with all that it brings about.

A letter that says what its sender may not say is recorded and has no effect; it counts as taken, since it would be no
better the next time. A letter that comes out of order, or differs from what came under its number before, is not taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from unseen.errors import PermissionDenied, RemoteProtocolError, UnseenError, UsageError
from unseen.ids import PartyId
from unseen.node.books import Books, Turn
from unseen.node.letters import (
    Acknowledged,
    AgreementOffered,
    AnyLetter,
    Card,
    Charged,
    HeadSigned,
    JobDone,
    JobEnded,
    JobGranted,
    JobPaused,
    JobProposed,
    JobRefused,
    JobResumed,
    ReceiptsAsked,
    ReceiptsHeld,
    ReceiptsShown,
    Revoked,
    TablesHeld,
    read_letter,
)
from unseen.node.usecases.audit import take_head
from unseen.node.usecases.charging import take_charge, take_question
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.projects import Projects
from unseen.node.usecases.signatures import membership
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code

_log = logging.getLogger(__name__)
_Take = Callable[[Turn, PartyId, Any], None]


class Mailroom:
    """Gives letters to partners and takes theirs; what the port asks for."""

    def __init__(self, books: Books, projects: Projects, jobs: Jobs) -> None:
        self._books = books
        self._lock = threading.Lock()
        self._news: dict[PartyId, _News] = {}
        self._takers: Mapping[type[AnyLetter], _Take] = MappingProxyType(
            {
                Card: projects.take_card,
                AgreementOffered: projects.take_offer,
                Revoked: projects.take_revocation,
                TablesHeld: projects.take_tables,
                JobProposed: jobs.take_proposal,
                JobGranted: jobs.take_grant,
                JobRefused: jobs.take_refusal,
                JobPaused: jobs.take_pause,
                JobResumed: jobs.take_resumption,
                JobDone: jobs.take_done,
                JobEnded: jobs.take_end,
                Charged: take_charge,
                Acknowledged: jobs.take_acknowledgement,
                ReceiptsHeld: jobs.take_receipts,
                ReceiptsAsked: take_question,
                ReceiptsShown: jobs.take_comparison,
                HeadSigned: take_head,
            }
        )
        books.after_each(self._tell)

    def waiting(self, peer: PartyId) -> Sequence[tuple[int, bytes]]:
        """Return letters that have not arrived at a peer, the oldest first, at most 64."""
        news = self._news_of(peer)
        with news.changed:
            news.seen = news.count
        with self._books.turn() as turn:
            return tuple(turn.kept.mail.waiting(peer, limit=64))

    def delivered(self, peer: PartyId, up_to: int) -> None:
        """Note that a peer has all letters up to a number."""
        with self._books.turn() as turn:
            turn.kept.mail.delivered(peer, up_to)
        # In a database that was put back, letters wait until this is known.
        self.stir(peer)

    def received(self, peer: PartyId) -> int:
        """Return the number of the last letter of a peer."""
        with self._books.turn() as turn:
            return turn.kept.mail.received(peer)

    def changed(self, peer: PartyId, timeout: float) -> None:
        """Return once there may be letters that ``waiting`` has not given, or after ``timeout`` seconds."""
        news = self._news_of(peer)
        with news.changed:
            news.changed.wait_for(lambda: news.count != news.seen, timeout)

    def stir(self, peer: PartyId) -> None:
        """Let whoever waits in ``changed`` return."""
        self._news_of(peer).add()

    def take(self, peer: PartyId, number: int, body: bytes) -> None:
        """Take a letter, with all that it brings about, unless it was taken before.

        Raises:
            RemoteProtocolError: Letters before it are missing, or another one came under its number.
        """
        try:
            with self._books.turn() as turn:
                if turn.kept.mail.take(peer, number, body):
                    self._act(turn, peer, body)
        except _Refused as refused:
            # What the letter had begun is gone with its turn; that it came, and was refused, is kept in another.
            with self._books.turn() as turn:
                if turn.kept.mail.take(peer, number, body):
                    turn.reject(peer, refused.code, _project_of(turn, peer, body))
            _log.warning("letter %d of %s refused: %s", number, peer, refused, extra={"partner": peer})

    def _act(self, turn: Turn, peer: PartyId, body: bytes) -> None:
        try:
            letter = read_letter(body, peer)
            self._takers[type(letter)](turn, peer, letter)
        except PermissionDenied as error:
            raise _Refused(Code.SITE, str(error)) from error
        except (RemoteProtocolError, UsageError) as error:
            raise _Refused(Code.SIGNATURE, str(error)) from error

    def _tell(self, turn: Turn) -> None:
        for peer in turn.posted:
            self._news_of(peer).add()

    def _news_of(self, peer: PartyId) -> _News:
        with self._lock:
            return self._news.setdefault(peer, _News())


class _News:
    """How often there was something new for one peer, and at which of these it was given all.

    Each peer has its own, so that a letter wakes those who wait for it and nobody else.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.count = self.seen = 0

    def add(self) -> None:
        """Wake whoever waits for it."""
        with self.changed:
            self.count += 1
            self.changed.notify_all()


class _Refused(Exception):
    """A letter has no effect."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _project_of(turn: Turn, peer: PartyId, body: bytes) -> ProjectId | None:
    """Return the project that a refused letter names, if its sender takes part in it."""
    try:
        project = getattr(read_letter(body, peer), "project", None)
        return None if project is None else membership(turn, peer, project).current.project
    except UnseenError:
        return None
