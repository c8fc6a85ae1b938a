"""Do server and clients run the same? ``digest_of`` a process, and how its updates travel."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from unseen.learners.horizontal.compression.compressed import Compressed
from unseen.learners.horizontal.compression.encoded import Codec
from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.sums import SumAggregator


def digest_of(process: Process) -> str:
    """Return a hash of a process's parts and their parameters, the same in every program that builds it alike.

    Fields that are left out of ``repr``, such as a client's secret seed, do not count; functions count by their name.
    """
    return hashlib.sha256(json.dumps(process, default=_apart, sort_keys=True).encode()).hexdigest()


def _apart(part: Any) -> Any:
    """Return what ``json`` does not know as something that it knows better."""
    for kind, apart in _APART:
        if isinstance(part, kind):
            return apart(part)
    if is_dataclass(part):
        return [
            type(part).__qualname__,
            {field.name: getattr(part, field.name) for field in fields(part) if field.repr},
        ]
    return getattr(part, "__qualname__", None) or [type(part).__qualname__, getattr(part, "__dict__", {})]


_APART: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (
        np.ndarray,
        lambda part: [str(part.dtype), part.shape, hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()],
    ),
    (np.generic, lambda part: part.item()),
    (bytes, lambda part: hashlib.sha256(part).hexdigest()),
    (Mapping, dict),
    (Set, lambda part: sorted(json.dumps(one, default=_apart, sort_keys=True) for one in part)),
    (functools.partial, lambda part: [part.func, part.args, part.keywords]),
)


def codec_of(process: Process) -> Codec | None:
    """Return how updates of a process travel in fewer bytes, or ``None`` if they travel as they are."""
    work = process.work
    return work.codec if isinstance(work, Compressed) and not process.postprocessors else None


def sum_of(process: Process) -> SumAggregator | None:
    """Return the aggregator if it is a sum, so that a protocol takes it and no update leaves its client."""
    return process.aggregator if isinstance(process.aggregator, SumAggregator) else None
