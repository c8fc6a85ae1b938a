"""The example of the README: one credit model of a bank and a partner, all in one process; prints its AUC."""

from unseen import Flow, simulate
from unseen.data.demo import make_parties

tables = {party: {"customers": frame} for party, frame in make_parties(rows=3000).items()}

flow = Flow("credit", active="bank", passive=["partner"])
people = flow.step("read", "read_table", source=flow.table("customers"))
shared = flow.step("align", "psi_join", table=people["table"])
parts = flow.step("split", "split", table=shared["table"], test=0.3)
train = flow.step("scale", "standardise", table=parts["train"])
test = flow.step("scale_test", "apply_scaler", table=parts["test"], scaler=train["scaler"])
model = flow.step("train", "logistic_regression", table=train["table"])
scores = flow.step("score_test", "score", table=test["table"], model=model["model"])
flow.step("evaluate", "evaluate", scores=scores["scores"])

print(simulate(flow, tables).get("evaluate.evaluation", "bank").result.auc)
