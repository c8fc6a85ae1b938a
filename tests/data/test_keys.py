import unicodedata
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.data import keys as keys_module
from unseen.data.keys import (
    Cause,
    Dialling,
    Duplicates,
    JoinKeys,
    KeyColumn,
    Missing,
    Policy,
    Rule,
    apply_rule,
    join_keys,
)
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

LEAVE_OUT = Policy(missing=Missing.LEAVE_OUT)
texts = st.text(max_size=5)


def table_of(**columns):
    """Make a table of text and integer features beside an id that numbers the rows."""
    rows = len(next(iter(columns.values())))
    kinds = {
        name: Kind.INTEGER if all(type(v) is int for v in values) else Kind.TEXT for name, values in columns.items()
    }
    schema = (Column("id", Role.ID, Kind.INTEGER), *(Column(name, Role.FEATURE, kind) for name, kind in kinds.items()))
    return Table.from_frame(pl.DataFrame({"id": list(range(rows)), **columns}, strict=False), Schema(schema))


def bytes_of(keys: JoinKeys):
    return [keys.content[start:end].tobytes() for start, end in pairwise(keys.offsets)]


def ruled(rule, values, dialling=None):
    return apply_rule(rule, pl.Series(values, dtype=pl.String), dialling or Dialling()).to_list()


# --- keys --------------------------------------------------------------------------------------------------------


def test_one_column_is_its_text_and_integers_are_decimal():
    table = table_of(name=["ann", "zoë"], number=[7, -3])
    assert bytes_of(join_keys(table, [KeyColumn("name")])) == [b"ann", "zoë".encode()]
    assert bytes_of(join_keys(table, [KeyColumn("number")])) == [b"7", b"-3"]
    assert bytes_of(join_keys(table, [KeyColumn("id")])) == [b"0", b"1"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(texts, texts, st.integers(-20, 20)), max_size=8))
def test_several_columns_are_netstrings(rows):
    table = Table.from_frame(
        pl.DataFrame(
            [(n, *row) for n, row in enumerate(rows)],
            schema={"id": pl.Int64, "a": pl.String, "b": pl.String, "c": pl.Int64},
            orient="row",
        ),
        Schema(
            (
                Column("id", Role.ID, Kind.INTEGER),
                Column("a", Role.FEATURE, Kind.TEXT),
                Column("b", Role.FEATURE, Kind.TEXT),
                Column("c", Role.FEATURE, Kind.INTEGER),
            )
        ),
    )
    columns = [KeyColumn(name) for name in ("a", "b", "c")]
    keys = join_keys(table, columns, policy=Policy(Missing.LEAVE_OUT, Duplicates.ALL_PAIRS))
    whole = {n: tuple(map(str, row)) for n, row in enumerate(rows) if row[0] and row[1]}
    written = {n: b"".join(b"%d:%s" % (len(v.encode()), v.encode()) for v in row) for n, row in whole.items()}
    assert bytes_of(keys) == list(dict.fromkeys(written.values()))
    # Equal bytes only where all values are equal: the lengths see to that.
    assert len(keys) == len(set(whole.values()))
    assert {written[row] for row in keys.firsts.tolist()} == set(written.values())
    assert sorted(keys.rows.tolist()) == sorted(whole)


def test_values_do_not_run_into_each_other():
    table = table_of(a=["ab", "a", "1:a"], b=["c", "bc", "1:b"])
    assert len(set(bytes_of(join_keys(table, [KeyColumn("a"), KeyColumn("b")])))) == 3
    assert bytes_of(join_keys(table, [KeyColumn("a"), KeyColumn("b")]))[0] == b"2:ab1:c"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "found none"),
        (["name", "name"], "found name, name"),
        (["absent"], "no column absent"),
        (["real"], "column real is a feature and holds real"),
        (["y"], "column y is a label and holds integer"),
    ],
)
def test_what_cannot_be_a_key_is_refused(names, message):
    schema = Schema(
        (
            Column("name", Role.ID, Kind.TEXT),
            Column("real", Role.FEATURE, Kind.REAL),
            Column("y", Role.LABEL, Kind.INTEGER),
        )
    )
    table = Table.from_frame(pl.DataFrame({"name": ["a"], "real": [0.5], "y": [1]}), schema)
    with pytest.raises(UsageError, match=message):
        join_keys(table, [KeyColumn(name) for name in names])


# --- missing keys ------------------------------------------------------------------------------------------------


def test_rows_without_a_key_are_named_and_not_quoted():
    table = table_of(a=["x", None, "secret", "", "z", None], b=["1", "2", None, "4", "5", None])
    with pytest.raises(DataError, match=r"missing_key at rows 1, 2, 3, 5 \(from 0; 4 in all\)") as caught:
        join_keys(table, [KeyColumn("a"), KeyColumn("b")])
    assert "secret" not in str(caught.value)


def test_many_rows_are_named_in_part():
    with pytest.raises(DataError, match=r"rows 0, 1, 2, 3, 4, … \(from 0; 9 in all\)"):
        join_keys(table_of(a=[None] * 9), [KeyColumn("a")])


def test_rows_without_a_key_are_left_out_and_counted_by_cause():
    table = table_of(a=["x", None, " ", "z"], phone=["0171 1234567", "0171 2345678", "0171 3456789", "ask Ann"])
    columns = [KeyColumn("a", (Rule.TRIM,)), KeyColumn("phone", (Rule.E164,))]
    keys = join_keys(table, columns, policy=LEAVE_OUT, dialling=Dialling("49"))
    assert bytes_of(keys) == [b"1:x13:+491711234567"]
    assert keys.rows.tolist() == [0]
    assert keys.left_out == {Cause.MISSING: 2, Cause.NO_PHONE: 1}
    with pytest.raises(DataError, match=r"missing_key at rows 1, 2 .*; no_phone_number at rows 3 "):
        join_keys(table, columns, dialling=Dialling("49"))


def test_an_absent_phone_number_is_a_missing_key():
    keys = join_keys(table_of(phone=[None, "+4917112345"]), [KeyColumn("phone", (Rule.E164,))], policy=LEAVE_OUT)
    assert keys.left_out == {Cause.MISSING: 1}


def test_nothing_left_is_an_empty_list_of_keys():
    keys = join_keys(table_of(a=[None, ""]), [KeyColumn("a")], policy=LEAVE_OUT)
    assert (len(keys), keys.rows.tolist(), keys.starts.tolist(), bytes_of(keys)) == (0, [], [0], [])


# --- duplicates --------------------------------------------------------------------------------------------------

REPEATED = ["b", None, "a", "b", "c", "a", "b"]


def test_duplicates_are_refused_with_their_rows_in_the_table():
    table = table_of(a=["", "secret", "b", "c", "secret", "b"])
    with pytest.raises(DataError, match="2 of 5 rows have the key of an earlier row, first rows 1 and 4") as caught:
        join_keys(table, [KeyColumn("a")], policy=LEAVE_OUT)
    assert "secret" not in str(caught.value)


def test_the_first_row_of_each_key_stays():
    keys = join_keys(table_of(a=REPEATED), [KeyColumn("a")], policy=Policy(Missing.LEAVE_OUT, Duplicates.FIRST))
    assert bytes_of(keys) == [b"b", b"a", b"c"]
    assert keys.rows.tolist() == keys.firsts.tolist() == [0, 2, 4]
    assert keys.counts.tolist() == [1, 1, 1]
    assert keys.left_out == {Cause.MISSING: 1, Cause.DUPLICATE: 3}


def test_all_rows_of_each_key_stay_together():
    keys = join_keys(table_of(a=REPEATED), [KeyColumn("a")], policy=Policy(Missing.LEAVE_OUT, Duplicates.ALL_PAIRS))
    assert bytes_of(keys) == [b"b", b"a", b"c"]
    assert keys.rows.tolist() == [0, 3, 6, 2, 5, 4]
    assert keys.starts.tolist() == [0, 3, 5, 6]
    assert keys.firsts.tolist() == [0, 2, 4]
    assert keys.left_out == {Cause.MISSING: 1}


def test_rules_may_make_keys_equal():
    table = table_of(a=["Ann", "ann "])
    columns = [KeyColumn("a", (Rule.TRIM, Rule.CASEFOLD))]
    with pytest.raises(DataError, match="1 of 2 rows have the key of an earlier row"):
        join_keys(table, columns)


@pytest.mark.parametrize("policy", Duplicates)
def test_equal_hashes_of_different_keys_do_no_harm(monkeypatch, policy):
    monkeypatch.setattr(keys_module, "may_repeat", lambda _: True)
    keys = join_keys(table_of(a=["a", "b"]), [KeyColumn("a")], policy=Policy(duplicates=policy))
    assert (bytes_of(keys), keys.rows.tolist()) == ([b"a", b"b"], [0, 1])


# --- rules -------------------------------------------------------------------------------------------------------


def test_rules_run_in_their_order_and_are_counted():
    table = table_of(a=[" 007", "7 ", "70", "0 7"], b=["X", "x", "x", "X"])
    columns = [KeyColumn("a", (Rule.TRIM, Rule.STRIP_ZEROS)), KeyColumn("b", (Rule.CASEFOLD,))]
    keys = join_keys(table, columns, policy=Policy(duplicates=Duplicates.FIRST))
    assert bytes_of(keys) == [b"1:71:x", b"2:701:x", b"2: 71:x"]
    assert keys.changed == {"a": {Rule.TRIM: 2, Rule.STRIP_ZEROS: 2}, "b": {Rule.CASEFOLD: 2}}
    other_way = [KeyColumn("a", (Rule.STRIP_ZEROS, Rule.TRIM)), KeyColumn("b", (Rule.CASEFOLD,))]
    assert bytes_of(join_keys(table, other_way, policy=Policy(duplicates=Duplicates.FIRST)))[0] == b"3:0071:x"


def test_rules_apply_to_integers_too():
    keys = join_keys(
        table_of(a=[-12, 12]), [KeyColumn("a", (Rule.DIGITS,))], policy=Policy(duplicates=Duplicates.FIRST)
    )
    assert (bytes_of(keys), keys.changed) == ([b"12"], {"a": {Rule.DIGITS: 1}})


@pytest.mark.parametrize("rule", Rule)
def test_absent_values_stay_absent_and_rules_say_the_same_twice(rule):
    values = [None, "", "  Zoë 007 ", "+49 171 1234567", "000", "e\u0301", "ΟΔΟΣ", "STRASSE", "ẞ"]
    once = ruled(rule, values, Dialling("49"))
    assert once[0] is None
    assert ruled(rule, once, Dialling("49")) == once


def test_trim_takes_blanks_at_the_ends():
    assert ruled(Rule.TRIM, ["\t a b\u00a0\n", "a"]) == ["a b", "a"]


def test_nfc_is_the_normal_form_of_unicode():
    values = ["e\u0301", "\u212b", "plain", "\u1e9b\u0323", "각", "q\u0307\u0323"]
    assert ruled(Rule.NFC, values) == [unicodedata.normalize("NFC", value) for value in values]
    assert ruled(Rule.NFC, ["plain"]) == ["plain"]


def test_case_is_folded_as_unicode_does_but_for_the_turkish_i():
    alike = [("STRASSE", "straße", "Straße", "STRAẞE"), ("ΟΔΟΣ", "οδος", "οδοσ"), ("ZOË", "zoë"), ("ﬁ", "FI")]
    for group in alike:
        assert len(set(ruled(Rule.CASEFOLD, group))) == len({value.casefold() for value in group}) == 1
    # Letters of Latin, Greek, Cyrillic and Armenian: what falls together is what falls together in Python.
    letters = [chr(code) for code in range(0x20, 0x590) if chr(code).isalpha() and chr(code) not in "ıI\u0264\u019b"]
    pairs = set(zip(ruled(Rule.CASEFOLD, letters), (letter.casefold() for letter in letters), strict=True))
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})
    assert ruled(Rule.CASEFOLD, ["ı", "I"]) == ["i", "i"]


def test_only_ascii_digits_stay():
    assert ruled(Rule.DIGITS, ["12-34 a5", "٣4", "none"]) == ["12345", "4", ""]


def test_leading_zeros_go_and_one_of_all_zeros_stays():
    assert ruled(Rule.STRIP_ZEROS, ["007", "70", "000", "0", "", "0a"]) == ["7", "70", "0", "0", "", "a"]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("+49 170 123-4567", "+491701234567"),
        ("0049 (170) 123.4567", "+491701234567"),
        ("0170/1234567", "+491701234567"),
        ("+49 (0)170 1234567", "+491701234567"),
        ("0049 (0) 170 1234567", "+491701234567"),
        ("(0170) 123\u20134567", "+491701234567"),
        (" +1 (415) 555-2671 ", "+14155552671"),
        ("170 1234567", None),
        ("+0170 1234567", None),
        ("+49 12345", "+4912345"),
        ("+49 1234", None),
        ("+1234567890123456", None),
        ("0170 1234567 ext 3", None),
        ("++491701234567", None),
        ("n/a", None),
        ("", None),
    ],
)
def test_telephone_numbers_get_their_international_form(written, number):
    assert ruled(Rule.E164, [written], Dialling("49")) == [number]


def test_the_trunk_prefix_is_the_countrys():
    assert ruled(Rule.E164, ["612 345 678", "0034612345678"], Dialling("34", "")) == ["+34612345678"] * 2
    assert ruled(Rule.E164, ["06 30 123 4567", "30 123 4567"], Dialling("36", "06")) == ["+36301234567", None]
    assert ruled(Rule.E164, ["0170 1234567", "+49 170 1234567"]) == [None, "+491701234567"]


def test_keys_of_many_rows_are_those_of_each_row():
    rng = np.random.default_rng(3)
    names = [f"Zoë {number}" if number % 3 else f"{number:09d}" for number in rng.permutation(5000).tolist()]
    keys = join_keys(table_of(a=names), [KeyColumn("a", (Rule.CASEFOLD,))])
    assert bytes_of(keys) == [name.casefold().encode() for name in names]
    assert keys.rows.tolist() == list(range(5000))


def test_telephone_numbers_that_were_read_as_integers_are_refused():
    table = Table.from_frame(pl.DataFrame({"id": [1701234567]}), Schema((Column("id", Role.ID, Kind.INTEGER),)))
    with pytest.raises(UsageError, match="column id was read as integers, so that zeros in front are lost"):
        join_keys(table, [KeyColumn("id", (Rule.E164,))])
