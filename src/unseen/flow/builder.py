"""Flows written in Python: the same model as YAML, built step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from unseen.component import Role
from unseen.errors import UsageError
from unseen.flow.spec import TABLES, FlowSpec, StepSpec, problems_text, read_flow
from unseen.ids import PartyId, StepId

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Port:
    """An output that a later step may take."""

    step: str
    name: str

    def __str__(self) -> str:
        return f"{self.step}.{self.name}"


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was added; ``step["name"]`` is one of its outputs."""

    name: StepId

    def __getitem__(self, port: str) -> Port:
        return Port(self.name, port)


class Flow:
    """A flow under construction.

    ::

        flow = Flow("credit", active="bank", passive=["partner"])
        read = flow.step("read", "read_table", source=flow.table("customers"))
        align = flow.step("align", "psi_join", table=read["table"])
    """

    def __init__(self, name: str, *, active: str, passive: Sequence[str] = ()) -> None:
        if active in passive:
            raise UsageError(f"{active} cannot be active and passive: it holds the label or it does not")
        self.name = name
        self._parties = {PartyId(active): Role.ACTIVE} | {PartyId(party): Role.PASSIVE for party in passive}
        self._steps: dict[StepId, StepSpec] = {}

    def table(self, name: str) -> Port:
        """Return the table that every party knows under ``name``."""
        return Port(TABLES, name)

    def step(self, name: str, use: str, /, **arguments: Any) -> Step:
        """Add a step that uses component ``use``; outputs among the arguments are inputs, the rest are parameters.

        Raises:
            UsageError: The name is taken or not a step's name, or an argument is neither an output nor JSON.
        """
        step = StepId(name)
        if step in self._steps:
            raise UsageError(f"the flow already has a step {name!r}")
        inputs = {key: str(value) for key, value in arguments.items() if isinstance(value, Port)}
        params = {key: value for key, value in arguments.items() if not isinstance(value, Port)}
        self._steps[step] = _made(StepSpec, f"step {name}", {"use": use, "inputs": inputs, "params": params})
        return Step(step)

    @property
    def spec(self) -> FlowSpec:
        """The flow as data."""
        fields = {"name": self.name, "parties": self._parties, "steps": self._steps}
        return _made(FlowSpec, f"flow {self.name}", fields)

    @staticmethod
    def read(path: str | Path) -> FlowSpec:
        """Return the flow in a YAML or JSON file."""
        return read_flow(Path(path))


def _made(kind: type[M], what: str, fields: dict[str, Any]) -> M:
    try:
        return kind(**fields)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}, found {item['input']!r}" for item in error.errors()
        ]
        raise UsageError(problems_text(what, problems)) from error
