"""``horizontal_linear`` and ``horizontal_logistic``: regressions from sums over clients, as one process each.

Rounds: the magnitude of each column is found by counting exponents; then its mean and deviation by sums; then the
normal equations are summed once (least squares), or gradient, Hessian and loss at the model of the moment, and the
server takes a step of Newton's method (logistic regression; half of the last step where the loss rose), until steps are
below 1e-9 standard deviations: 5 to 9 rounds. The objective is the mean loss plus ``l2``/2 · the squared coefficients
of standardised columns; the intercept is free. Missing values take their column's mean.

Clients compute in 64-bit floats and round their sums once, to multiples of 2^-30 or finer of the largest possible sum
of one row, so that sums over clients are exact whatever adds them up; what is lost is below 1e-9 of a coefficient's
standard error. Collinear or constant columns: the solution of least norm.

*Who learns what*: the server, the sums over the cohort: counts by exponent, means, deviations, and the second moments
of all pairs of columns (weighted, for logistic regression); with the plain aggregator also each client's, under secure
aggregation only these. Clients learn the models of all rounds. *Security model*: semi-honest.
*Bytes*: for p columns (p + 1)(p + 2)/2 sums of 62 bits up a round, the model down.

Sources: T. Hastie, R. Tibshirani, J. Friedman, "The Elements of Statistical Learning", 2nd edition, sections 3.2 and
4.4.1; Y. Wu and others, "Grid Binary LOgistic REgression (GLORE)", JAMIA 19 (2012), for the distributed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unseen.learners.horizontal.linear.plan import LOGISTIC, SQUARED, LinearSetting, Phase
from unseen.learners.horizontal.linear.solve import SendPlan, Solve
from unseen.learners.horizontal.linear.trainer import RegressionTrainer
from unseen.learners.horizontal.linear.work import RegressionSums
from unseen.learners.horizontal.process import Process, State
from unseen.learners.horizontal.tables.exact import ExactSum
from unseen.learners.horizontal.tables.secure import SecureExactSum


@dataclass(frozen=True, slots=True)
class LinearLearner:
    """A learner: the process, the trainer that goes with it, and how many rounds to play."""

    process: Process
    trainer: RegressionTrainer
    rounds: int
    """Rounds after which the model is found, or nearly always is; more do no harm."""

    def secure(self, *, least: int | None = None, scheme: str = "secagg_plus") -> LinearLearner:
        """Return the learner whose server sees sums over at least ``least`` clients, and no client's.

        Without ``least`` these are ⌊2n/3⌋ + 1 of the n that the learner was made for.

        Raises:
            UsageError: ``least`` is below 3, or above the number of clients.
        """
        by = SecureExactSum(self.trainer.setting.clients, least, scheme)
        return replace(self, process=replace(self.process, aggregator=by))

    def complete(self, state: State) -> bool:
        """Return whether the model is found."""
        return SendPlan(self.trainer.setting).plan(state).phase is Phase.DONE


def horizontal_linear(columns: Sequence[str], *, clients: int, l2: float = 0.0) -> LinearLearner:
    """Return least squares on rows of these columns at different clients.

    Args:
        columns: Names of the features, in the order of the clients' inputs.
        clients: How many take part in a round at most; it decides how exact sums travel.
        l2: Penalty on coefficients of standardised columns; labels are standardised too.

    Raises:
        UsageError: A parameter is not what it has to be.
    """
    return _learner("Horizontal least squares", LinearSetting(SQUARED, tuple(columns), clients, l2), 4)


def horizontal_logistic(columns: Sequence[str], *, clients: int, l2: float = 0.0) -> LinearLearner:
    """Return logistic regression of labels 0 and 1; parameters and errors as those of ``horizontal_linear``."""
    return _learner("Horizontal logistic regression", LinearSetting(LOGISTIC, tuple(columns), clients, l2), 15)


def _learner(name: str, setting: LinearSetting, rounds: int) -> LinearLearner:
    parts = SendPlan(setting), RegressionSums(setting), ExactSum(setting.clients), Solve(setting)
    return LinearLearner(Process(name, *parts), RegressionTrainer(setting), rounds)
