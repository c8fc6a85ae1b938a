"""``horizontal_boosting``: gradient boosted trees from sums over clients, as one process.

Rounds are of three kinds. First bins are found by counting (``tables.sketch``), then labels are summed for the constant
that scores begin with, then trees grow: in every round each client finds the node of each of its rows, and sends for
every node that is asked for the number of its rows and the sums of gradients and hessians by feature and bin. The
server adds up, picks splits (those of ``learners.vertical.boosting``) and broadcasts the tree. With growth ``depth`` a
tree takes as many rounds as it is deep.

Gradients and hessians are whole multiples of a power of two, so that sums are exact: the forest is the same, bit for
bit, however rows are spread over clients, and whatever adds up (``tables.exact``). The multiples are 2^-20 of the
bound of a gradient or finer.

*Who learns what*: the server, all sums over the cohort of a round; with the plain aggregator also each client's, under
secure aggregation only these. Clients learn the forest. A node's sums are by bin of every column, and a bin may hold
one row: then its gradient, and with it its label, is seen in that cell. ``min_rows`` bounds the rows of a leaf, not
those of a cell. *Security model*: semi-honest; a server that asks for other nodes than it should learns more.
*Bytes*: per client and node asked for 8 · bins of all columns (12 for many clients) up; per round the forest down.

Sources: Ke and others, LightGBM, NeurIPS 2017, section 2 (histograms, subtraction); Chen and Guestrin, XGBoost, KDD
2016 (gains, missing values).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.kernels.binned import sums as sums_by_bin
from unseen.learners.horizontal.boosting.finalizer import ASKED, FOREST, GROWTH, RANGES, GrowForest, SendForest
from unseen.learners.horizontal.boosting.forest import Floats, Forest
from unseen.learners.horizontal.boosting.setting import COUNTS, ForestPlan, Phase, Scale, Setting, read_control
from unseen.learners.horizontal.boosting.trainer import ForestTrainer, labels_of
from unseen.learners.horizontal.process import (
    Assignment,
    Broadcast,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    Vector,
    stream,
)
from unseen.learners.horizontal.tables.exact import ExactSum, Integers, Limbs, answer, whole
from unseen.learners.horizontal.tables.noise import CountNoise
from unseen.learners.horizontal.tables.rows import client_rows
from unseen.learners.horizontal.tables.secure import SecureExactSum
from unseen.learners.horizontal.tables.sketch import unpack
from unseen.learners.vertical.boosting.objectives import derivatives
from unseen.learners.vertical.boosting.setting import BINARY, SQUARED

_PLAN = ForestPlan()


@dataclass(frozen=True, slots=True)
class TableSums:
    """A client's work: the sums over its own rows that a round asks for."""

    setting: Setting

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the answer, and nothing to keep.

        Raises:
            DataError: The client's rows are not what they have to be; the message names client and column.
            RemoteProtocolError: The broadcast is none of this process.
        """
        if not isinstance(trainer, ForestTrainer):
            raise UsageError("boosting needs the trainer that comes with its process: use both of one learner")
        client, broadcast, setting = assignment.client, assignment.broadcast, self.setting
        rows, labels = client_rows(assignment.examples, setting.columns, f"client {client}")
        phase, scale = read_control(broadcast.model)
        truth = labels_of(client, labels, setting)
        own = _Own(setting, client, rows, truth)
        found = np.empty(0, np.float32)
        if phase is Phase.BINS:
            found = own.counts(broadcast)
        elif phase is Phase.BASE:
            found = own.labels(scale)
        elif phase is Phase.NODES:
            found = own.nodes(trainer, broadcast, scale)
        return answer(setting.clients, client, len(rows), found), {}

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the forest of everyone, which is not where a broadcast has its model."""
        del trainer
        return assignment.broadcast.extra[FOREST]


@dataclass(frozen=True, slots=True, eq=False)
class _Own:
    """One client's rows."""

    setting: Setting
    client: ClientId
    rows: Floats
    truth: Floats

    def counts(self, broadcast: Broadcast) -> Vector:
        ranges = unpack(broadcast.extra.get(RANGES, np.empty(0, np.float32)))
        if len(ranges) != self.setting.counted:
            raise RemoteProtocolError(f"ranges of {len(ranges)} columns, expected {self.setting.counted}")
        if max(one.asked for one in ranges) > 2 * self.setting.sketch_width + 1:
            raise RemoteProtocolError("the broadcast of a round of boosting asks for more counts than was agreed")
        columns = [*self.rows.T, self.truth][: len(ranges)]
        found = [one.count(column) for one, column in zip(ranges, columns, strict=True)]
        return Limbs(self.setting.clients, COUNTS).encode(np.concatenate(found))

    def labels(self, scale: Scale) -> Vector:
        params, clients = self.setting.params, self.setting.clients
        if params.objective == SQUARED:
            return Limbs(clients, 62).encode(_total(self.truth, scale.limit, scale.labels(clients)))
        classes = np.bincount(self.truth.astype(np.int64), minlength=max(2, params.classes))
        return Limbs(clients, 62).encode(classes[1:] if params.objective == BINARY else classes)

    def nodes(self, trainer: ForestTrainer, broadcast: Broadcast, scale: Scale) -> Vector:
        """Return for each node asked for its rows, and gradients and hessians by bin: (nodes, 1 + 2 · columns)."""
        setting, (forest, tree, asked) = self.setting, _told(trainer, broadcast)
        codes, scores = trainer.scored(self.client, self.rows, forest)
        places = forest.grown(tree, codes)
        drawn = self._drawn(forest.trees // forest.outputs)
        words = self._words(scores, forest.trees % forest.outputs, scale)
        columns = int(forest.bins.offsets[-1])
        found = np.empty((len(asked), 1 + 2 * columns), np.int64)
        for node, row in zip(asked, found, strict=True):
            inside = np.flatnonzero((places == node) & drawn)
            row[0] = len(inside)
            some = np.ascontiguousarray(codes[:, inside])
            row[1:] = sums_by_bin(some, forest.bins.offsets, words[:, inside]).view(np.int64).reshape(-1)
        return scale.limbs(setting.clients).encode(found.reshape(-1))

    def _words(self, scores: Floats, output: int, scale: Scale) -> NDArray[np.uint64]:
        """Return gradients and hessians of all rows as whole numbers, shape (2, rows)."""
        gradients, hessians = derivatives(scores, self.truth, self.setting.params)
        clients = self.setting.clients
        first = _fixed(gradients[:, output], scale.limit, scale.gradients(clients))
        return np.stack([first, _fixed(hessians[:, output], 1.0, scale.hessians(clients))]).view(np.uint64)

    def _drawn(self, boosting_round: int) -> NDArray[np.bool_]:
        rate = self.setting.params.row_rate
        if rate == 1:
            return np.ones(len(self.rows), np.bool_)
        return stream(self.setting.seed, boosting_round, self.client, "rows").random(len(self.rows)) < rate


def _fixed(values: Floats, limit: float, factor: float) -> Integers:
    return np.rint(np.clip(values, -limit, limit) * factor).astype(np.int64)


def _total(values: Floats, limit: float, factor: float) -> Integers:
    return np.array([_fixed(values, limit, factor).sum()])


def _told(trainer: ForestTrainer, broadcast: Broadcast) -> tuple[Forest, Integers, list[int]]:
    """Return the forest so far, the tree that grows, and the nodes asked for.

    Raises:
        RemoteProtocolError: The broadcast does not hold them.
    """
    try:
        forest = trainer.forest(broadcast.extra[FOREST])
        tree = whole(broadcast.extra[GROWTH]).reshape(4, -1)
        asked = whole(broadcast.extra[ASKED])
    except (KeyError, ValueError, DataError) as error:
        raise RemoteProtocolError(f"the broadcast of a round of boosting is malformed: {error}") from error
    feature, _, _, left = tree
    inner, count = feature >= 0, tree.shape[1]
    walks = (left[inner] > np.flatnonzero(inner)).all() and (left[inner] + 1 < count).all()
    known = (feature < len(forest.bins.edges)).all() and ((asked >= 0) & (asked < count)).all()
    if not (
        0 < count < 2 * trainer.setting.params.max_leaves and walks and known and len(set(asked.tolist())) == len(asked)
    ):
        raise RemoteProtocolError("the broadcast of a round of boosting holds a tree that is none")
    return forest, tree, asked.tolist()


@dataclass(frozen=True, slots=True)
class Boosting:
    """A learner: the process, the trainer that goes with it, and how many rounds to play."""

    process: Process
    trainer: ForestTrainer

    @property
    def rounds(self) -> int:
        """Rounds after which the forest is complete, if the same clients take part in all; more do no harm."""
        return self.trainer.setting.rounds

    def secure(self, *, least: int | None = None, scheme: str = "secagg_plus") -> Boosting:
        """Return the learner whose server sees sums over at least ``least`` clients, and no client's.

        Without ``least`` these are ⌊2n/3⌋ + 1 of the n that the learner was made for.

        Raises:
            UsageError: ``least`` is below 3, or above the number of clients.
        """
        by = SecureExactSum(self.trainer.setting.clients, least, scheme)
        return Boosting(replace(self.process, aggregator=by), self.trainer)

    def with_bin_noise(self, noise: CountNoise) -> Boosting:
        """Return the learner for a server that makes bins with this noise; clients have it without.

        It covers the bins, nothing else: sums of gradients have no noise, and the forest is not differentially private.

        Raises:
            UsageError: ``bin_noise`` is 0.
        """
        setting = self.trainer.setting
        if not setting.bin_noise:
            raise UsageError("bins without noise spend nothing: set bin_noise")
        return Boosting(replace(self.process, finalizer=GrowForest(setting, noise)), self.trainer)

    def complete(self, state: State) -> bool:
        """Return whether the forest has all its trees."""
        return Forest.of(state.model).trees >= self.trainer.setting.trees or SendForest.phase(state) is Phase.DONE


def horizontal_boosting(columns: Sequence[str], plan: ForestPlan = _PLAN, *, clients: int) -> Boosting:
    """Return gradient boosting on rows of these columns at different clients.

    Args:
        columns: Names of the features, in the order of the clients' inputs.
        plan: What the forest is to be.
        clients: How many take part in a round at most; it decides how exact sums travel.

    Raises:
        UsageError: A parameter is not what it has to be.
    """
    setting = Setting(plan.params(), tuple(columns), clients, plan.bins, seed=plan.seed, bin_noise=plan.bin_noise)
    process = Process(
        "Horizontal boosting", SendForest(setting), TableSums(setting), ExactSum(clients), GrowForest(setting)
    )
    return Boosting(process, ForestTrainer(setting))
