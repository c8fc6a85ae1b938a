import csv
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.data import readers_csv
from unseen.data.cells import Limits
from unseen.data.import_report import Cause
from unseen.data.readers import inspect_file, read_table
from unseen.data.schema import Kind, Role
from unseen.errors import DataError, UsageError

# Two sound rows, so that a label has two classes whatever else is in the file.
SOUND = b"id,y,age,town\na,0,30,Ulm\nb,1,40,Bonn\n"


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "people.csv"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def quarantine(tmp_path):
    return tmp_path / "quarantine.csv"


def quarantined(path):
    with path.open(newline="", encoding="utf-8") as text:
        return [tuple(row) for row in csv.reader(text)][1:]


def test_a_sound_file_becomes_a_table(file):
    table, report = read_table(file(SOUND))
    assert [(c.name, c.role, c.kind) for c in table.schema.columns] == [
        ("id", Role.ID, Kind.TEXT),
        ("y", Role.LABEL, Kind.INTEGER),
        ("age", Role.FEATURE, Kind.INTEGER),
        ("town", Role.FEATURE, Kind.TEXT),
    ]
    assert table.frame()["town"].to_list() == ["Ulm", "Bonn"]
    assert (report.rows_read, report.rows_kept, report.problems, report.notes) == (2, 2, (), ())


@pytest.mark.parametrize("separator", [b",", b";", b"\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_separators_byte_order_marks_and_line_ends_make_no_difference(file, separator, bom, end):
    table, _ = read_table(file(bom + SOUND.replace(b",", separator).replace(b"\n", end).rstrip()))
    assert table == read_table(file(SOUND))[0]


def test_quoted_cells_hold_separators_quotes_and_line_ends(file):
    table, report = read_table(file(b'"id",note,y\n1,"a,\n""b""",0\n2,c,1\n'))
    assert table.frame()["note"].to_list() == ['a,\n"b"', "c"]
    assert report.rows_kept == 2


def test_kinds_are_found_from_all_cells(file):
    content = b"id,int,real,truth,text,empty,exponent\n1,1,1,true,x,,1e3\n2,-2,2.5,False,1, ,.5\n3,,,,,,\n"
    table, report = read_table(file(content))
    kinds = {column.name: column.kind for column in table.schema.columns}
    assert list(kinds.values()) == [
        Kind.INTEGER,
        Kind.INTEGER,
        Kind.REAL,
        Kind.BOOLEAN,
        Kind.TEXT,
        Kind.REAL,
        Kind.REAL,
    ]
    np.testing.assert_array_equal(table.matrix(["int", "truth"]), [[1, 1], [-2, 0], [np.nan, np.nan]])
    assert report.missing == (("int", 1), ("real", 1), ("truth", 1), ("text", 1), ("empty", 3), ("exponent", 1))


def test_ids_keep_every_character(file):
    table, _ = read_table(file(b"id,x\n007,1\n7,2\n+7,3\n"))
    assert table.ids() == [b"007", b"7", b"+7"]
    assert read_table(file(b"id,x\n7,1\n-12,2\n"))[0].schema.id.kind is Kind.INTEGER


def test_roles_and_kinds_can_be_given(file):
    content = b"ssn,id,cost,weight\n1,5,0,2\n2,5,1,0.5\n"
    table, _ = read_table(file(content), {"ssn": Role.ID, "cost": Role.LABEL}, kinds={"id": Kind.TEXT})
    assert (table.schema.id.name, table.schema.label.name, table.schema.weight.name) == ("ssn", "cost", "weight")
    assert table.schema.column("id").kind is Kind.TEXT
    assert table.weights().tolist() == [2, 0.5]


@pytest.mark.parametrize(
    ("content", "roles", "kinds", "message"),
    [
        (b"ID,x\n1,2\n", None, None, "no column is called id"),
        (b"id,y,label\n1,0,1\n", None, None, "columns y and label could both be the label"),
        (b"id,x\n1,2\n", {"z": Role.LABEL}, None, "no column z"),
        (b"id,x\n1,2\n", None, {"z": Kind.REAL}, "no column z"),
        (b"id,x\n1,2\n", {"x": Role.ID, "id": Role.ID}, None, "exactly one id"),
        (b"id,x\n1,2\n", None, {"id": Kind.REAL}, "has to be integer or text"),
    ],
)
def test_roles_that_do_not_fit_are_refused(file, content, roles, kinds, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_table(file(content), roles, kinds=kinds)
    assert "people.csv" in str(caught.value)


# --- bad rows: the lines they add to SOUND, and cause, places, example, quarantined (line, text) ------------------

ROW_CASES = [
    (b"c,1,5\n", Cause.RAGGED_ROW, ["line 4"], "3 cells, expected 4", [(4, "c,1,5")]),
    (b"c,1,5,x,\n", Cause.RAGGED_ROW, ["line 4"], "5 cells, expected 4", [(4, "c,1,5,x,")]),
    (b'c,1,5,"x"y\n', Cause.BAD_QUOTES, ["line 4"], "',' expected after '\"'", [(4, 'c,1,5,"x"y')]),
    (b'c,1,5,"x\nd,1,6,z\n', Cause.BAD_QUOTES, ["line 4"], "unexpected end of data", [(4, 'c,1,5,"x')]),
    (b"c,1,5,K\xf6ln\n", Cause.BAD_ENCODING, ["line 4"], "c 1 5 K\\xf6ln", [(4, "c,1,5,K\\xf6ln")]),
    (b'c,1,5,"a\nb\xff"\nd,0,1,x\n', Cause.BAD_ENCODING, ["line 4"], "c 1 5 a\nb\\xff", [(4, 'c,1,5,"a\nb\\xff"')]),
    (
        b",1,5,x\n \t,0,6,x\n",
        Cause.MISSING_ID,
        ["line 4, column id", "line 5, column id"],
        "",
        [(4, ",1,5,x"), (5, " \t,0,6,x")],
    ),
    (
        b"c,1,5,x\nc,0,6,z\n",
        Cause.DUPLICATE_ID,
        ["line 4, column id", "line 5, column id"],
        "c",
        [(4, "c,1,5,x"), (5, "c,0,6,z")],
    ),
    (b"c,1,nan,x\n", Cause.NOT_FINITE, ["line 4, column age"], "nan", [(4, "c,1,nan,x")]),
    (b"c,1,-Infinity,x\n", Cause.NOT_FINITE, ["line 4, column age"], "-Infinity", [(4, "c,1,-Infinity,x")]),
    (b"c,1,1e999,x\n", Cause.NOT_FINITE, ["line 4, column age"], "1e999", [(4, "c,1,1e999,x")]),
    (b"c,NaN,5,x\n", Cause.NOT_FINITE, ["line 4, column y"], "NaN", [(4, "c,NaN,5,x")]),
    (b"c,1,forty,x\n", Cause.MIXED_TYPES, ["line 4, column age"], "forty", [(4, "c,1,forty,x")]),
    (
        b"c,1,5," + b"x" * 99 + b"\n",
        Cause.LONG_CELL,
        ["line 4"],
        "99 bytes, allowed are 64",
        [(4, "c,1,5," + "x" * 99)],
    ),
]


@pytest.mark.parametrize("case", ROW_CASES)
def test_bad_rows_are_refused_strictly_and_quarantined_leniently(file, quarantine, case):
    lines, cause, places, example, texts = case
    path, limits = file(SOUND + lines), Limits(max_cell_bytes=64)
    report = inspect_file(path, limits=limits)
    (problem,) = report.problems
    assert (problem.cause, [str(place) for place in problem.places], problem.example) == (cause, places, example)
    assert problem.count == len(places)

    with pytest.raises(DataError) as caught:
        read_table(path, limits=limits)
    text = str(caught.value)
    assert f"{cause} ({len(places)}): {'; '.join(places)}: " in text
    assert "people.csv" in text
    assert str(problem) in text

    table, lenient = read_table(path, quarantine=quarantine, limits=limits)
    assert quarantined(quarantine) == [(str(line), str(cause), original) for line, original in texts]
    assert lenient.rows_read == lenient.rows_kept + len(texts)
    assert table.ids()[:2] == [b"a", b"b"]
    assert lenient == report


def test_ids_may_repeat_if_they_are_meant_to(file, quarantine):
    content = SOUND + b"a,1,5,x\nb,0,6,y\nb,0,7,y\n,0,8,z\n"
    table, report = read_table(file(content), repeated_ids=True, quarantine=quarantine)
    assert table.ids() == [b"a", b"b", b"a", b"b", b"b"]
    assert report.notes == ("rows that share their id with another one: 5",)
    assert [row[:2] for row in quarantined(quarantine)] == [("7", "missing id")]
    assert inspect_file(file(content), repeated_ids=True) == report
    with pytest.raises(DataError, match=r"duplicate id \(5\): .*say that ids may repeat \(repeated_ids\)"):
        read_table(file(content))


def test_a_declared_text_keeps_its_zeros(file):
    content = b"id,phone\n1,0170123\n2,0049 89 1\n3,\n"
    assert read_table(file(b"id,phone\n1,0170123\n2,089\n3,\n"))[0].schema.column("phone").kind is Kind.INTEGER
    table, _ = read_table(file(content), kinds={"phone": Kind.TEXT})
    assert table.texts("phone").to_list() == ["0170123", "0049 89 1", None]


def test_cells_do_not_show_in_errors(file):
    with pytest.raises(DataError) as caught:
        read_table(file(SOUND + b"secret-id,1,secret-age,x\nsecret-id,1,4,x\n"))
    assert "secret" not in str(caught.value)


def test_all_problems_are_told_at_once_and_a_row_is_quarantined_once(file, quarantine):
    content = SOUND + b"c,1,nan,x\nc,0,old,y\nd,1\n"
    table, report = read_table(file(content), quarantine=quarantine)
    assert {problem.cause: problem.count for problem in report.problems} == {
        Cause.RAGGED_ROW: 1,
        Cause.DUPLICATE_ID: 2,
        Cause.NOT_FINITE: 1,
        Cause.MIXED_TYPES: 1,
    }
    assert quarantined(quarantine) == [
        ("4", "duplicate id; NaN or infinity", "c,1,nan,x"),
        ("5", "duplicate id; mixed types", "c,0,old,y"),
        ("6", "ragged row", "d,1"),
    ]
    assert (report.rows_read, report.rows_kept, table.rows) == (5, 2, 2)


def test_the_first_ten_places_are_told(file):
    report = inspect_file(file(SOUND + b"".join(b"c%d\n" % n for n in range(200))))
    (problem,) = report.problems
    assert problem.count == 200
    assert [place.line for place in problem.places] == list(range(4, 14))
    assert "and 190 more" in str(problem)


@pytest.mark.parametrize("weight", [b"", b"-1", b"heavy", b"inf"])
def test_weights_have_to_be_numbers_of_zero_or_more(file, weight):
    report = inspect_file(file(b"id,weight\n1,1\n2,0\n3,2\n4," + weight + b"\n"))
    (problem,) = report.problems
    assert [str(place) for place in problem.places] == ["line 5, column weight"]


# --- problems of the whole file ----------------------------------------------------------------------------------

FILE_CASES = [
    (b"", Cause.EMPTY_FILE),
    (b"id,y\n", Cause.EMPTY_FILE),
    (b"id,y\n\n\n", Cause.EMPTY_FILE),
    (b"id,y\n1\n2\n", Cause.EMPTY_FILE),
    (b"\nid,y\n1,0\n", Cause.BAD_HEADER),
    (b"17,0.5\n18,0.7\n", Cause.BAD_HEADER),
    (b"id,age,age\n1,2,3\n", Cause.BAD_HEADER),
    (b"id,,age\n1,2,3\n", Cause.BAD_HEADER),
    (b"id,\xff\n1,2\n", Cause.NOT_TEXT),
    (b'id,"a"b\n1,2\n', Cause.BAD_HEADER),
    (b"id,y\r1,0\r2,1\r", Cause.BAD_HEADER),
    ("id,y\n1,0\n".encode("utf-16"), Cause.NOT_TEXT),
    (b"id,y\n1,1\n2,1\n3,\n", Cause.ONE_CLASS_LABEL),
    (b"id,y\n1,\n2,\n", Cause.ONE_CLASS_LABEL),
    (b"id;x\n1;0,5\n2;1,25\n3;\n", Cause.DECIMAL_COMMA),
]


@pytest.mark.parametrize(("content", "cause"), FILE_CASES)
def test_problems_of_the_whole_file_are_refused_leniently_too(file, quarantine, content, cause):
    path = file(content)
    report = inspect_file(path)
    assert cause in {problem.cause for problem in report.problems}
    assert report.fatal
    for options in ({}, {"quarantine": quarantine}):
        with pytest.raises(DataError, match=str(cause)):
            read_table(path, **options)
    assert not quarantine.exists()


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"id,age,age\n1,2,3\n", "number 3"), (b"id,,age\n1,2,3\n", "number 2"), (b"id,x,\n1,2,\n", "number 3")],
)
def test_a_bad_name_is_told_by_its_place(file, content, place):
    with pytest.raises(DataError, match=f"bad header .*line 1, column {place}: "):
        read_table(file(content))


def test_a_column_declared_text_may_have_commas(file):
    assert read_table(file(b"id;x\n1;0,5\n2;1,25\n"), kinds={"x": Kind.TEXT})[0].frame()["x"].to_list() == [
        "0,5",
        "1,25",
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path)


def test_labels_are_noted_unless_they_are_0_and_1(file):
    assert inspect_file(file(SOUND)).notes == ()
    (note,) = inspect_file(file(b"id,y\n1,good\n2,bad\n3,good\n")).notes
    assert note == "label y is not 0 or 1: text, 2 different values"


def test_passed_over_blank_lines_and_padded_ids_are_noted(file):
    notes = inspect_file(file(b"id,x\n a,1\n\nb,2\n\n")).notes
    assert notes == (
        "blank lines passed over: 2",
        "ids with blanks around them, which match only the same blanks elsewhere: 1",
    )


# --- limits and blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "limits", "message"),
    [
        (b"id,a,b\n1,2,3\n", Limits(max_columns=2), "line 1: the header has 3 columns, allowed are 2"),
        (SOUND + b"c" * 99, Limits(max_line_bytes=50), "line 4: .* more than 50 bytes"),
        (b"x" * 99, Limits(max_line_bytes=50), "line 1: .* more than 50 bytes"),
        (SOUND + b'c,1,5,"x\n' + b"d,0,1,y\n" * 20, Limits(max_line_bytes=50), "line 10: .*close the quote"),
    ],
)
def test_limits(file, content, limits, message):
    with pytest.raises(DataError, match=message):
        read_table(file(content), limits=limits)


@pytest.mark.parametrize("sizes", [{"max_columns": 0}, {"max_cell_bytes": 1 << 20}])
def test_limits_that_cannot_hold_are_refused(sizes):
    with pytest.raises(UsageError):
        Limits(**sizes)


@pytest.mark.parametrize("rows", [3, 20_000])
def test_an_open_quote_costs_one_row_wherever_its_reading_ends(file, quarantine, rows):
    lines = b"".join(b"%d,0,1,x\n" % n for n in range(rows))
    table, report = read_table(file(SOUND + b'c,1,5,"x\n' + lines), quarantine=quarantine)
    assert [(problem.cause, problem.count) for problem in report.problems] == [(Cause.BAD_QUOTES, 1)]
    assert quarantined(quarantine) == [("4", "bad quotes", 'c,1,5,"x')]
    assert table.rows == 2 + rows


@pytest.mark.parametrize("end", [0, 1])
def test_blocks_leave_no_trace(file, monkeypatch, end):
    content = b"id,y,x\n" + b"".join(b'%d,%d,"%d\n"\n' % (n, n % 2, n) for n in range(20 + end))
    whole = read_table(file(content))
    monkeypatch.setattr(readers_csv, "BLOCK_ROWS", 5)
    assert read_table(file(content)) == whole
    monkeypatch.setattr(readers_csv, "BLOCK_BYTES", 30)
    assert read_table(file(content)) == whole


def test_places_are_right_beyond_the_first_block(file, monkeypatch):
    monkeypatch.setattr(readers_csv, "BLOCK_ROWS", 4)
    content = b"id,x\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(10)) + b"bad,nan\n1,2,3\n"
    assert [str(place) for problem in inspect_file(file(content)).problems for place in problem.places] == [
        "line 13",
        "line 12, column x",
    ]


def test_python_objects_exist_for_one_block_only(file):
    rows = 6 * readers_csv.BLOCK_ROWS
    path = file(b"id,a,b,c\n" + b"".join(b"%d,1.5,2.5,3.5\n" % n for n in range(rows)))
    tracemalloc.start()
    try:
        report = inspect_file(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.rows_kept == rows
    # All cells as Python objects would take more than 200 bytes a row.
    assert peak < 110 * rows


def test_lenient_reading_needs_a_quarantine_of_its_own(file):
    path = file(SOUND)
    with pytest.raises(UsageError, match="is the file to be read"):
        read_table(path, quarantine=path)
    assert path.read_bytes() == SOUND


cells = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6),
    st.sampled_from(["", " ", "nan", "-inf", "1", "0", "2.5", "true", "x;y", '"', "1e400", "0,5"]),
)


@example(rows=[["0", "", ""]], noise=b"\r\0")
@settings(deadline=None, derandomize=True, max_examples=150)
@given(rows=st.lists(st.lists(cells, min_size=2, max_size=4), max_size=12), noise=st.binary(max_size=8))
def test_every_row_is_kept_or_quarantined_whatever_is_in_the_file(tmp_path_factory, rows, noise):
    folder = tmp_path_factory.mktemp("csv")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["id", "a", "b"], *rows])
    path, quarantine = folder / "people.csv", folder / "quarantine.csv"
    path.write_bytes(text.getvalue().encode() + noise)
    report = inspect_file(path)
    try:
        table, lenient = read_table(path, quarantine=quarantine)
    except DataError:
        assert report.fatal
        return
    assert lenient == report
    assert table.rows == report.rows_kept
    assert len(quarantined(quarantine)) == report.rows_quarantined
    assert len(set(table.ids())) == table.rows
    assert bool(report.problems) == bool(report.rows_quarantined)
