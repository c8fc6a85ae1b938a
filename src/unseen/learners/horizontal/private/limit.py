"""Parts of a process that cost privacy: at a client by every answer that it gives, at a server by every round.

They say so themselves; whoever plays a process finds them wherever they are, such as inside of a compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from unseen.errors import PermissionDenied
from unseen.learners.horizontal.process import Assignment, Process
from unseen.privacy.epsilon import Meter, Unlimited
from unseen.privacy.events import Everyone, Mechanism, Relation, Spend, Unit


@runtime_checkable
class Limited(Protocol):
    """A client's part of which every answer costs ε, whoever asks for it and whatever the round is called."""

    @property
    def answers(self) -> int:
        """How many the client's ε allows in all."""
        ...

    def spend(self, run: str, client: str, rounds: int) -> Spend:
        """Return the fact that a client has answered ``rounds`` times in a run."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A server's part that charges every round to a budget."""

    @property
    def meter(self) -> Meter:
        """What is asked before a round is released."""
        ...


def answered(mechanism: Mechanism, run: str, client: str, rounds: int) -> Spend:
    """Return the fact that a client has answered ``rounds`` times with noise, against those who know that it did."""
    return Spend(
        run=run,
        about=client,
        mechanism=mechanism,
        sampling=Everyone(),
        rounds=rounds,
        unit=Unit.CLIENT,
        relation=Relation.REPLACE,
    )


def check_round(assignment: Assignment, most: int) -> None:
    """Pass if a client's ε allows that it answers a round; raises ``PermissionDenied`` else."""
    number = assignment.broadcast.round
    if number >= most:
        raise PermissionDenied(
            f"client {assignment.client}: round {number + 1} is beyond the {most} that its ε allows: use more noise"
        )


def limited_parts(process: Process) -> tuple[Limited, ...]:
    """Return the parts of a process of which every answer costs its client something."""
    return tuple(part for part in parts_of(process) if isinstance(part, Limited))


def is_metered(process: Process) -> bool:
    """Return whether a process charges its rounds to a budget that can be passed."""
    return any(isinstance(part, Metered) and not isinstance(part.meter, Unlimited) for part in parts_of(process))


def parts_of(part: object) -> Iterator[object]:
    """Yield a part of a process, or all of one, and whatever it is made of: fields, arguments, entries."""
    yield part
    if is_dataclass(part) and not isinstance(part, type):
        inner = [getattr(part, field.name) for field in fields(part)]
    elif isinstance(part, partial):
        inner = [part.func, *part.args, *part.keywords.values()]
    elif isinstance(part, Mapping):
        inner = list(part.values())
    else:
        inner = list(part) if isinstance(part, tuple | list) else []
    for one in inner:
        yield from parts_of(one)
