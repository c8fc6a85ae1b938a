"""Gradient boosting of a bank's and a partner's columns, simulated in one process; prints both models' AUC."""

from unseen import Flow, simulate
from unseen.data.demo import make_parties

tables = {party: {"customers": frame} for party, frame in make_parties(rows=1500).items()}

flow = Flow("boosting", active="bank", passive=["partner"])
read = flow.step("read", "read_table", source=flow.table("customers"))
align = flow.step("align", "psi_join", table=read["table"])
split = flow.step("split", "split", table=align["table"], test=0.3)
bins = flow.step("bin", "bin_columns", table=split["train"], max_bins=16)
prepare = flow.step("prepare", "prepare_histograms", table=bins["table"])
for name, use, more in (
    # Some 1,000 people are few: the default of 0.1 sums a person is not enough for 15 rounds. Never with real people.
    ("together", "vertical_boosting", {"setup": prepare["setup"], "max_sums_per_row": 0.2}),
    ("alone", "local_boosting", {}),
):
    train = flow.step(f"train_{name}", use, table=bins["table"], rounds=15, learning_rate=0.3, max_depth=3, **more)
    scores = flow.step(f"score_{name}", "score", table=split["test"], model=train["model"])
    flow.step(f"evaluate_{name}", "evaluate", scores=scores["scores"])

result = simulate(flow, tables)
for name in ("together", "alone"):
    print(name, round(result.get(f"evaluate_{name}.evaluation", "bank").result.auc, 3))
for column in result.get("train_together.report", "partner").importance:  # the partner's own columns, by name
    print(f"  {column.name}: {column.splits} splits")
