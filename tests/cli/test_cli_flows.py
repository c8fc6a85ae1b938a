import json

import pytest

from unseen.component import installed_components
from unseen.flow.spec import FlowSpec


def test_components_are_listed(unseen):
    ended = unseen("components")
    assert ended.code == 0
    for name, component in installed_components().items():
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"{name} ")]
        assert line.rstrip().split(maxsplit=2)[1:] == [str(component.version), component.summary]


def test_one_component_is_shown_whole(unseen):
    ended = unseen("components", "split")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "split (version 1)",
        "Split aligned people into train, test, and those without a label.",
        "",
        "  in   table: aligned_table — the people whom all parties know",
        "  out  train: aligned_table — people to learn from",
        "  out  test: aligned_table — people to evaluate on",
        "  out  unlabelled: aligned_table — people whose label is unknown: to be scored",
        "  par  test = 0.3  Share of the labelled people who are kept for testing.",
        "  par  stratify = true  Keep the share of each label value the same in both parts.",
        "  leak passive parties: which shared people have no label yet, and who is in the test part",
    ]
    assert "nobody learns anything" in unseen("components", "read_table").out
    assert "only at the active party" in unseen("components", "evaluate").out


@pytest.mark.parametrize("name", sorted(installed_components()))
def test_every_component_can_be_shown(unseen, name):
    ended = unseen("components", name)
    assert ended.code == 0
    assert "PydanticUndefined" not in ended.out
    assert ended.out.startswith(f"{name} (version ")


def test_components_as_json(unseen):
    everything = json.loads(unseen("components", "--json").out)
    assert [entry["name"] for entry in everything] == list(installed_components())
    (one,) = json.loads(unseen("components", "evaluate", "--json").out)
    assert one["outputs"]["evaluation"] == {"kind": "evaluation", "about": "measures and curves", "at": "active"}
    assert one["params"]["properties"]["calibration_bins"]["maximum"] == 100
    assert one in everything


def test_an_unknown_component_is_refused(unseen):
    ended = unseen("components", "splt")
    assert ended.code == 2
    assert ended.err.startswith("Error: there is no component 'splt'; there are: apply_scaler, bin_columns")
    assert ended.out == ""


def test_the_schema_is_that_of_flows(unseen):
    ended = unseen("schema")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads(json.dumps(FlowSpec.model_json_schema(by_alias=True)))


def test_a_good_flow_is_valid(unseen, project):
    ended = unseen("validate", project / "flow.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{project}/flow.yaml: 4 steps, can run in the order read → align → split → scale\n"


def test_a_flow_without_places_of_tables_is_valid(unseen, project, flow_text):
    text = flow_text.replace("tables:\n  customers: {bank: bank.csv, partner: partner.csv}\n", "")
    (project / "flow.yaml").write_text(text)
    assert unseen("validate", project / "flow.yaml").code == 0


def test_a_bad_flow_is_told_all_its_faults(unseen, project, flow_text):
    text = flow_text.replace("psi_join", "psi_jion").replace("0.3", "3").replace(", partner: partner.csv", "")
    (project / "flow.yaml").write_text(text)
    ended = unseen("validate", project / "flow.yaml")
    assert (ended.code, ended.out) == (2, "")
    head, *problems = ended.err.splitlines()
    assert head == f"Error: {project}/flow.yaml: 3 problem(s)"
    assert [problem.split(":")[0].strip(" -") for problem in problems] == [
        "steps.read.in.source",
        "steps.align.use",
        "steps.split.params.test",
    ]
    assert "did you mean 'psi_join'?" in ended.err


def test_brackets_in_a_message_are_not_markup(unseen, project, flow_text):
    (project / "flow.yaml").write_text(flow_text.replace("0.3", "'[bold]x[/bold]'"))
    ended = unseen("validate", project / "flow.yaml")
    assert ended.code == 2
    assert "found '[bold]x[/bold]'" in ended.err


@pytest.mark.parametrize(
    ("text", "expected"), [("name: [", "is not YAML"), ("name: a\nname: b\n", "line 2: 'name' stands twice")]
)
def test_a_file_that_is_no_flow_is_refused(unseen, tmp_path, text, expected):
    (tmp_path / "f.yaml").write_text(text)
    ended = unseen("validate", tmp_path / "f.yaml")
    assert ended.code == 2
    assert expected in ended.err
    ended = unseen("validate", tmp_path / "none.yaml")
    assert ended.code == 2
    assert "cannot read the flow" in ended.err
