"""Models of boosted trees as parties keep them: each its own half, with its own bins, and how the training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.catalog.binned_table import Bins
from unseen.codec import message
from unseen.component import MODEL, Document, Kind, Packed, Shown, Task
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.ids import PartyId
from unseen.learners.vertical.boosting.model import ActiveModel, ActiveResult, PassiveModel
from unseen.learners.vertical.boosting.model import Importance as Totals
from unseen.learners.vertical.boosting.scoring import score_active, score_passive
from unseen.learners.vertical.boosting.setting import BoostingSetting
from unseen.report.model import Importance, Learning, LearningCurve, ModelImportance, thin

MEASURES: Mapping[str, str] = {
    "binary": "log loss",
    "multiclass": "log loss",
    "squared": "squared error",
    "poisson": "Poisson loss",
    "huber": "Huber loss",
}


@message("catalog/tree-model")
class TreeModel:
    """One party's half of a model: the active party's trees, or a passive party's splits, and this party's bins."""

    bins: str
    """``Bins`` as JSON."""
    objective: str
    passives: tuple[str, ...]
    active: ActiveModel | None
    passive: PassiveModel | None

    @property
    def rules(self) -> Bins:
        """What the bins are."""
        return Bins.model_validate_json(self.bins)


class BoostingReport(Document):
    """How a training went, as far as this party knows; a passive one knows its own columns' importance only."""

    objective: str
    rounds: int
    """Rounds that were kept; each adds one tree, or one for each class."""
    losses: tuple[float, ...]
    """Loss on the training rows after each round that was kept."""
    validation_losses: tuple[float, ...]
    """The same on the validation rows, after each round that was made; empty without them."""
    leaves: tuple[int, ...]
    """Leaves of each tree that was kept."""
    importance: tuple[Importance, ...]
    """Other parties' columns are known by numbers; without ``share_gains`` a passive party knows no gains."""
    note: str

    def learning(self, name: str) -> Learning:
        """Return the learning curves for a report that calls the model ``name``."""
        return Learning(
            model=name,
            measure=MEASURES[self.objective],
            train=_curve(self.losses),
            validation=_curve(self.validation_losses) if self.validation_losses else None,
            best=self.rounds,
        )

    def shown(self, step: str, party: str) -> Shown:
        """Return learning curves and importance, at the label holder; passive parties know a part of it only."""
        del party
        if not self.losses:
            return Shown()
        return Shown(
            learning=(self.learning(step),), importance=(ModelImportance(model=step, columns=self.importance),)
        )


TREE_MODEL = Kind("tree_model", Packed, general=MODEL)
BOOSTING_REPORT = Kind("boosting_report", BoostingReport)


def active_report(me: PartyId, bins: Bins, result: ActiveResult) -> BoostingReport:
    """Return what the active party knows of a training."""
    own, *others = result.report.importances
    whole = sum(float(totals.gains.sum()) for totals in result.report.importances)
    shares = [*_shares(me, [column.name for column in bins.columns], own, whole)]
    for party, totals in zip(result.model.passives, others, strict=True):
        shares += _shares(
            PartyId(party), [f"number {number + 1}" for number in range(len(totals.splits))], totals, whole
        )
    return BoostingReport(
        objective=result.model.objective,
        rounds=len(result.report.losses),
        losses=tuple(result.report.losses.tolist()),
        validation_losses=tuple(result.report.validation_losses.tolist()),
        leaves=tuple(result.report.leaves.tolist()),
        importance=tuple(shares),
        note=result.report.note,
    )


def passive_report(me: PartyId, bins: Bins, objective: str, model: PassiveModel) -> BoostingReport:
    """Return what a passive party knows of a training: gains are shares of those of its own columns."""
    totals = model.importance()
    names = [column.name for column in bins.columns]
    return BoostingReport(
        objective=objective,
        rounds=0,
        losses=(),
        validation_losses=(),
        leaves=(),
        importance=tuple(_shares(me, names, totals, float(totals.gains.sum()))),
        note="",
    )


def score_trees(task: Task, table: Table, model: TreeModel) -> Dialogue[NDArray[np.float64] | None]:
    """Return predictions at the active party, shape (rows,) or (rows, classes); ``None`` at a passive one.

    Raises:
        DataError: The table has other columns than the model's bins.
        RemoteProtocolError: A peer has other rows or another model.
    """
    passives = tuple(PartyId(party) for party in model.passives)
    setting = BoostingSetting(me=task.me, active=task.active, passives=passives, prg=task.prg)
    columns = model.rules.apply(table)
    if task.is_active and model.active is not None:
        return (yield from score_active(model.active, columns, setting))
    if task.is_active or model.passive is None:
        raise DataError(f"step {task.step}: this is not {task.me}'s half of the model, but another party's")
    yield from score_passive(model.passive, columns, setting)
    return None


def _shares(party: PartyId, names: Sequence[str], totals: Totals, whole: float) -> list[Importance]:
    return [
        Importance(party=party, name=name, gain=min(1.0, float(gain) / whole) if whole > 0 else 0.0, splits=int(splits))
        for name, gain, splits in zip(names, totals.gains, totals.splits, strict=True)
    ]


def _curve(losses: Sequence[float]) -> LearningCurve:
    rounds, values = thin(range(1, len(losses) + 1), losses)
    return LearningCurve(rounds=tuple(int(number) for number in rounds), values=values)
