"""Cohorts that accounting can rely on: drawn by secret coins, as the stated sampling says and no other way.

That few clients take part in a round makes a run more private only for those who do not know which. So the coins come
from a secret generator, not from the run's seed, which stands in its settings. Shuffling clients and taking them in
turn is *not* Poisson sampling, and calling it so understates ε by several times (L. Chua and others, "How Private are
DP-SGD Implementations?", ICML 2024).

All of them have the form of the cohorts of ``rounds``: ``choose(clients, sizes, round, seed)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.privacy import events

_ONE = 1 << 64


@dataclass(frozen=True, slots=True)
class PoissonCohort:
    """Every client by a coin of its own; a cohort may be empty, and is to be played then as well.

    Raises:
        UsageError: ``rate`` is not above 0 and at most 1.
    """

    rate: float
    """Rounded down to a multiple of 2^-64."""
    prg: Prg = field(repr=False)

    def __post_init__(self) -> None:
        events.Poisson(rate=self.rate)

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return those whose coin of the round says so."""
        del sizes, seed
        chosen = coins(self.prg.derive("dp/cohort", str(round_number).encode()), self.rate, len(clients))
        return [clients[i] for i in chosen]

    def sampling(self) -> events.Poisson:
        """Return what is to be stated."""
        return events.Poisson(rate=self.rate)


@dataclass(frozen=True, slots=True)
class FixedCohort:
    """So many clients, each set of as many with the same probability: its ε is larger than that of Poisson sampling.

    Raises:
        UsageError: ``size`` is not positive.
    """

    size: int
    prg: Prg = field(repr=False)

    def __post_init__(self) -> None:
        _check_size(self.size)

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return ``size`` clients.

        Raises:
            UsageError: There are not as many.
        """
        del sizes, seed
        _check_enough(len(clients), self.size)
        order = self.prg.derive("dp/cohort", str(round_number).encode()).permutation(len(clients))
        return [clients[i] for i in order[: self.size].tolist()]

    def sampling(self, population: int) -> events.Fixed:
        """Return what is to be stated."""
        return events.Fixed(size=self.size, population=population)


@dataclass(frozen=True, slots=True)
class EpochCohort:
    """All clients in turn, in an order that is drawn anew for each epoch: what DP-FTRL needs, and nothing to amplify.

    An epoch has ⌊clients/``size``⌋ rounds; who is left over in one may come in the next.

    Raises:
        UsageError: ``size`` is not positive.
    """

    size: int
    prg: Prg = field(repr=False)

    def __post_init__(self) -> None:
        _check_size(self.size)

    def rounds(self, population: int) -> int:
        """Return how many rounds an epoch has: the steps of a tree.

        Raises:
            UsageError: There are fewer clients than in one cohort.
        """
        _check_enough(population, self.size)
        return population // self.size

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return the next ``size`` clients of the epoch; none of them comes twice in it."""
        del sizes, seed
        epoch, turn = divmod(round_number, self.rounds(len(clients)))
        order = self.prg.derive("dp/epoch", str(epoch).encode()).permutation(len(clients))
        return [clients[i] for i in order[turn * self.size : (turn + 1) * self.size].tolist()]

    def sampling(self) -> events.Everyone:
        """Return what is to be stated."""
        return events.Everyone()


@dataclass(frozen=True, slots=True)
class KnownCohort:
    """Cohorts that are no secret, however they are drawn: a secure round names each member to all others."""

    drawn: object


def check_stated(stated: events.Sampling, cohort: object, population: int) -> None:
    """Refuse cohorts that are not drawn as a run states.

    Args:
        stated: The sampling that the accounting assumes.
        cohort: What draws the run's cohorts.
        population: All clients.

    Raises:
        UsageError: They are drawn in another way, or by a seed that is not secret; ``Everyone`` allows any.
    """
    if isinstance(stated, events.Everyone):
        return
    if isinstance(cohort, KnownCohort):
        raise UsageError(
            f"the run states the privacy of {stated!r}, and its cohorts are no secret: secure rounds name them to the "
            "server and to all their members, for whom sampling hides nothing; state Everyone(), with more noise"
        )
    drawn: events.Sampling | None = None
    if isinstance(cohort, PoissonCohort):
        drawn = cohort.sampling()
    elif isinstance(cohort, FixedCohort):
        drawn = cohort.sampling(population)
    if drawn != stated:
        kind = "PoissonCohort" if isinstance(stated, events.Poisson) else "FixedCohort"
        raise UsageError(
            f"the run states the privacy of {stated!r}, its cohorts are drawn by {cohort!r} from {population} clients: "
            f"draw them by private.sampling.{kind} with the same numbers, whose coins are secret"
        )


def coins(prg: Prg, rate: float, count: int) -> list[int]:
    """Return which of ``count`` independent coins of probability ``rate``, rounded down to 2^-64, fall."""
    limit = int(rate * _ONE)
    if limit == _ONE:
        return list(range(count))
    return [int(i) for i in (prg.words(count) < limit).nonzero()[0]]


def _check_size(size: int) -> None:
    if size < 1:
        raise UsageError(f"a cohort has at least one client, found {size}")


def _check_enough(population: int, size: int) -> None:
    if population < size:
        raise UsageError(f"a cohort of {size} clients cannot be drawn from {population}: make it smaller")
