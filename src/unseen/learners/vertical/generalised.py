"""Generalised linear models over all parties' columns, exact and private: mode ``private``.

The minimiser of mean weighted loss + ½ l2 ‖w‖² over the coefficients of all parties (the intercept is free), for the
families of ``families``. The active party fits a model of its own columns; from there quasi-Newton steps
(``quasi_newton``) on accurate gradients (``private``) lead to the minimum of the pooled data. What makes few accurate
gradients suffice is the quadratic model of the loss (``quadratic``), whose solutions cost exchanges of partial scores
through the linear map only.

Least squares without weights: conjugate gradients on the joint normal equations, and accurate residuals to end with.
That is the exact solution after few products (never more than the smaller party has columns, times two), with fewer
vectors than the cross-Gram's one for each column, and without showing anybody the other's covariances in full.

*What each party learns.* Everybody: numbers of rows and whitened columns; the curvature c at the best constant model
(from the mean target) and its ratio to that at the active party's own model, both to a power of 2^¼; sizes of vectors,
to a power of two; norms of the whole gradient; coefficients of the recursions in full precision, as ``quasi_newton``
and ``quadratic`` list them; the ranges of scores, as ``private`` has them.

* The active party: its own part of the gradient at every iterate; for its own columns, their products with each
  peer's partial scores along the directions of the quadratic model (as many linear facts about cross-covariances as
  products are computed, at most twice the smaller number of columns); each passive party's parts of the inner products
  of gradients, steps and directions, scalars that tell that party's vectors up to rotation.
* A passive party: its own part of the gradient at every iterate, its first one being the products of its columns with
  the residuals of the active party's own model; the same products with peers' partial scores.
* Nobody sees a score, a residual, a target or a weight of any row. Gradients over few rows, or over columns that
  single out a row, tell residuals of these rows; this is so in any protocol that shows a party its gradient.

Errors of the result: the stopping rule's (``tolerance``), that of columns rounded once to ``matrix_bits`` and of
residuals rounded anew at every step, both independent over rows and thus falling as 1/√rows, and for the binomial
family the factorisation's (2e-4 a row, oscillating around 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unseen.codec import message
from unseen.dialogue import Dialogue, receive_all, send_all
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import own_model
from unseen.learners.vertical.columns import Columns, prepare
from unseen.learners.vertical.families import Gaussian
from unseen.learners.vertical.glm_params import GlmParams, row_weights
from unseen.learners.vertical.private import JointResiduals, Knowledge, SharedResiduals, Truth
from unseen.learners.vertical.quadratic import Course, Quadratic
from unseen.learners.vertical.quasi_newton import Engine, Oracle, Outcome, Rule, begin, minimise
from unseen.learners.vertical.residues import Maps, set_up
from unseen.learners.vertical.setting import LARGEST_WIDTH, Floats, LinearPart, Setting, check_role, compare, told
from unseen.learners.vertical.whitening import check_features

_OWN_TOLERANCE = 1e-6
# Curvatures and residuals lie within 2^±60; whitened columns are single-precision numbers.
_RANGE = 60


@message("vertical_glm/hello")
class Hello:
    """What every party tells every other one before anything else; the active one also what follows from targets."""

    active: str
    rows: int
    terms: str
    weighted: bool
    curvature: float
    size: float


@message("vertical_glm/width")
class Width:
    """The sender's number of whitened columns, the intercept's among them."""

    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class Outset:
    """What a party begins with; targets are at the active one."""

    params: GlmParams
    hello: Hello
    point: Floats
    ratio: float
    truth: Truth | None


def train_active(
    features: Floats, target: Floats, params: GlmParams, setting: Setting, *, weights: Floats | None = None
) -> Dialogue[LinearPart]:
    """Return the active party's coefficients and intercept; ``weights`` (n,) count rows, whatever their scale.

    Raises:
        DataError: Targets or weights cannot be used, or a feature is missing.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: There are several passive parties where only one is possible, or the scheme carries too little.
    """
    truth, hello = yield from open_active(features, target, params, setting, weights=weights)
    columns = prepare(features, params.l2, hello.curvature, intercept=True)
    point, norms, converged = own_model.fit(columns, truth, _OWN_TOLERANCE)
    if not setting.peers:
        return part(columns, Outcome(point, norms, len(norms) - 1, converged, ""))
    # Peers are told the ratio.
    ratio = own_model.coarse(hello.curvature / own_model.mean_curvature(columns, truth, point))
    outcome = yield from _train(columns, Outset(params, hello, point, ratio, truth), setting)
    return part(columns, outcome)


def train_passive(features: Floats, params: GlmParams, setting: Setting) -> Dialogue[LinearPart]:
    """Return a passive party's coefficients.

    Raises:
        DataError: A feature is missing, or none varies.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: There are several passive parties where only one is possible, or the scheme carries too little.
    """
    hello = yield from open_passive(features, params, setting)
    columns = prepare(features, params.l2, hello.curvature, intercept=False)
    outcome = yield from _train(columns, Outset(params, hello, np.zeros(columns.width), 1.0, None), setting)
    return part(columns, outcome)


def _train(columns: Columns, outset: Outset, setting: Setting) -> Dialogue[Outcome]:
    maps, oracle, gradient = yield from open_oracle(columns, outset, setting)
    rule = Rule(outset.params.tolerance, outset.params.max_iterations)
    course = Course.of(outset.params.max_iterations, columns.width, maps.peers_width)
    quadratic = Quadratic(columns, maps, setting, course)
    engine = Engine(oracle, quadratic, setting, rule, columns.curvature, outset.ratio)
    return (yield from minimise(engine, begin(outset.point, gradient)))


# --- what comes before the first iteration -------------------------------------------------------------------------


def open_active(
    features: Floats, target: Floats, params: GlmParams, setting: Setting, *, weights: Floats | None
) -> Dialogue[tuple[Truth, Hello]]:
    """Return checked targets, and what all parties were told, as the active party."""
    check_role(setting, active=True)
    check_features(features)
    truth = truth_of(target, weights, params, len(features))
    weighted = bool(np.ptp(truth.weights) > 0)
    check_parties(params, setting, weighted=weighted)
    residuals = truth.residuals(np.full(len(features), own_model.null_score(truth)))
    size = 2.0 ** int(np.frexp(np.sqrt(np.mean(np.square(residuals))))[1])
    curvature = own_model.null_curvature(truth)
    hello = Hello(setting.active, len(features), params.terms, weighted, curvature, size)
    yield from _greet(hello, setting)
    return truth, hello


def open_passive(features: Floats, params: GlmParams, setting: Setting) -> Dialogue[Hello]:
    """Return what the active party said, as a passive one."""
    check_role(setting, active=False)
    check_features(features)
    if not np.ptp(features, axis=0).any():
        raise DataError(
            f"{setting.me}: no feature column varies, so there is nothing to train; add columns or stay out"
        )
    hello = yield from _greet(Hello(setting.active, len(features), params.terms, False, 1.0, 1.0), setting)
    check_parties(params, setting, weighted=hello.weighted)
    return hello


def open_oracle(columns: Columns, outset: Outset, setting: Setting) -> Dialogue[tuple[Maps, Oracle, Floats]]:
    """Return the linear maps, what gives gradients, and this party's part of the first one."""
    widths = yield from _agree_on_widths(columns.width, setting)
    maps = yield from set_up(columns, widths, setting)
    gradient = yield from _first_gradient(columns, maps, outset, setting)
    if not needs_products(outset.params, weighted=outset.hello.weighted) or not setting.peers:
        return maps, JointResiduals(columns, maps, outset.truth), gradient
    knowledge = Knowledge(outset.params.likelihood, outset.hello.size, outset.truth)
    return maps, SharedResiduals(columns, maps, setting, knowledge), gradient


def _first_gradient(columns: Columns, maps: Maps, outset: Outset, setting: Setting) -> Dialogue[Floats]:
    """Return this party's part of the gradient at the active party's own model: others' scores are 0 there."""
    if outset.truth is None:
        received = yield from maps.collect([setting.active])
        return received[setting.active] / columns.rows
    errors = outset.truth.residuals(columns.scores(outset.point))
    yield from maps.submit(errors, setting.peers)
    yield from maps.settle(setting.peers)
    return maps.own_product(errors) / columns.rows + columns.penalty @ outset.point


def needs_products(params: GlmParams, *, weighted: bool) -> bool:
    """Return whether residuals do not just add up over the parties."""
    return weighted or not isinstance(params.likelihood, Gaussian)


def check_parties(params: GlmParams, setting: Setting, *, weighted: bool) -> None:
    """Raise ``UsageError`` unless this model can be trained by so many parties."""
    if setting.peers and setting.scheme is None:
        raise UsageError("training with other parties needs the linear map scheme lattice")
    if setting.peers and setting.scheme is not None and setting.scheme.name == "paillier":
        raise UsageError(
            f"family {params.family!r} in mode 'private' needs the scheme lattice, since shares are residues; paillier "
            "works with logistic_regression in the modes 'linearised' and 'exact', and with softmax_regression"
        )
    if len(setting.passives) > 1 and needs_products(params, weighted=weighted):
        instead = {
            "binomial": "use mode 'exact' (shows scores to the label holder) or 'linearised'",
            "gaussian": "leave out the weights",
        }.get(
            params.family,
            "join the passive parties' columns at one of them, or use linear_regression (family 'gaussian')",
        )
        raise UsageError(
            f"family {params.family!r} in mode 'private' is for one passive party, found {len(setting.passives)}: "
            + instead
        )


def refuse_weights(weights: Floats | None, params: GlmParams) -> None:
    """Raise ``UsageError`` if there are weights, which only mode ``private`` knows."""
    if weights is not None:
        raise UsageError(f"mode {params.mode!r} knows no weights of rows: choose mode 'private'")


def truth_of(target: Floats, weights: Floats | None, params: GlmParams, rows: int) -> Truth:
    """Return checked targets and scaled weights.

    Raises:
        DataError: They cannot be used.
    """
    checked = np.asarray(target, np.float64)
    if checked.shape != (rows,):
        raise DataError(f"expected {rows} labels, one a row, found shape {checked.shape}")
    if not np.isfinite(checked).all():
        raise DataError(f"the target of row {int(np.argmin(np.isfinite(checked)))} is missing: drop such rows")
    params.likelihood.check(checked)
    return Truth(checked, row_weights(checked, weights, params), params.likelihood)


def _greet(hello: Hello, setting: Setting) -> Dialogue[Hello]:
    """Return what the active party says, once all parties are known to mean the same training.

    Raises:
        RemoteProtocolError: A peer states other rows, parameters or another active party.
    """
    yield from send_all(setting.peers, hello)
    answers = yield from receive_all(setting.peers, Hello)
    for peer, answer in answers.items():
        for name in ("active", "rows", "terms"):
            compare(peer, name, getattr(hello, name), getattr(answer, name))
    agreed = hello if setting.is_active else answers[setting.active]
    if not (2.0**-_RANGE < agreed.curvature < 2.0**_RANGE and 2.0**-_RANGE < agreed.size < 2.0**_RANGE):
        raise RemoteProtocolError(
            f"{setting.active}: a curvature of {agreed.curvature} and residuals of size {agreed.size} are not possible"
        )
    return agreed


def _agree_on_widths(width: int, setting: Setting) -> Dialogue[dict[PartyId, int]]:
    """Return every party's number of whitened columns.

    Raises:
        RemoteProtocolError: A peer announces none, or absurdly many.
    """
    yield from send_all(setting.peers, Width(width))
    widths = {setting.me: width}
    for peer, answer in (yield from receive_all(setting.peers, Width)).items():
        if not 1 <= answer.columns <= LARGEST_WIDTH:
            raise RemoteProtocolError(f"{peer}: announces {answer.columns} columns, expected 1 to {LARGEST_WIDTH}")
        widths[peer] = answer.columns
    return widths


def part(columns: Columns, outcome: Outcome) -> LinearPart:
    """Return what a party keeps."""
    return LinearPart(
        columns.weights(outcome.point),
        columns.offset(outcome.point),
        outcome.iterations,
        outcome.converged,
        outcome.norms,
        np.empty(0),
        told(outcome.note),
    )
