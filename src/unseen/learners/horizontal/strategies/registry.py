"""``strategy``: a strategy by its name, with parameters that are checked.

What a client trains by (the fields of ``LocalPlan``) is given beside the strategy's own parameters, all by name, so
that a file or a form can hold them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from unseen.errors import UsageError
from unseen.learners.horizontal.process import LocalPlan, Process
from unseen.learners.horizontal.strategies.clustered import clustered
from unseen.learners.horizontal.strategies.ditto import ditto
from unseen.learners.horizontal.strategies.fed_adagrad import fed_adagrad
from unseen.learners.horizontal.strategies.fed_adam import fed_adam
from unseen.learners.horizontal.strategies.fed_avg import fed_avg
from unseen.learners.horizontal.strategies.fed_avg_m import fed_avg_m
from unseen.learners.horizontal.strategies.fed_bn import fed_bn
from unseen.learners.horizontal.strategies.fed_buff import fed_buff
from unseen.learners.horizontal.strategies.fed_dyn import fed_dyn
from unseen.learners.horizontal.strategies.fed_nova import fed_nova
from unseen.learners.horizontal.strategies.fed_prox import fed_prox
from unseen.learners.horizontal.strategies.fed_rep import fed_rep
from unseen.learners.horizontal.strategies.fed_sgd import fed_sgd
from unseen.learners.horizontal.strategies.fed_yogi import fed_yogi
from unseen.learners.horizontal.strategies.scaffold import scaffold

Constructor: TypeAlias = Callable[..., Process]

STRATEGIES: Mapping[str, Constructor] = MappingProxyType(
    {
        constructor.__name__: constructor
        for constructor in (
            clustered,
            ditto,
            fed_adagrad,
            fed_adam,
            fed_avg,
            fed_avg_m,
            fed_bn,
            fed_buff,
            fed_dyn,
            fed_nova,
            fed_prox,
            fed_rep,
            fed_sgd,
            fed_yogi,
            scaffold,
        )
    }
)
"""Every strategy by its name."""

REQUIRED = inspect.Parameter.empty
"""What stands in place of the default of a parameter that has none."""
_PLAN = {field.name: field.default for field in dataclasses.fields(LocalPlan)}


def parameters(name: str) -> dict[str, Any]:
    """Return the parameters of a strategy with their defaults, those of local training first.

    Raises:
        UsageError: There is no such strategy; the message lists all.
    """
    if name not in STRATEGIES:
        raise UsageError(f"there is no strategy {name!r}; there are {', '.join(sorted(STRATEGIES))}")
    found = inspect.signature(STRATEGIES[name]).parameters
    own = {key: value.default for key, value in found.items() if key != "plan"}
    return {**_PLAN, **own} if "plan" in found else own


def strategy(name: str, **given: Any) -> Process:
    """Return a strategy by its name.

    Raises:
        UsageError: There is no such strategy or parameter, one that is needed is missing, or a value is not allowed.
    """
    known = parameters(name)
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    constructor = STRATEGIES[name]
    if "plan" not in inspect.signature(constructor).parameters:
        return constructor(**given)
    plan = {key: value for key, value in given.items() if key in _PLAN}
    return constructor(plan=plan, **{key: value for key, value in given.items() if key not in _PLAN})
