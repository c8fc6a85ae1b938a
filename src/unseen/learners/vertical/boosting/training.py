"""Gradient boosting of trees over columns that lie with several parties, one of which holds the labels.

Given the bins, the trees are those of the pooled data: each party bins its own columns, and the active party chooses
the best split over all parties' histograms of gradients and hessians. It gets passive parties' histograms by the secure
linear map from vectors that are zero outside of a node, so that nobody learns which rows are in it; the smaller child
of a split is asked for, the other one is the difference. Any number of passive parties, none included.

*Who learns what*

* Everybody: the parameters, and numbers of rows and rounds.
* The active party, of a passive one: number of its columns, of each an opaque number, how many bins it has, whether
  they are categories and which one is of missing values (``setup``); for every node whose histogram is asked for, sums
  of gradients and hessians over each bin, hence about how many rows are in it. **With enough sums the bins of every
  row can be solved for**, of all columns, used or not, since it knows every gradient exactly: as many sums as rows
  give them all, and least squares guesses most far earlier (docs/security/overview.md has figures). So a passive
  party refuses to answer more than ``max_sums_per_row`` sums a training row in one training; trainings with one
  kept set-up add up, and nothing here counts over trainings. Sums over fewer than ``min_rows_in_leaf`` rows are not
  asked for, nor such whose difference from known ones would be one. With the scheme lattice and many rows it also
  learns a sum of small random numbers of its own with each (docs/security/linear_map.md). And at the splits that it
  chooses among the passive party's columns, it learns which rows go left:

  - ``instance_space="everyone"`` (default): of all training and validation rows, except those that the passive party's
    own splits above keep away. The passive party does not learn which rows are in the node.
  - ``instance_space="members"``: of the node's rows only. The passive party is told which rows these are: they have
    similar labels, and labels can often be guessed from them. Some of its columns are the less exposed.

  The default protects the labels at the cost of one bit a row about a column, where a wrong guess about labels
  concerns people. With members, fewer bits about columns are told outright; but what many sums give away is the same
  in both: members does not keep the passive party's columns from an active party that solves for them.
* A passive party: how many vectors were asked for, and its own splits: which column, which bins go left, which of
  its splits are below which; and the gains of its splits with ``share_gains``.

*Security model*: semi-honest, as the linear map's. Everything received is checked for form and size; the sums over a
column's bins must add up, and agree with the rows that go left. An active party that deviates can ask for sums over any
rows, single ones too, as in every scheme of this kind: at most 4 · max_leaves a tree, and ``max_sums_per_row`` · rows
in all.
*Rounds*: growth level by level: two round trips a level (sums, splits); leaf by leaf: two a split.
*Bytes*: 7¾ a row and vector (15½ if gradients and hessians do not fit into one word), about max_leaves/2 vectors a tree
level by level, max_leaves − 1 leaf by leaf; one bit a row back for each split at a passive party.

Leaf values are Newton steps −η·G/(H + λ) with exact gradients of *all* training rows of the leaf, those left out by
sampling included: the active party knows them. Sources: Chen and Guestrin, KDD 2016 (second order, γ, λ); Ke and
others, LightGBM, NeurIPS 2017 (histograms, subtraction, leaf-wise growth, GOSS); Cheng and others, SecureBoost,
arXiv:1901.08755 (the setting); DESIGN section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message, shown
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, checkpoint, progress, receive, resume, send, send_all
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting import objectives
from unseen.learners.vertical.boosting.exchange import (
    END,
    ROUND,
    SPLITS,
    SUMS,
    TREE,
    Answering,
    Lines,
    Order,
    PassiveTree,
)
from unseen.learners.vertical.boosting.growing import GrowingTree
from unseen.learners.vertical.boosting.model import (
    ActiveModel,
    ActiveResult,
    BoostingReport,
    Importance,
    PassiveModel,
    Tree,
    importance,
)
from unseen.learners.vertical.boosting.packing import LARGEST_BITS, pack
from unseen.learners.vertical.boosting.rows import Reach, Rows
from unseen.learners.vertical.boosting.sampling import draw_columns, draw_rows
from unseen.learners.vertical.boosting.setting import POISSON, BoostingParams, BoostingSetting
from unseen.learners.vertical.boosting.setup import ActiveSetUp, Layout, PassiveSetUp
from unseen.learners.vertical.boosting.splits import MASK_BYTES, FeatureSpace, best_split
from unseen.protocols.linear_map.matrices import BinnedMatrix

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@message("vertical_boosting/hello")
class Hello:
    """What the active party and a passive one tell each other before anything else."""

    rows: int
    validation_rows: int
    terms: tuple[str, ...]


@message("vertical_boosting/finish")
class Finish:
    """The trees that are kept, and the gains of the receiver's splits in them, if it is to know them."""

    trees: int
    gains: Annotated[Floats, Shape(None)]


@message("vertical_boosting/active-state")
class ActiveState:
    """The active party after some rounds."""

    scores: Annotated[Floats, Shape(None, None)]
    """(training rows and validation rows, outputs)"""
    trees: tuple[Tree, ...]
    losses: Annotated[Floats, Shape(None)]
    validation_losses: Annotated[Floats, Shape(None)]
    made: tuple[NDArray[np.int64], ...]
    """The columns of each passive party's splits, by the opaque numbers of the set-up."""


@message("vertical_boosting/passive-state")
class PassiveState:
    """A passive party after some rounds; columns in the order of the set-up."""

    model: PassiveModel
    trees: int
    rounds: int
    sums: int
    """Sums over bins that were answered."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRows:
    """The active party's rows: its binned columns (``BinnedColumns.none`` if it has none), labels, and weights."""

    binned: BinnedColumns
    labels: Floats
    weights: Floats | None = None


# --- the active party ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ActiveRun:
    """What stays the same during a training; ``labels`` and ``weights`` are those of all rows, training rows first."""

    lines: Lines
    labels: Floats
    weights: Floats
    rows: int
    base: Floats
    bits: int
    setting: BoostingSetting

    @property
    def params(self) -> BoostingParams:
        return self.lines.params

    @property
    def validates(self) -> bool:
        return len(self.labels) > self.rows


def train_active(
    train: LabelledRows,
    params: BoostingParams,
    setting: BoostingSetting,
    setup: ActiveSetUp | None = None,
    *,
    validation: LabelledRows | None = None,
) -> Dialogue[ActiveResult]:
    """Return the active party's half of the model; ``setup`` may be missing if there is no passive party.

    Raises:
        DataError: Labels or weights are not what the objective takes.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: The set-up is another federation's, or validation rows are missing for ``patience``.
    """
    run = _prepared(train, validation, params, setting, setup)
    yield from _agree(run)
    state = yield from resume(ActiveState, setting.peers)
    state = state or _fresh(run)
    yield from progress(len(state.losses), params.rounds)
    while not _done(run, state):
        state = yield from _round(run, state)
        yield from progress(len(state.losses), params.rounds, _note(run, state))
        if not _done(run, state):
            yield from send_all(setting.peers, Order(ROUND, len(state.losses)))
            yield from checkpoint(state)
    return (yield from _finish(run, state))


def _prepared(
    train: LabelledRows,
    validation: LabelledRows | None,
    params: BoostingParams,
    setting: BoostingSetting,
    setup: ActiveSetUp | None,
) -> _ActiveRun:
    setting.check_role(active=True)
    parts = [train] if validation is None else [train, validation]
    if params.patience and validation is None:
        raise UsageError("patience needs validation rows")
    labels = [objectives.check_labels(part.labels, part.binned.rows, params) for part in parts]
    weights = [
        objectives.check_weights(part.weights, part.binned.rows) * objectives.class_factors(truth, params)
        for part, truth in zip(parts, labels, strict=True)
    ]
    if validation is not None and Layout.of(validation.binned).bins.tolist() != list(train.binned.bins):
        raise DataError("validation rows have other columns or bins than training rows: bin them alike")
    setup = _checked_setup(setup, train.binned.rows, setting)
    layouts = [Layout.of(train.binned), *(setup.layouts[peer] for peer in setting.peers)]
    space = FeatureSpace.of([(layout.bins, layout.categorical, layout.missing) for layout in layouts])
    prg = setting.prg.derive("vertical_boosting/vectors")
    sides = {peer: setup.setups[peer].side(peer=peer, prg=prg.derive("peer", peer.encode())) for peer in setting.peers}
    lines = Lines(train.binned, Rows(tuple(part.binned for part in parts)), space, sides, params)
    base = objectives.base_scores(labels[0], weights[0], params)
    return _ActiveRun(
        lines, np.concatenate(labels), np.concatenate(weights), train.binned.rows, base, setup.bits, setting
    )


def _checked_setup(setup: ActiveSetUp | None, rows: int, setting: BoostingSetting) -> ActiveSetUp:
    if setup is None and not setting.peers:
        return ActiveSetUp(rows, LARGEST_BITS, {}, {})
    if setup is None or set(setup.setups) != set(setting.peers) or setup.rows != rows:
        raise UsageError(f"training needs a set-up for {rows} rows with {', '.join(setting.peers)}")
    return setup


def _agree(run: _ActiveRun) -> Dialogue[None]:
    hello = Hello(run.rows, len(run.labels) - run.rows, run.params.terms)
    yield from send_all(run.setting.peers, hello)
    for peer in run.setting.peers:
        _compare(peer, hello, (yield from receive(peer, Hello)))


def _compare(peer: PartyId, ours: Hello, theirs: Hello) -> None:
    if (ours.rows, ours.validation_rows) != (theirs.rows, theirs.validation_rows):
        raise RemoteProtocolError(
            f"{peer}: has {theirs.rows} training and {theirs.validation_rows} validation rows, "
            f"this side {ours.rows} and {ours.validation_rows}; all parties need the same"
        )
    if ours.terms != theirs.terms:
        other = next((term for term in theirs.terms if term not in ours.terms), "another number of parameters")
        raise RemoteProtocolError(f"{peer}: {shown(other)} there is not so here; all parties need the same parameters")


def _fresh(run: _ActiveRun) -> ActiveState:
    scores = np.tile(run.base, (len(run.labels), 1))
    empty = np.empty(0)
    return ActiveState(scores, (), empty, empty, tuple(np.empty(0, np.int64) for _ in run.setting.peers))


def _done(run: _ActiveRun, state: ActiveState) -> bool:
    rounds = len(state.losses)
    if rounds >= run.params.rounds:
        return True
    stale = rounds - 1 - int(np.argmin(state.validation_losses)) if len(state.validation_losses) else 0
    if 0 < run.params.patience <= stale:
        return True
    # A round whose trees are all roots leaves the gradients as they are, unless others are drawn next time.
    drawn = run.params.row_rate < 1 or run.params.column_rate < 1 or run.params.goss_top > 0
    newest = state.trees[-len(run.base) :]
    return bool(newest) and not drawn and all(tree.leaves == 1 for tree in newest)


def _round(run: _ActiveRun, state: ActiveState) -> Dialogue[ActiveState]:
    """Return the state after one more tree for each output."""
    params, rows = run.params, run.rows
    prg = run.setting.prg.derive("vertical_boosting/round", len(state.losses).to_bytes(8, "little"))
    scores = state.scores.copy()
    gradients, hessians = objectives.derivatives(scores[:rows], run.labels[:rows], params)
    gradients, hessians = gradients * run.weights[:rows, None], hessians * run.weights[:rows, None]
    factors = draw_rows(gradients, params, prg.derive("rows"))[:, None]
    made = {peer: columns.tolist() for peer, columns in zip(run.setting.peers, state.made, strict=True)}
    trees = list(state.trees)
    for output in range(len(run.base)):
        draw = prg.derive("tree", output.to_bytes(8, "little"))
        g, h = gradients[:, output], hessians[:, output]
        packed = pack(g * factors[:, 0], h * factors[:, 0], run.bits, draw.derive("packing"))
        growing = GrowingTree.root(params, packed, rows, len(run.labels))
        yield from _grow(run, growing, draw, made)
        values = _leaf_values(growing, g, h)
        scores[:, output] += values[growing.places]
        trees.append(growing.finish(values))
        yield from send_all(run.setting.peers, Order(TREE, len(trees)))
    losses = np.append(state.losses, objectives.mean_loss(scores[:rows], run.labels[:rows], run.weights[:rows], params))
    validation = state.validation_losses
    if run.validates:
        late = objectives.mean_loss(scores[rows:], run.labels[rows:], run.weights[rows:], params)
        validation = np.append(validation, late)
    return ActiveState(
        scores, tuple(trees), losses, validation, tuple(np.array(columns, np.int64) for columns in made.values())
    )


def _grow(run: _ActiveRun, tree: GrowingTree, prg: Prg, made: dict[PartyId, list[int]]) -> Dialogue[None]:
    lines = run.lines
    allowed = draw_columns(len(lines.space), run.params, prg.derive("columns"))
    candidates = {}
    ready = [0] if tree.may_split(0) and len(lines.space) else []
    if ready:
        tree.nodes[0].sums = (yield from lines.ask_sums(tree, ready))[0]
    while True:
        for node in ready:
            histogram = tree.nodes[node].sums
            if histogram is not None and (
                split := best_split(lines.space, allowed, tree.packed, histogram, tree.nodes[node].summed, run.params)
            ):
                candidates[node] = split
        chosen = {node: candidates.pop(node) for node in tree.choose(candidates)}
        if not chosen:
            return
        families = yield from lines.divide(tree, chosen, made)
        ready = yield from _histograms(lines, tree, families)


def _histograms(lines: Lines, tree: GrowingTree, families: list[tuple[int, int, int]]) -> Dialogue[list[int]]:
    """Give histograms to the children that may be split further; return these."""
    wanted = [family for family in families if tree.may_split(family[1]) or tree.may_split(family[2])]
    smaller = [min(left, right, key=lambda node: tree.nodes[node].rows) for _, left, right in wanted]
    found = (yield from lines.ask_sums(tree, smaller)) if smaller else {}
    for (parent, left, right), small in zip(wanted, smaller, strict=True):
        whole = tree.nodes[parent].sums
        if whole is not None:
            tree.nodes[small].sums = found[small]
            tree.nodes[left + right - small].sums = whole - found[small]
    for parent, _, _ in families:
        tree.nodes[parent].sums = None
    return [node for _, left, right in wanted for node in (left, right) if tree.may_split(node)]


def _leaf_values(tree: GrowingTree, gradients: Floats, hessians: Floats) -> Floats:
    """Return every node's Newton step, which counts at leaves, times the learning rate."""
    places, count = tree.places[: tree.rows], len(tree.nodes)
    g = np.bincount(places, gradients, count)
    h = np.bincount(places, hessians, count) + tree.params.l2
    steps = np.divide(-g, h, out=np.zeros(count), where=h > 0)
    values: Floats = steps * tree.params.learning_rate
    if tree.params.objective == POISSON:
        # With a log link log(1 + step) is the leaf's own optimum for λ = 0: beyond it scores would grow without end.
        values = np.minimum(values, np.log1p(np.maximum(steps, 0)))
    return values


def _note(run: _ActiveRun, state: ActiveState) -> str:
    leaves = ", ".join(str(tree.leaves) for tree in state.trees[-len(run.base) :][:5])
    note = f"loss {state.losses[-1]:.6f}"
    if run.validates:
        note += f", validation {state.validation_losses[-1]:.6f}"
    return f"{note}, {leaves} leaves"


def _finish(run: _ActiveRun, state: ActiveState) -> Dialogue[ActiveResult]:
    rounds, note = len(state.losses), ""
    if run.params.patience:
        kept = int(np.argmin(state.validation_losses)) + 1
        if kept < rounds:
            note = f"the best of {rounds} rounds is round {kept}"
        rounds = kept
    trees = state.trees[: rounds * len(run.base)]
    importances = [_importance(trees, 0, np.arange(len(run.lines.own.bins)), len(run.lines.own.bins))]
    for place, (peer, made) in enumerate(zip(run.setting.peers, state.made, strict=True), start=1):
        width = int(np.count_nonzero(run.lines.space.party == place))
        importances.append(_importance(trees, place, made, width))
        yield from send(peer, Order(END, len(trees)))
        yield from send(peer, Finish(len(trees), _gains(trees, place) if run.params.share_gains else np.empty(0)))
    model = ActiveModel(run.params.objective, run.base, tuple(run.setting.peers), len(run.lines.own.bins), tuple(trees))
    leaves = np.array([tree.leaves for tree in trees], np.int64)
    losses = state.losses[:rounds]
    return ActiveResult(model, BoostingReport(losses, state.validation_losses, leaves, tuple(importances), note))


def _importance(trees: tuple[Tree, ...], place: int, columns: Integers, count: int) -> Importance:
    """Return the importance of the columns of a party whose k-th split is by ``columns[k]``."""
    splits = [tree.split[tree.party == place] for tree in trees]
    gains = [tree.gains[tree.party == place] for tree in trees]
    none = np.empty(0, np.int64)
    return importance(columns[np.concatenate([none, *splits])], np.concatenate([np.empty(0), *gains]), count)


def _gains(trees: tuple[Tree, ...], place: int) -> Floats:
    """Return the gains of a party's splits in the order of their numbers."""
    numbers = np.concatenate([np.empty(0, np.int64), *(tree.split[tree.party == place] for tree in trees)])
    gains = np.concatenate([np.empty(0), *(tree.gains[tree.party == place] for tree in trees)])
    return gains[np.argsort(numbers)]


# --- a passive party -----------------------------------------------------------------------------------------------


def train_passive(
    binned: BinnedColumns,
    params: BoostingParams,
    setting: BoostingSetting,
    setup: PassiveSetUp,
    *,
    validation: BinnedColumns | None = None,
) -> Dialogue[PassiveModel]:
    """Return a passive party's half of the model: its own splits.

    Raises:
        DataError: Validation rows have other columns than training rows.
        RemoteProtocolError: The active party has other rows or parameters, or sends something malformed.
        UsageError: The set-up is that of other columns, or the training takes more than ``max_sums_per_row``.
    """
    setting.check_role(active=False)
    parts = [binned] if validation is None else [binned, validation]
    if parts[-1].bins != binned.bins:
        raise DataError("validation rows have other columns or bins than training rows: bin them alike")
    if sorted(setup.order.tolist()) != list(range(len(binned.bins))):
        raise UsageError(f"the set-up is for {len(setup.order)} columns, the table has {len(binned.bins)}")
    rows = Rows(tuple(part.pick(setup.order) for part in parts))
    shown_columns = rows.parts[0]
    prg = setting.prg.derive("vertical_boosting/answers")
    side = setup.setup.side(BinnedMatrix(shown_columns.codes, shown_columns.bins), peer=setting.active, prg=prg)
    answering = Answering(setting.active, rows, side, params)
    hello = Hello(binned.rows, rows.count - binned.rows, params.terms)
    yield from send(setting.active, hello)
    _compare(setting.active, hello, (yield from receive(setting.active, Hello)))
    state = yield from resume(PassiveState, setting.peers)
    model, trees = yield from _answer(answering, state or PassiveState(_no_splits(len(binned.bins)), 0, 0, 0))
    return (yield from _kept(setting.active, model, trees, setup.order))


def _no_splits(columns: int) -> PassiveModel:
    none = np.empty(0, np.int64)
    masks = np.empty((0, MASK_BYTES), np.uint8)
    return PassiveModel(columns, none, masks, none, none, np.empty(0, np.bool_), np.empty(0))


def _answer(answering: Answering, state: PassiveState) -> Dialogue[tuple[PassiveModel, int]]:
    """Do what the active party orders until it ends the training; return all splits, and the number of trees."""
    model, rounds, active = state.model, state.rounds, answering.active
    tree = PassiveTree(state.trees, Reach(answering.rows), state.sums)
    most = answering.params.rounds * answering.params.classes
    yield from progress(rounds, answering.params.rounds, _outlook(answering))
    while True:
        order = yield from receive(active, Order)
        if order.what == SUMS:
            yield from answering.sums(tree, order.count)
        elif order.what == SPLITS:
            model = yield from answering.splits(tree, order.count, model)
        elif order.what == TREE and order.count == tree.number + 1 <= most:
            tree = PassiveTree(order.count, Reach(answering.rows), tree.answered)
        elif order.what == ROUND and order.count == rounds + 1 < answering.params.rounds:
            rounds += 1
            yield from _told(rounds, answering, model, tree.answered)
            yield from checkpoint(PassiveState(model, tree.number, rounds, tree.answered))
        elif order.what == END:
            yield from _told(rounds + 1, answering, model, tree.answered)
            return model, tree.number
        else:
            raise RemoteProtocolError(f"{active}: orders {shown(order.what)} {order.count} after tree {tree.number}")


def _allowed(answering: Answering) -> int:
    return int(answering.params.max_sums_per_row * answering.rows.parts[0].rows)


def _outlook(answering: Answering) -> str:
    """Return what is to be told at the start if the plan may take more sums than are allowed."""
    most, allowed = answering.params.most_sums, _allowed(answering)
    return f"may ask for {most} sums or more, {allowed} are allowed (max_sums_per_row)" if most > allowed else ""


def _told(rounds: int, answering: Answering, model: PassiveModel, sums: int) -> Dialogue[None]:
    note = f"{len(model.features)} splits by own columns, {sums} of {_allowed(answering)} sums answered"
    yield from progress(rounds, answering.params.rounds, note)


def _kept(active: PartyId, model: PassiveModel, trees: int, order: Integers) -> Dialogue[PassiveModel]:
    """Return the splits of the trees that the active party keeps, with the party's own numbers of its columns."""
    finish = yield from receive(active, Finish)
    count = int(np.count_nonzero(model.trees < finish.trees))
    if not 0 <= finish.trees <= trees or len(finish.gains) not in (0, count):
        raise RemoteProtocolError(f"{active}: keeps {finish.trees} of {trees} trees, with {len(finish.gains)} gains")
    if not np.isfinite(finish.gains).all():
        raise RemoteProtocolError(f"{active}: a gain is NaN or infinite")
    return PassiveModel(
        model.columns,
        order[model.features[:count]],
        model.left[:count],
        model.trees[:count],
        model.parents[:count],
        model.sides[:count],
        finish.gains,
    )
