"""Builds what a program names: clients, model, process, cohorts; for a simulation, a server and a client alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unseen.data.atomic import whole_file
from unseen.data.federated.clients import Array
from unseen.data.federated.digits import INK
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.compression.compressed import compressed
from unseen.learners.horizontal.compression.encoded import Codec
from unseen.learners.horizontal.compression.registry import CODECS
from unseen.learners.horizontal.private.central import Central, Plan, Sum
from unseen.learners.horizontal.private.clip import Clip
from unseen.learners.horizontal.private.sampling import PoissonCohort
from unseen.learners.horizontal.process import Process, Trainer
from unseen.learners.horizontal.robust.registry import AGGREGATORS, robust
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.learners.horizontal.strategies.registry import STRATEGIES
from unseen.privacy.events import Gaussian, Poisson, Relation, Spend, Unit
from unseen.rounds import cohort as cohorts
from unseen.rounds.kept import keep_text
from unseen.rounds.parameters import construct, parameters
from unseen.rounds.program import CompressionSection, PrivacySection, Program
from unseen.rounds.program_data import Held, read_data
from unseen.rounds.simulate import Settings, Simulation
from unseen.rounds.spending import Guard, accounting, guard_in

_PROGRAM = "program.json"
_COHORT = 10


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

    def __post_init__(self) -> None:
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
        return build_trainer(self.program)

    @part
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
        if (codec := self.program.compression) is not None:
            process = self._compressed(process, codec)
        if (by := self.program.aggregation) is not None and by.secure:
            process = self._secure(process, by.parameters)
        privacy, guard = self.program.privacy, self.guard
        return process if privacy is None or guard is None else self._private(process, privacy, guard)

    @part
    def guard(self) -> Guard | None:
        """Secret and budget of a private run."""
        section = self.program.privacy
        return None if section is None else guard_in(self.program.name, section, self.folder)

    @part
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

    def _compressed(self, process: Process, section: CompressionSection) -> Process:
        if self.program.privacy is not None:
            raise UsageError("compression: what leaves under privacy is clipped last: leave one out")
        if self.program.aggregation is not None and self.program.aggregation.secure:
            raise UsageError(
                "compression: messages of a codec have no sum that secure aggregation could take: leave one out; "
                "aggregation.bits = 16 halves its words"
            )
        constructor = _named(CODECS, section.name, "compression")
        codec: Codec = construct(constructor, section.parameters, "compression")
        return compressed(process, codec, feedback=section.feedback)

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


# --- folder and noise ---------------------------------------------------------------------------------------------


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
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; start the run again in another folder") from error
    if changed := [key for key in dict.fromkeys((*about, *before)) if before.get(key) != about.get(key)]:
        raise UsageError(
            f"{folder} holds a run of another program, with other {', '.join(changed)}: choose another folder, or the "
            "program as it was"
        )
    keep_text(folder, program)


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
    found: float = accounting().calibrate(rounds_of, section.epsilon, section.delta)
    return math.ceil(1000 * found) / 1000
