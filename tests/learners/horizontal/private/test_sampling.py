"""Cohorts: coins with their probability, subsets of their size, the seed of the run not asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.data.federated.clients import FederatedData
from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.private import central
from unseen.learners.horizontal.private.clip import Clip
from unseen.learners.horizontal.private.ftrl import Ftrl, TreePlan
from unseen.learners.horizontal.private.sampling import (
    EpochCohort,
    FixedCohort,
    PoissonCohort,
    check_stated,
    coins,
)
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.strategies import strategy
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import Everyone, Fixed, Poisson
from unseen.rounds.asynchronous import AsynchronousSimulation, Flight
from unseen.rounds.cohort import Uniform
from unseen.rounds.pace import Faults, Pace
from unseen.rounds.simulate import Settings, Simulation

SECRET = Prg(bytes(32))
CLIENTS = [ClientId(f"c{n}") for n in range(200)]


def test_poisson_cohorts_are_independent_coins() -> None:
    cohort = PoissonCohort(0.1, SECRET)
    chosen = [set(cohort.choose(CLIENTS, [], number, 0)) for number in range(500)]
    sizes = np.array([len(one) for one in chosen])
    assert sizes.mean() == pytest.approx(20, abs=4.5 * math.sqrt(18 / 500))
    assert sizes.var() == pytest.approx(18, rel=0.35)
    together = np.mean([{"c1", "c2"} <= one for one in chosen])
    assert together == pytest.approx(0.01, abs=4.5 * 0.1 / math.sqrt(500))
    counts = np.array([sum(client in one for one in chosen) for client in CLIENTS])
    assert counts.var() == pytest.approx(500 * 0.09, rel=0.45)


def test_cohorts_belong_to_the_secret_and_the_round() -> None:
    for cohort, other in (
        (PoissonCohort(0.3, SECRET), PoissonCohort(0.3, SECRET.derive("other"))),
        (FixedCohort(20, SECRET), FixedCohort(20, SECRET.derive("other"))),
        (EpochCohort(20, SECRET), EpochCohort(20, SECRET.derive("other"))),
    ):
        first = cohort.choose(CLIENTS, [], 3, 0)
        assert first == cohort.choose(CLIENTS, [], 3, 99), "the seed of the run is public: it decides nothing"
        assert first != cohort.choose(CLIENTS, [], 4, 0)
        assert first != other.choose(CLIENTS, [], 3, 0)
        assert "prg" not in repr(cohort)


def test_fixed_cohorts_have_their_size() -> None:
    cohort = FixedCohort(20, SECRET)
    chosen = [cohort.choose(CLIENTS, [], number, 0) for number in range(300)]
    assert {len(set(one)) for one in chosen} == {20}
    counts = np.array([sum(client in one for one in chosen) for client in CLIENTS])
    assert counts.mean() == 30
    assert counts.var() == pytest.approx(300 * 0.09, rel=0.45)
    with pytest.raises(UsageError, match="a cohort of 201 clients cannot be drawn from 200"):
        FixedCohort(201, SECRET).choose(CLIENTS, [], 0, 0)


def test_coins_at_the_ends_of_their_range() -> None:
    assert coins(SECRET, 1.0, 5) == [0, 1, 2, 3, 4]
    assert coins(SECRET, 2.0**-64, 1000) == []
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(UsageError, match="rate is"):
            PoissonCohort(rate, SECRET)
    for kind in (FixedCohort, EpochCohort):
        with pytest.raises(UsageError, match="at least one client"):
            kind(0, SECRET)


def test_cohorts_say_what_is_to_be_stated() -> None:
    assert PoissonCohort(0.1, SECRET).sampling() == Poisson(rate=0.1)
    assert FixedCohort(20, SECRET).sampling(200) == Fixed(size=20, population=200)
    assert EpochCohort(20, SECRET).sampling() == Everyone()


# --- a run draws as it states ----------------------------------------------------------------------------------------


class Still:
    """A model that does not move."""

    size = 2

    def settle(self):
        pass

    def initial(self, seed):
        return np.zeros(2, np.float32)

    def fit(self, model, examples: Examples, plan, rng, correction):
        return Fit(model, 1, 0.0)


class Seeded:
    """A cohort that is drawn by the run's seed, which is public."""

    def __repr__(self):
        return "Seeded()"


@pytest.mark.parametrize(
    ("stated", "cohort"),
    [
        (Poisson(rate=0.1), Seeded()),
        (Poisson(rate=0.1), PoissonCohort(0.2, SECRET)),
        (Poisson(rate=0.1), FixedCohort(20, SECRET)),
        (Fixed(size=20, population=200), Seeded()),
        (Fixed(size=20, population=200), FixedCohort(19, SECRET)),
        (Fixed(size=20, population=100), FixedCohort(20, SECRET)),
    ],
)
def test_cohorts_that_are_not_drawn_as_stated_are_refused(stated, cohort):
    with pytest.raises(UsageError, match="whose coins are secret"):
        check_stated(stated, cohort, 200)


def test_cohorts_that_are_drawn_as_stated_are_accepted_and_everyone_allows_any():
    check_stated(Poisson(rate=0.1), PoissonCohort(0.1, SECRET), 200)
    check_stated(Fixed(size=20, population=200), FixedCohort(20, SECRET), 200)
    check_stated(Everyone(), Seeded(), 200)


def central_process(sampling):
    plan = central.Plan(clip=1.0, noise_multiplier=1.0, expected=2, sampling=sampling, run="r", about="people")
    plain = strategy("fed_avg", learning_rate=0.1)
    return replace(
        plain,
        aggregator=central.Sum(),
        finalizer=central.Central(plain.finalizer, plan, Unlimited(), SECRET),
        postprocessors=(Clip(1.0),),
    )


def four_people():
    rng = np.random.default_rng(0)
    return FederatedData.of("people", {f"c{i}": (rng.normal(size=(3, 2)), np.zeros(3)) for i in range(4)})


def test_a_private_process_is_not_simulated_with_cohorts_that_everybody_knows():
    private, people = central_process(Poisson(rate=0.5)), four_people()
    with pytest.raises(UsageError, match="PoissonCohort with the same numbers"):
        Simulation(people, Still(), private, Settings(Uniform(2), workers=1))
    cohort = PoissonCohort(0.5, SECRET)
    with Simulation(people, Still(), private, Settings(cohort, workers=1)) as simulation:
        assert simulation.rounds(2).state.round == 2


@pytest.mark.parametrize("sampling", [Poisson(rate=0.5), Everyone()])
def test_a_private_round_does_not_end_with_whoever_answers_first(sampling):
    private, people, cohort = central_process(sampling), four_people(), PoissonCohort(0.5, SECRET)
    first_two = Settings(cohort, workers=1, faults=Faults(pace=Pace(), enough=2))
    with pytest.raises(UsageError, match="do without `enough`"):
        Simulation(people, Still(), private, first_two)
    with pytest.raises(UsageError, match="without buffers"):
        AsynchronousSimulation(people, Still(), private, Flight(2, 1), Settings(cohort, workers=1))
    with pytest.raises(UsageError, match="do without `enough`"):
        private.check_cohort(cohort, 4, first_come=True)


def test_trees_need_clients_that_come_once():
    def tree(steps):
        plan = TreePlan(clip=1.0, noise_multiplier=1.0, steps=steps, expected=5, run="r", about="people")
        return Ftrl(None, plan, None, SECRET)

    tree(4).check_cohort(EpochCohort(5, SECRET), 20)
    for steps, cohort in ((5, EpochCohort(5, SECRET)), (4, PoissonCohort(0.1, SECRET)), (4, Seeded())):
        with pytest.raises(UsageError, match="no client may come twice"):
            tree(steps).check_cohort(cohort, 20)
