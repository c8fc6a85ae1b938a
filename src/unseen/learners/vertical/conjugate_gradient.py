"""Mode ``linearised``: conjugate gradients on the quadratic bound of the log loss; no row's score leaves its party.

The log loss is expanded around z₀, the scores of the active party's own model, which it fits by itself: residuals are
d ≈ σ(z₀) − y + (z − z₀)/4, with Böhning's curvature ¼. That is a quadratic whose Hessian, in whitened coordinates, has
identity blocks on its diagonal and the parties' cross-correlations beside them. Conjugate gradients (Hestenes and
Stiefel 1952) need, per iteration, the Hessian's product with one direction p: every party finds its own block from its
own columns and F'(F_q p_q) / 4n for every peer q through the linear map. All else are five inner products a party,
which the active party sums; they suffice to know the step, the new gradient's norm and the next direction without
another exchange.

The curvature ¼ is more than the true one, so that the minimiser Δ of the quadratic falls short by a factor t. The
active party finds it as in scaled least squares (Erdogdu, Dicker and Bayati, NIPS 2016): t is such that the mean
curvature at the end, E[σ'(z₀ + tζ)] with ζ normal of variance ‖z(Δ)‖²/n, is 1/(4t). The variance is four times the
energy Δ'HΔ, which conjugate gradients yield without further messages. Everybody multiplies by t.

The columns are those in fixed point, rounded once: the Hessian is symmetric, and the solution is that of data
rounded in the tenth bit or so (independently, so that the effect averages out over the rows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from unseen.codec import Shape, message
from unseen.data.fixed_point import from_fixed
from unseen.dialogue import Dialogue, checkpoint, progress, receive, resume, send, send_all
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.vertical.factorisation import sigmoid
from unseen.learners.vertical.newton import Problem, minimise
from unseen.learners.vertical.products import Pair, Products, set_up
from unseen.learners.vertical.setting import Floats, LinearPart, LogisticParams, Setting, finite, told
from unseen.learners.vertical.whitening import Block

LARGEST_SCALE = 8.0
"""The factor t is capped here: beyond, the classes are separated and no finite model is the best."""

_OWN_GRADIENT = 1e-9
_NODES = 15
_BISECTIONS = 40


@message("vertical_logistic/inner-products")
class InnerProducts:
    """A party's shares of g·g, −p·g, p·Hp, g·Hp and Hp·Hp (gradient g, direction p, Hessian H)."""

    values: Annotated[Floats, Shape(5)]


@message("vertical_logistic/conjugate-step")
class Step:
    """The active party's decision: how far along p, how much of p to keep, and whether to stop afterwards."""

    length: float
    keep: float
    gradient_norm: float
    next_norm: float
    done: bool
    converged: bool
    note: str


@message("vertical_logistic/scale")
class Scale:
    """The active party's factor t for the point that was found."""

    factor: float


@message("vertical_logistic/conjugate-state")
class State:
    """One party's blocks of point, gradient and direction after an iteration; the energy x'Hx at the active party."""

    point: Annotated[Floats, Shape(None)]
    gradient: Annotated[Floats, Shape(None)]
    direction: Annotated[Floats, Shape(None)]
    norms: Annotated[Floats, Shape(None)]
    energy: float


@dataclass(frozen=True, slots=True, eq=False)
class _Own:
    """The active party's own model, around which the log loss is expanded: its point, intercept and scores."""

    point: Floats
    intercept: float
    scores: Floats
    errors: Floats
    """σ(scores) − labels."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same during a training."""

    block: Block
    products: Products
    params: LogisticParams
    setting: Setting

    @property
    def rows(self) -> int:
        return len(self.block.columns)


def train(
    block: Block, labels: Floats | None, widths: Mapping[PartyId, int], params: LogisticParams, setting: Setting
) -> Dialogue[LinearPart]:
    """Return this party's part of the scaled minimiser of the quadratic bound; the active party alone has labels."""
    pairs = [Pair(holder, other) for holder in setting.parties for other in setting.parties if holder != other]
    products = yield from set_up(block, widths, pairs, setting)
    run = _Run(_rounded(block, products, setting.me), products, params, setting)
    own = _own_model(run, labels) if labels is not None else None
    if own is not None and not setting.peers:
        weights = block.weights(own.point)
        return LinearPart(weights, own.intercept + block.offset(own.point), 0, True, np.empty(0), np.empty(0))
    state = yield from resume(State, setting.peers)
    if state is None:
        state = yield from _start(run, own)
    yield from progress(len(state.norms), params.max_iterations, "set up")
    while True:
        state, step = yield from _iterate(run, state)
        done = len(state.norms)
        yield from progress(done, params.max_iterations, f"gradient norm {step.next_norm:.3g}")
        if step.done:
            break
        if done == params.max_iterations:
            raise RemoteProtocolError(f"{setting.active}: asks for more than the agreed {done} iterations")
        yield from checkpoint(state)
    factor = yield from _agree_on_scale(run, own, state.energy)
    point = factor * state.point + (0.0 if own is None else own.point)
    intercept = block.offset(point) + (0.0 if own is None else own.intercept)
    return LinearPart(block.weights(point), intercept, done, step.converged, state.norms, np.empty(0), told(step.note))


def _own_model(run: _Run, labels: Floats) -> _Own:
    """Return the model of the active party's own columns, an intercept among them."""
    design = np.column_stack([run.block.columns, np.ones(run.rows)])
    width = design.shape[1]
    penalty = np.zeros((width, width))
    penalty[:-1, :-1] = run.block.penalty
    rate = float(labels.mean())
    start = np.zeros(width)
    start[-1] = math.log(rate / (1 - rate))
    fit = minimise(Problem(design, labels, penalty), start, _OWN_GRADIENT).coefficients
    scores: Floats = design @ fit
    return _Own(fit[:-1], float(fit[-1]), scores, sigmoid(scores) - labels)


def _rounded(block: Block, products: Products, me: PartyId) -> Block:
    """Return the block with the columns that peers see in products, so that all parties solve the same problem."""
    if me not in products.precisions:
        return block
    precision = products.precisions[me]
    return replace(block, columns=from_fixed(precision.matrix(block), precision.matrix_bits))


def _start(run: _Run, own: _Own | None) -> Dialogue[State]:
    active = run.setting.active
    received = yield from run.products.exchange(run.setting.me, None if own is None else own.errors, [active])
    if own is None:
        gradient = received[active] / run.rows
    else:
        gradient = run.block.columns.T @ own.errors / run.rows + run.block.penalty @ own.point
    return State(np.zeros(len(gradient)), gradient, -gradient, np.empty(0), 0.0)


def _iterate(run: _Run, state: State) -> Dialogue[tuple[State, Step]]:
    image = yield from _hessian_product(run, state.direction)
    gradient, direction = state.gradient, state.direction
    pairs = [(gradient, gradient), (-direction, gradient), (direction, image), (gradient, image), (image, image)]
    share = np.array([float(left @ right) for left, right in pairs])
    first = float(state.norms[0]) if len(state.norms) else None
    step, energy = yield from _agree_on_step(run, share, first, len(state.norms) + 1)
    gradient = gradient + step.length * image
    moved = State(
        state.point + step.length * direction,
        gradient,
        step.keep * direction - gradient,
        np.append(state.norms, step.gradient_norm),
        state.energy + energy,
    )
    return moved, step


def _hessian_product(run: _Run, direction: Floats) -> Dialogue[Floats]:
    """Return this party's block of H p, where every party knows its own block of p."""
    columns, penalty = run.block.columns, run.block.penalty
    scores = columns @ direction / 4
    received = yield from run.products.exchange(run.setting.me, scores, run.setting.parties)
    total = columns.T @ scores
    for peer in sorted(received):
        total = total + received[peer]
    return total / run.rows + penalty @ direction


def _agree_on_step(run: _Run, share: Floats, first: float | None, iteration: int) -> Dialogue[tuple[Step, float]]:
    """Return the step and, at the active party, by how much it raises the energy x'Hx of the point."""
    setting = run.setting
    if not setting.is_active:
        yield from send(setting.active, InnerProducts(share))
        return _checked((yield from receive(setting.active, Step)), setting.active), 0.0
    total = share
    for peer in setting.peers:
        answer = yield from receive(peer, InnerProducts)
        total = total + finite(answer.values, peer, "the inner products")
    step = _decide(total, first, iteration, run.params)
    yield from send_all(setting.peers, step)
    # Directions are conjugate, so that every step adds length² · p'Hp = length · (−p'g).
    return step, step.length * float(total[1])


def _agree_on_scale(run: _Run, own: _Own | None, energy: float) -> Dialogue[float]:
    """Return the factor t by which all parties multiply the point."""
    setting = run.setting
    if own is not None:
        factor = scale_factor(own.scores, 4 * energy)
        yield from send_all(setting.peers, Scale(factor))
        return factor
    factor = finite((yield from receive(setting.active, Scale)).factor, setting.active, "the scale")
    if not 1 <= factor <= LARGEST_SCALE:
        raise RemoteProtocolError(f"{setting.active}: a scale of {factor:g} is not between 1 and {LARGEST_SCALE:g}")
    return factor


def scale_factor(scores: Floats, variance: float) -> float:
    """Return the t ≥ 1 with 4t · mean E[σ'(score + tζ)] = 1, ζ normal of this variance; at most ``LARGEST_SCALE``.

    The curvature never exceeds ¼, so that 1 is a lower bound; where the classes are all but separated there is no such
    t, and the cap holds.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    nodes, weights = nodes * math.sqrt(max(variance, 0.0)), weights / weights.sum()

    def excess(factor: float) -> float:
        chances = [sigmoid(scores + factor * node) for node in nodes]
        curvatures = [float(np.mean(chance * (1 - chance))) for chance in chances]
        return 4 * factor * float(weights @ curvatures) - 1

    low, high = 1.0, 1.0
    while excess(high) < 0:
        low, high = high, 1.25 * high
        if high >= LARGEST_SCALE:
            return LARGEST_SCALE
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def _decide(total: Floats, first: float | None, iteration: int, params: LogisticParams) -> Step:
    """Return the exact line search along p and the Fletcher–Reeves direction after it."""
    square, descent, curvature, cross, image = total.tolist()
    norm = math.sqrt(max(square, 0.0))
    if norm == 0:
        return Step(0.0, 0.0, norm, norm, True, True, "")
    if not (curvature > 0 and descent > 0):
        note = "rounding errors outweigh what is left of the gradient: raise tolerance or l2"
        return Step(0.0, 0.0, norm, norm, True, False, note)
    length = descent / curvature
    after = max(square + 2 * length * cross + length * length * image, 0.0)
    converged = math.sqrt(after) <= params.tolerance * (first or norm)
    spent = iteration >= params.max_iterations
    note = f"stopped after max_iterations = {params.max_iterations}" if spent and not converged else ""
    return Step(length, after / square, norm, math.sqrt(after), converged or spent, converged, note)


def _checked(step: Step, peer: PartyId) -> Step:
    for name in ("length", "keep", "gradient_norm", "next_norm"):
        finite(getattr(step, name), peer, f"the step's {name}")
    if min(step.keep, step.length, step.gradient_norm, step.next_norm) < 0:
        raise RemoteProtocolError(f"{peer}: a step of length {step.length} keeping {step.keep} is not possible")
    return step
