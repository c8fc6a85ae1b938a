"""A plausible report, from formulas rather than data: scores of both outcomes are normal, a distance apart."""

from datetime import UTC, datetime
from itertools import pairwise
from math import log
from statistics import NormalDist

import pytest

from unseen.report.model import (
    CalibrationPoint,
    ClassResult,
    Coefficient,
    Fact,
    FactGroup,
    Importance,
    KsCurve,
    LeakageRow,
    Learning,
    LearningCurve,
    LineageRow,
    ModelImportance,
    ModelKind,
    ModelResult,
    PartySummary,
    Report,
    RocCurve,
    RoundUsage,
    ScoreHistogram,
    StepUsage,
)

NORMAL = NormalDist()
BAD_RATE = 0.22
LEARNED = (
    ("join", "Alder Bank", "which of its customers the partner knows too, and how many customers the partner has"),
    ("join", "Birch Shop", "which of its customers the bank knows too, and how many customers the bank has"),
    ("model", "Alder Bank", "the sum of the partner's weighted columns for each person used for training"),
    ("model", "Birch Shop", "the gradient of its own weights in each iteration; no label, no prediction"),
)


def model_result(name: str, kind: ModelKind, auc: float, shift: float = 0.0) -> ModelResult:
    distance = NORMAL.inv_cdf(auc) * 2**0.5
    thresholds = [4.5 - 9 * step / 149 for step in range(150)]
    negatives = (0.0, *(1 - NORMAL.cdf(t) for t in thresholds), 1.0)
    positives = (0.0, *(1 - NORMAL.cdf(t - distance) for t in thresholds), 1.0)
    share = tuple(BAD_RATE * p + (1 - BAD_RATE) * n for p, n in zip(positives, negatives, strict=True))
    predicted = [0.03, 0.07, 0.11, 0.15, 0.19, 0.24, 0.3, 0.37, 0.47, 0.63]
    edges = tuple(step / 25 for step in range(26))
    logits = [float("-inf"), *(log(edge / (1 - edge)) + 1.6 for edge in edges[1:-1]), float("inf")]
    return ModelResult(
        name=name,
        kind=kind,
        auc=auc,
        ks=max(p - n for p, n in zip(positives, negatives, strict=True)),
        log_loss=0.79 - 0.45 * auc,
        brier=0.26 - 0.14 * auc,
        roc=RocCurve(false_positive_rate=negatives, true_positive_rate=positives),
        ks_curve=KsCurve(share=share, positives=positives, negatives=negatives),
        calibration=tuple(
            CalibrationPoint(predicted=p, observed=p + shift * (p - 0.2) + 0.012 * (-1) ** i, count=600)
            for i, p in enumerate(predicted)
        ),
        scores=ScoreHistogram(
            edges=edges,
            negatives=_counts(logits, 0, 4680),
            positives=_counts(logits, distance, 1320),
        ),
    )


def _counts(bounds: list[float], mean: float, people: int) -> tuple[int, ...]:
    return tuple(round(people * (NORMAL.cdf(b - mean) - NORMAL.cdf(a - mean))) for a, b in pairwise(bounds))


def _steps() -> tuple[StepUsage, ...]:
    rows = [
        ("join", "psi_join", 3.42, 2_120_000, 1_940_000, 3, 14, False),
        ("bins", "woe_binning", 1.81, 212_000, 4_830_000, 2, 6, True),
        ("model", "logistic_regression", 41.7, 141_200_000, 38_900_000, 22, 210, False),
        ("test", "evaluate", 0.62, 96_400, 480, 1, 4, False),
        ("report", "report", 0.04, 812, 0, 0, 1, False),
    ]
    return tuple(
        usage
        for step, component, seconds, out, back, rounds, messages, reused in rows
        for usage in (
            StepUsage(step=step, component=component, party="Alder Bank", seconds=seconds, bytes_sent=out,
                      bytes_received=back, rounds=rounds, messages=messages, reused=reused),
            StepUsage(step=step, component=component, party="Birch Shop", seconds=seconds * 0.83, bytes_sent=back,
                      bytes_received=out, rounds=rounds, messages=messages, reused=reused),
        )
    )  # fmt: skip


def _coefficients() -> tuple[Coefficient, ...]:
    bank = {"intercept": -1.3127, "debt_to_income": 0.4214, "utilisation": 0.5871, "age": -0.2088,
            "months_at_employer": -0.1743, "previous_loans": 0.0612}  # fmt: skip
    shop = {"late_invoices_12m": 0.7034, "basket_median": -0.0921, "night_orders_share": 0.1834,
            "returns_share": 0.1145, "customer_for_months": -0.3317}  # fmt: skip
    return tuple(
        Coefficient(party=party, name=name, value=value, pooled_value=value + 0.0007 * (-1) ** position)
        for party, weights in (("Alder Bank", bank), ("Birch Shop", shop))
        for position, (name, value) in enumerate(weights.items())
    )


def _learning() -> Learning:
    rounds = tuple(range(1, 61))
    train = tuple(0.5 - 0.004 * tree for tree in rounds)
    other = tuple(0.52 + 0.00002 * (tree - 40) ** 2 for tree in rounds)
    curves = [LearningCurve(rounds=rounds, values=values) for values in (train, other)]
    return Learning(model="Federated", measure="log loss", train=curves[0], validation=curves[1], best=40)


def _importance() -> ModelImportance:
    shares = (("Alder Bank", "utilisation", 0.4), ("Birch Shop", "number 17", 0.35), ("Alder Bank", "age", 0.25))
    columns = (Importance(party=party, name=name, gain=gain, splits=round(90 * gain)) for party, name, gain in shares)
    return ModelImportance(model="Federated", columns=tuple(columns))


def _rounds() -> tuple[RoundUsage, ...]:
    return tuple(
        RoundUsage(step="model", party=party, round=tree, seconds=2 * tree, bytes_sent=size * tree)
        for party, size in (("Alder Bank", 120_000_000), ("Birch Shop", 800_000))
        for tree in (1, 2, 3)
    )


def sample_report() -> Report:
    return Report(
        title="Credit risk with a partner",
        created=datetime(2026, 3, 5, 14, 7, tzinfo=UTC),
        flow="credit_demo",
        parties=(
            PartySummary(name="Alder Bank", role="active", holds="The label “default” and 5 columns of 30,000 people"),
            PartySummary(name="Birch Shop", role="passive", holds="5 columns of 45,000 people"),
        ),
        conclusion=(
            "Together the model reaches AUC 0.73; the bank alone 0.65; pooled data 0.73. No row left its owner.",
            "With the partner's columns the bank finds more of the loans that default, at the same number of refusals.",
        ),
        comparison=(
            model_result("Federated", ModelKind.FEDERATED, 0.7311, 0.03),
            model_result("Bank alone", ModelKind.ALONE, 0.6523, -0.12),
            model_result("Pooled data", ModelKind.POOLED, 0.7313, 0.02),
        ),
        steps=_steps(),
        rounds=_rounds(),
        coefficients=_coefficients(),
        learning=(_learning(),),
        importance=(_importance(),),
        facts=(
            Fact(name="People in common", value="24,107", tile=True),
            Fact(name="Trained on", value="18,107 people"),
            Fact(name="Tested on", value="6,000 people, 22 % defaulted"),
            Fact(name="Scored", value="6,000 people"),
            Fact(name="Matching", value="psi_join · ECDH on ristretto255", group=FactGroup.PROTOCOL),
            Fact(name="Training", value="lattice linear map, n = 2560, q = 2^64", group=FactGroup.PROTOCOL),
            Fact(name="Security", value="semi-honest, 128 bits", group=FactGroup.PROTOCOL),
            Fact(name="Penalty (L2)", value="0.01", group=FactGroup.PARAMETERS),
            Fact(name="Iterations", value="11 of at most 30", group=FactGroup.PARAMETERS),
            Fact(name="Seed", value="7", group=FactGroup.PARAMETERS),
        ),
        leakage=tuple(LeakageRow(step=step, party=party, learns=learns) for step, party, learns in LEARNED),
        lineage=(
            LineageRow(artifact="sha256:4f1c09ab7e21", kind="table", step="join", party="Alder Bank"),
            LineageRow(artifact="sha256:9bd0332f61c8", kind="table", step="join", party="Birch Shop"),
            LineageRow(artifact="sha256:e07712aa90d4", kind="model", step="model", party="Alder Bank",
                       made_from=("sha256:4f1c09ab7e21", "sha256:51b2cc07a3f0")),
            LineageRow(artifact="sha256:0c55e81b3d97", kind="report", step="report", party="Alder Bank",
                       made_from=("sha256:e07712aa90d4",)),
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def amounts() -> Report:
    """A report of models of amounts and one of classes: no AUC, no curves."""
    classes = (
        ClassResult(name="0", count=60, precision=0.9, recall=0.75, auc=0.93),
        ClassResult(name="1", count=0, precision=None, recall=None, auc=None),
    )
    models = (
        ModelResult(name="Federated", kind=ModelKind.FEDERATED, rmse=1234.5678, mae=800, d2=0.42),
        ModelResult(name="Bank alone", kind=ModelKind.ALONE, rmse=1500, mae=900, d2=0.31),
        ModelResult(name="By class", kind=ModelKind.ALONE, accuracy=0.8, log_loss=0.5, classes=classes),
    )
    return sample_report().model_copy(update={"comparison": models})


@pytest.fixture(scope="session")
def report() -> Report:
    return sample_report()
