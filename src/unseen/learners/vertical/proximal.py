"""With an l1 penalty: accelerated proximal gradients in the metric of every party's own columns.

The minimiser of mean weighted loss + l1 ‖w‖₁ + ½ l2 ‖w‖² over the coefficients of all parties, the intercept free;
columns are taken as they are (standardise them first). Gradients of the smooth part come from the same oracles as in
``generalised``, which says what each party learns from them.

An iteration moves every party to the minimiser of g'Δ + (s/2)·Δ'G_pΔ + l1 ‖w + Δ‖₁, with g its own part of the gradient
and G_p = X_p'X_p·c/n + l2·I its own block of the quadratic model: a small problem in its own columns (coordinate
descent, Friedman, Hastie and Tibshirani, J. Stat. Softw. 33, 2010), which exchanges nothing. So correlations *within* a
party cost no iterations; those between parties and the loss's true curvature do. Steps are accelerated (Beck and
Teboulle, SIAM J. Imaging Sci. 2, 2009) and restarted where they turn back (O'Donoghue and Candès, Found. Comput. Math.
15, 2015). The scale s is raised, and the acceleration restarted, whenever a step shows it to be less than the loss's
curvature relative to the metric. Losses of rows are nobody's to see, so the test is on gradients, Δ'(g₊ − g) ≤ s·Δ'GΔ.
After the first 20 steps, when s no longer shrinks, that happens a few times at most, since s grows by at least 1.3 and
curvatures are bounded; from then on each step majorises the loss along the path, for which the method converges.

Per iteration everybody also learns the scale, the size of the common step, whether the acceleration is restarted and
whether to go on, in full precision; the active party four inner products of every passive one's steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, checkpoint, progress, resume
from unseen.errors import RemoteProtocolError
from unseen.learners.vertical import generalised, own_model
from unseen.learners.vertical.columns import Columns, prepare
from unseen.learners.vertical.generalised import Hello, Outset
from unseen.learners.vertical.glm_params import GlmParams
from unseen.learners.vertical.quadratic import settle
from unseen.learners.vertical.quasi_newton import Oracle, Outcome, limit
from unseen.learners.vertical.setting import Floats, LinearPart, Setting, finite

_GROWTH = 1.3
# The first steps may cross regions of large curvature, which should not slow down the later ones.
_SHRINK, _SHRINKING_STEPS = 0.85, 20
_LARGEST_SCALE = 2.0**60
_SWEEPS = 200
_SWEEP_TOLERANCE = 1e-9


@message("vertical_glm/proximal-state")
class State:
    """One party's block of the iterate, of the point where the next gradient is taken, and the common scalars."""

    iterate: Annotated[Floats, Shape(None)]
    point: Annotated[Floats, Shape(None)]
    gradient: Annotated[Floats, Shape(None)]
    scale: float
    momentum: float
    sizes: Annotated[Floats, Shape(None)]
    evaluations: int
    noise: float


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A party's own block of the quadratic model, and the l1 penalty of each of its coordinates."""

    block: Floats
    weights: Floats

    @classmethod
    def of(cls, columns: Columns, l1: float) -> Metric:
        """Return the metric of columns that are not rotated."""
        block = columns.penalty + columns.gram() * (columns.curvature / columns.rows)
        # A column of zeros keeps its coefficient 0.
        block[np.diag_indices_from(block)] = np.maximum(block.diagonal(), 1e-9)
        weights = np.zeros(columns.width)
        count = len(columns.basis)
        weights[:count] = l1 * np.abs(np.diag(columns.basis[:, :count]))
        return cls(block, weights)

    def proximal(self, point: Floats, gradient: Floats, scale: float) -> Floats:
        """Return argmin over x of gradient'(x − point) + scale/2·‖x − point‖²_block + Σ weights·|x|."""
        found = point.copy()
        slope = gradient.copy()
        block = scale * self.block
        sizes = block.diagonal()
        for _ in range(_SWEEPS):
            moved = 0.0
            for index in range(len(found)):
                target = found[index] - slope[index] / sizes[index]
                bound = self.weights[index] / sizes[index]
                change = math.copysign(max(abs(target) - bound, 0.0), target) - found[index]
                if change != 0:
                    found[index] += change
                    slope += change * block[:, index]
                    moved = max(moved, abs(change) * math.sqrt(sizes[index]))
            if moved <= _SWEEP_TOLERANCE:
                break
        return found


def train_active(
    features: Floats, target: Floats, params: GlmParams, setting: Setting, *, weights: Floats | None = None
) -> Dialogue[LinearPart]:
    """Return the active party's coefficients and intercept; ``generalised.train_active`` lists the errors."""
    truth, hello = yield from generalised.open_active(features, target, params, setting, weights=weights)
    columns = prepare(features, params.l2, hello.curvature, intercept=True, rotate=False)
    outset = Outset(params, hello, own_model.start(columns, truth), 1.0, truth)
    return (yield from _train(columns, outset, setting))


def train_passive(features: Floats, params: GlmParams, setting: Setting) -> Dialogue[LinearPart]:
    """Return a passive party's coefficients; ``generalised.train_passive`` lists the errors."""
    hello: Hello = yield from generalised.open_passive(features, params, setting)
    columns = prepare(features, params.l2, hello.curvature, intercept=False, rotate=False)
    return (yield from _train(columns, Outset(params, hello, np.zeros(columns.width), 1.0, None), setting))


def _train(columns: Columns, outset: Outset, setting: Setting) -> Dialogue[LinearPart]:
    _, oracle, gradient = yield from generalised.open_oracle(columns, outset, setting)
    metric = Metric.of(columns, outset.params.l1)
    state = yield from resume(State, setting.peers)
    if state is None:
        state = State(outset.point, outset.point, gradient, 1.0, 1.0, np.empty(0), 0, 0.0)
    most = outset.params.max_iterations
    yield from progress(len(state.sizes), most, "set up")
    while True:
        state, converged, limited = yield from _iterate(oracle, metric, setting, outset.params, state)
        done = len(state.sizes)
        yield from progress(done, most, f"step of size {state.sizes[-1]:.3g}")
        if converged or limited or done >= most:
            break
        yield from checkpoint(state)
    note = "" if converged else f"stopped after max_iterations = {most}"
    if limited:
        goal = outset.params.tolerance * float(state.sizes[0])
        note = limit(setting, columns.rows, float(state.sizes[-1]), goal)
    return generalised.part(columns, Outcome(state.iterate, state.sizes, len(state.sizes), converged, note))


def _iterate(
    oracle: Oracle, metric: Metric, setting: Setting, params: GlmParams, state: State
) -> Dialogue[tuple[State, bool, bool]]:
    """Return the state after one step, whether it was the last one needed, and whether precision allows no other."""
    iterate = finite(metric.proximal(state.point, state.gradient, state.scale), setting.others, "the next point")
    step, moved = iterate - state.point, iterate - state.iterate
    image = metric.block @ step
    shares = np.array([step @ image, image @ moved])
    first = float(state.sizes[0]) if len(state.sizes) else 0.0
    goal = params.tolerance * first

    def look(total: Floats) -> Floats:
        size = math.sqrt(max(float(total[0]), 0.0))
        converged = size <= goal and math.isfinite(state.noise)
        slow = not len(state.sizes) or size > float(state.sizes[-1]) / 2
        limited = not converged and (size <= goal or (slow and size <= state.noise / 2 < math.inf))
        return np.array([size, float(total[1] < 0), float(converged), float(limited)])

    size, restart, converged, limited = (yield from settle(setting, shares, 4, look)).tolist()
    sizes = np.append(state.sizes, size)
    if converged or limited:
        return replace(state, iterate=iterate, sizes=sizes), bool(converged), bool(limited)
    momentum = 1.0 if restart else (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
    point = iterate if restart else iterate + (state.momentum - 1) / momentum * moved
    gradient = yield from oracle.gradient(point, state.evaluations)
    change = point - state.point
    shares = np.array([change @ metric.block @ change, change @ (gradient - state.gradient)])

    def judge(total: Floats) -> Floats:
        ratio = float(total[1]) / max(float(total[0]), 1e-300)
        # Where steps are as small as the noise, so is what they tell about curvature.
        sound = ratio <= state.scale * (1 + 1e-3) or size <= 5 * state.noise < math.inf
        shrink = _SHRINK if len(sizes) <= _SHRINKING_STEPS and ratio < _SHRINK * state.scale else 1.0
        return np.array([shrink * state.scale if sound else max(_GROWTH * state.scale, 1.1 * ratio)])

    scale = float((yield from settle(setting, shares, 1, judge))[0])
    if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        raise RemoteProtocolError(f"{setting.others}: a scale of {scale:.3g} for the metric is not possible")
    momentum = momentum if scale <= state.scale else 1.0
    return State(iterate, point, gradient, scale, momentum, sizes, state.evaluations + 1, oracle.noise), False, False
