"""The client's side of a regression: sums over its own rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from unseen.errors import DataError
from unseen.ids import ClientId
from unseen.learners.horizontal.linear.model import Floats
from unseen.learners.horizontal.linear.plan import COUNTS, EXPONENT, LOGISTIC, LOSS, SUMS, LinearSetting, Phase, Plan
from unseen.learners.horizontal.process import Assignment, Memory, Trainer, Update
from unseen.learners.horizontal.tables.exact import Integers, Limbs, answer
from unseen.learners.horizontal.tables.rows import client_rows


@dataclass(frozen=True, slots=True)
class RegressionSums:
    """A client's work: the sums over its own rows that a round asks for."""

    setting: LinearSetting

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the answer, and nothing to keep.

        Raises:
            DataError: The client's rows are not what they have to be; the message names client and column.
            RemoteProtocolError: The broadcast is none of this process.
        """
        client, setting = assignment.client, self.setting
        rows, labels = client_rows(assignment.examples, setting.columns, f"client {client}")
        plan = Plan.unpack(assignment.broadcast.extra.get("plan", np.empty(0, np.float32)), setting)
        values = _checked(client, setting, rows, labels)
        clients = setting.clients
        if plan.phase is Phase.MAGNITUDES:
            sums = Limbs(clients, COUNTS).encode(_exponents(values))
        elif plan.phase is Phase.DONE:
            sums = np.empty(0, np.float32)
        else:
            own = {Phase.MEANS: _means, Phase.DEVIATIONS: _deviations}.get(plan.phase, _moments)(values, labels, plan)
            # More rows than there is room for make sums that do not count; they only must not be too large for a word.
            whole = np.clip(np.rint(own * plan.factor), -(2.0**SUMS), 2.0**SUMS)
            sums = Limbs(clients, SUMS).encode(whole.astype(np.int64))
        update = answer(clients, client, len(rows), sums)
        delta = np.zeros(trainer.size, np.float32)
        delta[: len(update.delta)] = update.delta
        return replace(update, delta=delta), {}


def _checked(client: ClientId, setting: LinearSetting, rows: Floats, labels: Floats) -> Floats:
    """Return the columns to be scaled, (rows, amounts)."""
    values = rows if setting.family == LOGISTIC else np.column_stack([rows, labels])
    wrong = np.abs(np.nan_to_num(values, posinf=math.inf, neginf=-math.inf)) >= math.ldexp(1.0, EXPONENT)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name = (*setting.columns, "the label")[column]
        raise DataError(f"client {client}, column {name}, row {row}: infinite or beyond 2^100; mark missing as NaN")
    if np.isnan(labels).any():
        raise DataError(f"client {client}, row {int(np.isnan(labels).argmax())}: the label is missing; leave it out")
    if setting.family == LOGISTIC and not np.isin(labels, (0, 1)).all():
        raise DataError(f"client {client}: labels must be 0 or 1, found others: map them first")
    return values


def _exponents(values: Floats) -> Integers:
    """Return how many numbers of each column are below 2^e, but not 2^(e − 1), for e = −100 … 100: (columns · 201,)."""
    found = np.clip(np.frexp(np.abs(np.nan_to_num(values)))[1], -EXPONENT, EXPONENT) + EXPONENT
    found[values == 0] = 0
    width = 2 * EXPONENT + 1
    counts = [
        np.bincount(column[~np.isnan(own)], minlength=width) for column, own in zip(found.T, values.T, strict=True)
    ]
    return np.concatenate(counts).astype(np.int64)


def _means(values: Floats, labels: Floats, plan: Plan) -> Floats:
    """Return sums of numbers over 2^exponent, and how many there are, as shares of one."""
    del labels
    present = ~np.isnan(values)
    scaled = np.ldexp(np.where(present, values, 0.0), -plan.exponents)
    return np.concatenate([scaled.sum(axis=0), present.sum(axis=0)])


def _deviations(values: Floats, labels: Floats, plan: Plan) -> Floats:
    """Return sums of squared distances from the mean, which are below 4 in units of 2^exponent, over 4."""
    del labels
    away = np.ldexp(np.where(np.isnan(values), 0.0, values - plan.means), -plan.exponents)
    squared: Floats = np.square(away).sum(axis=0) / 4
    return squared


def _moments(values: Floats, labels: Floats, plan: Plan) -> Floats:
    """Return the Hessian's upper triangle, the gradient and the loss, of columns that are scaled to 1 and below."""
    spans, count = plan.spans, len(plan.weights) - 1
    scaled = (values - plan.means) / plan.deviations / spans
    scaled[np.isnan(scaled)] = 0.0
    design = np.column_stack([scaled[:, :count], np.ones(len(values))])
    if len(plan.means) > count:
        target = scaled[:, count]
        # Half of it, and no Hessian's weight: the normal equations.
        return np.concatenate([_upper(design.T @ design), design.T @ target, [target @ target]])
    scores = design @ (plan.weights * np.append(spans, 1.0))
    means = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
    losses = np.minimum(np.logaddexp(0.0, scores) - labels * scores, LOSS) / LOSS
    weighted = design * (means * (1 - means))[:, None]
    return np.concatenate([_upper(weighted.T @ design), design.T @ (means - labels), [losses.sum()]])


def _upper(matrix: Floats) -> Floats:
    found: Floats = matrix[np.triu_indices(len(matrix))]
    return found
