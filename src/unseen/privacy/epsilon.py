"""An ε budget that nobody can pass: every spend is written down before what it pays for is released, or refused.

A budget is a view over facts (``events.Spend``). Whoever keeps the facts durably gives a function that writes one; a
crash between writing and releasing charges too much, never too little. Working out ε takes an accountant, given as a
function (``accounting.epsilon``), since it is slow to import: it is asked for 1, 2, 4, … rounds ahead, so that a
thousand rounds need some twenty of its answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from unseen.errors import PermissionDenied, UsageError
from unseen.privacy.events import Relation, Spend, Unit, covered

Account = Callable[[Sequence[Spend], float], float]
"""The ε of facts at a δ."""


class Meter(Protocol):
    """What is asked before noise is spent."""

    def spend(self, fact: Spend) -> object:
        """Write the fact down.

        Raises:
            PermissionDenied: It must not be spent; nothing has been written.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may be told about one unit of some data, in all.

    Raises:
        UsageError: ε is not positive, or δ not between 0 and 1.
    """

    about: str
    epsilon: float
    delta: float
    unit: Unit = Unit.CLIENT
    relation: Relation = Relation.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise UsageError(f"budget of {self.about}: ε is {self.epsilon}, expected a number above 0")
        if not 0 < self.delta < 1:
            raise UsageError(f"budget of {self.about}: δ is {self.delta}, expected a number between 0 and 1")

    def __str__(self) -> str:
        return f"ε = {self.epsilon:g} at δ = {self.delta:g} for one {self.unit} of {self.about}, {self.relation}"


@dataclass(frozen=True, slots=True)
class Left:
    """Where a budget stands."""

    limit: Limit
    spent: float
    """The ε of all facts, rounded up to thousandths."""

    @property
    def epsilon(self) -> float:
        """What is left: not an ε that any further spend may have, since spends compose to less than their sum."""
        return max(0.0, self.limit.epsilon - self.spent)

    def __str__(self) -> str:
        return f"ε {self.spent:g} of {self.limit.epsilon:g} is spent, {self.epsilon:g} is left, at {self.limit}"


class Budget:
    """The spends about one population, none of which may bring their ε above the limit.

    Args:
        limit: How much there is.
        account: The accountant.
        facts: What was spent so far.
        keep: Writes a fact durably before it returns; by default facts live as long as the budget.
    """

    def __init__(
        self,
        limit: Limit,
        account: Account,
        *,
        facts: Iterable[Spend] = (),
        keep: Callable[[Spend], object] = lambda fact: None,
    ) -> None:
        self.limit = limit
        self._account, self._keep = account, keep
        self._facts = list(facts)
        for fact in self._facts:
            self._check(fact)
        self._rounds = {fact.kind: fact.rounds for fact in covered(self._facts)}
        self._kind: Spend | None = None
        self._ahead, self._step = 0, 1

    @property
    def facts(self) -> tuple[Spend, ...]:
        """All that was spent, in order."""
        return tuple(self._facts)

    def left(self) -> Left:
        """Return where the budget stands."""
        spent = self._epsilon(self._rounds)
        return Left(self.limit, math.ceil(spent * 1000) / 1000 if math.isfinite(spent) else spent)

    def spend(self, fact: Spend) -> None:
        """Write down a spend that stays within the limit; the last one of its kind again costs nothing.

        Raises:
            PermissionDenied: It would pass the limit; the message says what is left. Or its run has spent more: it goes
                on from an old state, or is another run of the same name, and would release its rounds a second time.
            UsageError: It is about other data, another unit, or another relation.
        """
        self._check(fact)
        spent = self._rounds.get(fact.kind, 0)
        if fact.rounds < spent:
            raise PermissionDenied(
                f"run {fact.run}: round {fact.rounds} has been released, as have all up to {spent}: what it goes on "
                "from is older than what was spent; go on from the newest state, or give a new run another name"
            )
        if fact.rounds == spent:
            return
        if not self._known_to_fit(fact) and not self._look_ahead(fact):
            raise PermissionDenied(
                f"run {fact.run}: round {fact.rounds} with {fact.mechanism.kind} noise would pass the limit: "
                f"{self.left()}; stop here, use more noise, or have the limit raised by who answers for {fact.about}"
            )
        self._keep(fact)
        self._facts.append(fact)
        self._rounds[fact.kind] = fact.rounds

    def _known_to_fit(self, fact: Spend) -> bool:
        return self._kind == fact.kind and fact.rounds <= self._ahead

    def _look_ahead(self, fact: Spend) -> bool:
        """Return whether a spend fits, and find out how many further rounds of its kind do."""
        self._step = 2 * self._step if self._kind == fact.kind else 1
        self._kind = fact.kind
        while not self._fits(fact.after(fact.rounds + self._step - 1)):
            if self._step == 1:
                return False
            self._step = max(1, self._step // 4)
        self._ahead = fact.rounds + self._step - 1
        return True

    def _fits(self, fact: Spend) -> bool:
        return self._epsilon(self._rounds | {fact.kind: fact.rounds}) <= self.limit.epsilon

    def _epsilon(self, rounds: Mapping[Spend, int]) -> float:
        return self._account([kind.after(count) for kind, count in rounds.items()], self.limit.delta) if rounds else 0.0

    def _check(self, fact: Spend) -> None:
        limit = self.limit
        if (fact.about, fact.unit, fact.relation) != (limit.about, limit.unit, limit.relation):
            raise UsageError(
                f"run {fact.run} spends on one {fact.unit} of {fact.about}, {fact.relation}, and the budget is "
                f"{limit}: use the budget of those data, and one unit and relation throughout"
            )

    def __repr__(self) -> str:
        # Not what is left: a run is described by this, and is the same run after it has spent something.
        return f"Budget({self.limit})"


@dataclass(frozen=True, slots=True)
class Unlimited:
    """A meter for experiments on data that nobody has to protect: it writes nothing down and refuses nothing."""

    def spend(self, fact: Spend) -> None:
        """Do nothing."""
