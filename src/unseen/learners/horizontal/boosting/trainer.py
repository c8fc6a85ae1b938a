"""``ForestTrainer``: what a forest says about a client's rows, kept in memory from round to round.

A client's bins and scores follow from the broadcast alone. They are kept to save time, up to a number of bytes, and
made again if they are gone or belong to other rows, bins or trees: no result depends on what is kept.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.ids import ClientId
from unseen.learners.horizontal.boosting.forest import Bins, Codes, Floats, Forest
from unseen.learners.horizontal.boosting.setting import Setting
from unseen.learners.horizontal.process import Examples, Vector
from unseen.learners.horizontal.tables.rows import client_rows
from unseen.learners.horizontal.tables.trainer import BySums
from unseen.learners.vertical.boosting.objectives import check_labels, mean_loss, predictions
from unseen.learners.vertical.boosting.setting import SQUARED

_KEPT_BYTES = 1 << 30


@dataclass(slots=True, eq=False)
class _Kept:
    """One client's bins, and its scores by the first ``trees`` trees of ``forest``."""

    print_: int
    forest: Forest
    codes: Codes
    scores: Floats
    trees: int

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + self.scores.nbytes


class ForestTrainer(BySums):
    """A forest as the rounds of horizontal learning know models."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.size = setting.head
        """Numbers of what travels in the model's place; the forest itself grows with its trees, and travels beside."""
        self._kept: OrderedDict[ClientId, _Kept] = OrderedDict()
        self._read = np.empty(0, np.float32), Forest.empty(np.zeros(1), Bins((), (), ()))

    def settle(self) -> None:
        """Do nothing: sums are exact, and do not depend on the number of threads (``UNSEEN_THREADS``)."""

    def initial(self, seed: int) -> Vector:
        """Return the forest without trees; nothing is drawn."""
        del seed
        count = len(self.setting.columns)
        bins = Bins((np.empty(0),) * count, (False,) * count, (0,) * count)
        return Forest.empty(np.zeros(self.setting.outputs), bins).vector()

    def evaluate(self, model: Vector, examples: Examples) -> Mapping[str, float]:
        """Return ``loss`` (log loss or squared error), and for classes ``accuracy``."""
        inputs, labels = client_rows(examples, self.setting.columns, "the rows to test on")
        params = self.setting.params
        truth = check_labels(labels, len(inputs), params)
        scores = Forest.of(model).raw(inputs)
        found = {"loss": mean_loss(scores, truth, np.ones(len(truth)), params)}
        if params.objective == SQUARED:
            return found
        chosen = scores.argmax(axis=1) if params.classes > 1 else scores[:, 0] > 0
        return {**found, "accuracy": float(np.mean(chosen == truth))}

    def predict(self, model: Vector, inputs: NDArray[np.floating]) -> Floats:
        """Return the probability of label 1, or of every class (rows, classes), or the amount, of each row."""
        scores = Forest.of(model).raw(np.asarray(inputs, np.float64))
        found = predictions(scores, self.setting.params.objective)
        return found[:, 0] if found.shape[1] == 1 else found

    def staged(self, model: Vector, examples: Examples) -> list[float]:
        """Return the mean loss after 0, 1, 2, … boosting rounds."""
        inputs, labels = client_rows(examples, self.setting.columns, "the rows to test on")
        forest, params = Forest.of(model), self.setting.params
        truth, weights = check_labels(labels, len(inputs), params), np.ones(len(inputs))
        codes, scores = forest.bins.codes(inputs), np.tile(forest.base, (len(inputs), 1))
        losses = [mean_loss(scores, truth, weights, params)]
        for first in range(0, forest.trees, forest.outputs):
            forest.add(codes, range(first, min(first + forest.outputs, forest.trees)), scores)
            losses.append(mean_loss(scores, truth, weights, params))
        return losses

    def best(self, model: Vector, examples: Examples) -> Vector:
        """Return the model with as many trees as give the least loss on examples that no client trained on.

        That is what stopping early would have given, had it waited for long enough.
        """
        losses, forest = self.staged(model, examples), Forest.of(model)
        return forest.first(min(int(np.argmin(losses)) * forest.outputs, forest.trees)).vector()

    # --- at a client

    def forest(self, vector: Vector) -> Forest:
        """Return the forest of a flat vector, which is read once as long as it stays the same.

        Raises:
            DataError: It holds none.
        """
        if not np.array_equal(self._read[0], vector):
            self._read = vector.copy(), Forest.of(vector)
        return self._read[1]

    def scored(self, client: ClientId, rows: Floats, forest: Forest) -> tuple[Codes, Floats]:
        """Return the bins (features, rows) and scores (rows, outputs) of a client's rows; not to be changed.

        The scores are those of complete boosting rounds: trees of one round do not see each other.
        """
        print_ = zlib.crc32(np.ascontiguousarray(rows).data)
        kept = self._kept.pop(client, None)
        if kept is None or not self._fits(kept, print_, rows, forest):
            codes = forest.bins.codes(rows)
            kept = _Kept(print_, forest, codes, np.tile(forest.base, (len(rows), 1)), 0)
        complete = forest.trees - forest.trees % forest.outputs
        forest.add(kept.codes, range(kept.trees, complete), kept.scores)
        kept.forest, kept.trees = forest, complete
        self._kept[client] = kept
        while sum(one.bytes for one in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return kept.codes, kept.scores

    @staticmethod
    def _fits(kept: _Kept, print_: int, rows: Floats, forest: Forest) -> bool:
        return (
            (kept.print_, kept.codes.shape[1]) == (print_, len(rows))
            and kept.trees <= forest.trees
            and (kept.forest is forest or kept.forest.begins(forest, kept.trees))
        )


def labels_of(client: ClientId, labels: Floats, setting: Setting) -> Floats:
    """Return a client's labels.

    Raises:
        DataError: They are not what the objective takes; the message names the client.
    """
    try:
        return check_labels(labels, len(labels), setting.params) if len(labels) else labels
    except DataError as error:
        raise DataError(f"client {client}, labels: {error}") from error
