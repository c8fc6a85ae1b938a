from importlib.metadata import EntryPoint

import pytest

from unseen.component import (
    TABLE,
    Component,
    Document,
    Input,
    Kind,
    Output,
    Params,
    Role,
    Task,
    installed_components,
    registry,
)
from unseen.crypto.prg import Prg
from unseen.data.table import Table
from unseen.errors import LocalProtocolError, UsageError
from unseen.ids import PartyId, StepId

NOT_A_COMPONENT = 7
MINE = Component("mine", 1, "mine", Params, {}, {}, (), lambda task: iter(()))
COMPONENTS = sorted(installed_components())


def installed(monkeypatch, *points):
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in found if p.group == group])
    return installed_components.__wrapped__()


def test_the_built_in_components_are_installed():
    assert COMPONENTS == [
        "apply_scaler",
        "bin_columns",
        "evaluate",
        "linear_regression",
        "local_boosting",
        "local_logistic_regression",
        "logistic_regression",
        "poisson_regression",
        "prepare_histograms",
        "prepare_lookup",
        "psi_count",
        "psi_join",
        "psi_lookup",
        "psi_sum",
        "psi_union",
        "read_table",
        "score",
        "softmax_regression",
        "split",
        "standardise",
        "tweedie_regression",
        "vertical_boosting",
    ]
    assert installed_components() is installed_components()


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_is_documented(name):
    component = installed_components()[name]
    assert component.name == name
    assert component.version >= 1
    assert component.summary.endswith(".")
    assert component.outputs
    for port in [*component.inputs.values(), *component.outputs.values()]:
        assert port.about
    for field, info in component.params.model_fields.items():
        assert info.description, f"{name}: parameter {field} has no docstring below it"
        assert not info.is_required(), f"{name}: parameter {field} has no default"
    for leak in component.leaks:
        # Holder and asker are the roles of a look-up; a parameter says which party is which.
        assert leak.who.split(",")[0] in ("every party", "active party", "passive parties", "holder", "asker")
        assert leak.learns
    assert component.params.model_config["frozen"]
    assert component.params.model_config["extra"] == "forbid"


@pytest.mark.parametrize("name", ["psi_join", "psi_lookup", "split", "logistic_regression", "score"])
def test_what_sends_data_says_who_learns_what(name):
    assert installed_components()[name].leaks


def test_a_package_can_offer_a_component(monkeypatch):
    point = ("split", "unseen.catalog.split:COMPONENT")
    assert list(installed(monkeypatch, point)) == ["split"]
    assert list(installed(monkeypatch, point, point)) == ["split"]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([("x", "unseen.version:VERSION")], "x = unseen.version:VERSION is not a component of that name"),
        ([("x", "unseen.catalog.split:COMPONENT")], "x = .* is not a component of that name"),
        ([("x", "no_such_package:COMPONENT")], "x = no_such_package:COMPONENT cannot be loaded: No module named"),
        ([("x", "unseen.version:NONE")], "x = unseen.version:NONE cannot be loaded"),
    ],
)
def test_what_is_no_component_is_refused(monkeypatch, points, expected):
    with pytest.raises(UsageError, match=expected):
        installed(monkeypatch, *points)


def test_two_packages_may_not_offer_one_name(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [_Point("mine", MINE), _Point("mine", _other())])
    with pytest.raises(UsageError, match="two packages offer the component mine: uninstall one"):
        installed_components.__wrapped__()


class _Point:
    def __init__(self, name, component):
        self.name, self.value, self.load = name, "somewhere", lambda: component


def _other():
    return Component("mine", 2, "mine", Params, {}, {}, (), lambda task: iter(()))


# --- ports, parameters, tasks ---


class Rate(Params):
    rate: float = 0.5


class Note(Document):
    text: str


def task(me="bank", **changes):
    roles = {PartyId("zoo"): Role.PASSIVE, PartyId("bank"): Role.ACTIVE, PartyId("api"): Role.PASSIVE}
    fields = {"params": Rate(), "inputs": {"note": Note(text="a")}, "prg": Prg(bytes(32))}
    return Task(me=PartyId(me), step=StepId("train"), roles=roles, **(fields | changes))


def test_a_task_knows_who_is_who():
    bank, zoo = task(), task("zoo")
    assert (bank.role, bank.is_active, zoo.is_active) == (Role.ACTIVE, True, False)
    assert bank.active == zoo.active == "bank"
    assert bank.passives == zoo.passives == ("api", "zoo")
    assert bank.peers == ("api", "zoo")
    assert zoo.peers == ("api", "bank")


def test_a_task_gives_inputs_and_parameters_of_the_right_type():
    assert task().input("note", Note).text == "a"
    with pytest.raises(UsageError, match="bank, step train: input 'note' is Note, not Table"):
        task().input("note", Table)
    with pytest.raises(UsageError, match="input 'table' is NoneType, not Table"):
        task().input("table", Table)
    assert task().parameters(Rate).rate == 0.5
    with pytest.raises(LocalProtocolError, match="step train got Params, not Rate"):
        task(params=Params()).parameters(Rate)


def test_a_task_does_not_show_its_secrets():
    assert bytes(32).hex() not in repr(task())
    assert "Prg(<secret>)" in repr(task())


def test_parameters_are_frozen_and_know_their_names():
    with pytest.raises(ValueError, match="frozen"):
        Rate().rate = 1.0
    with pytest.raises(ValueError, match="Extra inputs"):
        Rate(rat=1.0)


def test_an_output_may_exist_at_one_role_only():
    assert Output(TABLE, "all").exists_at(Role.PASSIVE)
    assert Output(TABLE, "one", at=Role.ACTIVE).exists_at(Role.ACTIVE)
    assert not Output(TABLE, "one", at=Role.ACTIVE).exists_at(Role.PASSIVE)
    assert Input(TABLE, "x").required
    assert Kind("note", Note).general is None
