"""The content of a report: frozen values with a lossless JSON form.

Everything here is an aggregate that the job has already computed; the report never sees a row. Names of parties,
columns and steps are display texts and may hold any characters; whoever renders them escapes them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from unseen.errors import DataError, UsageError

MAX_POINTS = 200
"""More points than this a curve does not need on screen; ``thin`` brings it there."""

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, ...], Field(min_length=2, max_length=MAX_POINTS)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Seconds = Amount


class Value(BaseModel):
    """Base of all parts of a report: immutable, strict about unknown fields, free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(Value):
    """Base of curves: parallel tuples of the same length.

    Raises:
        UsageError: The columns differ in length.
    """

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"{type(self).__name__} needs columns of one length, found {lengths}")
        return self


class RocCurve(Columns):
    """Share of negatives and of positives above each threshold, from (0, 0) to (1, 1)."""

    false_positive_rate: Shares
    true_positive_rate: Shares


class KsCurve(Columns):
    """Cumulative share of positives and negatives found among the highest-scored share of all people."""

    share: Shares
    positives: Shares
    negatives: Shares


class CalibrationPoint(Value):
    """One group of people with similar predictions: mean prediction, observed rate of positives, size."""

    predicted: Share
    observed: Share
    count: Count


class ScoreHistogram(Value):
    """People per score bin, by outcome; ``edges`` has one entry more than the counts.

    Raises:
        UsageError: Edges and counts do not fit each other, or the edges do not increase.
    """

    edges: tuple[float, ...]
    positives: tuple[Count, ...]
    negatives: tuple[Count, ...]

    @model_validator(mode="after")
    def _check_bins(self) -> Self:
        bins = len(self.edges) - 1
        if bins < 1 or len(self.positives) != bins or len(self.negatives) != bins:
            raise UsageError(
                f"a histogram with {len(self.edges)} edges needs one count fewer for each outcome, "
                f"found {len(self.positives)} and {len(self.negatives)}"
            )
        if any(right <= left for left, right in pairwise(self.edges)):
            raise UsageError(f"histogram edges must increase, found {self.edges}")
        return self


class ModelKind(enum.StrEnum):
    """How a model came about; colours and the summary follow it."""

    FEDERATED = "federated"
    ALONE = "alone"
    POOLED = "pooled"


class ClassResult(Value):
    """One of several classes: how many people are in it, and how well they are told from all others."""

    name: str
    count: Count
    precision: Share | None
    """Share of the class among those predicted to be in it; ``None`` if nobody is."""
    recall: Share | None
    """Share of the class that is predicted to be in it; ``None`` if nobody is in it."""
    auc: Share | None
    """AUC against all other classes; ``None`` if all people, or none, are in the class."""


class ModelResult(Value):
    """Quality of one model on the test people: the measures that fit its kind of label; curves may be absent.

    Two classes: ``auc`` to ``brier`` and the curves. More classes: ``accuracy``, ``log_loss``, ``classes``. Amounts
    and counts: ``rmse``, ``mae``, ``d2``.
    """

    name: str
    kind: ModelKind
    auc: Share | None = None
    ks: Share | None = None
    log_loss: Amount | None = None
    brier: Share | None = None
    accuracy: Share | None = None
    rmse: Amount | None = None
    mae: Amount | None = None
    d2: Annotated[float, Field(le=1)] | None = None
    classes: tuple[ClassResult, ...] = ()
    roc: RocCurve | None = None
    ks_curve: KsCurve | None = None
    calibration: Annotated[tuple[CalibrationPoint, ...], Field(max_length=MAX_POINTS)] = ()
    scores: ScoreHistogram | None = None


class PartySummary(Value):
    """One party: its name, its role ("active", "passive", …) and, in words, what it holds."""

    name: str
    role: str
    holds: str = ""


class StepUsage(Value):
    """What one step cost one party."""

    step: str
    component: str
    party: str
    seconds: Seconds
    bytes_sent: Count = 0
    bytes_received: Count = 0
    rounds: Count = 0
    messages: Count = 0
    reused: bool = False


INTERCEPT = "intercept"
"""Name of the constant term among the coefficients; it is listed, but not drawn beside the weights of columns."""


class Coefficient(Value):
    """Weight of one column in the federated model, and in the pooled-data model if there is one."""

    party: str
    name: str
    value: float
    pooled_value: float | None = None


class LearningCurve(Columns):
    """A measure of a model in training after each round (tree, iteration), on one sample of people; thinned."""

    rounds: Annotated[tuple[Count, ...], Field(max_length=MAX_POINTS)]
    values: Annotated[tuple[float, ...], Field(max_length=MAX_POINTS)]


class Learning(Value):
    """How one measure of one model went during the training; ``best`` is the round whose model was kept."""

    model: str
    measure: str
    train: LearningCurve
    validation: LearningCurve | None = None
    best: Count | None = None


class Importance(Value):
    """How much one column contributes: its share of all gain, and how many splits use it.

    ``name`` is whatever the reader may know: the column's name, or, for another party's column, an opaque number.
    """

    party: str
    name: str
    gain: Share
    splits: Count


class ModelImportance(Value):
    """How much each column contributes to one model.

    Raises:
        UsageError: A party has two columns of one name.
    """

    model: str
    columns: tuple[Importance, ...]

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        _refuse_twice("importance of a party's column", [(column.party, column.name) for column in self.columns])
        return self


class RoundUsage(Value):
    """What one party had spent in a step when a round of it (a tree, an iteration) was done."""

    step: str
    party: str
    round: Count
    seconds: Seconds
    bytes_sent: Count = 0


class FactGroup(enum.StrEnum):
    """Where a fact is shown."""

    DATA = "data"
    PROTOCOL = "protocol"
    PARAMETERS = "parameters"


class Fact(Value):
    """One thing worth knowing about the run; with ``tile`` it is also shown at the top."""

    name: str
    value: str
    group: FactGroup = FactGroup.DATA
    tile: bool = False


class LeakageRow(Value):
    """What a party learned in a step beyond its own data."""

    step: str
    party: str
    learns: str


class LineageRow(Value):
    """One artifact, the step and party that made it, and the artifacts it was made from."""

    artifact: str
    kind: str
    step: str
    party: str
    made_from: tuple[str, ...] = ()


class Report(Value):
    """Everything that is shown about one run.

    All models of ``comparison`` are scored on the same test people. ``conclusion`` holds one or more sentences, the
    first being the headline. ``positive`` and ``negative`` name the two outcomes in the words of the trade.
    ``seconds`` is the wall time of the whole job, where known.

    Raises:
        UsageError: A step has two usages for one party, or a party two coefficients of one name.
    """

    format: Literal[1] = 1
    title: str
    created: AwareDatetime
    flow: str
    parties: tuple[PartySummary, ...]
    conclusion: Annotated[tuple[str, ...], Field(min_length=1)]
    positive: str = "bad"
    negative: str = "good"
    seconds: Seconds | None = None
    comparison: tuple[ModelResult, ...] = ()
    steps: tuple[StepUsage, ...] = ()
    rounds: tuple[RoundUsage, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    learning: tuple[Learning, ...] = ()
    importance: tuple[ModelImportance, ...] = ()
    facts: tuple[Fact, ...] = ()
    leakage: tuple[LeakageRow, ...] = ()
    lineage: tuple[LineageRow, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        _refuse_twice("usage of a step by a party", [(usage.step, usage.party) for usage in self.steps])
        _refuse_twice("coefficient of a party", [(weight.party, weight.name) for weight in self.coefficients])
        return self

    def to_json(self) -> str:
        """Return the JSON text that ``from_json`` turns back into an equal report."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the report written by ``to_json``.

        Raises:
            DataError: The text is not the JSON of a report; the message names the field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the text"
            raise DataError(f"this is not a report: {where}: {first['msg']}") from exc
        except UsageError as exc:
            raise DataError(f"this is not a report: {exc}") from exc


def _refuse_twice(what: str, keys: Sequence[tuple[str, str]]) -> None:
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        raise UsageError(f"expected each {what} once, found {twice[0]} more than once")


def thin(*columns: Sequence[float], limit: int = MAX_POINTS) -> tuple[tuple[float, ...], ...]:
    """Return the columns at no more than ``limit`` evenly spaced positions, the first and the last among them.

    Raises:
        UsageError: The columns differ in length, or ``limit`` is below 2.
    """
    lengths = {len(column) for column in columns}
    if len(lengths) != 1 or limit < 2:
        raise UsageError(f"thinning needs columns of one length and a limit of at least 2, found {lengths}, {limit}")
    length = lengths.pop()
    if length <= limit:
        return tuple(tuple(map(float, column)) for column in columns)
    kept = [position * (length - 1) // (limit - 1) for position in range(limit)]
    return tuple(tuple(float(column[position]) for position in kept) for column in columns)
