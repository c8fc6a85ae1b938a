import resource
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.data import table as table_module
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table, text_buffer
from unseen.errors import DataError, UsageError

SCHEMA = Schema(
    (
        Column("id", Role.ID, Kind.TEXT),
        Column("y", Role.LABEL, Kind.INTEGER),
        Column("w", Role.WEIGHT, Kind.REAL),
        Column("a", Role.FEATURE, Kind.INTEGER),
        Column("b", Role.FEATURE, Kind.REAL),
        Column("c", Role.FEATURE, Kind.TEXT),
        Column("d", Role.FEATURE, Kind.BOOLEAN),
    )
)
DTYPES = {
    "id": pl.String,
    "y": pl.Int64,
    "w": pl.Float64,
    "a": pl.Int64,
    "b": pl.Float64,
    "c": pl.String,
    "d": pl.Boolean,
}
FRAME = pl.DataFrame(
    {
        "id": ["p", "q", "é"],
        "y": [1, None, 0],
        "w": [1.0, 2.0, 0.5],
        "a": [7, -3, None],
        "b": [0.5, None, 1e300],
        "c": ["", None, "blue"],
        "d": [True, None, False],
    },
    schema=DTYPES,
)
# From the written form of the digest: a change means that no digest in any agreement fits any more.
DIGEST = "05ca946cb5448ca1817c9f39b18e50428f1731afca72df673db3551f23598273"

rows = st.lists(
    st.tuples(
        st.text(max_size=4),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.floats(0, 9),
        st.none() | st.integers(-9, 9),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.text(max_size=3),
        st.none() | st.booleans(),
    ),
    max_size=12,
)


def frame_of(values):
    return pl.DataFrame(values, schema=DTYPES, orient="row")


@pytest.fixture
def table():
    return Table.from_frame(FRAME, SCHEMA)


def test_the_digest_is_stable(table):
    assert table.digest == DIGEST


@settings(deadline=None, derandomize=True)
@given(rows, st.integers(0, 12))
def test_the_digest_does_not_depend_on_chunks_or_narrow_types(values, cut):
    frame = frame_of(values)
    parts = pl.concat([frame[:cut], frame[cut:]], rechunk=False)
    narrow = parts.with_columns(pl.col("a").cast(pl.Int8), pl.col("c").cast(pl.Categorical))
    # NaN in the place of missing, and negative zero, are other ways to write the same.
    dressed = narrow.with_columns(pl.col("b").fill_null(float("nan")).replace(0.0, -0.0))
    assert Table.from_frame(dressed, SCHEMA).digest == Table.from_frame(frame, SCHEMA).digest


@settings(deadline=None, derandomize=True)
@given(rows, rows)
def test_tables_are_equal_just_if_their_rows_are(left, right):
    equal = frame_of(left).equals(frame_of(right))
    assert (Table.from_frame(frame_of(left), SCHEMA) == Table.from_frame(frame_of(right), SCHEMA)) == equal


def test_every_change_of_a_value_changes_the_digest(table):
    changed = [
        {"id": ["p", "q", "e"]},
        {"id": ["pq", "", "é"]},
        {"a": [7, -3, 0]},
        {"b": [0.5, 0.0, 1e300]},
        {"c": [None, "", "blue"]},
        {"d": [True, False, False]},
        {"d": [True, None, None]},
    ]
    digests = {
        Table.from_frame(FRAME.with_columns(pl.Series(*item) for item in c.items()), SCHEMA).digest for c in changed
    }
    assert len(digests | {table.digest}) == len(changed) + 1


def test_schema_and_order_change_the_digest(table):
    swapped = Schema((*SCHEMA.columns[:3], SCHEMA.columns[4], SCHEMA.columns[3], *SCHEMA.columns[5:]))
    renamed = Schema((*SCHEMA.columns[:-1], Column("e", Role.FEATURE, Kind.BOOLEAN)))
    others = [
        Table.from_frame(FRAME, swapped),
        Table.from_frame(FRAME.rename({"d": "e"}), renamed),
        table.take(np.array([2, 1, 0])),
        table.take(np.array([0, 1])),
        table.without(Role.WEIGHT),
    ]
    assert len({table.digest, *(other.digest for other in others)}) == len(others) + 1


def test_the_digest_covers_all_blocks(monkeypatch):
    frame = pl.DataFrame({"id": [f"p{n}" for n in range(10)], "x": list(range(10))})
    schema = Schema((Column("id", Role.ID, Kind.TEXT), Column("x", Role.FEATURE, Kind.INTEGER)))
    monkeypatch.setattr(table_module, "BLOCK_ROWS", 4)
    first = Table.from_frame(frame, schema).digest
    last_changed = frame.with_columns(x=pl.when(pl.col("x") == 9).then(0).otherwise(pl.col("x")))
    assert Table.from_frame(last_changed, schema).digest != first


def test_matrix_label_and_weights(table):
    matrix = table.matrix(["a", "b", "d"])
    np.testing.assert_array_equal(matrix, [[7, 0.5, 1], [-3, np.nan, np.nan], [np.nan, 1e300, 0]])
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(table.label(), [1, np.nan, 0])
    assert table.label_missing().tolist() == [False, True, False]
    assert table.weights().tolist() == [1, 2, 0.5]
    assert table.without(Role.WEIGHT).weights().tolist() == [1, 1, 1]


def test_text_is_no_number(table):
    with pytest.raises(UsageError, match="column c holds text"):
        table.matrix()


def test_a_missing_label_column_is_said(table):
    with pytest.raises(UsageError, match="no label"):
        table.without(Role.LABEL).label()


def test_ids_are_the_same_bytes_as_text_and_as_integers():
    text = Schema((Column("id", Role.ID, Kind.TEXT),))
    number = Schema((Column("id", Role.ID, Kind.INTEGER),))
    as_text = Table.from_frame(pl.DataFrame({"id": ["17", "-4", "0"]}), text)
    as_number = Table.from_frame(pl.DataFrame({"id": [17, -4, 0]}), number)
    assert as_text.ids() == as_number.ids() == [b"17", b"-4", b"0"]


def test_the_id_buffer_holds_the_ids(table):
    content, offsets = table.id_buffer()
    parts = [content[a:b].tobytes() for a, b in pairwise(offsets)]
    assert parts == table.ids() == [b"p", b"q", "é".encode()]
    empty, zero = table.take(np.empty(0, np.int64)).id_buffer()
    assert (len(empty), zero.tolist()) == (0, [0])


def test_the_buffer_of_texts_is_made_in_blocks(monkeypatch):
    texts = pl.Series(["a", None, "", "éé", "名前", "\0", "b" * 300])
    monkeypatch.setattr(table_module, "BLOCK_ROWS", 2)
    for values in (texts, pl.concat([texts[:3], texts[3:]], rechunk=False)):
        content, offsets = text_buffer(values)
        assert [content[a:b].tobytes() for a, b in pairwise(offsets)] == [
            (value or "").encode() for value in texts.to_list()
        ]
        assert offsets[-1] == len(content)


def test_columns_of_text_and_integers_can_be_read_as_text(table):
    assert table.texts("a").to_list() == ["7", "-3", None]
    assert table.texts("c").to_list() == ["", None, "blue"]
    with pytest.raises(UsageError, match="column b holds real, expected text or integer"):
        table.texts("b")


def test_whole_numbers_are_read_exactly():
    schema = Schema((*SCHEMA.columns[:1], Column("a", Role.LABEL, Kind.INTEGER), SCHEMA.columns[6], SCHEMA.columns[5]))
    large = 2**53 + 1
    frame = FRAME.with_columns(a=pl.Series([large, -large, 0]), d=pl.Series([True, False, True]))
    table = Table.from_frame(frame, schema)
    numbers = table.integers(["d", "a"])
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [[1, large], [0, -large], [1, 0]]
    assert table.take(np.empty(0, np.int64)).integers(["a"]).shape == (0, 1)
    with pytest.raises(UsageError, match="column c holds text, expected integers or truth values"):
        table.integers(["c"])


def test_absent_whole_numbers_are_told(table):
    with pytest.raises(DataError, match="column a: 1 of 3 values are missing"):
        table.integers(["a"])


def test_row_numbers_take_the_place_of_ids(table):
    numbered = table.numbered()
    assert numbered.schema.names == ("row", *SCHEMA.names[1:])
    assert numbered.schema.id == Column("row", Role.ID, Kind.INTEGER)
    assert numbered.ids() == [b"0", b"1", b"2"]
    assert numbered.frame().drop("row").equals(table.frame().drop("id"))
    assert Table.from_frame(numbered.frame(), numbered.schema) == numbered
    assert numbered.take(np.array([2, 0])).ids() == [b"2", b"0"]
    assert numbered.numbered() == numbered


def test_row_numbers_take_no_other_columns_name():
    schema = Schema((Column("id", Role.ID, Kind.TEXT), Column("row", Role.FEATURE, Kind.INTEGER)))
    numbered = Table.from_frame(pl.DataFrame({"id": ["p", "q"], "row": [7, 8]}), schema).numbered()
    assert numbered.frame().to_dict(as_series=False) == {"row_": [0, 1], "row": [7, 8]}


def test_rows_are_spread_with_gaps(table):
    spread = table.spread(np.array([-1, 2, -1, 0, 2]))
    kept = spread.frame().drop("row").rows()
    blank = (None,) * (len(SCHEMA.names) - 1)
    mine = table.frame().drop("id").rows()
    assert kept == [blank, mine[2], blank, mine[0], mine[2]]
    assert spread.ids() == [b"0", b"1", b"2", b"3", b"4"]
    assert Table.from_frame(spread.frame(), spread.schema) == spread
    assert spread.label_missing().tolist() == [True, False, True, False, False]
    assert table.spread(np.empty(0, np.int64)).rows == 0
    assert table.take(np.empty(0, np.int64)).spread(np.array([-1, -1])).rows == 2


@pytest.mark.parametrize("index", [-2, 3])
def test_spread_refuses_rows_that_are_not_there(table, index):
    with pytest.raises(UsageError, match="numbered 0 to 2"):
        table.spread(np.array([-1, index]))


def test_take_repeats_and_reorders(table):
    assert table.take(np.array([2, 0, 2])).ids() == ["é".encode(), b"p", "é".encode()]


@pytest.mark.parametrize("index", [-1, 3])
def test_take_refuses_rows_that_are_not_there(table, index):
    with pytest.raises(UsageError, match="numbered 0 to 2"):
        table.take(np.array([0, index]))


def test_features_can_be_replaced(table):
    replaced = table.with_features(np.array([[1.0, np.nan], [2, 5], [3, 6]]), ["u", "v"])
    assert replaced.schema.feature_names == ("u", "v")
    np.testing.assert_array_equal(replaced.matrix(), [[1, np.nan], [2, 5], [3, 6]])
    assert replaced.frame()["v"].null_count() == 1
    assert replaced.ids() == table.ids()


@pytest.mark.parametrize(
    ("matrix", "names", "error"),
    [
        (np.zeros((2, 1)), ["u"], UsageError),
        (np.zeros((3, 2)), ["u"], UsageError),
        (np.zeros((3, 1)), ["id"], UsageError),
        (np.full((3, 1), np.inf), ["u"], DataError),
    ],
)
def test_misfitting_features_are_refused(table, matrix, names, error):
    with pytest.raises(error):
        table.with_features(matrix, names)


def test_select_keeps_id_label_and_weight(table):
    assert table.select(["d", "a"]).schema.names == ("id", "y", "w", "a", "d")
    with pytest.raises(UsageError, match="column y is the label"):
        table.select(["y"])


def test_no_table_is_without_ids(table):
    with pytest.raises(UsageError, match="exactly one id"):
        table.without(Role.ID)


def test_the_frame_is_a_copy(table):
    before = table.digest
    frame = table.frame()
    frame[0, "a"] = 99
    frame.drop_in_place("b")
    assert Table.from_frame(table.frame(), SCHEMA).digest == before


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("a", ["x", "y", "z"], "column a: expected integer"),
        ("a", [1.5, 2.0, 3.0], "column a: expected integer"),
        ("d", [0, 1, 2], "column d: expected boolean"),
        ("b", [1.0, float("inf"), 0.0], "column b holds infinite"),
        ("id", ["p", None, "q"], "column id: 1 of 3 rows have no id"),
    ],
)
def test_unfit_values_are_refused(column, values, message):
    with pytest.raises(DataError, match=message):
        Table.from_frame(FRAME.with_columns(pl.Series(column, values)), SCHEMA)


def test_an_absent_column_is_named():
    with pytest.raises(DataError, match="lacks column b"):
        Table.from_frame(FRAME.drop("b"), SCHEMA)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(rows)
def test_a_written_table_is_read_back(tmp_path_factory, values):
    table = Table.from_frame(frame_of(values), SCHEMA)
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    table.write(path)
    assert Table.read(path) == table
    assert Table.read(path).frame().equals(table.frame())
    assert [file.name for file in path.parent.iterdir()] == ["t.parquet"]


def test_a_changed_file_is_refused(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    note = pl.read_parquet_metadata(path)[table_module._METADATA]
    forged = table.frame().with_columns(pl.lit(8, pl.Int64).alias("a"))
    forged.write_parquet(path, metadata={table_module._METADATA: note})
    with pytest.raises(DataError, match=f"recorded is {table.digest}"):
        Table.read(path)


@pytest.mark.parametrize(
    "note", [None, "", "{}", '{"format": 2, "schema": "", "digest": ""}', '{"format": 1, "schema": "", "digest": ""}']
)
def test_other_parquet_files_are_no_tables(tmp_path, note):
    path = tmp_path / "t.parquet"
    FRAME.write_parquet(path, metadata=None if note is None else {table_module._METADATA: note})
    with pytest.raises(DataError):
        Table.read(path)


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"id,x\n1,2\n"])
def test_absent_and_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet"):
        Table.read(path)


def test_damaged_files_never_give_another_table(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 23):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            assert Table.read(path) == table
        except DataError:
            refused += 1
    assert refused > 20


def test_a_failed_write_leaves_the_old_file(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    with pytest.raises(DataError, match="cannot be written"):
        table.write(tmp_path / "absent" / "t.parquet")
    assert Table.read(path) == table


def test_a_full_disk_is_told_and_leaves_no_file(tmp_path):
    frame = pl.DataFrame({"id": range(100_000)})
    table = Table.from_frame(frame, Schema((Column("id", Role.ID, Kind.INTEGER),)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r"t\.parquet cannot be written: .*too large"):
            table.write(tmp_path / "t.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
