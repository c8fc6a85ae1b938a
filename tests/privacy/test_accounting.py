"""ε of facts: published values, the relations, bounds of our own against the library's, calibration, mixed units."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.stats import norm

from unseen.errors import UsageError
from unseen.privacy import accounting
from unseen.privacy.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    DistributedGaussian,
    Everyone,
    Fixed,
    Gaussian,
    Laplace,
    Mechanism,
    Poisson,
    Relation,
    Sampling,
    Spend,
    Tree,
    Unit,
)

DELTA = 1e-5
ADD, ZERO, REPLACE = Relation.ADD_OR_REMOVE, Relation.ZERO_OUT, Relation.REPLACE


def spend(mechanism: Mechanism, sampling: Sampling | None = None, rounds: int = 1, relation: Relation = ADD) -> Spend:
    return Spend(
        run="run",
        about="phones",
        mechanism=mechanism,
        sampling=sampling or Everyone(),
        rounds=rounds,
        unit=Unit.CLIENT,
        relation=relation,
    )


def noise(multiplier: float) -> Gaussian:
    return Gaussian(noise_multiplier=multiplier)


# --- published values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multiplier", "rate", "rounds", "renyi", "losses"),
    [(1.1, 0.01, 1000, 1.712, 1.515), (1.0, 0.01, 1000, 2.101, 1.828), (1.0, 0.05, 500, 8.302, 7.524)],
)
def test_published_values(multiplier: float, rate: float, rounds: int, renyi: float, losses: float) -> None:
    found = accounting.guarantee([spend(noise(multiplier), Poisson(rate=rate), rounds)], DELTA)
    assert found.rdp == pytest.approx(renyi, abs=0.001)
    assert found.epsilon == pytest.approx(losses, abs=0.001)
    assert found.method == "PLD"


def test_the_tutorial_of_tensorflow_federated_has_an_epsilon_of_two() -> None:
    found = accounting.guarantee([spend(noise(1.2), Poisson(rate=120 / 3383), 100)], DELTA)
    assert found.rdp == pytest.approx(1.986, abs=0.001)
    assert 1.70 < found.epsilon < 1.71
    assert str(found) == "(ε = 1.708, δ = 1e-05) for one client, add-or-remove, by PLD"


def test_a_single_gaussian_release_has_its_known_epsilon() -> None:
    # B. Balle, Y. Wang, ICML 2018, theorem 8, by the library and by hand.
    found = accounting.guarantee([spend(noise(1.0))], DELTA).epsilon
    assert found == pytest.approx(get_epsilon_gaussian(1.0, DELTA), abs=1e-3)
    delta = norm.cdf(0.5 - found) - math.exp(found) * norm.cdf(-0.5 - found)
    assert delta == pytest.approx(DELTA, rel=1e-2)


# --- relations and mechanisms ------------------------------------------------------------------------------------


def test_replacing_a_unit_is_half_the_noise_by_both_accountants() -> None:
    replaced = accounting.guarantee([spend(noise(2.0), relation=REPLACE, rounds=3)], DELTA)
    halved = accounting.guarantee([spend(noise(1.0), rounds=3)], DELTA)
    assert (replaced.epsilon, replaced.rdp) == (halved.epsilon, halved.rdp)
    assert accounting.epsilon([spend(noise(2.0), relation=ZERO, rounds=3)], DELTA) < halved.epsilon


def test_a_tree_is_one_gaussian_release_of_its_height() -> None:
    tree = accounting.epsilon([spend(Tree(noise_multiplier=5.0, steps=28), rounds=4, relation=ZERO)], DELTA)
    assert tree == pytest.approx(accounting.epsilon([spend(noise(5 / math.sqrt(20)))], DELTA), rel=1e-6)


def test_pure_mechanisms_have_their_pure_epsilon() -> None:
    for mechanism in (Laplace(noise_multiplier=10.0), DiscreteLaplace(scale=10.0, sensitivity=1)):
        found = accounting.epsilon([spend(mechanism, rounds=4)], 1e-12)
        assert found == pytest.approx(0.4, abs=1e-3)
        doubled = accounting.epsilon([spend(mechanism, rounds=4, relation=REPLACE)], 1e-12)
        assert doubled == pytest.approx(0.8, abs=1e-3)


def test_a_bound_on_pure_mechanisms_is_attained_by_coarse_noise() -> None:
    # One step apart, discrete Laplace noise of scale 1 is a randomised response.
    orders = np.array([1.5, 2.0, 8.0])
    yes = math.e / (1 + math.e)
    direct = np.log(yes**orders * (1 - yes) ** (1 - orders) + (1 - yes) ** orders * yes ** (1 - orders)) / (orders - 1)
    np.testing.assert_allclose(accounting.pure(1.0, orders), direct, rtol=1e-12)
    assert accounting.pure(1.0, np.array([1e6]))[0] == pytest.approx(1.0, abs=1e-5)


def test_discrete_noise_is_accounted_by_its_concentration() -> None:
    found = accounting.guarantee([spend(DiscreteGaussian(noise_multiplier=1.0))], DELTA)
    assert found.method == "RDP"
    assert found.epsilon == pytest.approx(accounting.guarantee([spend(noise(1.0))], DELTA).rdp, rel=1e-6)


# --- noise of many clients ---------------------------------------------------------------------------------------


def summed(deviation: float, clients: int = 120) -> DistributedGaussian:
    """Noise of which the sum is 1.2 times the norm."""
    norm_of_one = deviation * math.sqrt(clients) / 1.2
    return DistributedGaussian(deviation=deviation, clients=clients, norm=norm_of_one, size=10_000)


def test_wide_shares_of_noise_are_as_good_as_one_gaussian() -> None:
    assert accounting.distance(summed(20.0)) < 1e-300
    found = accounting.epsilon([spend(summed(20.0), relation=ZERO)], DELTA)
    assert found == pytest.approx(accounting.guarantee([spend(noise(1.2))], DELTA).rdp, rel=1e-9)


def test_narrow_shares_of_noise_cost_more_in_proportion_to_their_distance() -> None:
    # τ = 10·Σ exp(−2π²σ²k/(k+1)), by hand for three clients of deviation 1.
    assert accounting.distance(summed(1.0, clients=3)) == pytest.approx(
        10 * (math.exp(-(math.pi**2)) + math.exp(-4 / 3 * math.pi**2)), rel=1e-12
    )
    wide, narrow = (accounting.epsilon([spend(summed(s), relation=ZERO)], DELTA) for s in (20.0, 1.0))
    # Of the two bounds, that with τ·d is the lesser here.
    assert wide < narrow <= wide + accounting.distance(summed(1.0)) * 10_000 + 1e-9
    assert accounting.epsilon([spend(summed(0.5), relation=ZERO)], DELTA) > 1000


def test_subsets_of_fixed_size_agree_with_the_library_where_both_apply() -> None:
    """The general bound is not below the library's for Gaussian noise, which may use more; above it not by much."""
    fixed = Fixed(size=120, population=3383)
    ours = accounting.epsilon([spend(summed(20.0), fixed, 100, REPLACE)], DELTA)
    theirs = accounting.epsilon([spend(noise(1.2), fixed, 100, REPLACE)], DELTA)
    assert theirs - 1e-9 <= ours < 1.05 * theirs
    everyone = accounting.epsilon([spend(summed(20.0), Everyone(), 100, REPLACE)], DELTA)
    assert ours < everyone / 5


def test_moments_of_subsets_by_hand() -> None:
    losses = np.array([0.3, 0.45])
    # theorem 9 at α = 3: 1 + q²·3·min(4(e^ε−1), 2e^ε) + q³·2·e^{2ε(3)}
    expected = math.log(1 + 0.01 * 3 * min(4 * math.expm1(0.3), 2 * math.exp(0.3)) + 0.001 * 2 * math.exp(0.9)) / 2
    found = accounting.without_replacement(0.1, lambda orders: 0.15 * orders, np.array([2.5, 3.0]))
    assert losses.tolist() == pytest.approx([0.15 * 2, 0.15 * 3])
    assert found[1] == pytest.approx(expected, rel=1e-12)
    at_two = math.log(1 + 0.01 * min(4 * math.expm1(0.3), 2 * math.exp(0.3)))
    assert found[0] == pytest.approx((0.5 * at_two + 0.5 * 2 * expected) / 1.5, rel=1e-12)


# --- composition and calibration ---------------------------------------------------------------------------------


def test_facts_that_another_one_covers_cost_nothing() -> None:
    one = spend(noise(1.1), Poisson(rate=0.01), 100)
    alone = accounting.epsilon([one], DELTA)
    assert accounting.epsilon([one.after(7), one, one.after(100)], DELTA) == alone
    other = replace(one, run="second")
    assert accounting.epsilon([one, other], DELTA) == pytest.approx(accounting.epsilon([one.after(200)], DELTA), 1e-6)


def test_nothing_costs_nothing() -> None:
    assert accounting.epsilon([], DELTA) == 0
    with pytest.raises(UsageError, match="nothing has been spent"):
        accounting.guarantee([], DELTA)


@pytest.mark.parametrize(
    "other",
    [
        {"unit": Unit.EXAMPLE},
        {"relation": ZERO},
        {"about": "tablets"},
    ],
)
def test_spends_of_different_kinds_do_not_add_up(other: dict[str, object]) -> None:
    one = spend(noise(1.0))
    with pytest.raises(UsageError, match="do not add up to one ε, found"):
        accounting.epsilon([one, replace(one, **other)], DELTA)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_outside_of_its_range_is_refused(delta: float) -> None:
    with pytest.raises(UsageError, match="δ is"):
        accounting.epsilon([spend(noise(1.0))], delta)


def test_calibrated_noise_just_keeps_to_epsilon() -> None:
    def make(multiplier: float) -> list[Spend]:
        return [spend(noise(multiplier), Poisson(rate=120 / 3383), 100)]

    found = accounting.calibrate(make, 2.0, DELTA)
    assert found == pytest.approx(1.109, abs=0.001)
    assert accounting.epsilon(make(found), DELTA) <= 2 < accounting.epsilon(make(found * 0.995), DELTA)


def test_no_noise_is_enough_for_some_wishes() -> None:
    with pytest.raises(UsageError, match="no noise is enough"):
        accounting.calibrate(lambda multiplier: [spend(noise(multiplier), rounds=10**9)], 1e-6, 1e-15)


def test_affordable_rounds_are_as_many_as_fit() -> None:
    one = spend(noise(1.2), Poisson(rate=120 / 3383))
    found = accounting.affordable(one, 2.0, DELTA)
    assert 135 < found < 150
    assert accounting.epsilon([one.after(found)], DELTA) <= 2 < accounting.epsilon([one.after(found + 2)], DELTA)
    before = replace(one, run="before").after(100)
    assert found - 102 < accounting.affordable(one, 2.0, DELTA, [before]) < found - 98
    assert accounting.affordable(one, 0.1, DELTA) == 0


# --- the guide ---------------------------------------------------------------------------------------------------


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "differential_privacy.md"
    (example,) = re.findall(r"^```python\n(.*?)^```", guide.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(example, str(guide), "exec"), {})  # noqa: S102  # our own documentation
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("(ε = 2, δ = 1e-05) for one client, add-or-remove, by PLD") or "(ε = 1.999" in shown[0]
    assert "of 2 is spent" in shown[1]


def test_the_table_of_the_guide_is_right() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "differential_privacy.md"
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", guide.read_text("utf-8"), re.M)
    assert len(rows) >= 6
    for multiplier, rate, rounds, losses, renyi in rows:
        found = accounting.guarantee([spend(noise(float(multiplier)), Poisson(rate=float(rate)), int(rounds))], DELTA)
        assert (losses, renyi) == (f"{found.epsilon:.2f}", f"{found.rdp:.2f}"), (multiplier, rate, rounds)
