"""Quasi-Newton steps on gradients of which every party knows its own part; losses of rows are nobody's to see.

The inverse Hessian is approximated by BFGS updates (Nocedal and Wright, Numerical Optimization, 2nd ed., section 7.2)
of τ·Q⁻¹, with Q the quadratic model (``quadratic``; solved through the linear map, no accurate gradient needed) and τ
the ratio of its curvature to that at the start. Q differs from the Hessian only in how the curvature varies over rows,
so that few updates suffice. All inner products are settled at the active party (as in Chen, Wang and Zhou, NIPS 2014).

Line search: a step is taken if the directional derivative at its end is at most 0.8 of that at its beginning in
magnitude, which are the approximate Wolfe conditions (Hager and Zhang, SIAM J. Optim. 16, 2005); otherwise its length
is found by bracketing and the secant rule. Losses are convex, so that the derivative along the line is monotone, such
a length exists unless the loss has no minimum, and s·y > 0 keeps the approximation positive definite. A first trial
changes scores by at most 2 in the root mean square, as far as the quadratic model tells. A training that does not
converge ends with the iterate whose gradient was the least.

*What passive parties are told*, all that they have not computed themselves: per iteration the coefficients of the
first loop, the norm of the gradient and three flags on whether to go on; the weights of the second loop, τ and the
first length; per trial whether it ends the search, whether it tells a curvature, the next length, the norm, and
whether the gradient has to be computed again. τ is rounded to a power of 2^¼: it is a mean over all labels that a
guess of them could be checked by. The others are products and quotients of inner products of gradients and steps
in full precision, of which a passive party's own parts are one summand. They, too, depend on all labels, and so does
every gradient of its own: guesses of all labels at once can be checked, those of some cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import numpy as np

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, checkpoint, resume
from unseen.errors import RemoteProtocolError
from unseen.learners.vertical.private import Anchor
from unseen.learners.vertical.quadratic import Directions, Quadratic, settle
from unseen.learners.vertical.setting import Floats, Setting

_SLACK = 0.8
_LARGEST_CHANGE = 2.0
_SOLVE_TOLERANCE = 0.02
_MAX_TRIALS = 10
# A gradient so many times larger than the last one is computed anew, without what only small ones allow.
_BELIEVED = 8.0


class Oracle(Protocol):
    """Gradients of the penalised mean loss."""

    @property
    def noise(self) -> float:
        """Norm of what rounding may add to the whole gradient, known to the active party; infinite: more is wrong."""
        ...

    def gradient(self, point: Floats, index: int, anchor: Anchor | None = None) -> Dialogue[Floats]:
        """Return this party's part of the gradient at the point of which it knows its own part.

        ``index`` counts evaluations: a resumed training asks for the same ones by the same numbers. A gradient that
        changes by more than 2^6 times the norm of the ``anchor`` may come out wrong.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """When to stop."""

    tolerance: float
    max_iterations: int


@message("vertical_glm/state", version=2)
class State:
    """One party's blocks of point, gradient and steps (one a row) with the gradients' changes; scalars of all."""

    point: Annotated[Floats, Shape(None)]
    gradient: Annotated[Floats, Shape(None)]
    steps: Annotated[Floats, Shape(None, None)]
    changes: Annotated[Floats, Shape(None, None)]
    products: Annotated[Floats, Shape(None, None)]
    """Inner products of steps (first axis) and changes, at the active party."""
    directions: Directions
    norms: Annotated[Floats, Shape(None)]
    evaluations: int
    noise: float
    """That of the gradient, at the active party."""
    best: Annotated[Floats, Shape(None)]
    """The point of the least norm so far."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the iterations ended."""

    point: Floats
    norms: Floats
    iterations: int
    converged: bool
    note: str


@dataclass(frozen=True, slots=True)
class Engine:
    """What stays the same during a training."""

    oracle: Oracle
    quadratic: Quadratic
    setting: Setting
    rule: Rule
    curvature: float
    ratio: float
    """τ, at the active party."""


def begin(point: Floats, gradient: Floats) -> State:
    """Return the state before the first iteration."""
    width = len(point)
    none = np.empty((0, width))
    return State(point, gradient, none, none, np.empty((0, 0)), Directions.none(width), np.empty(0), 0, 0.0, point)


def minimise(engine: Engine, start: State) -> Dialogue[Outcome]:
    """Return the minimiser, from ``start`` or the newest checkpoint that all parties hold."""
    state = yield from resume(State, engine.setting.peers)
    state = state or start
    engine.quadratic.known = state.directions
    course = engine.quadratic.course
    course.done = state.evaluations + len(state.directions.vectors)
    yield from course.tell("set up")
    while True:
        halves, verdict = yield from _open(engine, state)
        best = state.point if verdict.norm <= state.norms.min(initial=math.inf) else state.best
        state = replace(state, norms=np.append(state.norms, verdict.norm), best=best)
        if verdict.done:
            break
        done = len(state.norms)
        if done > engine.rule.max_iterations:
            raise RemoteProtocolError(f"{engine.setting.active}: asks for more than the agreed {done - 1} iterations")
        state, stalled = yield from _iterate(engine, state, halves)
        if stalled:
            return _ended(state, done, _limit(engine, state.norms))
        yield from checkpoint(state)
    if verdict.converged:
        return Outcome(state.point, state.norms, len(state.norms) - 1, True, "")
    return _ended(state, len(state.norms) - 1, verdict.note)


def _ended(state: State, iterations: int, note: str) -> Outcome:
    """Return the best point of a training that did not converge."""
    least = int(state.norms.argmin())
    if state.norms[least] < state.norms[-1]:
        note += f"; kept the coefficients of iteration {least}"
    return Outcome(state.best, state.norms, iterations, False, note)


def limit(setting: Setting, rows: int, reached: float, goal: float) -> str:
    """Return what to say where precision ends a training at a gradient's norm ``reached`` instead of ``goal``."""
    advice = "raise l2, drop collinear columns, or (binomial) choose mode exact"
    if reached <= goal:
        return f"scores of many rows are more than 8 from the middle of their range and were clipped: {advice}"
    scheme = "" if setting.scheme is None else f" of scheme {setting.scheme.name}"
    return f"the precision{scheme} with {rows} rows ends at gradient norm {reached:.2g}, wanted {goal:.2g}: {advice}"


def _limit(engine: Engine, norms: Floats) -> str:
    goal = engine.rule.tolerance * float(norms[0])
    return limit(engine.setting, engine.quadratic.rows, float(norms.min()), goal)


@dataclass(frozen=True, slots=True)
class _Verdict:
    norm: float
    done: bool
    converged: bool
    note: str


def _open(engine: Engine, state: State) -> Dialogue[tuple[Floats, _Verdict]]:
    """Return the coefficients of the first loop of the two-loop recursion, and whether to go on."""
    count = len(state.steps)
    shares = np.append(state.steps @ state.gradient, state.gradient @ state.gradient)

    def decide(total: Floats) -> Floats:
        alphas = np.zeros(count)
        for index in reversed(range(count)):
            inner = total[index] - alphas[index + 1 :] @ state.products[index, index + 1 :]
            alphas[index] = inner / state.products[index, index]
        norm = math.sqrt(max(float(total[-1]), 0.0))
        first = float(state.norms[0]) if len(state.norms) else norm
        reached = norm <= engine.rule.tolerance * first or norm == 0
        converged = reached and math.isfinite(state.noise)
        # Steps at the level of the noise still help if the last one did: its gradient was that much less precise.
        slow = not len(state.norms) or norm > float(state.norms[-1]) / 2
        limited = not converged and (reached or (slow and norm <= state.noise < math.inf))
        spent = count >= engine.rule.max_iterations
        return np.array([*alphas, norm, float(converged or limited or spent), float(converged), float(limited)])

    decision = yield from settle(engine.setting, shares, count + 4, decide)
    norm, (done, converged, limited) = float(decision[count]), (bool(flag) for flag in decision[count + 1 :])
    note = "" if converged or not done else f"stopped after max_iterations = {engine.rule.max_iterations}"
    if limited:
        note = _limit(engine, np.append(state.norms, norm))
    return decision[:count], _Verdict(norm, done, converged, note)


def _iterate(engine: Engine, state: State, halves: Floats) -> Dialogue[tuple[State, bool]]:
    """Return the state after one step, and whether there was none to take."""
    solved = yield from engine.quadratic.solve(state.gradient - halves @ state.changes, _SOLVE_TOLERANCE)
    direction, length, search = yield from _direction(engine, state, halves, solved)
    evaluations = state.evaluations
    anchor = Anchor(state.point, state.gradient, float(state.norms[-1]))
    while length > 0:
        step = length * direction
        gradient = yield from engine.oracle.gradient(state.point + step, evaluations, anchor)
        evaluations += 1
        change = gradient - state.gradient
        squares = [gradient @ gradient, direction @ gradient]
        shares = np.concatenate([squares, state.steps @ change, state.changes @ step, [step @ change]])

        def decide(total: Floats, tried: float = length, anchor: Anchor = anchor) -> Floats:
            norm = math.sqrt(max(float(total[0]), 0.0))
            if norm > _BELIEVED * anchor.norm:
                return np.array([0.0, 0.0, tried, norm, 1.0])
            return np.array([*search.judge(total[1:], tried), norm, 0.0])

        decision = yield from settle(engine.setting, shares, 5, decide)
        taken, usable, length, norm, again = decision.tolist()
        yield from engine.quadratic.course.step(f"gradient norm {norm:.3g}")
        if again:
            anchor = replace(anchor, norm=math.inf)
        if taken and usable:
            return _moved(engine, state, step, gradient, search.products(state), evaluations), False
        if taken:
            break
    return replace(state, directions=engine.quadratic.known, evaluations=evaluations), True


def _direction(
    engine: Engine, state: State, halves: Floats, solved: Floats
) -> Dialogue[tuple[Floats, float, _LineSearch]]:
    """Return the direction by the second loop of the recursion, the first length to try, and the line search."""
    count = len(state.steps)
    search = _LineSearch()
    shares = np.concatenate([state.changes @ solved, state.steps @ state.gradient, [solved @ state.gradient]])

    def decide(total: Floats) -> Floats:
        against, along, scaled = engine.ratio * total[:count], total[count:-1], engine.ratio * float(total[-1])
        weights = np.zeros(count)
        for index in range(count):
            inner = against[index] + weights[:index] @ state.products[:index, index]
            weights[index] = halves[index] - inner / state.products[index, index]
        search.slope = search.at_low = -(scaled + float(weights @ along))
        # A Newton step changes scores by √(−slope/curvature) in the root mean square.
        change = math.sqrt(max(-search.slope, 0.0) / engine.curvature)
        length = min(1.0, _LARGEST_CHANGE / change) if change > 0 else 0.0
        return np.array([*weights, engine.ratio, length])

    decision = yield from settle(engine.setting, shares, count + 2, decide)
    return -(decision[-2] * solved + decision[:count] @ state.steps), float(decision[-1]), search


@dataclass(slots=True)
class _LineSearch:
    """The bracket of a line search, at the active party."""

    slope: float = 0.0
    low: float = 0.0
    high: float = math.inf
    at_low: float = 0.0
    at_high: float = math.inf
    trials: int = 0
    total: Floats | None = None

    def judge(self, total: Floats, tried: float) -> Floats:
        """Return whether to take the step, whether it tells anything, and the length to try next."""
        self.trials += 1
        self.total = total
        end, curvature = float(total[0]), float(total[-1])
        taken = abs(end) <= _SLACK * abs(self.slope) or self.trials == _MAX_TRIALS
        if end > 0:
            self.high, self.at_high = tried, end
        else:
            self.low, self.at_low = tried, end
        return np.array([float(taken), float(curvature > 0), self._next(tried)])

    def _next(self, tried: float) -> float:
        if math.isinf(self.high):
            return 3 * tried
        # The secant rule, kept away from the ends of the bracket.
        share = self.at_low / (self.at_low - self.at_high) if self.at_high > self.at_low else 0.5
        return self.low + min(max(share, 0.1), 0.9) * (self.high - self.low)

    def products(self, state: State) -> Floats:
        """Return the inner products of all steps and changes with the new ones; none at a passive party."""
        count = len(state.steps)
        if self.total is None:
            return np.empty((0, 0))
        out = np.zeros((count + 1, count + 1))
        out[:-1, :-1] = state.products
        out[:-1, -1], out[-1, :-1] = self.total[1 : count + 1], self.total[count + 1 : -1]
        out[-1, -1] = self.total[-1]
        return out


def _moved(engine: Engine, state: State, step: Floats, gradient: Floats, products: Floats, evaluations: int) -> State:
    return State(
        state.point + step,
        gradient,
        np.vstack([state.steps, step]),
        np.vstack([state.changes, gradient - state.gradient]),
        products,
        engine.quadratic.known,
        state.norms,
        evaluations,
        engine.oracle.noise,
        state.best,
    )
