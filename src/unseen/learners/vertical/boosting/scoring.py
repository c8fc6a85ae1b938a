"""Joint scores for many rows: one round for a whole forest; no row leaves its owner, the active party has the scores.

For every row, a passive party sends one bit for each of its own splits: whether the row goes left, blank (0) where its
own splits above already keep the row away. That says as much as which leaves remain reachable by its own splits, in
fewer bits; the active party combines the answers of all parties and its own splits, and adds up leaf values.

*Who learns what*: the active party, for each row, the sides of the passive parties' splits that their own splits above
do not exclude: also of such that the active party's own splits exclude, which only a protocol with several rounds or
heavier cryptography would spare. Over many rows these are indicators of value ranges of columns without a name. The
passive party learns which of its splits belong to which tree, and the number of rows.
*Security model*: semi-honest; everything received is checked for form and size.
*Rounds*: one, or one for every 64 MiB of bits of a passive party. *Bytes*: one bit a row and split of a passive party.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, receive, receive_array, send, send_array
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting import objectives
from unseen.learners.vertical.boosting.model import LEAF, OWN, ActiveModel, PassiveModel, Tree
from unseen.learners.vertical.boosting.rows import Reach, Rows, unpacked
from unseen.learners.vertical.boosting.setting import BoostingSetting

Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]

GROUP_BYTES = 64 << 20


@message("vertical_boosting/score-request")
class ScoreRequest:
    """Asks for the bits of some trees; no trees: that was all."""

    rows: int
    first: int
    trees: int


def score_active(model: ActiveModel, binned: BinnedColumns, setting: BoostingSetting) -> Dialogue[Floats]:
    """Return what the model predicts for every row: probability, mean or value (rows,); softmax: (rows, classes).

    Raises:
        DataError: There are other columns than in training.
        RemoteProtocolError: A peer has other rows or another model.
    """
    scores = yield from raw_scores(model, binned, setting)
    found = objectives.predictions(scores, model.objective)
    return found[:, 0] if found.shape[1] == 1 else found


def raw_scores(model: ActiveModel, binned: BinnedColumns, setting: BoostingSetting) -> Dialogue[Floats]:
    """Return the scores before the link function, shape (rows, outputs), at the active party alone."""
    setting.check_role(active=True)
    _check_columns(model.columns, binned)
    if tuple(setting.peers) != model.passives:
        raise DataError(f"the model was trained with {', '.join(model.passives)}, not with {', '.join(setting.peers)}")
    rows, outputs = Rows((binned,)), len(model.base)
    scores = np.tile(model.base, (binned.rows, 1))
    first = [0] * len(setting.peers)
    for group in _groups(model, rows.bytes):
        for peer in setting.peers:
            yield from send(peer, ScoreRequest(rows.count, group.start, len(group)))
        bits = []
        for place, peer in enumerate(setting.peers, start=1):
            count = sum(_splits_of(model.trees[tree], place) for tree in group)
            bits.append((yield from receive_array(peer, np.uint8, Shape(count, rows.bytes))))
        for tree in group:
            grown = model.trees[tree]
            sides = _Sides(rows, grown, tuple(bits), tuple(first))
            scores[:, tree % outputs] += grown.values[_leaves(grown, sides)]
        first = [
            start + sum(_splits_of(model.trees[tree], place) for tree in group)
            for place, start in enumerate(first, start=1)
        ]
    for peer in setting.peers:
        yield from send(peer, ScoreRequest(rows.count, len(model.trees), 0))
    return scores


def score_passive(model: PassiveModel, binned: BinnedColumns, setting: BoostingSetting) -> Dialogue[None]:
    """Give the active party the bits of this party's splits.

    Raises:
        DataError: There are other columns than in training.
        RemoteProtocolError: The active party has other rows, or asks for too much at a time.
    """
    setting.check_role(active=False)
    _check_columns(model.columns, binned)
    rows, done = Rows((binned,)), 0
    while True:
        request = yield from receive(setting.active, ScoreRequest)
        _check_request(setting.active, request, rows.count, done)
        if not request.trees:
            return
        first, last = np.searchsorted(model.trees, [done, done + request.trees]).tolist()
        if request.trees > 1 and (last - first) * rows.bytes > GROUP_BYTES:
            raise RemoteProtocolError(
                f"{setting.active}: asks for {(last - first) * rows.bytes} bytes at a time, expected {GROUP_BYTES} "
                "or one tree"
            )
        bits = np.empty((last - first, rows.bytes), np.uint8)
        reach, tree = Reach(rows), -1
        for split in range(first, last):
            if tree != (tree := int(model.trees[split])):
                reach = Reach(rows)
            above = int(model.parents[split]), bool(model.sides[split])
            bits[split - first] = reach.bits(split, int(model.features[split]), model.left[split], above)
        done += request.trees
        yield from send_array(setting.active, bits)


def _check_columns(columns: int, binned: BinnedColumns) -> None:
    if columns != len(binned.bins):
        raise DataError(f"the model has {columns} columns here, the table has {len(binned.bins)}")


def _check_request(active: PartyId, request: ScoreRequest, rows: int, done: int) -> None:
    if request.rows != rows:
        raise RemoteProtocolError(f"{active}: has {request.rows} rows, this side {rows}; all parties need the same")
    if request.first != done or not 0 <= request.trees < 1 << 40:
        raise RemoteProtocolError(f"{active}: asks for {request.trees} trees from {request.first} on, after {done}")


def _splits_of(tree: Tree, place: int) -> int:
    return int(np.count_nonzero(tree.party == place))


def _groups(model: ActiveModel, row_bytes: int) -> Iterator[range]:
    """Yield consecutive trees, of which no passive party sends more than about ``GROUP_BYTES``."""
    start, size = 0, 0
    for number, tree in enumerate(model.trees):
        added = int(np.count_nonzero(tree.party > OWN)) * row_bytes
        if number > start and size + added > GROUP_BYTES:
            yield range(start, number)
            start, size = number, 0
        size += added
    if model.trees:
        yield range(start, len(model.trees))


@dataclass(frozen=True, slots=True)
class _Sides:
    """Which rows go left at each node of a tree; ``first`` is the number of each passive party's first split here."""

    rows: Rows
    tree: Tree
    bits: tuple[Bits, ...]
    first: tuple[int, ...]

    def left(self, node: int) -> NDArray[np.bool_]:
        party, split = int(self.tree.party[node]), int(self.tree.split[node])
        if party == OWN:
            return self.rows.left(split, self.tree.masks[node])
        return unpacked(self.bits[party - 1][split - self.first[party - 1]], self.rows.count)


def _leaves(tree: Tree, sides: _Sides) -> NDArray[np.uint16]:
    """Return the leaf of every row."""
    places = np.zeros(sides.rows.count, np.uint16)
    for node in np.flatnonzero(tree.party != LEAF).tolist():
        inside, left = places == node, sides.left(node)
        child = int(tree.left[node])
        np.copyto(places, np.uint16(child), where=inside & left)
        np.copyto(places, np.uint16(child + 1), where=inside & ~left)
    return places
