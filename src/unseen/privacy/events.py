"""Facts about differential privacy: which noise was spent on whose data, written before anything is released.

A fact says what was done, not how private that is: ``accounting`` works out ε and δ, and a better accountant may do it
again years later. Facts are only ever added. One fact covers a run from its first round on, so that a fact repeated
after a restart, or one that a crash lost, changes nothing once the next one is there.

A *noise multiplier* is always the noise's deviation (or scale) over the greatest norm of **one contribution**, that of
a client's clipped update or of an example's clipped gradient. What that means for two neighbouring data sets depends on
the ``Relation``: where one person's data replace another's, a sum moves by twice that norm.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from unseen.errors import UsageError
from unseen.privacy.lines import read_line

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Unit(enum.StrEnum):
    """Whose presence is hidden."""

    CLIENT = "client"
    """All data of one client (of a person's device, of an organisation)."""
    EXAMPLE = "example"
    """One row; a client with a thousand of them is not hidden."""


class Relation(enum.StrEnum):
    """In what two neighbouring data sets differ by one unit."""

    ADD_OR_REMOVE = "add-or-remove"
    """One has a unit more."""
    ZERO_OUT = "zero-out"
    """In one, a unit takes part but contributes zero; how many take part is public."""
    REPLACE = "replace"
    """One has another unit in its place; how many there are is public. Twice as far as the other two."""


# --- mechanisms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Gaussian noise on a sum of contributions, over the greatest L2 norm of one."""

    __pydantic_config__ = _STRICT

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self.kind, noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laplace:
    """Laplace noise on a sum of contributions: its scale over the greatest L1 norm of one."""

    __pydantic_config__ = _STRICT

    kind: Literal["laplace"] = "laplace"
    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self.kind, noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussian:
    """Discrete Gaussian noise on a vector of integers: the root of its variance parameter over the greatest L2 norm.

    It has the concentrated differential privacy of the continuous one (C. Canonne, G. Kamath, T. Steinke, "The Discrete
    Gaussian for Differential Privacy", NeurIPS 2020, theorem 4).
    """

    __pydantic_config__ = _STRICT

    kind: Literal["discrete-gaussian"] = "discrete-gaussian"
    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self.kind, noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteLaplace:
    """Discrete Laplace noise of a ``scale`` on integers, of which one unit changes the sum by ``sensitivity`` in L1."""

    __pydantic_config__ = _STRICT

    kind: Literal["discrete-laplace"] = "discrete-laplace"
    scale: float
    sensitivity: int

    def __post_init__(self) -> None:
        _positive(self.kind, scale=self.scale, sensitivity=self.sensitivity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Prefix sums over ``steps`` steps from a binary tree with Gaussian noise at its nodes; a unit is in one leaf.

    The noise multiplier is that of one node (P. Kairouz and others, "Practical and Private (Deep) Learning without
    Sampling or Shuffling", ICML 2021, algorithm 1 and appendix B).
    """

    __pydantic_config__ = _STRICT

    kind: Literal["tree"] = "tree"
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        _positive(self.kind, noise_multiplier=self.noise_multiplier, steps=self.steps)

    @property
    def height(self) -> int:
        """In how many nodes a leaf is at most: ⌊log2 steps⌋ + 1."""
        return self.steps.bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedGaussian:
    """Discrete Gaussian noise of each of many clients on integer vectors, of which only the sum is seen.

    All numbers are in units of the integer grid (P. Kairouz, Z. Liu, T. Steinke, "The Distributed Discrete Gaussian
    Mechanism for Federated Learning with Secure Aggregation", ICML 2021).
    """

    __pydantic_config__ = _STRICT

    kind: Literal["distributed-gaussian"] = "distributed-gaussian"
    deviation: float
    """Of one client's noise, in every coordinate; at least ½."""
    clients: int
    """Whose noise is in the sum at least: those that could be lost, or lie, do not count."""
    norm: float
    """Greatest L2 norm of one client's integers."""
    size: int
    """How many integers a client sends."""

    def __post_init__(self) -> None:
        _positive(self.kind, deviation=self.deviation, clients=self.clients, norm=self.norm, size=self.size)
        if self.deviation < 0.5:
            raise UsageError(
                f"{self.kind}: deviation is {self.deviation} steps of the grid, expected 0.5 or more, since sums of "
                "narrower discrete Gaussians are far from one: use a finer grid, or more noise"
            )


Mechanism = Gaussian | Laplace | DiscreteGaussian | DiscreteLaplace | Tree | DistributedGaussian


# --- sampling ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Everyone:
    """Every unit takes part, or nobody can rely on not knowing which do."""

    __pydantic_config__ = _STRICT

    kind: Literal["everyone"] = "everyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Every unit takes part by a secret coin of its own."""

    __pydantic_config__ = _STRICT

    kind: Literal["poisson"] = "poisson"
    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError(f"{self.kind}: rate is {self.rate}, expected more than 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """A secret uniform subset of fixed size takes part."""

    __pydantic_config__ = _STRICT

    kind: Literal["fixed"] = "fixed"
    size: int
    population: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.population:
            raise UsageError(f"{self.kind}: size is {self.size}, expected 1 to the population of {self.population}")


Sampling = Everyone | Poisson | Fixed


# --- the fact ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """A run has had, or is about to have, ``rounds`` rounds of a mechanism on what it is ``about``.

    Raises:
        UsageError: A number is not what it has to be, or mechanism, sampling and relation do not go together.
    """

    __pydantic_config__ = _STRICT

    fact: Literal["spent"] = "spent"
    run: str
    """Its name; two runs on the same data have two."""
    about: str
    """Whose data: a table, or a population of clients. Spends about the same add up."""
    mechanism: Annotated[Mechanism, Field(discriminator="kind")]
    sampling: Annotated[Sampling, Field(discriminator="kind")]
    rounds: int
    """All since its first one; of trees, how many have been begun."""
    unit: Unit
    relation: Relation

    def __post_init__(self) -> None:
        if not self.run or not self.about:
            raise UsageError("a spend names its run and whose data it is about; found an empty name")
        _positive(f"run {self.run}", rounds=self.rounds)
        _check_fit(self)

    def after(self, rounds: int) -> Spend:
        """Return the fact that covers so many rounds."""
        return replace(self, rounds=rounds)

    @property
    def kind(self) -> Spend:
        """The same for one round: equal for facts of which the later one covers the earlier one."""
        return replace(self, rounds=1)


def covered(facts: Iterable[Spend]) -> list[Spend]:
    """Return one fact for each kind of spend of each run, that which covers most; their order does not matter."""
    most: dict[Spend, int] = {}
    for fact in facts:
        most[fact.kind] = max(fact.rounds, most.get(fact.kind, 0))
    return [kind.after(rounds) for kind, rounds in most.items()]


_SPEND: TypeAdapter[Spend] = TypeAdapter(Spend)


def to_json(fact: Spend) -> str:
    """Return the fact as one line of JSON; ``read_spend`` gives it back."""
    return _SPEND.dump_json(fact).decode()


def read_spend(text: str | bytes, where: str) -> Spend:
    """Return the fact that a text says; ``where`` names the place of the text in messages.

    Raises:
        DataError: It is none: unknown or missing fields, wrong types, values that cannot be.
    """
    return read_line(_SPEND, text, where, "a spend of privacy")


def _positive(where: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{where}: {name} is {value}, expected a number above 0")


_AMPLIFIED = (Gaussian, DistributedGaussian)
"""Mechanisms for which a bound with sampling is known here."""


def _check_fit(fact: Spend) -> None:
    mechanism, sampling, where = fact.mechanism, fact.sampling, f"run {fact.run}"
    if isinstance(sampling, Everyone):
        if isinstance(mechanism, Tree | DistributedGaussian) and fact.relation == Relation.ADD_OR_REMOVE:
            raise UsageError(
                f"{where}: {mechanism.kind} noise hides what a unit contributes, not whether it takes part: state the "
                f"relation {Relation.ZERO_OUT} or {Relation.REPLACE} instead of {fact.relation}"
            )
        return
    if not isinstance(mechanism, _AMPLIFIED):
        raise UsageError(
            f"{where}: no bound is known for {mechanism.kind} noise with {sampling.kind} sampling: state "
            "that everyone takes part"
        )
    if isinstance(sampling, Fixed) and fact.relation != Relation.REPLACE:
        raise UsageError(f"{where}: subsets of fixed size need the relation {Relation.REPLACE}, found {fact.relation}")
    if isinstance(sampling, Poisson) and fact.relation == Relation.REPLACE:
        raise UsageError(f"{where}: Poisson sampling needs another relation than {fact.relation}")
    if isinstance(sampling, Poisson) and isinstance(mechanism, DistributedGaussian):
        raise UsageError(
            f"{where}: clients that add their own noise are drawn in subsets of fixed size, since the noise in the sum "
            f"must not tell how many there are; found {sampling.kind} sampling"
        )
