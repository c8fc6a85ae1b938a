"""``validated``: constructors of strategies refuse parameters that their algorithm does not allow.

The annotations are the rules. They are also what the registry shows of a strategy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, ParamSpec

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, validate_call
from pydantic_core import ErrorDetails

from unseen.errors import UsageError
from unseen.learners.horizontal.process import LocalPlan, Process

P = ParamSpec("P")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""A share of what was that is kept from one step to the next."""
Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
"""Beginnings of names of parameters, as ``Trainer.part`` takes them."""

PLAN = LocalPlan()


def _checked(plan: LocalPlan) -> LocalPlan:
    rules = {
        "learning_rate": ("has to be positive", 0 < plan.learning_rate < math.inf),
        "epochs": ("has to be at least 1", plan.epochs >= 1),
        "batch": ("has to be at least 1", plan.batch >= 1),
        "momentum": ("has to be in [0, 1)", 0 <= plan.momentum < 1),
        "weight_decay": ("must not be negative", 0 <= plan.weight_decay < math.inf),
        "decay": ("has to be in (0, 1]", 0 < plan.decay <= 1),
        "steps": ("has to be at least 1, or nothing", plan.steps is None or plan.steps >= 1),
    }
    broken = [f"{name} {rule}, found {getattr(plan, name)}" for name, (rule, kept) in rules.items() if not kept]
    if broken:
        raise ValueError("; ".join(broken))
    return plan


Plan = Annotated[LocalPlan, AfterValidator(_checked)]


def validated(constructor: Callable[P, Process]) -> Callable[P, Process]:
    """Return a constructor that checks its parameters against their annotations.

    The new one raises ``UsageError``, which names strategy and parameter, what was expected and what was found.
    """
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(constructor)

    @functools.wraps(constructor)
    def construct(*args: P.args, **parameters: P.kwargs) -> Process:
        try:
            return checked(*args, **parameters)
        except ValidationError as error:
            raise UsageError(f"{constructor.__name__}: {_faults(error)}") from error

    return construct


def _faults(error: ValidationError) -> str:
    return "; ".join(_fault(fault) for fault in error.errors(include_url=False))


def _fault(fault: ErrorDetails) -> str:
    name = ".".join(str(place) for place in fault["loc"])
    if name == "plan" and fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if fault["type"].startswith("missing"):
        return f"parameter {name} is missing: it has no default"
    return f"parameter {name}: {fault['msg']}, found {fault['input']!r}"
