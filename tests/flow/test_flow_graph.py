import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.component import ALIGNED_TABLE, SOURCE, TABLE, Component, Input, Kind, Output, Params, installed_components
from unseen.data.table import Table
from unseen.errors import UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec, parse_flow
from unseen.ids import PartyId

GOOD = """\
name: credit
parties: {bank: active, shop: passive}
steps:
  scale: {use: standardise, in: {table: split.train}}
  split: {use: split, in: {table: align.table}, params: {test: 0.25}}
  align: {use: psi_join, in: {table: read.table}}
  read: {use: read_table, in: {source: tables.people}}
"""


def problems(text, tables=None):
    with pytest.raises(UsageError) as caught:
        build_graph(parse_flow(text), installed_components(), tables=tables, name="f.yaml")
    head, *lines = str(caught.value).splitlines()
    assert head == f"f.yaml: {len(lines)} problem(s)"
    return [line.removeprefix("  - ") for line in lines]


def test_steps_stand_in_an_order_in_which_they_can_run():
    graph = build_graph(parse_flow(GOOD), installed_components())
    assert list(graph.nodes) == ["read", "align", "split", "scale"]
    assert graph.nodes["split"].params.test == 0.25
    assert graph.nodes["split"].params.stratify is True
    assert graph.nodes["split"].inputs == {"table": ("align", "table")}
    assert graph.nodes["split"].needs == {"align"}
    assert graph.nodes["read"].needs == set()
    assert graph.upstream("scale") == {"read", "align", "split"}
    assert graph.upstream("read") == set()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "use: psi_join",
            "use: psi_jion",
            "steps.align.use: there is no component 'psi_jion'; did you mean 'psi_join'?; see `unseen components`",
        ),
        (
            "use: psi_join",
            "use: xxxxxxxx",
            "steps.align.use: there is no component 'xxxxxxxx'; see `unseen components`",
        ),
        (
            "use: psi_join, in: {table: read.table}",
            "use: psi_join",
            "steps.align.in: component psi_join needs the input 'table' (table: this party's people)",
        ),
        (
            "{table: read.table}",
            "{table: read.table, tabel: read.table}",
            "steps.align.in.tabel: component psi_join has no input 'tabel'; its inputs: table",
        ),
        (
            "{table: align.table}",
            "{table: read.table}",
            "steps.split.in.table: expected aligned_table, but read.table is table",
        ),
        (
            "{table: align.table}",
            "{table: read.report}",
            "steps.split.in.table: expected aligned_table, but read.report is import_summary",
        ),
        (
            "{table: align.table}",
            "{table: tables.people}",
            "steps.split.in.table: expected aligned_table, but tables.people is source",
        ),
        (
            "{table: split.train}",
            "{table: splt.train}",
            "steps.scale.in.table: there is no step 'splt'; did you mean 'split'?",
        ),
        (
            "{table: split.train}",
            "{table: split.trian}",
            "steps.scale.in.table: step 'split' (split) has no output 'trian'; it has: train, test, unlabelled",
        ),
        (
            "shop: passive",
            "shop: active",
            "parties: exactly one party holds the label and is active, found 2: bank, shop",
        ),
        (
            "{bank: active, shop: passive}",
            "{shop: passive}",
            "parties: exactly one party holds the label and is active, found 0",
        ),
        (
            "params: {test: 0.25}",
            "params: {test: 1.5}",
            "steps.split.params.test: Input should be less than 1, found 1.5",
        ),
        (
            "params: {test: 0.25}",
            "params: {tset: 0.5}",
            "steps.split.params.tset: Extra inputs are not permitted, found 0.5",
        ),
    ],
)
def test_a_problem_is_told_with_its_place(old, new, expected):
    assert old in GOOD
    (problem,) = problems(GOOD.replace(old, new))
    assert problem.rstrip(": ") == expected


def test_a_step_may_not_be_called_tables():
    text = GOOD + "  tables: {use: read_table, in: {source: tables.people}}\n"
    assert problems(text) == ["steps.tables: this name stands for the parties' own tables; rename the step"]


def test_steps_in_a_circle_are_named():
    text = GOOD.replace("{table: read.table}", "{table: split.test}")
    assert problems(text) == [
        "steps: scale, split, align wait for one another in a circle; no step may need its own result"
    ]
    text = GOOD.replace("{table: split.train}", "{table: scale.table}")
    assert problems(text) == ["steps: scale wait for one another in a circle; no step may need its own result"]


def test_a_party_without_a_table_is_named():
    tables = {PartyId("bank"): {"people"}, PartyId("shop"): {"peple"}}
    assert problems(GOOD, tables) == [
        "steps.read.in.source: party shop has no table 'people'; give it one under tables.people.shop"
    ]
    spec = parse_flow(GOOD)
    one_sided = {PartyId("bank"): {"people"}}
    assert build_graph(spec, installed_components(), tables=one_sided).spec is spec


def test_all_problems_are_listed_at_once():
    text = GOOD.replace("shop: passive", "shop: active").replace("psi_join", "psi_jion").replace("0.25", "a")
    text = text.replace("split.train", "split.train2")
    found = problems(text, {PartyId("shop"): set()})
    places = [problem.split(":")[0] for problem in found]
    assert places == [
        "parties",
        "steps.read.in.source",
        "steps.split.params.test",
        "steps.align.use",
        "steps.scale.in.table",
    ]


def test_an_optional_input_may_be_left_out():
    run = lambda task: iter(())
    parts = {"a": Input(SOURCE, "a"), "b": Input(TABLE, "b", required=False)}
    registry = {"pick": Component("pick", 1, "", Params, parts, {"out": Output(TABLE, "it")}, (), run)}
    text = "name: f\nparties: {bank: active}\nsteps:\n  one: {use: pick, in: {a: tables.x}}\n"
    assert list(build_graph(parse_flow(text), registry).nodes) == ["one"]


def test_a_special_kind_stands_for_a_general_one_and_not_the_other_way_round():
    assert ALIGNED_TABLE.fits(ALIGNED_TABLE)
    assert ALIGNED_TABLE.fits(TABLE)
    assert not TABLE.fits(ALIGNED_TABLE)
    assert Kind("scores", Table, general=ALIGNED_TABLE).fits(TABLE)
    assert not SOURCE.fits(TABLE)


def test_a_step_is_found_by_name():
    graph = build_graph(parse_flow(GOOD), installed_components())
    assert graph.find("split") == "split"
    with pytest.raises(UsageError, match=r"the flow has no step 'splti'; did you mean 'split'\?"):
        graph.find("splti")


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.lists(st.lists(st.integers(0, 8))))))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_acyclic_graph_is_ordered_so_that_every_step_follows_what_it_needs(case):
    order, wishes = case
    ports = {f"i{number}": Input(TABLE, "", required=False) for number in range(9)}
    mix = Component("mix", 1, "", Params, ports, {"out": Output(TABLE, "")}, (), lambda task: iter(()))
    steps = {}
    for position, number in enumerate(order):
        wanted = {order[other] for other in (wishes[position] if position < len(wishes) else []) if other < position}
        steps[f"s{number}"] = {"use": "mix", "in": {f"i{other}": f"s{other}.out" for other in wanted}}
    spec = FlowSpec.model_validate({"name": "f", "parties": {"bank": "active"}, "steps": dict(sorted(steps.items()))})
    graph = build_graph(spec, {"mix": mix})
    seen = set()
    for step, node in graph.nodes.items():
        assert node.needs <= seen
        assert graph.upstream(step) == node.needs.union(*(graph.upstream(other) for other in node.needs))
        seen.add(step)
    assert seen == set(spec.steps)


def test_many_ways_through_a_flow_are_walked_once():
    mix = Component(
        "mix",
        1,
        "",
        Params,
        {port: Input(TABLE, "", required=False) for port in "ab"},
        {"out": Output(TABLE, "")},
        (),
        lambda task: iter(()),
    )
    steps = {"s0": {"use": "mix"}, "t0": {"use": "mix"}}
    for level in range(1, 40):
        both = {"a": f"s{level - 1}.out", "b": f"t{level - 1}.out"}
        steps |= {f"s{level}": {"use": "mix", "in": both}, f"t{level}": {"use": "mix", "in": both}}
    spec = FlowSpec.model_validate({"name": "f", "parties": {"bank": "active"}, "steps": steps})
    assert len(build_graph(spec, {"mix": mix}).upstream("s39")) == 78
