"""Distributed noise: sums modulo 2^bits are exact, bounds hold in integers, rotations are undone, few are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import hadamard as known_hadamard

from unseen.crypto.prg import Prg
from unseen.errors import PermissionDenied, UsageError
from unseen.learners.horizontal.private.distributed import (
    Code,
    Decode,
    DistributedPlan,
    Encode,
    ModularSum,
    step_for,
)
from unseen.learners.horizontal.private.rotation import Rotation, hadamard
from unseen.learners.horizontal.process import Aggregate, Assignment, Broadcast, ClientId, Examples, State, Update
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import DistributedGaussian, Everyone, Fixed, Relation

SECRET = Prg(bytes(32))
CODE = Code(size=1000, bound=1.0, step=0.001, deviation=0.05, clients=10, bits=16)


def updates(count: int, size: int = 1000, length: float = 0.9) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((count, size))
    return list((rows / np.linalg.norm(rows, axis=1, keepdims=True) * length).astype(np.float32))


def assignment(client: int, number: int = 0) -> Assignment:
    broadcast = Broadcast(number, np.zeros(3, np.float32))
    examples = Examples(np.zeros(1), np.zeros(1))
    return Assignment(ClientId(f"c{client}"), broadcast, examples, {}, np.random.default_rng(0))


# --- rotations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 6, 11])
def test_the_transform_is_walsh_and_hadamards(bits: int) -> None:
    values = np.random.default_rng(bits).standard_normal(1 << bits)
    expected = known_hadamard(1 << bits) @ values / math.sqrt(1 << bits)
    np.testing.assert_allclose(hadamard(values), expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 100, 1000, 4097])
def test_rotations_keep_lengths_and_are_undone(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    rotation = Rotation.of(size, 7, 3)
    turned = rotation.turn(values)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values), rel=1e-12)
    np.testing.assert_allclose(rotation.back(turned), values, atol=1e-12)
    if size > 3:
        assert not np.allclose(turned, Rotation.of(size, 7, 4).turn(values))


@pytest.mark.parametrize("size", [1024, 1500])
@pytest.mark.parametrize("place", [0, -1])
def test_rotations_spread_what_is_in_one_place(size: int, place: int) -> None:
    spike = np.zeros(size)
    spike[place] = 1.0
    assert np.abs(Rotation.of(size, 1, 0).turn(spike)).max() < 6 / math.sqrt(size)


# --- the code ----------------------------------------------------------------------------------------------------


def test_sums_of_words_modulo_2_64_are_the_sums_modulo_2_bits() -> None:
    """Any aggregation of machine words gives what the aggregator gives: 2^bits divides 2^64."""
    encoded = [CODE.encode(delta, None, SECRET.derive(str(n))) for n, delta in enumerate(updates(40))]
    assert all(np.abs(one).max() < 1 << 15 for one in encoded)
    words = np.zeros(1000, np.uint64)
    for one in encoded:
        words += one.astype(np.uint64)
    aggregate = ModularSum(CODE)([Update(one.astype(np.float32), 1.0) for one in encoded])
    assert (CODE.wrapped(words.astype(np.int64)) == aggregate.delta).all()
    exact = np.sum(encoded, axis=0)
    assert (aggregate.delta == (exact + 2**15) % 2**16 - 2**15).all()


def test_sums_wrap_around_and_only_where_they_must() -> None:
    narrow = replace(CODE, bits=9)
    encoded = [narrow.encode(delta, None, SECRET.derive(str(n))) for n, delta in enumerate(updates(40))]
    wide = [CODE.encode(delta, None, SECRET.derive(str(n))) for n, delta in enumerate(updates(40))]
    summed = np.sum(wide, axis=0)
    found = narrow.wrapped(np.sum(encoded, axis=0))
    small = np.abs(summed) < 255
    assert 0.2 < small.mean() < 0.8
    assert (found[small] == summed[small]).all()
    assert ((found - summed) % 512 == 0).all()


@pytest.mark.parametrize("rotated", [True, False])
def test_decoded_sums_are_the_sums_plus_the_noise_of_all(rotated: bool) -> None:
    rotation = Rotation.of(1000, 1, 0) if rotated else None
    given = updates(40)
    encoded = [CODE.encode(delta, rotation, SECRET.derive(str(n))) for n, delta in enumerate(given)]
    rest = CODE.decode(np.sum(encoded, axis=0), rotation) - np.sum(given, axis=0)
    assert rest.std() == pytest.approx(0.05 * math.sqrt(40), rel=0.1)


def test_rounded_updates_are_not_longer_than_the_stated_norm() -> None:
    coarse = replace(CODE, step=0.05, deviation=0.05)
    # (c/γ)² + d/4 + √(2·ln(1/β))·(c/γ + √d/2) at c/γ = 20, d = 1000, β = e^−½.
    assert coarse.norm == pytest.approx(math.sqrt(400 + 250 + 20 + math.sqrt(1000) / 2))
    assert replace(coarse, size=1, beta=1e-300).norm == pytest.approx(20 + 1)
    sums = np.zeros(1000)
    for n, delta in enumerate(updates(300, length=1.0)):
        rounded = coarse._rounded(delta / 0.05, SECRET.derive(str(n)))
        sums += rounded - delta / 0.05
        assert np.abs(rounded - delta / 0.05).max() < 1
    assert abs(sums.mean()) < 0.5


def test_rounding_is_tried_again_until_it_is_short_enough() -> None:
    """Every number is √0.4 steps: 632 ± 15 of a thousand are rounded up, and at most 651 may be."""
    coarse = replace(CODE, step=0.05, deviation=0.05, beta=0.999)
    assert 651 < coarse.norm**2 < 652
    values = np.full(1000, math.sqrt(0.4))
    lengths = [int(np.sum(coarse._rounded(values, SECRET.derive(str(n))) ** 2)) for n in range(300)]
    assert 645 < max(lengths) <= 651


def test_an_update_that_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(UsageError, match="was it clipped to 1"):
        CODE.encode(np.full(1000, 1.0, np.float32), None, SECRET)


@pytest.mark.parametrize(
    "change", [{"bits": 25}, {"bits": 1}, {"step": 0.0}, {"beta": 1.0}, {"bound": 0.0}, {"deviation": 0.0004}]
)
def test_codes_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        replace(CODE, **change)  # type: ignore[arg-type]  # any field


def test_the_step_fits_four_deviations_of_a_sum_of_equal_updates() -> None:
    step = step_for(12, 1.0, 1000, 40, 0.05)
    deviation = math.sqrt(40**2 / 1000 + 40 * (0.05**2 + step**2 / 4))
    assert 4 * deviation == pytest.approx(2**11 * step)
    code = replace(CODE, step=step, bits=12)
    delta = updates(1)[0]
    encoded = [code.encode(delta, None, SECRET.derive(str(n))) for n in range(40)]
    rest = code.decode(np.sum(encoded, axis=0), None) - 40 * delta
    assert (np.abs(rest) < 6 * math.sqrt(40 * (0.05**2 + step**2 / 4))).mean() > 0.998
    with pytest.raises(UsageError, match="2 bits cannot hold a sum of 40"):
        step_for(2, 1.0, 1000, 40, 0.05)


# --- the parts of a process --------------------------------------------------------------------------------------


def plan(code: Code = CODE) -> DistributedPlan:
    return DistributedPlan(code=code, seed=3, sampling=Fixed(size=12, population=100), run="run", about="phones")


def test_a_round_gives_the_mean_update_with_the_noise_of_all() -> None:
    encode = Encode(CODE, 3, 9, SECRET)
    given = [4 * delta for delta in updates(12)]
    sent = [encode(Update(delta, 50.0, {}, {"loss": 1.0}), assignment(n, 5)) for n, delta in enumerate(given)]
    assert all(update.weight == 1 and not update.metrics for update in sent)
    finish = Decode(lambda state, aggregate: State(state.round + 1, aggregate.delta), plan(), Unlimited())
    after = finish(State(5, np.zeros(1000, np.float32)), ModularSum(CODE)(sent))
    rest = after.model - np.mean(updates(12, length=1.0), axis=0)
    assert rest.std() == pytest.approx(0.05 / math.sqrt(12), rel=0.1)
    wrong = finish(State(6, np.zeros(1000, np.float32)), ModularSum(CODE)(sent))
    assert np.linalg.norm(wrong.model - after.model) > 0.1, "each round has its own rotation"


def test_clients_repeat_themselves_and_have_noise_of_their_own() -> None:
    encode = Encode(replace(CODE, rotated=False), 3, 9, SECRET)
    zero = Update(np.zeros(1000, np.float32), 1.0)
    first, again, other, later = (
        encode(zero, assignment(client, number)).delta for client, number in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert (first == again).all()
    for noise in (other, later):
        assert abs(np.corrcoef(first, noise)[0, 1]) < 4.5 / math.sqrt(1000)
    changed = encode(Update(np.full(1000, 1e-4, np.float32), 1.0), assignment(1, 0)).delta
    assert abs(np.corrcoef(first, changed)[0, 1]) < 4.5 / math.sqrt(1000)


def test_sums_of_too_few_clients_are_refused() -> None:
    with pytest.raises(PermissionDenied, match="9 clients came, and their noise is enough from 10 on"):
        ModularSum(CODE)([Update(np.zeros(1000, np.float32), 1.0)] * 9)


def test_plans_state_noise_in_steps_of_the_grid() -> None:
    assert plan().spend(3).mechanism == DistributedGaussian(
        deviation=0.05 / 0.001, clients=10, norm=CODE.norm, size=1000
    )
    with pytest.raises(UsageError, match="need the relation replace"):
        replace(plan(), relation=Relation.ZERO_OUT)
    assert replace(plan(), sampling=Everyone(), relation=Relation.ZERO_OUT).spend(1).rounds == 1


def test_the_budget_is_asked_before_anything_is_decoded() -> None:
    class Empty:
        def spend(self, fact: object) -> None:
            raise PermissionDenied("empty")

    finish = Decode(lambda state, aggregate: pytest.fail("released"), plan(), Empty())
    with pytest.raises(PermissionDenied, match="empty"):
        finish(State(0, np.zeros(1000, np.float32)), Aggregate(np.zeros(1000, np.float32), 10, 10.0))
    for clients in (0, 9):
        with pytest.raises(PermissionDenied, match=f"round 1 has the noise of {clients} clients, and that of 10"):
            finish(State(0, np.zeros(1000, np.float32)), Aggregate(np.zeros(1000, np.float32), clients, 1.0))
