"""Unseen: federated learning between parties that keep their rows to themselves.

``Flow`` describes what the parties do together, ``simulate`` runs it with all parties in this process. The names
below are the promised interface; they are loaded when they are first used, so that ``import unseen`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unseen.component import Role
    from unseen.errors import DataError, UnseenError, UsageError
    from unseen.flow.builder import Flow
    from unseen.flow.spec import FlowSpec
    from unseen.ids import PartyId
    from unseen.simulation import Options, SimulationResult, simulate
    from unseen.version import VERSION

_HOME = {
    "DataError": "unseen.errors",
    "Flow": "unseen.flow.builder",
    "FlowSpec": "unseen.flow.spec",
    "Options": "unseen.simulation",
    "PartyId": "unseen.ids",
    "Role": "unseen.component",
    "SimulationResult": "unseen.simulation",
    "UnseenError": "unseen.errors",
    "UsageError": "unseen.errors",
    "VERSION": "unseen.version",
    "simulate": "unseen.simulation",
}

__all__ = [
    "VERSION",
    "DataError",
    "Flow",
    "FlowSpec",
    "Options",
    "PartyId",
    "Role",
    "SimulationResult",
    "UnseenError",
    "UsageError",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'unseen' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
