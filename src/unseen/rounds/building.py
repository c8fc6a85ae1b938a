"""Builds what a program names: clients, model, process, cohorts; for a simulation, a server and a client alike."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unseen.codec import read_json
from unseen.crypto.prg import Prg
from unseen.data.atomic import whole_file
from unseen.data.federated.clients import Array
from unseen.data.federated.digits import INK
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.private.central import Central, Plan, Sum
from unseen.learners.horizontal.private.clip import Clip
from unseen.learners.horizontal.private.sampling import PoissonCohort
from unseen.learners.horizontal.process import Process, Trainer
from unseen.learners.horizontal.robust.registry import AGGREGATORS, robust
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.learners.horizontal.strategies.registry import STRATEGIES
from unseen.privacy.epsilon import Budget, Limit
from unseen.privacy.events import Gaussian, Poisson, Relation, Spend, Unit, read_spend, to_json
from unseen.rounds import cohort as cohorts
from unseen.rounds.identities import secret_of
from unseen.rounds.parameters import construct, parameters
from unseen.rounds.program import PrivacySection, Program
from unseen.rounds.program_data import Held, read_data
from unseen.rounds.simulate import Settings, Simulation

_SECRET, _SPENT, _PROGRAM = "secret.bin", "spent.jsonl", "program.json"
_COHORT = 10


@dataclass(frozen=True, slots=True)
class Guard:
    """What a private run has at its server: a secret for coins and noise, and a budget that refuses to be passed."""

    limit: Limit
    secret: Prg = field(repr=False)
    budget: Budget = field(repr=False)

    def spend(self, fact: Spend) -> None:
        """Charge a round before it is released."""
        self.budget.spend(fact)


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

    def __post_init__(self) -> None:
        if self.folder is not None:
            _begin(self.folder, self.program)

    @cached_property
    def held(self) -> Held:
        """The clients of the program's own data."""
        return read_data(self.program)

    @cached_property
    def population(self) -> int:
        """How many clients there are."""
        said = self.program.data.clients
        found = self.real if self.real is not None else said
        if found is None:
            return len(self.held.train)
        if said is not None and found != said:
            raise UsageError(f"data.clients says {said}, and there are {found}: correct one of them")
        return found

    @cached_property
    def trainer(self) -> Trainer:
        """The model; the same at the server and all clients."""
        return build_trainer(self.program)

    @cached_property
    def process(self) -> Process:
        """The algorithm; the same at the server and all clients."""
        section = self.program.strategy
        constructor = _named(STRATEGIES, section.name, "strategy")
        given = section.parameters
        if "clients" in parameters(constructor) and "clients" not in given:
            given["clients"] = self.population
        process: Process = construct(constructor, given, "strategy")
        if (rule := self.program.robust) is not None:
            process = robust(process, construct(_named(AGGREGATORS, rule.name, "robust"), rule.parameters, "robust"))
        if (by := self.program.aggregation) is not None and by.secure:
            process = self._secure(process, by.parameters)
        privacy, guard = self.program.privacy, self.guard
        return process if privacy is None or guard is None else self._private(process, privacy, guard)

    @cached_property
    def guard(self) -> Guard | None:
        """Secret and budget of a private run."""
        section = self.program.privacy
        return None if section is None else _guard(self.program.name, section, self.folder)

    @cached_property
    def cohort(self) -> cohorts.Cohort:
        """How cohorts are drawn."""
        section, size = self.program.cohort, self.program.cohort.size
        if section.rate is not None and (size is not None or section.weighted):
            raise UsageError("cohort: a rate goes with no size and no weights: give one or the other")
        if size is not None and size > self.population:
            raise UsageError(f"cohort.size: {size} of {self.population} clients cannot be drawn; ask for fewer")
        if self.guard is not None:
            return PoissonCohort(self._rate, self.guard.secret)
        if section.rate is not None:
            return cohorts.Poisson(section.rate)
        size = size or min(_COHORT, self.population)
        return cohorts.Weighted(size) if section.weighted else cohorts.Uniform(size)

    def simulation(self, *, workers: int | None = None) -> Simulation:
        """Return the program's simulation, at the round that its folder holds."""
        settings = Settings(
            self.cohort,
            seed=self.program.seed,
            workers=workers,
            evaluate_every=self.program.evaluate_every,
            folder=self.folder,
        )
        return Simulation(self.held.train, self.trainer, self.process, settings, test=self.held.test)

    @property
    def deployed(self) -> Process:
        """The process of real processes: its name says the program, so that nobody takes part with another one."""
        return replace(self.process, name=f"{self.process.name}, program {self.program.agreement[:16]}")

    @property
    def _rate(self) -> float:
        rate = self.program.cohort.rate
        if rate is None:
            raise UsageError(
                "cohort: differential privacy counts on Poisson cohorts: give a rate, such as {rate: 0.1}, and no size"
            )
        return rate

    def _secure(self, process: Process, given: dict[str, Any]) -> Process:
        if self.program.robust is not None or self.program.privacy is not None:
            raise UsageError("aggregation: robust rules and central noise need what a secure mean hides: leave one out")
        most = self.population if self.program.cohort.rate is not None else self.program.cohort.size or _COHORT
        mean: SecureMean = construct(SecureMean, {"clients": min(most, self.population), **given}, "aggregation")
        return secure(process, mean)

    def _private(self, process: Process, section: PrivacySection, guard: Guard) -> Process:
        if not isinstance(process.aggregator, WeightedMean):
            raise UsageError(
                f"privacy: noise is measured for a plain sum, and {process.name} aggregates by "
                f"{type(process.aggregator).__name__}: take a strategy with a mean, without robust"
            )
        plan = Plan(
            clip=section.clip,
            noise_multiplier=section.noise_multiplier or _noise(self.program, section, self._rate),
            expected=self._rate * self.population,
            sampling=Poisson(rate=self._rate),
            run=self.program.name,
            about=guard.limit.about,
        )
        return replace(
            process,
            name=f"{process.name}, private",
            postprocessors=(*process.postprocessors, Clip(section.clip)),
            aggregator=Sum(),
            finalizer=Central(process.finalizer, plan, guard, guard.secret),
        )


# --- model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Numbers:
    """Makes floats of what a network of a program takes."""

    ink: int | None
    """What integers are divided by; if ``None``, bytes by 255 and others by nothing."""

    def __call__(self, inputs: Array) -> Array:
        """Return 32-bit floats.

        Raises:
            DataError: They are no numbers.
        """
        if inputs.dtype.kind not in "fiub":
            raise DataError(f"model: inputs are {inputs.dtype}, and the networks of programs take numbers")
        ink = self.ink or (255 if inputs.dtype == np.uint8 else 1)
        return inputs.astype(np.float32) / np.float32(1 if inputs.dtype.kind == "f" else ink)


def build_trainer(program: Program) -> Trainer:
    """Return the trainer of a program's model.

    Raises:
        UsageError: There is no such model or augmentation, or it has no such parameter.
    """
    try:
        from unseen.learners.horizontal.neural import augment, registry, trainer  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"model: networks need the extra torch ({error}): pip install 'unseen[torch]'") from error
    section = program.model
    build = partial(construct, _named(registry.MODELS, section.name, "model"), section.parameters, "model")
    _check_model(build, section.parameters)
    changes = [_change(registry.AUGMENTS, name, given) for name, given in section.augment.items()]
    return trainer.TorchTrainer(
        build,
        convert=Numbers(INK if program.data.source == "digits" else None),
        augment=augment.one_after_the_other(*changes) if len(changes) > 1 else next(iter(changes), None),
    )


def _check_model(build: Callable[[], object], given: Mapping[str, Any]) -> None:
    """Pass if a model can be built.

    Raises:
        UsageError: It cannot: a size is not positive, or too small for the layers.
    """
    numbers = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    if small := [key for key, own in numbers.items() if any(isinstance(one, int) and one < 1 for one in own)]:
        raise UsageError(f"model.{small[0]}: sizes are at least 1, found {given[small[0]]}")
    try:
        build()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"model: it cannot be built with {dict(given)}: {error}") from error


def _change(known: Mapping[str, Callable[..., Any]], name: str, given: float | Mapping[str, float]) -> Any:
    constructor, where = _named(known, name, "model.augment"), f"model.augment.{name}"
    if not isinstance(given, Mapping):
        given = {next(iter(parameters(constructor))): given}
    # A file that says 1 means 1.0 and the other way round.
    whole = {key: int(value) if float(value).is_integer() else value for key, value in given.items()}
    return construct(constructor, whole, where)


def _named(known: Mapping[str, Callable[..., Any]], name: str, where: str) -> Callable[..., Any]:
    if name not in known:
        raise UsageError(f"{where}.name: there is no {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


# --- folder and privacy ------------------------------------------------------------------------------------------


def _begin(folder: Path, program: Program) -> None:
    """Keep the program of a run, or check that its folder is about this one."""
    path, about = folder / _PROGRAM, program.model_dump(mode="json", exclude={"rounds", "evaluate_every"})
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with whole_file(path) as file:
            file.write(json.dumps(about, indent=1).encode())
        return
    try:
        before = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; start the run again in another folder") from error
    if changed := [key for key in about if not isinstance(before, dict) or before.get(key) != about[key]]:
        raise UsageError(
            f"{folder} holds a run of another program, with other {', '.join(changed)}: choose another folder, or the "
            "program as it was"
        )


def _guard(about: str, section: PrivacySection, folder: Path | None) -> Guard:
    limit = Limit(about, section.epsilon, section.delta)
    if folder is None:
        return Guard(limit, Prg.fresh(), Budget(limit, _accounting().epsilon))
    return Guard(limit, secret_of(folder / _SECRET), Budget(limit, _accounting().epsilon, **_kept(folder / _SPENT)))


def _accounting() -> ModuleType:
    try:
        from unseen.privacy import accounting  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"privacy: its accountant needs the extra dp ({error}): pip install 'unseen[dp]'") from error
    return accounting


def _kept(path: Path) -> dict[str, Any]:
    """Return the facts in a file of lines, and what adds one to it durably."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    *whole, cut = lines or [""]
    if cut:  # a fact whose writing was cut off was never acted upon
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(cut.encode()))

    def keep(fact: Spend) -> None:
        with path.open("ab") as file:
            file.write(to_json(fact).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    return {"facts": [read_spend(line, f"{path}, line {n}") for n, line in enumerate(whole, 1)], "keep": keep}


def _noise(program: Program, section: PrivacySection, rate: float) -> float:
    """Return the noise multiplier that all rounds of a program need."""

    def rounds_of(noise: float) -> list[Spend]:
        fact = Spend(
            run=program.name,
            about=program.name,
            mechanism=Gaussian(noise_multiplier=noise),
            sampling=Poisson(rate=rate),
            rounds=program.rounds,
            unit=Unit.CLIENT,
            relation=Relation.ADD_OR_REMOVE,
        )
        return [fact]

    # Rounded up, so that server and clients find the same number.
    found: float = _accounting().calibrate(rounds_of, section.epsilon, section.delta)
    return math.ceil(1000 * found) / 1000
