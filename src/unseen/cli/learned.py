"""What came of a run of horizontal learning, as a table, as JSON and as a page: just now, or as its folder says.

A folder is read and not changed, so that a run may be looked at while it goes on.
"""

from __future__ import annotations

import math
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
from unseen.data.federated.images import SETS
from unseen.errors import DataError
from unseen.privacy.epsilon import Left
from unseen.report.federated import UNCOVERED, Course, Fairness, LearningReport, course
from unseen.report.units import bytes_text
from unseen.rounds.building import Built
from unseen.rounds.evaluation import PerClient
from unseen.rounds.kept import About, Labels, Outcome, RunFolder
from unseen.rounds.private import MODES
from unseen.rounds.program import Program
from unseen.rounds.run import Round
from unseen.rounds.sections import PEERS, TopologySection
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
        section, left = program.privacy, None
        if section is not None:
            left = left_in(MODES[section.mode].limit(program.name, section), path)
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
        """Accuracy and loss beside other training."""
        return [
            (f"{name}{self._later}", metrics)
            for name, metrics in self.outcome.comparison
            if {"accuracy", "loss"} <= set(metrics)
        ]

    @property
    def _later(self) -> str:
        """What is to be said of figures after which the run has gone on."""
        return "" if self.outcome.round == len(self.history) else f" (after round {self.outcome.round:,})"


def about_of(
    built: Built, rounds: int, *, data: str, clients: int, spread: Spread | None = None, real: bool = False
) -> About:
    """Return what is known of a run of so many rounds before it begins."""
    model = built.program.model.name
    return About(
        process=built.process.name,
        data=data,
        clients=clients,
        real=real,
        rounds=rounds,
        model=model if built.program.of_tables else f"{model}, {built.trainer.size:,} numbers",
        versions=_versions(),
        learned=_who(built.program),
        labels=None if spread is None else Labels.of(spread),
    )


def about_simulated(built: Built, rounds: int) -> About:
    """Return what is known of a simulation of so many rounds before it begins."""
    clients, spread = built.held.train, None
    if built.guard is None:  # who has what is a figure of clients' examples
        with suppress(DataError):  # labels that are no classes have no such picture
            spread = clients.spread()
    return about_of(built, rounds, data=clients.name, clients=len(clients), spread=spread)


def tell(console: Console, learned: Learned) -> None:
    """Print a run as a table."""
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_row("rounds", str(len(learned.history)))
    for name, value in sorted(learned.test.items()):
        lines.add_row(Text(harmless(f"test {name}{note(learned.program, 'test')}")), f"{value:.4f}")
    for model, one in learned.accuracy.items():
        about = note(learned.program, "clients")
        lines.add_row(Text(harmless(f"accuracy at {len(one.values):,} clients, {model}{about}")), f"{one.mean:.4f}")
        lines.add_row(f"  worst tenth{about}", f"{one.worst():.4f}")
        lines.add_row(f"  standard deviation{about}", f"{one.deviation:.4f}")
    for name, metrics in learned.comparison:
        label = f"test accuracy, {name}{note(learned.program, 'comparison')}"
        lines.add_row(Text(harmless(label)), f"{metrics['accuracy']:.4f}")
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
        "privacy": None
        if privacy is None
        else {
            "epsilon": privacy.spent,
            "delta": privacy.limit.delta,
            UNCOVERED: sorted(uncovered(learned.program)),
        },
    }


def uncovered(program: Program) -> frozenset[str]:
    """Return which figures of a private run come from clients' own examples, without noise."""
    if program.privacy is None:
        return frozenset()
    # An image set has a part for testing that is no client's: what it says follows from the private model alone.
    own = {"test"} if program.data.source not in SETS else set()
    return frozenset({"clients", "comparison", *own})


def note(program: Program, what: str) -> str:
    """Return what stands behind a figure of a private run that its ε does not cover."""
    return f" ({UNCOVERED})" if what in uncovered(program) else ""


def page(learned: Learned) -> LearningReport:
    """Return the content of the HTML page."""
    history, about = learned.history, learned.about
    numbers = [one.number for one in history]
    kind = "real" if about.real else "simulated"
    rounds, wanted = len(history), about.rounds
    unfinished = f" of {wanted:,}" if rounds < wanted else ""
    traffic = Course((), ())
    if learned.program.privacy is None and _counts_bytes(learned):  # it tells how many came, which is as secret as who
        traffic = Course(tuple(numbers), tuple(float(one.bytes_up + one.bytes_down) for one in history))
    return LearningReport(
        title=learned.program.name,
        lead=f"{about.process} on {about.data}: {about.clients:,} {kind} clients, {rounds:,}{unfinished} rounds.",
        training=course(numbers, [_finite(one.training.get("loss")) for one in history]),
        loss=course(numbers, [one.test.get("loss") for one in history]),
        accuracy=course(numbers, [one.test.get("accuracy") for one in history]),
        fairness=tuple(
            Fairness(name, one.values, one.mean, one.deviation, one.worst(), one.jain)
            for name, one in learned.accuracy.items()
        ),
        comparison=tuple((name, metrics["accuracy"], metrics["loss"]) for name, metrics in learned.comparison),
        traffic=traffic,
        partition=None if about.labels is None else about.labels.spread(),
        learned=_with_epsilon(about.learned, learned.privacy),
        facts=tuple(_facts(learned).items()),
        program=learned.program.text,
        uncovered=uncovered(learned.program),
    )


def _finite(value: float | None) -> float | None:
    """Return a number that can be drawn: where all nodes were down, nobody has trained."""
    return value if value is not None and math.isfinite(value) else None


def _counts_bytes(learned: Learned) -> bool:
    """Return whether the rounds know what was sent: simulated peers are played by one who has all updates."""
    topology = learned.program.topology
    return topology is None or topology.name != PEERS


def _with_epsilon(rows: Sequence[tuple[str, str]], left: Left | None) -> tuple[tuple[str, str], ...]:
    return (*rows, ("who gets the models of all rounds", f"{left}.")) if left is not None else tuple(rows)


def _who(program: Program) -> tuple[tuple[str, str], ...]:
    hidden = program.aggregation is not None and program.aggregation.secure
    if program.of_tables:
        sums = (
            "The sums over the rows of a cohort" if hidden else "Each client's sums over its rows, and how many it has"
        )
        return (
            ("server", f"{sums}: counts by ranges of values, and what the model is made of, by column; no row."),
            ("client", "Ranges, bins, or means of columns; the model of every round."),
            ("who gets the model", "Bins, splits and leaf values, or coefficients with means and deviations."),
        )
    if program.topology is not None:
        return _without_server(program.topology, private=program.privacy is not None)
    server = "Every update, with its client's name, number of examples and training loss; no example."
    client = "The common model of every round in which it takes part, and what the strategy broadcasts beside it."
    if hidden:
        server = "The mean of each cohort's updates, the sum of their weights, and who took part; no single update."
    if program.privacy is not None:
        return (("server", MODES[program.privacy.mode].server), ("client", client))
    everybody = "The final model, which tells about examples as far as a trained model does."
    return (("server", server), ("client", client), ("who gets the model", everybody))


def _without_server(section: TopologySection, *, private: bool) -> tuple[tuple[str, str], ...]:
    if section.name == PEERS:
        noise = ", with the noise of all" if private else ""
        state = f"The state after every round: the mean of all updates{noise}, no single one of others."
        return (("every peer", state),)
    if private:
        return (("every neighbour", "The models of those that send to it, with noise on what each training changed."),)
    return (
        (
            "every neighbour",
            "The models of those that send to it, after each training: as much as single updates tell.",
        ),
        ("who gets a model", "What a trained model tells about examples; nobody has the mean of all."),
    )


def _facts(learned: Learned) -> dict[str, str]:
    about, program = learned.about, learned.program
    facts = {
        "program, SHA-256": program.digest,
        "strategy": about.process,
        "model": about.model,
        **(_measured(learned) if program.privacy is None else {}),
        "versions": about.versions,
    }
    if program.privacy is not None:
        # Not how many came, what they sent and how long it took: that is not covered by ε.
        said = program.cohort
        some = "all" if program.topology is not None else "some"
        drawn = f"each in a round with probability {said.rate}" if said.rate else f"{said.size or some} in a round"
        facts["clients"] = f"{about.clients:,}, {drawn}"
        facts["privacy"] = str(learned.privacy)
    return facts


def _measured(learned: Learned) -> dict[str, str]:
    """Return what tells how many clients came."""
    history = learned.history
    heard = sum(one.cohort - one.dropped for one in history) / max(1, len(history))
    up, down = sum(one.bytes_up for one in history), sum(one.bytes_down for one in history)
    facts = {
        "clients": f"{learned.about.clients:,}, in a round {heard:,.1f} on average",
        "computing time of all rounds": f"{sum(one.seconds for one in history):,.1f} s",
    }
    if _counts_bytes(learned):
        facts["bytes of all rounds"] = f"{bytes_text(up)} from clients, {bytes_text(down)} to them"
    if history and history[-1].clock:
        facts["simulated time of all rounds"] = f"{history[-1].clock:,.0f} s"
    return facts


def _versions() -> str:
    found = f"Unseen {VERSION}, Python {platform.python_version()}, NumPy {np.__version__}"
    with suppress(PackageNotFoundError):
        found += f", PyTorch {version('torch')}"
    return found
