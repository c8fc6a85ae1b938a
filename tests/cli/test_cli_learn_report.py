"""``unseen report`` of a folder of ``unseen learn``: the same page, of a run that ended, was stopped, or is damaged."""

import json

import pytest

from unseen.cli import learned as module
from unseen.rounds import spending

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

PROGRAM = """\
name: small <b>bold</b>
data: {source: digits, clients: 4}
model: {name: logistic_regression, features: 64}
strategy: {name: fed_avg}
cohort: {size: 2}
rounds: 2  # a remark
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.yaml"
    path.write_text(PROGRAM)
    return path


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_gives_the_page_of_its_run_and_is_not_changed(unseen, program, tmp_path):
    run, first, again = tmp_path / "run", tmp_path / "first.html", tmp_path / "again.html"
    learnt = unseen("learn", program, "--workers", 1, "--compare", "--folder", run, "--report", first)
    assert learnt.code == 0, learnt.err
    before = content_of(run)
    program.unlink()
    assert unseen("report", run, "--out", again).code == 0
    assert again.read_bytes() == first.read_bytes()
    assert "# a remark" in again.read_text()
    printed = unseen("report", run, "--table", "--out", tmp_path / "unwritten.html")
    for row in ("rounds", "test accuracy", "worst tenth", "test accuracy, pooled"):
        assert row in printed.out
        assert row in learnt.out
    assert not (tmp_path / "unwritten.html").exists()
    assert content_of(run) == before


def test_a_run_that_has_not_ended_has_its_rounds_and_says_what_is_older(unseen, program, tmp_path):
    run, page = tmp_path / "run", tmp_path / "page.html"
    assert unseen("learn", program, "--workers", 1, "--rounds", 1, "--folder", run).code == 0
    outcome = run / "outcome.json"
    of_one_round = outcome.read_bytes()
    assert unseen("learn", program, "--workers", 1, "--folder", run).code == 0
    outcome.write_bytes(of_one_round)  # killed before it looked at its clients again
    assert "the common model (after round 1)" in unseen("report", run, "--table").out
    outcome.unlink()
    (run / "state.bin").unlink()  # killed in its first round
    assert unseen("report", run, "--out", page).code == 0
    assert "4 simulated clients, 0 of 2 rounds" in page.read_text()
    assert "small &lt;b&gt;bold" in page.read_text()


def test_what_is_damaged_or_missing_is_named(unseen, program, tmp_path):
    run = tmp_path / "run"
    assert unseen("learn", program, "--workers", 1, "--rounds", 1, "--folder", run).code == 0
    about = run / "about.json"
    kept = about.read_text()
    ragged = {**json.loads(kept), "labels": {"clients": ["a"], "labels": ["0", "1"], "counts": [[1]]}}
    for wrong in (
        "{",
        json.dumps(ragged),
        kept.replace('"clients": 4', '"clients": "4"'),
        json.dumps({**json.loads(kept), "more": 1}),
    ):
        about.write_text(wrong)
        ended = unseen("report", run)
        assert ended.code == 1
        assert "about.json cannot be read" in ended.err
    about.unlink()
    assert "has not begun yet" in unseen("report", run).err
    (run / "program.yaml").write_text("name: [")
    about.write_text(kept)
    assert unseen("report", run).code == 2


def test_what_a_private_run_has_spent_is_read_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(spending, "accounting", lambda: type("PerRound", (), {"epsilon": staticmethod(per_round)}))
    from unseen.rounds.building import Built  # noqa: PLC0415
    from unseen.rounds.kept import keep  # noqa: PLC0415
    from unseen.rounds.program import Program  # noqa: PLC0415

    text = PROGRAM.replace("size: 2", "rate: 0.5")
    text += "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2, noise_multiplier: 1.0}\n"
    built = Built(Program.parse(text), tmp_path)
    keep(tmp_path, module.about_simulated(built, 2))
    with built.simulation(workers=1) as simulation:
        simulation.rounds(2)
    with (tmp_path / "spent.jsonl").open("ab") as file:
        file.write(b'{"cut')  # killed while it wrote
    before = content_of(tmp_path)
    found = module.Learned.read(tmp_path)
    assert found.privacy.spent == 2
    assert any("ε 2 of 3 is spent" in what for _, what in module.page(found).learned)
    assert content_of(tmp_path) == before


def per_round(facts, delta):
    del delta
    return float(sum(fact.rounds for fact in facts))
