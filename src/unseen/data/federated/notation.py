"""Partitioners as people write them: ``dirichlet:0.5``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from unseen.data.federated.partition import (
    Dirichlet,
    DirichletPerLabel,
    DirichletSizes,
    DirichletWithOverlap,
    Iid,
    LabelsPerClient,
    Partitioner,
    PowerLaw,
    Shards,
)
from unseen.errors import UsageError

N = TypeVar("N", int, float)

NUMBERED: Mapping[str, Callable[[float], Partitioner]] = {
    "dirichlet": Dirichlet,
    "dirichlet-per-label": DirichletPerLabel,
    "dirichlet-sizes": DirichletSizes,
    "power-law": PowerLaw,
    "overlap": DirichletWithOverlap,
}
COUNTED: Mapping[str, Callable[[int], Partitioner]] = {"shards": Shards, "labels": LabelsPerClient}


def parse_partitioner(text: str) -> Partitioner:
    """Return the partitioner that ``text`` names: ``iid``, or a name, a colon and a number.

    Raises:
        UsageError: There is none of that name, or the number is missing or wrong.
    """
    name, _, number = text.partition(":")
    if name == "iid" and not number:
        return Iid()
    if name in NUMBERED:
        return NUMBERED[name](_number(text, number, float, "a number"))
    if name in COUNTED:
        return COUNTED[name](_number(text, number, int, "a whole number"))
    known = ", ".join(["iid", *(f"{other}:NUMBER" for other in sorted({**NUMBERED, **COUNTED}))])
    raise UsageError(f"there is no partition {text!r}; there are: {known}")


def _number(text: str, number: str, kind: Callable[[str], N], expected: str) -> N:
    try:
        return kind(number)
    except ValueError as error:
        raise UsageError(f"partition {text!r}: expected {expected} after the colon, found {number!r}") from error
