import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unseen.errors import DataError, UsageError
from unseen.report.model import MAX_POINTS, Report, RocCurve, ScoreHistogram, StepUsage, thin

USAGE = StepUsage(step="join", component="psi_join", party="a", seconds=1)


def test_json_round_trip_is_lossless(report: Report):
    assert Report.from_json(report.to_json()) == report


def test_a_report_cannot_be_changed(report: Report):
    with pytest.raises(ValidationError, match="frozen"):
        report.title = "another"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"title": None}, "title"),
        ({"created": "2026-03-05T14:07:00"}, "created"),  # no time zone
        ({"conclusion": []}, "conclusion"),
        ({"format": 2}, "format"),
        ({"unknown": 1}, "unknown"),
        ({"comparison": [{"name": "x", "kind": "federated", "auc": 1.2}]}, "comparison.0.auc"),
        ({"comparison": [{"name": "x", "kind": "best", "auc": 0.5}]}, "comparison.0.kind"),
    ],
)
def test_from_json_names_the_field_at_fault(report: Report, change: dict, named: str):
    text = json.dumps(json.loads(report.to_json()) | change)
    with pytest.raises(DataError, match=f"not a report: {named}"):
        Report.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}'])
def test_from_json_refuses_what_is_no_report(text: str):
    with pytest.raises(DataError, match="not a report"):
        Report.from_json(text)


def test_from_json_calls_inconsistent_content_a_data_error(report: Report):
    content = json.loads(report.to_json())
    content["steps"].append(content["steps"][0])
    with pytest.raises(DataError, match="more than once"):
        Report.from_json(json.dumps(content))


def test_curves_need_columns_of_one_length():
    with pytest.raises(UsageError, match="one length"):
        RocCurve(false_positive_rate=(0, 1), true_positive_rate=(0, 0.5, 1))


def test_curves_are_limited_in_points():
    line = [step / MAX_POINTS for step in range(MAX_POINTS + 1)]
    with pytest.raises(ValidationError, match="at most 200"):
        RocCurve(false_positive_rate=line, true_positive_rate=line)


@pytest.mark.parametrize(
    ("edges", "positives", "problem"),
    [((0, 1), (1, 2), "one count fewer"), ((0,), (), "one count fewer"), ((0, 0.5, 0.5), (1, 2), "must increase")],
)
def test_a_histogram_has_increasing_edges_around_its_counts(edges, positives, problem):
    with pytest.raises(UsageError, match=problem):
        ScoreHistogram(edges=edges, positives=positives, negatives=positives)


def test_a_step_is_counted_once_per_party():
    with pytest.raises(UsageError, match=r"\('join', 'a'\) more than once"):
        Report(
            title="t",
            created=datetime.fromisoformat("2026-01-01T00:00Z"),
            flow="f",
            parties=(),
            conclusion=("c",),
            steps=(USAGE, USAGE),
        )


@given(st.integers(1, 1000), st.integers(2, 300))
def test_thinning_keeps_both_ends_the_order_and_the_limit(length: int, limit: int):
    column = [float(value) for value in range(length)]
    first, second = thin(column, [-value for value in column], limit=limit)
    assert len(first) == min(length, limit)
    assert (first[0], first[-1]) == (column[0], column[-1])
    assert list(first) == sorted(set(first))
    assert second == tuple(-value for value in first)


def test_thinning_refuses_columns_that_do_not_belong_together():
    with pytest.raises(UsageError, match="one length"):
        thin([1.0], [1.0, 2.0])
    with pytest.raises(UsageError, match="limit"):
        thin([1.0, 2.0], limit=1)
