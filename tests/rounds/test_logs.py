"""Watchers of a run write what they were told."""

import sys
from types import SimpleNamespace

import pytest

from unseen.errors import UsageError
from unseen.rounds.logs import MlFlow, Progress, TensorBoard, figures, told
from unseen.rounds.run import Round

FIRST = Round(1, 10, 2, {"loss": 0.5}, {}, 0.25)
SECOND = Round(2, 10, 0, {"loss": 0.25}, {"accuracy": 0.75}, 0.5, clock=9.0)


def test_figures_are_named_by_where_they_come_from():
    assert dict(figures(FIRST)) == {"training/loss": 0.5, "clients/heard": 8, "seconds/real": 0.25}
    assert dict(figures(SECOND))["test/accuracy"] == 0.75
    assert dict(figures(SECOND))["seconds/simulated"] == 9.0


def test_several_watchers_are_told_in_order():
    heard = []
    told(lambda one: heard.append(("a", one)), lambda one: heard.append(("b", one)))(FIRST)
    assert heard == [("a", FIRST), ("b", FIRST)]


def test_the_bar_shows_the_last_test_until_the_next_one(capsys):
    with Progress(3) as bar:
        bar(SECOND)
        bar(Round(3, 10, 0, {"loss": 0.125}))
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "training: loss 0.1250   test: accuracy 0.7500" in shown.replace("\n", " ")


def test_tensorboard_reads_what_was_written(tmp_path):
    name = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(name, reason="pip install 'unseen[tensorboard]'")
    with TensorBoard(tmp_path) as board:
        board(FIRST)
        board(SECOND)
    found = reader.EventAccumulator(str(tmp_path)).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("training/loss")]
    assert losses == [(1, 0.5), (2, 0.25)]
    assert [event.value for event in found.Scalars("test/accuracy")] == [0.75]


def test_mlflow_gets_one_run_that_ends_as_it_ended(monkeypatch):
    calls = []

    def note(name):
        return lambda *args, **named: calls.append((name, args, named))

    names = ("set_experiment", "start_run", "log_metrics", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**{name: note(name) for name in names}))
    with MlFlow("digits", "first") as log:
        log(SECOND)
    with pytest.raises(ZeroDivisionError), MlFlow("digits"):
        _ = 1 / 0
    once = ["set_experiment", "start_run", "end_run"]
    assert [name for name, _, _ in calls] == [*once[:2], "log_metrics", once[2], *once]
    assert calls[2] == ("log_metrics", (dict(figures(SECOND)),), {"step": 2})
    assert [args for name, args, _ in calls if name == "end_run"] == [("FINISHED",), ("FAILED",)]


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'unseen\[mlflow\]'"):
        MlFlow("digits")
    with pytest.raises(UsageError, match=r"pip install 'unseen\[tensorboard\]'"):
        TensorBoard(tmp_path)
