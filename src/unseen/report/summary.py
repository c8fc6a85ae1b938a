"""The few numbers that sum a report up: metrics side by side, the best of each, tiles and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unseen.report.model import ModelKind, ModelResult, Report, StepUsage
from unseen.report.units import bytes_text, count_text, seconds_text, signed


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the comparison, and what it means in one plain sentence."""

    label: str
    read: Callable[[ModelResult], float | None]
    digits: int | None
    """Decimals; ``None``: four significant digits, for amounts in any unit."""
    higher_is_better: bool
    meaning: str

    def text(self, model: ModelResult) -> str:
        """Return the value as shown, or a dash if the model has none."""
        value = self.read(model)
        if value is None:
            return "–"
        return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"


METRICS = (
    Metric(
        "AUC",
        lambda model: model.auc,
        3,
        True,
        "How often the model gives the riskier of two people the higher score: 0.5 is a coin toss, 1 is never wrong.",
    ),
    Metric(
        "Gini",
        lambda model: None if model.auc is None else 2 * model.auc - 1,
        2,
        True,
        "The AUC on another scale: 0 is a coin toss, 1 perfect.",
    ),
    Metric(
        "KS",
        lambda model: model.ks,
        3,
        True,
        "The largest gap between the shares of the two outcomes found, going from high scores to low ones: "
        "0 is a useless model, 1 separates the two completely.",
    ),
    Metric(
        "Log loss",
        lambda model: model.log_loss,
        4,
        False,
        "The penalty for predicted probabilities that turn out wrong, harshest where it was sure. Lower is better.",
    ),
    Metric(
        "Brier",
        lambda model: model.brier,
        4,
        False,
        "The mean squared distance between predicted probability and outcome. Lower is better.",
    ),
    Metric("Accuracy", lambda model: model.accuracy, 3, True, "The share of people whose class is the predicted one."),
    Metric(
        "RMSE",
        lambda model: model.rmse,
        None,
        False,
        "The root of the mean squared error, in the unit of the label; large errors count most. Lower is better.",
    ),
    Metric("MAE", lambda model: model.mae, None, False, "The mean size of the errors, in the unit of the label."),
    Metric(
        "D²",
        lambda model: model.d2,
        3,
        True,
        "The share of the label's variation that is explained: 0 is as good as the mean, 1 is perfect.",
    ),
)


def shown_metrics(report: Report) -> tuple[Metric, ...]:
    """Return the metrics that at least one model has."""
    return tuple(metric for metric in METRICS if any(metric.read(model) is not None for model in report.comparison))


def best_texts(report: Report) -> dict[str, str]:
    """Return, per metric label, the best value as shown; models that round to the same text share it."""
    best = {}
    for metric in shown_metrics(report):
        present = [model for model in report.comparison if metric.read(model) is not None]
        sign = 1 if metric.higher_is_better else -1
        best[metric.label] = metric.text(max(present, key=lambda model: sign * (metric.read(model) or 0.0)))
    return best


HEADLINES = (
    ("AUC", 3, 4, "0.5 is a coin toss, 1 is never wrong"),
    ("Accuracy", 3, 4, "share of people put into the right class"),
    ("D²", 3, 4, "0 is as good as the mean, 1 is perfect"),
)
"""Measures for the top of the page, the first that the model has: label, digits of values, digits of differences."""


def first_of(report: Report, kind: ModelKind) -> ModelResult | None:
    """Return the first model of a kind, or None."""
    return next((model for model in report.comparison if model.kind is kind), None)


def main_model(report: Report) -> ModelResult | None:
    """Return the federated model, else the first one, else None."""
    return first_of(report, ModelKind.FEDERATED) or next(iter(report.comparison), None)


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of the page."""

    label: str
    value: str
    note: str = ""


def tiles(report: Report) -> tuple[Tile, ...]:
    """Return the numbers for the top of the page; whatever the report lacks is left out."""
    return (*_quality_tiles(report), *_fact_tiles(report), *_cost_tiles(report))


def _quality_tiles(report: Report) -> Iterable[Tile]:
    model = main_model(report)
    by_label = {metric.label: metric for metric in METRICS}
    shown = [line for line in HEADLINES if model is not None and by_label[line[0]].read(model) is not None]
    if model is None or not shown:
        return
    label, digits, fine, note = shown[0]
    read = by_label[label].read
    value = read(model) or 0.0
    yield Tile(f"{label} · {model.name}", f"{value:.{digits}f}", note)
    for title, places, word, other in (
        ("Gain over", digits, "from", first_of(report, ModelKind.ALONE)),
        ("Difference to", fine, "against", first_of(report, ModelKind.POOLED)),
    ):
        if other is not None and other is not model and (reference := read(other)) is not None:
            note = f"{label}, {word} {reference:.{digits}f}"
            yield Tile(f"{title} {other.name}", signed(value - reference, places), note)


def _fact_tiles(report: Report) -> Iterable[Tile]:
    return (Tile(fact.name, fact.value) for fact in report.facts if fact.tile)


def _cost_tiles(report: Report) -> Iterable[Tile]:
    if not report.steps:
        return
    total = totals(report)
    yield Tile("Time", seconds_text(total.seconds), "all steps")
    yield Tile("Traffic", bytes_text(total.bytes_sent), f"in {count_text(total.messages)} messages")


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole job cost: ``bytes_sent`` and ``messages`` over all parties."""

    seconds: float
    bytes_sent: int
    bytes_received: int
    messages: int
    rounds: int
    measured: bool


def totals(report: Report) -> Totals:
    """Return the cost of the whole job.

    Without a measured wall time, the steps are taken to run one after another and the parties at the same time, so
    that a step lasts as long as its slowest party; rounds likewise.
    """
    by_step = steps_in_order(report)
    return Totals(
        seconds=_slowest(by_step) if report.seconds is None else report.seconds,
        bytes_sent=sum(usage.bytes_sent for usage in report.steps),
        bytes_received=sum(usage.bytes_received for usage in report.steps),
        messages=sum(usage.messages for usage in report.steps),
        rounds=sum(max(usage.rounds for usage in usages) for usages in by_step.values()),
        measured=report.seconds is not None,
    )


def _slowest(by_step: dict[str, list[StepUsage]]) -> float:
    return sum(max(usage.seconds for usage in usages) for usages in by_step.values())


def steps_in_order(report: Report) -> dict[str, list[StepUsage]]:
    """Return the usages of each step, steps in the order of their first mention."""
    by_step: dict[str, list[StepUsage]] = {}
    for usage in report.steps:
        by_step.setdefault(usage.step, []).append(usage)
    return by_step
