"""Jobs between nodes: proposed, decided by each owner, charged, made ready, ended; and what must not get in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from organisations import (
    ANN,
    BANK,
    BEN,
    CREDIT,
    INSURER,
    MALLORY,
    NOW,
    SHOP,
    Organisation,
    acquainted,
    agreement_text,
    allied,
    deliver,
    key_of,
    propose,
    register,
    site,
    small_flow,
)
from test_node_projects import refusals, say

from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.flow.spec import FlowSpec, canonical_json
from unseen.ids import JobId, StepId
from unseen.node.domain import Duty, JobState, Person
from unseen.node.letters import JobDone, JobEnded, JobGranted, JobProposed, JobRefused, TableHeld
from unseen.node.usecases.runs import Runs
from unseen.trust.audit import Event
from unseen.trust.envelope import read_envelope, read_statement, seal
from unseen.trust.grant import Grant


def states(nodes, job: JobId) -> list[JobState]:
    return [node.jobs.get(job).state for node in nodes]


def events(node: Organisation) -> list[Event]:
    return [record.event for record in node.audit.records(CREDIT)]


def spent(node: Organisation, partner) -> int:
    with node.books.turn() as turn:
        return sum(receipt.charge.partner_rows for receipt in turn.ledger(CREDIT, partner).receipts)


def finish(nodes, job: JobId, shared: int = 700) -> None:
    """Do what workers would."""
    for node in nodes:
        runs = Runs(node.books, node.folder / "workspaces")
        work = runs.lease("test", 60)
        assert work.job.job == job
        runs.note_size(work.lease, StepId("align"), shared)
        runs.done(work.lease)
    deliver(nodes)


@pytest.mark.parametrize("names", [(BANK, INSURER), (BANK, INSURER, SHOP)], ids=["two", "three"])
def test_a_job_is_ready_once_all_have_granted_and_all_points_are_receipted(tmp_path, names) -> None:
    nodes = allied(tmp_path, *names)
    job = propose(nodes[0], *names)
    assert states(nodes[:1], job) == [JobState.GRANTED]
    deliver(nodes)
    assert states(nodes, job) == [JobState.READY] * len(nodes)
    for node in nodes:
        assert {partner: spent(node, partner) for partner in node.partners} == dict.fromkeys(node.partners, 2000)
        with node.books.turn() as turn:
            assert all(turn.ledger(CREDIT, partner).settled for partner in node.partners)
            assert set(turn.kept.jobs.grants(job)) == set(names)
        assert all(node.jobs.admits(peer, job) for peer in node.partners)
        assert not node.jobs.admits(MALLORY, job)
        assert refusals(node) == []
    finish(nodes, job)
    assert states(nodes, job) == [JobState.FINISHED] * len(nodes)
    for node in nodes:
        assert Event.RELEASED in events(node)
        assert node.audit.verify(CREDIT).count == len(events(node))
        assert not any(node.jobs.admits(peer, job) for peer in node.partners)


def test_a_worker_is_told_what_was_charged_and_nothing_if_the_answer_is_known(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    work = Runs(insurer.books, tmp_path).lease("test", 0.0)
    assert work.points == {"align": {BANK: 2000}}
    with insurer.books.turn() as turn:
        turn.kept.jobs.release(work.lease)
    finish(nodes, job)
    again = propose(bank, BANK, INSURER, points=0)
    deliver(nodes)
    work = Runs(insurer.books, tmp_path).lease("test", 60)
    assert work.job.job == again
    assert work.points == {"align": {BANK: 0}}
    assert spent(insurer, BANK) == 2000


def test_what_is_charged_is_what_a_partner_that_cheats_could_have(tmp_path) -> None:
    """By vole 2,000 rows give answers about 2,797 ids to whoever deviates, and few rows to as many as 1,530."""
    text = agreement_text(BANK, INSURER)
    text["components"][1]["bounds"] = {"protocol": {"bound": "one-of", "values": ["auto", "ecdh"]}}  # type: ignore[index]
    bank, insurer = nodes = acquainted(tmp_path, BANK, INSURER)
    bank.projects.draft(text, ANN)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, BEN)
        node.projects.set_policy(CREDIT, site(BANK, INSURER), ANN)
    for node in nodes:
        node.projects.announce_tables()
    deliver(nodes)
    flow = small_flow(BANK, INSURER)
    flow["steps"]["align"]["params"] = {}  # type: ignore[index]
    until = NOW + timedelta(hours=1)
    job = bank.jobs.propose(CREDIT, FlowSpec.model_validate(flow), {}, None, 0.0, 0.0, until, ANN)
    deliver(nodes)
    assert bank.jobs.get(job).points == spent(insurer, BANK) == 2797
    work = Runs(insurer.books, tmp_path).lease("test", 60)
    assert work.points == {"align": {BANK: 2000}}


def test_budgets_end(tmp_path) -> None:
    """Three lists of 2,000 fit into 6,500 points, the fourth does not."""
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    for number in range(3):
        register(bank, f"list {number}")
        bank.projects.announce_tables()
        deliver(nodes)
        job = propose(bank, BANK, INSURER)
        deliver(nodes)
        finish(nodes, job)
        assert states(nodes, job) == [JobState.FINISHED] * 2
    register(bank, "list 4")
    bank.projects.announce_tables()
    deliver(nodes)
    with pytest.raises(PermissionDenied, match=r"points 2000: expected 0 to 500"):
        propose(bank, BANK, INSURER)
    # Whoever asks for none, as if the answer were known, gets none.
    job = propose(bank, BANK, INSURER, points=0)
    deliver(nodes)
    assert states(nodes, job) == [JobState.REFUSED] * 2
    assert spent(insurer, BANK) == 6000


def test_all_reasons_of_an_owner_reach_the_initiator(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    insurer.projects.set_policy(CREDIT, site(BANK, initiators=(), tables=(), max_points=10), ANN)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    assert states(nodes, job) == [JobState.REFUSED] * 2
    for node in nodes:
        for reason in ("initiator bank: expected nobody", "table customers: expected none", "points 2000"):
            assert reason in node.jobs.get(job).reason
    assert Event.GRANT_REFUSED in events(insurer)
    assert spent(bank, INSURER) == spent(insurer, BANK) == 0


def test_without_a_policy_nothing_is_granted(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    insurer.projects.set_policy(CREDIT, None, ANN)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    assert states(nodes, job) == [JobState.REFUSED] * 2
    assert "site policy of insurer" in bank.jobs.get(job).reason


def test_four_eyes(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER, automatic=False)
    both = replace(ANN, duties=frozenset(Duty))
    job = propose(bank, BANK, INSURER, by=both)
    deliver(nodes)
    assert states(nodes, job) == [JobState.PROPOSED] * 2
    with pytest.raises(PermissionDenied, match="ann proposed it, and somebody else has to approve it"):
        bank.jobs.approve(job, both)
    with pytest.raises(PermissionDenied, match="may not do this"):
        insurer.jobs.approve(job, ANN)
    assert bank.jobs.approve(job, BEN).state is JobState.GRANTED
    assert insurer.jobs.approve(job, both).state is JobState.GRANTED
    deliver(nodes)
    assert states(nodes, job) == [JobState.READY] * 2
    with pytest.raises(UsageError, match="does not wait for approval"):
        bank.jobs.approve(job, BEN)
    other = propose(bank, BANK, INSURER, points=0)
    deliver(nodes)
    insurer.jobs.refuse(other, "not on a Sunday", BEN)
    deliver(nodes)
    assert states(nodes, other) == [JobState.REFUSED] * 2
    assert "not on a Sunday" in bank.jobs.get(other).reason


def test_who_approves_last_has_all_grants_and_charges_at_once(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER, automatic=False)
    job = propose(bank, BANK, INSURER)
    bank.jobs.approve(job, BEN)
    deliver(nodes)
    assert insurer.jobs.approve(job, BEN).state is JobState.GRANTED
    assert spent(insurer, BANK) == 2000
    deliver(nodes)
    assert states(nodes, job) == [JobState.READY] * 2


def test_a_job_that_is_out_of_order_by_the_time_of_its_approval_is_refused(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER, automatic=False)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    register(insurer, "second", rows=1500)
    with insurer.books.turn() as turn:
        turn.kept.tables.retire("customers", 1)
    assert insurer.jobs.approve(job, BEN).state is JobState.REFUSED
    deliver(nodes)
    assert "version of customers: expected the one that is here" in bank.jobs.get(job).reason


def test_models_of_a_job_whose_workspace_is_gone_are_left_out_and_the_log_says_so(tmp_path, caplog) -> None:
    nodes = allied(tmp_path, BANK, INSURER)
    job = propose(nodes[0], BANK, INSURER)
    deliver(nodes)
    finish(nodes, job)
    assert Runs(nodes[0].books, tmp_path / "empty").models(CREDIT) == ()
    assert "its models cannot be listed" in caplog.text


@pytest.mark.parametrize(("at", "ready"), [(0, False), (1, True), (2, False)])
def test_any_party_cancels_everywhere(tmp_path, at, ready) -> None:
    nodes = allied(tmp_path, BANK, INSURER, SHOP, automatic=ready)
    job = propose(nodes[0], BANK, INSURER, SHOP)
    deliver(nodes)
    nodes[at].jobs.cancel(job, "enough", ANN)
    deliver(nodes)
    assert states(nodes, job) == [JobState.CANCELLED] * 3
    for node in nodes:
        assert f"{nodes[at].me} cancelled it: enough" in node.jobs.get(job).reason
    with pytest.raises(UsageError, match="is over"):
        nodes[0].jobs.cancel(job, "again", ANN)


def test_time_ends_a_job_whatever_becomes_of_the_others(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)  # and the insurer is never heard of again
    bank.jobs.expire()
    assert states((bank,), job) == [JobState.GRANTED]
    bank.clock.time += timedelta(hours=3)
    bank.jobs.expire()
    assert states((bank,), job) == [JobState.FAILED]
    assert "it was not over by" in bank.jobs.get(job).reason
    # Back again, it hears of the job and of its end.
    insurer.clock.time = bank.clock.time
    deliver(nodes)
    assert states((insurer,), job)[0].is_over


def test_what_a_worker_meets_ends_the_job_everywhere_and_others_learn_no_details(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    runs = Runs(insurer.books, tmp_path)
    work = runs.lease("test", 60)
    runs.failed(work.lease, DataError("row 7 of Ms Smith is odd"))
    deliver(nodes)
    assert states(nodes, job) == [JobState.FAILED] * 2
    assert "Smith" in insurer.jobs.get(job).reason
    assert bank.jobs.get(job).reason == "its data do not fit; the details stay at that party"
    assert not runs.renew(work.lease, 60)


def test_a_session_that_failed_stays_charged_and_one_with_too_few_hits_freezes(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    bank.jobs.cancel(job, "enough", ANN)
    deliver(nodes)
    assert spent(insurer, BANK) == 2000
    register(bank, "second")
    bank.projects.announce_tables()
    deliver(nodes)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    finish(nodes, job, shared=2)
    assert events(insurer).count(Event.WITHHELD) == 1
    assert events(insurer).count(Event.RELEASED) == 0


def proposal(bank: Organisation, insurer: Organisation, **changes: object) -> JobProposed:
    with bank.books.turn() as turn:
        held = [turn.kept.tables.newest("customers"), None]
    with insurer.books.turn() as turn:
        held[1] = turn.kept.tables.newest("customers")
    tables = tuple(TableHeld(p, "customers", t.digest, t.rows) for p, t in zip((BANK, INSURER), held, strict=True))
    flow = canonical_json(FlowSpec.model_validate(small_flow(BANK, INSURER)).agreed())
    until = (NOW + timedelta(hours=1)).isoformat()
    fields = ("credit", "job-7", flow, tables, 2000, 0.0, 0.0, until)
    names = ("project", "job", "flow", "tables", "points", "epsilon", "delta", "valid_until")
    return JobProposed(**{**dict(zip(names, fields, strict=True)), **changes})


MALFORMED: dict[str, dict[str, object]] = {
    "no flow": {"flow": "{}"},
    "another spelling": {"flow": "[]"},
    "a name that is a path": {"job": "../job"},
    "a time without a zone": {"valid_until": "2026-03-02T10:00:00"},
    "no time": {"valid_until": "soon"},
    "negative points": {"points": -1},
    "points beyond all": {"points": 1 << 62},
    "ε that is no number": {"epsilon": float("nan")},
    "δ of one": {"delta": 1.0},
    "nobody's tables": {"tables": ()},
    "a stranger's table": {"tables": (TableHeld(MALLORY, "customers", "0" * 64, 5),)},
    "no digest": {"tables": (TableHeld(BANK, "customers", "0", 5), TableHeld(INSURER, "customers", "0" * 64, 5))},
    "no project": {"project": "other"},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_proposal_is_refused_and_recorded(allies, changes) -> None:
    bank, insurer = allies
    assert say(insurer, BANK, proposal(bank, insurer, **changes)) == ["signature"]
    assert insurer.jobs.all() == ()


def test_a_proposal_is_judged_by_who_sends_it(allies) -> None:
    """The bank may ask for jobs, the insurer may not, whatever it writes."""
    bank, insurer = allies
    assert say(bank, INSURER, proposal(bank, insurer)) == []
    assert bank.jobs.get(JobId("job-7")).state is JobState.REFUSED
    assert "initiator insurer" in bank.jobs.get(JobId("job-7")).reason
    assert say(bank, INSURER, proposal(bank, insurer)) == ["signature"]  # a second time under the name


def bad_grant(node: Organisation, job: JobId, change: Callable[[Grant], Grant], key: str = INSURER) -> JobGranted:
    with node.books.turn() as turn:
        (frame,) = turn.kept.jobs.grants(job).values()
    grant = read_statement(read_envelope(frame, sender="test"), Grant, sender="test")
    made = change(grant.model_copy(update={"issuer": INSURER, "id": "1" * 32}))
    return JobGranted(CREDIT, job, INSURER, seal(made, key_of(key)).to_bytes())


@pytest.mark.parametrize(
    "letter",
    [
        lambda node, job: bad_grant(node, job, lambda grant: grant, key=MALLORY),
        lambda node, job: bad_grant(node, job, lambda grant: grant.model_copy(update={"points": 1})),
        lambda node, job: bad_grant(node, job, lambda grant: grant.model_copy(update={"job": JobId("job-other")})),
        lambda node, job: JobGranted(CREDIT, job, INSURER, b"none"),
    ],
    ids=["forged", "other points", "another job's", "none"],
)
def test_a_bad_grant_ends_the_job_and_is_recorded(allies, letter) -> None:
    bank, _ = allies
    job = propose(bank, BANK, INSURER)
    assert say(bank, INSURER, letter(bank, job)) == []
    assert bank.jobs.get(job).state is JobState.REFUSED
    assert events(bank)[-3:-1] == [Event.GRANT_REJECTED, Event.JOB_ENDED]


def test_who_has_no_say_in_a_job_says_nothing(tmp_path) -> None:
    bank, insurer, _ = nodes = allied(tmp_path, BANK, INSURER, SHOP)
    job = propose(bank, BANK, INSURER, SHOP)
    deliver(nodes)
    for letter in (
        JobEnded(CREDIT, job, SHOP, "failed", "because"),
        JobRefused(CREDIT, job, ("because",)),
        JobDone(CREDIT, job),
        JobGranted(CREDIT, job, BANK, b""),
        JobEnded(CREDIT, "job-none", SHOP, "failed", ""),
    ):
        assert say(insurer, SHOP, letter) == ["signature"]
    assert say(insurer, BANK, JobEnded(CREDIT, job, BANK, "done", "")) == ["signature"]
    assert say(bank, SHOP, JobEnded(CREDIT, job, SHOP, "because", "")) == ["signature"]
    assert states(nodes, job) == [JobState.READY] * 3


def test_one_party_alone_does_not_finish_a_job(tmp_path) -> None:
    bank, _ = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    for _ in range(2):
        assert say(bank, INSURER, JobDone(CREDIT, job)) == []
    assert states((bank,), job) == [JobState.READY]
    # It said so before the others were done: once they are, the job is over.
    runs = Runs(bank.books, tmp_path)
    runs.done(runs.lease("test", 60).lease)
    assert states((bank,), job) == [JobState.FINISHED]


def test_a_ledger_from_an_old_backup_is_put_right_by_the_partner(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    finish(nodes, job)
    assert spent(insurer, BANK) == 2000
    # Only the ledger goes back, as when somebody wants to give a budget twice.
    with insurer.books.turn() as turn:
        turn.kept.lines._connection.exec_driver_sql("DELETE FROM lines WHERE log = 'ledger/credit/bank'")
    insurer.start()
    assert spent(insurer, BANK) == 0
    register(bank, "second")
    bank.projects.announce_tables()
    deliver(nodes)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    assert states(nodes, job) == [JobState.READY] * 2
    assert spent(insurer, BANK) == 4000
    assert "replay" in refusals(bank)


@pytest.mark.parametrize("how", ["revoked", "over time"])
def test_a_damaged_ledger_keeps_no_job_running_and_gives_nothing_out(tmp_path, how) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    assert states(nodes, job) == [JobState.READY] * 2
    with insurer.books.turn() as turn:
        turn.kept.lines._connection.exec_driver_sql("UPDATE lines SET line = X'78' WHERE log = 'ledger/credit/bank'")
    insurer.start()
    if how == "revoked":
        insurer.projects.revoke(CREDIT, "we stop", BEN)
    else:
        insurer.clock.time += timedelta(hours=3)
        insurer.jobs.expire()
    deliver(nodes)
    assert states(nodes, job) == [JobState.FAILED] * 2
    with pytest.raises(DataError, match="ledger/credit/bank, line 1"):
        spent(insurer, BANK)


def test_a_node_that_was_put_back_learns_what_was_charged_before_it_charges_anything(tmp_path) -> None:
    """The insurer's budget is not refilled, and the bank's receipts at the insurer are there again."""
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    insurer.store.close()
    shutil.copy(tmp_path / "insurer.db", tmp_path / "copy.db")
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    finish(nodes, job)
    insurer.put_back(tmp_path / "copy.db")
    assert spent(insurer, BANK) == 0
    register(bank, "second")
    bank.projects.announce_tables()
    deliver(nodes)
    again = propose(bank, BANK, INSURER)
    deliver(nodes)
    assert states(nodes, again) == [JobState.GRANTED] * 2
    insurer.jobs.ask_what_was_lost()
    insurer.jobs.ask_what_was_lost()
    deliver(nodes)
    assert states(nodes, again) == [JobState.READY] * 2
    assert spent(insurer, BANK) == spent(bank, INSURER) == 4000
    for node, partner in ((bank, INSURER), (insurer, BANK)):
        with node.books.turn() as turn:
            assert len(turn.receipts(CREDIT, partner).envelopes) == 2


def test_an_analyst_works_in_assigned_projects_only(tmp_path) -> None:
    bank, _ = allied(tmp_path, BANK, INSURER)
    stranger = Person("eve", frozenset({Duty.ANALYST}), NOW)
    with pytest.raises(PermissionDenied, match="eve may not do this in credit"):
        propose(bank, BANK, INSURER, by=stranger)


def test_an_initiator_names_tables_that_are_there(tmp_path) -> None:
    bank, _ = allied(tmp_path, BANK, INSURER)
    with pytest.raises(UsageError, match="no table customers in version 9"):
        propose(bank, BANK, INSURER, tables={"customers": 9})
    flow = small_flow(BANK, INSURER)
    flow["steps"]["read"]["in"]["source"] = "tables.others"  # type: ignore[index]  # it is a mapping
    with pytest.raises(UsageError, match="no table others"):
        bank.jobs.propose(CREDIT, FlowSpec.model_validate(flow), {}, 0, 0.0, 0.0, NOW + timedelta(hours=1), ANN)
