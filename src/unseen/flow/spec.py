"""The flow as data: one validated model behind YAML, JSON and Python.

::

    unseen: 1
    name: credit
    parties: {bank: active, partner: passive}
    tables:
      customers: {bank: bank.csv, partner: partner.csv}     # where each party's file lies; only in simulation
    steps:
      read:  {use: read_table, in: {source: tables.customers}}
      align: {use: psi_join, in: {table: read.table}}
      split: {use: split, in: {table: align.table}, params: {test: 0.3}}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, field_validator
from yaml.composer import ComposerError

from unseen.codec import read_json
from unseen.component import Role
from unseen.errors import UsageError
from unseen.ids import PartyId, StepId

TABLES = "tables"
"""What stands before the dot when a step takes a party's own table."""

Reference = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*\.[a-z][a-z0-9_-]*$")]


class StepSpec(BaseModel):
    """One step: the component it uses, where its inputs come from, and its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    use: str
    inputs: dict[str, Reference] = Field(default_factory=dict, alias="in")
    params: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("params")
    @classmethod
    def _is_json(cls, params: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            canonical_json(params).encode()
        except ValueError as error:
            raise ValueError("NaN, infinity and broken Unicode cannot be parameters") from error
        return params


class FlowSpec(BaseModel):
    """A directed acyclic graph of steps over named parties."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unseen: Literal[1] = 1
    name: str = Field(min_length=1, max_length=80)
    parties: dict[PartyId, Role] = Field(min_length=1)
    tables: dict[str, dict[PartyId, str]] = Field(default_factory=dict)
    steps: dict[StepId, StepSpec] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """SHA-256 of what all parties must agree on: everything but where files lie."""
        return hashlib.sha256(canonical_json(self.agreed()).encode()).hexdigest()

    def agreed(self) -> dict[str, Any]:
        """Return the flow without the places of files, as JSON data."""
        return self.model_dump(mode="json", by_alias=True, exclude={"tables"})

    def to_yaml(self) -> str:
        """Return the flow as YAML text that reads back to the same flow."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return yaml.dump({"unseen": 1, **data}, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=100)


class _Reader(yaml.SafeLoader):
    """Reads YAML with the numbers of JSON and without aliases, which can blow a few lines up into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave it out
            raise ComposerError(None, None, "aliases (*name) are not allowed; write the value out", mark)
        return super().compose_node(parent, index)


class _Writer(yaml.SafeDumper):
    """Quotes text that ``_Reader`` would take for a number, and writes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _write_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    # PyYAML breaks lines at U+0085 and its like, and reads them back as other breaks; in double quotes it escapes them.
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Writer.add_representer(str, _write_text)

# PyYAML follows YAML 1.1, where 1e-5 is text; in JSON, in YAML 1.2 and to everybody's eyes it is a number.
for _dialect in (_Reader, _Writer):
    _dialect.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"-?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-0123456789")
    )


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_flow(path: Path) -> FlowSpec:
    """Return the flow in a YAML or JSON file.

    Raises:
        UsageError: The file cannot be read or is not a flow; every problem is listed with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the flow {path}: {error}") from error
    return parse_flow(text, name=str(path))


def parse_flow(text: str, *, name: str = "flow") -> FlowSpec:
    """Return the flow in YAML or JSON text; ``name`` is what errors call it.

    Raises:
        UsageError: It is not a flow; every problem is listed with its line.
    """
    data, lines = read_mapping(text, name=name, what="a flow: expected a mapping with name, parties and steps")
    try:
        return FlowSpec.model_validate(data)
    except ValidationError as error:
        raise UsageError(problems_text(name, [_problem(item, lines) for item in error.errors()])) from error


Lines: TypeAlias = Mapping[tuple[str, ...], int]
"""In which line of a file a key stands, by its place."""


def read_mapping(text: str, *, name: str, what: str) -> tuple[dict[str, Any], Lines]:
    """Return the mapping in YAML or JSON text, without aliases and repeated keys, and the lines of its keys.

    Raises:
        UsageError: It is none; ``name`` is not ``what``.
    """
    try:
        data = _from_json(text)
        # JSON is YAML but for tabs between its tokens.
        root = yaml.compose(text if data is None else text.replace("\t", " "), Loader=_Reader)
        if data is None:
            data = yaml.load(text, Loader=_Reader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not YAML: {error}") from error
    if root is None or not isinstance(data, dict):
        raise UsageError(f"{name} is not {what}")
    _refuse_duplicate_keys(root, name)
    return data, dict(_lines(root, ()))


def _from_json(text: str) -> object:
    """Return the value of JSON text, ``None`` if it is no JSON; YAML would tear characters beyond 16 bits apart."""
    try:
        return read_json(text)
    except ValueError:
        return None


def problems_text(name: str, problems: list[str]) -> str:
    """Return one message for all problems of a flow."""
    return f"{name}: {len(problems)} problem(s)\n" + "\n".join(f"  - {problem}" for problem in problems)


def _problem(item: Any, lines: Lines) -> str:
    place = tuple(str(part) for part in item["loc"] if part != "[key]")
    return f"{line_of(place, lines)}{'.'.join(place) or 'flow'}: {item['msg']}"


def line_of(place: tuple[str, ...], lines: Lines) -> str:
    """Return ``line 3, `` for a place in a file or the nearest one around it, nothing if none is known."""
    known = next((lines[place[:size]] for size in range(len(place), 0, -1) if place[:size] in lines), None)
    return f"line {known}, " if known else ""


def _lines(node: yaml.Node, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the line of every key below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)


def _refuse_duplicate_keys(node: yaml.Node, name: str) -> None:
    """YAML readers keep the last of two equal keys; a step must not vanish like that."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UsageError(f"{name}: line {key.start_mark.line + 1}: {key.value!r} stands twice; rename one")
            seen.add(key.value)
            _refuse_duplicate_keys(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, name)
