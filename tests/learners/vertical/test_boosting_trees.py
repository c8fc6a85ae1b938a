"""Trees are those of a brute-force grower on the pooled bins, whatever the parties, sampling and kinds of columns."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import converse
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting import objectives, packing
from unseen.learners.vertical.boosting.growing import GrowingTree
from unseen.learners.vertical.boosting.sampling import draw_columns, draw_rows
from unseen.learners.vertical.boosting.scoring import raw_scores, score_passive
from unseen.learners.vertical.boosting.setting import BoostingParams, BoostingSetting
from unseen.learners.vertical.boosting.setup import set_up_active, set_up_passive
from unseen.learners.vertical.boosting.splits import Split, goes_left
from unseen.learners.vertical.boosting.training import LabelledRows, train_active, train_passive
from unseen.protocols.linear_map.lattice import Lattice
from unseen.protocols.linear_map.plain import Plain

PARTIES = tuple(PartyId(name) for name in ("bank", "shop", "telco"))
SEED = bytes(range(32))
PLAIN = Plain(simulation=True)


def columns(rows, width, seed, *, most=9):
    """Columns of all kinds: every third one categories, every second one with a bin of missing values."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(3, most + 1, width)
    codes = np.stack([rng.integers(0, count, rows) for count in bins]) if width else np.empty((0, rows))
    kinds = [(place % 3 == 2, place % 2 == 1) for place in range(width)]
    return BinnedColumns(
        codes.astype(np.uint8),
        tuple(bins.tolist()),
        tuple(categorical for categorical, _ in kinds),
        tuple(missing for _, missing in kinds),
    )


def labels_for(binned, seed, objective="binary", classes=1):
    rng = np.random.default_rng(seed)
    score = sum(rng.normal(size=256)[codes] for codes in binned.codes) / 2
    if objective == "binary":
        return (rng.uniform(size=binned.rows) < 1 / (1 + np.exp(-score))).astype(float)
    if objective == "multiclass":
        return np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)).astype(float)
    return (
        rng.poisson(np.exp(score / 4)).astype(float) if objective == "poisson" else score + rng.normal(size=len(score))
    )


def setting(me, parties):
    return BoostingSetting(me, parties[0], parties[1:], Prg(SEED).derive(me))


def train(blocks, labels, params, *, weights=None, late=None, scheme=PLAIN, **options):
    """Results of all parties; ``late`` are validation blocks and labels; ``options`` are those of ``converse``."""
    parties = PARTIES[: len(blocks)]
    late_blocks, late_labels = late or ([None] * len(blocks), None)

    def active(me):
        setup = yield from set_up_active(blocks[0].rows, scheme, me)
        validation = LabelledRows(late_blocks[0], late_labels) if late else None
        rows = LabelledRows(blocks[0], labels, weights)
        return (yield from train_active(rows, params, me, setup, validation=validation))

    def passive(me, binned, validation):
        setup = yield from set_up_passive(binned, scheme, me)
        return (yield from train_passive(binned, params, me, setup, validation=validation))

    talks = {parties[0]: active(setting(parties[0], parties))}
    for party, block, late_block in zip(parties[1:], blocks[1:], late_blocks[1:], strict=True):
        talks[party] = passive(setting(party, parties), block, late_block)
    return converse(talks, **options)


def score(results, blocks):
    parties = PARTIES[: len(blocks)]
    talks = {parties[0]: raw_scores(results[parties[0]].model, blocks[0], setting(parties[0], parties))}
    for party, block in zip(parties[1:], blocks[1:], strict=True):
        talks[party] = score_passive(results[party], block, setting(party, parties))
    return converse(talks)[parties[0]]


def shuffled(blocks):
    """The blocks as the active party knows them: passive columns in the order of their set-up."""
    parties = PARTIES[: len(blocks)]
    return [
        block
        if party == parties[0]
        else block.pick(setting(party, parties).prg.derive("vertical_boosting/order").permutation(len(block.bins)))
        for party, block in zip(parties, blocks, strict=True)
    ]


def pooled(blocks):
    return BinnedColumns(
        np.concatenate([block.codes for block in blocks]),
        *(sum((getattr(block, name) for block in blocks), ()) for name in ("bins", "categorical", "missing")),
    )


# --- the reference -------------------------------------------------------------------------------------------------


class Grower:
    """Grows trees from all columns, fixed-point numbers and the definition, one row and one candidate at a time."""

    def __init__(self, binned, params, packed, allowed):
        self.binned, self.params, self.allowed = binned, params, allowed
        self.g, self.h = (values.tolist() for values in packed.unpack(packed.vectors))
        self.scales = packed.gradient_scale, packed.hessian_scale

    def term(self, g, h):
        value = g / self.scales[0]
        return value * value / (h / self.scales[1] + self.params.l2)

    def candidates(self, feature, g, h):
        """Sets of bins that may go left, in the order of preference."""
        count, missing = self.binned.bins[feature], self.binned.missing[feature]
        if self.binned.categorical[feature]:
            smoothing = self.params.category_smoothing * self.scales[1]
            used = [code for code in range(count) if h[code] > 0]
            ranked = sorted(used, key=lambda code: (g[code] / (h[code] + smoothing), code))
            yield from (set(ranked[:size]) for size in range(1, len(ranked)))
            return
        numbers = count - missing
        for last in range(numbers):
            yield set(range(last + 1))
            if missing:
                yield {*range(last + 1), count - 1}

    def best(self, rows):
        total_g, total_h = sum(self.g[row] for row in rows), sum(self.h[row] for row in rows)
        best = None
        for feature in np.flatnonzero(self.allowed).tolist():
            g, h = [0] * 256, [0] * 256
            for row in rows:
                code = int(self.binned.codes[feature, row])
                g[code] += self.g[row]
                h[code] += self.h[row]
            for left in self.candidates(feature, g, h):
                left_g, left_h = sum(g[code] for code in left), sum(h[code] for code in left)
                weights = left_h / self.scales[1], (total_h - left_h) / self.scales[1]
                if min(left_h, total_h - left_h) <= 0 or min(weights) < self.params.min_child_weight:
                    continue
                halves = self.term(left_g, left_h) + self.term(total_g - left_g, total_h - left_h)
                gain = halves - self.term(total_g, total_h)
                if gain > max(self.params.min_split_gain, 1e-10 * halves) and (best is None or gain > best[0]):
                    best = gain, feature, frozenset(left)
        return best

    def may_split(self, rows, depth):
        weight = sum(self.h[row] for row in rows) / self.scales[1]
        return depth < self.params.max_depth and len(rows) > 1 and weight >= 2 * self.params.min_child_weight

    def grow(self):
        """Splits as {path: (feature, left bins)} and leaves as {path: rows}, a path being a text of L and R."""
        leaves, splits = {"": list(range(self.binned.rows))}, {}
        open_ = {"": self.best(leaves[""])} if self.may_split(leaves[""], 0) else {}
        order = {"": 0}
        while len(leaves) < self.params.max_leaves:
            ranked = sorted((p for p in open_ if open_[p]), key=lambda path: (-open_[path][0], order[path]))
            chosen = ranked[:1] if self.params.growth == "leaf" else ranked[: self.params.max_leaves - len(leaves)]
            if not chosen:
                break
            new = {}
            for path in sorted(chosen, key=order.get):
                _, feature, left = open_.pop(path)
                splits[path] = feature, left
                rows = leaves.pop(path)
                for side, inside in (("L", True), ("R", False)):
                    leaves[path + side] = [r for r in rows if (self.binned.codes[feature, r] in left) == inside]
                    order[path + side] = len(order)
                    new[path + side] = leaves[path + side]
            open_ |= {path: self.best(rows) for path, rows in new.items() if self.may_split(rows, len(path))}
        return splits, leaves


def reference(blocks, labels, params, weights=None):
    """Splits of all trees and the scores of all rows."""
    binned, parties = pooled(shuffled(blocks)), PARTIES[: len(blocks)]
    prg, weights = setting(parties[0], parties).prg, np.ones(binned.rows) if weights is None else weights
    weights = weights * objectives.class_factors(labels, params)
    bits = packing.LARGEST_BITS
    scores = np.tile(objectives.base_scores(labels, weights, params), (binned.rows, 1))
    forest = []
    for number in range(params.rounds):
        draw = prg.derive("vertical_boosting/round", number.to_bytes(8, "little"))
        g, h = (values * weights[:, None] for values in objectives.derivatives(scores, labels, params))
        factors = draw_rows(g, params, draw.derive("rows"))
        for output in range(scores.shape[1]):
            own = draw.derive("tree", output.to_bytes(8, "little"))
            packed = packing.pack(g[:, output] * factors, h[:, output] * factors, bits, own.derive("packing"))
            grower = Grower(binned, params, packed, draw_columns(len(binned.bins), params, own.derive("columns")))
            splits, leaves = grower.grow()
            forest.append(splits)
            for rows in leaves.values():
                step = -g[rows, output].sum() / (h[rows, output].sum() + params.l2)
                value = params.learning_rate * step
                most = np.log1p(step) if params.objective == "poisson" and step > 0 else value
                scores[rows, output] += min(value, most)
    return forest, scores


def bins_of(mask):
    return frozenset(np.flatnonzero(np.unpackbits(mask)).tolist())


def splits_of(results, blocks):
    """What ``reference`` calls splits, put together from all parties' halves."""
    parties = PARTIES[: len(blocks)]
    starts = np.cumsum([0, *(len(block.bins) for block in blocks)])
    places = []
    for party, block in zip(parties, blocks, strict=True):
        order = setting(party, parties).prg.derive("vertical_boosting/order").permutation(len(block.bins))
        places.append(np.argsort(order))
    forest = []
    for tree in results[parties[0]].model.trees:
        paths, splits = {0: ""}, {}
        for node in np.flatnonzero(tree.party >= 0).tolist():
            party, split = int(tree.party[node]), int(tree.split[node])
            if party == 0:
                found = split, bins_of(tree.masks[node])
            else:
                half = results[parties[party]]
                found = int(starts[party] + places[party][half.features[split]]), bins_of(half.left[split])
            splits[paths[node]] = found
            paths |= {int(tree.left[node]): paths[node] + "L", int(tree.left[node]) + 1: paths[node] + "R"}
        forest.append(splits)
    return forest


def check(blocks, labels, params, **options):
    results = train(blocks, labels, params, **options)
    forest, scores = reference(blocks, labels, params, options.get("weights"))
    found = splits_of(results, blocks)
    assert found == forest
    assert sum(map(len, found)) > 0
    np.testing.assert_allclose(score(results, blocks), scores, rtol=0, atol=1e-12)
    return results


# --- identical to the reference ------------------------------------------------------------------------------------

# Few rows: small leaves, and as many sums as there may be.
TINY = {"min_rows_in_leaf": 1, "max_sums_per_row": 100.0}
SMALL = BoostingParams(rounds=3, max_depth=4, max_leaves=9, min_child_weight=0.5, **TINY)


def test_leaves_have_enough_rows_where_hessians_count_them():
    blocks = [columns(300, width, seed) for seed, width in enumerate((2, 3))]
    params = dataclasses.replace(SMALL, objective="squared", max_leaves=31, min_child_weight=0.0, min_rows_in_leaf=17)
    forest = train(blocks, labels_for(pooled(blocks), 5, "squared"), params)[PARTIES[0]].model.trees
    assert min(int(tree.rows[tree.party < 0].min()) for tree in forest) >= 17
    assert min(tree.leaves for tree in forest) > 4


@pytest.mark.parametrize(("rows", "splits_on"), [(16, False), (17, True)])
def test_a_node_beside_a_small_one_is_split_no_further(rows, splits_on):
    """Its sums are those of the parent less those of the small one."""
    params = dataclasses.replace(SMALL, min_rows_in_leaf=17)
    g, h = np.random.default_rng(4).normal(size=100), np.full(100, 0.25)
    tree = GrowingTree.root(params, packing.pack(g, h, 40, Prg(SEED)), 100, 110)
    left = np.arange(110) < rows
    share = tree.share(0, left)
    words = tree.packed.vectors[:, :rows].sum(axis=1, keepdims=True)
    assert (share.rows, share.summed) == (rows, rows)
    assert (share.gradient, share.hessian) == tuple(int(part[0]) for part in tree.packed.unpack(words))
    split = Split(0, np.zeros(32, np.uint8), 1.0, share.gradient, share.hessian)
    small, large = tree.divide(0, split, (0, 0), left, share)
    assert tree.nodes[large].summed == 100 - rows
    assert not tree.may_split(small)
    assert tree.may_split(large) == splits_on


@pytest.mark.parametrize("growth", ["depth", "leaf"])
@pytest.mark.parametrize("widths", [(5,), (3, 4), (0, 5), (3, 3, 4)])
def test_trees_are_those_of_the_brute_force_grower(growth, widths):
    blocks = [columns(250, width, seed) for seed, width in enumerate(widths)]
    labels = labels_for(pooled(blocks), 5)
    check(blocks, labels, dataclasses.replace(SMALL, growth=growth))


@pytest.mark.parametrize(
    "changes",
    [
        {"row_rate": 0.6, "column_rate": 0.5},
        {"goss_top": 0.2, "goss_other": 0.3},
        {"instance_space": "members"},
        {"l2": 0.0, "min_split_gain": 1.5, "growth": "leaf"},
        {"min_child_weight": 6.0, "max_leaves": 31},
        {"max_leaves": 5, "max_depth": 64},
        {"max_leaves": 120, "max_depth": 9, "min_child_weight": 0.0, "rounds": 1},
        {"class_weights": (1.0, 3.0)},
        {"objective": "squared"},
        {"objective": "huber", "huber_delta": 0.5},
        {"objective": "poisson"},
        {"objective": "multiclass", "classes": 3, "rounds": 2},
    ],
)
def test_every_parameter_acts_as_defined(changes):
    params = dataclasses.replace(SMALL, **changes)
    blocks = [columns(200, 4, 11), columns(200, 4, 12)]
    check(blocks, labels_for(pooled(blocks), 13, params.objective, params.classes), params)


def test_row_weights_count():
    blocks = [columns(200, 3, 1), columns(200, 3, 2)]
    labels = labels_for(pooled(blocks), 3)
    weights = np.random.default_rng(4).integers(0, 4, 200).astype(float)
    weighted = check(blocks, labels, SMALL, weights=weights)
    assert splits_of(weighted, blocks) != splits_of(train(blocks, labels, SMALL), blocks)


def test_numbers_with_words_of_their_own_give_the_trees_of_one_word():
    """A scheme that carries little needs two vectors a node; the trees are those of the same rounded numbers."""

    @dataclasses.dataclass(frozen=True, slots=True)
    class Narrow(Plain):
        def check(self, bounds):
            if bounds.result > 2.0**17:
                raise UsageError("narrow")

    blocks = [columns(400, 4, 21), columns(400, 4, 22)]
    labels = labels_for(pooled(blocks), 23)
    wide, narrow = (train(blocks, labels, SMALL, scheme=s(simulation=True)) for s in (Plain, Narrow))
    losses = [results[PARTIES[0]].report.losses[-1] for results in (wide, narrow)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    scores = score(narrow, blocks)
    truth = objectives.mean_loss(scores, labels, np.ones(400), SMALL)
    assert truth == pytest.approx(losses[1], abs=1e-12)


# --- parties make no difference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[4], [0], [2, 6]])
def test_federated_training_is_that_of_one_party(cuts):
    whole = columns(500, 8, 31)
    labels = labels_for(whole, 32)
    edges = [0, *cuts, 8]
    blocks = [whole.pick(range(first, last)) for first, last in itertools.pairwise(edges)]
    params = dataclasses.replace(SMALL, rounds=8)
    alone, joint = train([whole], labels, params), train(blocks, labels, params)
    # Columns come in another order, so that ties may fall otherwise; random data of 500 rows have none that matter.
    np.testing.assert_array_equal(alone[PARTIES[0]].report.losses, joint[PARTIES[0]].report.losses)
    np.testing.assert_array_equal(score(alone, [whole]), score(joint, blocks))


def test_lattice_gives_the_trees_of_the_plain_scheme():
    blocks = [columns(300, 3, 41), columns(300, 3, 42)]
    labels = labels_for(pooled(blocks), 43)
    params = dataclasses.replace(SMALL, rounds=2, max_leaves=5)
    safe = train(blocks, labels, params, scheme=Lattice())
    # The lattice carries fewer bits, so that the fixed-point numbers differ, and the gains in their last digits.
    open_ = train(blocks, labels, params)
    assert splits_of(safe, blocks) == splits_of(open_, blocks)
    np.testing.assert_allclose(score(safe, blocks), score(open_, blocks), rtol=0, atol=1e-12)


# --- scoring and halves of the model -------------------------------------------------------------------------------


def test_scores_of_training_rows_are_those_of_training_and_new_rows_need_no_others():
    blocks = [columns(300, 4, 51), columns(300, 4, 52), columns(300, 2, 53)]
    labels = labels_for(pooled(blocks), 54)
    results = train(blocks, labels, SMALL)
    scores = score(results, blocks)
    report = results[PARTIES[0]].report
    assert objectives.mean_loss(scores, labels, np.ones(300), SMALL) == pytest.approx(report.losses[-1], abs=1e-13)
    some = [
        BinnedColumns(block.codes[:, 100:107].copy(), block.bins, block.categorical, block.missing) for block in blocks
    ]
    np.testing.assert_array_equal(score(results, some), scores[100:107])


def test_importance_counts_splits_and_gains_for_each_side():
    blocks = [columns(300, 4, 61), columns(300, 5, 62)]
    labels = labels_for(pooled(blocks), 63)
    results = train(blocks, labels, dataclasses.replace(SMALL, share_gains=True))
    active, passive = results[PARTIES[0]].report.importances
    half = results[PARTIES[1]]
    theirs = half.importance()
    order = setting(PARTIES[1], PARTIES[:2]).prg.derive("vertical_boosting/order").permutation(5)
    np.testing.assert_array_equal(theirs.splits[order], passive.splits)
    np.testing.assert_allclose(theirs.gains[order], passive.gains)
    trees = results[PARTIES[0]].model.trees
    assert active.splits.sum() + passive.splits.sum() == sum(tree.leaves - 1 for tree in trees)
    assert active.gains.sum() + passive.gains.sum() == pytest.approx(sum(tree.gains.sum() for tree in trees))
    secretive = train(blocks, labels, SMALL)[PARTIES[1]]
    assert not len(secretive.gains)
    assert secretive.importance().splits.tolist() == theirs.splits.tolist()


def test_halves_survive_the_codec():
    blocks = [columns(100, 3, 71), columns(100, 3, 72)]
    results = train(blocks, labels_for(pooled(blocks), 73), SMALL)
    for value in results.values():
        frame = codec.encode_bytes(value)
        assert codec.encode_bytes(codec.decode(type(value), frame)) == frame


@settings(deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 255)), st.integers(0, 255), st.integers(0, 256))
def test_bins_that_go_left_are_those_of_the_mask(scattered, start, length):
    codes = np.arange(256, dtype=np.uint8)
    for places in (scattered, {(start + step) % 256 for step in range(length)}):
        mask = np.isin(codes, sorted(places))
        np.testing.assert_array_equal(goes_left(codes, np.packbits(mask)), mask)
