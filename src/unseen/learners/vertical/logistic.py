"""Logistic regression over columns that lie with several parties, one of which holds the labels; nobody else is needed.

The result is that of the pooled data: mean log loss + ½ l2 ‖w‖² over all parties' coefficients (the intercept is free),
which is scikit-learn's objective for C = 1 / (rows · l2). Any number of passive parties, none included: then it is
ordinary training. Rows must be aligned, the same people in the same order. Three modes, agreed upon beforehand:

``private`` (``generalised``, which states what each party learns)
    The true loss and its minimiser, with one passive party. Both parties hold shares of the residuals, each learns
    its own gradients and scalars; nobody sees a label, a score or a residual of any row.

``linearised`` (``conjugate_gradient``)
    The log loss is replaced by its quadratic bound (curvature ¼) around the active party's own model, and the
    minimiser is scaled to the curvature that the joint model has: close to but not at the maximum-likelihood solution.
    Without passive parties it is plain logistic regression.

    * The active party learns, per iteration, five inner products of every passive party's gradient, direction and
      Hessian product (scalars); and, for its own columns, their products with each peer's score vectors.
    * A passive party learns the products of its own columns with the residuals of the active party's own model, and
      then, per iteration, with each peer's partial scores along the search direction (F_p'F_q p_q: as many linear
      facts about the peers' cross-covariances with its own columns as there are iterations); step lengths, norms of
      the whole gradient, and at the end one scale.
    * Nobody sees a label, a score or a residual of any row.
    * Per iteration one round trip with the active party (and one message between each two passive parties); from
      each party to each other one vector in the linear map, and 40 bytes to, 50 to 150 bytes from the active party.
      One vector of the active party to each passive one before the first.

``exact`` (``subspace_newton``)
    The true loss and its minimiser.

    * The active party learns, per iteration, one score column F_p q of every passive party: **a number per row**. After
      as many iterations as a passive party has columns it knows the space that they span (not the columns themselves,
      nor what they mean); knowing some columns or rows otherwise, it may solve for more. Also gradient norms and
      inner products of directions in the penalty. Do not use it where partial scores are secret.
    * A passive party learns its own gradient at every iterate, the coefficients of its own directions, and the norms
      of the whole gradient. It sees no label, score or residual of a row; but gradients over few rows, or over columns
      that single out a row (a dummy of one person), tell residuals of these rows, hence labels. This is so in any
      protocol that shows a party its gradient, also in the mode above: see to enough rows behind each column.
    * Per iteration one round trip of the active party with each passive one: a vector in the linear map there, 8 bytes
      a row back. A resumed training sends the columns shown before once more.

In the latter two modes all learn numbers of rows and (whitened) columns, and each vector's size to a power of two.
Security model: semi-honest, as the linear map's; every array is checked for shape and finite values all the same. The
label party can always test guesses about columns by what it submits; nothing here prevents it from submitting vectors
that are no residuals, for which a *passive* party would get the answer.

Sources: Böhning, Ann. Inst. Statist. Math. 44 (1992), the bound; Hestenes and Stiefel (1952), conjugate gradients;
Narkiss and Zibulevsky (2005), subspace optimisation; Hardy et al., arXiv:1711.10677, the setting, with an arbiter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.codec import message
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.data.fixed_point import from_fixed, to_fixed
from unseen.dialogue import Dialogue, receive, send, send_array
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.vertical import conjugate_gradient, generalised, subspace_newton
from unseen.learners.vertical.factorisation import sigmoid
from unseen.learners.vertical.families import Binomial
from unseen.learners.vertical.glm_params import GlmParams
from unseen.learners.vertical.setting import (
    EXACT,
    LINEARISED,
    PRIVATE,
    Floats,
    LinearPart,
    LogisticParams,
    Setting,
    agree,
    check_role,
    receive_rows,
)
from unseen.learners.vertical.whitening import check_features, whiten

__all__ = [
    "EXACT",
    "LINEARISED",
    "PRIVATE",
    "LinearPart",
    "LogisticParams",
    "Setting",
    "score_active",
    "score_passive",
    "train_active",
    "train_passive",
]

# Partial scores are summed modulo 2^64 with this many fractional bits; larger ones mean a model that has diverged.
_SCORE_BITS = 32
_LARGEST_SCORE = 2.0**24


# --- training ------------------------------------------------------------------------------------------------------


def train_active(
    features: NDArray[np.float64], labels: NDArray[np.float64], params: LogisticParams, setting: Setting
) -> Dialogue[LinearPart]:
    """Return the active party's coefficients and intercept, after a training with all passive parties.

    ``features`` may have no columns. They need not be standardised, but the penalty acts on them as they are.

    Raises:
        DataError: A label is not 0 or 1, all are equal, or a feature is missing.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: The scheme cannot carry so many rows.
    """
    check_role(setting, active=True)
    if params.mode == PRIVATE:
        return (yield from generalised.train_active(features, labels, _generalised(params), setting))
    truth = _checked_labels(labels, len(features))
    block = whiten(features, params.l2)
    widths = yield from agree(len(features), block.columns.shape[1], params, setting)
    if params.mode == EXACT:
        return (yield from subspace_newton.train_active(block, truth, widths, params, setting))
    return (yield from conjugate_gradient.train(block, truth, widths, params, setting))


def train_passive(features: NDArray[np.float64], params: LogisticParams, setting: Setting) -> Dialogue[LinearPart]:
    """Return a passive party's coefficients, after a training with the active party and the other passive ones.

    Raises:
        DataError: A feature is missing, or none varies.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: The scheme cannot carry so many rows.
    """
    check_role(setting, active=False)
    if params.mode == PRIVATE:
        return (yield from generalised.train_passive(features, _generalised(params), setting))
    block = whiten(features, params.l2)
    if not block.columns.shape[1]:
        raise DataError(
            f"{setting.me}: no feature column varies, so there is nothing to train; add columns or stay out"
        )
    widths = yield from agree(len(features), block.columns.shape[1], params, setting)
    if params.mode == EXACT:
        return (yield from subspace_newton.train_passive(block, widths, params, setting))
    return (yield from conjugate_gradient.train(block, None, widths, params, setting))


def _generalised(params: LogisticParams) -> GlmParams:
    return GlmParams("binomial", PRIVATE, params.l2, 0.0, params.max_iterations, params.tolerance)


def _checked_labels(labels: NDArray[np.float64], rows: int) -> Floats:
    truth = np.asarray(labels, np.float64)
    if truth.shape != (rows,):
        raise DataError(f"expected {rows} labels, one a row, found shape {truth.shape}")
    Binomial().check(truth)
    return truth


# --- scoring -------------------------------------------------------------------------------------------------------


@message("vertical_logistic/score-seed")
class ScoreSeed:
    """One of the two halves of the seed that hides two passive parties' scores from the active one."""

    seed: bytes


def score_active(part: LinearPart, features: NDArray[np.float64], setting: Setting) -> Dialogue[NDArray[np.float64]]:
    """Return the probability of label 1 for every row, at the active party alone.

    It learns the *sum* of the passive parties' partial scores: with one passive party that party's partial score,
    which the probability tells anyway. 8 bytes a row from each passive party, one message; between passive parties
    one seed each way. Coalitions of the active party with all but one of the others learn that one's partial scores.

    Raises:
        DataError: A feature is missing, or there are other columns than in the training.
        RemoteProtocolError: A peer has another number of rows.
    """
    return sigmoid((yield from sum_scores(part, features, setting)))


def sum_scores(part: LinearPart, features: NDArray[np.float64], setting: Setting) -> Dialogue[NDArray[np.float64]]:
    """Return the sum of all parties' scores for every row, at the active party, as ``score_active`` obtains it."""
    check_role(setting, active=True)
    scores = _own_scores(part, features)
    total = np.zeros(len(scores), np.uint64)
    for peer in setting.peers:
        total += yield from receive_rows(peer, np.uint64, len(total), "scores")
    summed: Floats = scores + from_fixed(total.view(np.int64), _SCORE_BITS)
    return summed


def score_passive(part: LinearPart, features: NDArray[np.float64], setting: Setting) -> Dialogue[None]:
    """Give the active party this party's partial scores, hidden among those of the other passive parties.

    Raises:
        DataError: A feature is missing, there are other columns than in the training, or a score is absurdly large.
        RemoteProtocolError: Another passive party sends a malformed seed.
    """
    check_role(setting, active=False)
    scores = _own_scores(part, features)
    if len(scores) and np.abs(scores).max() > _LARGEST_SCORE:
        raise DataError(f"a partial score is {np.abs(scores).max():g}, at most 2^24 is possible: check the features")
    masked = to_fixed(scores, _SCORE_BITS).view(np.uint64)
    others = [peer for peer in setting.peers if peer != setting.active]
    # The seed depends on the scores, so that no mask is used for two different ones even if a caller repeats the Prg.
    halves = {peer: setting.prg.derive("score", peer.encode(), masked.tobytes()).bytes(SEED_BYTES) for peer in others}
    for peer in others:
        yield from send(peer, ScoreSeed(halves[peer]))
    for peer in others:
        theirs = (yield from receive(peer, ScoreSeed)).seed
        if len(theirs) != SEED_BYTES:
            raise RemoteProtocolError(f"{peer}: a seed has {len(theirs)} bytes, expected {SEED_BYTES}")
        mask = _mask(setting.me, halves[peer], peer, theirs, len(masked))
        masked = masked + mask if setting.me < peer else masked - mask
    yield from send_array(setting.active, masked)


def _mask(me: PartyId, mine: bytes, peer: PartyId, theirs: bytes, rows: int) -> NDArray[np.uint64]:
    """Return the mask that two parties share, each having chosen a half of its seed."""
    first, second = (mine, theirs) if me < peer else (theirs, mine)
    return Prg(first).derive("score-mask", second).words(rows)


def _own_scores(part: LinearPart, features: NDArray[np.float64]) -> Floats:
    check_features(features)
    if features.shape[1] != len(part.coef_):
        raise DataError(f"the model has {len(part.coef_)} columns here, the table has {features.shape[1]}")
    scores: Floats = features @ part.coef_ + part.intercept_
    return scores
