"""A node's transactions: the store together with what is derived from it, gates and ledgers, one turn at a time.

Everything that a person or a partner brings about is one **turn**: it is there as a whole, with the letters that tell
others, or not at all. What is derived stays in memory from turn to turn; a turn that fails after it has changed some of
it throws it away, and it is made anew from the store's lines. The lines, by the names of their logs:

=====================================  =========================================================
``trail``                              what was refused before it could be told which project it was about; what this
                                       organisation's own people did, who is not for partners to know
``trail/PROJECT``, ``marks/PROJECT``   the gate's memory
``ledger/PROJECT/PARTNER``             what the partner was charged here
``receipts/PROJECT/OWNER``             what this node has countersigned there
``methods/PROJECT``                    how the result of each charged session was to be computed
``heads/PROJECT/PARTY``                heads of the party's trail
``cards/PARTY``                        keys for statements; the last one counts
``held/PROJECT/PARTY``                 tables; the last line counts
``events/JOB``, ``done/JOB``           progress; who has all results
=====================================  =========================================================
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from unseen.clock import Clock
from unseen.errors import LocalProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.domain import Job, JobState
from unseen.node.letters import MAX_LETTER, AnyLetter, write_letter
from unseen.node.store import Kept, Store
from unseen.trust.agreement import Agreement, Project, ProjectId
from unseen.trust.audit import Code, Event, Trail
from unseen.trust.budgets import Entry, Ledger, Parties, Received, entry_line, read_entry
from unseen.trust.envelope import Envelope, read_envelope
from unseen.trust.gate import Gate, Memory
from unseen.trust.keys import SigningKey

_log = logging.getLogger(__name__)

NODE_TRAIL = "trail"

Roots = Callable[[PartyId], str | None]
"""Returns SHA-256 of the SubjectPublicKeyInfo of a partner's root; ``None`` for whoever is no partner (any more)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose node it is: its name, its key for statements, and SHA-256 of its own root's SubjectPublicKeyInfo."""

    me: PartyId
    key: SigningKey
    certificate: str


@dataclass(slots=True)
class _Derived:
    """What follows from the store's lines."""

    trail: Trail | None = None
    gates: dict[ProjectId, Gate] = field(default_factory=dict)
    ledgers: dict[tuple[ProjectId, PartyId], Ledger] = field(default_factory=dict)
    receipts: dict[tuple[ProjectId, PartyId], Received] = field(default_factory=dict)


class Books:
    """All turns of a node.

    Args:
        store: Where everything is kept.
        owner: Whose node it is.
        clock: What time it is.
        roots: The roots of partners, as the port would pin them now.
    """

    def __init__(self, store: Store, owner: Owner, clock: Clock, roots: Roots) -> None:
        self.owner, self.clock, self.roots = owner, clock, roots
        self._store = store
        self._lock = threading.RLock()
        self._derived = _Derived()
        self._turn: Turn | None = None
        self._listeners: list[Callable[[Turn], None]] = []

    def after_each(self, tell: Callable[[Turn], None]) -> None:
        """Call ``tell`` after every turn that is kept."""
        self._listeners.append(tell)

    def check(self) -> None:
        """Compare every project with its trail.

        Raises:
            DataError: Something was changed, or removed.
        """
        with self.turn() as turn:
            for project in turn.kept.projects.all():
                turn.project(project)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """One transaction; an error in the block leaves everything as it was."""
        with self._lock:
            if self._turn is not None:
                raise LocalProtocolError("a turn began within a turn")
            try:
                with self._store.begin() as kept:
                    turn = self._turn = Turn(kept, self, self._derived)
                    yield turn
            except BaseException:
                # What was only read stays: a partner's bad letter must not cost reading whole trails anew.
                if self._turn is None or self._turn.touched:
                    self._derived = _Derived()
                raise
            finally:
                self._turn = None
        for job, state in turn.ended:
            _log.info("job %s: %s", job.job, state, extra={"job": job.job, "project": job.project})
        for tell in self._listeners:
            tell(turn)

    @contextmanager
    def look(self) -> Iterator[Kept]:
        """Look at what is kept, as the last turn left it, while others go on; gates and ledgers take a turn."""
        with self._store.read() as kept:
            yield kept

    @property
    def present(self) -> Turn | None:
        """The turn that is under way."""
        return self._turn

    def keep(self, log: str, line: bytes) -> None:
        """Add a line within the present turn."""
        if self._turn is None:
            raise LocalProtocolError(f"a line for {log} outside of any turn")
        self._turn.touched = True
        self._turn.kept.lines.append(log, line)


class _TurnClock:
    """The moment of the present turn: a grant that is given and charged in one turn is valid from that moment on."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def now(self) -> datetime:
        """Return the moment at which the turn began."""
        turn = self._books.present
        return self._books.clock.now() if turn is None else turn.now

    def monotonic(self) -> float:
        """Return the seconds of the clock behind it."""
        return self._books.clock.monotonic()


class Turn:
    """What can be done within one transaction."""

    def __init__(self, kept: Kept, books: Books, derived: _Derived) -> None:
        self.kept = kept
        self.owner, self.me = books.owner, books.owner.me
        self.now: datetime = books.clock.now()
        self.posted: set[PartyId] = set()
        self.ready = False
        """Whether a job has become ready."""
        self.ended: list[tuple[Job, JobState]] = []
        """Jobs that have ended, and how."""
        self.touched = False
        """Whether gates or ledgers may differ from what is in the store, should the turn fail."""
        self._books, self._derived = books, derived

    def post(self, peer: PartyId, letter: AnyLetter) -> None:
        """Send a letter, once the turn is kept.

        Raises:
            UsageError: It is longer than letters may be.
        """
        body = write_letter(letter)
        if len(body) > MAX_LETTER:
            raise UsageError(f"what {peer} is to be told has {len(body)} bytes, expected {MAX_LETTER} at most")
        self.kept.mail.post(peer, body)
        self.posted.add(peer)

    def root(self, peer: PartyId) -> str | None:
        """Return the pinned root of a partner, or ``None``."""
        return self._books.roots(peer)

    # --- projects ----------------------------------------------------------------------------------------------------

    def project(self, project: ProjectId) -> Project | None:
        """Return the agreement that all have signed, if there is one."""
        gate = self._gate(project)
        return gate.project if gate else None

    def gate(self, project: ProjectId) -> Gate:
        """Return the gate of a project.

        Raises:
            UsageError: There is no agreement that all have signed.
        """
        gate = self._gate(project)
        if gate is None:
            raise UsageError(f"{project}: there is no such project, or not all have signed its agreement yet")
        return gate

    def _gate(self, project: ProjectId) -> Gate | None:
        known = self._derived.gates.get(project)
        if known is None and (versions := self.kept.projects.versions(project)):
            revocations = self.kept.projects.revocations(project)
            of = Project(_envelopes(versions), _envelopes(revocations))
            log, marks, lines = f"trail/{project}", f"marks/{project}", self.kept.lines
            memory = Memory(lines.read(log), lines.read(marks), _Keep(self._books, log), _Keep(self._books, marks))
            known = Gate(self.me, self.owner.key, of, memory, _TurnClock(self._books))
            self._derived.gates[project] = known
        return known

    def reject(self, peer: PartyId, code: Code, project: ProjectId | None = None) -> None:
        """Record that something of a peer was refused."""
        self.touched = True
        gate = self._gate(project) if project is not None else None
        if gate is not None:
            gate.note(Event.MESSAGE_REJECTED, code=code, party=peer, project=project)
            return
        self.note(Event.MESSAGE_REJECTED, code=code, party=peer)

    def note(self, event: Event, **fields: object) -> None:
        """Add a record to this node's own trail, which partners do not see."""
        self.touched = True
        trail = self._derived.trail
        if trail is None:
            trail = Trail()
            for line in self.kept.lines.read(NODE_TRAIL):
                trail = trail.after(line)
        if not trail.count:
            trail = self._noted(trail, Event.OPENED, party=self.me, subject=self.owner.key.public)
        self._derived.trail = self._noted(trail, event, **fields)

    def _noted(self, trail: Trail, event: Event, **fields: object) -> Trail:
        line = trail.record(event, self.now, **fields).payload()
        self.kept.lines.append(NODE_TRAIL, line)
        return trail.after(line)

    # --- budgets -----------------------------------------------------------------------------------------------------

    def ledger(self, project: ProjectId, partner: PartyId) -> Ledger:
        """Return what this node has charged a partner."""
        ledger = self._derived.ledgers.get((project, partner))
        if ledger is None:
            ledger = Ledger(self._parties(project, self.me, partner))
            for number, line in enumerate(self.kept.lines.read(f"ledger/{project}/{partner}"), 1):
                ledger = ledger.after(read_entry(line, f"ledger/{project}/{partner}, line {number}"))
            self._derived.ledgers[project, partner] = ledger
        return ledger

    def enter(self, project: ProjectId, partner: PartyId, entry: Entry) -> Ledger:
        """Add an entry to a ledger, and return it."""
        self.touched = True
        ledger = self.ledger(project, partner).after(entry)
        self.kept.lines.append(f"ledger/{project}/{partner}", entry_line(entry))
        self._derived.ledgers[project, partner] = ledger
        return ledger

    def receipts(self, project: ProjectId, owner: PartyId) -> Received:
        """Return what this node has countersigned for an owner."""
        received = self._derived.receipts.get((project, owner))
        if received is None:
            received = Received(self._parties(project, owner, self.me))
            for line in self.kept.lines.read(f"receipts/{project}/{owner}"):
                received = received.after(read_envelope(line, sender="receipts"))
            self._derived.receipts[project, owner] = received
        return received

    def countersign(self, project: ProjectId, owner: PartyId, envelope: Envelope) -> Envelope:
        """Return an owner's receipt with this node's signature, which is kept.

        Raises:
            RemoteProtocolError: It does not follow the last one.
        """
        before = self.receipts(project, owner)
        after, signed = before.accept(envelope, self.owner.key)
        if after is not before:
            self.touched = True
            self.kept.lines.append(f"receipts/{project}/{owner}", signed.to_bytes())
            self._derived.receipts[project, owner] = after
        return signed

    def _parties(self, project: ProjectId, owner: PartyId, partner: PartyId) -> Parties:
        agreement = self.gate(project).project.current
        return Parties(project, owner, partner, _key(agreement, owner), _key(agreement, partner))


@dataclass(frozen=True, slots=True)
class _Keep:
    """Adds lines to a log in whatever turn is going on: gates outlive turns."""

    books: Books
    log: str

    def __call__(self, line: bytes) -> None:
        self.books.keep(self.log, line)


def _envelopes(frames: tuple[bytes, ...]) -> list[Envelope]:
    return [read_envelope(frame, sender="store") for frame in frames]


def _key(agreement: Agreement, party: PartyId) -> str:
    member = agreement.member(party)
    if member is None:
        raise UsageError(f"{party} is not a member of {agreement}")
    return member.key
