"""Softmax (multinomial logistic) regression for k classes over several parties' columns; mode ``exact`` only.

The minimiser of mean cross-entropy + ½ l2 Σ_k ‖w_k‖² over all parties' coefficients, the intercepts free:
scikit-learn's multinomial objective for C = 1/(rows·l2). The way is that of ``subspace_newton``: per iteration the
active party sends the residuals of k − 1 classes through the linear map (those of all classes add up to 0); every
passive party alone learns its k gradients, and shows the scores of the directions in them that it has not shown
before, at most k − 1; the active party fits all classes on its own columns and everything shown (Newton's method,
steps by conjugate gradients).

*What each party learns*: as in mode ``exact`` of ``logistic``, for k classes. **The active party sees numbers per
row**, up to k − 1 in every iteration; after all directions, the space that a passive party's columns span. Do not use
it where partial scores are secret. A passive party learns its own gradients, the coefficients of its own directions
and norms. Any number of passive parties. A resumed training sends the columns shown before once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, checkpoint, progress, receive, receive_all, resume, send, send_all, send_array
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import logistic
from unseen.learners.vertical.multinomial import Problem, minimise, probabilities
from unseen.learners.vertical.products import Pair, Products, set_up
from unseen.learners.vertical.setting import (
    LARGEST_WIDTH,
    Floats,
    LinearPart,
    Setting,
    check_role,
    compare,
    finite,
    receive_rows,
    told,
)
from unseen.learners.vertical.whitening import Block, whiten

# Directions of a gradient that are smaller than this share of the largest one are left for later.
_WORTH_SHOWING = 0.05
_NOTHING = 1e-13
_MOST_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class SoftmaxParams:
    """What all parties of a softmax regression must agree on; classes are numbered from 0."""

    classes: int
    l2: float = 1e-3
    max_iterations: int = 50
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= _MOST_CLASSES:
            raise UsageError(f"softmax regression has 2 to {_MOST_CLASSES} classes, found {self.classes}")
        if not (math.isfinite(self.l2) and self.l2 > 0):
            raise UsageError(f"l2 must be finite and above 0, or there is no single best model; found {self.l2}")
        if self.max_iterations < 1:
            raise UsageError(f"max_iterations must be at least 1, found {self.max_iterations}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance lies between 0 and 1, found {self.tolerance}")


@message("vertical_softmax/part")
class SoftmaxPart:
    """One party's share of a trained model; a row's score for class k is the sum over the parties of theirs."""

    coef_: Annotated[Floats, Shape(None, None)]
    """Classes × columns."""
    intercept_: Annotated[Floats, Shape(None)]
    n_iterations: int
    converged: bool
    gradient_norms: Annotated[Floats, Shape(None)]
    losses: Annotated[Floats, Shape(None)]
    note: str = ""

    def of_class(self, index: int) -> LinearPart:
        """Return the part that scores one class."""
        none = np.empty(0)
        return LinearPart(self.coef_[index], float(self.intercept_[index]), 0, self.converged, none, none)


@message("vertical_softmax/hello")
class Hello:
    """What every party tells every other one before anything else."""

    active: str
    rows: int
    columns: int
    classes: int
    l2: float
    max_iterations: int
    tolerance: float


@message("vertical_softmax/steer")
class Steer:
    """Coefficients (classes, directions) of what the passive party has shown, and whether they are final."""

    coefficients: Annotated[Floats, Shape(None, None)]
    done: bool
    converged: bool
    gradient_norms: Annotated[Floats, Shape(None)]
    note: str


@message("vertical_softmax/directions")
class Directions:
    """The norm of a passive party's gradients, and the penalties of its new directions with all; columns follow."""

    gradient_norm: float
    penalties: Annotated[Floats, Shape(None, None)]


@message("vertical_softmax/shown-state")
class ShownState:
    """A passive party's directions, one a row."""

    directions: Annotated[Floats, Shape(None, None)]
    iterations: int


@message("vertical_softmax/fit-state")
class FitState:
    """The active party's fit: coefficients (classes, columns), how many directions each peer has shown, its history."""

    coefficients: Annotated[Floats, Shape(None, None)]
    shown: tuple[int, ...]
    objective: float
    gradient_norms: Annotated[Floats, Shape(None)]
    losses: Annotated[Floats, Shape(None)]


def agree(rows: int, columns: int, params: SoftmaxParams, setting: Setting) -> Dialogue[dict[PartyId, int]]:
    """Return the number of whitened columns of every party; make sure that all talk about the same training.

    Raises:
        RemoteProtocolError: A peer states other rows, parameters or another active party.
        UsageError: There are peers, but no scheme.
    """
    if setting.peers and setting.scheme is None:
        raise UsageError("training with other parties needs a linear map scheme: lattice or paillier")
    same = (params.classes, params.l2, params.max_iterations, params.tolerance)
    hello = Hello(setting.active, rows, columns, *same)
    yield from send_all(setting.peers, hello)
    widths = {setting.me: columns}
    for peer, answer in (yield from receive_all(setting.peers, Hello)).items():
        for name in ("active", "rows", "classes", "l2", "max_iterations", "tolerance"):
            compare(peer, name, getattr(hello, name), getattr(answer, name))
        if not (0 if peer == setting.active else 1) <= answer.columns <= LARGEST_WIDTH:
            raise RemoteProtocolError(f"{peer}: announces {answer.columns} columns")
        widths[peer] = answer.columns
    return widths


# --- the active party ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shown:
    """What one passive party has shown: score columns, and the penalty of their coefficients."""

    columns: list[Floats] = field(default_factory=list)
    penalty: Floats = field(default_factory=lambda: np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same during a training, and the columns that have come in."""

    block: Block
    truth: Floats
    """One-hot targets, rows × classes."""
    products: Products
    shown: dict[PartyId, _Shown]
    params: SoftmaxParams
    setting: Setting

    def problem(self) -> Problem:
        """Return the regression on everything known here."""
        columns = [column for party in self.shown.values() for column in party.columns]
        design = np.column_stack([self.block.columns, np.ones(len(self.truth)), *columns])
        penalty = np.zeros((design.shape[1], design.shape[1]))
        end = self.block.columns.shape[1]
        penalty[:end, :end] = self.block.penalty
        start = end + 1
        for party in self.shown.values():
            end = start + len(party.columns)
            penalty[start:end, start:end] = party.penalty
            start = end
        return Problem(design, self.truth, penalty)

    def split(self, coefficients: Floats) -> list[Floats]:
        """Return the coefficients of the own block, the intercept, and each passive party's directions."""
        sizes = [self.block.columns.shape[1], 1, *(len(party.columns) for party in self.shown.values())]
        return np.split(coefficients, np.cumsum(sizes)[:-1], axis=1)


def train_active(features: Floats, labels: Floats, params: SoftmaxParams, setting: Setting) -> Dialogue[SoftmaxPart]:
    """Return the active party's coefficients and intercepts; labels are 0, 1, …, classes − 1, all present.

    Raises:
        DataError: A label is none of the classes, a class has no row, or a feature is missing.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: The scheme cannot carry so many rows.
    """
    check_role(setting, active=True)
    truth = _one_hot(labels, params.classes, len(features))
    block = whiten(features, params.l2)
    widths = yield from agree(len(features), block.columns.shape[1], params, setting)
    products = yield from set_up(block, widths, [Pair(peer, setting.me) for peer in setting.peers], setting)
    run = _Run(block, truth, products, {peer: _Shown() for peer in setting.peers}, params, setting)
    state = yield from resume(FitState, setting.peers)
    if state is None:
        state = _intercepts_only(run)
    else:
        yield from _collect_again(run, state)
    yield from progress(len(state.losses), params.max_iterations, "set up")
    while True:
        state, done, converged = yield from _iterate(run, state, widths)
        count = len(state.losses)
        note = f"loss {state.losses[-1]:.6f}, gradient norm {state.gradient_norms[-1]:.3g}"
        yield from progress(count, params.max_iterations, note)
        if done:
            break
        yield from checkpoint(state)
    return (yield from _finish(run, state, converged))


def _finish(run: _Run, state: FitState, converged: bool) -> Dialogue[SoftmaxPart]:
    note = "" if converged else f"stopped after max_iterations = {run.params.max_iterations}"
    own, intercept, *theirs = run.split(state.coefficients)
    for peer, coefficients in zip(run.shown, theirs, strict=True):
        yield from send(peer, Steer(coefficients, True, converged, state.gradient_norms, note))
    weights = own @ run.block.basis.T
    offset = intercept[:, 0] - weights @ run.block.mean
    return SoftmaxPart(weights, offset, len(state.losses), converged, state.gradient_norms, state.losses, note)


def _one_hot(labels: Floats, classes: int, rows: int) -> Floats:
    found = np.asarray(labels, np.float64)
    if found.shape != (rows,):
        raise DataError(f"expected {rows} labels, one a row, found shape {found.shape}")
    truth: Floats = (found[:, None] == np.arange(classes)).astype(np.float64)
    if not truth.any(axis=1).all():
        row = int(np.argmin(truth.any(axis=1)))
        raise DataError(f"row {row} has the label {found[row]:g}: expected 0 to {classes - 1}")
    if not truth.any(axis=0).all():
        raise DataError(f"class {int(np.argmin(truth.any(axis=0)))} has no row: leave it out, or bring rows of it")
    return truth


def _intercepts_only(run: _Run) -> FitState:
    coefficients = np.zeros((run.params.classes, run.block.columns.shape[1] + 1))
    logs = np.log(run.truth.mean(axis=0))
    coefficients[:, -1] = logs - logs.mean()
    objective = run.problem().objective(coefficients)
    return FitState(coefficients, (0,) * len(run.shown), objective, np.empty(0), np.empty(0))


def _iterate(run: _Run, state: FitState, widths: Mapping[PartyId, int]) -> Dialogue[tuple[FitState, bool, bool]]:
    problem = run.problem()
    own, intercept, *theirs = run.split(state.coefficients)
    errors = probabilities(problem.design @ state.coefficients.T) - run.truth
    for peer, coefficients in zip(run.shown, theirs, strict=True):
        yield from send(peer, Steer(coefficients, False, False, state.gradient_norms, ""))
    for index in range(run.params.classes - 1):
        yield from run.products.exchange(run.setting.me, errors[:, index].copy(), [run.setting.me])
    gradient = errors.T @ run.block.columns / len(errors) + own @ run.block.penalty
    square, widened = float(np.square(gradient).sum()), [own, intercept]
    for peer, coefficients in zip(run.shown, theirs, strict=True):
        norm, new = yield from _receive_directions(run, peer, widths[peer])
        square += norm * norm
        widened.append(np.pad(coefficients, ((0, 0), (0, new))))
    norms = np.append(state.gradient_norms, math.sqrt(square))
    goal = run.params.tolerance * float(norms[0])
    fit = minimise(run.problem(), np.hstack(widened), goal / 20)
    shown = tuple(len(party.columns) for party in run.shown.values())
    after = FitState(fit.coefficients, shown, fit.objective, norms, np.append(state.losses, fit.loss))
    settled = shown == state.shown or norms[-1] <= goal or state.objective - fit.objective <= goal * goal / 2
    return after, settled or len(after.losses) >= run.params.max_iterations, settled and fit.converged


def _receive_directions(run: _Run, peer: PartyId, width: int) -> Dialogue[tuple[float, int]]:
    """Take in a passive party's answer; return its gradient norm and how many new directions it showed."""
    answer = yield from receive(peer, Directions)
    norm = finite(answer.gradient_norm, peer, "the gradient norm")
    rows = finite(answer.penalties, peer, "the penalties")
    party = run.shown[peer]
    before, new = len(party.columns), len(rows)
    count = before + new
    if norm < 0 or count > width or new > run.params.classes or (new and rows.shape[1] != count):
        raise RemoteProtocolError(f"{peer}: {new} directions of norm {norm} after {before} of {width} are not possible")
    penalty = np.zeros((count, count))
    penalty[:before, :before] = party.penalty
    if new:
        penalty[before:], penalty[:, before:] = rows, rows.T
        if np.diagonal(penalty)[before:].min() < 0:
            raise RemoteProtocolError(f"{peer}: a direction has a negative penalty, and none is")
    for _ in range(new):
        column = yield from receive_rows(peer, np.float64, len(run.truth), "a score column has")
        party.columns.append(finite(column, peer, "a score column"))
    party.penalty = penalty
    return norm, new


def _collect_again(run: _Run, state: FitState) -> Dialogue[None]:
    """Receive once more what was shown before the checkpoint: it is not kept on disk here."""
    for peer, count in zip(run.shown, state.shown, strict=True):
        while len(run.shown[peer].columns) < count:
            _, new = yield from _receive_directions(run, peer, count)
            if not new:
                raise RemoteProtocolError(f"{peer}: shows too few directions again, {count} are expected")


# --- a passive party -----------------------------------------------------------------------------------------------


def train_passive(features: Floats, params: SoftmaxParams, setting: Setting) -> Dialogue[SoftmaxPart]:
    """Return a passive party's coefficients.

    Raises:
        DataError: A feature is missing, or none varies.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: The scheme cannot carry so many rows.
    """
    check_role(setting, active=False)
    block = whiten(features, params.l2)
    if not block.columns.shape[1]:
        raise DataError(
            f"{setting.me}: no feature column varies, so there is nothing to train; add columns or stay out"
        )
    widths = yield from agree(len(features), block.columns.shape[1], params, setting)
    pairs = [Pair(party, setting.active) for party in setting.parties[1:]]
    products = yield from set_up(block, widths, pairs, setting)
    state = yield from resume(ShownState, setting.peers)
    state = state or ShownState(np.empty((0, block.columns.shape[1])), 0)
    directions, done = state.directions, state.iterations
    for first in range(0, len(directions), params.classes):
        yield from _show(block, directions[: first + params.classes], first, 0.0, setting.active)
    yield from progress(done, params.max_iterations, "set up")
    while True:
        steer = yield from receive(setting.active, Steer)
        point = _checked(steer, params.classes, len(directions), setting.active) @ directions
        if steer.done:
            break
        if done == params.max_iterations:
            raise RemoteProtocolError(f"{setting.active}: asks for more than the agreed {done} iterations")
        done += 1
        gradients = yield from _gradients(block, products, point, setting)
        norm, directions = yield from _answer(block, gradients, directions, setting.active)
        yield from progress(done, params.max_iterations, f"own gradient norm {norm:.3g}")
        yield from checkpoint(ShownState(directions, done))
    weights = point @ block.basis.T
    norms = steer.gradient_norms
    return SoftmaxPart(
        weights, -(weights @ block.mean), len(norms), steer.converged, norms, np.empty(0), told(steer.note)
    )


def _gradients(block: Block, products: Products, point: Floats, setting: Setting) -> Dialogue[Floats]:
    """Return the gradients of all classes, (classes, r)."""
    found = []
    for _ in range(len(point) - 1):
        received = yield from products.exchange(setting.me, None, [setting.active])
        found.append(received[setting.active])
    sums = np.array(found)
    gradients: Floats = np.vstack([sums, -sums.sum(axis=0)]) / len(block.columns) + point @ block.penalty
    return gradients


def _answer(block: Block, gradients: Floats, directions: Floats, active: PartyId) -> Dialogue[tuple[float, Floats]]:
    """Show the active party what the gradients hold beyond earlier directions; return their norm, all directions."""
    norm = float(np.linalg.norm(gradients))
    rest = gradients
    for _ in range(2):  # twice is enough for orthogonality to the last bit (Giraud et al. 2005)
        rest = rest - rest @ directions.T @ directions
    _, sizes, right = np.linalg.svd(rest, full_matrices=False)
    worth = (sizes > _WORTH_SHOWING * sizes[0]) & (sizes > _NOTHING * norm)
    new = right[worth][: rest.shape[1] - len(directions)]
    known = len(directions)
    directions = np.vstack([directions, new])
    yield from _show(block, directions, known, float(np.linalg.norm(rest)), active)
    return norm, directions


def _show(block: Block, directions: Floats, known: int, norm: float, active: PartyId) -> Dialogue[None]:
    new = directions[known:]
    yield from send(active, Directions(norm, new @ block.penalty @ directions.T))
    for direction in new:
        yield from send_array(active, block.columns @ direction)


def _checked(steer: Steer, classes: int, count: int, active: PartyId) -> Floats:
    if steer.coefficients.shape != (classes, count):
        raise RemoteProtocolError(
            f"{active}: expected coefficients {(classes, count)}, found {steer.coefficients.shape}"
        )
    finite(steer.gradient_norms, active, "the gradient norms")
    return finite(steer.coefficients, active, "the coefficients")


# --- scoring -------------------------------------------------------------------------------------------------------


def score_active(part: SoftmaxPart, features: Floats, setting: Setting) -> Dialogue[Floats]:
    """Return the probabilities of all classes, (rows, classes); ``logistic.score_active`` says what is learned."""
    scores = np.empty((len(features), len(part.intercept_)))
    for index in range(len(part.intercept_)):
        scores[:, index] = yield from logistic.sum_scores(part.of_class(index), features, setting)
    return probabilities(scores)


def score_passive(part: SoftmaxPart, features: Floats, setting: Setting) -> Dialogue[None]:
    """Give the active party this party's partial scores of every class."""
    for index in range(len(part.intercept_)):
        yield from logistic.score_passive(part.of_class(index), features, setting)
