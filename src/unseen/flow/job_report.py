"""What a finished job left behind, as the content of a report: everything that its documents and records tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from unseen.component import Document, Shown
from unseen.flow.graph import Graph, Node
from unseen.flow.store import Mark, TaskRecord, Workspace
from unseen.ids import JobId, PartyId
from unseen.report.model import (
    Coefficient,
    LeakageRow,
    LineageRow,
    ModelResult,
    PartySummary,
    Report,
    RoundUsage,
    StepUsage,
)

# Of more rounds than are kept, every second, fourth, … one is; blocks of rows are larger.
_MOST_AT_ONCE = 64

Records = Mapping[PartyId, Mapping[str, TaskRecord]]


def job_report(graph: Graph, job: JobId, workspaces: Mapping[PartyId, Workspace], created: datetime) -> Report:
    """Return the report of a job, as far as these parties know: one of them in production, all in a simulation.

    Raises:
        DataError: A result is damaged.
    """
    records = {party: _records(workspace, job) for party, workspace in workspaces.items()}
    shown = list(_shown(graph, workspaces, records))
    comparison = tuple(result for part in shown for result in part.comparison)
    return Report(
        title=graph.spec.name,
        created=created,
        flow=graph.spec.name,
        parties=tuple(PartySummary(name=party, role=role.value) for party, role in graph.spec.parties.items()),
        conclusion=(_conclusion(comparison), "No row left its owner."),
        comparison=comparison,
        steps=tuple(_steps(graph, job, records)),
        rounds=tuple(_rounds(records)),
        coefficients=_of_one_model(shown),
        learning=tuple(course for part in shown for course in part.learning),
        importance=tuple(model for part in shown for model in part.importance),
        leakage=tuple(_leakage(graph, records)),
        lineage=tuple(_lineage(records)),
    )


def _records(workspace: Workspace, job: JobId) -> dict[str, TaskRecord]:
    found = {step: workspace.finished(key) for step, key in workspace.job(job).steps.items()}
    return {step: record for step, record in found.items() if record is not None}


def _shown(graph: Graph, workspaces: Mapping[PartyId, Workspace], records: Records) -> Iterator[Shown]:
    for step, node in graph.nodes.items():
        for party, found in records.items():
            ports = found[step].outputs.items() if step in found else ()
            for port, ref in ports:
                kind = node.component.outputs[port].kind
                value = workspaces[party].get(ref, kind) if issubclass(kind.type, Document) else None
                if isinstance(value, Document):
                    yield value.shown(step, party)


def _conclusion(comparison: tuple[ModelResult, ...]) -> str:
    told = [f"{model.name}: AUC {model.auc:.3f}" for model in comparison if model.auc is not None]
    told += [f"{model.name}: D² {model.d2:.3f}" for model in comparison if model.d2 is not None]
    told += [f"{model.name}: accuracy {model.accuracy:.3f}" for model in comparison if model.accuracy is not None]
    return "; ".join(told) + "." if told else "The job is finished."


def _steps(graph: Graph, job: JobId, records: Records) -> Iterator[StepUsage]:
    for step, node in graph.nodes.items():
        for party, found in records.items():
            if step in found:
                yield _usage(node, party, found[step], reused=found[step].job != job)


def _usage(node: Node, party: PartyId, record: TaskRecord, *, reused: bool) -> StepUsage:
    return StepUsage(
        step=node.step,
        component=node.component.name,
        party=party,
        seconds=record.seconds,
        bytes_sent=record.bytes_sent,
        bytes_received=record.bytes_received,
        rounds=record.rounds,
        messages=record.messages,
        reused=reused,
    )


def _rounds(records: Records) -> Iterator[RoundUsage]:
    for party, found in records.items():
        for step, record in found.items():
            for mark in _counted(record.course):
                yield RoundUsage(
                    step=step, party=party, round=mark.done, seconds=mark.seconds, bytes_sent=mark.bytes_sent
                )


def _counted(course: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """Return the marks of the last thing that was counted one by one: trees or iterations, not rows or bytes."""
    last = tuple(mark for mark in course if mark.total == course[-1].total)
    return last if last and last[0].done <= max(1, last[-1].done // len(last)) <= _MOST_AT_ONCE else ()


def _of_one_model(shown: list[Shown]) -> tuple[Coefficient, ...]:
    """Return each party's coefficients of the first model that has them: names may not stand twice."""
    first: dict[tuple[str, str], Coefficient] = {}
    for part in shown:
        for weight in part.coefficients:
            first.setdefault((weight.party, weight.name), weight)
    return tuple(first.values())


def _leakage(graph: Graph, records: Records) -> Iterator[LeakageRow]:
    offers = len(graph.spec.parties) - 1
    for step, node in graph.nodes.items():
        # Without further messages than the offers to reuse the step, as when one party works alone, nobody learns.
        if any(step in found and found[step].messages > offers for found in records.values()):
            for leak in node.component.leaks:
                if leak.applies(node.params):
                    yield LeakageRow(step=step, party=leak.who, learns=leak.learns)


def _lineage(records: Records) -> Iterator[LineageRow]:
    for party, found in records.items():
        for step, record in found.items():
            for port, line in record.lineage.items():
                ref = record.outputs[port]
                made_from = tuple(digest[:12] for digest in line.inputs.values())
                yield LineageRow(artifact=ref.digest[:12], kind=ref.kind, step=step, party=party, made_from=made_from)
