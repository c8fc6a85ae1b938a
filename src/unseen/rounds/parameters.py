"""Parameters by name for constructors that check too little themselves: their annotations are the rules.

A parameter that is a dataclass (``LocalPlan``, ``Pictures``) is given by its fields, beside all others. One that is a
function cannot be given by name, and keeps its default.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from unseen.crypto.prg import Prg
from unseen.errors import UsageError

REQUIRED = inspect.Parameter.empty
_SECRET = (Prg, Prg | None)
"""Belongs into no file that is shared."""


class Parameter(NamedTuple):
    """One thing that can be given: of which type, its default, and the dataclass that it is a field of."""

    hint: Any
    default: Any
    group: tuple[str, type] | None = None


def parameters(constructor: Callable[..., object]) -> dict[str, Parameter]:
    """Return what can be given to a constructor, by name."""
    return dict(_parameters(constructor))


def construct(constructor: Callable[..., Any], given: Mapping[str, Any], where: str) -> Any:
    """Return what a constructor makes of parameters as they come from JSON.

    Raises:
        UsageError: There is no such parameter, one is missing, has another type, or is not allowed by the constructor;
            ``where`` begins the message.
    """
    known = parameters(constructor)
    if unknown := sorted(set(given) - set(known)):
        has = f"has {', '.join(known)}" if known else "has none"
        raise UsageError(f"{where}.{unknown[0]}: there is no such parameter; {where} {has}")
    form: Any = {name: (one.hint, ... if one.default is REQUIRED else one.default) for name, one in known.items()}
    # JSON has lists where Python has tuples, and nothing else that could be taken for something else.
    model: type[BaseModel] = create_model("Parameters", __config__=_STRICT, **form)
    try:
        checked = model.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise UsageError(
            "; ".join(f"{where}.{_place(item['loc'])}: {item['msg']}" for item in error.errors())
        ) from error
    own: dict[str, Any] = {}
    for name in given:
        group = known[name].group
        place = own if group is None else own.setdefault(group[0], {})
        place[name] = getattr(checked, name)
    groups = {one.group[0]: one.group[1] for one in known.values() if one.group is not None}
    try:
        return constructor(**{name: groups[name](**value) if name in groups else value for name, value in own.items()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def named(known: Mapping[str, Callable[..., Any]], name: str, where: str) -> Callable[..., Any]:
    """Return what is known by a name.

    Raises:
        UsageError: Nothing is; ``where`` begins the message.
    """
    if name not in known:
        raise UsageError(f"{where}.name: there is no {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


_STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())


def _place(keys: tuple[int | str, ...]) -> str:
    return ".".join(map(str, keys))


def _parameters(constructor: Callable[..., object]) -> Iterator[tuple[str, Parameter]]:
    hints = _hints(constructor)
    for name, parameter in inspect.signature(constructor).parameters.items():
        kind = _bare(hints[name])
        if is_dataclass(kind) and isinstance(kind, type):
            inner = _hints(kind)
            for field in fields(kind):
                yield field.name, Parameter(inner[field.name], field.default, (name, kind))
        elif not getattr(kind, "_is_protocol", False) and kind not in _SECRET:
            yield name, Parameter(hints[name], parameter.default)


def _hints(of: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(of, include_extras=True)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
