"""``unseen learn``: a program of horizontal learning, simulated, with what came of it as a table and a report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from unseen.cli.interrupt import cancel_on_signal
from unseen.cli.learned import Learned, about_simulated, note, page, summary, tell
from unseen.errors import Cancelled, UsageError
from unseen.learners.horizontal.process import LocalPlan
from unseen.learners.horizontal.strategies.parts import Personal
from unseen.report.federated import write_learning
from unseen.rounds.building import Built
from unseen.rounds.evaluation import ModelOf, PerClient, compare, per_client
from unseen.rounds.gossip import Gossip
from unseen.rounds.kept import Outcome, keep
from unseen.rounds.logs import Progress
from unseen.rounds.program import Program
from unseen.rounds.run import Round
from unseen.rounds.simulate import Simulation

_COMMON, _OWN = "the common model", "every client's own model"
_MEAN = "the mean of all models"


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
        count = wishes.rounds or built.rounds
        about = about_simulated(built, count)
        if wishes.folder is not None:
            keep(wishes.folder, about)
        try:
            with watching_rounds(console, count, note=note(spec, "test")) as observe:
                simulation.rounds(count, observe=observe, cancel=cancel)
        except Cancelled as error:
            raise Cancelled(f"{_stopped(simulation, count)}; {_go_on(program, wishes.folder)}") from error
        outcome = _outcome(built, simulation, wishes.workers, plan)
    if wishes.folder is not None:
        keep(wishes.folder, outcome)
    left = None if built.guard is None else built.guard.budget.left()
    learned = Learned(spec, about, simulation.run.history, outcome, left)
    if wishes.as_json:
        Console().print_json(data=summary(learned))
    else:
        tell(console, learned)
    if wishes.report is not None:
        path = write_learning(page(learned), wishes.report)
        console.print(f"report: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)


def _outcome(built: Built, simulation: Simulation | Gossip, workers: int | None, plan: LocalPlan | None) -> Outcome:
    """Return what is found after the last round: accuracy at all clients, and beside other training."""
    fairness = _fairness(built, simulation, workers)
    rows = [] if plan is None else compare(simulation, plan).rows()
    return Outcome(
        round=simulation.run.state.round,
        accuracy={name: tuple(one.values.tolist()) for name, one in fairness.items()},
        comparison=tuple((name, dict(metrics)) for name, metrics in rows),
    )


def _stopped(simulation: Simulation | Gossip, count: int) -> str:
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


def _fairness(built: Built, simulation: Simulation | Gossip, workers: int | None) -> dict[str, PerClient]:
    """Return the accuracy at all clients: of the common model, and of their own if the strategy makes such."""
    local = built.held.local
    if local is None:
        return {}
    kinds: dict[str, ModelOf] = {}
    model = simulation.run.state.model
    if isinstance(simulation, Gossip):
        kinds[_MEAN] = lambda _: model
        kinds[_OWN] = dict(zip(simulation.clients.ids, simulation.models, strict=True)).__getitem__
    else:
        kinds[_COMMON] = lambda _: model
        if isinstance(built.process.work, Personal) and not built.program.of_tables:
            kinds[_OWN] = simulation.personal
    found = {name: per_client(built.trainer, local, of, workers=workers) for name, of in kinds.items()}
    return {name: metrics["accuracy"] for name, metrics in found.items() if "accuracy" in metrics}
