from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.data.import_report import ADVICE, FILE_CAUSES, MAX_PLACES, Cause, Findings, ImportReport


def test_every_cause_has_advice():
    assert set(ADVICE) == set(Cause)
    assert all(ADVICE.values())


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.sampled_from("ab")), unique=True, min_size=1, max_size=200))
def test_problems_show_the_first_places_whatever_the_order_of_finding(found):
    findings = Findings()
    for line, column in found:
        findings.add(Cause.MIXED_TYPES, f"{line}{column}", line=line, column=column)
    (problem,) = findings.problems()
    first = sorted(found)[:MAX_PLACES]
    assert problem.count == len(found)
    assert [(place.line, place.column) for place in problem.places] == first
    assert problem.example == "{}{}".format(*first[0])


def test_long_examples_are_cut():
    findings = Findings()
    findings.add(Cause.LONG_CELL, "x" * 1000)
    assert len(findings.problems()[0].example) < 100


def test_a_report_reads_as_text():
    findings = Findings("row")
    findings.add(Cause.NOT_FINITE, "inf", line=3, column="age")
    findings.add(Cause.ONE_CLASS_LABEL, "all are 1", column="y")
    report = ImportReport(Path("a.csv"), 5, 4, findings.problems(), (("age", 2),), ("a remark",))
    assert report.rows_quarantined == 1
    assert report.fatal
    assert str(report).splitlines() == [
        "a.csv: 5 rows read, 4 kept",
        f"  one-class label (1): column y: {ADVICE[Cause.ONE_CLASS_LABEL]}",
        f"  NaN or infinity (1): row 3, column age: {ADVICE[Cause.NOT_FINITE]}",
        "  missing values in column age: 2",
        "  a remark",
    ]


def test_only_problems_of_the_whole_file_are_fatal():
    for cause in Cause:
        findings = Findings()
        findings.add(cause)
        assert ImportReport(Path("a.csv"), 1, 0, findings.problems()).fatal == (cause in FILE_CAUSES)
