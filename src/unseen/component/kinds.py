"""Kinds of values that travel from step to step inside one party."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from unseen.component.packed import Packed
from unseen.data.table import Table
from unseen.report.model import Coefficient, Learning, ModelImportance, ModelResult


@dataclass(frozen=True, slots=True)
class Shown:
    """What a document adds to the report of a job."""

    comparison: tuple[ModelResult, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    learning: tuple[Learning, ...] = ()
    importance: tuple[ModelImportance, ...] = ()


class Document(BaseModel):
    """A small immutable value that is kept as JSON: a model's part, an evaluation, a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def shown(self, step: str, party: str) -> Shown:
        """Return what the report of a job shows of this document, which ``step`` left at ``party``: here nothing."""
        del step, party
        return Shown()


@dataclass(frozen=True, slots=True)
class Source:
    """A file of this party's own, before it has been read."""

    path: Path


Value: TypeAlias = Table | Document | Packed | Source


@dataclass(frozen=True, slots=True)
class Kind:
    """What may stand at a port: a name people read, the Python type, and the more general kind it can stand for."""

    name: str
    type: type[Value]
    general: Kind | None = None

    def fits(self, wanted: Kind) -> bool:
        """Return whether a value of this kind may be used where ``wanted`` is asked for."""
        return self == wanted or (self.general is not None and self.general.fits(wanted))


SOURCE = Kind("source", Source)
TABLE = Kind("table", Table)
ALIGNED_TABLE = Kind("aligned_table", Table, general=TABLE)
"""A table whose row i is, at every party, about the same person."""
MODEL = Kind("model", Document)
"""Any party's part of a trained model that `score` can apply; it is kept as a document or packed."""
