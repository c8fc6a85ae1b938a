import json
import re
import subprocess
import sys

from unseen.catalog.psi_join import PsiJoinParams
from unseen.catalog.read_table import ReadTableParams
from unseen.flow.store import Workspace


def test_a_second_run_says_what_it_reused(unseen, project):
    arguments = ("run", project / "flow.yaml", "--workspace", project / "ws")
    first = unseen(*arguments)
    assert (first.code, first.err) == (0, "")
    assert "reused" not in first.out
    assert [line.split()[:2] for line in first.out.splitlines()[:4]] == [
        ["read", "done"],
        ["align", "done"],
        ["split", "done"],
        ["scale", "done"],
    ]
    assert "read.report at bank: rows_read 160, rows_kept 160" in first.out
    again = unseen(*arguments)
    assert "reused: read, align, split, scale (nothing they depend on has changed)" in again.out
    text = (project / "flow.yaml").read_text()
    (project / "flow.yaml").write_text(text.replace("test: 0.3", "test: 0.4"))
    changed = unseen(*arguments)
    assert changed.code == 0
    assert "reused: read, align (nothing they depend on has changed)" in changed.out
    assert [line.split()[1] for line in changed.out.splitlines()[:4]] == ["reused", "reused", "done", "done"]


def test_a_changed_table_is_noticed(unseen, project):
    arguments = ("run", project / "flow.yaml", "--workspace", project / "ws")
    unseen(*arguments)
    lines = (project / "bank.csv").read_text().splitlines()
    (project / "bank.csv").write_text("\n".join(lines[:-1]) + "\n")
    ended = unseen(*arguments)
    assert "reused" not in ended.out
    assert "rows_read 159" in ended.out


def test_one_step_is_run_alone_or_again(unseen, project):
    arguments = ("run", project / "flow.yaml", "--workspace", project / "ws")
    ended = unseen(*arguments, "--only", "split")
    assert ended.code == 2
    assert "Error: step read has no results that all parties hold; run it first, or the whole flow" in ended.err
    assert "at party" in ended.err
    assert unseen(*arguments, "--only", "read", "--only", "align").code == 0
    ended = unseen(*arguments, "--only", "split")
    assert ended.code == 0
    assert "reused: read, align (" in ended.out
    assert [line.split()[:2] for line in ended.out.splitlines() if line.split()[0] in ("align", "split", "scale")] == [
        ["align", "reused"],
        ["split", "done"],
    ]
    unseen(*arguments)
    ended = unseen(*arguments, "--again", "split")
    assert "reused: read, align (" in ended.out
    ended = unseen(*arguments, "--again", "slpit")
    assert (ended.code, ended.out) == (2, "")
    assert "the flow has no step 'slpit'; did you mean 'split'?" in ended.err


def test_the_result_as_json_stands_alone_on_the_screen(unseen, project):
    ended = unseen("run", project / "flow.yaml", "--workspace", project / "ws", "--json")
    result = json.loads(ended.out)
    assert "read" in ended.err
    assert set(result) == {"job", "reused", "parties", "documents"}
    assert set(result["parties"]) == {"bank", "partner"}
    split = result["parties"]["bank"]["split"]
    assert set(split["outputs"]) == {"train", "test", "unlabelled"}
    assert split["reused"] is False
    assert split["bytes_sent"] > 100
    assert result["documents"]["read.report at partner"]["rows_kept"] == 160
    again = json.loads(unseen("run", project / "flow.yaml", "--workspace", project / "ws", "--json").out)
    assert again["reused"] == ["read", "align", "split", "scale"]
    assert again["parties"]["bank"]["split"]["outputs"] == split["outputs"]
    assert again["job"] != result["job"]


def test_tables_may_be_given_on_the_command_line(unseen, project, flow_text, monkeypatch):
    text = flow_text.replace("tables:\n  customers: {bank: bank.csv, partner: partner.csv}\n", "")
    (project / "flow.yaml").write_text(text)
    arguments = ("run", project / "flow.yaml", "--workspace", project / "ws")
    ended = unseen(*arguments)
    assert ended.code == 2
    assert "party bank has no table 'customers'" in ended.err
    monkeypatch.chdir(project)
    tables = ("--table", "bank.customers=bank.csv", "--table", "partner.customers=partner.csv")
    assert unseen(*arguments, *tables).code == 0
    for wrong in ("bank.customers", "customers=bank.csv", "shop.customers=x.csv"):
        ended = unseen(*arguments, "--table", wrong)
        assert ended.code == 2
        assert f"--table {wrong}: expected PARTY.NAME=FILE with a party of the flow" in ended.err


def test_a_run_that_failed_is_resumed_from_anywhere(unseen, project, flow_text, monkeypatch):
    text = flow_text.replace("tables:\n  customers: {bank: bank.csv, partner: partner.csv}\n", "")
    (project / "flow.yaml").write_text(text)
    good = (project / "bank.csv").read_text()
    (project / "bank.csv").write_text(good + good.splitlines()[-1] + "\n")
    monkeypatch.chdir(project)
    tables = ("--table", "bank.customers=bank.csv", "--table", "partner.customers=partner.csv")
    ended = unseen("run", "flow.yaml", "--workspace", "ws", *tables)
    assert ended.code == 1
    assert ended.err.startswith("Error: ")
    assert "duplicate id" in ended.err
    assert "at party bank, step read" in ended.err
    assert "Traceback" not in ended.err
    (job,) = Workspace(project / "ws" / "bank").jobs()
    (project / "bank.csv").write_text(good)
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    ended = unseen("resume", "../ws")
    assert (ended.code, ended.err) == (0, "")
    assert Workspace(project / "ws" / "bank").jobs() == [job]
    assert Workspace(project / "ws" / "bank").job(job).state == "finished"


def test_a_folder_without_a_run_cannot_be_resumed(unseen, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        ended = unseen("resume", folder)
        assert ended.code == 2
        assert "holds neither a demo nor the workspace of `unseen run`" in ended.err


def test_where_an_artifact_comes_from(unseen, project):
    unseen("run", project / "flow.yaml", "--workspace", project / "ws")
    result = json.loads(unseen("run", project / "flow.yaml", "--workspace", project / "ws", "--json").out)
    outputs = {step: done["outputs"] for step, done in result["parties"]["partner"].items()}
    digest = outputs["scale"]["table"]
    ended = unseen("lineage", project / "ws" / "partner", digest[:16])
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines[:-1]] == [
        "scale.table = standardise 1 {}",
        'split.train = split 1 {"test": 0.3, "stratify": true}',
        f"align.table = psi_join 2 {json.dumps(PsiJoinParams().model_dump(mode='json'))}",
        f"read.table = read_table 2 {json.dumps(ReadTableParams().model_dump(mode='json'))}",
    ]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 4, 6, 8]
    assert lines[-1].endswith("a file of partner")
    assert lines[0].startswith(digest[:12])
    assert lines[1].split()[0] == outputs["split"]["train"][:12]


def test_an_artifact_that_is_not_clear_is_refused(unseen, project):
    unseen("run", project / "flow.yaml", "--workspace", project / "ws")
    for root, artifact, expected in [
        (project / "ws" / "bank", "zz", "no artifact in .* starts with 'zz'; see the folder names in"),
        (project / "ws" / "bank", "", "artifacts in .* start with ''; give a longer part"),
        (project / "ws", "ab", "is not a party's workspace"),
    ]:
        ended = unseen("lineage", root, artifact)
        assert ended.code == 2
        assert re.search(expected, ended.err)
    assert not (project / "ws" / "artifacts").exists()


def test_a_workspace_in_use_is_refused(unseen, project):
    with Workspace(project / "ws" / "bank").locked():
        ended = unseen("run", project / "flow.yaml", "--workspace", project / "ws")
    assert ended.code == 2
    assert "another process works in" in ended.err


def test_a_mistake_ends_with_one_message_and_no_traceback(project):
    command = [sys.executable, "-m", "unseen", "validate", str(project / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("Error: cannot read the flow")
    assert "Traceback" not in ended.stderr
