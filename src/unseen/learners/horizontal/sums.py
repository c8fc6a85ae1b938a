"""Aggregators that need one sum of words and nothing else: what secure aggregation can take the place of.

A ``SumAggregator`` says how an update becomes exact words modulo 2^bits, and what a sum of such words means. Whoever
adds the words up, a protocol between real clients or ``total_of`` in a simulation, ends with the same bits. Of one
client's update nobody but itself learns more than its ``Layout``: which vectors and metrics it has, and their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.process import Aggregate, Update
from unseen.protocols.secure_aggregation.port import MIN_CONTRIBUTORS, Contribution, Words, reduce_modulo

SCHEMES = ("secagg_plus", "rlwe")
"""Schemes of ``protocols.secure_aggregation`` that give the total to the server alone."""
_SIMULATED = Prg(b"unseen: nothing in a simulation ")
"""Where nobody has secrets, random words follow from what is rounded."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the words of an update are, in this order: its difference, its extra vectors and its metrics, by name."""

    size: int
    extra: tuple[tuple[str, int], ...] = ()
    """Names and lengths, in ascending order of the names."""
    metrics: tuple[str, ...] = ()

    @classmethod
    def of(cls, update: Update) -> Layout:
        """Return the layout of an update."""
        extra = tuple((name, len(update.extra[name])) for name in sorted(update.extra))
        return cls(len(update.delta), extra, tuple(sorted(update.metrics)))

    @property
    def length(self) -> int:
        """Words in all."""
        return self.size + sum(length for _, length in self.extra) + len(self.metrics)


@runtime_checkable
class SumAggregator(Protocol):
    """An aggregator that is a sum; called with updates, as in a simulation, it adds their words up itself."""

    @property
    def bits(self) -> int:
        """Sums are taken modulo 2^bits."""
        ...

    @property
    def fewest(self) -> int:
        """A sum over fewer clients is not revealed; 3 at least."""
        ...

    @property
    def most(self) -> int:
        """A sum over more clients could wrap."""
        ...

    @property
    def scheme(self) -> str:
        """One of ``SCHEMES``: which protocol takes the sum."""
        ...

    def encode(self, update: Update, prg: Prg) -> Contribution:
        """Return the words of an update; ``prg`` is the client's secret, and the same update gives the same words.

        Raises:
            UsageError: The update has vectors of which it is not agreed how they become words.
        """
        ...

    def decode(self, words: Words, weight: int, clients: int, layout: Layout) -> Aggregate:
        """Return what the sums of so many clients' words and weights mean.

        Raises:
            RemoteProtocolError: It is none that honest clients can have.
        """
        ...

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate of updates."""
        ...


def total_of(aggregator: SumAggregator, updates: Sequence[Update]) -> Aggregate:
    """Return what a protocol would, without one: the updates' words added up, and decoded.

    Raises:
        UsageError: There are too few or too many updates for a sum.
        RemoteProtocolError: Two differ in their vectors or metrics.
    """
    check_count(aggregator, len(updates))
    layout = Layout.of(updates[0])
    if any(Layout.of(update) != layout for update in updates):
        raise RemoteProtocolError(
            "two updates of one sum differ in their vectors or metrics: all need the same process"
        )
    first = aggregator.encode(updates[0], _SIMULATED)
    words, weight = first.words, first.weight
    for update in updates[1:]:
        contribution = aggregator.encode(update, _SIMULATED)
        np.add(words, contribution.words, out=words)
        weight += contribution.weight
    reduce_modulo(words, aggregator.bits)
    return aggregator.decode(words, weight, len(updates), layout)


def check_count(aggregator: SumAggregator, clients: int) -> None:
    """Refuse a sum over too few or too many.

    Raises:
        UsageError: It is one; the message says what to change.
    """
    least = max(MIN_CONTRIBUTORS, aggregator.fewest)
    if not least <= clients <= aggregator.most:
        raise UsageError(
            f"a sum over {clients} clients was asked for, and {least} to {aggregator.most} are agreed: draw a cohort "
            "of that size, or agree otherwise"
        )
