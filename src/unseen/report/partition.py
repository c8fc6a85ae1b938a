"""A picture of who has which examples: labels of every client, and their sizes, as figures and as one HTML page."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np

from unseen.data.federated.clients import Spread
from unseen.report.figures import Figure, Json, _layout, _title, plain
from unseen.report.html import page, write_page

MOST_CLIENTS = 120
"""Columns that can still be told apart."""
MOST_TICKS = 30
MOST_POINTS = 1000

# The qualitative colours of P. Tol ("Colour Schemes", 2021, muted and bright), told apart by colour-blind readers too.
LABEL_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
    "#ee8866",
    "#44bb99",
    "#8877bb",
)


def partition_figures(spread: Spread) -> tuple[Figure, ...]:
    """Return the labels of every client and the sizes of all, in reading order."""
    return (label_figure(spread), size_figure(spread), distance_figure(spread))


def label_figure(spread: Spread) -> Figure:
    """Return stacked counts of labels, one column for each client; of many clients some, evenly spaced by size."""
    shown = _shown(spread.sizes)
    names = [plain(spread.ids[client]) for client in shown]
    bars = [
        {
            "type": "bar",
            "name": plain(label),
            "x": names,
            "y": spread.counts[shown, number].tolist(),
            "marker": {"color": colour},
            "hovertemplate": "%{x}: %{y:,} of %{fullData.name}<extra></extra>",
        }
        for number, (label, colour) in enumerate(zip(spread.labels, label_colours(len(spread.labels)), strict=True))
    ]
    ticks = {"type": "category", "showticklabels": len(names) <= MOST_TICKS, "showgrid": False}
    layout = _layout(x={**ticks, "title": _title("client")}, y={"title": _title("examples")}, height=420)
    count = len(spread.ids)
    some = f" Shown are {len(names)} of {count:,}, evenly spaced by size." if len(names) < count else ""
    return Figure(
        "partition_labels",
        "Who has which labels",
        f"One column for each client, one colour for each label.{some}",
        {"data": bars, "layout": {**layout, "barmode": "stack", "bargap": 0.15, "legend": _legend()}},
    )


def size_figure(spread: Spread) -> Figure:
    """Return the sizes of all clients, largest first."""
    caption = "Clients in the order of their sizes: a level line means that all have the same number of examples."
    hover = "%{y:,} examples at rank %{x:,}<extra></extra>"
    plot = _ranked(np.sort(spread.sizes)[::-1], "examples", hover)
    return Figure("partition_sizes", "How many examples each has", caption, plot)


def distance_figure(spread: Spread) -> Figure:
    """Return how far the clients' label mixes are from the pooled one, most unlike first."""
    caption = (
        "The part of a client's examples that would need another label for its mix to be that of all clients together: "
        "0% if they are alike, near 100% if it has what hardly anybody else has. Small clients lie apart by chance."
    )
    plot = _ranked(np.sort(spread.distances)[::-1], "distance", "%{y:.1%} at rank %{x:,}<extra></extra>", percent=True)
    return Figure("partition_distances", "How unlike their label mixes are", caption, plot)


def render_partition(spread: Spread, title: str) -> str:
    """Return the page as text; equal partitions give equal pages."""
    having = np.count_nonzero(spread.counts, axis=0)
    return page(
        "partition.html.j2",
        partition_figures(spread),
        title=title,
        lead=spread_text(spread),
        labels=list(zip(spread.labels, spread.counts.sum(axis=0).tolist(), having.tolist(), strict=True)),
    )


def write_partition(spread: Spread, title: str, path: Path) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path.

    Raises:
        UsageError: The folder cannot be made.
        DataError: The file cannot be written.
    """
    return write_page(render_partition(spread, title), path)


def spread_text(spread: Spread) -> str:
    """Return a partition in one sentence: clients, examples, sizes, labels."""
    sizes, held = spread.sizes, spread.held
    return (
        f"{len(spread.ids):,} clients have {sizes.sum():,} examples of {len(spread.labels)} labels: {_range(sizes)} "
        f"examples and {_range(held)} labels each, mean distance from the pooled mix {spread.distances.mean():.2f}."
    )


def label_colours(count: int) -> list[str]:
    """Return as many colours as there are labels, each different from all others."""
    if count <= len(LABEL_COLOURS):
        return list(LABEL_COLOURS[:count])
    # Neighbours differ in lightness as well as in hue.
    lights = (0.42, 0.62, 0.52)
    tones = [colorsys.hls_to_rgb(number / count, lights[number % 3], 0.55) for number in range(count)]
    return [f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}" for red, green, blue in tones]


def _range(values: np.typing.NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {np.median(values):,.0f})"


def _shown(sizes: np.typing.NDArray[np.int64]) -> list[int]:
    """Return all clients, or some of every size, in their own order."""
    if len(sizes) <= MOST_CLIENTS:
        return list(range(len(sizes)))
    ranks = np.linspace(0, len(sizes) - 1, MOST_CLIENTS).round().astype(np.int64)
    return sorted(np.argsort(sizes, kind="stable")[ranks].tolist())


def _ranked(values: np.typing.NDArray[np.generic], what: str, hover: str, *, percent: bool = False) -> Json:
    """Return a line of values by rank, thinned to ``MOST_POINTS``, first and last kept."""
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).round().astype(np.int64))
    line = {
        "type": "scatter",
        "mode": "lines" if len(places) > 1 else "markers",
        "x": (places + 1).tolist(),
        "y": values[places].tolist(),
        "line": {"color": "@federated", "width": 2.5},
        "fill": "tozeroy",
        "hovertemplate": hover,
        "showlegend": False,
    }
    scale = {"range": [0, 1.01], "tickformat": ".0%"} if percent else {"rangemode": "tozero"}
    return {"data": [line], "layout": _layout(x={"title": _title("rank")}, y={**scale, "title": _title(what)})}


def _legend() -> Json:
    """Return a legend that starts at the first label, whatever the order of the stack."""
    return {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left", "traceorder": "normal"}
