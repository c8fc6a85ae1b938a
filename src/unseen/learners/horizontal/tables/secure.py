"""``SecureExactSum``: the exact sums of tables' learners as a sum of words, which a protocol can take.

The limbs of ``exact`` are the words, as they are: no clipping, no rounding. The server learns the sums over a cohort,
in limbs, and who took part. A client whose words are no limbs changes sums as it likes, as it could by inventing rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.process import Aggregate, Update
from unseen.learners.horizontal.tables.exact import ExactSum, Limbs
from unseen.protocols.secure_aggregation.port import MIN_CONTRIBUTORS, Contribution, Words, quorum_of

_BITS = 24
"""Sums of limbs are below 2^23."""


class _Layout(Protocol):
    """The lengths of an update's ``delta`` and of its extra vectors, these by name in ascending order."""

    @property
    def size(self) -> int: ...

    @property
    def extra(self) -> tuple[tuple[str, int], ...]: ...


@dataclass(frozen=True, slots=True)
class SecureExactSum:
    """An aggregator: the sums of all limbs, of which a protocol shows the server nothing else.

    Raises:
        UsageError: ``least`` is below 3 or above ``clients``.
    """

    clients: int
    """In a cohort, at most."""
    least: int | None = None
    """A sum over fewer is not revealed; ⌊2·clients/3⌋ + 1 if ``None``, 3 is the lowest."""
    scheme: str = "secagg_plus"
    """Which protocol of ``protocols.secure_aggregation`` takes the sum: it or ``rlwe``."""

    def __post_init__(self) -> None:
        if not MIN_CONTRIBUTORS <= self.fewest <= self.clients:
            raise UsageError(
                f"a secure sum is revealed of at least {MIN_CONTRIBUTORS} and at most {self.clients} clients, the "
                f"number that the learner was made for; found least = {self.fewest}"
            )

    @property
    def bits(self) -> int:
        """Sums are taken modulo 2^bits."""
        return _BITS

    @property
    def fewest(self) -> int:
        """How many clients a sum has at least."""
        return quorum_of(self.clients) if self.least is None else self.least

    @property
    def most(self) -> int:
        """How many clients a sum may have."""
        return self.clients

    def encode(self, update: Update, prg: Prg) -> Contribution:
        """Return the words of an update, its ``delta`` first, then its extra vectors by name; nothing is drawn."""
        del prg
        vectors = [update.delta, *(update.extra[name] for name in sorted(update.extra))]
        return Contribution(np.concatenate(vectors).astype(np.uint32), 1)

    def decode(self, words: Words, weight: int, clients: int, layout: _Layout) -> Aggregate:
        """Return the sums of so many clients.

        Raises:
            RemoteProtocolError: They are none that honest clients can have.
        """
        limit = clients << Limbs(self.clients, 2).width
        if weight != clients or (words >= limit).any() or int(words[0]) != clients:
            raise RemoteProtocolError(
                f"the sum over {clients} clients holds numbers that are no sums of limbs below {limit}: one of them "
                "cheats, or runs another process"
            )
        sums = words.astype(np.float32)
        ends = np.cumsum([layout.size, *(length for _, length in layout.extra)])
        delta, *extra = np.split(sums, ends)[:-1]
        named = {name: vector for (name, _), vector in zip(layout.extra, extra, strict=True)}
        return Aggregate(delta, clients, float(clients), named)

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the sums over a cohort, as a protocol would give them.

        Raises:
            UsageError: They are too few.
            RemoteProtocolError: As ``ExactSum``.
        """
        if len(updates) < self.fewest:
            raise UsageError(f"a sum over {len(updates)} clients was asked for, {self.fewest} are agreed at least")
        return ExactSum(self.clients)(updates)
