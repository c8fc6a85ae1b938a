import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.privacy.facts import (
    MAX_ROWS,
    Began,
    Ended,
    Froze,
    Released,
    Request,
    Seen,
    SessionId,
    TableId,
    Thawed,
    Variant,
    read_fact,
    to_json,
)

RISING = np.array([1, 5, 2**64 - 1], "<u8").tobytes()
names = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)
rows = st.integers(0, MAX_ROWS)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
head = {
    "partner": names.map(PartyId),
    "session": names.map(SessionId),
    "at": st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=zones),
}
fingerprints = st.sets(st.integers(0, 2**64 - 1), max_size=5).map(
    lambda words: np.array(sorted(words), "<u8").tobytes()
)
columns = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True).map(tuple)
sizes = st.none() | rows
facts = st.one_of(
    st.builds(
        Request,
        **head,
        table=names.map(TableId),
        key_columns=columns,
        value_columns=columns,
        variant=st.sampled_from(Variant),
        own_rows=rows,
        partner_rows=rows,
        own_snapshot=digests,
        partner_snapshot=digests,
        owner_learns=st.booleans(),
        partner_learns=st.booleans(),
    ),
    st.builds(Began, **head),
    st.builds(Seen, **head, fingerprints=fingerprints),
    st.builds(Released, **head, size=sizes),
    st.builds(Ended, **head, how=st.sampled_from(["failed", "withheld"]), size=sizes),
    st.builds(Froze, **head),
    st.builds(Thawed, **head, by=st.just("Ada")),
)


@settings(max_examples=200, deadline=None)
@given(facts)
def test_a_fact_comes_back_from_json_as_it_was(fact):
    text = to_json(fact)
    back = read_fact(text, "journal, line 1")
    assert back == fact
    assert hash(back) == hash(fact)
    assert type(back) is type(fact)
    assert type(back.partner) is PartyId
    assert back.at.tzinfo is not None
    assert to_json(back) == text


def test_the_text_of_a_fact_stays_readable_by_later_versions(world):
    assert json.loads(to_json(world.asked())) == {
        "fact": "asked",
        "partner": "partner",
        "session": "s-1",
        "at": "2026-03-02T12:00:00Z",
        "table": "customers",
        "key_columns": ["phone"],
        "value_columns": [],
        "variant": "intersect",
        "own_rows": 10_000,
        "partner_rows": 2_000,
        "own_snapshot": "0a" * 32,
        "partner_snapshot": "0b" * 32,
        "owner_learns": True,
        "partner_learns": True,
    }
    seen = world.seen(world.asked(), RISING)
    assert json.loads(to_json(seen))["fingerprints"] == "AQAAAAAAAAAFAAAAAAAAAP__________"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"fact": "gone"}, "gone"),
        ({"fact": None}, "fact"),
        ({"partner": "Not A Party"}, "partner"),
        ({"partner": None}, "partner"),
        ({"partner_rows": "2000"}, "partner_rows"),
        ({"partner_rows": 2000.0}, "partner_rows"),
        ({"partner_rows": True}, "partner_rows"),
        ({"partner_rows": -1}, "partner_rows is -1"),
        ({"own_rows": MAX_ROWS + 1}, "own_rows"),
        ({"own_snapshot": "0A" * 32}, "own_snapshot"),
        ({"partner_snapshot": "0b" * 31}, "partner_snapshot"),
        ({"at": "2026-03-02T12:00:00"}, "time zone"),
        ({"at": 1_772_452_800}, "at"),
        ({"key_columns": []}, "key columns"),
        ({"key_columns": ["phone", "phone"]}, "key columns"),
        ({"key_columns": "phone"}, "key_columns"),
        ({"variant": "guess"}, "variant"),
        ({"owner_learns": 1}, "owner_learns"),
    ],
)
def test_malformed_requests_are_refused_and_say_where(world, change, named):
    fields = json.loads(to_json(world.asked())) | change
    with pytest.raises(DataError, match=r"^journal, line 7 is not a fact about a session: ") as caught:
        read_fact(json.dumps(fields), "journal, line 7")
    assert named in str(caught.value)


@pytest.mark.parametrize("field", ["fact", "partner", "session", "at", "table", "partner_rows", "own_snapshot"])
def test_missing_fields_are_refused(world, field):
    fields = json.loads(to_json(world.asked()))
    del fields[field]
    with pytest.raises(DataError, match=field):
        read_fact(json.dumps(fields), "journal")


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{", '{"fact": "began"}', b"\xff"])
def test_what_is_no_fact_at_all_is_refused(text):
    with pytest.raises(DataError):
        read_fact(text, "journal")


@pytest.mark.parametrize(
    "words", [b"1234567", np.array([5, 5], "<u8").tobytes(), np.array([7, 5], "<u8").tobytes()], ids=["odd", "=", "<"]
)
def test_fingerprints_have_to_be_sorted_and_distinct(world, words):
    with pytest.raises(UsageError, match="partner, session s-1"):
        world.seen(world.asked(), words)


def test_values_that_cannot_be_are_refused_at_once(world):
    head = {"partner": world.partner, "session": SessionId("s-1")}
    with pytest.raises(UsageError, match="time zone"):
        Began(**head, at=datetime(2026, 1, 1))
    with pytest.raises(UsageError, match="size is -1"):
        Released(**head, at=world.noon, size=-1)
    with pytest.raises(UsageError, match="who lifts"):
        Thawed(**head, at=world.noon, by=" ")


def test_fingerprints_do_not_show_in_print(world):
    assert "fingerprints" not in repr(world.seen(world.asked(), RISING))
