"""Mode ``exact``: the active party minimises the true loss over all directions it has been shown so far.

Each iteration the active party sends every passive one the residuals d = σ(z) − y through the linear map; the passive
party alone learns its gradient, removes from it the directions it has already shown, and answers with the partial
scores F q of the remaining, normalised direction q. The active party then fits a logistic regression on its own
columns and *all* score columns it holds (Newton's method with step halving; no exchange), and returns the coefficients
of the directions. That is a sequential subspace optimisation (Narkiss and Zibulevsky 2005) whose subspace is never
thrown away: the objective falls in every iteration, rounding errors touch directions only and never the objective, and
after as many iterations as a passive party has columns the result is the optimum itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, checkpoint, progress, receive, resume, send, send_array
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.vertical.factorisation import sigmoid
from unseen.learners.vertical.newton import Fit, Problem, minimise
from unseen.learners.vertical.products import Pair, Products, set_up
from unseen.learners.vertical.setting import Floats, LinearPart, LogisticParams, Setting, finite, receive_rows, told
from unseen.learners.vertical.whitening import Block


@message("vertical_logistic/steer")
class Steer:
    """Coefficients of the directions that the passive party has shown, oldest first, and whether they are final."""

    coefficients: Annotated[Floats, Shape(None)]
    done: bool
    converged: bool
    gradient_norms: Annotated[Floats, Shape(None)]
    note: str


@message("vertical_logistic/direction")
class Direction:
    """The passive party's gradient beyond what it has shown, and the penalty of its next direction with all of them.

    ``penalty`` is empty when nothing new is left; otherwise the direction's score column follows as an array.
    """

    gradient_norm: float
    penalty: Annotated[Floats, Shape(None)]


@message("vertical_logistic/shown-state")
class ShownState:
    """A passive party's directions, one a row."""

    directions: Annotated[Floats, Shape(None, None)]
    iterations: int


@message("vertical_logistic/fit-state")
class FitState:
    """The active party's fit: coefficients (own, intercept, then each passive party's), and how it came to them."""

    coefficients: Annotated[Floats, Shape(None)]
    shown: tuple[int, ...]
    objective: float
    gradient_norms: Annotated[Floats, Shape(None)]
    losses: Annotated[Floats, Shape(None)]


# --- the active party ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shown:
    """What one passive party has shown: score columns, and the penalty of their coefficients."""

    columns: list[Floats]
    penalty: Floats


@dataclass(frozen=True, slots=True)
class _ActiveRun:
    """What stays the same during a training, and the columns that have come in."""

    block: Block
    labels: Floats
    products: Products
    shown: dict[PartyId, _Shown]
    params: LogisticParams
    setting: Setting

    def problem(self) -> Problem:
        """Return the logistic regression on everything known here."""
        own = self.block.columns
        columns = [column for party in self.shown.values() for column in party.columns]
        design = np.column_stack([own, np.ones(len(own)), *columns])
        penalty = np.zeros((design.shape[1], design.shape[1]))
        start = own.shape[1]
        penalty[:start, :start] = self.block.penalty
        start += 1
        for party in self.shown.values():
            end = start + len(party.columns)
            penalty[start:end, start:end] = party.penalty
            start = end
        return Problem(design, self.labels, penalty)

    def split(self, coefficients: Floats) -> list[Floats]:
        """Return the coefficients of the own block, the intercept, and each passive party's directions."""
        sizes = [self.block.columns.shape[1], 1, *(len(party.columns) for party in self.shown.values())]
        return np.split(coefficients, np.cumsum(sizes)[:-1])


def train_active(
    block: Block, labels: Floats, widths: Mapping[PartyId, int], params: LogisticParams, setting: Setting
) -> Dialogue[LinearPart]:
    """Return the active party's part of the penalised maximum-likelihood fit."""
    products = yield from set_up(block, widths, [Pair(peer, setting.me) for peer in setting.peers], setting)
    shown = {peer: _Shown([], np.empty((0, 0))) for peer in setting.peers}
    run = _ActiveRun(block, labels, products, shown, params, setting)
    state = yield from resume(FitState, setting.peers)
    if state is None:
        state = _intercept_only(run)
    else:
        yield from _collect_again(run, state)
    yield from progress(len(state.losses), params.max_iterations, "set up")
    while True:
        state, verdict = yield from _iterate(run, state, widths)
        done = len(state.losses)
        note = f"loss {state.losses[-1]:.6f}, gradient norm {state.gradient_norms[-1]:.3g}"
        yield from progress(done, params.max_iterations, note)
        if verdict.done:
            break
        yield from checkpoint(state)
    own, intercept, *theirs = run.split(state.coefficients)
    for peer, coefficients in zip(shown, theirs, strict=True):
        final = Steer(coefficients, True, verdict.converged, state.gradient_norms, verdict.note)
        yield from send(peer, final)
    offset = float(intercept[0]) + block.offset(own)
    return LinearPart(
        block.weights(own), offset, done, verdict.converged, state.gradient_norms, state.losses, verdict.note
    )


def _intercept_only(run: _ActiveRun) -> FitState:
    rate = run.labels.mean()
    coefficients = np.zeros(run.block.columns.shape[1] + 1)
    coefficients[-1] = math.log(rate / (1 - rate))
    objective = run.problem().objective(coefficients)
    return FitState(coefficients, (0,) * len(run.shown), objective, np.empty(0), np.empty(0))


@dataclass(frozen=True, slots=True)
class _Verdict:
    done: bool
    converged: bool = False
    note: str = ""


def _iterate(run: _ActiveRun, state: FitState, widths: Mapping[PartyId, int]) -> Dialogue[tuple[FitState, _Verdict]]:
    problem = run.problem()
    own, _, *theirs = run.split(state.coefficients)
    errors = sigmoid(problem.design @ state.coefficients) - run.labels
    for peer, coefficients in zip(run.shown, theirs, strict=True):
        yield from send(peer, Steer(coefficients, False, False, state.gradient_norms, ""))
    yield from run.products.exchange(run.setting.me, errors, [run.setting.me])
    gradient = run.block.columns.T @ errors / len(errors) + run.block.penalty @ own
    square = float(gradient @ gradient)
    widened = [own, state.coefficients[len(own) : len(own) + 1]]
    for peer, coefficients in zip(run.shown, theirs, strict=True):
        norm, new = yield from _receive_direction(run, peer, widths[peer])
        square += norm * norm
        widened.append(np.append(coefficients, 0.0) if new else coefficients)
    norms = np.append(state.gradient_norms, math.sqrt(square))
    goal = run.params.tolerance * float(norms[0])
    problem = run.problem()
    fit = minimise(problem, np.concatenate(widened), goal / 100)
    shown = tuple(len(party.columns) for party in run.shown.values())
    after = FitState(fit.coefficients, shown, fit.objective, norms, np.append(state.losses, fit.loss))
    return after, _judge(run, state, after, problem, fit)


def _judge(run: _ActiveRun, before: FitState, after: FitState, problem: Problem, fit: Fit) -> _Verdict:
    """Decide whether to go on, after a fit whose gradient vanishes in all directions shown."""
    goal = run.params.tolerance * float(after.gradient_norms[0])
    if run.params.l2 == 0 and problem.separates(fit.coefficients):
        return _Verdict(True, False, "the classes are linearly separable: coefficients grow without end; set l2 > 0")
    # The Hessian is at most about 1 here, so a gradient of norm g promises a decrease of at least g²/2: less than that
    # of the goal means that what was received is rounding error.
    settled = (
        after.shown == before.shown
        or after.gradient_norms[-1] <= goal
        or before.objective - after.objective <= goal * goal / 2
    )
    if settled and fit.converged:
        return _Verdict(True, True)
    if len(after.losses) >= run.params.max_iterations:
        return _Verdict(True, False, f"stopped after max_iterations = {run.params.max_iterations}")
    return _Verdict(False)


def _receive_direction(run: _ActiveRun, peer: PartyId, width: int) -> Dialogue[tuple[float, bool]]:
    """Take in a passive party's answer; return its gradient norm and whether it showed a new direction."""
    answer = yield from receive(peer, Direction)
    norm = finite(answer.gradient_norm, peer, "the gradient norm")
    if norm < 0:
        raise RemoteProtocolError(f"{peer}: a gradient norm is {norm}")
    row = finite(answer.penalty, peer, "the penalty")
    if not len(row):
        return norm, False
    if row[-1] < 0:
        raise RemoteProtocolError(f"{peer}: a direction has the penalty {row[-1]}, and none is negative")
    party = run.shown[peer]
    count = len(party.columns) + 1
    if len(row) != count or count > width:
        raise RemoteProtocolError(f"{peer}: direction {count} of at most {width} came with {len(row)} penalties")
    penalty = np.zeros((count, count))
    penalty[:-1, :-1] = party.penalty
    penalty[-1], penalty[:, -1] = row, row
    column = yield from _receive_column(run, peer)
    party.columns.append(column)
    party.penalty = penalty
    return norm, True


def _receive_column(run: _ActiveRun, peer: PartyId) -> Dialogue[Floats]:
    column = yield from receive_rows(peer, np.float64, len(run.labels), "a score column has")
    return finite(column, peer, "a score column")


def _collect_again(run: _ActiveRun, state: FitState) -> Dialogue[None]:
    """Receive once more the directions that were shown before the checkpoint: they are not kept on disk here."""
    for peer, count in zip(run.shown, state.shown, strict=True):
        for _ in range(count):
            yield from _receive_direction(run, peer, count)
        if len(run.shown[peer].columns) != count:
            raise RemoteProtocolError(f"{peer}: shows {len(run.shown[peer].columns)} directions again, not {count}")


# --- a passive party -----------------------------------------------------------------------------------------------


def train_passive(
    block: Block, widths: Mapping[PartyId, int], params: LogisticParams, setting: Setting
) -> Dialogue[LinearPart]:
    """Return a passive party's part of the penalised maximum-likelihood fit."""
    pairs = [Pair(party, setting.active) for party in setting.parties[1:]]
    products = yield from set_up(block, widths, pairs, setting)
    state = yield from resume(ShownState, setting.peers)
    state = state or ShownState(np.empty((0, block.columns.shape[1])), 0)
    directions, done = state.directions, state.iterations
    for count in range(len(directions)):
        yield from _show(block, directions[: count + 1], 0.0, setting.active)
    yield from progress(done, params.max_iterations, "set up")
    while True:
        steer = yield from receive(setting.active, Steer)
        point = directions.T @ _checked(steer, len(directions), setting.active)
        if steer.done:
            break
        if done == params.max_iterations:
            raise RemoteProtocolError(f"{setting.active}: asks for more than the agreed {done} iterations")
        done += 1
        received = yield from products.exchange(setting.me, None, [setting.active])
        gradient = received[setting.active] / len(block.columns) + block.penalty @ point
        norm, directions = yield from _answer(block, gradient, directions, setting.active)
        yield from progress(done, params.max_iterations, f"own gradient norm {norm:.3g}")
        yield from checkpoint(ShownState(directions, done))
    iterations = len(steer.gradient_norms)
    return LinearPart(
        block.weights(point),
        block.offset(point),
        iterations,
        steer.converged,
        steer.gradient_norms,
        np.empty(0),
        told(steer.note),
    )


def _answer(block: Block, gradient: Floats, directions: Floats, active: PartyId) -> Dialogue[tuple[float, Floats]]:
    """Show the active party what the gradient holds beyond earlier directions; return its norm and all directions."""
    rest = gradient
    for _ in range(2):  # twice is enough for orthogonality to the last bit (Giraud et al. 2005)
        rest = rest - directions.T @ (directions @ rest)
    norm = float(np.linalg.norm(rest))
    if len(directions) == len(rest) or norm <= 1e-14 * float(np.linalg.norm(gradient)) or norm == 0:
        yield from send(active, Direction(norm, np.empty(0)))
        return norm, directions
    directions = np.vstack([directions, rest / norm])
    yield from _show(block, directions, norm, active)
    return norm, directions


def _show(block: Block, directions: Floats, norm: float, active: PartyId) -> Dialogue[None]:
    yield from send(active, Direction(norm, directions @ (block.penalty @ directions[-1])))
    yield from send_array(active, block.columns @ directions[-1])


def _checked(steer: Steer, count: int, active: PartyId) -> Floats:
    if len(steer.coefficients) != count:
        raise RemoteProtocolError(f"{active}: expected {count} coefficients, found {len(steer.coefficients)}")
    finite(steer.gradient_norms, active, "the gradient norms")
    return finite(steer.coefficients, active, "the coefficients")
