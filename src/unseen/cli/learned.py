"""What came of a run of horizontal learning, as a table, as JSON and as a page: just now, or as its folder says.

A folder is read and not changed, so that a run may be looked at while it goes on.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.data.federated.clients import Spread
from unseen.errors import DataError
from unseen.privacy.epsilon import Left
from unseen.report.federated import Course, Fairness, LearningReport, course
from unseen.report.units import bytes_text
from unseen.rounds.building import Built
from unseen.rounds.evaluation import PerClient
from unseen.rounds.kept import About, Labels, Outcome, RunFolder
from unseen.rounds.program import Program
from unseen.rounds.simulate import Round
from unseen.rounds.spending import left_in
from unseen.version import VERSION

Row = tuple[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A run: what it is about, its rounds, and what was found at the end, if that is known."""

    program: Program
    about: About
    history: tuple[Round, ...]
    outcome: Outcome
    privacy: Left | None

    @classmethod
    def read(cls, path: Path) -> Learned:
        """Return what a folder says; raises as ``RunFolder.read``."""
        found = RunFolder.read(path)
        program, rounds = found.program, len(found.history)
        left = None if program.privacy is None else left_in(program.name, program.privacy, path)
        return cls(program, found.about, found.history, found.outcome or Outcome(round=rounds), left)

    @property
    def test(self) -> Mapping[str, float]:
        """The metrics of the last evaluation; none if there was none."""
        return next((one.test for one in reversed(self.history) if one.test), {})

    @property
    def accuracy(self) -> dict[str, PerClient]:
        """The accuracy of each kind of model, client by client."""
        return {
            f"{name}{self._later}": PerClient("accuracy", (), np.zeros(0, np.int64), np.array(values, np.float64))
            for name, values in self.outcome.accuracy.items()
        }

    @property
    def comparison(self) -> list[Row]:
        """Metrics beside other training."""
        return [(f"{name}{self._later}", metrics) for name, metrics in self.outcome.comparison]

    @property
    def _later(self) -> str:
        """What is to be said of figures after which the run has gone on."""
        return "" if self.outcome.round == len(self.history) else f" (after round {self.outcome.round:,})"


def about_of(built: Built, *, data: str, clients: int, spread: Spread | None, real: bool) -> About:
    """Return what is known of a run before it begins."""
    return About(
        process=built.process.name,
        data=data,
        clients=clients,
        real=real,
        size=built.trainer.size,
        versions=_versions(),
        learned=_who(built.program),
        labels=None if spread is None else Labels.of(spread),
    )


def about_simulated(built: Built) -> About:
    """Return what is known of a simulation before it begins."""
    clients, spread = built.held.train, None
    with suppress(DataError):  # labels that are no classes have no such picture
        spread = clients.spread()
    return about_of(built, data=clients.name, clients=len(clients), spread=spread, real=False)


def tell(console: Console, learned: Learned) -> None:
    """Print a run as a table."""
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_row("rounds", str(len(learned.history)))
    for name, value in sorted(learned.test.items()):
        lines.add_row(Text(harmless(f"test {name}")), f"{value:.4f}")
    for model, one in learned.accuracy.items():
        lines.add_row(Text(harmless(f"accuracy at {len(one.values):,} clients, {model}")), f"{one.mean:.4f}")
        lines.add_row("  worst tenth", f"{one.worst():.4f}")
        lines.add_row("  standard deviation", f"{one.deviation:.4f}")
    for name, metrics in learned.comparison:
        lines.add_row(Text(harmless(f"test accuracy, {name}")), f"{metrics['accuracy']:.4f}")
    console.print(lines)
    if learned.privacy is not None:
        console.print(Text(harmless(f"privacy: {learned.privacy}")), soft_wrap=True)


def summary(learned: Learned) -> dict[str, object]:
    """Return a run for programs."""
    privacy = learned.privacy
    return {
        "program": learned.program.digest,
        "process": learned.about.process,
        "rounds": [
            {"round": one.number, "training": dict(one.training), "test": dict(one.test)} for one in learned.history
        ],
        "test": dict(learned.test),
        "clients": {
            model: {
                "clients": len(one.values),
                "mean": one.mean,
                "deviation": one.deviation,
                "worst tenth": one.worst(),
                "jain": one.jain,
            }
            for model, one in learned.accuracy.items()
        },
        "comparison": {name: dict(metrics) for name, metrics in learned.comparison},
        "privacy": None if privacy is None else {"epsilon": privacy.spent, "delta": privacy.limit.delta},
    }


def page(learned: Learned) -> LearningReport:
    """Return the content of the HTML page."""
    history, about = learned.history, learned.about
    numbers = [one.number for one in history]
    kind = "real" if about.real else "simulated"
    rounds, wanted = len(history), learned.program.rounds
    unfinished = f" of {wanted:,}" if rounds < wanted else ""
    return LearningReport(
        title=learned.program.name,
        lead=f"{about.process} on {about.data}: {about.clients:,} {kind} clients, {rounds:,}{unfinished} rounds.",
        training=course(numbers, [one.training.get("loss") for one in history]),
        loss=course(numbers, [one.test.get("loss") for one in history]),
        accuracy=course(numbers, [one.test.get("accuracy") for one in history]),
        fairness=tuple(
            Fairness(name, one.values, one.mean, one.deviation, one.worst(), one.jain)
            for name, one in learned.accuracy.items()
        ),
        comparison=tuple((name, metrics["accuracy"], metrics["loss"]) for name, metrics in learned.comparison),
        traffic=Course(tuple(numbers), tuple(float(one.bytes_up + one.bytes_down) for one in history)),
        partition=None if about.labels is None else about.labels.spread(),
        learned=_with_epsilon(about.learned, learned.privacy),
        facts=tuple(_facts(learned).items()),
        program=learned.program.text,
    )


def _with_epsilon(rows: Sequence[tuple[str, str]], left: Left | None) -> tuple[tuple[str, str], ...]:
    return (*rows, ("who gets the models of all rounds", f"{left}.")) if left is not None else tuple(rows)


def _who(program: Program) -> tuple[tuple[str, str], ...]:
    server = "Every update, with its client's name, number of examples and training loss; no example."
    client = "The common model of every round in which it takes part, and what the strategy broadcasts beside it."
    if program.aggregation is not None and program.aggregation.secure:
        server = "The mean of each cohort's updates, the sum of their weights, and who took part; no single update."
    if program.privacy is not None:
        server = "Every update, clipped, with its client's name; it is trusted with these, and adds the noise."
        return (("server", server), ("client", client))
    everybody = "The final model, which tells about examples as far as a trained model does."
    return (("server", server), ("client", client), ("who gets the model", everybody))


def _facts(learned: Learned) -> dict[str, str]:
    history, about, program = learned.history, learned.about, learned.program
    heard = sum(one.cohort - one.dropped for one in history) / max(1, len(history))
    up, down = sum(one.bytes_up for one in history), sum(one.bytes_down for one in history)
    facts = {
        "program, SHA-256": program.digest,
        "strategy": about.process,
        "model": f"{program.model.name}, {about.size:,} numbers",
        "clients": f"{about.clients:,}, in a round {heard:,.1f} on average",
        "bytes of all rounds": f"{bytes_text(up)} from clients, {bytes_text(down)} to them",
        "computing time of all rounds": f"{sum(one.seconds for one in history):,.1f} s",
        "versions": about.versions,
    }
    return facts if learned.privacy is None else {**facts, "privacy": str(learned.privacy)}


def _versions() -> str:
    found = f"Unseen {VERSION}, Python {platform.python_version()}, NumPy {np.__version__}"
    with suppress(PackageNotFoundError):
        found += f", PyTorch {version('torch')}"
    return found
