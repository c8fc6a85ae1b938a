import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.catalog.split import COMPONENT, Assignment, SplitParams, assign
from unseen.component import Role, Task
from unseen.crypto.prg import Prg
from unseen.dialogue import converse, send
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId, StepId

PARTS = ("train", "test", "unlabelled")
ROWS = 200


def labels(rows=ROWS, positives=40, unknown=20):
    values = [None] * unknown + [1] * positives + [0] * (rows - unknown - positives)
    return [values[place] for place in np.random.default_rng(3).permutation(rows)]


@pytest.fixture
def tables(table_of):
    ids = [f"p{number}" for number in range(ROWS)]
    bank = table_of({"id": ids, "y": labels(), "x": [1.0] * ROWS})
    return {"bank": {"table": bank}, "shop": {"table": table_of({"id": ids, "z": [float(n) for n in range(ROWS)]})}}


def test_every_person_is_in_one_part_and_all_parties_agree_on_it(run_step, tables):
    results = run_step(COMPONENT, tables, {"test": 0.25})
    for part in PARTS:
        assert results["bank"][part].ids() == results["shop"][part].ids()
    everybody = [name for part in PARTS for name in results["bank"][part].ids()]
    assert sorted(everybody) == sorted(tables["bank"]["table"].ids())
    assert set(results["shop"]["train"].schema.names) == {"id", "z"}


def test_parts_are_stratified(run_step, tables):
    results = run_step(COMPONENT, tables, {"test": 0.25})["bank"]
    counts = {part: np.unique(results[part].label(), return_counts=True)[1].tolist() for part in PARTS[:2]}
    assert counts == {"train": [105, 30], "test": [35, 10]}
    assert results["unlabelled"].rows == 20
    assert results["unlabelled"].label_missing().all()
    assert not results["train"].label_missing().any()
    assert not results["test"].label_missing().any()


def test_without_stratification_only_the_share_counts(run_step, tables):
    results = run_step(COMPONENT, tables, {"test": 0.25, "stratify": False})["bank"]
    assert (results["train"].rows, results["test"].rows, results["unlabelled"].rows) == (135, 45, 20)
    assert results["test"].label().sum() != 10


def test_who_is_in_which_part_depends_on_the_secret_only(run_step, tables):
    first, second = (run_step(COMPONENT, tables)["bank"]["test"].ids() for _ in range(2))
    assert first == second
    shuffled = Prg(bytes([1] * 32)).permutation(ROWS)
    other = assign(tables["bank"]["table"], SplitParams(), shuffled)
    assert [name for name, part in zip(tables["bank"]["table"].ids(), other, strict=True) if part == 1] != first


@pytest.mark.parametrize(
    "part", [np.zeros(ROWS - 1), np.zeros(ROWS + 1), np.full(ROWS, 3), np.zeros(0), np.r_[np.zeros(ROWS - 1), 255]]
)
def test_a_malformed_assignment_is_refused(tables, part):
    bank, shop = PartyId("bank"), PartyId("shop")
    task = Task(
        me=shop,
        step=StepId("split"),
        roles={bank: Role.ACTIVE, shop: Role.PASSIVE},
        params=SplitParams(),
        inputs=tables["shop"],
        prg=Prg(bytes(32)),
    )
    with pytest.raises(RemoteProtocolError, match=f"bank: a split of {len(part)} rows does not fit {ROWS} rows"):
        converse({bank: send(shop, Assignment(part.astype(np.uint8))), shop: COMPONENT.run(task)})


@pytest.mark.parametrize("known", [[], [1], [0, 1]])
def test_too_few_labelled_people_cannot_be_split(table_of, known):
    rows = len(known) + 3
    table = table_of({"id": [str(n) for n in range(rows)], "y": [*known, None, None, None]})
    with pytest.raises(DataError, match=f"{len(known)} of {rows} shared people have a label, too few"):
        assign(table, SplitParams(), np.arange(rows))


def test_the_active_party_needs_a_label(run_step, tables):
    with pytest.raises(UsageError, match="the table has no label"):
        run_step(COMPONENT, tables, active="shop")


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 9), st.floats(0.2, 0.8), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_shares_are_as_asked_for(table_of, zeros, ones, unknown, test, stratify):
    values = [0] * zeros + [1] * ones + [None] * unknown
    table = table_of({"id": [str(n) for n in range(len(values))], "y": values})
    order = np.random.default_rng(zeros * ones).permutation(len(values))
    groups = [zeros, ones] if stratify else [zeros + ones]
    wanted = sum(round(test * size) for size in groups)
    if not 0 < wanted < zeros + ones:
        return
    part = assign(table, SplitParams(test=test, stratify=stratify), order)
    assert (part == 2).tolist() == [value is None for value in values]
    assert int((part == 1).sum()) == wanted
