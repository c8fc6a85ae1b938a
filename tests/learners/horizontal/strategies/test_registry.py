"""Strategies by name: parameters are checked, and described in the guide."""

import inspect
import re
from pathlib import Path

import pytest

from unseen.errors import UsageError
from unseen.learners.horizontal.compression import Quantised, TopK
from unseen.learners.horizontal.process import LocalPlan
from unseen.learners.horizontal.robust import AGGREGATORS, aggregator
from unseen.learners.horizontal.strategies import STRATEGIES, parameters, strategy
from unseen.learners.horizontal.strategies.fed_prox import fed_prox
from unseen.learners.horizontal.strategies.registry import REQUIRED

GUIDE = (Path(__file__).parents[4] / "docs" / "guides" / "strategies.md").read_text(encoding="utf-8")


def test_a_strategy_takes_the_plan_and_its_own_parameters_by_name():
    assert strategy("fed_prox", mu=0.5, epochs=3, learning_rate=0.2) == fed_prox(LocalPlan(0.2, 3), mu=0.5)
    assert strategy("fed_prox", epochs="3").work.plan.epochs == 3


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("fed_magic", {}, "no strategy 'fed_magic'; there are clustered, ditto, fed_adagrad"),
        ("fed_prox", {"nu": 1}, "fed_prox has no parameter nu; it has learning_rate, .*, mu, server_learning_rate"),
        ("fed_sgd", {"epochs": 2}, "fed_sgd has no parameter epochs; it has learning_rate"),
        ("fed_prox", {"mu": -1}, "fed_prox: parameter mu: .*greater than or equal to 0, found -1"),
        ("fed_prox", {"mu": float("nan")}, "parameter mu"),
        ("fed_avg_m", {"beta": 1.0}, "parameter beta: .*less than 1"),
        ("fed_avg", {"learning_rate": 0.0}, "fed_avg: learning_rate has to be positive, found 0.0"),
        ("fed_avg", {"epochs": 0}, "epochs has to be at least 1"),
        ("fed_avg", {"batch": 0}, "batch has to be at least 1"),
        ("fed_avg", {"momentum": 1.0}, r"momentum has to be in \[0, 1\)"),
        ("fed_avg", {"weight_decay": -0.1}, "weight_decay must not be negative"),
        ("fed_avg", {"steps": 0}, "steps has to be at least 1, or nothing"),
        ("fed_avg", {"epochs": "many"}, "parameter plan.epochs"),
        ("scaffold", {}, "scaffold: parameter clients is missing"),
        ("scaffold", {"clients": 0}, "parameter clients"),
        ("fed_dyn", {"clients": 2, "alpha": 0}, "parameter alpha: .*greater than 0"),
        ("fed_bn", {"local": ()}, "parameter local"),
        ("fed_rep", {"head": ("b",), "momentum": 0.9}, "trains without momentum, found momentum 0.9"),
        ("fed_buff", {"exponent": -1}, "parameter exponent"),
        ("clustered", {"clusters": 0}, "parameter clusters"),
        ("fed_adam", {"tau": 0}, "parameter tau"),
    ],
)
def test_what_a_strategy_does_not_allow_is_refused(name, given, message):
    with pytest.raises(UsageError, match=message):
        strategy(name, **given)


def test_every_file_of_a_strategy_cites_a_paper():
    for constructor in STRATEGIES.values():
        assert "\nSource: " in inspect.getmodule(inspect.unwrap(constructor)).__doc__


def row(name):
    """Return the row of the first table that lists it: that of its parameters."""
    return re.findall(rf"^\| `{name}` \|.*$", GUIDE, re.MULTILINE)[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_guide_lists_every_parameter_with_its_default(name):
    own = {key: value for key, value in parameters(name).items() if name == "fed_sgd" or not hasattr(LocalPlan, key)}
    for key, value in own.items():
        assert (f"`{key}`" if value is REQUIRED else f"`{key}={value!r}`") in row(name)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_guide_lists_every_aggregator_with_its_parameters(name):
    for key in inspect.signature(AGGREGATORS[name]).parameters:
        assert f"`{key}" in row(name)


@pytest.mark.parametrize("kind", [TopK, Quantised])
def test_the_guide_lists_every_codec(kind):
    for key in inspect.signature(kind).parameters:
        assert f"`{key}" in row(kind.__name__)


def test_the_examples_of_the_guide_run():
    examples, names = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL), {}
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, "strategies.md", "exec"), names)  # noqa: S102  # our own documentation


def test_unknown_aggregators_and_parameters_are_refused():
    with pytest.raises(UsageError, match="no aggregator 'mode'; there are bulyan, clipped"):
        aggregator("mode")
    with pytest.raises(UsageError, match=r"krum: .*it has the parameters byzantine, select"):
        aggregator("krum", f=2)
