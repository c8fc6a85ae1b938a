import hashlib
import itertools
import shutil
import threading
from datetime import UTC, datetime

import pytest

from unseen.clock import SystemClock
from unseen.component import Component, Document, Kind, Output, Params, Source
from unseen.dialogue import Progress, Send, Usage, converse, progress, receive, send
from unseen.errors import Cancelled, DataError, LocalProtocolError, RemoteProtocolError, UsageError
from unseen.flow.executor import MOST_MARKS, Hello, Offer, Seat, noting_progress, play
from unseen.flow.graph import build_graph
from unseen.flow.store import TaskRecord, Workspace
from unseen.ids import JobId, PartyId
from unseen.simulation import Options, simulate
from unseen.version import VERSION

JOB = JobId("job-0")
STEPS = ["read", "total", "grow", "judge"]
COMPUTED = {f"{step}" for step in STEPS}


def computed(toys):
    """Return the steps that were run since the last call, each of which has to be run once by every party."""
    per_party = {}
    for (name, party), count in toys.calls.items():
        per_party.setdefault(party, {})[name] = count
    toys.calls.clear()
    first, *others = per_party.values() or [{}]
    assert all(other == first for other in others)
    assert set(first.values()) <= {1}
    return sorted(first)


def started(toys, flow=None, workspace=None):
    """Start a job at both parties, so that copies of the workspaces share its seeds."""
    root = workspace or toys.root / "ws"
    for party in ("bank", "shop"):
        Workspace(root / party).start_job(JOB, (flow or toys.flow()).spec, datetime(2026, 1, 1, tzinfo=UTC))
    return root


# --- reuse ---


def test_the_second_run_computes_nothing(toys, digests):
    first = toys.run()
    assert first.reused() == []
    assert computed(toys) == ["grow", "judge", "measure", "total"]
    assert toys.value(first, "total.total", "bank") == toys.value(first, "total.total", "shop") == 13
    second = toys.run()
    assert second.reused() == STEPS
    assert computed(toys) == []
    assert digests(second) == digests(first)
    assert second.job != first.job
    assert set(digests(first)) == {
        ("bank", "read.number"),
        ("shop", "read.number"),
        ("bank", "total.total"),
        ("shop", "total.total"),
        ("bank", "grow.grown"),
        ("shop", "grow.grown"),
        ("bank", "judge.verdict"),
    }


def test_only_what_depends_on_a_changed_parameter_is_run_again(toys):
    toys.run()
    computed(toys)
    result = toys.run(toys.flow(plus=5))
    assert computed(toys) == ["total"]
    assert result.reused() == ["read", "grow", "judge"]
    assert toys.value(result, "total.total") == 18
    result = toys.run(toys.flow(plus=5, rounds=3))
    assert computed(toys) == ["grow", "judge"]
    assert result.reused() == ["read", "total"]
    assert toys.run(toys.flow()).reused() == STEPS


def test_only_what_depends_on_changed_data_is_run_again(toys):
    first = toys.run()
    computed(toys)
    result = toys.run(tables=toys.tables(bank=10, shop=4))
    # The bank's own data are as before; it holds a result of a run that the shop's new data took no part in.
    assert computed(toys) == ["grow", "judge", "measure", "total"]
    assert toys.value(result, "total.total") == 14
    assert first.get("read.number", "bank") == result.get("read.number", "bank")


def test_a_new_version_of_a_component_is_run(toys):
    toys.run()
    computed(toys)
    old = toys.registry
    total = old["total"]
    new = Component("total", 2, *(getattr(total, name) for name in Component.__slots__[2:]))
    result = simulate(
        toys.flow(), toys.tables(), workspace=toys.root / "ws", options=Options(registry=old | {"total": new})
    )
    assert computed(toys) == ["total"]
    assert result.reused() == ["read", "grow", "judge"]


@pytest.mark.parametrize("party", ["bank", "shop"])
@pytest.mark.parametrize("what", ["tasks", "artifacts"])
def test_nothing_is_reused_that_one_party_has_lost(toys, party, what):
    first = toys.run()
    computed(toys)
    record = first.steps[PartyId(party)]["total"].record
    if what == "tasks":
        (toys.root / "ws" / party / "tasks" / f"{record.key}.json").unlink()
    else:
        shutil.rmtree(toys.root / "ws" / party / "artifacts" / record.outputs["total"].digest)
    assert toys.run().reused() == ["read", "grow", "judge"]
    assert computed(toys) == ["total"]
    assert toys.run().reused() == STEPS


def test_results_of_two_different_runs_are_not_mixed(toys):
    toys.run()
    ours = toys.root / "ws" / "bank" / "tasks"
    shutil.copytree(ours, toys.root / "old")
    second = toys.run(again=["grow"])
    assert second.reused() == ["read", "total"]
    shutil.rmtree(ours)
    shutil.copytree(toys.root / "old", ours)
    toys.calls.clear()
    # Both parties hold a finished "grow" under the same key as ever, but the shop's is from the second run.
    third = toys.run()
    assert "grow" not in third.reused()
    assert "grow" in computed(toys)
    assert toys.value(third, "grow.grown", "bank") - 10 == toys.value(third, "grow.grown", "shop") - 3


def test_all_parties_name_a_run_alike_and_two_runs_differently(toys):
    first, second = toys.run(), toys.run(again=STEPS)
    for step in STEPS:
        joints = [{result.steps[party][step].record.joint for party in result.steps} for result in (first, second)]
        assert [len(joint) for joint in joints] == [1, 1]
        assert joints[0] != joints[1]


def test_secrets_differ_from_job_to_job(toys):
    toys.run()
    toys.run(again=["grow"])
    words = [word for party, number, word in toys.rounds if (party, number) == ("bank", 1)]
    assert len(set(words)) == 2


# --- single steps ---


def test_a_step_is_run_again_on_request(toys):
    toys.run()
    computed(toys)
    result = toys.run(again=["total"])
    assert result.reused() == ["read", "grow", "judge"]
    assert computed(toys) == ["total"]


def test_a_step_is_run_alone_on_earlier_results(toys):
    toys.run()
    computed(toys)
    result = toys.run(toys.flow(rounds=2), only=["grow"])
    assert computed(toys) == ["grow"]
    assert result.reused() == ["read"]
    assert {step for steps in result.steps.values() for step in steps} == {"read", "grow"}
    with pytest.raises(UsageError, match=r"party bank has no value judge\.verdict"):
        result.get("judge.verdict", "bank")


def test_a_step_cannot_run_alone_without_what_it_needs(toys):
    with pytest.raises(UsageError, match="step read has no results that all parties hold; run it first"):
        toys.run(only=["grow"])
    assert computed(toys) == []
    toys.run(only=["read", "grow"])
    assert computed(toys) == ["grow", "measure"]
    with pytest.raises(UsageError, match="step grow has no results"):
        toys.run(toys.flow(rounds=2), only=["judge"])
    assert toys.run(only=["judge"]).reused() == ["read", "grow"]


@pytest.mark.parametrize("option", ["only", "again"])
def test_an_unknown_step_is_refused_before_anything_is_written(toys, option):
    with pytest.raises(UsageError, match=r"the flow has no step 'grwo'; did you mean 'grow'\?"):
        toys.run(**{option: ["grwo"]})
    assert not (toys.root / "ws" / "bank" / "jobs").exists()


# --- failure, cancellation, resumption ---


@pytest.mark.parametrize("party", ["bank", "shop"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_job_that_failed_goes_on_and_ends_as_if_nothing_had_happened(toys, digests, party, number):
    root = started(toys)
    shutil.copytree(root, toys.root / "calm")
    calm = toys.run(workspace=toys.root / "calm", resume=True)
    toys.rounds.clear()
    toys.fail_at = (party, number)
    with pytest.raises(DataError, match=f"{party} stumbles in round {number}") as caught:
        toys.run(resume=True)
    assert caught.value.__notes__ == [f"at party {party}, step grow"]
    for workspace in (Workspace(root / "bank"), Workspace(root / "shop")):
        assert workspace.job(JOB).state == "failed"
        assert workspace.job(JOB).reason == f"{party} stumbles in round {number}"
        assert list(workspace.job(JOB).steps) == ["read", "total"]
    toys.calls.clear()
    before = len(toys.rounds)
    result = toys.run(resume=True)
    assert result.job == JOB
    assert computed(toys) == ["grow", "judge"]
    assert digests(result) == digests(calm)
    assert result.reused() == []
    redone = {number for _, number, _ in toys.rounds[before:]}
    assert redone in ({*range(number, 5)}, {*range(number - 1, 5)})
    words = {(who, when): {w for p, n, w in toys.rounds if (p, n) == (who, when)} for who, when, _ in toys.rounds}
    assert all(len(drawn) == 1 for drawn in words.values())
    assert Workspace(root / "bank").job(JOB).state == "finished"
    assert list((root / "bank" / "jobs" / JOB / "checkpoints").rglob("*")) == []


def test_a_finished_job_can_be_resumed_and_computes_nothing(toys, digests):
    first = toys.run()
    computed(toys)
    again = toys.run(resume=True)
    assert again.job == first.job
    assert computed(toys) == []
    assert digests(again) == digests(first)


def test_after_a_change_of_data_a_resumed_job_draws_new_secrets_and_starts_from_nothing(toys, digests):
    root = started(toys)
    shutil.copytree(root, toys.root / "calm")
    toys.fail_at = ("shop", 3)
    with pytest.raises(DataError):
        toys.run(resume=True)
    old = set(toys.rounds)
    toys.rounds.clear()
    result = toys.run(tables=toys.tables(bank=10, shop=7), resume=True)
    # The bank's own data, and so its key of the step, are as before: its secrets must differ all the same.
    assert {(party, number) for party, number, _ in toys.rounds} == {
        (p, n) for p in ("bank", "shop") for n in range(1, 5)
    }
    assert not old & set(toys.rounds)
    calm = toys.run(tables=toys.tables(bank=10, shop=7), workspace=toys.root / "calm", resume=True)
    assert digests(result) == digests(calm)


def test_checkpoints_that_one_party_lost_are_left_by_the_other(toys, digests):
    root = started(toys)
    shutil.copytree(root, toys.root / "calm")
    toys.fail_at = ("shop", 4)
    with pytest.raises(DataError):
        toys.run(resume=True)
    (root / "shop" / "jobs" / JOB / "checkpoints" / "grow" / "2.bin").unlink()
    toys.rounds.clear()
    result = toys.run(resume=True)
    assert {number for _, number, _ in toys.rounds} == {2, 3, 4}
    assert digests(result) == digests(toys.run(workspace=toys.root / "calm", resume=True))


def test_a_cancelled_job_says_so_and_can_be_resumed(toys, digests):
    root = started(toys)
    shutil.copytree(root, toys.root / "calm")
    stop = threading.Event()
    toys.at_round = lambda party, number: stop.set() if (party, number) == ("shop", 3) else None
    with pytest.raises(Cancelled, match="stopped on request"):
        toys.run(resume=True, cancel=stop)
    for party in ("bank", "shop"):
        assert Workspace(root / party).job(JOB).state == "cancelled"
        assert "stopped on request" in Workspace(root / party).job(JOB).reason
    toys.at_round = None
    toys.rounds.clear()
    result = toys.run(resume=True, cancel=threading.Event())
    assert {number for _, number, _ in toys.rounds} == {3, 4}
    assert digests(result) == digests(toys.run(workspace=toys.root / "calm", resume=True))


def test_a_bug_in_a_component_leaves_a_failed_job(toys):
    def stumble(party, number):
        raise ZeroDivisionError

    toys.at_round = stumble
    with pytest.raises(LocalProtocolError, match=r"component \w+ broke down in step \w+ at bank") as caught:
        toys.run()
    assert "ZeroDivisionError" in caught.value.__notes__[0]
    (job,) = Workspace(toys.root / "ws" / "bank").jobs()
    record = Workspace(toys.root / "ws" / "bank").job(job)
    assert record.state == "failed"
    assert "broke down" in record.reason


# --- what components may not do ---


class Note(Document):
    text: str = ""


NOTE = Kind("note", Note)


@pytest.mark.parametrize(("given", "found"), [({}, "NoneType"), ({"out": Source(None)}, "Source")])
def test_a_component_that_breaks_its_promise_is_named(tmp_path, toys, given, found):
    def run(task):
        yield from ()
        return given

    broken = Component("broken", 1, "", Params, {}, {"out": Output(NOTE, "a note")}, (), run)
    flow = toys.flow()
    flow.step("last", "broken")
    with pytest.raises(
        LocalProtocolError, match=f"component broken gave {found} for its output 'out' at bank"
    ) as caught:
        simulate(
            flow, toys.tables(), workspace=tmp_path / "w", options=Options(registry=toys.registry | {"broken": broken})
        )
    assert "expected Note" in str(caught.value)


# --- parties that do not agree ---


def seat(toys, me, flow, **changes):
    graph = build_graph(flow.spec, toys.registry)
    workspace = Workspace(toys.root / "ws" / me)
    workspace.start_job(JOB, graph.spec, datetime(2026, 1, 1, tzinfo=UTC))
    sources = {name: Source(path) for name, path in toys.tables()[me].items()}
    return Seat(PartyId(me), graph, JOB, workspace, sources, SystemClock(), **changes)


def test_seats_at_two_ends_do_what_a_simulation_does(toys, both):
    results = converse({party: play(seat(toys, party, toys.flow())) for party in both})
    assert list(results) == both
    for result in results.values():
        assert list(result) == STEPS
        assert all(isinstance(done.record, TaskRecord) for done in result.values())


def test_different_flows_are_refused(toys, both):
    seats = {both[0]: seat(toys, "bank", toys.flow()), both[1]: seat(toys, "shop", toys.flow(plus=1))}
    with pytest.raises(RemoteProtocolError, match="is about to run another flow") as caught:
        converse({party: play(it) for party, it in seats.items()})
    for it in seats.values():
        assert it.graph.spec.digest[:12] in str(caught.value)
    assert computed(toys) == []


def test_different_steps_are_refused(toys, both):
    seats = {both[0]: seat(toys, "bank", toys.flow(), only=("read",)), both[1]: seat(toys, "shop", toys.flow())}
    with pytest.raises(RemoteProtocolError, match=r"is about to run other steps \(.*read.*\)"):
        converse({party: play(it) for party, it in seats.items()})


@pytest.mark.parametrize("version", ["9.0.0", "0.2.0", "", "x"])
def test_another_version_is_refused(toys, both, version):
    bank, shop = both
    mine = seat(toys, "bank", toys.flow())

    def stranger():
        yield from send(bank, Hello(version, mine.graph.spec.digest, tuple(sorted(STEPS))))
        yield from receive(bank, Hello)

    with pytest.raises(RemoteProtocolError, match=f"shop runs Unseen {version}, bank runs {VERSION}: upgrade"):
        converse({bank: play(mine), shop: stranger()})


@pytest.mark.parametrize("nonce", [b"", bytes(15), bytes(17)])
def test_a_peer_gives_a_nonce_of_its_own(toys, both, nonce):
    bank, shop = both
    mine = seat(toys, "bank", toys.flow())

    def stranger():
        yield from send(bank, Hello(VERSION, mine.graph.spec.digest, tuple(sorted(STEPS))))
        yield from receive(bank, Hello)
        yield from send(bank, Offer(b"", nonce))
        yield from receive(bank, Offer)

    with pytest.raises(RemoteProtocolError, match=f"shop: expected a nonce of 16 bytes, found {len(nonce)}"):
        converse({bank: play(mine), shop: stranger()})


def test_a_peer_that_claims_an_unknown_run_makes_the_step_run(toys, both):
    """A lie about what one holds costs work, and gives nobody a result that it did not compute."""
    bank, shop = both
    toys.run(toys.flow())
    computed(toys)
    mine = seat(toys, "bank", toys.flow())

    def liar():
        yield from send(bank, Hello(VERSION, mine.graph.spec.digest, tuple(sorted(STEPS))))
        yield from receive(bank, Hello)
        yield from send(bank, Offer(bytes(32), bytes(16)))
        theirs = yield from receive(bank, Offer)
        assert len(theirs.joint) == 32
        yield from receive(bank, Offer)
        yield from send(bank, Offer(b"", b""))

    with pytest.raises(RemoteProtocolError, match="expected a nonce"):
        converse({bank: play(mine), shop: liar()})
    assert toys.calls == {("measure", "bank"): 1}


# --- sources ---


def test_a_table_that_is_not_there_is_named(toys):
    tables = toys.tables()
    tables["shop"]["numbers"].unlink()
    with pytest.raises(UsageError, match=r"party shop has no table 'numbers' at .*shop\.txt"):
        toys.run(tables=tables)
    with pytest.raises(UsageError, match="party shop has no table 'numbers'; give it one under"):
        toys.run(tables={"bank": tables["bank"], "shop": {"other": tables["bank"]["numbers"]}})


# --- lineage and more parties ---


def test_every_artifact_knows_where_it_comes_from(toys):
    result = toys.run(toys.flow(plus=2))
    spec = toys.flow(plus=2).spec
    for party, steps in result.steps.items():
        for step, done in steps.items():
            for port, ref in done.outputs.items():
                line = result.lineage(f"{step}.{port}", party)
                assert (line.party, line.job, line.flow) == (party, result.job, spec.digest)
                assert line.parties == {"bank": "active", "shop": "passive"}
                assert (line.step, line.output, line.component) == (step, port, spec.steps[step].use)
                assert (line.component_version, line.code_version) == (1, VERSION)
                assert set(line.inputs) == set(spec.steps[step].inputs)
                assert ref.digest
    assert result.lineage("total.total", "bank").params == {"plus": 2}
    for party, text in (("bank", b"10"), ("shop", b"3")):
        assert result.lineage("read.number", party).inputs["source"] == hashlib.sha256(text).hexdigest()
        read = result.steps[PartyId(party)]["read"].outputs["number"].digest
        assert result.lineage("grow.grown", party).inputs == {"number": read}


def test_three_parties(toys, digests):
    tables = toys.tables(bank=1, shop=20, telco=300)
    flow = toys.flow(passive=("shop", "telco"))
    first = toys.run(flow, tables)
    assert [toys.value(first, "total.total", party) for party in tables] == [321, 321, 321]
    growth = {
        toys.value(first, "grow.grown", party) - own for party, own in (("bank", 1), ("shop", 20), ("telco", 300))
    }
    assert len(growth) == 1
    assert computed(toys) == ["grow", "judge", "measure", "total"]
    assert toys.run(flow, tables).reused() == STEPS
    shutil.rmtree(toys.root / "ws" / "telco" / "tasks")
    again = toys.run(flow, tables)
    assert again.reused() == []
    assert digests(again)["telco", "total.total"] == digests(first)["telco", "total.total"]


def test_a_party_alone(toys):
    result = toys.run(toys.flow(passive=()), toys.tables(bank=5))
    assert toys.value(result, "total.total") == 5
    assert toys.run(toys.flow(passive=()), toys.tables(bank=5)).reused() == STEPS


# --- progress ---


def led(rounds, usage):
    """Run ``rounds`` rounds of a message and a progress under a driver that answers progress with ``usage(round)``."""

    def rounds_of_a_task():
        for number in range(1, rounds + 1):
            yield from send(PartyId("shop"), number)
            yield from progress(number, rounds)
        return "done"

    course, answer, told = [], None, 0
    dialogue = noting_progress(rounds_of_a_task(), course)
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return course, end.value
        assert isinstance(effect, Send | Progress)
        told += isinstance(effect, Progress)
        answer = usage(told) if isinstance(effect, Progress) else None


def test_a_record_says_what_each_round_had_cost():
    course, result = led(3, lambda number: Usage(10 * number, number, 0, 0, 0.5 * number))
    assert result == "done"
    found = [(mark.done, mark.total, mark.bytes_sent, mark.bytes_received, mark.seconds) for mark in course]
    assert found == [(1, 3, 10, 1, 0.5), (2, 3, 20, 2, 1), (3, 3, 30, 3, 1.5)]


def test_of_many_rounds_some_are_noted_evenly():
    course, _ = led(5 * MOST_MARKS, lambda number: Usage(seconds=number))
    assert MOST_MARKS / 2 <= len(course) <= MOST_MARKS
    steps = {after.done - before.done for before, after in itertools.pairwise(course)}
    assert len(steps) == 1


def test_a_driver_that_does_not_tell_the_cost_is_fine():
    assert led(3, lambda number: None) == ([], "done")


def test_what_is_wrapped_is_closed_with_its_wrapper():
    closed = []

    def endless():
        try:
            while True:
                yield from progress(0, 1)
        finally:
            closed.append(True)

    dialogue = noting_progress(endless(), [])
    next(dialogue)
    dialogue.close()
    assert closed == [True]
