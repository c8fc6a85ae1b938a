"""What the demo reports of its parties' artifacts; the flow runs in this process, with sums that are not protected."""

from __future__ import annotations

import numpy as np
import pytest

from unseen.catalog.evaluate import Evaluation
from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.data.table import Table
from unseen.demo.flow import TABLE
from unseen.demo.prepare import JOB, DemoOptions, DemoPlan, prepare
from unseen.demo.results import DemoResults, build_report, pooled
from unseen.dialogue import converse
from unseen.errors import LocalProtocolError
from unseen.flow.executor import Seat, play
from unseen.flow.graph import build_graph
from unseen.ids import PartyId
from unseen.report.model import INTERCEPT

BANK, PARTNER = PartyId("bank"), PartyId("partner")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> DemoPlan:
    out = tmp_path_factory.mktemp("results") / "demo"
    return prepare(DemoOptions(out, rows=300, mode="exact", scheme="plain"))


@pytest.fixture(scope="module")
def results(laid_out: DemoPlan) -> DemoResults:
    graph = build_graph(laid_out.workspace(BANK).job(JOB).flow, installed_components())

    def seat(party: PartyId) -> Seat:
        sources = {TABLE: Source(laid_out.out / party / f"{TABLE}.csv")}
        return Seat(party, graph, JOB, laid_out.workspace(party), sources, SystemClock(), simulated=True)

    converse({party: play(seat(party)) for party in laid_out.parties})
    return DemoResults(laid_out)


@pytest.fixture(scope="module")
def report(results: DemoResults):
    return build_report(results, seconds=1.5)


def test_artifacts_are_those_of_the_party(results):
    bank, partner = (results.get(party, "scale", "table", Table) for party in (BANK, PARTNER))
    assert results.matrix("scale").shape == (bank.rows, bank.matrix().shape[1] + partner.matrix().shape[1])
    np.testing.assert_array_equal(results.matrix("scale")[:, : bank.matrix().shape[1]], bank.matrix())
    assert len(results.coefficients()) == results.matrix("scale").shape[1] + 1


def test_a_step_that_did_not_finish_is_named(results, tmp_path):
    with pytest.raises(LocalProtocolError, match="step nonsense of the demo is not finished at partner"):
        results.record(PARTNER, "nonsense")
    untouched = DemoResults(prepare(DemoOptions(tmp_path / "demo", rows=100)))
    with pytest.raises(LocalProtocolError, match="step evaluate of the demo is not finished at bank"):
        build_report(untouched, 0.0)


def test_an_artifact_of_another_kind_is_named(results):
    with pytest.raises(LocalProtocolError, match=r"align\.table at bank is Table, not Evaluation"):
        results.get(BANK, "align", "table", Evaluation)


def test_the_federated_model_is_the_pooled_one(results):
    centre = pooled(results)
    wanted = [*centre.part.coef_, centre.part.intercept_]
    np.testing.assert_allclose(results.coefficients(), wanted, rtol=1e-3, atol=1e-4)
    federated = results.get(BANK, "evaluate", "evaluation", Evaluation).result
    assert federated.auc == pytest.approx(centre.result.auc, abs=1e-6)
    assert (centre.result.name, centre.result.kind.value) == ("Pooled data", "pooled")


def test_the_report_compares_three_models(report):
    assert [model.name for model in report.comparison] == ["Federated", "bank alone", "Pooled data"]
    assert report.conclusion[0].startswith(
        f"Together the model reaches AUC {report.comparison[0].auc:.3f}; bank alone "
    )
    assert (report.title, report.seconds) == ("One credit model, two owners of data", 1.5)
    assert [(party.name, party.role) for party in report.parties] == [("bank", "active"), ("partner", "passive")]


def test_coefficients_stand_beside_those_of_pooled_data(results, report):
    assert (report.coefficients[0].party, report.coefficients[0].name) == (BANK, INTERCEPT)
    found = [row.value for row in [*report.coefficients[1:], report.coefficients[0]]]
    np.testing.assert_array_equal(found, results.coefficients())
    for row in report.coefficients:
        assert row.value == pytest.approx(row.pooled_value, rel=1e-3, abs=1e-4)
    owners = [row.party for row in report.coefficients[1:]]
    assert owners == sorted(owners)
    assert {*owners} == {BANK, PARTNER}


def test_what_one_sent_the_other_received(results, report):
    assert len(report.steps) == 2 * len(results.graph.nodes)
    for bank, partner in zip(report.steps[::2], report.steps[1::2], strict=True):
        assert (bank.step, bank.party, partner.party) == (partner.step, BANK, PARTNER)
        assert (bank.bytes_sent, bank.bytes_received) == (partner.bytes_received, partner.bytes_sent)
    assert not any(step.reused for step in report.steps)


def test_only_steps_in_which_parties_talked_can_have_leaked(report):
    talked = {step.step for step in report.steps if step.messages > 1}
    assert {row.step for row in report.leakage} <= talked
    assert {"align", "train"} <= {row.step for row in report.leakage}
    assert not {"read", "train_alone"} & {row.step for row in report.leakage}


def test_facts_count_the_people(results, report):
    facts = {fact.name: fact.value for fact in report.facts}
    sizes = [int(facts[name]) for name in ("Learned from", "Tested on", "Scored without a label")]
    assert sum(sizes) == int(facts["People shared"]) == results.get(BANK, "align", "table", Table).rows
    assert (facts["mode"], facts["scheme"], facts["Converged"]) == ("exact", "plain", "yes")


def test_lineage_leads_from_every_artifact_back_to_a_table(results, report):
    made = {row.artifact: row for row in report.lineage}
    scores = next(row for row in report.lineage if row.step == "score_new")
    seen, open_ends = set(), [scores.artifact]
    while open_ends:
        artifact = open_ends.pop()
        seen.add(artifact)
        open_ends += [each for each in made[artifact].made_from if each in made and each not in seen]
    assert {made[artifact].step for artifact in seen} >= {"read", "align", "split", "scale", "train", "score_new"}
    assert {row.party for row in report.lineage} == {BANK}
    assert results.record(BANK, "read").outputs["table"].digest[:12] in seen
