import json
import re

import pytest
from plotly.graph_objects import Figure

from unseen.report.figures import PALETTES
from unseen.rounds import spending

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

PROGRAM = """\
name: small <b>bold</b>
data: {source: digits, partition: "dirichlet:1.0", clients: 4}
model: {name: logistic_regression, features: 64}
strategy: {name: ditto, learning_rate: 0.1}
cohort: {size: 2}
rounds: 3
evaluate_every: 2
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.yaml"
    path.write_text(PROGRAM)
    return path


def test_a_run_ends_with_a_table_and_a_report_that_has_everything(unseen, program, tmp_path):
    report = tmp_path / "reports" / "small.html"
    ended = unseen("learn", program, "--workers", 1, "--compare", "--report", report)
    assert ended.code == 0, ended.err
    for row in ("test accuracy", "worst tenth", "standard deviation", "every client's own model", "pooled", "alone"):
        assert row in ended.out
    assert [line for line in ended.out.splitlines() if line.startswith("round ")] != []
    page = report.read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', page).group(1))["figures"]
    assert {"accuracy", "loss", "clients", "comparison", "traffic", "partition_labels"} <= set(content)
    assert content["accuracy"]["data"][0]["x"] == [2, 3]
    assert content["loss"]["data"][0]["x"] == [1, 2, 3]
    assert len(content["clients"]["data"]) == 2  # the common model and everyone's own
    assert all(f'id="{key}"' in page for key in content)
    for figure in content.values():
        plot = json.loads(re.sub(r'"@(\w+)"', lambda found: f'"{PALETTES["light"][found[1]]}"', json.dumps(figure)))
        assert Figure(plot).data  # plotly knows every property
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert "Jain" in page
    assert "Who learned what" in page


@pytest.mark.parametrize("own", [False, True])
def test_a_private_run_marks_what_epsilon_does_not_cover_and_leaves_out_who_came(unseen, tmp_path, monkeypatch, own):
    """An image set has images to test on that are no client's; a file's clients are tested on their own examples."""
    monkeypatch.setattr(spending, "accounting", lambda: type("Free", (), {"epsilon": staticmethod(lambda *_: 0.5)}))
    source = "digits, partition: iid, clients: 4"
    if own:
        rows = [[0.1 * (number + pixel) % 1 for pixel in range(64)] for number in range(10)]
        data = {name: {"x": rows, "y": [number % 2 for number in range(10)]} for name in ("ann", "ben")}
        text = json.dumps({"users": [*data], "num_samples": [10, 10], "user_data": data})
        (tmp_path / "people.json").write_text(text)
        source = "people.json"
    program, report = tmp_path / "program.yaml", tmp_path / "report.html"
    program.write_text(
        f"name: small\ndata: {{source: {source}, test: 0.2}}\nmodel: {{name: logistic_regression, features: 64}}\n"
        "strategy: {name: fed_avg, learning_rate: 0.1}\ncohort: {rate: 0.5}\nrounds: 2\n"
        "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2, noise_multiplier: 1.0}\n"
    )
    ended = unseen("learn", program, "--workers", 1, "--report", report, "--compare")
    assert ended.code == 0, ended.err
    lines = [line for line in ended.out.splitlines() if re.search(r"\d\.\d{4}", line)]
    free = {line.split("  ")[0] for line in lines if "(not covered by ε)" not in line}
    assert all(line.startswith(("test ", "round ")) and not own for line in free), free
    page = report.read_text(encoding="utf-8")
    figures = {"Who is served how well", "What taking part is worth", "Beside other training", "Accuracy", "Loss"}
    for title in figures | {"Fairness: accuracy over clients"}:
        marked = own or title not in {"Accuracy", "Loss"}
        assert (f"{title} (not covered by ε)</h" in page) == marked
    for told in ("on average", "bytes of all rounds", "computing time", 'id="traffic"', 'id="partition', "ann"):
        assert told not in page.split("<script")[0]
    left = json.loads(unseen("learn", program, "--workers", 1, "--json").out)["privacy"]["not covered by ε"]
    assert left == ["clients", "comparison", *(["test"] if own else [])]


def test_json_says_the_same_and_a_folder_goes_on(unseen, program, tmp_path):
    arguments = ("learn", program, "--workers", 1, "--json")
    first = unseen(*arguments, "--rounds", 1, "--folder", tmp_path / "run")
    assert [one["round"] for one in json.loads(first.out)["rounds"]] == [1]
    again, fresh = unseen(*arguments, "--folder", tmp_path / "run"), unseen(*arguments)
    found, expected = json.loads(again.out), json.loads(fresh.out)
    assert found["test"] == expected["test"]
    assert found["clients"] == expected["clients"]
    assert found["clients"]["the common model"]["clients"] == 4


def test_ctrl_c_keeps_finished_rounds_and_says_how_to_go_on(unseen, program, tmp_path, monkeypatch):
    import unseen.cli.learn as module  # noqa: PLC0415

    class Pressed:
        looks = 0

        def is_set(self):
            self.looks += 1
            return self.looks > 3

    from contextlib import contextmanager  # noqa: PLC0415

    @contextmanager
    def pressed():
        yield Pressed()

    monkeypatch.setattr(module, "cancel_on_signal", pressed)
    kept = unseen("learn", program, "--workers", 1, "--folder", tmp_path / "run")
    assert kept.code == 1
    assert "stopped after 1 of 3 rounds" in kept.err
    assert f"go on with `unseen learn {program} --folder {tmp_path / 'run'}`" in kept.err
    assert "they are not kept: give --folder" in unseen("learn", program, "--workers", 1).err


def test_mistakes_end_with_one_message(unseen, program):
    program.write_text(PROGRAM.replace("ditto, learning_rate: 0.1", "fed_sgd"))
    ended = unseen("learn", program, "--compare")
    assert ended.code == 2
    assert "FedSGD has no plan of local training" in ended.err
    assert unseen("learn", "nowhere.yaml").code == 2
    assert (
        "expected NAME=HOST:PORT"
        in unseen(
            "attend", program, "--run", "r", "--identity", ".", "--server", "host:1", "--data", "client:c0000"
        ).err
    )


def test_weights_that_a_server_does_not_know_are_refused(unseen, program, tmp_path):
    program.write_text(PROGRAM.replace("cohort: {size: 2}", "cohort: {size: 2, weighted: true}"))
    ended = unseen(
        "serve", program, "--run", "a", "--identity", tmp_path, "--listen", "127.0.0.1:1", "--clients", "a,b,c,d"
    )
    assert ended.code == 2
    assert "a server does not know how many examples its clients have" in ended.err
