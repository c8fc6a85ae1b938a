"""Builds what a program names: clients, model, process, cohorts; for a simulation, a server and a client alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TypeVar

from unseen.codec import read_json
from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.compression.compressed import Compressed, compressed
from unseen.learners.horizontal.compression.encoded import Codec
from unseen.learners.horizontal.compression.registry import CODECS
from unseen.learners.horizontal.process import Process, Trainer
from unseen.learners.horizontal.robust.registry import AGGREGATORS, robust
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies.registry import STRATEGIES
from unseen.protocols.secure_aggregation.port import MIN_CONTRIBUTORS, quorum_of
from unseen.rounds import cohort as cohorts
from unseen.rounds.asynchronous import AsynchronousSimulation, Flight
from unseen.rounds.gossip import Gossip, GossipSettings
from unseen.rounds.kept import keep_text
from unseen.rounds.networks import build_trainer
from unseen.rounds.pace import Pace
from unseen.rounds.parameters import construct, named, parameters
from unseen.rounds.private import MODES, Wanted, private
from unseen.rounds.program import Program
from unseen.rounds.program_data import Held, read_data
from unseen.rounds.sections import PEERS, AsynchronousSection, TopologySection
from unseen.rounds.simulate import Settings, Simulation
from unseen.rounds.spending import Guard, guard_in
from unseen.rounds.tables import Learner, columns_of, learner_of
from unseen.rounds.without_server import graph_of

_PROGRAM = "program.json"
_COHORT, _AT_ONCE = 10, 100


T = TypeVar("T")


def part(build: Callable[[Built], T]) -> cached_property[T]:
    """Return a property that is built once; an error about a key of the program says in which file and line it is."""

    @wraps(build)
    def located(built: Built) -> T:
        with built.program.located():
            return build(built)

    return cached_property(located)


@dataclass(frozen=True)
class Built:
    """A program with its parts.

    Raises:
        UsageError: The program asks for what does not exist or does not go together.
        DataError: Its data cannot be read.
    """

    program: Program
    folder: Path | None = None
    """Where the run is kept; nowhere if ``None``."""
    real: int | None = None
    """How many real clients there are, if they are not those of the program's data."""
    own: Path | None = None
    """The file of a real client's own secret for its noise."""

    def __post_init__(self) -> None:
        self.program.check()
        if self.folder is not None:
            _begin(self.folder, self.program)

    @part
    def held(self) -> Held:
        """The clients of the program's own data."""
        return read_data(self.program)

    @part
    def population(self) -> int:
        """How many clients there are."""
        said = self.program.data.clients
        found = self.real if self.real is not None else said
        if found is None:
            return len(self.held.train)
        if said is not None and found != said:
            raise UsageError(f"data.clients says {said}, and there are {found}: correct one of them")
        return found

    @part
    def trainer(self) -> Trainer:
        """The model; the same at the server and all clients."""
        return build_trainer(self.program) if self._learner is None else self._learner.trainer

    @property
    def rounds(self) -> int:
        """How many rounds are played in all: the program's, or as many as its learner needs."""
        said = "rounds" in self.program.model_fields_set
        return self.program.rounds if said or self._learner is None else self._learner.rounds

    @part
    def _learner(self) -> Learner | None:
        """What learns from tables."""
        if not self.program.of_tables:
            return None
        columns = columns_of(self.program) or self.held.columns or ()
        return learner_of(self.program, columns, self._in_a_sum)

    @property
    def _most(self) -> int:
        """How many clients are in a round at most."""
        everybody = self.program.of_tables or self.program.topology is not None
        section, by_default = self.program.cohort, self.population if everybody else _COHORT
        return self.population if section.rate is not None else min(section.size or by_default, self.population)

    @part
    def process(self) -> Process:
        """The algorithm; the same at the server and all clients."""
        wanted, guard = self._wanted, self.guard
        if wanted is None or guard is None:
            return self._open
        with self.program.located("privacy"):
            return private(wanted, guard)

    @part
    def _open(self) -> Process:
        """The algorithm without privacy."""
        if self._learner is not None:
            return self._learner.process
        strategy = self.program.training
        constructor = named(STRATEGIES, strategy.name, "strategy")
        given = strategy.parameters
        if "clients" in parameters(constructor) and "clients" not in given:
            given["clients"] = self.population
        process: Process = construct(constructor, given, "strategy")
        if (rule := self.program.robust) is not None:
            with self.program.located("robust"):
                by = construct(named(AGGREGATORS, rule.name, "robust"), rule.parameters, "robust")
                process = robust(process, by)
        if (section := self.program.compression) is not None:
            with self.program.located("compression"):
                codec: Codec = construct(named(CODECS, section.name, "compression"), section.parameters, "compression")
                process = compressed(process, codec, feedback=section.feedback)
        if (sums := self.program.aggregation) is not None and sums.secure:
            with self.program.located("aggregation"):
                mean: SecureMean = construct(SecureMean, {**self._in_a_sum, **sums.parameters}, "aggregation")
                process = secure(process, mean)
        return process

    @property
    def _in_a_sum(self) -> dict[str, int]:
        """Over how many clients secure sums are taken, unless the program says it."""
        rate, agreed = self.program.cohort.rate, {"clients": self._most}
        if rate is not None:
            agreed["least"] = max(MIN_CONTRIBUTORS, quorum_of(round(rate * self.population)))
        return agreed

    @part
    def guard(self) -> Guard | None:
        """Secret and budget of a private run."""
        section = self.program.privacy
        if section is None:
            return None
        return guard_in(MODES[section.mode].limit(self.program.name, section), self.folder, own=self.own)

    @part
    def _wanted(self) -> Wanted | None:
        """What is to be made private."""
        section = self.program.privacy
        if section is None:
            return None
        return Wanted(self.program, section, self.population, self._open, lambda: self.trainer)

    @part
    def cohort(self) -> cohorts.Cohort:
        """How cohorts are drawn."""
        section, size = self.program.cohort, self.program.cohort.size
        if section.rate is not None and (size is not None or section.weighted):
            raise UsageError("cohort: a rate goes with no size and no weights: give one or the other")
        if size is not None and size > self.population:
            raise UsageError(f"cohort.size: {size} of {self.population} clients cannot be drawn; ask for fewer")
        if (wanted := self._wanted) is not None and self.guard is not None:
            if section.weighted:
                raise UsageError("cohort.weighted: numbers of examples are data that privacy would tell: leave it out")
            if (drawn := wanted.mode.cohort(wanted, self.guard)) is not None:
                return drawn
        if section.rate is not None:
            return cohorts.Poisson(section.rate)
        size = size or self._most
        return cohorts.Weighted(size) if section.weighted else cohorts.Uniform(size)

    def simulation(self, *, workers: int | None = None) -> Simulation | Gossip:
        """Return the program's simulation, at the round that its folder holds.

        Peers are simulated as a server that takes their secure sums would be: they have its state, but for rounding.
        """
        section = self.program.topology
        if section is not None and section.name != PEERS:
            return self._gossip(section, workers)
        settings = Settings(
            self.cohort,
            seed=self.program.seed,
            workers=workers,
            evaluate_every=self.program.evaluate_every,
            folder=self.folder,
        )
        with self.program.located():
            parts, test = (self.held.train, self.trainer, self.process), self.held.test
            if self.program.asynchronous is None:
                return Simulation(*parts, settings, test=test)
            return AsynchronousSimulation(*parts, self._flight(self.program.asynchronous), settings, test=test)

    def _gossip(self, section: TopologySection, workers: int | None) -> Gossip:
        settings = GossipSettings(
            seed=self.program.seed,
            drop=section.drop,
            workers=workers,
            evaluate_every=self.program.evaluate_every,
            folder=self.folder,
        )
        with self.program.located("topology"):
            parts, graph = (self.held.train, self.trainer, self.process), graph_of(section, self.program.seed)
            return Gossip(*parts, graph, settings, test=self.held.test)

    def _flight(self, section: AsynchronousSection) -> Flight:
        filled = sum(size > 0 for size in self.held.train.sizes)
        at_once = section.at_once or min(_AT_ONCE, filled)
        if at_once > filled:
            raise UsageError(f"asynchronous.at_once: {at_once} of {filled} clients cannot be under way; ask for fewer")
        if isinstance(work := self.process.work, Compressed) and work.feedback:
            raise UsageError(
                "compression.feedback: what clients keep for their next update has no order when nobody waits: set it "
                "to false, or take quantised"
            )
        pace = Pace(section.seconds, section.seconds_per_example, section.spread)
        return Flight(at_once, section.buffer, pace)

    @property
    def deployed(self) -> Process:
        """The process of real processes: its name says the program, so that nobody takes part with another one."""
        return replace(self.process, name=f"{self.process.name}, program {self.program.agreement[:16]}")


# --- folder ------------------------------------------------------------------------------------------------------


def _begin(folder: Path, program: Program) -> None:
    """Keep the program of a run, or check that its folder is about this one."""
    path, about = folder / _PROGRAM, program.model_dump(mode="json", exclude={"rounds", "evaluate_every"})
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with whole_file(path) as file:
            file.write(json.dumps(about, indent=1).encode())
        keep_text(folder, program)
        return
    try:
        before = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; start the run again in another folder") from error
    if not isinstance(before, dict):
        raise DataError(f"{path} is damaged: start the run again in another folder")
    if changed := [key for key in dict.fromkeys((*about, *before)) if before.get(key) != about.get(key)]:
        raise UsageError(
            f"{folder} holds a run of another program, with other {', '.join(changed)}: choose another folder, or the "
            "program as it was"
        )
    keep_text(folder, program)
