"""Small jobs of every kind: tens of people, few rounds, and all the steps that a kind of job has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from unseen.flow.builder import Flow, Port, Step
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId

BANK, SHOP, INSURER = PartyId("bank"), PartyId("shop"), PartyId("insurer")
PEOPLE, FEWER = 60, 12
FEW = {"min_rows": 2, "max_iterations": 3}
LABELS = ("binary", "amount", "count", "class")


def tables(folder: Path) -> Mapping[PartyId, Mapping[str, Path]]:
    """Write the parties' tables: people in rows, some of whom not all know, and those of fewer people."""
    draw = np.random.default_rng(7)
    x = draw.normal(size=(PEOPLE, 4)).round(3)
    score = x @ [1.0, -0.5, 0.7, 0.3]
    labels = {
        "binary": (score > 0).astype(np.int64),
        "amount": score.round(3),
        "count": np.exp(score / 2).astype(np.int64),
        "class": np.digitize(score, [-0.5, 0.5]),
    }
    ids = [f"p{number}" for number in range(PEOPLE)]
    bank = pl.DataFrame({"id": ids, **labels, "age": x[:, 0], "income": x[:, 1]})
    shop = pl.DataFrame({"id": ids, "visits": x[:, 2], "spent": x[:, 3], "points": range(PEOPLE)})
    insurer = pl.DataFrame({"id": ids, "claims": x[:, 0] * x[:, 2]})
    frames = {BANK: bank[:-4], SHOP: shop[4:].reverse(), INSURER: insurer[2:-2]}
    for party, frame in frames.items():
        frame.write_csv(folder / f"{party}.csv")
        frame.filter(pl.col("id").is_in(ids[:FEWER])).write_csv(folder / f"{party}-few.csv")
    return {party: {"customers": folder / f"{party}.csv", "few": folder / f"{party}-few.csv"} for party in frames}


def read(flow: Flow, label: str) -> Step:
    others = [name for name in LABELS if name != label]
    return flow.step(
        "read",
        "read_table",
        source=flow.table("customers"),
        columns={BANK: {"id": "id", label: "label"}, SHOP: {"id": "id"}},
        leave_out={BANK: others, SHOP: ["points"]},
    )


def aligned(flow: Flow, label: str) -> Port:
    return flow.step("align", "psi_join", table=read(flow, label)["table"])["table"]


def scaled(flow: Flow, label: str) -> Port:
    return flow.step("scale", "standardise", table=aligned(flow, label))["table"]


# --- the kinds ------------------------------------------------------------------------------------------------------


def psi_join(flow: Flow) -> None:
    table = read(flow, "binary")["table"]
    for protocol in ("ecdh", "vole"):
        flow.step(protocol, "psi_join", table=table, protocol=protocol)
    flow.step("pairs", "psi_join", table=table, duplicates="all_pairs", keep_ids=[BANK])


def one_join(flow: Flow) -> None:
    aligned(flow, "binary")


def psi_count(flow: Flow) -> None:
    table = read(flow, "binary")["table"]
    flow.step("count", "psi_count", table=table)
    for party in (BANK, SHOP):
        flow.step(f"count_{party}", "psi_count", table=table, recipients=[party])


def psi_sum(flow: Flow) -> None:
    roles = {party: {"id": "id"} for party in (BANK, SHOP)}
    table = flow.step("read", "read_table", source=flow.table("few"), columns=roles)["table"]
    flow.step("sum", "psi_sum", table=table, columns={SHOP: ["points"]})


def psi_union(flow: Flow) -> None:
    table = read(flow, "binary")["table"]
    for least in range(3):
        flow.step(f"union_{least}", "psi_union", table=table, min_shared=least)


def preparation(flow: Flow) -> None:
    split = flow.step("split", "split", table=aligned(flow, "binary"), test=0.3)
    scale = flow.step("scale", "standardise", table=split["train"])
    flow.step("apply", "apply_scaler", table=split["test"], scaler=scale["scaler"])
    flow.step("bin", "bin_columns", table=split["train"], max_bins=4)


def logistic_private(flow: Flow) -> None:
    flow.step("train", "logistic_regression", table=scaled(flow, "binary"), mode="private", **FEW)


def logistic_linearised(flow: Flow) -> None:
    flow.step("train", "logistic_regression", table=scaled(flow, "binary"), mode="linearised", **FEW)


def many_rounds(flow: Flow) -> None:
    """More rounds than checkpoints are kept."""
    longer = {**FEW, "max_iterations": 8, "tolerance": 1e-12}
    flow.step("train", "logistic_regression", table=scaled(flow, "binary"), mode="linearised", **longer)


def three_parties(flow: Flow) -> None:
    table = flow.step(
        "read",
        "read_table",
        source=flow.table("customers"),
        columns={BANK: {"id": "id", "binary": "label"}, SHOP: {"id": "id"}, INSURER: {"id": "id"}},
        leave_out={BANK: [name for name in LABELS if name != "binary"], SHOP: ["points"]},
    )["table"]
    flow.step("count", "psi_count", table=table)
    align = flow.step("align", "psi_join", table=table)
    scale = flow.step("scale", "standardise", table=align["table"])
    flow.step("train", "logistic_regression", table=scale["table"], mode="linearised", **FEW)


def linear(flow: Flow) -> None:
    table = scaled(flow, "amount")
    flow.step("ridge", "linear_regression", table=table, **FEW)
    flow.step("lasso", "linear_regression", table=table, l1=0.05, **FEW)


def poisson(flow: Flow) -> None:
    flow.step("train", "poisson_regression", table=scaled(flow, "count"), **FEW)


def tweedie(flow: Flow) -> None:
    flow.step("train", "tweedie_regression", table=scaled(flow, "count"), **FEW)


def softmax(flow: Flow) -> None:
    flow.step("train", "softmax_regression", table=scaled(flow, "class"), classes=3, **FEW)


def boosting(flow: Flow) -> None:
    table = aligned(flow, "binary")
    binned = flow.step("bin", "bin_columns", table=table, max_bins=4)["table"]
    setup = flow.step("prepare", "prepare_histograms", table=binned)["setup"]
    small = {"rounds": 3, "max_depth": 2, "min_rows": 2, "min_rows_in_leaf": 2, "max_sums_per_row": 10.0}
    flow.step("train", "vertical_boosting", table=binned, setup=setup, **small)


def lookup(flow: Flow) -> None:
    table = read(flow, "binary")["table"]
    catalogue = flow.step("prepare", "prepare_lookup", table=table, columns=["visits", "spent"])["catalogue"]
    for told in ("asker", "both"):
        flow.step(f"find_{told}", "psi_lookup", table=table, catalogue=catalogue, recipients=told)


def scoring(flow: Flow) -> None:
    table = scaled(flow, "binary")
    binned = flow.step("bin", "bin_columns", table=table, max_bins=4)["table"]
    models = {
        "own": flow.step("own", "local_logistic_regression", table=table),
        "trees": flow.step("trees", "local_boosting", table=binned, rounds=2, max_depth=2, min_rows_in_leaf=2),
        "joint": flow.step("joint", "logistic_regression", table=table, mode="exact", **FEW),
    }
    for name, model in models.items():
        scores = flow.step(f"score_{name}", "score", table=table, model=model["model"])["scores"]
        flow.step(f"evaluate_{name}", "evaluate", scores=scores)


KINDS: Mapping[str, Callable[[Flow], None]] = {
    kind.__name__: kind
    for kind in (
        psi_join,
        psi_count,
        psi_sum,
        psi_union,
        preparation,
        logistic_private,
        logistic_linearised,
        three_parties,
        linear,
        poisson,
        tweedie,
        softmax,
        boosting,
        lookup,
        scoring,
    )
}


OTHERS = {kind.__name__: kind for kind in (one_join, many_rounds)}


def flow_of(kind: str) -> FlowSpec:
    """Return the flow of a kind of job."""
    flow = Flow(kind, active=BANK, passive=[SHOP, INSURER] if kind == three_parties.__name__ else [SHOP])
    {**KINDS, **OTHERS}[kind](flow)
    return flow.spec


def columns_of(party: PartyId, label: str) -> dict[str, str]:
    """Return column → role of a party's table in flows that learn ``label``; what is not used has none."""
    features = ["age", "income"] if party == BANK else ["visits", "spent"]
    unused = [name for name in LABELS if name != label] if party == BANK else ["points"]
    own = {"id": "id", label: "label"} if party == BANK else {"id": "id"}
    return {**own, **dict.fromkeys(features, "feature"), **dict.fromkeys(unused, "")}
