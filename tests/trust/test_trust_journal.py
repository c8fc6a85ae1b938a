"""The journal of a job: no message goes twice with different bytes, none is taken twice, none is lost by a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trust_example import BANK, INSURER, MALLORY, digest_of

from unseen.errors import DataError, LocalProtocolError, RemoteProtocolError
from unseen.ids import JobId, StepId
from unseen.privacy.facts import SessionId
from unseen.trust.audit import Code
from unseen.trust.grant import Mark, Marks, Proof
from unseen.trust.journal import (
    Began,
    Delivered,
    Ended,
    Finished,
    Journal,
    Leased,
    Received,
    Sent,
    read_record,
)
from unseen.trust.store import Lines

A, B = StepId("align"), StepId("train")
BEGAN = Began(job=JobId("job-1"), steps=(A, B), peers=(INSURER,))
X, Y = digest_of("x"), digest_of("y")


def journal(*records) -> Journal:
    return Journal([BEGAN, *records])


def sent(sequence: int = 1, body: str = X, fence: int = 1, **changes: object) -> Sent:
    return Sent(**{"step": A, "fence": fence, "to": INSURER, "sequence": sequence, "body": body, **changes})


def received(sequence: int = 1, body: str = X, attempt: int = 1, **changes: object) -> Received:
    fields = {"step": A, "sender": INSURER, "attempt": attempt, "sequence": sequence, "body": body}
    return Received(**{**fields, **changes})


def leased(fence: int = 1, step: StepId = A) -> Leased:
    return Leased(step=step, fence=fence)


def delivered(sequence: int = 1, fence: int = 1, **changes: object) -> Delivered:
    return Delivered(**{"step": A, "fence": fence, "to": INSURER, "sequence": sequence, **changes})


def finished(fence: int = 1, step: StepId = A) -> Finished:
    return Finished(step=step, fence=fence, result=X)


DONE = Ended(code=Code.DONE)
WHOLE = [
    leased(), sent(), received(), delivered(), sent(2), finished(), leased(step=B), received(step=B), finished(step=B),
]  # fmt: skip


def test_a_job_from_its_beginning_to_its_end() -> None:
    made = journal(*WHOLE, DONE)
    assert made.ended == DONE
    assert made.results == {A: X, B: X}
    assert made.open_steps == ()
    assert made.undelivered() == (sent(2),)
    assert made.fence(A) == 1


@pytest.mark.parametrize("size", range(len(WHOLE) + 1))
def test_a_crash_after_any_record_goes_on_from_there(size: int, tmp_path: Path) -> None:
    """At each write of the file the process dies, before and after; the rest is done by another one."""
    path = tmp_path / "journal"
    with Lines(path) as file:
        file.append(BEGAN.payload(), *(record.payload() for record in WHOLE[:size]))
    if size < len(WHOLE):
        with path.open("ab") as torn:
            torn.write(b"0123456789abcdef " + WHOLE[size].payload()[:20])
    with Lines(path) as file:
        again = Journal(read_record(line, "journal") for line in file.lines)
        for record in WHOLE[size:]:
            file.append(record.payload())
            again.apply(record)
        again.apply(DONE)
    assert again.results == {A: X, B: X}


WRONG = {
    "nothing before it begins": [[leased()]],
    "begun twice": [[BEGAN, BEGAN]],
    "no such step": [[BEGAN, leased(step=StepId("score"))]],
    "an old lease": [[BEGAN, leased(2), leased(2)], [BEGAN, leased(2), leased(1)]],
    "sent without a lease": [[BEGAN, sent()]],
    "sent under an old lease": [[BEGAN, leased(), leased(2), sent()]],
    "sent under a lease to come": [[BEGAN, leased(), sent(fence=2)]],
    "sent out of order": [[BEGAN, leased(), sent(2)], [BEGAN, leased(), sent(), sent()]],
    "sent to a stranger": [[BEGAN, leased(), sent(to=MALLORY)]],
    "sent when finished": [[BEGAN, leased(), finished(), sent()]],
    "arrived, not sent": [[BEGAN, leased(), delivered()], [BEGAN, leased(), sent(), delivered(2)]],
    "arrived twice": [[BEGAN, leased(), sent(), delivered(), delivered()]],
    "arrived at a stranger": [[BEGAN, leased(), sent(), delivered(to=MALLORY)]],
    "arrived under an old lease": [[BEGAN, leased(), sent(), leased(2), sent(fence=2), delivered()]],
    "taken twice": [[BEGAN, received(), received()]],
    "taken out of order": [[BEGAN, received(2)], [BEGAN, received(), received(3)], [BEGAN, received(2, attempt=2)]],
    "taken from an old attempt": [[BEGAN, received(attempt=2), received(2)], [BEGAN, received(attempt=2), received()]],
    "taken from a stranger": [[BEGAN, received(sender=MALLORY)]],
    "finished under an old lease": [[BEGAN, leased(), leased(2), finished()], [BEGAN, finished()]],
    "finished twice": [[BEGAN, leased(), finished(), finished()]],
    "leased when finished": [[BEGAN, leased(), finished(), leased(2)]],
    "done with open steps": [[BEGAN, DONE], [BEGAN, leased(), finished(), DONE]],
    "anything after the end": [
        [BEGAN, Ended(code=Code.FAILED, by=INSURER), leased()],
        [BEGAN, Ended(code=Code.CANCELLED), Ended(code=Code.FAILED)],
        [BEGAN, Ended(code=Code.FAILED), BEGAN],
    ],
}


@pytest.mark.parametrize("why", WRONG)
def test_records_that_cannot_be_are_damage(why: str) -> None:
    for records in WRONG[why]:
        Journal(records[:-1])
        with pytest.raises(DataError, match="does not follow what is there"):
            Journal(records)


def test_a_new_attempt_starts_its_messages_anew() -> None:
    made = journal(
        leased(), sent(), delivered(), leased(2), sent(body=Y, fence=2), received(), received(1, Y, attempt=2)
    )
    assert made.undelivered() == (sent(body=Y, fence=2),)
    assert made.receive(A, INSURER, 2, 1, Y) is None
    with pytest.raises(RemoteProtocolError, match="of attempt 1 is not the next one"):
        made.receive(A, INSURER, 1, 2, X)


def test_the_same_message_may_go_again_another_one_not() -> None:
    made = journal(leased(), sent())
    assert made.send(A, 1, INSURER, 1, X) is None
    assert made.send(A, 1, INSURER, 2, Y) == sent(2, Y)
    with pytest.raises(LocalProtocolError, match="sent with another body"):
        made.send(A, 1, INSURER, 1, Y)
    with pytest.raises(LocalProtocolError, match="not the next"):
        made.send(A, 1, INSURER, 3, Y)
    with pytest.raises(LocalProtocolError, match="lease 2 is over, 1 holds"):
        made.send(A, 2, INSURER, 1, X)
    with pytest.raises(LocalProtocolError, match="no step"):
        made.send(StepId("score"), 1, INSURER, 1, X)
    made.apply(finished())
    assert made.send(A, 1, INSURER, 1, X) is None


def test_a_fenced_worker_can_do_nothing() -> None:
    made = journal(leased(), sent(), made_again := leased(2))
    assert made.lease(A).fence == made_again.fence + 1
    with pytest.raises(LocalProtocolError, match="lease 1 is over, 2 holds"):
        made.send(A, 1, INSURER, 1, X)


def test_the_same_message_comes_twice_another_one_is_evidence() -> None:
    made = journal(received())
    assert made.receive(A, INSURER, 1, 1, X) is None
    assert made.receive(A, INSURER, 1, 2, Y) == received(2, Y)
    with pytest.raises(RemoteProtocolError, match="came twice with different bodies"):
        made.receive(A, INSURER, 1, 1, Y)
    with pytest.raises(RemoteProtocolError, match="takes no part"):
        made.receive(A, MALLORY, 1, 1, X)
    with pytest.raises(LocalProtocolError, match="no step"):
        made.receive(StepId("score"), INSURER, 1, 1, X)


def test_lines_that_are_no_records_are_damage() -> None:
    for line in (b"", b"{}", b'{"record":"leased","step":"align","fence":0}', b'{"record":"x"}'):
        with pytest.raises(DataError, match="is not a record of a journal"):
            read_record(line, "line 1")
    for record in (*WHOLE, BEGAN, DONE):
        assert read_record(record.payload(), "line 1") == record


class JournalMachine(RuleBasedStateMachine):
    """One step's outbox and inbox against lists, with a crash (a replay of what was kept) at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [BEGAN.payload()]
        self.fence = 0
        self.out: list[str] = []
        self.arrived = 0
        self.into: tuple[int, list[str]] = (0, [])
        self.made = journal()

    def keep(self, record) -> None:
        self.lines.append(record.payload())
        self.made.apply(record)

    @rule()
    def crash(self) -> None:
        self.made = Journal(read_record(line, "line") for line in self.lines)

    @rule()
    def lease(self) -> None:
        self.keep(self.made.lease(A))
        self.fence, self.out, self.arrived = self.fence + 1, [], 0

    @rule(fence=st.integers(0, 2), sequence=st.integers(1, 4), body=st.sampled_from([X, Y]))
    def send(self, fence: int, sequence: int, body: str) -> None:
        fence = max(1, self.fence - fence)
        new = fence == self.fence and sequence == len(self.out) + 1
        known = fence == self.fence and self.out[sequence - 1 : sequence] == [body]
        if not (new or known):
            with pytest.raises(LocalProtocolError):
                self.made.send(A, fence, INSURER, sequence, body)
            return
        record = self.made.send(A, fence, INSURER, sequence, body)
        assert (record is not None) == new
        if record is not None:
            self.keep(record)
            self.out.append(body)

    @rule()
    def arrive(self) -> None:
        if self.out[self.arrived :]:
            self.arrived = len(self.out)
            self.keep(delivered(self.arrived, self.fence))

    @rule(attempt=st.integers(1, 3), sequence=st.integers(1, 4), body=st.sampled_from([X, Y]))
    def receive(self, attempt: int, sequence: int, body: str) -> None:
        newest, taken = self.into
        new = (attempt == newest and sequence == len(taken) + 1) or (attempt > newest and sequence == 1)
        known = attempt == newest and taken[sequence - 1 : sequence] == [body]
        if not (new or known):
            with pytest.raises(RemoteProtocolError):
                self.made.receive(A, INSURER, attempt, sequence, body)
            return
        record = self.made.receive(A, INSURER, attempt, sequence, body)
        assert (record is not None) == new
        if record is not None:
            self.keep(record)
            self.into = (attempt, [*(taken if attempt == newest else []), body])

    @invariant()
    def what_is_to_be_sent_again_is_what_did_not_arrive(self) -> None:
        found = [(record.sequence, record.body) for record in self.made.undelivered()]
        assert found == list(enumerate(self.out, 1))[self.arrived :]
        assert self.made.fence(A) == self.fence


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


class MarksMachine(RuleBasedStateMachine):
    """Marks against the rule that they stand for: each (attempt, sequence) once, in order, attempts only forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Marks()
        self.lines: list[bytes] = []
        self.taken: dict[str, list[tuple[int, int]]] = {}

    @rule(step=st.sampled_from(["align", "train"]), attempt=st.integers(1, 3), sequence=st.integers(1, 4))
    def message(self, step: str, attempt: int, sequence: int) -> None:
        taken = self.taken.setdefault(step, [])
        last = taken[-1] if taken else (0, 0)
        good = (attempt, sequence) in ((last[0], last[1] + 1), *((later, 1) for later in range(last[0] + 1, 4)))
        proof = Proof(
            grant=X, session=SessionId("s-1"), step=StepId(step), sender=INSURER, recipient=BANK, sequence=sequence,
            attempt=attempt, body=Y,
        )  # fmt: skip
        if (attempt, sequence) == last:
            assert self.marks.next(proof) is None
            with pytest.raises(RemoteProtocolError, match="repetition"):
                self.marks.next(proof.model_copy(update={"body": X}))
            return
        if not good:
            with pytest.raises(RemoteProtocolError, match="repetition"):
                self.marks.next(proof)
            return
        mark = self.marks.next(proof)
        self.lines.append(mark.payload())
        self.marks = self.marks.after(mark)
        with pytest.raises(DataError, match="contradict"):
            self.marks.after(mark)
        taken.append((attempt, sequence))

    @rule()
    def crash(self) -> None:
        self.marks = Marks()
        for line in self.lines:
            self.marks = self.marks.after(Mark.model_validate_json(line))

    @invariant()
    def nothing_twice(self) -> None:
        assert all(len(set(taken)) == len(taken) and sorted(taken) == taken for taken in self.taken.values())


TestMarks = MarksMachine.TestCase
TestMarks.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
