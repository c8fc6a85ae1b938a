"""Where one party's side of a job stands: leases, messages sent and received, results, as records that are replayed.

A record is kept before what it announces is done: ``sent`` before the message leaves, ``received`` before it is acted
upon. After a crash the journal says what may have left, so that the *same bytes* are sent again; a message computed
anew under the same number is refused, since two messages under one mask tell what the mask hides.

Leases are fencing tokens, not locks: a step is leased under a number that only grows. A worker that was thought dead
and comes back holds an old number, and can neither send nor finish any more. The number is the ``attempt`` of the
proofs that it sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from unseen.errors import DataError, LocalProtocolError, RemoteProtocolError
from unseen.ids import JobId, PartyId, StepId
from unseen.privacy.lines import read_line
from unseen.trust.audit import Code
from unseen.trust.envelope import Part
from unseen.trust.keys import Digest

Number = Annotated[int, Field(ge=1, lt=1 << 62)]


class Began(Part):
    """The job was taken on: which steps it has, and who else takes part."""

    record: Literal["began"] = "began"
    job: JobId
    steps: Annotated[tuple[StepId, ...], Field(min_length=1)]
    peers: tuple[PartyId, ...]


class Leased(Part):
    """A worker works on a step from here on; whoever did before is fenced off."""

    record: Literal["leased"] = "leased"
    step: StepId
    fence: Number


class Sent(Part):
    """A message with this body is about to leave."""

    record: Literal["sent"] = "sent"
    step: StepId
    fence: Number
    to: PartyId
    sequence: Number
    body: Digest


class Delivered(Part):
    """The peer has everything up to this message."""

    record: Literal["delivered"] = "delivered"
    step: StepId
    fence: Number
    to: PartyId
    sequence: Number


class Received(Part):
    """A message with this body is about to be acted upon."""

    record: Literal["received"] = "received"
    step: StepId
    sender: PartyId
    attempt: Number
    sequence: Number
    body: Digest


class Finished(Part):
    """The step's results are kept under this digest."""

    record: Literal["finished"] = "finished"
    step: StepId
    fence: Number
    result: Digest


class Ended(Part):
    """The job is over; ``by`` is who gave it up, if somebody did."""

    record: Literal["ended"] = "ended"
    code: Literal[Code.DONE, Code.FAILED, Code.CANCELLED]
    by: PartyId | None = None


JobRecord: TypeAlias = Began | Leased | Sent | Delivered | Received | Finished | Ended
_RECORD: TypeAdapter[JobRecord] = TypeAdapter(Annotated[JobRecord, Field(discriminator="record")])


def read_record(line: bytes, where: str) -> JobRecord:
    """Return the record in a line; ``where`` names it in messages.

    Raises:
        DataError: It is none.
    """
    return read_line(_RECORD, line, where, "a record of a journal")


@dataclass(slots=True)
class _Step:
    fence: int = 0
    result: str | None = None
    out: dict[PartyId, list[str]] = field(default_factory=dict)
    """What the present attempt sent, in order."""
    delivered: dict[PartyId, int] = field(default_factory=dict)
    into: dict[PartyId, tuple[int, list[str]]] = field(default_factory=dict)
    """Sender → its newest attempt and what came of it, in order."""


class Journal:
    """The state that records add up to. Methods named as doings return the record to keep, and ``apply`` takes it.

    Args:
        records: What was kept so far.

    Raises:
        DataError: The records contradict each other.
    """

    def __init__(self, records: Iterable[JobRecord] = ()) -> None:
        self._steps: dict[StepId, _Step] = {}
        self._began: Began | None = None
        self.ended: Ended | None = None
        for record in records:
            self.apply(record)

    def apply(self, record: JobRecord) -> None:
        """Take a record that is kept.

        Raises:
            DataError: It does not fit what is there: the file is damaged, or was not written by this journal.
        """
        try:
            self._check(record)
        except (LocalProtocolError, RemoteProtocolError) as error:
            raise DataError(f"journal: {record.record} does not follow what is there: {error}") from error
        self._take(record)

    # --- what may be done ---------------------------------------------------------------------------------------------

    def lease(self, step: StepId) -> Leased:
        """Return the record of a new attempt at a step."""
        return Leased(step=step, fence=self._at(step).fence + 1)

    def send(self, step: StepId, fence: int, to: PartyId, sequence: int, body: str) -> Sent | None:
        """Return the record to keep before a message leaves; ``None`` if it is there, and the message may go again.

        Raises:
            LocalProtocolError: Another body was sent under this number, or the worker is fenced off.
        """
        sent = self._at(step).out.get(to, [])
        record = Sent(step=step, fence=fence, to=to, sequence=sequence, body=body)
        if fence == self._at(step).fence and sequence <= len(sent):
            if sent[sequence - 1] != body:
                raise LocalProtocolError(f"step {step}: message {sequence} to {to} was sent with another body")
            return None
        self._check(record)
        return record

    def receive(self, step: StepId, sender: PartyId, attempt: int, sequence: int, body: str) -> Received | None:
        """Return the record to keep before a message is acted upon; ``None`` if it was taken before.

        Raises:
            RemoteProtocolError: It is not the next one, its attempt is over, or it differs from what was taken.
        """
        newest, taken = self._at(step).into.get(sender, (0, []))
        record = Received(step=step, sender=sender, attempt=attempt, sequence=sequence, body=body)
        if attempt == newest and sequence <= len(taken):
            if taken[sequence - 1] != body:
                raise RemoteProtocolError(f"{sender}, step {step}: message {sequence} came twice with different bodies")
            return None
        self._check(record)
        return record

    # --- where it stands ---------------------------------------------------------------------------------------------

    @property
    def results(self) -> Mapping[StepId, str]:
        """The digests of what finished steps left."""
        return {step: state.result for step, state in self._steps.items() if state.result is not None}

    @property
    def open_steps(self) -> tuple[StepId, ...]:
        """Steps that are not finished, in their order."""
        return tuple(step for step, state in self._steps.items() if state.result is None)

    def fence(self, step: StepId) -> int:
        """Return the number of the present attempt; 0 before the first one."""
        return self._at(step).fence

    def undelivered(self) -> tuple[Sent, ...]:
        """Return what has to be sent again, unchanged, since nobody said that it arrived."""
        return tuple(
            Sent(step=step, fence=state.fence, to=to, sequence=number, body=body)
            for step, state in self._steps.items()
            for to, bodies in state.out.items()
            for number, body in enumerate(bodies, 1)
            if number > state.delivered.get(to, 0)
        )

    # --- rules -------------------------------------------------------------------------------------------------------

    def _at(self, step: StepId) -> _Step:
        if step not in self._steps:
            raise LocalProtocolError(f"the job has no step {step}")
        return self._steps[step]

    def _check(self, record: JobRecord) -> None:
        if self.ended is not None:
            raise LocalProtocolError("the job is over")
        if isinstance(record, Began) != (self._began is None):
            raise LocalProtocolError("a job begins once, before anything else")
        if not isinstance(record, Began | Ended):
            self._check_step(record)
        if isinstance(record, Ended) and record.code is Code.DONE and self.open_steps:
            raise LocalProtocolError(f"steps are open: {', '.join(self.open_steps)}")

    def _check_step(self, record: Leased | Sent | Delivered | Received | Finished) -> None:
        state = self._at(record.step)
        if isinstance(record, Received):
            self._check_received(record, state)
            return
        if isinstance(record, Leased):
            if state.result is not None or record.fence <= state.fence:
                raise LocalProtocolError(f"step {record.step}: finished, or lease {record.fence} is not a new one")
            return
        if record.fence != state.fence:
            raise LocalProtocolError(f"step {record.step}: lease {record.fence} is over, {state.fence} holds")
        if isinstance(record, Finished):
            if state.result is not None:
                raise LocalProtocolError(f"step {record.step}: it is finished")
            return
        self._check_outbox(record, state)

    def _check_outbox(self, record: Sent | Delivered, state: _Step) -> None:
        self._check_peer(record.to)
        sent = len(state.out.get(record.to, []))
        if isinstance(record, Sent):
            if state.result is not None or record.sequence != sent + 1:
                raise LocalProtocolError(f"step {record.step}: finished, or message {record.sequence} is not the next")
        elif not state.delivered.get(record.to, 0) < record.sequence <= sent:
            raise LocalProtocolError(f"step {record.step}: message {record.sequence} was not sent, or had arrived")

    def _check_received(self, record: Received, state: _Step) -> None:
        self._check_peer(record.sender)
        newest, taken = state.into.get(record.sender, (0, []))
        follows = record.attempt == newest and record.sequence == len(taken) + 1
        if not follows and not (record.attempt > newest and record.sequence == 1):
            raise RemoteProtocolError(
                f"{record.sender}, step {record.step}: message {record.sequence} of attempt {record.attempt} is not "
                f"the next one after {len(taken)} of attempt {newest}"
            )

    def _check_peer(self, party: PartyId) -> None:
        if self._began is None or party not in self._began.peers:
            raise RemoteProtocolError(f"{party} takes no part in the job")

    # --- effects -----------------------------------------------------------------------------------------------------

    def _take(self, record: JobRecord) -> None:
        match record:
            case Began():
                self._began = record
                self._steps = {step: _Step() for step in record.steps}
            case Ended():
                self.ended = record
            case Leased():
                state = self._steps[record.step]
                state.fence, state.out, state.delivered = record.fence, {}, {}
            case Sent():
                self._steps[record.step].out.setdefault(record.to, []).append(record.body)
            case Delivered():
                self._steps[record.step].delivered[record.to] = record.sequence
            case Finished():
                self._steps[record.step].result = record.result
            case _:
                into = self._steps[record.step].into
                newest, taken = into.get(record.sender, (0, []))
                into[record.sender] = (record.attempt, [*(taken if record.attempt == newest else ()), record.body])
