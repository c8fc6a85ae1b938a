"""The tree of errors is the one that is drawn; identifiers are safe in file names, certificates and messages."""

import inspect
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from unseen import errors
from unseen.errors import UnseenError, UsageError
from unseen.ids import Identifier, JobId, PartyId, StepId

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def drawn_tree() -> dict[str, str]:
    """Return the parent of every error, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(  |$)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            if depth:
                parents[match[2]] = path[depth - 1]
    return parents


def test_the_drawing_shows_every_error_under_its_parent() -> None:
    assert drawn_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in ERRORS if kind is not UnseenError}


def test_all_errors_have_one_root_and_say_what_they_mean() -> None:
    for kind in ERRORS:
        assert issubclass(kind, UnseenError)
        assert (kind.__doc__ or "").endswith(".")
    assert UnseenError.__bases__ == (Exception,)


def test_the_table_of_names_holds_every_error_and_nothing_else() -> None:
    assert {kind.__name__: kind for kind in ERRORS} == errors.ERRORS


def test_errors_survive_the_way_back_from_a_worker() -> None:
    for kind in ERRORS:
        found = pickle.loads(pickle.dumps(kind("bank: no such column")))  # noqa: S301  # our own bytes
        assert type(found) is kind
        assert str(found) == "bank: no such column"


KINDS = [PartyId, StepId, JobId]


@given(st.sampled_from(KINDS), st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True))
def test_identifiers_are_their_text(kind: type[Identifier], text: str) -> None:
    found = kind(text)
    assert found == text
    assert type(found) is kind
    assert f"{found}" == text


@pytest.mark.parametrize(
    "text",
    ["", "A", "1a", "-a", "_a", "a b", "a/b", "a.b", "a\n", "a\0", "ä", "a" * 64, "../a", "a:b", 5, None, b"a"],
    ids=repr,
)
def test_other_texts_are_refused(text: object) -> None:
    with pytest.raises(UsageError, match=r"is not a PartyId: expected a lower-case letter, then at most 62"):
        PartyId(text)  # type: ignore[arg-type]  # that others are refused is the point


def test_the_message_shows_what_was_found() -> None:
    with pytest.raises(UsageError, match=re.escape(repr("a\nb"))):
        StepId("a\nb")


def test_identifiers_of_two_kinds_are_different_types() -> None:
    assert not isinstance(PartyId("a"), StepId)
    assert not issubclass(JobId, PartyId)


def test_an_identifier_of_an_identifier_is_checked_and_retyped() -> None:
    assert type(StepId(PartyId("a"))) is StepId


class Form(BaseModel):
    party: PartyId


def test_models_check_identifiers() -> None:
    found = Form.model_validate({"party": "bank"})
    assert type(found.party) is PartyId
    assert found.model_dump_json() == '{"party":"bank"}'
    for wrong in ("Bank", "a\n", "", 5, "a" * 64):
        with pytest.raises(ValidationError, match="party"):
            Form.model_validate({"party": wrong})


def test_models_describe_identifiers() -> None:
    described = Form.model_json_schema()["properties"]["party"]
    assert described["type"] == "string"
    assert re.search(described["pattern"], "bank-1")
    assert not re.search(described["pattern"], "Bank")
