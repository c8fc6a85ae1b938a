"""The report's tables for the terminal, as rich renderables; names are shown as they are, never read as markup."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from unseen.report.model import Report, StepUsage
from unseen.report.summary import best_texts, shown_metrics, steps_in_order, totals
from unseen.report.units import bytes_text, count_text, seconds_text


def comparison_table(report: Report) -> Table:
    """Return one row per model, the best value of each metric in bold green."""
    table = Table(title="Models compared on the same test people")
    table.add_column("Model")
    metrics = shown_metrics(report)
    for metric in metrics:
        table.add_column(f"{metric.label} {'↑' if metric.higher_is_better else '↓'}", justify="right")
    best = best_texts(report)
    for model in report.comparison:
        texts = (metric.text(model) for metric in metrics)
        cells = (
            Text(text, style="bold green" if text == best[metric.label] else "")
            for metric, text in zip(metrics, texts, strict=True)
        )
        table.add_row(Text(model.name), *cells)
    return table


def steps_table(report: Report) -> Table:
    """Return one row per step and party with time, bytes and rounds, and a total."""
    table = Table(title="Time and traffic per step", show_footer=bool(report.steps))
    total = totals(report)
    table.add_column("Step", footer="Total")
    table.add_column("Party")
    for name, footer in (
        ("Time", seconds_text(total.seconds)),
        ("Sent", bytes_text(total.bytes_sent)),
        ("Received", bytes_text(total.bytes_received)),
        ("Rounds", count_text(total.rounds)),
    ):
        table.add_column(name, justify="right", footer=footer)
    table.add_column("Reused")
    for step, usages in steps_in_order(report).items():
        for position, usage in enumerate(usages):
            table.add_row(Text(step if position == 0 else ""), *_usage_cells(usage), end_section=usage is usages[-1])
    return table


def _usage_cells(usage: StepUsage) -> tuple[Text, ...]:
    return (
        Text(usage.party),
        Text(seconds_text(usage.seconds)),
        Text(bytes_text(usage.bytes_sent)),
        Text(bytes_text(usage.bytes_received)),
        Text(count_text(usage.rounds)),
        Text("yes" if usage.reused else ""),
    )
