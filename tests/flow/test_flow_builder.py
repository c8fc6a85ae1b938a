import pytest

from unseen.errors import UsageError
from unseen.flow.builder import Flow, Port


def test_outputs_become_inputs_and_the_rest_parameters():
    flow = Flow("f", active="bank", passive=["shop"])
    read = flow.step("read", "read_table", source=flow.table("people"), lenient=True)
    flow.step("align", "psi_join", table=read["table"])
    assert flow.spec.steps["read"].inputs == {"source": "tables.people"}
    assert flow.spec.steps["read"].params == {"lenient": True}
    assert flow.spec.steps["align"].inputs == {"table": "read.table"}
    assert str(read["table"]) == "read.table" == str(Port("read", "table"))


def test_parameters_may_be_called_name_and_use():
    flow = Flow("f", active="bank")
    flow.step("evaluate", "evaluate", name="Federated", use="all", what=1, fields=2)
    assert flow.spec.steps["evaluate"].use == "evaluate"
    assert flow.spec.steps["evaluate"].params == {"name": "Federated", "use": "all", "what": 1, "fields": 2}


def test_a_step_has_a_name_of_its_own():
    flow = Flow("f", active="bank")
    flow.step("read", "read_table")
    with pytest.raises(UsageError, match="already has a step 'read'"):
        flow.step("read", "split")
    with pytest.raises(UsageError, match="'Read' is not a StepId"):
        flow.step("Read", "split")
    assert flow.spec.steps["read"].use == "read_table"


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf"), b"x", "\ud83d", {"deep": [object()]}])
def test_an_argument_is_an_output_or_json(value):
    flow = Flow("f", active="bank")
    with pytest.raises(UsageError, match=r"step fit: 1 problem\(s\)\n  - params"):
        flow.step("fit", "split", test=value)


def test_a_step_is_not_one_of_its_outputs():
    flow = Flow("f", active="bank")
    read = flow.step("read", "read_table")
    with pytest.raises(UsageError, match=r"params\.table: .*JSON.*Step\(name='read'\)"):
        flow.step("align", "psi_join", table=read)


def test_bad_names_are_usage_errors():
    with pytest.raises(UsageError, match="'Bank' is not a PartyId"):
        Flow("f", active="Bank")
    with pytest.raises(UsageError, match="'my shop' is not a PartyId"):
        Flow("f", active="bank", passive=["my shop"])
    flow = Flow("f", active="bank")
    with pytest.raises(UsageError, match="steps: Dictionary should have at least 1 item"):
        _ = flow.spec
    flow.step("read", "read_table")
    flow.name = "x" * 81
    with pytest.raises(UsageError, match="name: String should have at most 80 characters"):
        _ = flow.spec


def test_the_spec_is_a_snapshot():
    flow = Flow("f", active="bank")
    flow.step("read", "read_table")
    before = flow.spec
    flow.step("read2", "read_table")
    assert list(before.steps) == ["read"]
    assert list(flow.spec.steps) == ["read", "read2"]
