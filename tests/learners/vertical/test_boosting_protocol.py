"""What is said, and to whom; malformed messages; checkpoints."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import MemoryCheckpoints, Send, converse
from unseen.errors import Cancelled, DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting import scoring
from unseen.learners.vertical.boosting.exchange import Lines, Order, Splits
from unseen.learners.vertical.boosting.scoring import ScoreRequest, score_active, score_passive
from unseen.learners.vertical.boosting.setting import BoostingParams, BoostingSetting
from unseen.learners.vertical.boosting.setup import Layout, PassiveSetUp, set_up_active, set_up_passive
from unseen.learners.vertical.boosting.training import Finish, Hello, LabelledRows, train_active, train_passive
from unseen.protocols.linear_map.plain import Plain

BANK, SHOP, TELCO = PARTIES = tuple(PartyId(name) for name in ("bank", "shop", "telco"))
# Few rows: small leaves, and as many sums as there may be.
TINY = {"min_rows_in_leaf": 1, "max_sums_per_row": 100.0}
PARAMS = BoostingParams(rounds=4, max_depth=3, max_leaves=6, min_child_weight=0.2, **TINY)
ROWS, LATE = 120, 30


def columns(rows, width, seed):
    codes = np.random.default_rng(seed).integers(0, 6, (width, rows)).astype(np.uint8)
    return BinnedColumns(codes, (6,) * width, (False,) * width, (False,) * width)


def setting(me, parties=PARTIES):
    return BoostingSetting(me, parties[0], parties[1:], Prg(bytes(32)).derive(me))


def labels_of(rows, seed):
    return np.random.default_rng(seed).integers(0, 2, rows).astype(float)


def active(me, params, *, rows=ROWS):
    setup = yield from set_up_active(rows, Plain(simulation=True), me)
    train = LabelledRows(columns(rows, 3, 1), labels_of(rows, 2))
    validation = LabelledRows(columns(LATE, 3, 3), labels_of(LATE, 4))
    return (yield from train_active(train, params, me, setup, validation=validation))


def passive(me, params, seed):
    binned = columns(ROWS, 3, seed)
    setup = yield from set_up_passive(binned, Plain(simulation=True), me)
    return (yield from train_passive(binned, params, me, setup, validation=columns(LATE, 3, seed + 1)))


def dialogues(params=PARAMS, count=3):
    parties = PARTIES[:count]
    talks = {BANK: active(setting(BANK, parties), params)}
    return talks | {party: passive(setting(party, parties), params, 10 * i) for i, party in enumerate(parties[1:], 1)}


def frames(results):
    return {party: codec.encode_bytes(result) for party, result in results.items()}


# --- checkpoints ---------------------------------------------------------------------------------------------------


class CutOff(MemoryCheckpoints):
    """Holds the first few checkpoints of another store."""

    def __init__(self, whole, count):
        super().__init__()
        self._states[None] = whole._states[None][:count]


class StopAfter:
    """Asks to stop at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


SAMPLED = dataclasses.replace(PARAMS, goss_top=0.2, goss_other=0.3, column_rate=0.7, share_gains=True)


def test_training_resumed_after_any_round_ends_bit_identical():
    stores = {party: MemoryCheckpoints() for party in PARTIES}
    whole = frames(converse(dialogues(SAMPLED), checkpoints=stores))
    assert stores[BANK].held(None) == 3
    for count in range(1, 4):
        # One party may have kept one more than the others.
        cut = {party: CutOff(store, count + (party == TELCO)) for party, store in stores.items()}
        assert frames(converse(dialogues(SAMPLED), checkpoints=cut)) == whole


@pytest.mark.parametrize("policy", ["everyone", "members"])
def test_training_stopped_anywhere_goes_on_bit_identical(policy):
    params = dataclasses.replace(SAMPLED, instance_space=policy)
    whole = frames(converse(dialogues(params)))
    for looks in range(10, 400, 37):
        stores = {party: MemoryCheckpoints() for party in PARTIES}
        with pytest.raises(Cancelled):
            converse(dialogues(params), checkpoints=stores, cancel=StopAfter(looks))
        assert frames(converse(dialogues(params), checkpoints=stores)) == whole


# --- early stopping and progress -----------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_round_at_every_party():
    params = dataclasses.replace(PARAMS, rounds=40, patience=3, learning_rate=0.5)
    results = converse(dialogues(params))
    report, model = results[BANK].report, results[BANK].model
    best = int(np.argmin(report.validation_losses)) + 1
    assert len(report.losses) == len(model.trees) == best < len(report.validation_losses) == best + 3
    assert report.note == f"the best of {best + 3} rounds is round {best}"
    for place, party in enumerate((SHOP, TELCO), start=1):
        numbers = [split for tree in model.trees for split in tree.split[tree.party == place]]
        assert sorted(numbers) == list(range(len(results[party].features)))


def test_each_round_is_told_as_progress():
    events = []
    results = converse(dialogues(), observe=events.append)
    mine = [event for event in events if event.party == BANK]
    assert [(event.done, event.total) for event in mine] == [(k, 4) for k in range(5)]
    assert f"loss {results[BANK].report.losses[-1]:.6f}, validation" in mine[-1].note
    theirs = [event for event in events if event.party == SHOP]
    assert [event.done for event in theirs] == [0, 1, 2, 3, 4]


# --- what is said, and to whom -------------------------------------------------------------------------------------


def overheard(dialogue, heard, change=lambda message: message):
    """Pass a dialogue on, note what it sends, and send something else instead."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            effect = Send(effect.peer, change(effect.message))
            heard.append((effect.peer, effect.message))
        answer = yield effect


def arrays_of(heard, dtype):
    """Shapes of the arrays that were sent."""
    headers = [message for _, message in heard if type(message).wire_name == "dialogue/array-header"]
    return [header.shape for header in headers if header.dtype == dtype]


@pytest.mark.parametrize("growth", ["depth", "leaf"])
def test_passive_parties_get_one_vector_for_every_two_children_and_no_rows(growth):
    heard, talks = [], dialogues(dataclasses.replace(PARAMS, growth=growth), 2)
    results = converse(talks | {BANK: overheard(talks[BANK], heard)})
    vectors = [shape[0] for shape in arrays_of(heard, "<i8")]
    trees = results[BANK].model.trees
    # The root and the smaller child of each division after which another one is possible.
    assert sum(vectors) <= sum(tree.leaves - 1 for tree in trees)
    assert max(vectors) <= (1 if growth == "leaf" else 2)
    assert not arrays_of(heard, "|u1")
    orders = Counter(message.what for _, message in heard if isinstance(message, Order))
    assert orders["tree"] == 4
    assert orders["round"] == 3


def test_policies_differ_in_who_learns_rows():
    everyone, members, bits = [], [], {}
    for policy, heard in (("everyone", everyone), ("members", members)):
        talks, answers = dialogues(dataclasses.replace(PARAMS, instance_space=policy), 2), []
        wrapped = {BANK: overheard(talks[BANK], heard), SHOP: overheard(talks[SHOP], answers)}
        bits[policy] = converse(wrapped)[BANK], answers
    assert not arrays_of(everyone, "|u1")
    assert arrays_of(members, "|u1") == arrays_of(bits["members"][1], "|u1")
    assert codec.encode_bytes(bits["everyone"][0]) == codec.encode_bytes(bits["members"][0])

    def ones(heard):
        chunks = [message.data for _, message in heard if type(message).wire_name == "dialogue/array-chunk"]
        return sum(int(np.unpackbits(data).sum()) for data in chunks if data.nbytes % ((ROWS + LATE + 7) // 8) == 0)

    assert ones(bits["members"][1]) < ones(bits["everyone"][1])


def test_rows_that_own_splits_exclude_are_blank():
    heard, results = [], converse(dialogues(count=2))
    half, blocks = results[SHOP], columns(ROWS, 3, 10)
    below = np.flatnonzero(half.parents >= 0)
    assert len(below)
    party = BoostingSetting(SHOP, BANK, (SHOP,), Prg(bytes(32)))
    lead = BoostingSetting(BANK, BANK, (SHOP,), Prg(bytes(32)))
    talks = {BANK: score_active(results[BANK].model, columns(ROWS, 3, 1), lead)}
    converse(talks | {SHOP: overheard(score_passive(half, blocks, party), heard)})
    (data,) = [message.data for _, message in heard if type(message).wire_name == "dialogue/array-chunk"]
    bits = np.unpackbits(data.reshape(len(half.features), -1), axis=1, count=ROWS).astype(bool)

    def left(split):
        return np.isin(blocks.codes[half.features[split]], np.flatnonzero(np.unpackbits(half.left[split])))

    for split in below:
        parent, inside = int(half.parents[split]), np.ones(ROWS, bool)
        side = bool(half.sides[split])
        while parent >= 0:
            inside &= left(parent) == side
            parent, side = int(half.parents[parent]), bool(half.sides[parent])
        np.testing.assert_array_equal(bits[split], left(split) & inside)


def test_many_trees_are_scored_in_groups(monkeypatch):
    results = converse(dialogues())
    blocks = {BANK: columns(50, 3, 5), SHOP: columns(50, 3, 6), TELCO: columns(50, 3, 7)}

    def talks():
        yield BANK, score_active(results[BANK].model, blocks[BANK], setting(BANK))
        yield from ((party, score_passive(results[party], blocks[party], setting(party))) for party in PARTIES[1:])

    whole = converse(dict(talks()))[BANK]
    monkeypatch.setattr(scoring, "GROUP_BYTES", 30)
    heard, split = [], dict(talks())
    split[BANK] = overheard(split[BANK], heard)
    np.testing.assert_array_equal(converse(split)[BANK], whole)
    requests = [message for peer, message in heard if isinstance(message, ScoreRequest) and peer == SHOP]
    assert len(requests) > 2
    assert sum(request.trees for request in requests) == 4
    assert ((whole > 0) & (whole < 1)).all()


# --- malformed messages --------------------------------------------------------------------------------------------


def with_(kind, **changes):
    """Change fields of messages of one kind; a callable gets the field's value."""

    def change(message):
        if type(message) is not kind:
            return message
        new = {k: v(getattr(message, k)) if callable(v) else v for k, v in changes.items()}
        return dataclasses.replace(message, **new)

    return change


def mask(*places):
    left = np.zeros(256, bool)
    left[list(places)] = True
    return lambda masks: np.tile(np.packbits(left), (len(masks), 1))


@pytest.mark.parametrize(
    ("party", "change", "says"),
    [
        (SHOP, with_(Layout, bins=np.array([6, 6])), "shop: announces 2 columns"),
        (SHOP, with_(Layout, bins=np.array([6, 0, 6])), "shop: a column has 1 to 256 bins"),
        (
            SHOP,
            with_(Layout, bins=np.full(513, 256), categorical=np.zeros(513, bool), missing=np.zeros(513, bool)),
            "shop: announces 131328 bins of all columns, at most 131072 are taken",
        ),
        (SHOP, with_(Hello, rows=7), "shop: has 7 training and 30 validation rows"),
        (BANK, with_(Hello, terms=("rounds=\x1b9",)), r"bank: rounds=\\x1b9 there is not so here"),
        (BANK, with_(Order, what="dance\x1b"), r"bank: orders dance\\x1b"),
        (BANK, with_(Order, count=77), "bank: asks for 77"),
        (BANK, with_(Order, count=0), "bank: "),
        (BANK, with_(Splits, columns=lambda old: old + 9), "bank: splits by column"),
        (BANK, with_(Splits, columns=lambda old: old - 9), "bank: splits by column"),
        (BANK, with_(Splits, left=mask()), "bank: a split sends impossible bins"),
        (BANK, with_(Splits, left=mask(6)), "bank: a split sends impossible bins"),
        (BANK, with_(Splits, left=mask(*range(6))), "bank: a split sends impossible bins"),
        (BANK, with_(Splits, parents=lambda old: old + 100), "bank: a split is said to be below"),
        (BANK, with_(Splits, sides=np.empty(0, bool)), "bank: asks for"),
        (BANK, with_(Finish, trees=99), "bank: keeps 99 of 4 trees"),
        (BANK, with_(Finish, gains=np.ones(1)), "bank: keeps 4 of 4 trees, with 1 gains"),
        (BANK, with_(Finish, gains=lambda old: np.full(1, np.nan)), "bank: "),
    ],
)
def test_malformed_messages_are_refused_by_name(party, change, says):
    talks = dialogues(count=2)
    talks[party] = overheard(talks[party], [], change)
    with pytest.raises(RemoteProtocolError, match=says):
        converse(talks)


def test_sums_that_do_not_add_up_are_refused():
    talks = dialogues(count=2)

    def other(message):
        name = type(message).wire_name
        if name == "dialogue/array-chunk" and message.data.nbytes == 3 * 6 * 8:
            return dataclasses.replace(message, data=np.roll(message.data, 1))
        return message

    talks[SHOP] = overheard(talks[SHOP], [], other)
    with pytest.raises(RemoteProtocolError, match="shop: the sums over a column's bins do not add up"):
        converse(talks)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("what", ["bits", "sums"])
def test_a_party_whose_sums_and_rows_disagree_is_named(count, what):
    talks, liar = dialogues(count=count), PARTIES[count - 1]

    def other(message):
        if type(message).wire_name != "dialogue/array-chunk":
            return message
        if what == "bits" and message.data.nbytes % ((ROWS + LATE + 7) // 8) == 0:
            return dataclasses.replace(message, data=np.zeros_like(message.data))
        if what == "sums" and message.data.nbytes % (3 * 6 * 8) == 0:
            # Still adds up: the bins of every column in reverse.
            sums = message.data.view("<i8").reshape(-1, 3, 6)[:, :, ::-1].copy()
            return dataclasses.replace(message, data=sums.reshape(-1).view(np.uint8).reshape(message.data.shape))
        return message

    talks[liar] = overheard(talks[liar], [], other)
    with pytest.raises(RemoteProtocolError, match=f"{liar}: the rows that go left at a split are not those"):
        converse(talks)


def test_a_passive_party_answers_no_more_sums_than_agreed():
    events = []
    converse(dialogues(count=2), observe=events.append)
    notes = [event.note for event in events if event.party == SHOP]
    asked = int(notes[-1].split(", ")[1].split()[0])
    assert notes[0] == ""
    assert notes[-1].endswith(f"{asked} of {100 * ROWS} sums answered")
    enough = dataclasses.replace(PARAMS, max_sums_per_row=asked / ROWS)
    events.clear()
    converse(dialogues(enough, 2), observe=events.append)
    assert "may ask for 20 sums or more" in next(event.note for event in events if event.party == SHOP)
    heard, talks = [], dialogues(dataclasses.replace(PARAMS, max_sums_per_row=(asked - 1) / ROWS), 2)
    talks[SHOP] = overheard(talks[SHOP], heard)
    with pytest.raises(UsageError, match=rf"bank asks for sum {asked} over 120 .* allows {asked - 1}: .* fewer rounds"):
        converse(talks)
    assert sum(shape[0] for shape in arrays_of(heard, "<i8")) < asked


def test_a_passive_party_that_resumes_goes_on_counting():
    stores = {party: MemoryCheckpoints() for party in PARTIES[:2]}
    events = []
    converse(dialogues(count=2), checkpoints=stores, observe=events.append)
    whole = [event.note for event in events if event.party == SHOP][-1]
    events.clear()
    cut = {party: CutOff(store, 2) for party, store in stores.items()}
    converse(dialogues(count=2), checkpoints=cut, observe=events.append)
    assert [event.note for event in events if event.party == SHOP][-1] == whole


@pytest.mark.parametrize(("rate", "least"), [(1.0, 15), (0.6, 8)])
def test_sums_over_few_rows_are_never_asked_for(monkeypatch, rate, least):
    asked, ask = [], Lines.ask_sums

    def spy(lines, tree, nodes):
        asked.extend(int(np.count_nonzero(tree.vectors([node]).any(axis=0))) for node in nodes)
        return (yield from ask(lines, tree, nodes))

    monkeypatch.setattr(Lines, "ask_sums", spy)
    params = dataclasses.replace(PARAMS, rounds=8, max_depth=6, max_leaves=31, min_rows_in_leaf=least, row_rate=rate)
    (tree, *_) = converse(dialogues(params, 2))[BANK].model.trees
    assert len(asked) > 8
    assert min(asked) >= least
    assert tree.leaves > 2


@pytest.mark.parametrize("trees", [2, 4])
def test_a_request_for_too_many_trees_at_a_time_is_refused(monkeypatch, trees):
    results, parties = converse(dialogues(count=2)), PARTIES[:2]
    monkeypatch.setattr(scoring, "GROUP_BYTES", 5)
    talks = {
        BANK: overheard(
            score_active(results[BANK].model, columns(40, 3, 1), setting(BANK, parties)),
            [],
            with_(ScoreRequest, trees=lambda old: old and trees),
        ),
        SHOP: score_passive(results[SHOP], columns(40, 3, 1), setting(SHOP, parties)),
    }
    with pytest.raises(RemoteProtocolError, match=r"bank: asks for .* bytes at a time, expected 5 or one tree"):
        converse(talks)


@pytest.mark.parametrize(
    "change", [with_(ScoreRequest, rows=9), with_(ScoreRequest, first=1), with_(ScoreRequest, trees=-1)]
)
def test_malformed_score_requests_are_refused(change):
    results = converse(dialogues(count=2))
    parties = PARTIES[:2]
    talks = {
        BANK: overheard(score_active(results[BANK].model, columns(40, 3, 1), setting(BANK, parties)), [], change),
        SHOP: score_passive(results[SHOP], columns(40, 3, 1), setting(SHOP, parties)),
    }
    with pytest.raises(RemoteProtocolError, match="bank: "):
        converse(talks)


def test_a_half_of_another_model_is_refused():
    first, second = converse(dialogues(count=2)), converse(dialogues(dataclasses.replace(PARAMS, rounds=9), count=2))
    parties = PARTIES[:2]
    talks = {
        BANK: score_active(second[BANK].model, columns(40, 3, 1), setting(BANK, parties)),
        SHOP: score_passive(first[SHOP], columns(40, 3, 1), setting(SHOP, parties)),
    }
    with pytest.raises(RemoteProtocolError, match="shop: expected an array"):
        converse(talks)


# --- misuse --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "magic"}, "objective is one of"),
        ({"growth": "up"}, "growth is one of"),
        ({"instance_space": "none"}, "instance_space is one of"),
        ({"classes": 3}, "classes is at least 2"),
        ({"rounds": 0}, "rounds lies between"),
        ({"learning_rate": 0.0}, "learning_rate lies between"),
        ({"l2": float("nan")}, "l2 lies between"),
        ({"max_leaves": 1}, "max_leaves lies between"),
        ({"goss_top": 0.9, "goss_other": 0.2}, "goss_top"),
        ({"goss_top": 0.1, "row_rate": 0.5}, "goss_top"),
        ({"class_weights": (1.0,)}, "class_weights: expected 2"),
        ({"class_weights": (1.0, 0.0)}, "class_weights are positive"),
    ],
)
def test_parameters_are_checked(change, says):
    with pytest.raises(UsageError, match=says):
        BoostingParams(**change)


def alone(labels, params=PARAMS, **options):
    rows = LabelledRows(BinnedColumns.none(len(labels)), np.asarray(labels, float), options.pop("weights", None))
    return converse({BANK: train_active(rows, params, setting(BANK, (BANK,)), **options)})


@pytest.mark.parametrize(
    ("labels", "params", "says"),
    [
        ([0, 2], PARAMS, "labels must be 0 to 1, found 0, 2"),
        ([1, 1], PARAMS, "all labels are 1"),
        ([0, np.nan], PARAMS, "missing or infinite"),
        ([], PARAMS, "expected 1 labels"),
        ([0, 0], BoostingParams(objective="poisson"), "all counts are 0"),
        ([0, -1], BoostingParams(objective="poisson"), "counts are not negative"),
        ([0, 1], BoostingParams(objective="multiclass", classes=3), "no training row has label 2"),
    ],
)
def test_unusable_labels_are_refused(labels, params, says):
    with pytest.raises(DataError, match=says):
        alone(labels, params)


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="patience needs validation rows"):
        alone([0, 1], dataclasses.replace(PARAMS, patience=2))
    with pytest.raises(DataError, match="2 finite weights"):
        alone([0, 1], weights=np.array([1.0, -1.0]))
    with pytest.raises(UsageError, match="needs a set-up for 2 rows with shop"):
        converse(
            {
                BANK: train_active(
                    LabelledRows(columns(2, 1, 1), np.array([0.0, 1])), PARAMS, setting(BANK, (BANK, SHOP))
                )
            }
        )
    with pytest.raises(UsageError, match="shop is not the active party here"):
        next(set_up_active(2, None, setting(SHOP)))
    with pytest.raises(DataError, match="shop: there are no columns"):
        next(set_up_passive(BinnedColumns.none(2), Plain(simulation=True), setting(SHOP)))
    with pytest.raises(UsageError, match="the set-up is for 2 columns"):
        next(train_passive(columns(4, 3, 1), PARAMS, setting(SHOP), PassiveSetUp(np.arange(2), None)))


def test_without_any_column_the_constant_is_the_model():
    result = alone([0, 0, 0, 1])[BANK]
    assert [tree.leaves for tree in result.model.trees] == [1]
    lead = setting(BANK, (BANK,))
    scores = converse({BANK: score_active(result.model, BinnedColumns.none(5), lead)})[BANK]
    np.testing.assert_allclose(scores, 0.25)
