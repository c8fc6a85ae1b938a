"""Who takes part in a round: a draw from all clients with examples, which depends on the seed and the round alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import stream


class Cohort(Protocol):
    """A way to draw cohorts."""

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return who takes part, in the order in which updates are added up; ``sizes`` counts their examples."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """So many clients, each set of as many with the same probability.

    Raises:
        UsageError: ``size`` is not positive.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a cohort has at least one client, found {self.size}")

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return ``size`` clients that have examples, or all of those if there are not more."""
        filled = np.flatnonzero(np.asarray(sizes) > 0)
        rng = stream(seed, round_number, "cohort")
        chosen = filled[rng.choice(len(filled), min(self.size, len(filled)), replace=False)] if len(filled) else filled
        return [clients[i] for i in chosen.tolist()]


@dataclass(frozen=True, slots=True)
class Weighted:
    """So many clients without repetition, drawn in proportion to their numbers of examples.

    Raises:
        UsageError: ``size`` is not positive.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a cohort has at least one client, found {self.size}")

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return ``size`` clients that have examples, or all of those if there are not more.

        Source: P. Efraimidis, P. Spirakis, "Weighted Random Sampling with a Reservoir" (Information Processing Letters
        97, 2006): those with the greatest u^(1/w).
        """
        weights = np.asarray(sizes, np.float64)
        filled = np.flatnonzero(weights > 0)
        draws = np.log(stream(seed, round_number, "cohort").random(len(clients))[filled]) / weights[filled]
        chosen = filled[np.argsort(-draws, kind="stable")[: self.size]]
        return [clients[i] for i in chosen.tolist()]


@dataclass(frozen=True, slots=True)
class Poisson:
    """Every client by a coin of its own, with probability ``rate``: what the accounting of sampling assumes.

    A cohort may be empty, or larger than expected.

    Raises:
        UsageError: ``rate`` is not in (0, 1].
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError(f"a sampling rate lies above 0 and not above 1, found {self.rate}")

    def choose(self, clients: Sequence[ClientId], sizes: Sequence[int], round_number: int, seed: int) -> list[ClientId]:
        """Return those with examples whose coin says so."""
        coins = stream(seed, round_number, "cohort").random(len(clients))
        return [client for client, size, coin in zip(clients, sizes, coins, strict=True) if size and coin < self.rate]
