"""Modes of differential privacy that a program can name: what each makes of a process, and what it spends.

A mode is a line of ``MODES``: how cohorts are drawn, which fact covers the rounds of a run for one unit, and which
parts hide it. Whatever the mode, the server charges the fact of every round to the run's budget before the round
counts, so that what was spent is kept in one place. Where clients add the noise, the fact is about one of them, and
each counts for itself besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from unseen.errors import UsageError
from unseen.learners.horizontal.private.central import Central, Plan, Sum
from unseen.learners.horizontal.private.charged import Charged, spent_after
from unseen.learners.horizontal.private.clip import AdaptiveClip, Announce, Clip, Quantile
from unseen.learners.horizontal.private.distributed import Code, Decode, DistributedPlan, Encode, ModularSum, step_for
from unseen.learners.horizontal.private.dp_sgd import DpSgd, ExampleGradients, ExamplePlan
from unseen.learners.horizontal.private.ftrl import Ftrl, TreePlan
from unseen.learners.horizontal.private.limit import answered
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.private.sampling import EpochCohort, PoissonCohort
from unseen.learners.horizontal.process import LocalPlan, Process, Trainer
from unseen.learners.horizontal.strategies.parts import LocalTraining, WeightedMean
from unseen.privacy.epsilon import Limit
from unseen.privacy.events import Everyone, Gaussian, Poisson, Relation, Spend, Unit
from unseen.rounds.cohort import Cohort
from unseen.rounds.program import Program
from unseen.rounds.sections import PrivacySection
from unseen.rounds.spending import Guard, accounting

_BITS, _TARGET, _TWENTIETH = 20, 0.5, 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """A program with privacy, and the process that its mode is to make private."""

    program: Program
    section: PrivacySection
    population: int
    process: Process
    trainer: Callable[[], Trainer]

    @property
    def rate(self) -> float:
        """With which probability each client takes part; raises ``UsageError`` if the program does not say it."""
        rate = self.program.cohort.rate
        if rate is None:
            raise UsageError(
                f"cohort: privacy of mode {self.section.mode} counts on Poisson cohorts: give a rate, such as "
                "{rate: 0.1}, and no size"
            )
        return rate

    @property
    def size(self) -> int:
        """How many clients take part; raises ``UsageError`` if the program does not say it."""
        size = self.population if self.program.topology is not None else self.program.cohort.size
        if size is None:
            raise UsageError(
                f"cohort: privacy of mode {self.section.mode} has cohorts of one size: give it, such as {{size: 10}}, "
                "and no rate"
            )
        if size > self.population:
            raise UsageError(f"cohort.size: {size} of {self.population} clients cannot be drawn; ask for fewer")
        return size

    @property
    def epoch(self) -> int:
        """In how many rounds no client has to come twice; raises as ``size``."""
        return self.population // self.size

    @property
    def mode(self) -> Mode:
        """What its mode is."""
        return MODES[self.section.mode]

    def noise(self) -> float:
        """Return the noise multiplier: the program's, or what all its rounds need.

        Raises:
            UsageError: No noise is enough, or the accountant is not installed.
        """
        section = self.section
        if section.noise_multiplier is not None:
            return section.noise_multiplier
        # Rounded up, so that server and clients find the same number.
        found: float = accounting().calibrate(
            lambda noise: [self.mode.fact(self, noise, self.program.rounds)], section.epsilon, section.delta
        )
        return math.ceil(1000 * found) / 1000


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to hide a unit."""

    unit: Unit
    relation: Relation
    cohort: Callable[[Wanted, Guard], Cohort | None]
    """How cohorts are drawn; ``None``: as the program says, without weights."""
    fact: Callable[[Wanted, float, int], Spend]
    """What so many rounds with a noise multiplier spend, on one unit at most."""
    parts: Callable[[Wanted, Guard, float], Process]
    server: str
    """What the server learns."""

    def limit(self, about: str, section: PrivacySection) -> Limit:
        """Return what a program allows to be spent."""
        return Limit(about, section.epsilon, section.delta, self.unit, self.relation)


def private(wanted: Wanted, guard: Guard) -> Process:
    """Return a process with the parts of its program's mode.

    Raises:
        UsageError: They do not go together, or no noise is enough.
    """
    return wanted.mode.parts(wanted, guard, wanted.noise())


def _renamed(process: Process, how: str) -> Process:
    return replace(process, name=f"{process.name}, {how}")


# --- the server adds the noise -----------------------------------------------------------------------------------


def _poisson(wanted: Wanted, guard: Guard) -> Cohort:
    return PoissonCohort(wanted.rate, guard.secret)


def _plan(wanted: Wanted, noise: float) -> Plan:
    name, rate = wanted.program.name, wanted.rate
    return Plan(
        clip=wanted.section.clip,
        noise_multiplier=noise,
        expected=rate * wanted.population,
        sampling=Poisson(rate=rate),
        run=name,
        about=name,
    )


def _gaussian(wanted: Wanted, noise: float, rounds: int) -> Spend:
    return _plan(wanted, noise).spend(rounds)


def _with_sum(wanted: Wanted) -> Process:
    _check_mean(wanted)
    return replace(wanted.process, aggregator=Sum())


def _check_mean(wanted: Wanted) -> None:
    process = wanted.process
    if not isinstance(process.aggregator, WeightedMean):
        raise UsageError(
            f"privacy: noise is measured for a plain sum, and {process.name} aggregates by "
            f"{type(process.aggregator).__name__}: take a strategy with a mean, without robust"
        )


def _central(wanted: Wanted, guard: Guard, noise: float) -> Process:
    process, plan = _with_sum(wanted), _plan(wanted, noise)
    return replace(
        _renamed(process, "private"),
        postprocessors=(*process.postprocessors, Clip(wanted.section.clip)),
        finalizer=Central(process.finalizer, plan, guard, guard.secret),
    )


def _adaptive(wanted: Wanted, guard: Guard, noise: float) -> Process:
    process, section, plan = _with_sum(wanted), wanted.section, _plan(wanted, noise)
    count = section.count_noise or max(_TWENTIETH * plan.expected, noise)
    quantile = Quantile(initial=section.clip, target=section.target or _TARGET, deviation=count)
    return replace(
        _renamed(process, "private with adaptive clipping"),
        distributor=Announce(process.distributor, quantile),
        postprocessors=(*process.postprocessors, AdaptiveClip()),
        finalizer=Central(process.finalizer, replace(plan, clip=quantile), guard, guard.secret),
    )


def _in_turn(wanted: Wanted, guard: Guard) -> Cohort:
    return EpochCohort(wanted.size, guard.secret)


def _tree_plan(wanted: Wanted, noise: float) -> TreePlan:
    name = wanted.program.name
    return TreePlan(
        clip=wanted.section.clip,
        noise_multiplier=noise,
        steps=wanted.epoch,
        expected=wanted.size,
        run=name,
        about=name,
    )


def _tree(wanted: Wanted, noise: float, rounds: int) -> Spend:
    return _tree_plan(wanted, noise).spend(rounds)


def _ftrl(wanted: Wanted, guard: Guard, noise: float) -> Process:
    process = _with_sum(wanted)
    return replace(
        _renamed(process, "DP-FTRL"),
        postprocessors=(*process.postprocessors, Clip(wanted.section.clip)),
        finalizer=Ftrl(process.finalizer, _tree_plan(wanted, noise), guard, guard.secret),
    )


# --- all clients add noise to a sum ------------------------------------------------------------------------------


def _of_one_size(wanted: Wanted, guard: Guard) -> None:
    del guard
    _ = wanted.size


def _sum_plan(wanted: Wanted, noise: float) -> DistributedPlan:
    section, name, cohort = wanted.section, wanted.program.name, wanted.size
    # All peers see the sum, and each knows its own part of the noise, which hides nothing from it.
    others = cohort - (wanted.program.topology is not None)
    honest = others if section.honest is None else section.honest
    if honest > others:
        whom = f"a cohort of {cohort}" if others == cohort else f"the {others} others that a peer counts on"
        raise UsageError(f"privacy.honest: {honest} of {whom} cannot be honest; count on fewer")
    size, clip, bits = wanted.trainer().size, section.clip, section.bits or _BITS
    deviation = noise * clip / math.sqrt(honest)
    step = step_for(bits, clip, size, cohort, deviation)
    return DistributedPlan(
        code=Code(size=size, bound=clip, step=step, deviation=deviation, clients=honest, bits=bits),
        seed=wanted.program.seed,
        sampling=Everyone(),
        run=name,
        about=name,
        relation=Relation.ZERO_OUT,
    )


def _summed(wanted: Wanted, noise: float, rounds: int) -> Spend:
    return _sum_plan(wanted, noise).spend(rounds)


def _distributed(wanted: Wanted, guard: Guard, noise: float) -> Process:
    _check_mean(wanted)
    process, plan, scheme = wanted.process, _sum_plan(wanted, noise), wanted.section.scheme
    encode = Encode(plan.code, plan.seed, _times(wanted, plan.spend(1), 1), guard.secret)
    return replace(
        _renamed(process, "private by distributed noise"),
        postprocessors=(*process.postprocessors, encode),
        aggregator=ModularSum(plan.code) if scheme is None else ModularSum(plan.code, scheme),
        finalizer=Decode(process.finalizer, plan, guard),
    )


# --- every client for itself -------------------------------------------------------------------------------------


def _times(wanted: Wanted, turn: Spend, epoch: int) -> int:
    """Return how often a client takes part at most: it refuses the next time, whatever the server says."""
    section = wanted.section
    if section.noise_multiplier is None:
        return -(-wanted.program.rounds // epoch)
    found: int = accounting().affordable(turn, section.epsilon, section.delta) // turn.rounds
    if not found:
        raise UsageError(
            f"privacy.noise_multiplier: {section.noise_multiplier:g} is too little for a single round at ε = "
            f"{section.epsilon:g}, δ = {section.delta:g}; if it is left out, it is what all rounds need"
        )
    return found


def _alike(wanted: Wanted) -> Process:
    """Return a process in which every client counts the same: its number of examples is nobody's business."""
    process = wanted.process
    if isinstance(process.aggregator, WeightedMean):
        return replace(process, aggregator=WeightedMean(equal=True))
    if wanted.program.robust is None:
        _check_mean(wanted)
    return process


def _as_said(wanted: Wanted, guard: Guard) -> None:
    del wanted, guard


def _local_turn(wanted: Wanted, noise: float) -> Spend:
    return answered(Gaussian(noise_multiplier=noise), wanted.program.name, wanted.program.name, 1)


def _local_fact(wanted: Wanted, noise: float, rounds: int) -> Spend:
    return spent_after(_local_turn(wanted, noise), 1, rounds)


def _local(wanted: Wanted, guard: Guard, noise: float) -> Process:
    process, turn = _alike(wanted), _local_turn(wanted, noise)
    add = LocalNoise(wanted.section.clip, noise, _times(wanted, turn, 1), guard.secret)
    return replace(
        _renamed(process, "private at clients"),
        postprocessors=(*process.postprocessors, add),
        finalizer=Charged(process.finalizer, turn, 1, guard),
    )


def _example_plan(wanted: Wanted, noise: float, times: int = 1) -> ExamplePlan:
    section, plan = wanted.section, _steps_of(wanted)
    if section.examples is None:
        raise UsageError("privacy.examples: mode dp_sgd needs how many examples a client is taken to have, in public")
    return ExamplePlan(
        bound=section.clip,
        noise_multiplier=noise,
        rate=min(1.0, plan.batch / section.examples),
        nominal=section.examples,
        steps=plan.steps or math.ceil(plan.epochs * section.examples / plan.batch),
        learning_rate=plan.learning_rate,
        rounds=times,
    )


def _steps_of(wanted: Wanted) -> LocalPlan:
    """Return the plan of clients that take plain steps.

    Raises:
        UsageError: They do something else, which private steps would take the place of.
    """
    work = wanted.process.work
    if not isinstance(work, LocalTraining) or work.pull:
        raise UsageError(
            f"strategy.name: private steps take the place of the training of {wanted.process.name}: use fed_avg, "
            "fed_avg_m, fed_adam or another strategy whose clients just train"
        )
    if wanted.program.model.augment:
        raise UsageError("model.augment: private steps of mode dp_sgd take examples as they are: leave it out")
    plan = work.plan
    others = {"momentum": plan.momentum, "weight_decay": plan.weight_decay, "decay": plan.decay - 1}
    if given := [name for name, value in others.items() if value]:
        raise UsageError(f"strategy.{given[0]}: private steps of mode dp_sgd have none: leave it out")
    return plan


def _example_turn(wanted: Wanted, noise: float) -> Spend:
    return _example_plan(wanted, noise).spend(wanted.program.name, wanted.program.name, 1)


def _example_fact(wanted: Wanted, noise: float, rounds: int) -> Spend:
    return spent_after(_example_turn(wanted, noise), wanted.epoch, rounds)


def _dp_sgd(wanted: Wanted, guard: Guard, noise: float) -> Process:
    process, turn, trainer = _alike(wanted), _example_turn(wanted, noise), wanted.trainer()
    plan = _example_plan(wanted, noise, _times(wanted, turn, wanted.epoch))
    if not isinstance(trainer, ExampleGradients):
        raise UsageError("privacy.mode: dp_sgd needs gradients of single examples, which this model does not have")
    return replace(
        _renamed(process, "DP-SGD at clients"),
        work=DpSgd(plan, trainer, guard.secret),
        finalizer=Charged(process.finalizer, turn, wanted.epoch, guard, wanted.size),
    )


_TRUSTED = "Every update, clipped, with its client's name; it is trusted with these, and adds the noise."
_NOISY = "Every update with its client's name, after the client has added noise to it; nobody is trusted."
MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "central": Mode(Unit.CLIENT, Relation.ADD_OR_REMOVE, _poisson, _gaussian, _central, _TRUSTED),
        "adaptive": Mode(
            Unit.CLIENT,
            Relation.ADD_OR_REMOVE,
            _poisson,
            _gaussian,
            _adaptive,
            f"{_TRUSTED} Of each client also, whether its update was clipped.",
        ),
        "ftrl": Mode(Unit.CLIENT, Relation.ZERO_OUT, _in_turn, _tree, _ftrl, _TRUSTED),
        "distributed": Mode(
            Unit.CLIENT,
            Relation.ZERO_OUT,
            _of_one_size,
            _summed,
            _distributed,
            "The sum of each cohort's clipped updates with the noise of all of them, and who took part; no single "
            "update.",
        ),
        "local": Mode(Unit.CLIENT, Relation.REPLACE, _as_said, _local_fact, _local, _NOISY),
        "dp_sgd": Mode(Unit.EXAMPLE, Relation.ADD_OR_REMOVE, _in_turn, _example_fact, _dp_sgd, _NOISY),
    }
)
"""Every mode by its name."""
ADD_NOISE = ("distributed", "local", "dp_sgd")
"""Modes in which clients have a secret."""
