"""Whatever happens in whatever order: the store says what a few lines of Python say, and mail survives a restore."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unseen.errors import LocalProtocolError
from unseen.ids import JobId, PartyId
from unseen.node.domain import COURSE, Job, JobState, Lease
from unseen.node.store import Kept, Store
from unseen.trust.agreement import ProjectId

START = datetime(2026, 11, 28, tzinfo=UTC)
TERM = timedelta(seconds=10)
BANK, TELECOM = PartyId("bank"), PartyId("telecom")
# Shrinking would take minutes of writing to disks.
FEW = settings(max_examples=12, stateful_step_count=20, phases=[Phase.generate])


class Abandoned(Exception):
    """Ends a transaction."""


class JobsMachine(RuleBasedStateMachine):
    """Jobs and leases beside a dictionary; some transactions are abandoned."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(f"sqlite:///{self.folder / 'books.db'}")
        self.now = START
        self.states: dict[str, JobState] = {}
        self.held: dict[str, Lease] = {}
        self.fences: dict[str, int] = {}
        self.past: list[Lease] = []

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(state=st.sampled_from([JobState.PROPOSED, JobState.READY, JobState.READY, JobState.READY, JobState.FINISHED]))
    def add(self, state: JobState) -> None:
        name = f"job-{len(self.states)}"
        job = Job(JobId(name), ProjectId("credit"), BANK, "{}", (), 0, 0.0, 0.0, START + TERM, START, "", state)
        with self.store.begin() as kept:
            kept.jobs.add(job)
        self.states[name], self.fences[name] = state, 0

    @precondition(lambda self: self.states)
    @rule(data=st.data(), to=st.sampled_from(JobState), abandon=st.booleans())
    def move(self, data: st.DataObject, to: JobState, abandon: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.states)))
        allowed = to in COURSE[self.states[name]]
        with self._transaction(abandon) as kept:
            if not allowed:
                with pytest.raises(LocalProtocolError, match="cannot become"):
                    kept.jobs.move(JobId(name), to, "why", self.now)
                return
            kept.jobs.move(JobId(name), to, "why", self.now)
        if abandon:
            return
        self.states[name] = to
        if to is not JobState.RUNNING:
            self.held.pop(name, None)

    @rule(abandon=st.sampled_from([False, False, True]))
    def lease(self, abandon: bool) -> None:
        free = [name for name, state in self.states.items() if state is JobState.READY or self._is_lost(name)]
        with self._transaction(abandon) as kept:
            lease = kept.jobs.lease("worker", self.now, self.now + TERM)
        if abandon:
            return
        assert (lease and str(lease.job)) == (free[0] if free else None)
        if lease is not None:
            assert lease.fence == self.fences[lease.job] + 1
            self.fences[lease.job] = lease.fence
            self.states[lease.job], self.held[lease.job] = JobState.RUNNING, lease
            self.past.append(lease)

    @precondition(lambda self: self.past)
    @rule(data=st.data(), release=st.booleans())
    def hold_on_or_let_go(self, data: st.DataObject, release: bool) -> None:
        lease = data.draw(st.sampled_from(self.past))
        mine = self.held.get(lease.job)
        until = self.now + TERM
        with self.store.begin() as kept:
            good = kept.jobs.release(lease) if release else kept.jobs.renew(lease, until)
        running = self.states[lease.job] is JobState.RUNNING
        assert good == (running and self.fences[lease.job] == lease.fence)
        if good:
            assert mine is None or mine.fence == lease.fence
            if release:
                self.held.pop(lease.job, None)
            else:
                self.held[lease.job] = replace(lease, until=until)

    @rule(seconds=st.sampled_from([0.000001, 9.999999, 10, 11]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def the_store_says_the_same(self) -> None:
        with self.store.begin() as kept:
            found = kept.jobs.all(limit=1000)
            fences = {str(job.job): kept.jobs.fence(job.job) for job in found}
        assert {str(job.job): job.state for job in found} == self.states
        assert fences == self.fences

    @contextmanager
    def _transaction(self, abandon: bool) -> Iterator[Kept]:
        with suppress(Abandoned), self.store.begin() as kept:
            yield kept
            if abandon:
                raise Abandoned

    def _is_lost(self, name: str) -> bool:
        lease = self.held.get(name)
        return self.states[name] is JobState.RUNNING and (lease is None or lease.until <= self.now)


class MailMachine(RuleBasedStateMachine):
    """Two nodes write to each other over a link that loses answers; the bank is put back from copies now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.taken: dict[PartyId, list[bytes]] = {BANK: [], TELECOM: []}
        self.written: dict[PartyId, list[bytes]] = {BANK: [], TELECOM: []}
        self.count = 0
        self.put_back = False

    @initialize()
    def begin(self) -> None:
        self.stores = {name: self._open(name) for name in (BANK, TELECOM)}
        self.copy()

    def teardown(self) -> None:
        for turn in range(40):
            if not any(self._say(me, self._other(me))[1] for me in (BANK, TELECOM)) and turn > 1:
                break
            self.exchange(TELECOM, loses=False)
        for writer, reader in ((BANK, TELECOM), (TELECOM, BANK)):
            with self.stores[writer].begin() as kept:
                assert kept.mail.waiting(reader) == (), "everything arrives in the end"
            arrived = list(dict.fromkeys(self.taken[reader]))
            if self.put_back:
                # What was written before the copy and lost with it is not asked for, order of the rest is kept.
                assert arrived == [body for body in sorted(arrived) if body in set(self.taken[reader])]
                assert set(self.written[writer]) <= set(arrived) or writer is TELECOM
            else:
                assert self.taken[reader] == self.written[writer], "once, in order"
        for store in self.stores.values():
            store.close()
        shutil.rmtree(self.folder)

    @rule(writer=st.sampled_from([BANK, TELECOM]), letters=st.integers(1, 3))
    def write(self, writer: PartyId, letters: int) -> None:
        for _ in range(letters):
            self._write(writer)

    def _write(self, writer: PartyId) -> None:
        self.count += 1
        body = f"{self.count:04}".encode()
        with self.stores[writer].begin() as kept:
            kept.mail.post(self._other(writer), body)
        self.written[writer].append(body)

    @rule(caller=st.sampled_from([BANK, TELECOM]), loses=st.sampled_from([False, False, True]))
    def exchange(self, caller: PartyId, loses: bool) -> None:
        called = self._other(caller)
        self._hear(called, caller, *self._say(caller, called))
        if not loses:
            self._hear(caller, called, *self._say(called, caller))

    @rule()
    def copy(self) -> None:
        self.stores[BANK].close()  # only its connections, so that all is in one file
        shutil.copy(self.folder / "bank.db", self.folder / "copy.db")
        self.remembered = (list(self.written[BANK]), list(self.taken[BANK]))

    @precondition(lambda self: self.count)
    @rule(letters=st.integers(0, 4))
    def put_bank_back(self, letters: int) -> None:
        self.stores[BANK].close()
        shutil.copy(self.folder / "copy.db", self.folder / "bank.db")
        self.written[BANK], self.taken[BANK] = (list(kept) for kept in self.remembered)
        with self.stores[BANK].begin() as kept:
            kept.recovery.begin([TELECOM], START)
            assert kept.recovery.open() == (TELECOM,)
            assert kept.mail.waiting(TELECOM) == (), "nothing leaves under a number that may be taken"
        self.put_back = True
        for _ in range(letters):
            self._write(BANK)

    def _say(self, me: PartyId, peer: PartyId) -> tuple[int, tuple[tuple[int, bytes], ...]]:
        with self.stores[me].begin() as kept:
            return kept.mail.received(peer), kept.mail.waiting(peer, limit=8)

    def _hear(self, me: PartyId, peer: PartyId, received: int, letters: tuple[tuple[int, bytes], ...]) -> None:
        with self.stores[me].begin() as kept:
            kept.mail.delivered(peer, received)
        for number, body in letters:
            with self.stores[me].begin() as kept:
                if kept.mail.take(peer, number, body):
                    self.taken[me].append(body)

    def _open(self, name: PartyId) -> Store:
        return Store(f"sqlite:///{self.folder / f'{name}.db'}")

    @staticmethod
    def _other(party: PartyId) -> PartyId:
        return TELECOM if party is BANK else BANK


JobsMachine.TestCase.settings = FEW
MailMachine.TestCase.settings = FEW
TestJobs = JobsMachine.TestCase
TestMail = MailMachine.TestCase
