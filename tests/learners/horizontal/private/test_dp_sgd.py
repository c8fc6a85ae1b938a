"""DP-SGD at the client: per-example clipping, Poisson batches, noise, and what leaves; against plain SGD."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import PermissionDenied, UsageError
from unseen.learners.horizontal.private.dp_sgd import ROUNDS, DpSgd, ExamplePlan, clipped_sum
from unseen.learners.horizontal.process import Assignment, Broadcast, ClientId, Examples, Memory, Update
from unseen.privacy.events import Gaussian, Poisson, Unit

SECRET = Prg(bytes(32))
PLAN = ExamplePlan(bound=1.0, noise_multiplier=1.0, rate=0.1, nominal=1000, steps=20, learning_rate=0.5, rounds=3)


class Squares:
    """Least squares: the gradient of ½(x·w − y)² is (x·w − y)·x; in chunks of 7."""

    def example_gradients(self, model: NDArray[np.float32], examples: Examples) -> Iterator[NDArray[np.float32]]:
        inputs, labels = np.asarray(examples.inputs, np.float64), np.asarray(examples.labels, np.float64)
        for start in range(0, len(examples), 7):
            rows = inputs[start : start + 7]
            yield ((rows @ model - labels[start : start + 7])[:, None] * rows).astype(np.float32)


def assignment(count: int = 1000, size: int = 5, memory: Memory | None = None, number: int = 0) -> Assignment:
    rng = np.random.default_rng(8)
    inputs = rng.standard_normal((count, size)).astype(np.float32)
    labels = inputs @ np.arange(1, size + 1, dtype=np.float32) / size
    broadcast = Broadcast(number, np.zeros(size, np.float32))
    return Assignment(ClientId("ann"), broadcast, Examples(inputs, labels), memory or {}, rng)


def run(plan: ExamplePlan, given: Assignment) -> tuple[Update, Memory]:
    return DpSgd(plan, Squares(), SECRET)(None, given)  # type: ignore[arg-type]  # the trainer is not asked


def test_sums_of_clipped_gradients_by_hand() -> None:
    gradients = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-6.0, 8.0]], np.float32)
    expected = [0.6 + 0.3 - 0.6, 0.8 + 0.4 + 0.8]
    np.testing.assert_allclose(clipped_sum(gradients, 1.0), expected, rtol=1e-5)
    for row in gradients:
        assert math.hypot(*clipped_sum(row[None], 1.0)) <= 1.0
    broken = np.array([[np.inf, 0.0], [0.0, np.nan], [0.0, 0.5]], np.float32)
    assert clipped_sum(broken, 1.0).tolist() == [0.0, 0.5], "an example that cannot be told apart from none"


def test_without_noise_to_speak_of_it_is_sgd_on_everything() -> None:
    """With rate 1, a wide bound and next to no noise, steps are those of gradient descent."""
    given = assignment()
    plan = replace(PLAN, rate=1.0, bound=100.0, noise_multiplier=1e-7)
    update, _ = run(plan, given)
    inputs, labels = given.examples.inputs, given.examples.labels
    model = np.zeros(5)
    for _ in range(20):
        model -= 0.5 * inputs.T @ (inputs @ model - labels) / 1000
    np.testing.assert_allclose(update.delta, model, atol=1e-5)


def test_it_learns_with_noise() -> None:
    update, _ = run(replace(PLAN, bound=2.0, learning_rate=0.2, steps=60), assignment())
    goal = np.arange(1, 6) / 5
    assert np.linalg.norm(update.delta - goal) < 0.25 * np.linalg.norm(goal)


def test_noise_has_the_stated_deviation() -> None:
    """Without examples, a step is the noise: z·C·η/(q·n) in every coordinate."""
    update, _ = run(replace(PLAN, bound=3.0, steps=1, noise_multiplier=2.0), assignment(count=0, size=20_000))
    assert update.delta.std() == pytest.approx(2.0 * 3.0 * 0.5 / (0.1 * 1000), rel=0.02)


def test_batches_are_poisson_samples() -> None:
    sizes: list[int] = []

    class Counting(Squares):
        def example_gradients(self, model: NDArray[np.float32], examples: Examples) -> Iterator[NDArray[np.float32]]:
            sizes.append(len(examples))
            return super().example_gradients(model, examples)

    DpSgd(replace(PLAN, steps=400), Counting(), SECRET)(None, assignment())  # type: ignore[arg-type]
    # Binomial: mean 100, variance 90; fixed batches would have none.
    assert np.mean(sizes) == pytest.approx(100, abs=4.5 * math.sqrt(90 / 400))
    assert np.var(sizes) == pytest.approx(90, rel=0.3)


def test_nothing_else_leaves_and_a_round_repeats_itself() -> None:
    first, memory = run(PLAN, assignment())
    again, _ = run(PLAN, assignment())
    later, _ = run(PLAN, assignment(number=1))
    assert (first.weight, dict(first.extra), dict(first.metrics)) == (1.0, {}, {})
    assert (first.delta == again.delta).all()
    assert not np.allclose(first.delta, later.delta)
    assert memory[ROUNDS].tolist() == [1.0]


def test_a_client_stops_when_its_rounds_are_spent() -> None:
    memory: Memory = {"other": np.ones(1, np.float32)}
    for _ in range(3):
        _, memory = run(replace(PLAN, steps=1), assignment(memory=memory))
    assert set(memory) == {"other", ROUNDS}
    with pytest.raises(PermissionDenied, match="client ann: it has trained in all 3 rounds"):
        run(PLAN, assignment(memory=memory))


def test_a_trainer_that_leaves_examples_out_is_refused() -> None:
    class Lazy(Squares):
        def example_gradients(self, model: NDArray[np.float32], examples: Examples) -> Iterator[NDArray[np.float32]]:
            yield next(super().example_gradients(model, examples))

    with pytest.raises(UsageError, match="examples gave 7 gradients"):
        DpSgd(PLAN, Lazy(), SECRET)(None, assignment())  # type: ignore[arg-type]


def test_plans_count_steps_of_examples() -> None:
    fact = PLAN.spend("run", "ann", 3)
    assert (fact.rounds, fact.unit, fact.about) == (60, Unit.EXAMPLE, "ann")
    assert (fact.mechanism, fact.sampling) == (Gaussian(noise_multiplier=1.0), Poisson(rate=0.1))
    for change in ({"bound": 0.0}, {"rate": 1.5}, {"nominal": 0}, {"steps": 0}, {"rounds": 0}, {"learning_rate": 0.0}):
        with pytest.raises(UsageError):
            replace(PLAN, **change)  # type: ignore[arg-type]  # any field
