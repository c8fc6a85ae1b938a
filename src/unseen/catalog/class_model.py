"""Linear models of several classes as parties keep them."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from unseen.catalog.linear_model import check_columns
from unseen.component import MODEL, Document, Kind, Task
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.learners.vertical import softmax
from unseen.learners.vertical.setting import Setting


class ClassModel(Document):
    """One party's part of a linear model of several classes; intercepts are the label holder's."""

    names: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    """For each class, one a column."""
    intercepts: tuple[float, ...]
    passives: tuple[PartyId, ...]
    """The parties, beside the label holder, whose parts make up the model."""
    iterations: int
    converged: bool
    gradient_norms: tuple[float, ...]
    losses: tuple[float, ...]
    note: str

    @classmethod
    def of(cls, part: softmax.SoftmaxPart, names: tuple[str, ...], passives: tuple[PartyId, ...]) -> Self:
        """Return the document of a trained part."""
        return cls(
            names=names,
            coefficients=tuple(tuple(row) for row in part.coef_.tolist()),
            intercepts=tuple(part.intercept_.tolist()),
            passives=passives,
            iterations=part.n_iterations,
            converged=part.converged,
            gradient_norms=tuple(part.gradient_norms.tolist()),
            losses=tuple(part.losses.tolist()),
            note=part.note,
        )

    @property
    def part(self) -> softmax.SoftmaxPart:
        """The trained part, as the learner takes it."""
        return softmax.SoftmaxPart(
            np.array(self.coefficients, np.float64).reshape(len(self.intercepts), len(self.names)),
            np.array(self.intercepts, np.float64),
            self.iterations,
            self.converged,
            np.array(self.gradient_norms, np.float64),
            np.array(self.losses, np.float64),
            self.note,
        )


CLASS_MODEL = Kind("class_model", ClassModel, general=MODEL)


def score_classes(task: Task, table: Table, model: ClassModel) -> Dialogue[NDArray[np.float64] | None]:
    """Return probabilities (rows, classes) at the active party, ``None`` at a passive one.

    Raises:
        DataError: The table has other columns than the model, or missing values.
        RemoteProtocolError: A peer has other rows.
    """
    check_columns(task, table, model.names)
    setting = Setting(me=task.me, active=task.active, passives=model.passives, prg=task.prg)
    if task.is_active:
        return (yield from softmax.score_active(model.part, table.matrix(), setting))
    yield from softmax.score_passive(model.part, table.matrix(), setting)
    return None
