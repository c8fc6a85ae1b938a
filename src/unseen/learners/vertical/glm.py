"""Generalised linear models over several parties' columns: one entry for all families, modes and penalties.

=============  ==============================  =====================================================================
mode           families                        how
=============  ==============================  =====================================================================
``private``    all; l1 and l2; weights         exact; each party learns its own gradients (``generalised``,
                                               ``proximal``). One passive party; any number for Gaussian without
                                               weights
``exact``      binomial                        exact; passive parties show scores (``subspace_newton``). Any number
``linearised`` binomial                        close; no score leaves its party (``conjugate_gradient``). Any number
=============  ==============================  =====================================================================

The modules named state what each party learns. For more than two classes see ``softmax``.
"""

from __future__ import annotations

from unseen.dialogue import Dialogue
from unseen.learners.vertical import generalised, logistic, proximal
from unseen.learners.vertical.glm_params import GlmParams
from unseen.learners.vertical.setting import EXACT, LINEARISED, PRIVATE, Floats, LinearPart, LogisticParams, Setting

__all__ = [
    "EXACT",
    "LINEARISED",
    "PRIVATE",
    "GlmParams",
    "LinearPart",
    "Setting",
    "score_active",
    "score_passive",
    "train_active",
    "train_passive",
]

score_passive = logistic.score_passive


def train_active(
    features: Floats, target: Floats, params: GlmParams, setting: Setting, *, weights: Floats | None = None
) -> Dialogue[LinearPart]:
    """Return the active party's coefficients and intercept, after a training with all passive parties.

    ``weights`` (n,) say how much every row counts, on any scale; mode ``private`` only.

    Raises:
        DataError: Targets or weights cannot be used, or a feature is missing.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: Mode and family do not fit the parties or the weights, or the scheme carries too little.
    """
    if params.mode != PRIVATE:
        generalised.refuse_weights(weights, params)
        return (yield from logistic.train_active(features, target, _logistic(params), setting))
    train = proximal.train_active if params.l1 else generalised.train_active
    return (yield from train(features, target, params, setting, weights=weights))


def train_passive(features: Floats, params: GlmParams, setting: Setting) -> Dialogue[LinearPart]:
    """Return a passive party's coefficients, after a training with the active party and the other passive ones.

    Raises:
        DataError: A feature is missing, or none varies.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: Mode and family do not fit the parties, or the scheme carries too little.
    """
    if params.mode != PRIVATE:
        return (yield from logistic.train_passive(features, _logistic(params), setting))
    train = proximal.train_passive if params.l1 else generalised.train_passive
    return (yield from train(features, params, setting))


def score_active(part: LinearPart, features: Floats, params: GlmParams, setting: Setting) -> Dialogue[Floats]:
    """Return the expected target of every row, at the active party alone; passive ones call ``score_passive``.

    It learns the sum of the passive parties' partial scores (see ``logistic.score_active``).

    Raises:
        DataError: A feature is missing, or there are other columns than in the training.
        RemoteProtocolError: A peer has another number of rows.
    """
    return params.likelihood.mean((yield from logistic.sum_scores(part, features, setting)))


def _logistic(params: GlmParams) -> LogisticParams:
    return LogisticParams(params.mode, params.l2, params.max_iterations, params.tolerance)
