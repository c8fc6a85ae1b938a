"""Gathers what the demo's parties hold and compares it with pooled data, which only the demo can do: it owns both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unseen.catalog.evaluate import EvaluateParams, Evaluation, model_result
from unseen.catalog.logistic_regression import LinearModel, LogisticRegressionParams
from unseen.component import Kind, Value, installed_components
from unseen.crypto.prg import Prg
from unseen.data.table import Table
from unseen.demo.prepare import JOB, DemoPlan
from unseen.dialogue import converse
from unseen.errors import LocalProtocolError
from unseen.flow.graph import Graph, build_graph
from unseen.flow.store import TaskRecord
from unseen.ids import PartyId, StepId
from unseen.learners.vertical.logistic import LinearPart, LogisticParams, Setting, score_active, train_active
from unseen.report.model import (
    INTERCEPT,
    Coefficient,
    Fact,
    FactGroup,
    LeakageRow,
    LineageRow,
    ModelKind,
    ModelResult,
    PartySummary,
    Report,
    StepUsage,
)

V = TypeVar("V", bound=Value)


@dataclass(frozen=True, slots=True)
class Pooled:
    """The model of the same rows in one place, and how well it does."""

    part: LinearPart
    result: ModelResult


class DemoResults:
    """Reads the artifacts of every party of a finished demo."""

    def __init__(self, plan: DemoPlan) -> None:
        self.plan = plan
        spec = plan.workspace(plan.active).job(JOB).flow
        self.graph: Graph = build_graph(spec, installed_components())

    def record(self, party: PartyId, step: str) -> TaskRecord:
        """Return what a step left behind at a party."""
        workspace = self.plan.workspace(party)
        found = workspace.finished(workspace.job(JOB).steps.get(StepId(step), ""))
        if found is None:
            raise LocalProtocolError(f"step {step} of the demo is not finished at {party}")
        return found

    def get(self, party: PartyId, step: str, port: str, kind: type[V]) -> V:
        """Return one artifact of a party."""
        wanted: Kind = self.graph.nodes[StepId(step)].component.outputs[port].kind
        value = self.plan.workspace(party).get(self.record(party, step).outputs[port], wanted)
        if not isinstance(value, kind):
            raise LocalProtocolError(f"{step}.{port} at {party} is {type(value).__name__}, not {kind.__name__}")
        return value

    def matrix(self, step: str) -> NDArray[np.float64]:
        """Return all parties' columns of an aligned table side by side."""
        return np.hstack([self.get(party, step, "table", Table).matrix() for party in self.plan.parties])

    def coefficients(self) -> NDArray[np.float64]:
        """Return the federated model's coefficients in the order of ``matrix``, the intercept last."""
        parts = [self.get(party, "train", "model", LinearModel).part for party in self.plan.parties]
        return np.concatenate([*(part.coef_ for part in parts), [sum(part.intercept_ for part in parts)]])


def pooled(results: DemoResults) -> Pooled:
    """Train and evaluate logistic regression on all parties' columns in one place."""
    plan = results.plan
    train, test = (results.get(plan.active, step, "table", Table) for step in ("scale", "scale_test"))
    params = LogisticParams("exact", LogisticRegressionParams().l2, max_iterations=500, tolerance=1e-9)
    setting = Setting(me=plan.active, active=plan.active, passives=(), prg=Prg.fresh())
    dialogue = train_active(results.matrix("scale"), train.label(), params=params, setting=setting)
    part = converse({plan.active: dialogue})[plan.active]
    scores = converse({plan.active: score_active(part, results.matrix("scale_test"), setting=setting)})[plan.active]
    shown = EvaluateParams(name="Pooled data", kind=ModelKind.POOLED)
    return Pooled(part, model_result(shown, test.label(), scores))


def build_report(results: DemoResults, seconds: float) -> Report:
    """Return the report of a finished demo; ``seconds`` is the wall time of the job."""
    plan = results.plan
    together = results.get(plan.active, "evaluate", "evaluation", Evaluation).result
    alone = results.get(plan.active, "evaluate_alone", "evaluation", Evaluation).result
    centre = pooled(results)
    return Report(
        title="One credit model, two owners of data" if plan.embedded else "One model, several owners of data",
        created=datetime.now(UTC),
        flow=results.graph.spec.name,
        parties=tuple(_parties(results)),
        conclusion=(
            f"Together the model reaches AUC {together.auc:.3f}; {plan.active} alone {alone.auc:.3f}; "
            f"pooled data {centre.result.auc:.3f}.",
            "No row left its owner.",
        ),
        seconds=seconds,
        comparison=(together, alone, centre.result),
        steps=tuple(_steps(results)),
        coefficients=tuple(_coefficients(results, centre.part)),
        facts=tuple(_facts(results)),
        leakage=tuple(_leakage(results)),
        lineage=tuple(_lineage(results)),
    )


def _parties(results: DemoResults) -> Iterator[PartySummary]:
    for party, role in results.graph.spec.parties.items():
        table = results.get(party, "read", "table", Table)
        holds = f"{table.rows:,} people; columns {', '.join(table.schema.feature_names)}"
        yield PartySummary(name=party, role=role.value, holds=holds)


def _steps(results: DemoResults) -> Iterator[StepUsage]:
    for step, node in results.graph.nodes.items():
        for party in results.plan.parties:
            record = results.record(party, step)
            yield StepUsage(
                step=step,
                component=node.component.name,
                party=party,
                seconds=record.seconds,
                bytes_sent=record.bytes_sent,
                bytes_received=record.bytes_received,
                rounds=record.rounds,
                messages=record.messages,
                reused=record.job != JOB,
            )


def _coefficients(results: DemoResults, centre: LinearPart) -> Iterator[Coefficient]:
    parts = [results.get(party, "train", "model", LinearModel).part for party in results.plan.parties]
    yield Coefficient(
        party=results.plan.active,
        name=INTERCEPT,
        value=sum(part.intercept_ for part in parts),
        pooled_value=centre.intercept_,
    )
    position = 0
    for party in results.plan.parties:
        model = results.get(party, "train", "model", LinearModel)
        for name, value in zip(model.names, model.part.coef_, strict=True):
            yield Coefficient(party=party, name=name, value=value, pooled_value=centre.coef_[position])
            position += 1


def _facts(results: DemoResults) -> Iterator[Fact]:
    active = results.plan.active
    for name, step, port, tile in (
        ("People shared", "align", "table", True),
        ("Learned from", "split", "train", False),
        ("Tested on", "split", "test", False),
        ("Scored without a label", "split", "unlabelled", False),
    ):
        yield Fact(name=name, value=f"{results.get(active, step, port, Table).rows:,}", tile=tile)
    model = results.get(active, "train", "model", LinearModel)
    for name, value in results.graph.nodes[StepId("train")].params.model_dump(mode="json").items():
        yield Fact(name=name, value=str(value), group=FactGroup.PARAMETERS)
    yield Fact(name="Iterations", value=str(model.part.n_iterations), group=FactGroup.PROTOCOL)
    yield Fact(name="Converged", value="yes" if model.part.converged else "no", group=FactGroup.PROTOCOL)
    yield Fact(name="Link", value="gRPC, mutual TLS 1.3", group=FactGroup.PROTOCOL)


def _leakage(results: DemoResults) -> Iterator[LeakageRow]:
    offers = len(results.plan.parties) - 1
    for step, node in results.graph.nodes.items():
        if all(results.record(party, step).messages <= offers for party in results.plan.parties):
            continue  # nothing was sent but the offers to reuse the step, as when one party works alone
        for leak in filter(lambda leak: leak.applies(node.params), node.component.leaks):
            yield LeakageRow(step=step, party=leak.who, learns=leak.learns)


def _lineage(results: DemoResults) -> Iterator[LineageRow]:
    active = results.plan.active
    for step in results.graph.nodes:
        record = results.record(active, step)
        for port, line in record.lineage.items():
            ref = record.outputs[port]
            made_from = tuple(digest[:12] for digest in line.inputs.values())
            yield LineageRow(artifact=ref.digest[:12], kind=ref.kind, step=step, party=active, made_from=made_from)
