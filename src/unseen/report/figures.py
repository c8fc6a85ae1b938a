"""Plotly figures as plain data.

Figures are dicts rather than ``plotly.graph_objects``: nothing heavy is imported, and a test has plotly validate them.
Colours are written as ``@name`` and looked up in ``PALETTES`` by the page, which so follows the reader's light or dark
theme. Plotly reads some HTML tags in texts, so every text from outside passes through ``plain``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unseen.report.model import (
    INTERCEPT,
    Coefficient,
    KsCurve,
    Learning,
    ModelKind,
    ModelResult,
    Report,
    RoundUsage,
    StepUsage,
)
from unseen.report.summary import main_model, steps_in_order
from unseen.report.units import byte_unit, bytes_text, seconds_text, time_unit

Json = dict[str, Any]

# The colours of Okabe and Ito (2008), told apart by colour-blind readers too; darkened on white, and lightened on dark,
# to a contrast of 3 : 1 or more. Parties and models share no plot, so a blue party is not mistaken for a model.
PALETTES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "federated": "#0072b2",
        "alone": "#d55e00",
        "pooled": "#00875f",
        "negative": "#6b7280",
        "positive": "#b5598e",
        "party0": "#3a8fc7",
        "party1": "#c78500",
        "party2": "#8a8f00",
        "ink": "#1c2530",
        "muted": "#56616e",
        "grid": "#e3e7ec",
        "surface": "#ffffff",
        "page": "#f5f7f9",
        "tint": "#e8f2f9",
    },
    "dark": {
        "federated": "#56b4e9",
        "alone": "#f08a4b",
        "pooled": "#2fc79a",
        "negative": "#a3adb8",
        "positive": "#cc79a7",
        "party0": "#56b4e9",
        "party1": "#e69f00",
        "party2": "#f0e442",
        "ink": "#e8ecf1",
        "muted": "#a9b4c0",
        "grid": "#35404c",
        "surface": "#1b222b",
        "page": "#12171d",
        "tint": "#1d3344",
    },
}

PARTY_COLOURS = 3
MOST_BARS = 20
LONGEST_LABEL = 28
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif'
# Federated and pooled curves mostly coincide: a thin line inside a broad pale band shows both.
LINES: Mapping[ModelKind, Json] = {
    ModelKind.FEDERATED: {"line": {"width": 2.5}},
    ModelKind.ALONE: {"line": {"width": 2.5, "dash": "dot"}},
    ModelKind.POOLED: {"line": {"width": 9}, "opacity": 0.4},
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with what a reader needs beside it; ``key`` is its id in the page."""

    key: str
    title: str
    caption: str
    plot: Json


def plain(text: str) -> str:
    """Return ``text`` so that plotly shows it as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(text: str) -> str:
    """Return ``text`` if it fits beside a bar, else its beginning and end around an ellipsis."""
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 12]}…{text[-11:]}"


def figures(report: Report) -> tuple[Figure, ...]:
    """Return the plots for which the report has content, in reading order."""
    model = main_model(report)
    quality = [roc(report), *(() if model is None else (ks(report, model), scores(report, model))), calibration(report)]
    courses = [learning(report, number) for number in range(len(report.learning))]
    training = [*courses, *(importance(report, number) for number in range(len(report.importance)))]
    weights = [coefficients(report, party) for party in coefficient_parties(report)]
    cost = [seconds_per_step(report), bytes_per_step(report), seconds_per_round(report), bytes_per_round(report)]
    return tuple(figure for figure in (*quality, *training, *weights, *cost) if figure is not None)


def roc(report: Report) -> Figure | None:
    """Return the ROC curves of all models, or None without any."""
    lines = [
        _model_line(report, model, model.roc.false_positive_rate, model.roc.true_positive_rate)
        for model in _pooled_first(report.comparison)
        if model.roc is not None
    ]
    if not lines:
        return None
    hover = "%{y:.0%} found, %{x:.0%} flagged by mistake<extra>%{fullData.name}</extra>"
    layout = _layout(
        x={**_percent(), "title": _title(f"share of “{report.negative}” cases above the threshold")},
        y={**_percent(), "title": _title(f"share of “{report.positive}” cases found")},
    )
    return Figure(
        "roc",
        "Finding the risky cases (ROC curve)",
        f"Lower the threshold step by step: how many “{report.positive}” cases are found, and how many "
        f"“{report.negative}” ones are flagged by mistake? The more a curve bends to the upper left, the better. "
        "The thin diagonal is a coin toss.",
        {"data": [_diagonal(1), *({**line, "hovertemplate": hover} for line in lines)], "layout": layout},
    )


def ks(report: Report, model: ModelResult) -> Figure | None:
    """Return the cumulative shares of both outcomes for one model with the widest gap marked, or None."""
    curve = model.ks_curve
    if curve is None:
        return None
    hover = "%{y:.0%} of all, among the %{x:.0%} with the highest scores<extra>%{fullData.name}</extra>"
    styles = (("positive", report.positive, "solid"), ("negative", report.negative, "dash"))
    lines = [
        {**_line(curve.share, ys, plain(name), f"@{role}", dash), "hovertemplate": hover}
        for (role, name, dash), ys in zip(styles, (curve.positives, curve.negatives), strict=True)
    ]
    gap, label = _widest_gap(curve, model.ks)
    layout = _layout(
        x={**_percent(), "title": _title("share of people, highest scores first")},
        y={**_percent(), "title": _title("share of the outcome found")},
    )
    return Figure(
        "ks",
        f"Telling the two apart (KS curve, {model.name})",
        f"Go through the people from the highest score to the lowest. The widest gap between the “{report.positive}” "
        f"and “{report.negative}” cases found so far is the KS: the wider, the better the model separates them.",
        {"data": [*lines, gap], "layout": {**layout, "annotations": [label]}},
    )


def _widest_gap(curve: KsCurve, statistic: float | None) -> tuple[Json, Json]:
    gaps = [abs(one - other) for one, other in zip(curve.positives, curve.negatives, strict=True)]
    at = gaps.index(max(gaps))
    x, ends = curve.share[at], (curve.negatives[at], curve.positives[at])
    line = {**_line([x, x], ends, "", "@ink"), "mode": "lines+markers", "showlegend": False, "hoverinfo": "skip"}
    label = {
        # thinning may have dropped the exact place, so the model's own figure is shown where there is one
        "text": f"KS {max(gaps) if statistic is None else statistic:.3f}",
        "x": x,
        "y": sum(ends) / 2,
        "xanchor": "left",
        "xshift": 7,
        "showarrow": False,
        "bgcolor": "@surface",
        "font": {"color": "@ink", "size": 13},
    }
    return {**line, "line": {"color": "@ink", "width": 1.5}, "marker": {"color": "@ink", "size": 6}}, label


def scores(report: Report, model: ModelResult) -> Figure | None:
    """Return the score distribution of both outcomes for one model, or None."""
    histogram = model.scores
    if histogram is None:
        return None
    edges = histogram.edges
    centres = [(left + right) / 2 for left, right in pairwise(edges)]
    widths = [right - left for left, right in pairwise(edges)]
    groups = (("negative", report.negative, histogram.negatives), ("positive", report.positive, histogram.positives))
    bars = [
        {
            "type": "bar",
            "name": plain(name),
            "x": centres,
            "y": [count / max(1, sum(counts)) for count in counts],
            "width": widths,
            "customdata": counts,
            "marker": {"color": f"@{role}", "opacity": 0.65, "line": {"width": 1, "color": "@surface"}},
            "hovertemplate": "score %{x:.2f}: %{y:.1%}, %{customdata:,} people<extra>%{fullData.name}</extra>",
        }
        for role, name, counts in groups
    ]
    layout = _layout(
        x={"title": _title("predicted probability")},
        y={"title": _title("share of the outcome"), "tickformat": ".0%", "rangemode": "tozero"},
    )
    return Figure(
        "scores",
        f"Scores by outcome ({model.name})",
        f"Each colour adds up to 100%. A useful model gives “{report.positive}” cases higher scores, so that its bars "
        "sit further to the right; where the colours overlap, the model cannot tell the cases apart.",
        {"data": bars, "layout": {**layout, "barmode": "overlay", "bargap": 0}},
    )


def calibration(report: Report) -> Figure | None:
    """Return predicted against observed rates of all models, or None without any."""
    models = [model for model in _pooled_first(report.comparison) if model.calibration]
    if not models:
        return None
    top = max(max(point.predicted, point.observed) for model in models for point in model.calibration)
    top = min(1.0, 1.08 * top) or 1.0
    layout = _layout(
        x={**_percent(top), "title": _title("predicted probability")},
        y={**_percent(top), "title": _title("observed rate")},
    )
    return Figure(
        "calibration",
        "Can the probabilities be trusted? (calibration)",
        "People are grouped by their prediction. On the diagonal, “10%” comes true for ten in a hundred; points above "
        "it mean that the model underestimates the risk, points below that it overestimates it.",
        {"data": [_diagonal(top), *(_calibration_line(report, model) for model in models)], "layout": layout},
    )


def _calibration_line(report: Report, model: ModelResult) -> Json:
    predicted = [point.predicted for point in model.calibration]
    line = _model_line(report, model, predicted, [point.observed for point in model.calibration])
    return {
        **line,
        "mode": "lines+markers",
        "marker": {"size": 11 if model.kind is ModelKind.POOLED else 6, "color": line["line"]["color"]},
        "customdata": [point.count for point in model.calibration],
        "hovertemplate": "predicted %{x:.1%}, observed %{y:.1%}, %{customdata:,} people<extra>%{fullData.name}</extra>",
    }


def learning(report: Report, number: int) -> Figure:
    """Return how one measure went during the training, on the training people and on others."""
    course = report.learning[number]
    lines = [{**_line(course.train.rounds, course.train.values, "people learned from", "@muted", "dot")}]
    if course.validation is not None:
        lines.append(_line(course.validation.rounds, course.validation.values, "other people", "@federated"))
    if (kept := _kept_round(course)) is not None:
        lines.append(kept)
    hover = "after %{x}: %{y:.4f}<extra>%{fullData.name}</extra>"
    layout = _layout(
        x={"title": _title("rounds (trees or iterations)"), "rangemode": "tozero"}, y={"title": _title(course.measure)}
    )
    return Figure(
        f"learning{number}",
        f"How it learned: {course.model}",
        f"The {course.measure} after each round. As long as the line of other people falls, the model gets better; "
        "once it rises while the other still falls, the model learns its people by heart.",
        {"data": [{**line, "hovertemplate": hover} for line in lines], "layout": layout},
    )


def _kept_round(course: Learning) -> Json | None:
    """Return a marker at the round whose model was kept, or None if that is not on the curve."""
    curve = course.validation or course.train
    if course.best is None or course.best not in curve.rounds:
        return None
    value = curve.values[curve.rounds.index(course.best)]
    marker = {"color": "@ink", "size": 9, "symbol": "diamond"}
    return {**_line([course.best], [value], "kept", "@ink"), "mode": "markers", "marker": marker}


def importance(report: Report, number: int) -> Figure:
    """Return the columns that contribute most to a model, largest first, in their parties' colours."""
    model = report.importance[number]
    largest = sorted(model.columns, key=lambda column: -column.gain)[:MOST_BARS]
    parties = tuple(dict.fromkeys(column.party for column in model.columns))
    label = {column: f"{column.name} ({column.party})" for column in largest}
    series = [
        {
            **_bars(
                [label[column] for column in largest if column.party == party],
                [column.gain for column in largest if column.party == party],
                plain(party),
                f"@party{place % PARTY_COLOURS}",
            ),
            "text": [f"{column.splits} splits" for column in largest if column.party == party],
            "textposition": "none",
            "hovertemplate": "%{customdata}: %{x:.1%} of the gain, %{text}<extra></extra>",
        }
        for place, party in enumerate(parties)
        if any(column.party == party for column in largest)
    ]
    layout = _bar_layout(list(label.values()), 1, {"title": _title("share of the gain"), "tickformat": ".0%"})
    count = len(model.columns)
    left_out = f" Shown are the {MOST_BARS} largest of {count}." if count > MOST_BARS else ""
    return Figure(
        f"importance{number}",
        f"What counts (feature importance): {model.model}",
        "How much of what the model gained in training is owed to splits at each column. Another party's columns have "
        f"numbers here: what they mean is known there only.{left_out}",
        {"data": series, "layout": {**layout, "barmode": "overlay"}},
    )


def coefficient_parties(report: Report) -> tuple[str, ...]:
    """Return the parties that have weights of columns, in the order of their first one."""
    return tuple(dict.fromkeys(weight.party for weight in report.coefficients if weight.name != INTERCEPT))


def coefficients(report: Report, party: str) -> Figure:
    """Return the weights of one party, largest first, federated beside pooled where known."""
    own = [weight for weight in report.coefficients if weight.party == party and weight.name != INTERCEPT]
    largest = sorted(own, key=lambda weight: -abs(weight.value))[:MOST_BARS]
    bars = [_weight_bars(largest, [weight.value for weight in largest], "federated")]
    if any(weight.pooled_value is not None for weight in largest):
        bars.append(_weight_bars(largest, [weight.pooled_value for weight in largest], "pooled"))
    number = coefficient_parties(report).index(party)
    left_out = f" Shown are the {MOST_BARS} largest of {len(own)}." if len(own) > MOST_BARS else ""
    axis = {"title": _title("coefficient"), "zerolinecolor": "@muted"}
    layout = _bar_layout([weight.name for weight in largest], len(bars), axis)
    return Figure(
        f"coefficients{number}",
        f"What counts, and which way: {party}",
        f"A bar to the right raises the predicted risk of “{report.positive}”, a bar to the left lowers it. Among "
        f"columns on the same scale, longer counts for more.{left_out}",
        {"data": bars, "layout": {**layout, "showlegend": len(bars) > 1}},
    )


def _weight_bars(weights: Sequence[Coefficient], values: Sequence[float | None], kind: str) -> Json:
    bars = _bars([weight.name for weight in weights], values, kind, f"@{kind}")
    return {**bars, "hovertemplate": "%{customdata}: %{x:.4f}<extra>%{fullData.name}</extra>"}


def seconds_per_step(report: Report) -> Figure | None:
    """Return how long each step took each party, or None without steps."""
    if not report.steps:
        return None
    unit, scale = time_unit(max(usage.seconds for usage in report.steps))
    return Figure(
        "seconds",
        "Where the time went",
        "How long each step kept each party busy or waiting for the other.",
        _per_step(
            report, unit, [(usage, usage.seconds / scale, seconds_text(usage.seconds)) for usage in report.steps]
        ),
    )


def bytes_per_step(report: Report) -> Figure | None:
    """Return how much each party sent in each step, or None without any traffic."""
    largest = max((usage.bytes_sent for usage in report.steps), default=0)
    if not largest:
        return None
    unit, scale = byte_unit(largest)
    return Figure(
        "bytes",
        "What went over the wire",
        "How much each party sent in each step: the messages themselves, without what the connection adds.",
        _per_step(
            report,
            f"{unit} sent",
            [(usage, usage.bytes_sent / scale, bytes_text(usage.bytes_sent)) for usage in report.steps],
        ),
    )


def seconds_per_round(report: Report) -> Figure | None:
    """Return how the time of the rounds (trees, iterations) adds up, or None where it is not known."""
    largest = max((usage.seconds for usage in report.rounds), default=0.0)
    if not largest:
        return None
    unit, scale = time_unit(largest)
    lines = _per_round(report, lambda usage: usage.seconds / scale)
    caption = (
        "Time from the beginning of a step to the end of each of its trees or iterations: a straight line is even."
    )
    return _round_figure("seconds_rounds", "Time by trees or iterations", caption, lines, unit)


def bytes_per_round(report: Report) -> Figure | None:
    """Return how the bytes sent in the rounds (trees, iterations) add up, or None where they are not known."""
    largest = max((usage.bytes_sent for usage in report.rounds), default=0)
    if not largest:
        return None
    unit, scale = byte_unit(largest)
    lines = _per_round(report, lambda usage: usage.bytes_sent / scale)
    caption = "What each party had sent when each tree or iteration of a step was done."
    return _round_figure("bytes_rounds", "Traffic by trees or iterations", caption, lines, f"{unit} sent")


def _per_round(report: Report, amount: Callable[[RoundUsage], float]) -> list[Json]:
    places = dict.fromkeys((usage.step, usage.party) for usage in report.rounds)
    parties = list(dict.fromkeys(usage.party for usage in report.rounds))
    lines = []
    for step, party in places:
        own = [usage for usage in report.rounds if (usage.step, usage.party) == (step, party)]
        colour = f"@party{parties.index(party) % PARTY_COLOURS}"
        name = plain(f"{step}, {party}")
        lines.append(_line([usage.round for usage in own], [amount(usage) for usage in own], name, colour))
    return lines


def _round_figure(key: str, title: str, caption: str, lines: list[Json], unit: str) -> Figure:
    hover = {"hovertemplate": "after %{x}: %{y:.3g} " + unit + "<extra>%{fullData.name}</extra>"}
    axes = {"rangemode": "tozero"}
    layout = _layout(x={**axes, "title": _title("trees or iterations")}, y={**axes, "title": _title(unit)})
    return Figure(key, title, caption, {"data": [{**line, **hover} for line in lines], "layout": layout})


def _per_step(report: Report, unit: str, amounts: Sequence[tuple[StepUsage, float, str]]) -> Json:
    bars = [
        _usage_bars(number, [amount for amount in amounts if amount[0].party == party])
        for number, party in enumerate(usage_parties(report))
    ]
    top = max(value for _, value, _ in amounts) or 1
    axis = {"title": _title(unit), "range": [0, 1.3 * top]}  # room for the texts beside the bars
    return {"data": bars, "layout": _bar_layout(list(steps_in_order(report)), len(bars), axis)}


def _usage_bars(number: int, amounts: Sequence[tuple[StepUsage, float, str]]) -> Json:
    steps = [usage.step for usage, _, _ in amounts]
    party = amounts[0][0].party
    bars = _bars(steps, [value for _, value, _ in amounts], plain(party), f"@party{number % PARTY_COLOURS}")
    return {
        **bars,
        "text": [text + (" (reused)" if usage.reused else "") for usage, _, text in amounts],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{customdata}: %{text}<extra>%{fullData.name}</extra>",
    }


def usage_parties(report: Report) -> tuple[str, ...]:
    """Return the parties with step usage, in the order of the report's parties, others after them."""
    used = dict.fromkeys(usage.party for usage in report.steps)
    listed = [party.name for party in report.parties if party.name in used]
    return tuple(dict.fromkeys((*listed, *used)))


def _pooled_first(models: Iterable[ModelResult]) -> list[ModelResult]:
    order = (ModelKind.POOLED, ModelKind.ALONE, ModelKind.FEDERATED)
    return sorted(models, key=lambda model: order.index(model.kind))


def _model_line(report: Report, model: ModelResult, x: Sequence[float], y: Sequence[float]) -> Json:
    look = LINES[model.kind]
    line = _line(x, y, plain(model.name), f"@{model.kind.value}")
    rank = report.comparison.index(model)  # the legend keeps the order of the table
    return {**line, **look, "line": {**line["line"], **look["line"]}, "legendrank": rank}


def _line(x: Sequence[float], y: Sequence[float], name: str, colour: str, dash: str = "solid") -> Json:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 2.5, "dash": dash},
    }


def _bars(names: Sequence[str], values: Sequence[float | None], name: str, colour: str) -> Json:
    labels = [plain(label) for label in names]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": values,
        "y": labels,
        "customdata": labels,
        "marker": {"color": colour},
    }


def _diagonal(top: float) -> Json:
    line = _line([0, top], [0, top], "", "@muted")
    return {**line, "line": {"color": "@muted", "width": 1}, "showlegend": False, "hoverinfo": "skip"}


def _percent(top: float = 1.0) -> Json:
    return {"range": [0, top * 1.01], "tickformat": ".0%"}


def _title(text: str) -> Json:
    return {"text": plain(text), "font": {"size": 12, "color": "@muted"}, "standoff": 8}


def _axis(changes: Json) -> Json:
    axis = {
        "gridcolor": "@grid",
        "zerolinecolor": "@grid",
        "ticklabelstandoff": 5,
        "automargin": True,
        "fixedrange": True,
    }
    return {**axis, **changes}


def _layout(x: Json, y: Json, height: int = 360) -> Json:
    return {
        "height": height,
        "margin": {"l": 8, "r": 24, "t": 8, "b": 8},
        "paper_bgcolor": "@surface",
        "plot_bgcolor": "@surface",
        "font": {"family": FONT, "size": 12, "color": "@ink"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@muted", "font": {"color": "@ink"}, "namelength": 40},
        "xaxis": _axis(x),
        "yaxis": _axis(y),
    }


def _bar_layout(names: Sequence[str], series: int, x: Json) -> Json:
    y = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [plain(name) for name in names],
        "tickmode": "array",
        "tickvals": [plain(name) for name in names],
        "ticktext": [plain(shortened(name)) for name in names],
        "showgrid": False,
        "autorange": "reversed",  # the first name on top, the first series above the second
    }
    layout = _layout(x, y, height=96 + len(names) * (14 + 15 * series))
    return {**layout, "barmode": "group", "bargap": 0.35}
