"""Budgets: written before released, never passed, the same after a restart; accountants are asked rarely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from unseen.errors import PermissionDenied, UsageError
from unseen.privacy.epsilon import Budget, Limit, Unlimited
from unseen.privacy.events import Everyone, Gaussian, Relation, Spend, Unit

LIMIT = Limit("phones", 2.0, 1e-5)
ROUND = Spend(
    run="first",
    about="phones",
    mechanism=Gaussian(noise_multiplier=1.0),
    sampling=Everyone(),
    rounds=1,
    unit=Unit.CLIENT,
    relation=Relation.ADD_OR_REMOVE,
)


class Roots:
    """An accountant: ε = 0.1·√rounds; 400 rounds make 2."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, facts: Sequence[Spend], delta: float) -> float:
        assert delta == 1e-5
        self.asked += 1
        return 0.1 * math.sqrt(sum(fact.rounds for fact in facts))


def test_rounds_are_charged_until_the_next_would_pass_the_limit() -> None:
    kept: list[Spend] = []
    account = Roots()
    budget = Budget(LIMIT, account, keep=kept.append)
    for number in range(1, 401):
        budget.spend(ROUND.after(number))
    assert account.asked < 40
    with pytest.raises(PermissionDenied, match=r"run first: round 401 .*ε 2 of 2 is spent, 0 is left, at ε = 2"):
        budget.spend(ROUND.after(401))
    assert kept == list(budget.facts)
    assert len(kept) == 400
    assert budget.left().epsilon == 0
    budget.spend(ROUND.after(400))
    assert len(kept) == 400, "what is covered costs nothing"


def test_a_restart_goes_on_where_the_books_end() -> None:
    kept: list[Spend] = []
    Budget(LIMIT, Roots(), keep=kept.append).spend(ROUND.after(399))
    again = Budget(LIMIT, Roots(), facts=kept, keep=kept.append)
    assert again.left().spent == pytest.approx(1.998)
    again.spend(ROUND.after(400))
    with pytest.raises(PermissionDenied):
        again.spend(ROUND.after(401))


def test_rounds_that_were_released_are_not_released_again_from_an_old_state() -> None:
    kept: list[Spend] = []
    budget = Budget(LIMIT, Roots(), keep=kept.append)
    for number in (1, 2, 3, 3):  # killed between charging and keeping the state, a round is played again
        budget.spend(ROUND.after(number))
    for books in (budget, Budget(LIMIT, Roots(), facts=kept)):
        with pytest.raises(PermissionDenied, match="round 2 has been released, as have all up to 3"):
            books.spend(ROUND.after(2))
    budget.spend(replace(ROUND, run="second"))
    assert len(kept) == 4


def test_facts_that_were_lost_are_charged_with_the_next_one() -> None:
    budget = Budget(LIMIT, Roots())
    budget.spend(ROUND.after(300))
    assert budget.left().spent == pytest.approx(1.733)


def test_other_runs_on_the_same_data_share_the_budget() -> None:
    budget = Budget(LIMIT, Roots())
    budget.spend(ROUND.after(300))
    second = replace(ROUND, run="second")
    for number in range(1, 101):
        budget.spend(second.after(number))
        budget.spend(ROUND.after(300))
    with pytest.raises(PermissionDenied):
        budget.spend(second.after(101))


def test_turns_of_two_runs_never_pass_the_limit_together() -> None:
    account = Roots()
    budget = Budget(LIMIT, account)
    runs = [replace(ROUND, run=name) for name in ("first", "second")]
    for number in range(1, 201):
        for run in runs:
            budget.spend(run.after(number))
    for run in runs:
        with pytest.raises(PermissionDenied):
            budget.spend(run.after(201))
    assert budget.left().spent == 2


def test_nothing_is_charged_if_the_fact_could_not_be_written() -> None:
    def full(fact: Spend) -> None:
        raise OSError("no space left")

    budget = Budget(LIMIT, Roots(), keep=full)
    with pytest.raises(OSError, match="no space"):
        budget.spend(ROUND)
    assert budget.facts == ()


@pytest.mark.parametrize("change", [{"about": "tablets"}, {"unit": Unit.EXAMPLE}, {"relation": Relation.REPLACE}])
def test_another_kind_of_spend_is_refused(change: dict[str, object]) -> None:
    other = replace(ROUND, **change)  # type: ignore[arg-type]  # any field
    with pytest.raises(UsageError, match="use the budget of those data"):
        Budget(LIMIT, Roots()).spend(other)
    with pytest.raises(UsageError, match="use the budget of those data"):
        Budget(LIMIT, Roots(), facts=[other])


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_limits_that_limit_nothing_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UsageError, match="budget of phones"):
        Limit("phones", epsilon, delta)


def test_a_budget_is_described_by_its_limit_alone() -> None:
    budget = Budget(LIMIT, Roots())
    before = repr(budget)
    budget.spend(ROUND)
    assert repr(budget) == before == "Budget(ε = 2 at δ = 1e-05 for one client of phones, add-or-remove)"
    assert repr(Unlimited()) == "Unlimited()"
    Unlimited().spend(ROUND.after(10**6))
