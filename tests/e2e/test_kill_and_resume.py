"""Whatever process is killed at whatever point, the resumed job ends with the same model, bit for bit.

A demo is laid out once, with the seeds of its job, and copied: one copy runs undisturbed, in each of the others one
party's process is killed (SIGKILL) at another effect of its dialogue, and the job is resumed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from unseen.demo.prepare import JOB, DemoOptions, DemoPlan, prepare
from unseen.demo.processes import run_parties
from unseen.demo.results import DemoResults
from unseen.dialogue import Event
from unseen.errors import PeerFailed, UnseenError

MODES = ("linearised", "private")
POINTS = 6
EVERY_TIME = (1, 4)
"""Of these points; the others are for `make evidence`."""
FAULTY = str(Path(__file__).with_name("faulty_party.py"))
OUTPUTS = ("align", "split", "scale", "train", "score_test", "evaluate", "score_new")


def copy(plan: DemoPlan, to: Path) -> DemoPlan:
    shutil.copytree(plan.out, to)
    return DemoPlan.read(to)


def digests(plan: DemoPlan) -> dict[str, str]:
    results = DemoResults(plan)
    return {
        f"{party}/{step}.{port}": ref.digest
        for party in plan.parties
        for step in OUTPUTS
        for port, ref in results.record(party, step).outputs.items()
    }


@pytest.fixture(scope="module", params=MODES)
def laid_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DemoPlan:
    return prepare(DemoOptions(tmp_path_factory.mktemp("kill") / "plan", rows=300, mode=request.param))


@pytest.fixture(scope="module")
def undisturbed(laid_out: DemoPlan) -> tuple[DemoPlan, dict[str, str], int]:
    plan = copy(laid_out, laid_out.out.with_name("undisturbed"))
    events: list[Event] = []
    run_parties(plan, observe=events.append)
    # Each message is one effect at each end; entering, leaving, progress and checkpoints come on top.
    messages = sum(event.usage.messages for event in events if event.what == "leave" and event.party == plan.active)
    return plan, digests(plan), 2 * messages


@pytest.mark.parametrize(
    "point", [pytest.param(n, marks=() if n in EVERY_TIME else pytest.mark.evidence) for n in range(POINTS)]
)
def test_killed_job_resumes_to_the_same_model(
    point: int, laid_out: DemoPlan, undisturbed: tuple[DemoPlan, dict[str, str], int]
) -> None:
    _, expected, effects = undisturbed
    plan = copy(laid_out, laid_out.out.with_name(f"point-{point}"))
    party = plan.parties[point % 2]
    effect = 1 + point * effects // POINTS
    with pytest.raises(PeerFailed, match=rf"{party} was killed \(SIGKILL\)"):
        run_parties(plan, wrapper={party: (sys.executable, FAULTY, str(effect))})
    assert plan.workspace(party).job(JOB).state != "finished"

    run_parties(plan)
    assert digests(plan) == expected
    shutil.rmtree(plan.out)


def test_both_parties_killed_in_turn(laid_out: DemoPlan, undisturbed: tuple[DemoPlan, dict[str, str], int]) -> None:
    _, expected, effects = undisturbed
    plan = copy(laid_out, laid_out.out.with_name("twice"))
    for party, effect in zip(plan.parties, (effects // 3, effects // 2), strict=True):
        with pytest.raises(UnseenError):
            run_parties(plan, wrapper={party: (sys.executable, FAULTY, str(effect))})
    run_parties(plan)
    assert digests(plan) == expected
