"""Settings of a node: from its file, and from the environment, which comes first.

The variable of the field ``metrics_token`` is ``UNSEEN_NODE_METRICS_TOKEN``. An empty one is as good as none; a list
has commas between its members, what has fields of its own is JSON. Errors name the variable or the field, and quote no
value: some are secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from unseen.codec import read_json
from unseen.errors import UsageError
from unseen.flow.spec import problems_text

PREFIX = "UNSEEN_NODE_"

M = TypeVar("M", bound=BaseModel)


def read_settings(kind: type[M], said: object, environment: Mapping[str, str], place: str) -> M:
    """Return the settings that a file, whose content is ``said``, and the environment make together.

    Raises:
        UsageError: A setting is missing, malformed, or known to nobody.
    """
    if not isinstance(said, dict):
        raise UsageError(f"{place}: expected settings, one on each line, as in `name: bank`")
    found = from_environment(kind, environment)
    try:
        return kind.model_validate({**said, **found})
    except ValidationError as error:
        problems = [f"{_called(item['loc'], found)}: {item['msg']}" for item in error.errors()]
        raise UsageError(problems_text(place, problems)) from None  # the cause quotes values


def from_environment(kind: type[BaseModel], environment: Mapping[str, str]) -> dict[str, object]:
    """Return the fields that variables give.

    Raises:
        UsageError: A variable is no field's.
    """
    known = {variable(name): name for name in kind.model_fields}
    given = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
    if unknown := sorted(given.keys() - known):
        raise UsageError(
            f"the environment has {', '.join(unknown)}, which is no setting of a node: known are "
            f"{', '.join(sorted(known))}"
        )
    return {known[name]: _value(name, kind.model_fields[known[name]], text) for name, text in given.items() if text}


def variable(field: str) -> str:
    """Return the variable of a field."""
    return PREFIX + field.upper()


def _value(name: str, field: FieldInfo, text: str) -> object:
    """Return what a variable says; pydantic makes numbers of texts itself."""
    kinds = (field.annotation, *get_args(field.annotation))
    if any(get_origin(kind) is tuple for kind in kinds):
        return [part.strip() for part in text.split(",") if part.strip()]
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        try:
            return read_json(text)
        except ValueError as error:
            raise UsageError(f"{name}: expected JSON with the fields that node.yaml would have") from error
    return text


def _called(place: tuple[int | str, ...], found: Mapping[str, object]) -> str:
    """Return how people know the setting that is wrong."""
    if not place:
        return "settings"
    name = str(place[0])
    return ".".join([variable(name) if name in found else name, *map(str, place[1:])])
