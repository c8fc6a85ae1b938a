import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.data.schema import Column, Kind, Role, Schema
from unseen.errors import DataError, UsageError

ID = Column("id", Role.ID, Kind.TEXT)
LABEL = Column("y", Role.LABEL, Kind.INTEGER)
AGE = Column("age", Role.FEATURE, Kind.INTEGER)

names = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=20).filter(str.isprintable)


def test_columns_are_found_by_role_and_name():
    schema = Schema((AGE, ID, LABEL))
    assert (schema.id, schema.label, schema.weight, schema.features) == (ID, LABEL, None, (AGE,))
    assert schema.column("age") is AGE
    assert schema.keep(["id", "age"]).names == ("age", "id")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((AGE,), "exactly one id column, found none"),
        ((ID, Column("ssn", Role.ID, Kind.TEXT)), "exactly one id column, found id, ssn"),
        ((ID, LABEL, Column("z", Role.LABEL, Kind.REAL)), "at most one label column, found y, z"),
        ((ID, AGE, AGE), "more than one age"),
    ],
)
def test_misfitting_columns_are_refused(columns, message):
    with pytest.raises(UsageError, match=message):
        Schema(columns)


@pytest.mark.parametrize(
    ("name", "role", "kind"),
    [
        ("", Role.FEATURE, Kind.REAL),
        (" age", Role.FEATURE, Kind.REAL),
        ("a\nb", Role.FEATURE, Kind.REAL),
        ("x" * 257, Role.FEATURE, Kind.REAL),
        ("id", Role.ID, Kind.REAL),
        ("w", Role.WEIGHT, Kind.TEXT),
    ],
)
def test_impossible_columns_are_refused(name, role, kind):
    with pytest.raises(UsageError):
        Column(name, role, kind)


def test_an_unknown_column_is_named_with_the_known_ones():
    with pytest.raises(UsageError, match="no column height: the table has id, age"):
        Schema((ID, AGE)).column("height")


@settings(deadline=None, derandomize=True)
@given(st.lists(names, unique=True, max_size=5), st.lists(st.sampled_from(Kind), min_size=5, max_size=5))
def test_json_gives_the_schema_back(features, kinds):
    columns = [Column(f"f{name}", Role.FEATURE, kind) for name, kind in zip(features, kinds, strict=False)]
    schema = Schema((ID, *columns))
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"columns": 3}',
        '{"columns": ["id"]}',
        '{"columns": []}',
        '{"columns": [{"name": "id", "role": "boss", "kind": "text"}]}',
        '{"columns": [{"name": "id", "role": "id", "kind": "text", "more": 1}]}',
        '{"columns": [{"name": 1, "role": "id", "kind": "text"}]}',
        '{"columns": [{"name": ["id"], "role": ["id"], "kind": {}}]}',
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(DataError, match="does not describe"):
        Schema.from_json(text)
