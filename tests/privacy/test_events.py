"""Facts about noise: strict JSON, later facts cover earlier ones, and what does not fit together is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from unseen.errors import DataError, UsageError
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
    covered,
    read_spend,
    to_json,
)

SUMMED = DistributedGaussian(deviation=40.0, clients=20, norm=300.0, size=1000)
MECHANISMS: tuple[Mechanism, ...] = (
    Gaussian(noise_multiplier=1.1),
    Laplace(noise_multiplier=2.0),
    DiscreteGaussian(noise_multiplier=0.5),
    DiscreteLaplace(scale=10.0, sensitivity=3),
    Tree(noise_multiplier=4.0, steps=28),
    SUMMED,
)


def spend(
    mechanism: Mechanism = MECHANISMS[0],
    sampling: Sampling | None = None,
    rounds: int = 1,
    relation: Relation = Relation.ZERO_OUT,
) -> Spend:
    return Spend(
        run="first",
        about="phones",
        mechanism=mechanism,
        sampling=sampling or Everyone(),
        rounds=rounds,
        unit=Unit.CLIENT,
        relation=relation,
    )


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.kind)
def test_facts_survive_json(mechanism: Mechanism) -> None:
    fact = spend(mechanism, rounds=7)
    assert read_spend(to_json(fact), "line 1") == fact
    for sampling, relation in ((Poisson(rate=0.1), Relation.ADD_OR_REMOVE), (Fixed(size=3, population=9), "replace")):
        sampled = replace(spend(), sampling=sampling, relation=Relation(relation))
        assert read_spend(to_json(sampled), "line 1") == sampled


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rounds": "3"}, "rounds"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 1.5}, "rounds"),
        ({"extra": 1}, "extra"),
        ({"unit": "person"}, "unit"),
        ({"mechanism": {"kind": "gaussian", "noise_multiplier": 0.0}}, "noise_multiplier is 0.0"),
        ({"mechanism": {"kind": "gaussian", "noise_multiplier": float("nan")}}, ""),
        ({"mechanism": {"kind": "gaussian", "noise_multiplier": 1.0, "sigma": 1.0}}, "sigma"),
        ({"mechanism": {"kind": "uniform"}}, "mechanism"),
        ({"sampling": {"kind": "poisson", "rate": 1.5}}, "rate is 1.5"),
        ({"run": ""}, "names its run"),
    ],
)
def test_what_is_no_fact_is_refused(change: dict[str, object], problem: str) -> None:
    fields = json.loads(to_json(spend())) | change
    with pytest.raises(DataError, match=f"line 8 is not a spend of privacy: .*{problem}"):
        read_spend(json.dumps(fields), "line 8")


def test_a_missing_field_is_named() -> None:
    fields = json.loads(to_json(spend()))
    del fields["relation"]
    with pytest.raises(DataError, match="relation: Field required"):
        read_spend(json.dumps(fields), "line 2")


def test_later_facts_cover_earlier_ones_in_any_order() -> None:
    other = replace(spend(rounds=2), run="second")
    facts = [spend(rounds=2), other, spend(rounds=3), spend(rounds=1)]
    assert sorted(covered(facts), key=lambda fact: fact.run) == [spend(rounds=3), other]
    assert covered(reversed(facts)) == [spend(rounds=3), other]


@pytest.mark.parametrize(
    ("mechanism", "sampling", "relation", "problem"),
    [
        (SUMMED, Everyone(), Relation.ADD_OR_REMOVE, "not whether it takes part"),
        (Tree(noise_multiplier=1.0, steps=4), Everyone(), Relation.ADD_OR_REMOVE, "not whether it takes part"),
        (Tree(noise_multiplier=1.0, steps=4), Poisson(rate=0.1), Relation.ZERO_OUT, "no bound is known"),
        (Laplace(noise_multiplier=1.0), Fixed(size=1, population=2), Relation.REPLACE, "no bound is known"),
        (SUMMED, Poisson(rate=0.1), Relation.ZERO_OUT, "drawn in subsets of fixed size"),
        (MECHANISMS[0], Fixed(size=1, population=2), Relation.ADD_OR_REMOVE, "need the relation replace"),
        (MECHANISMS[0], Poisson(rate=0.1), Relation.REPLACE, "needs another relation"),
    ],
)
def test_what_does_not_go_together_is_refused(
    mechanism: Mechanism, sampling: Sampling, relation: Relation, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        spend(mechanism, sampling, relation=relation)


def test_noise_below_half_a_step_is_refused() -> None:
    with pytest.raises(UsageError, match=r"deviation is 0\.4 steps"):
        replace(SUMMED, deviation=0.4)


@pytest.mark.parametrize(("steps", "height"), [(1, 1), (2, 2), (3, 2), (4, 3), (28, 5), (1024, 11)])
def test_height_of_trees(steps: int, height: int) -> None:
    # How many of the nodes of prefix sums hold step 1, counted.
    nodes = {(level, step >> level) for step in range(1, steps + 1) for level in range(12) if step >> level & 1}
    assert Tree(noise_multiplier=1.0, steps=steps).height == height == sum(index == 1 for _, index in nodes)
