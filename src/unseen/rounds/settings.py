"""How a deployed run is served, and how it is attended."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from unseen.clock import Clock, SystemClock
from unseen.errors import UsageError
from unseen.ids import ClientId, JobId, PartyId
from unseen.learners.horizontal.private.limit import is_metered
from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.sums import SCHEMES, SumAggregator
from unseen.rounds.cohort import Cohort, Uniform
from unseen.rounds.events import Watch
from unseen.rounds.identities import Signer, check_roster


def _no_sizes() -> dict[ClientId, int]:
    return {}


def _no_keys() -> dict[PartyId, bytes]:
    return {}


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a run is served; ``cohort``, ``seed`` and ``sizes`` are those that change its result.

    Raises:
        UsageError: A number is not what it has to be.
    """

    run: JobId
    """The same name at the server and all clients."""
    cohort: Cohort = field(default_factory=lambda: Uniform(10))
    """Draws who takes part, from all clients that the channel leads to."""
    seed: int = 0
    sizes: Mapping[ClientId, int] = field(default_factory=_no_sizes)
    """How many examples clients have, as agreed, for cohorts that are drawn in proportion; 1 if it is not said."""
    minimum: int = 1
    """A round with fewer answers does not count."""
    enough: int | None = None
    """With so many answers a round ends, and later ones are dropped; all of the cohort if ``None``.

    A cohort that is larger by a fifth costs a fifth more training, and does without the slowest fifth. Refused where
    privacy rests on who is drawn: who is slow depends on who else is there.
    """
    deadline: float = 600.0
    """Seconds after which an attempt at a round ends."""
    attempts: int = 3
    """How often a round is tried before the run ends with an error."""
    folder: Path | None = None
    """Where the run is kept; nowhere if ``None``: then it is lost with its server."""
    evaluate_every: int = 1
    phase_deadline: float = 120.0
    """Seconds after which a phase of the sum of a secure round ends."""
    roster: Mapping[PartyId, bytes] = field(default_factory=_no_keys, repr=False)
    """The public keys of all clients, for secure rounds; not needed by scheme ``rlwe``."""
    held_bytes: int = 1 << 30
    """Updates beyond so many bytes wait in a file for their aggregation."""
    watch: Watch | None = field(default=None, repr=False)
    """Is told what happens in between."""
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        faults = {
            "minimum is at least 1": self.minimum < 1,
            "enough is not below minimum": self.enough is not None and self.enough < self.minimum,
            "deadline and phase_deadline are above 0": not min(self.deadline, self.phase_deadline) > 0,
            "attempts and evaluate_every are at least 1": min(self.attempts, self.evaluate_every) < 1,
            "held_bytes is not negative": self.held_bytes < 0,
        }
        if found := [fault for fault, present in faults.items() if present]:
            raise UsageError(f"run {self.run} cannot be served so: {', '.join(found)}")
        check_roster(self.roster)

    def check_folder(self, process: Process) -> None:
        """Pass if what a process spends of a budget is not forgotten when the server ends.

        Raises:
            UsageError: There is no folder for it.
        """
        if self.folder is None and is_metered(process):
            raise UsageError(
                f"run {self.run} spends a budget of privacy, and has no folder: a server that is started again would "
                "have forgotten what it has spent; give it one (ServeSettings.folder)"
            )

    def check_keys(self, clients: Set[PartyId], sums: SumAggregator | None) -> None:
        """Pass if the roster has what a run needs that takes such sums, or none.

        Raises:
            UsageError: A client has no key.
        """
        missing = sorted(clients - set(self.roster))
        if sums is not None and sums.scheme == SCHEMES[0] and missing:
            raise UsageError(
                f"run {self.run} takes sums, and its roster has no key of {', '.join(missing)}: give the server and "
                "all clients the same roster (rounds.identities)"
            )


@dataclass(frozen=True, slots=True)
class AttendSettings:
    """How a client attends a run.

    Raises:
        UsageError: A number is not what it has to be.
    """

    run: JobId
    """The same name at the server and all clients."""
    seed: int = field(repr=False)
    """Of the client's random numbers; the same after a restart."""
    folder: Path | None = None
    """Where memory and the last answer are kept; nowhere if ``None``: then both are lost with the process.

    Secure rounds need one: a client that forgets a sum could be added up twice.
    """
    budget: Path | None = None
    """Where answers are counted that cost this client ε, in one place for all runs on the same examples; by default in
    ``folder``, which is for one run."""
    patience: float = 600.0
    """For how many seconds the server may be away."""
    silence: float = 7200.0
    """For how many seconds it may be connected and say nothing; it speaks at least once in its deadline for a round."""
    signer: Signer | None = None
    """For secure rounds: this client's key, and those of all others."""
    watch: Watch | None = field(default=None, repr=False)
    """Is told what happens."""
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if not (self.patience >= 0 and self.silence > 0):
            raise UsageError(f"run {self.run}: patience is not negative and silence above 0, found {self}")
        if self.budget is not None and self.folder is None:
            raise UsageError(f"run {self.run}: a client with a budget needs a folder for its answers as well")
