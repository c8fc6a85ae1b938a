"""What a run is told and tells: whose examples it learns from, what each round did, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import State


class Clients(Protocol):
    """Where the clients' examples come from; ``data.federated`` has them."""

    @property
    def ids(self) -> Sequence[ClientId]:
        """All clients, in one order."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """How many examples each has."""
        ...

    def client(self, name: ClientId) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return one client's inputs and labels."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    number: int
    """The first round is 1."""
    cohort: int
    dropped: int
    training: Mapping[str, float]
    """Means over the cohort's examples, as they were trained on."""
    test: Mapping[str, float] = field(default_factory=dict)
    """Of the model after the round; empty if it was not evaluated."""
    seconds: float = 0.0
    bytes_up: int = 0
    """Of all clients' messages; in a simulation, what they would have."""
    bytes_down: int = 0
    clock: float = 0.0
    """Simulated seconds from the beginning of the run to the end of the round; 0 if clients have no pace."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Where a simulation stands."""

    state: State
    history: tuple[Round, ...]

    @property
    def test(self) -> Mapping[str, float]:
        """The metrics of the last evaluation.

        Raises:
            UsageError: Nothing has been evaluated.
        """
        for one in reversed(self.history):
            if one.test:
                return one.test
        raise UsageError("no round has been evaluated: give the simulation examples to test on")
