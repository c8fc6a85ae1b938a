"""``Charged``: rounds in which clients add the noise are charged to a budget as well, where they are played."""

from __future__ import annotations

from dataclasses import dataclass

from unseen.errors import UsageError
from unseen.learners.horizontal.private.sampling import EpochCohort
from unseen.learners.horizontal.process import Aggregate, Finalizer, Process, State
from unseen.privacy.epsilon import Meter
from unseen.privacy.events import Spend


@dataclass(frozen=True, slots=True)
class Charged:
    """A finalizer that charges what rounds may have spent on one client's data, where clients add the noise.

    Raises:
        PermissionDenied: The round would pass the budget; it does not count.
    """

    inner: Finalizer
    turn: Spend
    """What a client spends when it takes part once."""
    epoch: int
    """In so many rounds it takes part once at most."""
    meter: Meter
    size: int | None = None
    """Of cohorts that have to come in turn; ``None``: any will do."""

    def check_cohort(self, cohort: object, population: int) -> None:
        """Accept cohorts in which clients come as often as was stated; raises ``UsageError`` else."""
        if self.size is not None and not (isinstance(cohort, EpochCohort) and cohort.size == self.size):
            raise UsageError(
                f"the run counts on clients that come in turn, {self.size} in a round, and cohorts are drawn by "
                f"{cohort!r} from {population} clients: draw them by private.sampling.EpochCohort"
            )

    def charge(self, rounds: int) -> None:
        """Charge what so many rounds in all may have spent."""
        self.meter.spend(spent_after(self.turn, self.epoch, rounds))

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        self.charge(state.round + 1)
        return self.inner(state, aggregate)


def charge(process: Process, rounds: int) -> None:
    """Charge so many rounds of a process whose finalizer nobody calls, if it charges any; raises as ``Charged``."""
    if isinstance(process.finalizer, Charged):
        process.finalizer.charge(rounds)


def spent_after(turn: Spend, epoch: int, rounds: int) -> Spend:
    """Return what a client has spent at most after so many rounds."""
    return turn.after(turn.rounds * -(-rounds // epoch))
