"""``unseen learn``: a program of horizontal learning, simulated, with what came of it as a table and a report."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.interrupt import cancel_on_signal
from unseen.cli.terminal import harmless
from unseen.data.federated.images import SETS
from unseen.errors import Cancelled, DataError, UsageError
from unseen.learners.horizontal.process import LocalPlan
from unseen.learners.horizontal.strategies.parts import Personal
from unseen.report.federated import UNCOVERED, Course, Fairness, LearningReport, course, write_learning
from unseen.report.units import bytes_text
from unseen.rounds.building import Built
from unseen.rounds.evaluation import Comparison, PerClient, compare, per_client
from unseen.rounds.logs import Progress
from unseen.rounds.program import Program
from unseen.rounds.simulate import Round, Simulation
from unseen.version import VERSION

_COMMON, _OWN = "the common model", "every client's own model"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody wants of a simulation."""

    rounds: int | None
    """In all, instead of the program's."""
    workers: int | None
    folder: Path | None
    report: Path | None
    compare: bool
    as_json: bool


def run(program: Path, wishes: Wishes) -> None:
    """Simulate the program, and say what came of it."""
    quiet_accountant()
    spec = Program.load(program)
    built, console = Built(spec, wishes.folder), Console(stderr=wishes.as_json)
    plan = _plan(built) if wishes.compare else None
    with cancel_on_signal() as cancel, built.simulation(workers=wishes.workers) as simulation:
        count = wishes.rounds or spec.rounds
        try:
            with watching_rounds(console, count, note=_note(built, "test")) as observe:
                simulation.rounds(count, observe=observe, cancel=cancel)
        except Cancelled as error:
            raise Cancelled(f"{_stopped(simulation, count)}; {_go_on(program, wishes.folder)}") from error
        fairness = _fairness(built, simulation, wishes.workers)
        comparison = None if plan is None else compare(simulation, plan)
    if wishes.as_json:
        Console().print_json(data=_summary(built, simulation, fairness, comparison))
    else:
        _tell(console, built, simulation, fairness, comparison)
    if wishes.report is not None:
        path = write_learning(_report(program, built, simulation, fairness, comparison), wishes.report)
        console.print(f"report: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)


def _stopped(simulation: Simulation, count: int) -> str:
    return f"stopped after {simulation.run.state.round} of {count} rounds"


def _go_on(program: Path, folder: Path | None) -> str:
    if folder is None:
        return "they are not kept: give --folder next time, and the same command goes on"
    return f"they are kept: go on with `unseen learn {program} --folder {folder}`"


def quiet_accountant() -> None:
    """Silence what the accountant's library says of orders that it leaves out, since its bounds hold without them."""
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextmanager
def watching_rounds(console: Console, count: int, *, note: str = "") -> Iterator[Callable[[Round], None]]:
    """Show rounds as they are finished: a bar with the last figures and the time that is left, or lines in a pipe.

    ``note`` stands behind the figures of a line.
    """
    if console.is_terminal:
        with Progress(count, console) as bar:
            yield bar
    else:
        yield lambda one: console.print(_line_of(one) + note, highlight=False, soft_wrap=True) if one.test else None


def _line_of(one: Round) -> str:
    return f"round {one.number}: " + ", ".join(f"{name} {value:.4f}" for name, value in sorted(one.test.items()))


def _uncovered(built: Built) -> frozenset[str]:
    """Return which figures of a private run come from clients' own examples, without noise."""
    if built.guard is None:
        return frozenset()
    # An image set has a part for testing that is no client's: what it says follows from the private model alone.
    own = {"test"} if built.program.data.source not in SETS else set()
    return frozenset({"clients", "comparison", *own})


def _note(built: Built, what: str) -> str:
    return f" ({UNCOVERED})" if what in _uncovered(built) else ""


def _plan(built: Built) -> LocalPlan:
    """Return how clients train, as others are to for a comparison.

    Raises:
        UsageError: The strategy has no such plan, or there is nothing to test on.
    """
    plan = getattr(built.process.work, "plan", None)
    if built.held.test is None:
        raise UsageError("--compare: there is nothing to test on: keep some examples of each client (data.test)")
    if not isinstance(plan, LocalPlan):
        raise UsageError(
            f"--compare: {built.process.name} has no plan of local training to train others by: leave it out"
        )
    return plan


def _fairness(built: Built, simulation: Simulation, workers: int | None) -> dict[str, PerClient]:
    """Return the accuracy at all clients: of the common model, and of their own if the strategy makes such."""
    local = built.held.local
    if local is None:
        return {}
    model = simulation.run.state.model
    found = {_COMMON: per_client(built.trainer, local, lambda _: model, workers=workers)}
    if isinstance(built.process.work, Personal):
        found[_OWN] = per_client(built.trainer, local, simulation.personal, workers=workers)
    return {name: metrics["accuracy"] for name, metrics in found.items()}


def _tell(
    console: Console,
    built: Built,
    simulation: Simulation,
    fairness: Mapping[str, PerClient],
    comparison: Comparison | None,
) -> None:
    run = simulation.run
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_row("rounds", str(run.state.round))
    for name, value in sorted(run.test.items()) if simulation.test is not None else ():
        lines.add_row(f"test {name}{_note(built, 'test')}", f"{value:.4f}")
    for model, one in fairness.items():
        note = _note(built, "clients")
        lines.add_row(f"accuracy at {len(one.clients):,} clients, {model}{note}", f"{one.mean:.4f}")
        lines.add_row(f"  worst tenth{note}", f"{one.worst():.4f}")
        lines.add_row(f"  standard deviation{note}", f"{one.deviation:.4f}")
    for name, metrics in () if comparison is None else comparison.rows():
        lines.add_row(f"test accuracy, {name}{_note(built, 'comparison')}", f"{metrics['accuracy']:.4f}")
    console.print(lines)
    if built.guard is not None:
        console.print(Text(harmless(f"privacy: {built.guard.budget.left()}")), soft_wrap=True)


def _summary(
    built: Built, simulation: Simulation, fairness: Mapping[str, PerClient], comparison: Comparison | None
) -> dict[str, object]:
    run, guard = simulation.run, built.guard
    return {
        "program": built.program.digest,
        "process": built.process.name,
        "rounds": [
            {"round": one.number, "training": dict(one.training), "test": dict(one.test)} for one in run.history
        ],
        "test": dict(run.test) if simulation.test is not None else {},
        "clients": {
            model: {
                "clients": len(one.clients),
                "mean": one.mean,
                "deviation": one.deviation,
                "worst tenth": one.worst(),
                "jain": one.jain,
            }
            for model, one in fairness.items()
        },
        "comparison": {} if comparison is None else {name: dict(metrics) for name, metrics in comparison.rows()},
        "privacy": None
        if guard is None
        else {
            "epsilon": guard.budget.left().spent,
            "delta": guard.limit.delta,
            UNCOVERED: sorted(_uncovered(built)),
        },
    }


def _report(
    path: Path,
    built: Built,
    simulation: Simulation,
    fairness: Mapping[str, PerClient],
    comparison: Comparison | None,
) -> LearningReport:
    history, clients = simulation.run.history, built.held.train
    numbers = [one.number for one in history]
    spread, traffic = None, Course((), ())
    if built.guard is None:  # both tell of clients' examples, and of how many came, which is as secret as who
        traffic = Course(tuple(numbers), tuple(float(one.bytes_up + one.bytes_down) for one in history))
        with suppress(DataError):  # labels that are no classes have no such picture
            spread = clients.spread()
    rows = [] if comparison is None else comparison.rows()
    return LearningReport(
        title=built.program.name,
        lead=f"{built.process.name} on {clients.name}: {len(clients):,} simulated clients, {len(history):,} rounds.",
        training=course(numbers, [one.training.get("loss") for one in history]),
        loss=course(numbers, [one.test.get("loss") for one in history]),
        accuracy=course(numbers, [one.test.get("accuracy") for one in history]),
        fairness=tuple(
            Fairness(name, one.values, one.mean, one.deviation, one.worst(), one.jain) for name, one in fairness.items()
        ),
        comparison=tuple((name, metrics["accuracy"], metrics["loss"]) for name, metrics in rows),
        traffic=traffic,
        partition=spread,
        learned=_learned(built),
        facts=_facts(built, simulation),
        program=path.read_text(encoding="utf-8"),
        uncovered=_uncovered(built),
    )


def _learned(built: Built) -> tuple[tuple[str, str], ...]:
    server = "Every update, with its client's name, number of examples and training loss; no example."
    client = "The common model of every round in which it takes part, and what the strategy broadcasts beside it."
    if built.program.aggregation is not None and built.program.aggregation.secure:
        server = "The mean of each cohort's updates, the sum of their weights, and who took part; no single update."
    if built.guard is None:
        everybody = "The final model, which tells about examples as far as a trained model does."
    else:
        server = "Every update, clipped, with its client's name; it is trusted with these, and adds the noise."
        everybody = f"The models of all rounds: {built.guard.budget.left()}."
    return (("server", server), ("client", client), ("who gets the model", everybody))


def _facts(built: Built, simulation: Simulation) -> tuple[tuple[str, str], ...]:
    size, clients = simulation.trainer.size, len(built.held.train)
    facts = {
        "program, SHA-256": built.program.digest,
        "strategy": built.process.name,
        "model": f"{built.program.model.name}, {size:,} numbers",
        **(_measured(simulation) if built.guard is None else {}),
        "versions": f"Unseen {VERSION}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"PyTorch {version('torch')}",
    }
    if built.guard is not None:
        # Not how many came, what they sent and how long it took: that is not covered by ε.
        facts["clients"] = f"{clients:,}, each in a round with probability {built.program.cohort.rate}"
        facts["privacy"] = str(built.guard.budget.left())
    return tuple(facts.items())


def _measured(simulation: Simulation) -> dict[str, str]:
    """Return what tells how many clients came."""
    history = simulation.run.history
    heard = sum(one.cohort - one.dropped for one in history) / max(1, len(history))
    up, down = sum(one.bytes_up for one in history), sum(one.bytes_down for one in history)
    return {
        "clients": f"{len(simulation.clients.ids):,}, in a round {heard:,.1f} on average",
        "bytes of all rounds": f"{bytes_text(up)} from clients, {bytes_text(down)} to them",
        "computing time of all rounds": f"{sum(one.seconds for one in history):,.1f} s",
    }
