import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.component import Role
from unseen.errors import UsageError
from unseen.flow.builder import Flow
from unseen.flow.spec import FlowSpec, StepSpec, parse_flow, read_flow

YAML = """\
unseen: 1
name: credit
parties: {bank: active, partner: passive}
steps:
  read: {use: read_table, in: {source: tables.customers}}
  split:
    use: split
    in: {table: read.table}
    params: {test: 0.25, tolerance: 1e-5, names: [a, b], deep: {flag: true, none: null}}
"""
GOOD = yaml.safe_load(YAML)


def built():
    flow = Flow("credit", active="bank", passive=["partner"])
    read = flow.step("read", "read_table", source=flow.table("customers"))
    deep = {"flag": True, "none": None}
    flow.step("split", "split", table=read["table"], test=0.25, tolerance=1e-5, names=["a", "b"], deep=deep)
    return flow.spec


def message(text, name="flow"):
    with pytest.raises(UsageError) as caught:
        parse_flow(text, name=name)
    return str(caught.value)


def test_yaml_json_and_python_build_the_same_flow():
    spec = parse_flow(YAML)
    compact, wide = spec.model_dump_json(by_alias=True), json.dumps(spec.agreed(), indent="\t")
    assert spec == built() == parse_flow(compact) == parse_flow(wide)
    assert {flow.digest for flow in (spec, built(), parse_flow(compact), parse_flow(wide))} == {spec.digest}
    assert spec.steps["split"].params["tolerance"] == 1e-5
    assert spec.parties == {"bank": Role.ACTIVE, "partner": Role.PASSIVE}


def test_digest_does_not_depend_on_the_order_of_keys_or_on_where_files_lie():
    spec = parse_flow(YAML)
    turned = {key: GOOD[key] for key in reversed(GOOD)} | {"parties": {"partner": "passive", "bank": "active"}}
    turned["steps"]["split"]["params"]["tolerance"] = 1e-5
    located = turned | {"tables": {"customers": {"bank": "a.csv", "partner": "/b.csv"}}}
    assert FlowSpec.model_validate(turned).digest == FlowSpec.model_validate(located).digest == spec.digest
    assert "tables" not in FlowSpec.model_validate(located).agreed()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: credit", "name: debit"),
        ("partner: passive", "other: passive"),
        ("test: 0.25", "test: 0.26"),
        ("use: split", "use: splits"),
        ("read.table", "read.report"),
        ("  split:", "  parts:"),
    ],
)
def test_digest_depends_on_everything_that_parties_agree_on(old, new):
    assert old in YAML
    assert parse_flow(YAML.replace(old, new)).digest != parse_flow(YAML).digest


names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TRAPS = [
    "1e5",
    "1e-05",
    "-3E+2",
    "yes",
    "no",
    "null",
    "~",
    "1.",
    "0x1f",
    "1:30",
    "2024-01-01",
    "a: b",
    "# c",
    " d ",
    "",
]
BREAKS = ["\x85", "a\u2028b", "\u2029", "\ufeff", "\r", "a\n\nb\n", "\t", "\x00", "\x7f", "😀", "é"]
look_alikes = st.sampled_from(TRAPS[:-1])
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
scalars = st.none() | st.booleans() | numbers | texts | look_alikes
values = st.recursive(scalars, lambda some: st.lists(some, max_size=3) | st.dictionaries(texts, some, max_size=3))
references = st.builds("{}.{}".format, names, names)
steps = st.builds(
    StepSpec,
    use=texts,
    inputs=st.dictionaries(texts, references, max_size=3),
    params=st.dictionaries(texts | look_alikes, values, max_size=3),
)
specs = st.builds(
    FlowSpec,
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80) | look_alikes,
    parties=st.dictionaries(names, st.sampled_from(Role), min_size=1, max_size=3),
    tables=st.dictionaries(texts, st.dictionaries(names, texts, max_size=2), max_size=2),
    steps=st.dictionaries(names, steps, min_size=1, max_size=3),
)


@given(specs)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_flow_reads_back_from_its_yaml(spec):
    again = parse_flow(spec.to_yaml())
    assert again == spec
    assert again.digest == spec.digest


@given(specs)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_flow_reads_back_from_its_json(spec):
    again = parse_flow(json.dumps(spec.model_dump(mode="json", by_alias=True)))
    assert again == spec
    assert again.digest == spec.digest


@pytest.mark.parametrize("text", TRAPS + BREAKS)
def test_text_stays_text(text):
    spec = FlowSpec.model_validate(
        GOOD | {"name": text or "-", "steps": {"s": {"use": text, "params": {text: [text, {"k": text}]}}}}
    )
    assert parse_flow(spec.to_yaml()) == spec


def test_numbers_are_the_numbers_of_json_and_quoted_text_stays_text():
    text = YAML.replace("test: 0.25", 'test: 1e-3, text: "1e-3", whole: 7, plain: 5e2')
    params = parse_flow(text).steps["split"].params
    assert (params["test"], params["text"], params["whole"], params["plain"]) == (0.001, "1e-3", 7, 500.0)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  split:", "  read:", ["line 6", "'read'", "twice"]),
        ("    use: split", "    use: split\n    use: join", ["line 8", "'use'", "twice"]),
        ("test: 0.25", "test: 0.25, test: 0.3", ["line 9", "'test'", "twice"]),
        ("    use: split", "    uses: split", ["line 7, steps.split.uses", "line 6, steps.split.use: Field required"]),
        ("name: credit", "nam: credit", ["line 2, nam: Extra inputs", "name: Field required"]),
        ("name: credit", "name: 2024", ["line 2, name: Input should be a valid string"]),
        ("unseen: 1", "unseen: 2", ["line 1, unseen: Input should be 1"]),
        ("partner: passive", "Partner: passive", ["line 3, parties.Partner", "String should match pattern"]),
        ("partner: passive", "partner: guest", ["line 3, parties.partner", "'active' or 'passive'"]),
        ("read.table", "read", ["line 8, steps.split.in.table: String should match pattern"]),
        ("read.table", "read.table.x", ["line 8, steps.split.in.table"]),
        ("test: 0.25", "test: .nan", ["line 9, steps.split.params", "NaN"]),
        ("test: 0.25", "test: -.inf", ["line 9, steps.split.params", "infinity"]),
        ("test: 0.25", "test: 2024-01-01", ["line 9, steps.split.params.test"]),
    ],
)
def test_a_fault_is_told_with_its_line(old, new, expected):
    assert old in YAML
    text = message(YAML.replace(old, new, 1), name="my.yaml")
    assert text.startswith("my.yaml: ")
    for part in expected:
        assert part in text


def test_all_faults_are_listed_at_once():
    text = message("nam: a\nparties: {bank: boss}\nsteps:\n  Read: {use: x}\n")
    assert text.startswith("flow: 4 problem(s)\n")
    assert [line.split(":")[0] for line in text.splitlines()[1:]] == [
        "  - name",
        "  - line 2, parties.bank",
        "  - line 4, steps.Read",
        "  - line 1, nam",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name: [a",
        "name: a\n\tb: c",
        "name: 2024-13-45",
        "a: b: c",
        "--- {}\n--- {}",
        "name: !!python/object/apply:os.system [true]",
        "? [a]\n: b",
        "[" * 3000,
        "name: \x00",
    ],
)
def test_what_is_not_yaml_is_a_usage_error(text):
    assert message(text, name="f.yaml").startswith("f.yaml is not YAML: ")


@pytest.mark.parametrize("text", ["", "# nothing", "- a", "just text", "7", "[]", "null", "&a [7]"])
def test_what_is_not_a_mapping_is_not_a_flow(text):
    assert message(text) == "flow is not a flow: expected a mapping with name, parties and steps"


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {x: *a}", "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]"])
def test_aliases_are_refused_since_they_can_blow_a_file_up(text):
    assert "aliases (*name) are not allowed" in message(text, name="f.yaml")


@pytest.mark.parametrize("empty", ["parties: {}", "steps: {}", 'name: ""'])
def test_a_flow_has_a_name_parties_and_steps(empty):
    key = empty.partition(":")[0]
    text = message(yaml.safe_dump({name: value for name, value in GOOD.items() if name != key}) + empty)
    assert f"{key}: " in text
    assert "should have at least 1" in text


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    (tmp_path / "good.yaml").write_text(YAML)
    for name in ("none.yaml", "latin.yaml", "."):
        with pytest.raises(UsageError, match="cannot read the flow") as caught:
            read_flow(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
    assert Flow.read(tmp_path / "good.yaml") == Flow.read(str(tmp_path / "good.yaml")) == built()


def test_the_json_schema_describes_flows():
    schema = FlowSpec.model_json_schema(by_alias=True)
    assert set(schema["required"]) == {"name", "parties", "steps"}
    assert schema["additionalProperties"] is False
    step = schema["$defs"]["StepSpec"]
    assert set(step["properties"]) == {"use", "in", "params"}
    assert step["required"] == ["use"]
    assert schema["$defs"]["Role"]["enum"] == ["active", "passive"]
    json.dumps(schema, allow_nan=False)
