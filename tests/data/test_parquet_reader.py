import csv
import datetime
import json

import polars as pl
import pytest

from unseen.data.cells import Limits
from unseen.data.import_report import Cause
from unseen.data.readers import inspect_file, read_table
from unseen.data.schema import Kind, Role
from unseen.errors import DataError

FRAME = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d", "e"],
        "y": pl.Series([0, 1, None, 0, 1], dtype=pl.Int8),
        "n": pl.Series([1, 2, 3, 4, 5], dtype=pl.UInt16),
        "f": pl.Series([0.5, None, 2.0, 0.25, 1.0], dtype=pl.Float32),
        "g": pl.Series(["x", "y", "x", "y", "x"], dtype=pl.Categorical),
        "t": [True, False, None, True, True],
        "d": [datetime.date(2024, 1, day) for day in (1, 2, 3, 4, 5)],
        "digits": ["1", "2", "3", "4", "5"],
        "none": pl.Series([None] * 5, dtype=pl.Null),
    }
)


@pytest.fixture
def file(tmp_path):
    def write(frame, name="people.parquet"):
        frame.write_parquet(tmp_path / name)
        return tmp_path / name

    return write


def test_types_become_kinds(file):
    table, report = read_table(file(FRAME, "no-suffix"))
    assert {column.name: column.kind.value for column in table.schema.columns} == {
        "id": "text",
        "y": "integer",
        "n": "integer",
        "f": "real",
        "g": "text",
        "t": "boolean",
        "d": "text",
        "digits": "text",
        "none": "real",
    }
    assert table.schema.label.name == "y"
    assert table.frame()["d"].to_list()[0] == "2024-01-01"
    assert report.missing == (("y", 1), ("f", 1), ("t", 1), ("none", 5))


def test_csv_and_parquet_give_the_same_table(file, tmp_path):
    frame = FRAME.select("id", "y", "n", "g", "t")
    path = tmp_path / "people.csv"
    frame.write_csv(path)
    assert read_table(path)[0] == read_table(file(frame))[0]


def test_kinds_can_be_declared(file):
    kinds = {"digits": Kind.INTEGER, "n": Kind.REAL, "t": Kind.TEXT, "y": Kind.BOOLEAN}
    table, _ = read_table(file(FRAME), kinds=kinds)
    assert {name: table.schema.column(name).kind for name in kinds} == kinds
    assert table.matrix(["digits", "n"]).tolist() == [[n, n] for n in (1, 2, 3, 4, 5)]


def test_a_declared_kind_that_does_not_fit_is_mixed_types(file):
    path = file(FRAME.drop("y").with_columns(digits=pl.Series(["1", "0", "1", "2", "0"])))
    report = inspect_file(path, kinds={"f": Kind.INTEGER, "digits": Kind.BOOLEAN})
    (problem,) = report.problems
    assert problem.cause is Cause.MIXED_TYPES
    assert [str(place) for place in problem.places] == ["row 1, column f", "row 4, column digits", "row 4, column f"]


def test_nan_is_missing_and_noted_infinity_is_a_problem(file, tmp_path):
    path = file(FRAME.with_columns(f=pl.Series([float("nan"), float("-inf"), 1.0, 2.0, 3.0])))
    quarantine = tmp_path / "quarantine.csv"
    table, report = read_table(path, quarantine=quarantine)
    assert report.notes == ("NaN in column f taken as missing values: 1",)
    (problem,) = report.problems
    assert (problem.cause, str(problem.places[0])) == (Cause.NOT_FINITE, "row 2, column f")
    with quarantine.open(newline="", encoding="utf-8") as text:
        header, (row, causes, original) = csv.reader(text)
    assert (header, row, causes) == (["row", "causes", "text"], "2", "NaN or infinity")
    assert json.loads(original)["id"] == "b"
    assert table.ids() == [b"a", b"c", b"d", b"e"]


@pytest.mark.parametrize(
    ("column", "cause"),
    [
        (pl.Series("id", ["a", None, "b", "c", "d"]), Cause.MISSING_ID),
        (pl.Series("id", [1, 2, 3, 4, 4]), Cause.DUPLICATE_ID),
        (pl.Series("id", [1.0, 2.0, 3.0, 4.0, 5.0]), Cause.UNSUPPORTED_TYPE),
        (pl.Series("f", [[1], [2], [3], [4], [5]]), Cause.UNSUPPORTED_TYPE),
        (pl.Series("f", [b"1", b"2", b"3", b"4", b"5"]), Cause.UNSUPPORTED_TYPE),
        (pl.Series("f", [datetime.timedelta(days) for days in range(5)]), Cause.UNSUPPORTED_TYPE),
        (pl.Series("y", [1, 1, 1, 1, 1]), Cause.ONE_CLASS_LABEL),
        (pl.Series(" f", [1, 1, 1, 1, 1]), Cause.BAD_HEADER),
    ],
)
def test_unfit_columns_are_refused(file, column, cause):
    path = file(FRAME.with_columns(column))
    assert [problem.cause for problem in inspect_file(path).problems] == [cause]
    with pytest.raises(DataError, match=str(cause)):
        read_table(path)


def test_large_unsigned_ids_stay_whole(file):
    ids = pl.Series("id", [1, 2**64 - 1, 2**63, 4, 5], dtype=pl.UInt64)
    table, _ = read_table(file(FRAME.with_columns(ids)))
    assert table.ids() == [b"1", b"18446744073709551615", b"9223372036854775808", b"4", b"5"]


def test_a_text_weight_column_is_read_as_numbers(file):
    path = file(FRAME.with_columns(digits=pl.Series(["1", "x", "3", "4", "5"])))
    report = inspect_file(path, {"digits": Role.WEIGHT})
    assert [str(problem).split(":")[0] for problem in report.problems] == ["mixed types (1)"]


def test_limits_hold_for_parquet(file):
    with pytest.raises(DataError, match="9 columns, allowed are 5"):
        read_table(file(FRAME), limits=Limits(max_columns=5))
    with pytest.raises(DataError, match="column id: a cell has 6 bytes, allowed are 5"):
        read_table(file(FRAME.with_columns(id="id" + pl.col("id") + "000")), limits=Limits(max_cell_bytes=5))


def test_a_small_file_that_would_fill_the_memory_is_refused_before_its_rows_are_read(file, monkeypatch):
    path = file(pl.select(pl.repeat(1, 40_000_000, dtype=pl.Int8).alias("id")))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("unseen.data.readers.read_frame", None)
    with pytest.raises(DataError, match=r"40000000 cells in .* times as much memory, allowed is 200 times"):
        read_table(path)


def test_no_rows_and_damage_are_refused(file):
    with pytest.raises(DataError, match="empty file"):
        read_table(file(FRAME[:0]))
    path = file(FRAME)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        read_table(path)


def test_a_table_that_unseen_wrote_keeps_its_roles_and_kinds_unless_they_are_said(tmp_path):
    source = tmp_path / "people.csv"
    source.write_text("phone,income,bad\n0123,1,0\n0456,2.5,1\n")
    table, _ = read_table(source, {"phone": Role.ID, "bad": Role.LABEL})
    table.write(tmp_path / "people.parquet")
    assert read_table(tmp_path / "people.parquet")[0] == table
    other, _ = read_table(tmp_path / "people.parquet", {"income": Role.LABEL})
    assert other.schema.label.name == "income"
    assert other.schema.column("bad").role is Role.FEATURE
