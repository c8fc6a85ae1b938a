"""The server's side of a regression: what it sends, and what it makes of the sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from unseen.errors import DataError
from unseen.learners.horizontal.linear.model import Floats, Regression
from unseen.learners.horizontal.linear.plan import COUNTS, EXPONENT, LOSS, SQUARED, SUMS, LinearSetting, Phase, Plan
from unseen.learners.horizontal.process import Aggregate, Broadcast, State
from unseen.learners.horizontal.tables.exact import Limbs, Summed, head_size, to_floats, to_reals

_MARGIN = 4
"""By how much the rows of a cohort may grow before scales are chosen anew."""
_STEP = 1e-9
"""Steps of all standardised coefficients below this are the last."""
_MOST_STEPS = 100
"""Newton's steps; without a penalty, separable rows have no optimum."""
_SINGULAR = 1e-12
"""Directions whose eigenvalue is below this share of the largest one are none."""
_CONSTANT = 1e-12
"""A column whose deviation is below this share of its largest magnitude varies by rounding errors only."""


@dataclass(frozen=True, slots=True)
class SendPlan:
    """A distributor: the model, and what the round is for."""

    setting: LinearSetting

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        return Broadcast(state.round, state.model, {"plan": self.plan(state).pack()})

    def plan(self, state: State) -> Plan:
        """Return what the next round is for."""
        found = state.extra.get("plan")
        return Plan.start(self.setting) if found is None else Plan.unpack(found, self.setting)


@dataclass(frozen=True, slots=True)
class Solve:
    """A finalizer: the next phase, or the next step of Newton's method.

    Raises:
        RemoteProtocolError: The aggregate holds other sums than were asked for.
        DataError: There are no rows, a column has no value at all, or the label is the same everywhere.
    """

    setting: LinearSetting

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round; a round with nobody changes nothing but its number."""
        plan = SendPlan(self.setting).plan(state)
        if not aggregate.clients or plan.phase is Phase.DONE:
            return replace(state, round=state.round + 1)
        size = head_size(self.setting.clients)
        summed = Summed.of(replace(aggregate, delta=aggregate.delta[:size]), self.setting.clients)
        if not summed.rows:
            raise DataError(f"round {state.round + 1}: the clients of its cohort have no rows")
        if plan.phase is not Phase.MAGNITUDES and summed.rows > 1 << plan.room:
            return self._after(state, replace(plan, room=_room(summed.rows)))
        steps = (self._magnitudes, self._means, self._deviations, self._step)
        return steps[plan.phase](state, plan, summed)

    def _after(self, state: State, plan: Plan, model: Regression | None = None, **extra: Floats) -> State:
        kept = {"plan": plan.pack(), **{name: to_floats(values) for name, values in extra.items()}}
        return State(state.round + 1, state.model if model is None else model.vector(), kept)

    def _magnitudes(self, state: State, plan: Plan, summed: Summed) -> State:
        width, amounts = 2 * EXPONENT + 1, self.setting.amounts
        counts = summed.integers(Limbs(self.setting.clients, COUNTS), amounts * width).reshape(amounts, width)
        absent = np.flatnonzero(counts.sum(axis=1) == 0)
        if len(absent):
            name = (*self.setting.columns, "the label")[int(absent[0])]
            raise DataError(f"column {name}: no client has a value; leave the column out")
        highest = width - 1 - (counts[:, ::-1] > 0).argmax(axis=1)
        exponents = (highest - EXPONENT).astype(np.int64)
        return self._after(state, replace(plan, phase=Phase.MEANS, room=_room(summed.rows), exponents=exponents))

    def _means(self, state: State, plan: Plan, summed: Summed) -> State:
        sums, counts = np.split(self._sums(plan, summed, 2 * self.setting.amounts), 2)
        means = np.ldexp(sums / np.maximum(counts, 1.0), plan.exponents)
        return self._after(state, replace(plan, phase=Phase.DEVIATIONS, means=means))

    def _deviations(self, state: State, plan: Plan, summed: Summed) -> State:
        sums = self._sums(plan, summed, self.setting.amounts)
        scales = np.ldexp(1.0, plan.exponents)
        found = 2 * scales * np.sqrt(np.maximum(sums, 0.0) / summed.rows)
        deviations = np.where(found > _CONSTANT * scales, found, 1.0)
        return self._after(state, replace(plan, phase=Phase.STEPS, deviations=deviations))

    def _sums(self, plan: Plan, summed: Summed, count: int) -> Floats:
        found: Floats = summed.integers(Limbs(self.setting.clients, SUMS), count) / plan.factor
        return found

    def _step(self, state: State, plan: Plan, summed: Summed) -> State:
        count = len(self.setting.columns) + 1
        size = count * (count + 1) // 2
        sums = self._sums(plan, summed, size + count + 1) / summed.rows
        spans = np.append(plan.spans[: count - 1], 1.0)
        hessian = np.zeros((count, count))
        hessian[np.triu_indices(count)] = sums[:size]
        hessian = (hessian + np.triu(hessian, 1).T) * np.outer(spans, spans)
        penalty = np.append(np.full(count - 1, self.setting.l2), 0.0)
        gradient, last = sums[size:-1] * spans, float(sums[-1])
        if self.setting.family == SQUARED:
            return self._least_squares(state, plan, summed.rows, (hessian, gradient, last), penalty)
        return self._newton(state, plan, summed.rows, (hessian, gradient, last * LOSS), penalty)

    def _least_squares(
        self, state: State, plan: Plan, rows: int, found: tuple[Floats, Floats, float], penalty: Floats
    ) -> State:
        hessian, gradient, square = found
        span = float(plan.spans[-1])
        weights = _solved(hessian + np.diag(penalty), gradient * span)
        rest = max(0.0, square * span**2 - float(weights @ (2 * gradient * span - hessian @ weights)))
        covariance = self._covariance(hessian, rows, rest * rows / max(1, rows - len(weights)))
        done = replace(plan, phase=Phase.DONE, weights=weights)
        unit = float(plan.deviations[-1])
        model = self._model(plan, weights * unit, covariance * unit**2, rows)
        shifted = replace(model, intercept=model.intercept + float(plan.means[-1]))
        return self._after(state, done, replace(shifted, loss=rest * unit**2 / 2, converged=True))

    def _newton(
        self, state: State, plan: Plan, rows: int, found: tuple[Floats, Floats, float], penalty: Floats
    ) -> State:
        hessian, gradient, loss = found
        weights = plan.weights
        value = loss + float(penalty @ weights**2) / 2
        # Where the step led to a larger value, go back half of it; an optimum is flatter than sums are exact.
        if "step" in state.extra:
            step, before = np.split(to_reals(state.extra["step"]), [-1])
            if value > before[0] + 1e-12 and np.abs(step).max() > 1e-6:
                return self._after(state, replace(plan, weights=weights - step / 2), step=np.append(step / 2, before))
        hessian = hessian + np.diag(penalty)
        step = -_solved(hessian, gradient + penalty * weights)
        weights, steps = weights + step, plan.steps + 1
        converged = bool(np.abs(step).max() < _STEP)
        done = converged or steps >= _MOST_STEPS
        model = self._model(plan, weights, self._covariance(hessian, rows, 1.0), rows)
        after = replace(plan, phase=Phase.DONE if done else Phase.STEPS, weights=weights, steps=steps)
        return self._after(state, after, replace(model, loss=loss, converged=converged), step=np.append(step, value))

    def _covariance(self, hessian: Floats, rows: int, variance: float) -> Floats:
        """Return that of standardised coefficients; NaN under a penalty, or where it does not exist."""
        least, *_, most = np.linalg.eigvalsh(hessian).tolist()
        if self.setting.l2 > 0 or least <= _SINGULAR * most:
            return np.full(hessian.shape, math.nan)
        return np.asarray(np.linalg.inv(hessian * rows) * variance, np.float64)

    def _model(self, plan: Plan, weights: Floats, covariance: Floats, rows: int) -> Regression:
        """Return the model in the units of the table."""
        count = len(self.setting.columns)
        means, deviations = plan.means[:count], plan.deviations[:count]
        coefficients = weights[:count] / deviations
        intercept = float(weights[count] - coefficients @ means)
        # The intercept of the table's units is that of standardised columns less what their means contribute.
        turn = np.eye(count + 1)
        turn[:count, :count] = np.diag(1 / deviations)
        turn[count, :count] = -means / deviations
        errors = np.sqrt(np.maximum(np.diag(turn @ covariance @ turn.T), 0.0))
        return Regression(means, deviations, coefficients, intercept, errors, math.nan, rows, converged=False)


def _room(rows: int) -> int:
    return math.ceil(math.log2(_MARGIN * rows))


def _solved(matrix: Floats, vector: Floats) -> Floats:
    """Return the solution, of least norm if there are several."""
    return np.asarray(np.linalg.lstsq(matrix, vector, rcond=_SINGULAR)[0], np.float64)
