"""``CountNoise``: differential privacy of bins, by discrete Gaussian noise on every count they are made of.

A row adds one to one count of each column in each round, so that its greatest contribution has the L2 norm
√(columns). The server adds the noise to the sums over all clients before it looks at them: whatever it makes of them
and sends is private, at the ε of as many rounds of that mechanism. Counts up to ``THRESHOLD`` deviations are taken for
0: of the ranges that hold nothing, about one in 90,000 is then taken for one that does.

*Trust*: the server, which sees sums without noise (and each client's, but for secure aggregation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unseen.crypto.prg import Prg
from unseen.learners.horizontal.private.noise import fresh
from unseen.learners.horizontal.tables.exact import Integers
from unseen.privacy.epsilon import Meter
from unseen.privacy.events import DiscreteGaussian, Everyone, Relation, Spend, Unit
from unseen.privacy.mechanisms import discrete_gaussian

THRESHOLD = 4.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CountNoise:
    """The server's noise, and where it is accounted.

    Raises:
        PermissionDenied: A round would pass the budget; nothing is released.
    """

    run: str
    about: str
    """Whose rows."""
    meter: Meter = field(repr=False)
    prg: Prg = field(repr=False)
    """The server's secret; it is never sent or shown, and a run keeps it until it ends."""

    def spend(self, deviation: float, columns: int, rounds: int) -> Spend:
        """Return the fact that covers the first ``rounds`` rounds of counts."""
        return Spend(
            run=self.run,
            about=self.about,
            mechanism=DiscreteGaussian(noise_multiplier=deviation / math.sqrt(columns)),
            sampling=Everyone(),
            rounds=rounds,
            unit=Unit.EXAMPLE,
            relation=Relation.ADD_OR_REMOVE,
        )

    def noisy(self, counts: Sequence[Integers], deviation: float, round_number: int) -> list[Integers]:
        """Return the counts of all columns in a round (from 0 on), with noise; small ones are 0."""
        self.meter.spend(self.spend(deviation, len(counts), round_number + 1))
        whole = np.concatenate(counts)
        prg = fresh(self.prg, "dp/bins", (self.run, round_number), whole)
        whole = whole + discrete_gaussian(prg, deviation**2, len(whole))
        whole[whole <= THRESHOLD * deviation] = 0
        return np.split(whole, np.cumsum([len(own) for own in counts])[:-1])
