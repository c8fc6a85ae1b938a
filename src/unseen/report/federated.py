"""The report of a horizontal run: how it learnt, how every client fares, and what it is worth beside other training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unseen.data.federated.clients import Spread
from unseen.report.figures import Figure, Json, _bar_layout, _bars, _layout, _line, _percent, _title, plain
from unseen.report.html import page, write_page
from unseen.report.partition import MOST_POINTS, partition_figures
from unseen.report.units import byte_unit

UNCOVERED = "not covered by ε"
"""Stands beside whatever a private run's report says of people's examples without noise."""
_KINDS = ("federated", "pooled", "alone")


@dataclass(frozen=True, slots=True)
class Course:
    """One number over the rounds in which it was taken."""

    rounds: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fairness:
    """The accuracy of one kind of model at every client that has examples to test on."""

    model: str
    values: NDArray[np.float64]
    mean: float
    deviation: float
    worst: float
    """Mean of the worst tenth."""
    jain: float


@dataclass(frozen=True, slots=True, eq=False)
class LearningReport:
    """Everything that the page shows."""

    title: str
    lead: str
    training: Course
    """Loss on what the cohorts trained on."""
    loss: Course
    """On examples that no client has."""
    accuracy: Course
    fairness: tuple[Fairness, ...]
    comparison: tuple[tuple[str, float, float], ...]
    """Name, accuracy and loss: federated, pooled, alone."""
    traffic: Course
    """Bytes from and to all clients."""
    partition: Spread | None
    learned: tuple[tuple[str, str], ...]
    """Who learnt what."""
    facts: tuple[tuple[str, str], ...]
    program: str
    uncovered: frozenset[str] = frozenset()
    """What is marked ``UNCOVERED``: ``test``, ``clients``, ``comparison``."""

    def heading(self, text: str, what: str) -> str:
        """Return a heading, marked if what stands below it is not covered."""
        return f"{text} ({UNCOVERED})" if what in self.uncovered else text


def learning_figures(report: LearningReport) -> tuple[Figure, ...]:
    """Return the plots for which the report has content, in reading order."""
    found = (
        (_accuracy(report), "test"),
        (_loss(report), "test"),
        (_clients(report), "clients"),
        (_comparison(report), "comparison"),
        (_traffic(report), "traffic"),
    )
    own = () if report.partition is None else partition_figures(report.partition)
    return (*(_marked(report, figure, what) for figure, what in found if figure is not None), *own)


def _marked(report: LearningReport, figure: Figure, what: str) -> Figure:
    return replace(figure, title=report.heading(figure.title, what))


def render_learning(report: LearningReport) -> str:
    """Return the page as text; equal reports give equal pages."""
    return page("federated.html.j2", learning_figures(report), report=report)


def write_learning(report: LearningReport, path: Path) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path.

    Raises:
        UsageError: The folder cannot be made.
        DataError: The file cannot be written.
    """
    return write_page(render_learning(report), path)


def _accuracy(report: LearningReport) -> Figure | None:
    if not report.accuracy.rounds:
        return None
    line = {
        **_course(report.accuracy, "accuracy", "@federated"),
        "hovertemplate": "round %{x}: %{y:.2%}<extra></extra>",
    }
    layout = _layout(x={"title": _title("round")}, y={**_percent(), "title": _title("accuracy")})
    caption = "Of the common model, on examples that no client trains on."
    return Figure("accuracy", "Accuracy", caption, {"data": [line], "layout": layout})


def _loss(report: LearningReport) -> Figure | None:
    courses = ((report.training, "in training", "@alone"), (report.loss, "on the test", "@federated"))
    lines = [
        {**_course(course, name, colour), "hovertemplate": "round %{x}: %{y:.4f}<extra>%{fullData.name}</extra>"}
        for course, name, colour in courses
        if course.rounds
    ]
    if not lines:
        return None
    layout = _layout(x={"title": _title("round")}, y={"title": _title("loss"), "rangemode": "tozero"})
    caption = (
        "In training it is the mean over what each round's clients trained on, while they trained, "
        "and varies with who they are."
    )
    return Figure("loss", "Loss", caption, {"data": lines, "layout": layout})


def _clients(report: LearningReport) -> Figure | None:
    if not report.fairness:
        return None
    lines = []
    for one, colour in zip(report.fairness, ("@federated", "@pooled"), strict=False):
        ranked = np.sort(one.values)
        places = np.unique(np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_POINTS)).round().astype(np.int64))
        shares = ((places + 1) / len(ranked)).tolist()
        line = _line(shares, ranked[places].tolist(), plain(one.model), colour)
        mode = "lines" if len(places) > 1 else "markers"
        hover = "the worst %{x:.0%} have %{y:.1%} or less<extra>%{fullData.name}</extra>"
        lines.append({**line, "mode": mode, "hovertemplate": hover})
    layout = _layout(
        x={"title": _title("clients, worst first"), "tickformat": ".0%", "range": [0, 1]},
        y={**_percent(), "title": _title("accuracy at the client")},
    )
    caption = "Every client's accuracy on its own examples that it kept for testing: a level line serves all alike."
    return Figure("clients", "Who is served how well", caption, {"data": lines, "layout": layout})


def _comparison(report: LearningReport) -> Figure | None:
    if not report.comparison:
        return None
    names = [name for name, _, _ in report.comparison]
    bars = _bars(names, [accuracy for _, accuracy, _ in report.comparison], "", "@federated")
    colours = [f"@{kind}" for kind in _KINDS[: len(names)]]
    bars = {**bars, "marker": {"color": colours}, "showlegend": False, "hovertemplate": "%{y}: %{x:.2%}<extra></extra>"}
    caption = (
        "The same model, trained as often on each example: federated, on everybody's examples in one place, and by "
        "single clients that have only their own."
    )
    layout = _bar_layout(names, 1, {**_percent(), "title": _title("accuracy")})
    return Figure("comparison", "What taking part is worth", caption, {"data": [bars], "layout": layout})


def _traffic(report: LearningReport) -> Figure | None:
    if not any(report.traffic.values):
        return None
    unit, size = byte_unit(int(max(report.traffic.values)))
    values = [value / size for value in report.traffic.values]
    line = _course(Course(report.traffic.rounds, tuple(values)), unit, "@federated")
    layout = _layout(x={"title": _title("round")}, y={"title": _title(unit), "rangemode": "tozero"})
    caption = "What the messages of all clients have together, in both directions."
    line = {**line, "hovertemplate": "round %{x}: %{y:,.1f} " + unit + "<extra></extra>"}
    return Figure("traffic", "Traffic", caption, {"data": [line], "layout": layout})


def _course(course: Course, name: str, colour: str) -> Json:
    line = _line(course.rounds, course.values, name, colour)
    return {**line, "mode": "lines" if len(course.rounds) > 1 else "markers"}


def course(rounds: Sequence[int], values: Sequence[float | None]) -> Course:
    """Return a course without the rounds in which the number was not taken."""
    found = [(number, value) for number, value in zip(rounds, values, strict=True) if value is not None]
    return Course(tuple(number for number, _ in found), tuple(value for _, value in found))
