"""The guide to simulations runs as it is printed, and the README's example learns."""

import re
import runpy
from pathlib import Path

import pytest

from unseen.errors import DataError
from unseen.horizontal import Examples, Settings, Simulation, Uniform, fed_avg, load_images

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "simulation.md"


def test_the_programs_of_the_guide_run(tmp_path, monkeypatch, capsys):
    for module in ("sklearn", "torch", "tensorboard"):
        pytest.importorskip(module, reason=f"the guide uses {module}")
    monkeypatch.chdir(tmp_path)
    names = {}
    for program in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(program, str(GUIDE), "exec"), names)  # noqa: S102
    told = capsys.readouterr().out
    figures = {
        "federated": float(re.search(r"federated: ([\d.]+)", told)[1]),
        "alone": float(re.search(r"alone \(mean of 5 clients\): ([\d.]+)", told)[1]),
        "all": float(re.search(r"one model for all: mean ([\d.]+)", told)[1]),
        "own": float(re.search(r"each its own: mean ([\d.]+)", told)[1]),
        "first": float(told.splitlines()[0]),
    }
    assert figures["first"] > 0.85
    assert figures["federated"] > figures["alone"] + 0.2
    assert min(figures["own"], figures["all"]) > 0.7
    assert list((tmp_path / "board").iterdir())


def test_the_example_of_the_readme_learns_in_few_rounds():
    try:
        load_images("mnist")
    except DataError as error:
        pytest.skip(str(error))
    names = runpy.run_path(str(GUIDE.parents[2] / "examples" / "digits.py"), run_name="example")
    few, test = Settings(Uniform(10), evaluate_every=8), Examples(*(part[:2000] for part in names["digits"].test))
    with Simulation(names["clients"], names["trainer"], fed_avg(names["plan"]), few, test=test) as simulation:
        assert simulation.rounds(8).test["accuracy"] > 0.8
