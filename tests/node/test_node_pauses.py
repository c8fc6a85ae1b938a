"""Pauses: whoever holds a job holds it everywhere, until all who do have let it go on; and who may not say so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from organisations import ANN, BANK, BEN, CREDIT, INSURER, SHOP, allied, deliver, propose
from test_node_jobs import finish, states
from test_node_projects import refusals, say

from unseen.errors import PermissionDenied, UsageError
from unseen.node.domain import JobState
from unseen.node.letters import JobPaused, JobResumed
from unseen.node.usecases.runs import Runs

THREE = (BANK, INSURER, SHOP)


def holders(node, job) -> set[str]:
    return {held.party for held in node.jobs.get(job).paused}


@settings(max_examples=12, deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["pause", "resume", "deliver"])), max_size=10))
def test_all_nodes_agree_on_who_holds_a_job_and_nobody_works_on_it_meanwhile(tmp_path_factory, moves) -> None:
    nodes = allied(tmp_path_factory.mktemp("pauses"), *THREE)
    job = propose(nodes[0], *THREE)
    deliver(nodes)
    expected: set[str] = set()
    for at, move in moves:
        if move == "deliver":
            deliver(nodes[at:])
        elif (nodes[at].me in expected) == (move == "pause"):
            with pytest.raises(UsageError, match="paused"):
                nodes[at].jobs.pause(job, "x", ANN) if move == "pause" else nodes[at].jobs.resume(job, ANN)
        else:
            (nodes[at].jobs.pause(job, "x", ANN) if move == "pause" else nodes[at].jobs.resume(job, ANN))
            expected ^= {nodes[at].me}
    deliver(nodes)
    for node in nodes:
        assert holders(node, job) == expected
        assert refusals(node) == []
        if expected:
            assert Runs(node.books, node.folder).lease("test", 60) is None
    for node in nodes:
        if node.me in expected:
            node.jobs.resume(job, ANN)
    deliver(nodes)
    finish(nodes, job)
    assert states(nodes, job) == [JobState.FINISHED] * 3
    for node in nodes:
        node.store.close()


@pytest.mark.parametrize("automatic", [True, False])
def test_a_job_is_paused_before_it_is_ready_and_ends_though_it_is_paused(tmp_path, automatic) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER, automatic=automatic)
    job = propose(bank, BANK, INSURER)
    held = bank.jobs.pause(job, "not before noon", ANN)
    assert [(one.party, one.reason) for one in held.paused] == [(BANK, "not before noon")]
    deliver(nodes)
    assert holders(insurer, job) == {BANK}
    with pytest.raises(UsageError, match="bank paused it, and has to let it go on"):
        insurer.jobs.resume(job, ANN)
    insurer.jobs.cancel(job, "enough", ANN)
    deliver(nodes)
    assert states(nodes, job) == [JobState.CANCELLED] * 2
    assert holders(bank, job) == holders(insurer, job) == set()
    for act in (lambda: bank.jobs.pause(job, "again", ANN), lambda: bank.jobs.resume(job, ANN)):
        with pytest.raises(UsageError, match=r"is over|it is cancelled"):
            act()


def test_a_worker_that_ends_while_its_job_is_paused_has_not_said_anything(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    runs = Runs(bank.books, tmp_path)
    work = runs.lease("test", 60)
    insurer.jobs.pause(job, "later", ANN)
    deliver(nodes)
    assert not runs.stands(work.lease)
    assert not runs.renew(work.lease, 60)
    runs.failed(work.lease, UsageError("its partner went away"))
    runs.done(work.lease)
    assert states(nodes, job) == [JobState.RUNNING, JobState.READY]
    runs.let_go(work.lease)
    insurer.jobs.resume(job, ANN)
    deliver(nodes)
    finish(nodes, job)
    assert states(nodes, job) == [JobState.FINISHED] * 2


@pytest.mark.parametrize(
    ("sender", "letter"),
    [
        (INSURER, lambda job: JobPaused(CREDIT, job, SHOP, "x")),  # for another party
        (INSURER, lambda job: JobPaused(CREDIT, job, BANK, "x")),  # for the one who reads it
        (INSURER, lambda job: JobPaused(CREDIT, job, "nobody", "x")),
        (INSURER, lambda job: JobPaused(CREDIT, "job-0", INSURER, "x")),
        (INSURER, lambda job: JobResumed(CREDIT, job, SHOP)),
        (INSURER, lambda job: JobResumed("other", job, INSURER)),
    ],
)
def test_nobody_speaks_for_others(tmp_path, sender, letter) -> None:
    nodes = allied(tmp_path, *THREE)
    bank, shop = nodes[0], nodes[2]
    job = propose(bank, *THREE)
    deliver(nodes)
    shop.jobs.pause(job, "mine", ANN)
    deliver(nodes)
    assert len(say(bank, sender, letter(job))) == 1
    assert holders(bank, job) == {SHOP}


def test_news_of_a_third_party_come_from_the_initiator_only(tmp_path) -> None:
    nodes = allied(tmp_path, *THREE)
    job = propose(nodes[0], *THREE)
    deliver(nodes)
    say(nodes[2], INSURER, JobPaused(CREDIT, job, INSURER, "x"))
    assert holders(nodes[2], job) == set()
    say(nodes[2], BANK, JobPaused(CREDIT, job, INSURER, "x"))
    assert holders(nodes[2], job) == {INSURER}


def test_whoever_may_not_cancel_may_not_pause(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    with pytest.raises(PermissionDenied):
        insurer.jobs.pause(job, "x", BEN)
    insurer.jobs.pause(job, "x", ANN)
    with pytest.raises(PermissionDenied):
        insurer.jobs.resume(job, BEN)
