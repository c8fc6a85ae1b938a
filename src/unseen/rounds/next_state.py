"""The state after a round, if its updates make one with which clients can go on, and else who is to blame."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Aggregate, Process, State, Update


def next_state(process: Process, state: State, aggregate: Aggregate) -> State:
    """Return the state after a round.

    Raises:
        RemoteProtocolError: Updates have made one whose broadcast is none, or not finite.
        DataError: The finalizer cannot do anything with what clients have.
    """
    after = process.finalizer(state, aggregate)
    broadcast = process.distributor(after)
    if not all(np.isfinite(vector).all() for vector in (broadcast.model, *broadcast.extra.values())):
        raise RemoteProtocolError(f"the model after round {after.round} holds numbers that are not finite")
    return after


def culprit(process: Process, state: State, updates: Mapping[ClientId, Update]) -> ClientId | None:
    """Return a client without whose update there is a next state, ``None`` if no single one is in its way.

    It is sought by halves, in some log2(clients) trials; a trial spends no more of a privacy budget than the round. Who
    sends what is on the verge of being in the way can have another one blamed, whose update is one too many beside it.
    """
    suspects = list(updates)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if _works(process, state, updates, half) else suspects[len(half) :]
    return suspects[0] if len(updates) > 1 and _works(process, state, updates, suspects) else None


def _works(process: Process, state: State, updates: Mapping[ClientId, Update], without: Collection[ClientId]) -> bool:
    others = [update for client, update in updates.items() if client not in without]
    try:
        next_state(process, state, process.aggregator(others))
    except (RemoteProtocolError, DataError, UsageError):
        return False
    return True
