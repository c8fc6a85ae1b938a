"""Wherever a party of a job dies, the job goes on from what is on disk, and ends as if nothing had happened.

For every kind of job: the same artifacts at all parties, the same words of each partner under the same points, the same
end, and no file more or less. `make evidence` goes through 300 points of each kind and prints a line for each.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from crash_points import LEAST, Job, Mortals, Point, outcome, run, spread, tell_of
from job_kinds import KINDS, flow_of, tables

NAMES = list(KINDS)


class Trial:
    """A kind of job that has been run undisturbed, and can be run again with a death in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        (folder / "tables").mkdir()
        self.folder = folder
        self._job = Job(flow_of(kind), folder / "undisturbed", tables(folder / "tables"))
        self._job.root.mkdir()
        mortals = Mortals(self._job.root)
        run(self._job, mortals)
        self.points, self.log = mortals.points(), mortals.log
        self._expected = outcome(self._job)

    def survive(self, *points: Point) -> None:
        """Let somebody die at each point in turn, and the job go on after it."""
        job = replace(self._job, root=self.folder / "crashed")
        job.root.mkdir()
        for point in points:
            mortals = Mortals(job.root, point)
            run(job, mortals)
            assert mortals.dead == {point.party} or point != points[0], point
        run(job, Mortals(job.root))
        assert outcome(job) == self._expected, points
        shutil.rmtree(job.root)


@pytest.mark.parametrize("kind", NAMES)
def test_a_job_survives_the_death_of_a_party(kind, tmp_path) -> None:
    trial = Trial(kind, tmp_path)
    trial.survive(trial.points[int((NAMES.index(kind) + 0.5) / len(NAMES) * len(trial.points))])


@pytest.mark.evidence
@pytest.mark.parametrize("kind", NAMES)
def test_a_job_survives_a_death_at_any_point(kind, tmp_path, capsys) -> None:
    began = time.monotonic()
    trial = Trial(kind, tmp_path)
    chosen = spread(trial.points)
    for point in chosen:
        trial.survive(point)
    with capsys.disabled():
        tell_of(chosen, trial.log, job=kind, of=len(trial.points), seconds=round(time.monotonic() - began, 1))


@pytest.mark.evidence
def test_a_job_survives_two_deaths(tmp_path, capsys) -> None:
    """The second one comes while the job goes on: if somebody was done already, from the beginning."""
    began = time.monotonic()
    trial = Trial("many_rounds", tmp_path)
    draw = random.Random(1)
    late = [point for point in trial.points if point.effect > 0.8 * len(trial.log[point.party])]
    firsts = draw.choices(late, k=LEAST)
    for first in firsts:
        trial.survive(first, draw.choice(trial.points))
    with capsys.disabled():
        tell_of(firsts, trial.log, job="many_rounds", deaths=2, seconds=round(time.monotonic() - began, 1))
