import gc
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from unseen import Flow, Options, simulate
from unseen.data.demo import make_parties
from unseen.data.table import Table
from unseen.demo.flow import credit_flow
from unseen.errors import DataError, UsageError
from unseen.flow.store import Workspace
from unseen.ids import JobId


@pytest.fixture(scope="module")
def people():
    return {party: {"customers": frame} for party, frame in make_parties(rows=300).items()}


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def to_split(test=0.3):
    flow = Flow("to-split", active="bank", passive=["partner"])
    read = flow.step("read", "read_table", source=flow.table("customers"))
    align = flow.step("align", "psi_join", table=read["table"])
    flow.step("split", "split", table=align["table"], test=test)
    return flow


def jobs(root, party="bank"):
    workspace = Workspace(root / party)
    return [workspace.job(job) for job in workspace.jobs()]


class Ticking:
    """A clock that goes on by a minute whenever it is asked."""

    def __init__(self):
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self):
        self.time += timedelta(minutes=1)
        return self.time

    def monotonic(self):
        return self.time.timestamp()


# --- the main job ---


@pytest.fixture(scope="module")
def credit(people, tmp_path_factory):
    root = tmp_path_factory.mktemp("credit")
    events = []
    flow = credit_flow("bank", ["partner"], mode="exact", scheme="plain")
    for number, party in enumerate(flow.spec.parties):
        # A fixed seed of the job, so that the split of its few people is always the same.
        workspace = Workspace(root / party)
        record = workspace.start_job(JobId("job-0"), flow.spec, Ticking().now())
        workspace.write_job(record.model_copy(update={"seed": bytes([number] * 32).hex()}))
    first = simulate(flow, people, workspace=root, options=Options(observe=events.append, resume=True))
    return root, first, events


def test_the_whole_credit_flow_runs(credit):
    _, result, _ = credit
    joint = result.get("evaluate.evaluation", "bank").result
    alone = result.get("evaluate_alone.evaluation", "bank").result
    scored = {"bank alone": "score_alone.scores", "Federated": "score_test.scores"}
    for evaluated in (joint, alone):
        scores = result.get(scored[evaluated.name], "bank")
        assert evaluated.auc == pytest.approx(roc_auc_score(scores.label(), scores.matrix()[:, 0]))
    assert (joint.kind, alone.kind, alone.name) == ("federated", "alone", "bank alone")
    tested = result.get("split.test", "bank")
    assert result.get("evaluate.evaluation", "bank").rows == tested.rows
    new = result.get("score_new.scores", "bank")
    assert new.ids() == result.get("split.unlabelled", "bank").ids()
    assert new.label_missing().all()
    assert ((new.matrix() >= 0) & (new.matrix() <= 1)).all()


def test_both_parties_hold_the_same_people_in_one_order_everywhere(credit):
    """The bank keeps its ids, the partner has numbers of aligned rows."""
    _, result, _ = credit
    aligned = result.get("align.table", "bank").ids()
    for output in ("align.table", "split.train", "split.test", "scale.table", "scale_test.table", "scale_new.table"):
        bank, partner = result.get(output, "bank"), result.get(output, "partner")
        assert isinstance(bank, Table)
        assert bank.ids() == [aligned[int(row)] for row in partner.ids()]
        assert not set(bank.schema.feature_names) & set(partner.schema.feature_names)


def test_every_artifact_leads_back_to_the_tables(credit):
    _, result, _ = credit
    for party, steps in result.steps.items():
        for step, done in steps.items():
            for port in done.outputs:
                line = result.lineage(f"{step}.{port}", party)
                assert (line.party, line.step, line.output, line.job) == (party, step, port, result.job)
                node = result.graph.nodes[step]
                assert line.component == node.component.name
                assert line.params == node.params.model_dump(mode="json")
                for input_port, digest in line.inputs.items():
                    source, name = node.inputs[input_port]
                    if source != "tables":
                        assert steps[source].outputs[name].digest == digest


def test_watchers_hear_of_every_step_at_every_party(credit):
    _, result, events = credit
    for what in ("enter", "leave"):
        heard = sorted((event.party, event.step) for event in events if event.what == what)
        assert heard == sorted((party, step) for party in ("bank", "partner") for step in result.graph.nodes)
    train = [event for event in events if (event.step, event.party, event.what) == ("train", "bank", "progress")]
    assert train
    assert all(0 <= event.done <= event.total for event in train)


def test_usage_says_what_a_step_cost(credit):
    _, result, _ = credit
    usage = result.usage("align")
    assert usage["bank"].bytes_sent == usage["partner"].bytes_received > 240 * 32
    assert usage["bank"].rounds >= 2
    assert usage["bank"].seconds > 0
    assert result.usage("scale")["bank"].bytes_sent < 200
    record = result.steps["bank"]["align"].record
    assert (record.bytes_sent, record.rounds) == (usage["bank"].bytes_sent, usage["bank"].rounds)


def test_a_second_run_reuses_everything_and_a_changed_penalty_only_what_it_may(credit, people):
    root, first, _ = credit
    again = simulate(credit_flow("bank", ["partner"], mode="exact", scheme="plain"), people, workspace=root)
    assert again.reused() == list(first.graph.nodes)
    spec = again.graph.spec
    train = spec.steps["train"].model_copy(update={"params": spec.steps["train"].params | {"l2": 0.1}})
    changed = spec.model_copy(update={"steps": {**spec.steps, "train": train}})
    third = simulate(changed, people, workspace=root)
    assert set(third.graph.nodes) - set(third.reused()) == {"train", "score_test", "evaluate", "score_new"}
    assert third.get("train.model", "bank") != first.get("train.model", "bank")
    assert third.get("split.test", "partner") == first.get("split.test", "partner")


# --- workspaces and tables ---


def test_without_a_workspace_results_live_as_long_as_the_result(people, tmp_path):
    result = simulate(to_split(), people)
    (folder,) = (tmp_path / "tmp").iterdir()
    assert result.get("split.train", "partner").rows > 50
    assert sorted(path.name for path in folder.iterdir()) == ["bank", "partner"]
    del result
    gc.collect()
    assert not folder.exists()


def test_a_failed_run_without_a_workspace_leaves_nothing(people, tmp_path):
    broken = {**people, "bank": {"customers": pl.DataFrame({"id": ["a", "a"], "y": [0, 1]})}}
    with pytest.raises(DataError, match="duplicate id") as caught:
        simulate(to_split(), broken)
    assert caught.value.__notes__ == ["at party bank, step read"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_tables_are_frames_or_files(people, tmp_path):
    frame = people["bank"]["customers"]
    frame.write_csv(tmp_path / "bank.csv")
    frame.write_parquet(tmp_path / "bank.parquet")
    forms = [frame, tmp_path / "bank.csv", str(tmp_path / "bank.parquet")]
    results = [simulate(to_split(), {**people, "bank": {"customers": form}}) for form in forms]
    assert len({result.steps["bank"]["read"].outputs["table"].digest for result in results}) == 1


def test_equal_frames_are_equal_tables_to_later_runs(people, tmp_path):
    simulate(to_split(), people, workspace=tmp_path / "ws")
    copies = {party: {name: frame.clone() for name, frame in own.items()} for party, own in people.items()}
    assert simulate(to_split(), copies, workspace=str(tmp_path / "ws")).reused() == ["read", "align", "split"]


@pytest.mark.parametrize("tables", [{}, {"bank": {}}, {"bank": {"customer": "x"}, "partner": {}}])
def test_a_missing_table_is_told_before_anything_is_run(tables, tmp_path):
    with pytest.raises(UsageError, match="party bank has no table 'customers'") as caught:
        simulate(to_split(), tables, workspace=tmp_path / "ws")
    assert "party partner has no table 'customers'" in str(caught.value)
    assert not (tmp_path / "ws").exists()


def test_a_flow_that_cannot_run_is_refused_before_anything_is_run(people, tmp_path):
    with pytest.raises(UsageError, match=r"to-split: 1 problem\(s\)\n  - steps\.split\.params\.test: .*found 2"):
        simulate(to_split(test=2), people, workspace=tmp_path / "ws")
    assert not (tmp_path / "ws").exists()


def test_a_workspace_in_use_is_refused(people, tmp_path):
    with Workspace(tmp_path / "ws" / "partner").locked(), pytest.raises(UsageError, match="another process works in"):
        simulate(to_split(), people, workspace=tmp_path / "ws")
    assert jobs(tmp_path / "ws") == []


# --- results ---


def test_results_are_asked_for_by_port_or_text(people):
    flow = to_split()
    result = simulate(flow, people)
    port = flow.table("customers")
    assert result.get("split.train", "bank") == result.get(type(port)("split", "train"), "bank")
    for output, party, expected in [
        ("split.trian", "bank", "party bank has no value split.trian"),
        ("split", "bank", "party bank has no value split"),
        ("split.train", "telco", "party telco has no value split.train"),
        ("splti.train", "bank", "the flow has no step 'splti'; did you mean 'split'?"),
    ]:
        with pytest.raises(UsageError, match=expected):
            result.get(output, party)
        with pytest.raises(UsageError, match=expected):
            result.lineage(output, party)


# --- jobs ---


def test_every_run_is_a_job_that_resume_can_name(people, tmp_path):
    root = tmp_path / "ws"
    with pytest.raises(UsageError, match="there is no job to resume in this workspace"):
        simulate(to_split(), people, workspace=root, options=Options(resume=True))
    clock = Ticking()
    runs = [simulate(to_split(), people, workspace=root, options=Options(clock=clock)) for _ in range(2)]
    assert [job.job for job in jobs(root)] == [run.job for run in runs]
    assert [job.state for job in jobs(root, "partner")] == ["finished", "finished"]
    again = simulate(to_split(), people, workspace=root, options=Options(resume=True))
    assert again.job == runs[-1].job
    with pytest.raises(UsageError, match="ran another flow; start a new job"):
        simulate(to_split(test=0.4), people, workspace=root, options=Options(resume=True))
    assert jobs(root)[0].created == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)


def test_each_party_keeps_its_own_files(people, tmp_path):
    simulate(to_split(), people, workspace=tmp_path / "ws")
    for party, other in (("bank", "limit"), ("partner", "education")):
        tables = list(Path(tmp_path / "ws" / party / "artifacts").rglob("table.parquet"))
        columns = {name for path in tables for name in pl.read_parquet_schema(path)}
        assert other in columns
        assert not columns & {"limit", "education"} - {other}
    seeds = {jobs(tmp_path / "ws", party)[0].seed for party in ("bank", "partner")}
    assert len(seeds) == 2


def test_equal_artifacts_of_different_components_keep_their_own_lineage(people):
    flow = Flow("twice", active="bank", passive=["partner"])
    read = flow.step("read", "read_table", source=flow.table("customers"))
    align = flow.step("align", "psi_join", table=read["table"])
    fitted = flow.step("fitted", "standardise", table=align["table"])
    flow.step("applied", "apply_scaler", table=align["table"], scaler=fitted["scaler"])
    result = simulate(flow, people)
    assert result.get("fitted.table", "bank") == result.get("applied.table", "bank")
    made = [result.lineage(f"{name}.table", "bank").component for name in ("fitted", "applied")]
    assert made == ["standardise", "apply_scaler"]
