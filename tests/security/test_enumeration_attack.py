"""A partner that owns its node walks through the ids of another one, and stops at the budget that the other signed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.node.organisations import BANK, BEN, CREDIT, INSURER, deliver, site
from tests.security.thief import ANNA, BUDGET, MEMBERS, OTHER, SESSION, Heist, Meter, Power, agreed, names_the_budget

from unseen.errors import PermissionDenied, RemoteProtocolError, UnseenError
from unseen.node.domain import JobState

STRANGERS = 5000


def some(number: int, count: int = SESSION) -> range:
    """Return the next part of the space that the bank walks through; the members are in the first one."""
    start = MEMBERS.start + number * count
    return range(start, start + count)


@pytest.fixture
def heist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heist:
    meter = Meter()
    meter.install(monkeypatch)
    return Heist.begin(tmp_path, meter)


# --- one way each; they return once the insurer has refused --------------------------------------------------------


def fresh_lists(heist: Heist) -> None:
    """New versions of the table, one part of the space after the other."""
    for number in range(3):
        heist.try_out(some(number))


def overlapping_lists(heist: Heist) -> None:
    """Each list differs from the one before by half: known ids in it are charged like others."""
    for number in range(3):
        heist.try_out(range(MEMBERS.start + 20 * number, MEMBERS.start + 20 * number + SESSION))


def short_lists(heist: Heist) -> None:
    """As many as there is room for."""
    for number in range(BUDGET // 25 + 1):
        heist.try_out(some(number, 25), points=25)


def jobs_at_once(heist: Heist) -> None:
    """The insurer has granted all jobs, each of which fits, before the bank lets the first one be charged."""
    heist.bank.projects.set_policy(CREDIT, site(BANK, INSURER, max_points=10**6, automatic=False), ANNA)
    path = heist.bring(some(0))
    jobs = [heist.propose(min_shared=number) for number in range(4)]
    deliver(heist.nodes)
    assert {heist.insurer.jobs.get(job).state for job in jobs} == {JobState.GRANTED}
    for job in jobs:
        heist.bank.jobs.approve(job, BEN)
    deliver(heist.nodes)
    for number in range(4):
        heist.run(path, anew=number % 2 == 1)


def many_joins_in_a_job(heist: Heist) -> None:
    """Steps of one job, each with a list of its own as far as the bank's worker is concerned."""
    for number in range(3):
        heist.try_out(some(number, 13), joins=3, points=39)


def nothing_asked_for(heist: Heist) -> None:
    """Jobs that say that they need no points."""
    heist.try_out(some(0), points=0)


WAYS: list[Callable[[Heist], None]] = [
    fresh_lists,
    overlapping_lists,
    short_lists,
    jobs_at_once,
    many_joins_in_a_job,
    nothing_asked_for,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_it_proposes_the_bank_has_no_more_tested_than_was_signed(heist, way, record_count) -> None:
    way(heist)
    names_the_budget(heist)
    assert heist.meter.tested <= heist.charged() <= BUDGET
    record_count(f"ids tested by {way.__name__.replace('_', ' ')}, of {BUDGET} agreed", heist.meter.tested)


def test_the_meter_counts_what_honest_partners_have_tested(heist) -> None:
    """Without this, all the others would pass with a meter that is broken."""
    assert heist.try_out(some(0)) is None
    assert heist.meter.tested == heist.charged() == SESSION


# --- the bank's worker brings something else than its node said ----------------------------------------------------


def test_a_longer_list_than_was_charged_is_not_evaluated(heist) -> None:
    path = heist.bring(range(STRANGERS, STRANGERS + 400), rows=SESSION)
    heist.propose()
    deliver(heist.nodes)
    assert isinstance(heist.run(path), PermissionDenied)
    assert heist.meter.tested == 0
    assert heist.charged() == SESSION, "a job that failed stays charged"


@pytest.mark.parametrize("params", [{}, {"keep_ids": ["bank"]}])
def test_an_answer_from_before_is_no_answer_about_another_list(heist, params) -> None:
    """The same version once more is free, since nothing is evaluated for it; also not with other parameters."""
    assert heist.try_out(some(0)) is None
    other = heist.bring(some(9), content="list 1")  # under the digest of the first list
    tested = heist.meter.tested
    heist.propose(**params)
    deliver(heist.nodes)
    heist.run(other, anew=True)
    heist.propose(points=0, **params)
    deliver(heist.nodes)
    heist.run(other, anew=True)
    assert heist.meter.tested <= heist.charged() <= BUDGET
    assert heist.meter.tested == tested or heist.charged() > SESSION


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_crash_on_purpose_buys_no_second_list(heist, when) -> None:
    """Before the points, between them and the result, or after it: the list that was said first counts."""
    path, meter = heist.bring(some(0)), heist.meter
    heist.propose()
    deliver(heist.nodes)
    kills = {"before": lambda: True, "between": lambda: meter.batches > 0, "after": lambda: False}
    first = heist.run(path, killed=kills[when], says_done=False)
    assert isinstance(first, Power) is (when != "after")
    assert meter.tested == (0 if when == "before" else SESSION)
    seen, ends = meter.tested, []
    for number in range(1, 4):
        heist.insurer.start()
        ends.append(heist.run(heist.bring(some(number)), anew=True, says_done=False))
    assert meter.tested <= heist.charged() == SESSION
    if seen:
        assert isinstance(ends[0], RemoteProtocolError)
        assert "says something else" in str(ends[0])


# --- budgets that somebody would like to have forgotten --------------------------------------------------------------


def test_a_bank_that_is_put_back_from_a_backup_gets_nothing_new(heist, tmp_path) -> None:
    heist.bank.store.close()
    shutil.copy(tmp_path / "bank.db", tmp_path / "copy.db")
    heist.bank.__post_init__()
    for number in range(2):
        heist.try_out(some(number))
    heist.bank.put_back(tmp_path / "copy.db")
    heist.try_out(some(2))
    assert heist.meter.tested <= heist.charged() <= BUDGET
    heist.bank.jobs.ask_what_was_lost()
    deliver(heist.nodes)
    heist.run(heist.bring(some(3)))
    heist.try_out(some(4, 30), points=30)
    names_the_budget(heist)
    assert heist.meter.tested <= heist.charged() <= BUDGET


def test_a_bank_that_does_not_countersign_has_nothing_evaluated(heist, monkeypatch) -> None:
    path = heist.bring(some(0))
    monkeypatch.setattr("unseen.node.mailroom.take_charge", lambda *_: None)
    heist.bank.start()
    heist.propose()
    deliver(heist.nodes)
    assert heist.run(path) is None
    assert (heist.meter.tested, heist.charged()) == (0, SESSION)


def test_a_new_agreement_goes_on_where_the_old_one_stood_and_a_larger_budget_is_what_it_says(heist) -> None:
    for number in range(2):
        heist.try_out(some(number))
    heist.insurer.projects.revoke(CREDIT, "enough", BEN)
    deliver(heist.nodes)
    with pytest.raises(PermissionDenied, match="revo"):
        heist.try_out(some(3))
    heist.sign({**agreed(), "purpose": "the same once more"})
    heist.try_out(some(4))
    names_the_budget(heist)
    assert heist.meter.tested == heist.charged() == 2 * SESSION
    heist.sign({**agreed(points_total=BUDGET + SESSION), "purpose": "somewhat more"})
    for number in range(5, 7):
        heist.try_out(some(number))
    names_the_budget(heist)
    assert heist.meter.tested == heist.charged() == 3 * SESSION


def test_a_second_project_has_what_the_insurer_signed_for_it_and_nothing_before(heist) -> None:
    heist.bank.projects.draft(agreed(OTHER), ANNA)
    heist.bank.projects.sign(OTHER, BEN)
    deliver(heist.nodes)
    with pytest.raises(UnseenError):
        heist.propose(OTHER)
    for number in range(2):
        heist.try_out(some(number))
    assert heist.charged() == heist.meter.tested == 2 * SESSION
    heist.insurer.projects.sign(OTHER, BEN)  # whoever signs a budget twice has signed twice as much
    for node in heist.nodes:
        node.projects.set_policy(OTHER, site(BANK, INSURER, max_points=10**6), ANNA)
    for number in range(3, 6):
        heist.try_out(some(number), project=OTHER)
    names_the_budget(heist)
    assert heist.charged() == heist.charged(OTHER) == 2 * SESSION
    assert heist.meter.tested <= 2 * BUDGET
