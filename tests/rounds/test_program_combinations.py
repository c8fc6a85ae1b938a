"""Whatever keys a program has together, it is built, or refused in words that begin with the file and a key."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.learners.horizontal.compression.compressed import Compressed
from unseen.learners.horizontal.sums import SumAggregator
from unseen.rounds import private, spending
from unseen.rounds.building import Built
from unseen.rounds.program import Program

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

NEEDED = {
    "name": "any",
    "data": {"source": "digits", "clients": 6},
    "model": {"name": "logistic_regression", "features": 64},
}
SPENT = {"clip": 1.0, "epsilon": 9, "delta": 1e-3, "noise_multiplier": 1.0}
CHOICES = {
    "strategy": [{"name": name} for name in ("fed_avg", "scaffold", "fed_buff", "ditto")],
    "robust": [{"name": "median"}, {"name": "krum", "byzantine": 1}],
    "compression": [{"name": "top_k"}, {"name": "quantised", "feedback": True}],
    "aggregation": [{"secure": False}, {"secure": True, "clip": 1.0, "max_weight": 9}],
    "privacy": [{"mode": mode, **SPENT} for mode in private.MODES] + [{"mode": "dp_sgd", "examples": 50, **SPENT}],
    "cohort": [{"size": 4}, {"rate": 0.5}, {"size": 4, "weighted": True}, {"size": 9}],
    "asynchronous": [{}, {"buffer": 2}],
    "topology": [{"name": "ring"}, {"name": "peers"}],
}


@st.composite
def programs(draw):
    """Return a strategy, now and then none, with up to two further keys: more of them seldom go together."""
    keys = draw(st.sets(st.sampled_from([key for key in CHOICES if key != "strategy"]), max_size=2))
    keys |= draw(st.sampled_from([{"strategy"}] * 9 + [set()]))
    return {key: draw(st.sampled_from(CHOICES[key])) for key in sorted(keys)}


class Free:
    """An accountant to whom nothing costs anything."""

    @staticmethod
    def epsilon(facts, delta):
        del facts, delta
        return 0.0

    @staticmethod
    def affordable(fact, epsilon, delta):
        del fact, epsilon, delta
        return 1000


@pytest.fixture(scope="module", autouse=True)
def free():
    with pytest.MonkeyPatch.context() as patch:
        for module in (private, spending):
            patch.setattr(module, "accounting", lambda: Free)
        yield


@settings(max_examples=80)
@given(programs())
def test_a_program_is_built_or_refused_by_a_key(chosen):
    text = json.dumps({**NEEDED, **chosen}, indent=1)
    refused = None
    try:
        learning = Built(Program.parse(text, name="f.yaml"))
        process, _ = learning.process, learning.cohort
    except UsageError as error:
        refused = str(error)
    if refused is not None:
        assert re.match(r"f\.yaml: (line \d+, )?[a-z]+(\.\w+)?: ", refused)
        return
    # What is built hides what it says: noise is the last that happens to an update, and sums are of plain ones.
    if "privacy" in chosen:
        assert not isinstance(process.work, Compressed)
        assert {"compression", "asynchronous"}.isdisjoint(chosen)
        modes = {"ring": "local", "peers": "distributed"}
        assert "topology" not in chosen or modes[chosen["topology"]["name"]] == chosen["privacy"]["mode"]
    if chosen.get("aggregation", {}).get("secure"):
        assert isinstance(process.aggregator, SumAggregator)
        assert {"robust", "privacy", "compression"}.isdisjoint(chosen)
