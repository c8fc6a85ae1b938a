"""The flow that the demo runs: from two files to an evaluated model and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unseen.flow.builder import Flow

TABLE = "customers"

Mode = Literal["private", "linearised", "exact"]


def credit_flow(active: str, passives: Sequence[str], *, mode: Mode = "private", scheme: str = "lattice") -> Flow:
    """Return the demo's flow: read → align → split → scale → train → evaluate, and score those without a label.

    The active party keeps its ids, since it wants to know whom the scores of the new people are about.
    """
    flow = Flow("credit", active=active, passive=passives)
    read = flow.step("read", "read_table", source=flow.table(TABLE))
    align = flow.step("align", "psi_join", table=read["table"], keep_ids=[active])
    split = flow.step("split", "split", table=align["table"], test=0.3)
    scale = flow.step("scale", "standardise", table=split["train"])
    test = flow.step("scale_test", "apply_scaler", table=split["test"], scaler=scale["scaler"])
    new = flow.step("scale_new", "apply_scaler", table=split["unlabelled"], scaler=scale["scaler"])
    train = flow.step("train", "logistic_regression", table=scale["table"], mode=mode, scheme=scheme)
    scores = flow.step("score_test", "score", table=test["table"], model=train["model"])
    flow.step("evaluate", "evaluate", scores=scores["scores"])
    alone = flow.step("train_alone", "local_logistic_regression", table=scale["table"])
    alone_scores = flow.step("score_alone", "score", table=test["table"], model=alone["model"])
    name = f"{active} alone"
    flow.step("evaluate_alone", "evaluate", scores=alone_scores["scores"], name=name, kind="alone")
    flow.step("score_new", "score", table=new["table"], model=train["model"])
    return flow
