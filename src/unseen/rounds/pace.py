"""How long simulated clients take, which of them are lost or late, and what time it is in the simulation.

Nobody waits for it: the times decide who is heard, and are added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import stream


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a client takes for a training: (fixed + per_example · examples) · e^(spread · z), z normal.

    Times of devices are spread about log-normally (J. Nguyen et al., "Federated Learning with Buffered Asynchronous
    Aggregation", AISTATS 2022, section 6, take a half-normal one; a spread of 1 makes one in six 2.7 times slower).

    Raises:
        UsageError: A number is negative or not finite, or all times would be 0.
    """

    fixed: float = 1.0
    per_example: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.fixed, self.per_example, self.spread)
        if not all(0 <= number < math.inf for number in numbers) or not self.fixed + self.per_example > 0:
            raise UsageError(f"a pace has seconds above 0, and a spread that is not negative, found {self}")

    def seconds(self, seed: int, number: int, client: ClientId, examples: int) -> float:
        """Return the time of training ``number`` (a round, or a ticket) of a client with so many examples."""
        usual = self.fixed + self.per_example * examples
        if not self.spread:
            return usual
        return usual * math.exp(self.spread * float(stream(seed, number, client, "pace").standard_normal()))


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong with clients in a round, and how long the server waits for them.

    Raises:
        UsageError: A number is not what it has to be.
    """

    drop: float = 0.0
    """Part of the clients that train and are not heard of again."""
    pace: Pace | None = None
    """Without one nobody is late."""
    deadline: float | None = None
    """Simulated seconds after which updates come too late."""
    enough: int | None = None
    """The server goes on with the first so many updates: with a cohort that is larger it has not to wait for all."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise UsageError(f"the part of clients that drop out lies between 0 and 1, found {self.drop}")
        if self.pace is None and (self.deadline is not None or self.enough is not None):
            raise UsageError("who comes first or too late is known with a pace only: give the faults one")
        if (self.deadline is not None and not self.deadline > 0) or (self.enough is not None and self.enough < 1):
            raise UsageError(f"a deadline is above 0, and enough are one at least, found {self}")

    def drops(self, seed: int, round_number: int, client: ClientId) -> bool:
        """Return whether a client is lost in a round."""
        return self.drop > 0 and bool(stream(seed, round_number, client, "drop").random() < self.drop)

    def heard(
        self, cohort: Sequence[ClientId], sizes: Mapping[ClientId, int], round_number: int, seed: int
    ) -> tuple[frozenset[ClientId], float]:
        """Return whose updates the server has when the round ends, and how many simulated seconds it took.

        It waits for those that are lost until the deadline, or, if there is none, until the last other one.
        """
        staying = [client for client in cohort if not self.drops(seed, round_number, client)]
        if self.pace is None:
            return frozenset(staying), 0.0
        pace, deadline = self.pace, math.inf if self.deadline is None else self.deadline
        arrivals = sorted((pace.seconds(seed, round_number, one, sizes[one]), one) for one in staying)
        times = [(time, client) for time, client in arrivals if time <= deadline][: self.enough]
        last = times[-1][0] if times else 0.0
        complete = len(times) in {len(cohort), self.enough}
        return frozenset(client for _, client in times), last if complete or deadline == math.inf else deadline
