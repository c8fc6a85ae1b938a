import json

import plotly.graph_objects as go
import pytest

from unseen.report.figures import MOST_BARS, PALETTES, figures, plain, shortened
from unseen.report.model import INTERCEPT, Coefficient, ModelKind, Report

QUALITY = ["roc", "ks", "scores", "calibration"]
HOSTILE = "<script>alert(1)</script><a href='https://x.example'>&amp;%{y}</a>"


def painted(node: object, palette: dict[str, str], is_colour: bool = False) -> object:
    """What the page's script does with colours."""
    if isinstance(node, dict):
        return {key: painted(value, palette, key.endswith("color")) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [painted(item, palette, is_colour) for item in node]
    return palette[node[1:]] if is_colour and isinstance(node, str) and node.startswith("@") else node


def by_key(report: Report) -> dict[str, dict]:
    return {figure.key: figure.plot for figure in figures(report)}


def test_a_full_report_has_every_plot(report: Report):
    training = ["learning0", "importance0", "coefficients0", "coefficients1"]
    assert list(by_key(report)) == [*QUALITY, *training, "seconds", "bytes", "seconds_rounds", "bytes_rounds"]


@pytest.mark.parametrize("theme", PALETTES)
def test_plotly_accepts_every_figure_and_all_colours_are_known(report: Report, theme: str):
    for plot in by_key(report).values():
        go.Figure(painted(plot, PALETTES[theme]))  # raises on an unknown field or colour


def test_bare_model_has_no_curves(report: Report):
    bare = [model.model_copy(update={"roc": None, "ks_curve": None, "calibration": (), "scores": None})
            for model in report.comparison]  # fmt: skip
    assert not set(by_key(report.model_copy(update={"comparison": tuple(bare)}))) & set(QUALITY)


def test_the_federated_line_lies_on_top_and_the_legend_keeps_the_order_of_the_table(report: Report):
    lines = by_key(report)["roc"]["data"][1:]
    assert lines[-1]["name"] == "Federated"
    in_legend = sorted(lines, key=lambda line: line["legendrank"])
    assert [line["name"] for line in in_legend] == [model.name for model in report.comparison]


def test_the_ks_label_shows_the_exact_value_at_the_widest_gap(report: Report):
    plot = by_key(report)["ks"]
    assert plot["layout"]["annotations"][0]["text"] == f"KS {report.comparison[0].ks:.3f}"
    low, high = plot["data"][-1]["y"]
    assert high - low == pytest.approx(report.comparison[0].ks)


def test_score_shares_of_each_outcome_add_up_to_one(report: Report):
    assert [sum(bars["y"]) for bars in by_key(report)["scores"]["data"]] == [pytest.approx(1)] * 2


def test_the_largest_weights_are_drawn_without_the_intercept(report: Report):
    weights = [Coefficient(party="a", name=f"c{number}", value=number) for number in range(MOST_BARS + 5)]
    many = (Coefficient(party="a", name=INTERCEPT, value=-99), *weights)
    (figure,) = (
        figure
        for figure in figures(report.model_copy(update={"coefficients": many}))
        if figure.key.startswith("coefficients")
    )
    (bars,) = figure.plot["data"]
    assert bars["y"] == [f"c{number}" for number in reversed(range(5, MOST_BARS + 5))]
    assert f"{MOST_BARS} largest of {MOST_BARS + 5}" in figure.caption


def test_the_learning_curve_marks_the_round_that_was_kept(report: Report):
    train, other, kept = by_key(report)["learning0"]["data"]
    assert (len(train["x"]), len(other["x"])) == (60, 60)
    assert (kept["x"], kept["y"]) == ([40], [0.52])
    (course,) = report.learning
    alone = course.model_copy(update={"validation": None, "best": None})
    assert len(by_key(report.model_copy(update={"learning": (alone,)}))["learning0"]["data"]) == 1


def test_the_columns_that_contribute_most_are_drawn_in_their_parties_colours(report: Report):
    bank, shop = by_key(report)["importance0"]["data"]
    assert bank["y"] == ["utilisation (Alder Bank)", "age (Alder Bank)"]
    assert bank["text"] == ["36 splits", "22 splits"]
    assert (shop["y"], shop["x"]) == (["number 17 (Birch Shop)"], [0.35])
    assert bank["marker"] != shop["marker"]
    (model,) = report.importance
    many = [model.columns[0].model_copy(update={"name": f"c{n}", "gain": n / 100}) for n in range(MOST_BARS + 3)]
    large = model.model_copy(update={"columns": tuple(many)})
    (bars,) = by_key(report.model_copy(update={"importance": (large,)}))["importance0"]["data"]
    assert bars["y"] == [f"c{n} (Alder Bank)" for n in reversed(range(3, MOST_BARS + 3))]


def test_rounds_are_drawn_one_line_a_step_and_party(report: Report):
    seconds, bytes_sent = (by_key(report)[key] for key in ("seconds_rounds", "bytes_rounds"))
    assert [line["name"] for line in seconds["data"]] == ["model, Alder Bank", "model, Birch Shop"]
    assert seconds["data"][0]["y"] == [2, 4, 6]
    assert bytes_sent["data"][0]["y"] == [120, 240, 360]  # MB


def test_steps_keep_their_order_and_say_what_was_reused(report: Report):
    seconds = by_key(report)["seconds"]
    assert seconds["layout"]["yaxis"]["categoryarray"] == ["join", "bins", "model", "test", "report"]
    assert seconds["data"][0]["text"][:2] == ["3.42 s", "1.81 s (reused)"]
    assert seconds["data"][0]["x"][0] == 3.42
    assert by_key(report)["bytes"]["data"][0]["x"][0] == pytest.approx(2.12)  # MB


def named_importance(report: Report, name: str):
    """Return the importance of one column whose names are all ``name``."""
    (model,) = report.importance
    column = model.columns[0].model_copy(update={"party": name, "name": name})
    return model.model_copy(update={"model": name, "columns": (column,)})


def test_texts_from_outside_are_escaped_for_plotly(report: Report):
    names = {
        "positive": HOSTILE,
        "negative": HOSTILE + "2",
        "comparison": (report.comparison[0].model_copy(update={"name": HOSTILE}),),
        "steps": (report.steps[0].model_copy(update={"step": HOSTILE, "party": HOSTILE}),),
        "coefficients": (Coefficient(party=HOSTILE, name=HOSTILE, value=1),),
        "importance": (named_importance(report, HOSTILE),),
        "learning": (report.learning[0].model_copy(update={"model": HOSTILE, "measure": HOSTILE}),),
        "rounds": (report.rounds[0].model_copy(update={"party": HOSTILE, "step": HOSTILE}),),
    }
    text = json.dumps(by_key(report.model_copy(update=names)))
    # the only tags are those of our own hover templates
    own = text.replace("<extra>%{fullData.name}</extra>", "").replace("<extra></extra>", "")
    assert "&lt;script&gt;" in own
    assert "<" not in own


def test_plain_and_shortened():
    assert plain("a < b & c") == "a &lt; b &amp; c"
    assert shortened("short") == "short"
    assert shortened("a_column_name_that_is_far_too_long_2024") == "a_column_name_th…o_long_2024"


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", PALETTES)
def test_contrast_meets_wcag_aa(theme: str):
    palette = PALETTES[theme]
    for text in ("ink", "muted"):
        for ground in ("surface", "page", "tint"):
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for mark in (*ModelKind, "positive", "negative", "party0", "party1", "party2"):
        assert contrast(palette[mark], palette["surface"]) >= 3, mark
