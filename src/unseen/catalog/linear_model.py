"""What all linear models share: their parameters, the parts that parties keep, training and scoring."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unseen.catalog.schemes import SchemeName, scheme_of
from unseen.component import MODEL, Document, Kind, Leak, Params, Shown, Task
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import glm
from unseen.learners.vertical.families import family_of
from unseen.learners.vertical.glm_params import GlmParams
from unseen.learners.vertical.logistic import score_passive, sum_scores
from unseen.learners.vertical.setting import LinearPart, Setting
from unseen.report.model import INTERCEPT, Coefficient


class StoppingParams(Params):
    """When the training of a linear model stops, how sums are protected, and from how many people it learns."""

    max_iterations: int = Field(default=60, ge=1, le=10_000)
    """Stop after this many rounds."""
    tolerance: float = Field(default=1e-5, gt=0, lt=1)
    """Stop when the norm of the gradient has fallen to this share of its first value."""
    scheme: SchemeName = "lattice"
    """How sums over rows are protected; plain works only in simulation."""
    min_rows: int = Field(default=100, ge=2)
    """Refuse to train on fewer rows: exact sums over few rows tell the labels of all of them."""


class LinearParams(StoppingParams):
    """What is trained over all parties' columns, and how it is protected."""

    l2: float = Field(default=1e-3, ge=0)
    """Penalty ½·l2·‖coefficients‖² on top of the mean loss."""
    l1: float = Field(default=0.0, ge=0)
    """Penalty l1·Σ|coefficient|, which makes coefficients of columns that matter little exactly 0."""


class LinearModel(Document):
    """One party's part of a linear model: its own columns' coefficients; the intercept is the label holder's."""

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    family: str = "binomial"
    """binomial: scores are log odds; gaussian: predictions; poisson, tweedie: their logarithms."""
    passives: tuple[PartyId, ...]
    """The parties, beside the label holder, whose parts make up the model."""
    iterations: int
    converged: bool
    gradient_norms: tuple[float, ...]
    losses: tuple[float, ...]
    note: str

    @classmethod
    def of(
        cls, part: LinearPart, names: tuple[str, ...], passives: tuple[PartyId, ...], family: str = "binomial"
    ) -> Self:
        """Return the document of a trained part."""
        return cls(
            names=names,
            coefficients=tuple(part.coef_.tolist()),
            intercept=part.intercept_,
            family=family,
            passives=passives,
            iterations=part.n_iterations,
            converged=part.converged,
            gradient_norms=tuple(part.gradient_norms.tolist()),
            losses=tuple(part.losses.tolist()),
            note=part.note,
        )

    @property
    def part(self) -> LinearPart:
        """The trained part, as the learner takes it."""
        return LinearPart(
            coef_=np.array(self.coefficients, np.float64),
            intercept_=self.intercept,
            n_iterations=self.iterations,
            converged=self.converged,
            gradient_norms=np.array(self.gradient_norms, np.float64),
            losses=np.array(self.losses, np.float64),
            note=self.note,
        )

    def shown(self, step: str, party: str) -> Shown:
        """Return the coefficients of a joint model; those of the label holder's own would bear the same names."""
        del step
        if not self.passives:
            return Shown()
        pairs = zip((*self.names, INTERCEPT), (*self.coefficients, self.intercept), strict=True)
        return Shown(coefficients=tuple(Coefficient(party=party, name=name, value=value) for name, value in pairs))


LINEAR_MODEL = Kind("linear_model", LinearModel, general=MODEL)
COMMON_LEAKS = (
    Leak("every party", "its own coefficients, and how many rows and columns each party has"),
    Leak("every party", "in each round, the norm of the whole gradient, and the size of vectors to a power of two"),
)
PRIVATE_LEAKS = (
    Leak(
        "every party",
        "in each round, the gradient of its own coefficients, step lengths and the recursions' coefficients in full "
        "precision, and the products of its own columns with each peer's scores along common directions, at most twice "
        "as many as the smaller party has columns",
    ),
    Leak(
        "passive parties",
        "the products of their own columns with the residuals of the label holder's own model; the mean curvature of "
        "the loss at a constant prediction, hence about the mean label, and at the label holder's own model, both to a "
        "power of 2^¼; how large residuals can become; and whether rows have weights",
    ),
    Leak("active party", "in each round, a few inner products of each passive party's own gradients and steps"),
    Leak(
        "every party",
        "in each round, the range of the other party's scores, to a power of √2, and whether few scores reach far; of "
        "the label holder's its middle, too; at the end whether scores were clipped",
    ),
    Leak("active party", "in each round, whether more than one in a thousand of the other party's scores exceeds 8"),
)


def class_weights(
    task: Task, given: tuple[float, ...], *, balanced: bool
) -> Literal["balanced"] | dict[float, float] | None:
    """Return the weights of labels 0 and 1 as the learner takes them.

    Raises:
        UsageError: There is another number of them, or both ways of saying it are used.
    """
    if balanced and given:
        raise UsageError(f"step {task.step}: balanced already gives both classes weights; leave out class_weights")
    if len(given) not in (0, 2):
        raise UsageError(f"step {task.step}: class_weights are those of labels 0 and 1, found {len(given)}")
    return "balanced" if balanced else dict(enumerate(given)) or None


def check_rows(task: Task, table: Table, least: int) -> None:
    """Raise ``DataError`` if there are fewer rows than agreed."""
    if table.rows < least:
        raise DataError(
            f"step {task.step}: {table.rows} rows are fewer than min_rows = {least}: share more people; "
            "a lower min_rows lets sums over few rows tell their labels"
        )


def check_columns(task: Task, table: Table, names: tuple[str, ...]) -> None:
    """Raise ``DataError`` unless the table has the columns of a model."""
    if table.schema.feature_names != names:
        raise DataError(
            f"step {task.step}: the model was trained on columns {', '.join(names)}, "
            f"the table has {', '.join(table.schema.feature_names)}"
        )


def refuse_passive_weights(task: Task, weight: object) -> None:
    """Raise ``UsageError`` if a passive party has weights of rows, which would be ignored."""
    if weight is not None and not task.is_active:
        raise UsageError(
            f"step {task.step}: {task.me} has a column of weights, but only those of {task.active} are used: give it "
            "another role by read_table's parameter columns, or leave it out"
        )


def weights_of(table: Table) -> NDArray[np.float64] | None:
    """Return the weights of the rows, if the table has any."""
    return None if table.schema.weight is None else table.weights()


def linear_setting(task: Task, scheme: str) -> Setting:
    """Return who takes part in a training, and how sums are protected."""
    linear_map = scheme_of(scheme, simulated=task.simulated)
    return Setting(me=task.me, active=task.active, passives=task.passives, prg=task.prg, scheme=linear_map)


def train_family(task: Task, family: str, params: LinearParams, *, power: float = 1.5) -> Dialogue[LinearModel]:
    """Return this party's part of a model of one family, which has only the one mode; raises as ``train_linear``."""
    learner = GlmParams(
        family,
        l2=params.l2,
        l1=params.l1,
        max_iterations=params.max_iterations,
        tolerance=params.tolerance,
        power=power,
    )
    return (yield from train_linear(task, learner, params))


def train_linear(task: Task, learner: GlmParams, params: LinearParams) -> Dialogue[LinearModel]:
    """Return this party's part of a model of all parties' columns.

    Raises:
        DataError: The table has too few rows, missing values, or labels that the family does not have.
        RemoteProtocolError: A peer has other rows or parameters, or sends something malformed.
        UsageError: There are more passive parties than this kind of model can have.
    """
    table = task.input("table", Table)
    check_rows(task, table, params.min_rows)
    refuse_passive_weights(task, table.schema.weight)
    setting = linear_setting(task, params.scheme)
    if task.is_active:
        weights = weights_of(table)
        part = yield from glm.train_active(table.matrix(), table.label(), learner, setting, weights=weights)
    else:
        part = yield from glm.train_passive(table.matrix(), learner, setting)
    return LinearModel.of(part, table.schema.feature_names, task.passives, learner.family)


def score_linear(task: Task, table: Table, model: LinearModel) -> Dialogue[NDArray[np.float64] | None]:
    """Return predictions (rows,) at the active party, ``None`` at a passive one.

    Raises:
        DataError: The table has other columns than the model, or missing values.
        RemoteProtocolError: A peer has other rows.
    """
    check_columns(task, table, model.names)
    setting = Setting(me=task.me, active=task.active, passives=model.passives, prg=task.prg)
    if not task.is_active:
        yield from score_passive(model.part, table.matrix(), setting=setting)
        return None
    scores = yield from sum_scores(model.part, table.matrix(), setting=setting)
    # The power of Tweedie's variance does not matter for its link.
    return family_of(model.family, 1.5).mean(scores)
