"""Vertical logistic regression: one model over all parties' columns, each party keeping its own coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from pydantic import Field

from unseen.component import ALIGNED_TABLE, Component, Document, Input, Kind, Leak, Output, Params, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical.logistic import LinearPart, LogisticParams, Setting, train_active, train_passive
from unseen.protocols.linear_map.lattice import Lattice
from unseen.protocols.linear_map.paillier import Paillier
from unseen.protocols.linear_map.plain import Plain
from unseen.protocols.linear_map.port import LinearMap


class LocalParams(Params):
    """When the training stops, and what holds the coefficients back."""

    l2: float = Field(default=1e-3, ge=0)
    """Penalty ½·l2·‖coefficients‖² on top of the mean log loss."""
    max_iterations: int = Field(default=60, ge=1, le=10_000)
    """Stop after this many rounds."""
    tolerance: float = Field(default=1e-5, gt=0, lt=1)
    """Stop when the norm of the gradient has fallen to this share of its first value."""


class LogisticRegressionParams(LocalParams):
    """What is trained, and how it is protected."""

    mode: Literal["linearised", "exact"] = "linearised"
    """linearised: every row's score stays at home, the model is close to that of pooled data.
    exact: passive parties show the label holder scores, the model is that of pooled data."""
    scheme: Literal["lattice", "paillier", "plain"] = "lattice"
    """How sums over rows are protected; plain works only in simulation."""
    min_rows: int = Field(default=100, ge=2)
    """Refuse to train on fewer rows: exact sums over few rows tell the labels of all of them."""


class LinearModel(Document):
    """One party's part of a linear model: its own columns' coefficients; the intercept is the label holder's."""

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    passives: tuple[PartyId, ...]
    """The parties, beside the label holder, whose parts make up the model."""
    iterations: int
    converged: bool
    gradient_norms: tuple[float, ...]
    losses: tuple[float, ...]
    note: str

    @classmethod
    def of(cls, part: LinearPart, names: tuple[str, ...], passives: tuple[PartyId, ...]) -> Self:
        """Return the document of a trained part."""
        return cls(
            names=names,
            coefficients=tuple(part.coef_.tolist()),
            intercept=part.intercept_,
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


LINEARISED, EXACT = {"mode": "linearised"}, {"mode": "exact"}
LINEAR_MODEL = Kind("linear_model", LinearModel)


def scheme_of(name: str, *, simulated: bool) -> LinearMap:
    """Return the linear map scheme called ``name``."""
    if name == "lattice":
        return Lattice()
    return Paillier() if name == "paillier" else Plain(simulation=simulated)


def check_weights(task: Task, table: Table) -> None:
    """Raise ``UsageError`` if the table has a weight column, which would be ignored."""
    if table.schema.weight is not None:
        raise UsageError(
            f"step {task.step}: column {table.schema.weight.name} is a weight, which logistic regression does not use "
            "yet; give it another role by read_table's parameter columns"
        )


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    table, params = task.input("table", Table), task.parameters(LogisticRegressionParams)
    if table.rows < params.min_rows:
        raise DataError(
            f"step {task.step}: {table.rows} rows are fewer than min_rows = {params.min_rows}: share more people; "
            "a lower min_rows lets sums over few rows tell their labels"
        )
    check_weights(task, table)
    scheme = scheme_of(params.scheme, simulated=task.simulated)
    setting = Setting(me=task.me, active=task.active, passives=task.passives, prg=task.prg, scheme=scheme)
    learner = LogisticParams(params.mode, params.l2, params.max_iterations, params.tolerance)
    if task.is_active:
        part = yield from train_active(table.matrix(), table.label(), params=learner, setting=setting)
    else:
        part = yield from train_passive(table.matrix(), params=learner, setting=setting)
    return {"model": LinearModel.of(part, table.schema.feature_names, task.passives)}


COMPONENT = Component(
    name="logistic_regression",
    version=1,
    summary="Logistic regression over all parties' columns; each party keeps its own coefficients.",
    params=LogisticRegressionParams,
    inputs={"table": Input(ALIGNED_TABLE, "scaled training rows without missing values; the label at one party")},
    outputs={"model": Output(LINEAR_MODEL, "this party's part of the model")},
    leaks=(
        Leak("every party", "its own coefficients, and how many rows and columns each party has"),
        Leak("every party", "in each round, the norm of the whole gradient, and the size of vectors to a power of two"),
        Leak(
            "every party",
            "in each round, step lengths, and the products of its own columns with each peer's scores along the search "
            "direction, for each peer by itself",
            LINEARISED,
        ),
        Leak(
            "passive parties",
            "the products of their own columns with the residuals of the label holder's own model, and one scale",
            LINEARISED,
        ),
        Leak("active party", "in each round, five inner products of each passive party's own vectors", LINEARISED),
        Leak(
            "active party",
            "in each round, one score for every row from each passive party; after as many rounds as a party has "
            "columns, the space that they span",
            EXACT,
        ),
        Leak("passive parties", "in each round, the gradient of their own coefficients", EXACT),
    ),
    run=_run,
)
