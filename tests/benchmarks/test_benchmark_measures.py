"""Figures are only worth something if those who take them can count."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unseen.dialogue import Event, Usage
from unseen.ids import PartyId, StepId

STEP, ME = StepId("train"), PartyId("active")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("measure", monkeypatch)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("data", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of the package ``benchmarks``, which is not installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module(f"benchmarks.{name}")


def play(measure: ModuleType, *events: tuple[str, int, int, int]):
    """Return what a party would have measured of (what, done, total, bytes sent)."""
    meter = measure.Meter()
    for what, done, total, sent in events:
        meter(Event(ME, STEP, what, done, total, usage=Usage(bytes_sent=sent)))
    return measure.PartyRun(meter.stages, 0.0, {})


def test_laps_lie_between_words_of_progress_and_leave_a_set_up_out(measure: ModuleType) -> None:
    run = play(
        measure,
        ("enter", 0, 0, 0),
        ("progress", 500, 1000, 10),
        ("progress", 1000, 1000, 20),
        ("progress", 1, 3, 100),
        ("progress", 1, 3, 110),
        ("progress", 2, 3, 150),
        ("leave", 0, 0, 160),
    )
    assert [lap.bytes for lap in run.laps("train", not_of=1000)] == [100, 50]
    assert run.cost("train").bytes == 160


def test_costs_of_parties_add_up_but_for_the_clock(measure: ModuleType) -> None:
    Cost = measure.Cost
    assert measure.together([Cost(1.0, 2.0, 3), Cost(9.0, 1.0, 4)]) == Cost(1.0, 3.0, 7)
    assert measure.median([Cost(1.0, 5.0, 3), Cost(2.0, 1.0, 4), Cost(9.0, 3.0, 5)]) == Cost(2.0, 3.0, 4)


def test_what_a_party_measured_survives_json(measure: ModuleType) -> None:
    run = play(measure, ("enter", 0, 0, 0), ("progress", 1, 3, 100))
    assert measure.PartyRun.read(run.fields()) == run


def test_every_process_makes_the_same_people(data: ModuleType) -> None:
    people = data.Population(2000, 3, 4)
    apart = np.hstack([people.active_features(), people.passive_features()])
    np.testing.assert_array_equal(apart, people.pooled_features())
    np.testing.assert_allclose(apart.std(axis=0), 1, atol=0.1)
    for labels in (people.linear_labels(), people.tree_labels()):
        assert 0.1 < labels.mean() < 0.6
    assert not np.array_equal(apart, data.Population(2000, 3, 4, seed=2).pooled_features())


def test_a_split_keeps_rows_and_labels_together(data: ModuleType) -> None:
    values = np.arange(6.0)
    split = data.Split.without([4, 1], values[:, None], values)
    assert split.labels.tolist() == split.features[:, 0].tolist() == [0, 2, 3, 5]
    assert split.test_labels.tolist() == split.test_features[:, 0].tolist() == [1, 4]
