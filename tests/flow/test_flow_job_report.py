"""The report of any job, made of what its parties keep."""

from datetime import UTC, datetime

import pytest

from unseen.component import Document, Kind, Shown
from unseen.flow.executor import MOST_MARKS
from unseen.flow.job_report import _counted, job_report
from unseen.flow.store import Mark, Workspace
from unseen.ids import PartyId
from unseen.report.html import render
from unseen.report.model import Coefficient, ModelKind, ModelResult

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Quality(Document):
    auc: float

    def shown(self, step, party):
        weights = tuple(Coefficient(party=party, name=name, value=self.auc) for name in ("a", "b"))
        result = ModelResult(name=step, kind=ModelKind.FEDERATED, auc=self.auc)
        return Shown(comparison=(result,), coefficients=weights)


def report_of(toys, result, parties=("bank", "shop")):
    workspaces = {PartyId(party): Workspace(toys.root / "ws" / party) for party in parties}
    return job_report(result.graph, result.job, workspaces, NOW)


def marks(*places, total=9):
    return tuple(Mark(done=done, total=total, seconds=1, bytes_sent=0, bytes_received=0) for done in places)


def test_it_tells_what_every_step_cost_every_party(toys):
    first = toys.run()
    report = report_of(toys, first)
    assert {(usage.step, usage.party) for usage in report.steps} == {
        (step, party) for step in ("read", "total", "grow", "judge") for party in ("bank", "shop")
    }
    assert not any(usage.reused for usage in report.steps)
    (grown,) = [usage for usage in report.steps if (usage.step, usage.party) == ("grow", "shop")]
    assert grown.messages == first.steps[PartyId("shop")]["grow"].record.messages > 0
    assert [line.step for line in report.lineage if line.party == "bank"] == ["read", "total", "grow", "judge"]
    assert all(usage.reused for usage in report_of(toys, toys.run()).steps)


def test_one_party_reports_what_it_knows(toys):
    report = report_of(toys, toys.run(), ["shop"])
    assert {usage.party for usage in report.steps} == {"shop"}
    assert [(party.name, party.role) for party in report.parties] == [("bank", "active"), ("shop", "passive")]
    assert "The job is finished." in render(report)


@pytest.fixture
def judged(toys, monkeypatch):
    """Toys whose judge says how good the model is."""
    registry = type(toys).registry.fget(toys)
    judge = registry["judge"]

    def run(task):
        yield from ()
        return {"verdict": Quality(auc=0.75)} if task.is_active else {}

    output = {
        "verdict": type(judge.outputs["verdict"])(Kind("quality", Quality), "how good", judge.outputs["verdict"].at)
    }
    new = type(judge)("judge", 2, "judge", judge.params, judge.inputs, output, (), run)
    monkeypatch.setattr(type(toys), "registry", property(lambda _: registry | {"judge": new}))
    return toys


def test_documents_say_what_is_shown_of_them(judged):
    report = report_of(judged, judged.run())
    assert [(model.name, model.auc) for model in report.comparison] == [("judge", 0.75)]
    assert [weight.name for weight in report.coefficients] == ["a", "b"]
    assert report.conclusion[0] == "judge: AUC 0.750."


def test_trees_and_iterations_are_counted_but_not_rows():
    assert _counted(()) == ()
    assert _counted(marks(1, 2, 3)) == marks(1, 2, 3)
    assert _counted(marks(2048, 4096, total=4096)) == ()
    assert _counted((*marks(100, 200, total=200), *marks(1, 2))) == marks(1, 2)
    many = marks(*range(4, 4 * MOST_MARKS, 4), total=10**6)
    assert _counted(many) == many
