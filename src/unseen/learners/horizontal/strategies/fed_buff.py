"""FedBuff: no client waits for another; the server steps whenever it holds enough updates, and trusts old ones less.

Source: J. Nguyen, K. Malik, H. Zhan, A. Yousefpour, M. Rabbat, M. Malek, D. Huba, "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022, Algorithm 1: of K updates Δᵢ, each trained on a model that was τᵢ rounds old
when its round ended, w ← w + η/K · Σ s(τᵢ)·Δᵢ with s(τ) = (1 + τ)^(−1/2) (section 5). Updates count the same.

How old an update is, only the server knows, since it knows which broadcast it sent to whom: it says so by ``aged`` as
it takes the update out of its buffer. The buffer is the server's: K is the number of updates that it hands over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unseen.errors import RemoteProtocolError
from unseen.learners.horizontal.process import Aggregate, Process, Update, Vector
from unseen.learners.horizontal.strategies.parameters import PLAN, NotNegative, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import (
    LocalTraining,
    SendModel,
    ServerStep,
    checked,
    combined,
    named,
    number,
    refuse_not_finite,
)

_STALENESS = "staleness"


def aged(update: Update, rounds: int) -> Update:
    """Return an update marked with the rounds that have been finished since the broadcast that it was trained on.

    Whatever the client itself says of its age is replaced.
    """
    return replace(update, extra={**update.extra, _STALENESS: number(rounds)})


@dataclass(frozen=True, slots=True)
class StaleMean:
    """Σ (1 + τᵢ)^(−exponent)·updateᵢ / K; an update that nobody has marked is not old. Others count as 0 rounds old."""

    exponent: float

    def check_update(self, update: Update) -> None:
        """Accept an update that does not say itself how old it is; raises as ``UpdateRule`` says."""
        if _STALENESS in update.extra:
            raise RemoteProtocolError("its update says how old it is, which is for the server to say")

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the mean, with the mean ``staleness`` in rounds among its metrics."""
        ages = [max(0.0, float(named(update.extra, _STALENESS, 1)[0])) for update in updates]
        bare = [replace(update, extra=_without_age(update)) for update in updates]
        checked(bare)
        factors = [(1 + age) ** -self.exponent for age in ages]
        aggregate = combined(bare, factors, len(bare))
        refuse_not_finite(aggregate, bare)
        return replace(aggregate, metrics={**aggregate.metrics, _STALENESS: math.fsum(ages) / len(ages)})


def _without_age(update: Update) -> dict[str, Vector]:
    return {name: vector for name, vector in update.extra.items() if name != _STALENESS}


@validated
def fed_buff(plan: Plan = PLAN, *, exponent: NotNegative = 0.5, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedBuff; without old updates it is FedAvg with equal weights bit for bit. ``exponent`` 0: age is nothing.

    The steps of all clients in flight add up: the server's learning rate may have to be lowered with their number.
    """
    return Process("FedBuff", SendModel(), LocalTraining(plan), StaleMean(exponent), ServerStep(server_learning_rate))
