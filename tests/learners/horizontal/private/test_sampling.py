"""Cohorts: coins with their probability, subsets of their size, the seed of the run not asked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.private.sampling import EpochCohort, FixedCohort, PoissonCohort, coins
from unseen.privacy.events import Everyone, Fixed, Poisson

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
