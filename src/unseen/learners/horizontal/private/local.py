"""Local differential privacy: every client adds Gaussian noise to its own update, and trusts nobody.

The noise on a mean of n updates is √n times that of a trusted server. Whoever sees an update knows whose it is, so
sampling hides nothing, and any update could have been another one: the relation is ``replace``.

Source: J. Duchi, M. Jordan, M. Wainwright, "Local Privacy and Statistical Minimax Rates", FOCS 2013 (the model);
C. Dwork, A. Roth, "The Algorithmic Foundations of Differential Privacy", 2014, appendix A (the Gaussian mechanism).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.learners.horizontal.private.clip import bare, check_bound, clipped, finite_or_nothing
from unseen.learners.horizontal.private.limit import answered, check_round
from unseen.learners.horizontal.private.noise import fresh
from unseen.learners.horizontal.process import Assignment, Update
from unseen.privacy.events import Gaussian, Spend
from unseen.privacy.mechanisms import noisy


@dataclass(frozen=True, slots=True)
class LocalNoise:
    """A postprocessor: clips, adds noise, and takes off whatever else the update says about its client.

    Raises:
        UsageError: A number is not what it has to be.
    """

    bound: float
    noise_multiplier: float
    """The noise has this many times ``bound`` as its deviation, in every coordinate."""
    rounds: int
    """How many answers a client's ε allows (``accounting.affordable``): no round beyond so many is answered, and a
    deployed client counts its answers whatever the server calls the rounds (``rounds.answered``)."""
    prg: Prg = field(repr=False)
    """The client's own secret; a simulation has one for all, and each client a stream of it."""

    def __post_init__(self) -> None:
        check_bound(self.bound)
        if not self.noise_multiplier > 0 or self.rounds < 1:
            raise UsageError(f"local noise has a multiplier above 0, and at least one round, found {self}")

    @property
    def answers(self) -> int:
        """How many the client's ε allows."""
        return self.rounds

    def spend(self, run: str, client: str, rounds: int) -> Spend:
        """Return the fact that a client has taken part in ``rounds`` rounds."""
        return answered(Gaussian(noise_multiplier=self.noise_multiplier), run, client, rounds)

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return what may leave the client; of a training that diverged, noise alone.

        Raises:
            PermissionDenied: The round is beyond those that the client's ε allows.
        """
        check_round(assignment, self.rounds)
        client, number = assignment.client, assignment.broadcast.round
        delta, _ = clipped(finite_or_nothing(update.delta), self.bound, client)
        values = delta.astype(np.float64)
        private = noisy(
            values, self.noise_multiplier * self.bound, fresh(self.prg, "dp/local", (client, number), values)
        )
        return bare(update, private.astype(np.float32), client)
