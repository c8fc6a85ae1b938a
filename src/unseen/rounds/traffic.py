"""How many bytes a round moves: counted by a server, and for a simulation what its messages would have.

A server counts the frames that come in and that it hands to its links, greetings and refusals included; the transport's
own bytes, some 2 % for small messages, are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from unseen.codec import Buffer
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Broadcast, Process, Update
from unseen.learners.horizontal.sums import Layout, SumAggregator
from unseen.protocols.secure_aggregation.port import word_type
from unseen.rounds.digest import codec_of, sum_of
from unseen.rounds.messages import Place, answer_with, assigned, ready_with, said_by_client, said_by_server


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of all clients of a round, in both directions."""

    up: int = 0
    down: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.up - other.up, self.down - other.down)


def frame_bytes(parts: Sequence[Buffer]) -> int:
    """Return the length of a message."""
    return sum(memoryview(part).nbytes for part in parts)


def traffic_of(process: Process, broadcast: Broadcast, asked: int, updates: Sequence[Update]) -> Traffic:
    """Return what a round moves in which so many are ``asked``, these updates come in, and nobody repeats anything.

    Exact but for compressed updates, to 100 bytes each, and for the keys and shares of a sum, to a few per cent of
    those.
    """
    place = Place("simulation", broadcast.round, 0)
    down = asked * frame_bytes(said_by_server(assigned(place, broadcast)))
    by = sum_of(process)
    if by is None or not updates:
        return Traffic(_answers_bytes(process, place, updates), down)
    layout = Layout.of(updates[0])
    up, told = _sum_bytes(by, layout.length, len(updates))
    ready = frame_bytes(said_by_client(ready_with(place, layout)))
    return Traffic(len(updates) * (up + ready), down + len(updates) * told)


def _answers_bytes(process: Process, place: Place, updates: Sequence[Update]) -> int:
    """Return the bytes of all answers; those of one layout have one length."""
    kinds = [_vectors(update) for update in updates]
    alike = dict(zip(kinds, updates, strict=True))
    plain = sum(
        count * frame_bytes(said_by_client(answer_with(place, ClientId("client"), alike[kind], None)))
        for kind, count in Counter(kinds).items()
    )
    if codec_of(process) is None:
        return plain
    return plain + sum(int(update.metrics["upload_bytes"]) - update.delta.nbytes for update in updates)


def _vectors(update: Update) -> Hashable:
    """Return what the length of an answer depends on, in less time than a ``Layout``."""
    return len(update.delta), *((name, len(vector)) for name, vector in update.extra.items()), *update.metrics


def _sum_bytes(by: SumAggregator, words: int, clients: int) -> tuple[int, int]:
    """Return what one client of a sum sends and gets, as the modules of the schemes state it; graphs are complete."""
    if by.scheme == "rlwe":
        part = 16 * 8192  # one polynomial: two residues of each coefficient
        count = -(-words // 8192) + 1
        return part * (1 + 2 * count) + 16 * (words + 1), part * (1 + count)
    vector = words * word_type(by.bits).itemsize
    return vector + 119 * (clients - 1) + 640, 208 * clients + 82 * (clients - 1)
