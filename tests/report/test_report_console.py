from io import StringIO

import pytest
from rich.console import Console, RenderableType

from unseen.report.console import comparison_table, steps_table
from unseen.report.model import Report


def printed(renderable: RenderableType, width: int = 110) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def row(lines: list[str], *words: str) -> list[str]:
    (line,) = (line for line in lines if all(word in line for word in words))
    return line.replace("│", " ").replace("┃", " ").split()


def test_comparison_shows_every_model(report: Report):
    lines = printed(comparison_table(report))
    assert row(lines, "Federated") == ["Federated", "0.731", "0.46", "0.337", "0.4610", "0.1576"]
    assert row(lines, "Bank alone") == ["Bank", "alone", "0.652", "0.30", "0.218", "0.4965", "0.1687"]


def test_a_metric_no_model_has_is_left_out_and_a_single_gap_is_a_dash(report: Report):
    first, *others = report.comparison
    models = (
        first.model_copy(update={"ks": None, "brier": None}),
        *(m.model_copy(update={"brier": None}) for m in others),
    )
    lines = printed(comparison_table(report.model_copy(update={"comparison": models})))
    assert row(lines, "Federated") == ["Federated", "0.731", "0.46", "–", "0.4610"]


def test_steps_show_time_bytes_rounds_and_the_total(report: Report):
    lines = printed(steps_table(report))
    assert row(lines, "join", "Alder Bank") == ["join", "Alder", "Bank", "3.42", "s", "2.12", "MB", "1.94", "MB", "3"]
    assert row(lines, "bins")[-1] == "yes"
    assert row(lines, "Total") == ["Total", "47.6", "s", "189", "MB", "189", "MB", "28"]


def test_a_measured_time_is_the_total(report: Report):
    lines = printed(steps_table(report.model_copy(update={"seconds": 125.0})))
    assert "2 min 05 s" in " ".join(row(lines, "Total"))


@pytest.mark.parametrize("table", [comparison_table, steps_table])
def test_names_are_not_read_as_markup(report: Report, table):
    name = "[red]x[/red][/]"
    hostile = report.model_copy(
        update={
            "comparison": (report.comparison[0].model_copy(update={"name": name}),),
            "steps": (report.steps[0].model_copy(update={"step": name, "party": name}),),
        }
    )
    assert name in "\n".join(printed(table(hostile)))


@pytest.mark.parametrize("table", [comparison_table, steps_table])
def test_an_empty_report_gives_an_empty_table(report: Report, table):
    empty = report.model_copy(update={"comparison": (), "steps": ()})
    assert table(empty).row_count == 0
