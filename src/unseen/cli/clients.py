"""``unseen clients``: who has how many examples of what, in a few lines and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.data.federated.clients import Spread
from unseen.data.federated.images import SETS
from unseen.data.federated.sets import open_clients, open_dealt
from unseen.report.partition import write_partition

_PARTITION, _CLIENTS = "iid", 100


def run(*, source: str, partition: str | None, count: int | None, seed: int, split: str | None, out: Path) -> None:
    """Print sizes and label spread of a file's clients, or of a set dealt out, and write the picture."""
    if partition is None and count is None and source not in SETS:
        data = open_clients(source, split)
    else:
        data = open_dealt(source, partition or _PARTITION, count or _CLIENTS, seed=seed, split=split)
    spread = data.spread()
    console = Console()
    console.print(Text(harmless(f"{data.name}: {len(data):,} clients, {spread.sizes.sum():,} examples")))
    console.print(_overview(spread))
    console.print(_labels(spread))
    path = write_partition(spread, data.name, out)
    console.print(f"picture: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)


def _overview(spread: Spread) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("of a client", "least", "median", "most"):
        table.add_column(column, justify="left" if column == "of a client" else "right")
    table.add_row("examples", *_quantiles(spread.sizes, ",.0f"))
    table.add_row("different labels", *_quantiles(spread.held, ",.0f"))
    table.add_row("distance from the pooled mix", *_quantiles(spread.distances, ".2f"))
    return table


def _labels(spread: Spread) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("label", "examples", "clients that have it"):
        table.add_column(column, justify="left" if column == "label" else "right")
    having = np.count_nonzero(spread.counts, axis=0)
    for label, examples, clients in zip(spread.labels, spread.counts.sum(axis=0), having, strict=True):
        table.add_row(Text(harmless(label)), f"{examples:,}", f"{clients:,}")
    return table


def _quantiles(values: NDArray[np.int64] | NDArray[np.float64], form: str) -> list[str]:
    return [format(float(np.quantile(values, part)), form) for part in (0.0, 0.5, 1.0)]
