"""A component is a declaration plus one function; a task is one use of it by one party."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from unseen.component.kinds import Kind, Value
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.errors import LocalProtocolError, UsageError
from unseen.ids import PartyId, StepId

V = TypeVar("V", bound=Value)
P = TypeVar("P", bound="Params")


class Role(enum.StrEnum):
    """A party's place in a vertical flow."""

    ACTIVE = "active"
    PASSIVE = "passive"


class Params(BaseModel):
    """Base of every component's parameters: frozen, unknown names refused; a docstring below a field describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Input:
    """A port that takes a value from an earlier step; ``at`` says which role cannot do without it (``None``: any)."""

    kind: Kind
    about: str
    required: bool = True
    at: Role | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A port that offers a value to later steps; ``at`` says which roles get one (``None``: all)."""

    kind: Kind
    about: str
    at: Role | None = None

    def exists_at(self, role: Role) -> bool:
        """Return whether a party of this role has the value."""
        return self.at is None or self.at is role


@dataclass(frozen=True, slots=True)
class Leak:
    """One line of the table "who learns what"; ``when`` names the parameters for which it holds, if not for all."""

    who: str
    learns: str
    when: Mapping[str, object] = field(default_factory=dict)

    def applies(self, params: Params) -> bool:
        """Return whether the line holds for these parameters."""
        return all(getattr(params, name) == value for name, value in self.when.items())


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a job at one party: everything a component's function may use."""

    me: PartyId
    step: StepId
    roles: Mapping[PartyId, Role]
    params: Params
    inputs: Mapping[str, Value]
    prg: Prg
    simulated: bool = False
    points: Mapping[PartyId, int] | None = None
    """How many items of each peer this party may evaluate; of a peer that is not named, none. ``None``: no limit."""

    @property
    def role(self) -> Role:
        """This party's role."""
        return self.roles[self.me]

    @property
    def is_active(self) -> bool:
        """Whether this party holds the label."""
        return self.role is Role.ACTIVE

    @property
    def active(self) -> PartyId:
        """The party that holds the label."""
        return next(party for party, role in self.roles.items() if role is Role.ACTIVE)

    @property
    def passives(self) -> tuple[PartyId, ...]:
        """The parties without the label, in one order that is the same everywhere."""
        return tuple(sorted(party for party, role in self.roles.items() if role is Role.PASSIVE))

    @property
    def peers(self) -> tuple[PartyId, ...]:
        """All other parties, in one order that is the same everywhere."""
        return tuple(sorted(party for party in self.roles if party != self.me))

    def input(self, port: str, kind: type[V]) -> V:
        """Return the value at an input port."""
        value = self.inputs.get(port)
        if not isinstance(value, kind):
            raise UsageError(
                f"{self.me}, step {self.step}: input {port!r} is {type(value).__name__}, not {kind.__name__}"
            )
        return value

    def parameters(self, kind: type[P]) -> P:
        """Return the parameters, which are of type ``kind``."""
        if not isinstance(self.params, kind):
            raise LocalProtocolError(f"step {self.step} got {type(self.params).__name__}, not {kind.__name__}")
        return self.params


@dataclass(frozen=True, slots=True)
class Component:
    """One kind of step.

    ``run`` is called at every party and talks to the other parties' ``run`` as a dialogue; it returns the values of
    the output ports that exist at its role. Raise ``version`` whenever the same inputs may give another result.
    """

    name: str
    version: int
    summary: str
    params: type[Params]
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    leaks: tuple[Leak, ...]
    run: Callable[[Task], Dialogue[Mapping[str, Value]]]
