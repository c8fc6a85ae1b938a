"""Tables of clients become inputs and labels, and what does not fit is told by client and column."""

import numpy as np
import polars as pl
import pytest

from unseen.data.federated.tables import frame_rows, read_rows, read_tables, tables_from_frames
from unseen.errors import DataError, UsageError

EAST = pl.DataFrame({"age": [20, None, 40], "limit": [0.5, 1.5, 2.5], "male": [True, False, None], "bad": [0, 1, 1]})
WEST = pl.DataFrame({"bad": [1.0], "male": [1], "limit": [7], "age": [30]})


def assert_both(tables):
    assert tables.columns == ("age", "limit", "male")
    assert (tables.data.ids, tables.data.sizes) == (("east", "west"), (3, 1))
    east, west = tables.data.client("east"), tables.data.client("west")
    np.testing.assert_array_equal(east.inputs, [[20, 0.5, 1], [np.nan, 1.5, 0], [40, 2.5, np.nan]])
    np.testing.assert_array_equal(west.inputs, [[30, 7, 1]])
    assert (east.labels.tolist(), west.labels.tolist()) == ([0, 1, 1], [1])


def test_frames_with_columns_in_any_order():
    assert_both(tables_from_frames({"east": EAST, "west": WEST}, label="bad"))


def test_a_folder_of_csv_and_parquet_files(tmp_path):
    EAST.write_csv(tmp_path / "east.csv")
    WEST.write_parquet(tmp_path / "west.parquet")
    (tmp_path / "notes.txt").touch()
    assert_both(read_tables(tmp_path, label="bad"))
    assert_both(read_tables({"east": tmp_path / "east.csv", "west": tmp_path / "west.parquet"}, label="bad"))


def test_chosen_columns_leave_the_others_out():
    east = EAST.with_columns(name=pl.lit("somebody"))
    tables = tables_from_frames({"east": east, "west": WEST}, label="bad", columns=["limit"])
    assert tables.columns == ("limit",)
    assert tables.data.client("east").inputs.shape == (3, 1)


@pytest.mark.parametrize(
    ("west", "story"),
    [
        (WEST.drop("male"), "client west has no column male"),
        (WEST.drop("bad"), "client west has no column bad"),
        (WEST.with_columns(extra=pl.lit(1)), "client west has a further column extra"),
        (WEST.with_columns(limit=pl.lit("much")), "client west, column limit: expected numbers, found String"),
        (WEST.with_columns(bad=pl.lit(None, pl.Int64)), "client west, column bad, row 1: the label is missing"),
    ],
)
def test_what_does_not_fit_is_told_by_client_and_column(west, story):
    with pytest.raises(DataError, match=story):
        tables_from_frames({"east": EAST, "west": west}, label="bad")


def test_an_empty_column_is_one_of_missing_values(tmp_path):
    (tmp_path / "one.csv").write_text("a,b,y\n,1,0\n,2,1\n")
    rows = frame_rows(read_rows(tmp_path / "one.csv"), ["a", "b"], "y", client="one")
    np.testing.assert_array_equal(rows.inputs, [[np.nan, 1], [np.nan, 2]])


@pytest.mark.parametrize(
    ("text", "story"),
    [
        ("a,y\n1,0\n2\n", "ragged row"),
        ("a,y\n1,0\n2,0\n3,0\nx,1\n", "line 5, column a: mixed types"),
        ("a,y\n1,0\n2,0\n3,0\ninf,1\n", "line 5, column a"),
        ("", "empty"),
    ],
)
def test_damaged_files_are_told_by_line(tmp_path, text, story):
    (tmp_path / "one.csv").write_text(text)
    with pytest.raises(DataError, match=story):
        read_tables(tmp_path, label="y")


def test_nobody_and_the_same_one_twice(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        read_tables(tmp_path, label="y")
    with pytest.raises(DataError, match="no clients"):
        tables_from_frames({}, label="y")
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "absent.csv")
    EAST.write_csv(tmp_path / "east.csv")
    EAST.write_parquet(tmp_path / "east.parquet")
    with pytest.raises(UsageError, match="two files are called east"):
        read_tables(tmp_path, label="bad")
