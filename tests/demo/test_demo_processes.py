"""What the demo makes of its parties' processes; here small programs take the parties' place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen import errors
from unseen.demo import processes
from unseen.demo.prepare import DemoPlan
from unseen.demo.processes import error_line, event_line, run_parties
from unseen.dialogue import Event, Usage
from unseen.errors import Cancelled, DataError, PeerFailed, PeerUnreachable, UnseenError, UsageError
from unseen.ids import PartyId, StepId

BANK, PARTNER = PartyId("bank"), PartyId("partner")
FINE = ""
PATIENT = "import time; time.sleep(60)"


@pytest.fixture
def plan(tmp_path):
    for party in (BANK, PARTNER):
        (tmp_path / party).mkdir()
    return DemoPlan(out=tmp_path, active=BANK, passives=(PARTNER,), mode="exact", embedded=True)


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """All processes that were started; none of them may outlive the call."""
    seen = []
    popen = subprocess.Popen

    def spy(*arguments, **options):
        seen.append(popen(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", spy)
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    yield seen
    assert None not in [process.poll() for process in seen]


def programs(bank, partner):
    """Return a wrapper that runs these programs instead of the parties; what they get as arguments is in sys.argv."""
    return {BANK: (sys.executable, "-S", "-c", bank), PARTNER: (sys.executable, "-S", "-c", partner)}


def says(line, *, then="", after=0.0):
    return f"import os, sys, time; time.sleep({after}); print({line!r}, flush=True); {then}"


def enters(party, step):
    return event_line(Event(party, StepId(step), "enter"))


# --- lines -------------------------------------------------------------------------------------------------------

counts = st.integers(0, 2**62)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
usages = st.builds(Usage, counts, counts, counts, counts, st.floats(0, 1e9))
events = st.builds(
    Event,
    party=names.map(PartyId),
    step=st.none() | names.map(StepId),
    what=st.sampled_from(["enter", "progress", "leave"]),
    done=counts,
    total=counts,
    note=st.text(),
    usage=usages,
)
kinds = st.sampled_from([kind for kind in vars(errors).values() if isinstance(kind, type)])


@given(events)
def test_events_survive_their_line(event):
    line = event_line(event)
    assert line.isascii()
    assert "\n" not in line
    heard = processes._said(line)
    assert heard == event
    assert isinstance(heard.party, PartyId)


@given(kinds, st.text(), st.lists(st.text()))
def test_errors_survive_their_line(kind, text, notes):
    error = kind(text)
    for note in notes:
        error.add_note(note)
    line = error_line(error)
    assert line.isascii()
    assert "\n" not in line
    heard = processes._said(line)
    assert (type(heard), str(heard), getattr(heard, "__notes__", [])) == (kind, text, notes)


NOISE = [
    "",
    "Loading…",
    '["bank", "read", "ent',
    "42",
    "null",
    '"text"',
    "{}",
    '{"error": "DataError"}',
    '{"error": 1, "text": "x", "notes": []}',
    "[]",
    "[1, 2, 3]",
    '["bank", null, "enter", 0, 0, "", [1, 2, 3, 4, 5, 6]]',
    '["Not A Party", null, "enter", 0, 0, "", [0, 0, 0, 0, 0]]',
    '["bank", "Not A Step", "enter", 0, 0, "", [0, 0, 0, 0, 0]]',
]


@pytest.mark.parametrize("line", NOISE)
def test_what_a_library_prints_is_not_taken_for_an_event(line):
    assert processes._said(line) is None


@pytest.mark.parametrize("name", ["annotations", "__doc__", "Exception", "NoSuchError"])
def test_errors_of_unknown_kinds_are_kept_as_errors(name):
    heard = processes._said(json.dumps({"error": name, "text": "what happened", "notes": ["where"]}))
    assert type(heard) is UnseenError
    assert (str(heard), heard.__notes__) == ("what happened", ["where"])


# --- a job that goes well ----------------------------------------------------------------------------------------


def test_events_are_passed_on_and_noise_is_not(plan):
    noise = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe caf\\xe9\\n'); sys.stdout.flush();"
    heard = []
    wrapper = programs(noise + says("[1, 2]\n" + enters(BANK, "read")), says("42\n" + enters(PARTNER, "read")))
    run_parties(plan, observe=heard.append, wrapper=wrapper)
    assert sorted((event.party, event.step, event.what) for event in heard) == [
        ("bank", "read", "enter"),
        ("partner", "read", "enter"),
    ]
    run_parties(plan, wrapper=wrapper)


def test_each_party_listens_and_dials_those_before_it(plan):
    show = (
        "import json, sys; a = sys.argv[1:];"
        "print(json.dumps([a[1].split('/')[-2], None, 'enter', 0, 0, json.dumps(a), [0] * 5]))"
    )
    heard = []
    run_parties(plan, observe=heard.append, wrapper=programs(show, show))
    said = {event.party: json.loads(event.note) for event in heard}
    bank, partner = said[BANK], said[PARTNER]
    assert bank[:4] == ["party", str(plan.out / "bank" / "party.yaml"), "--events", "--listen"]
    assert bank[5:] == []
    assert bank[4].startswith("127.0.0.1:")
    # Nobody dials the last party, so it takes no port that another one might have been given.
    assert partner == ["party", str(plan.out / "partner" / "party.yaml"), "--events", "--peer", f"bank={bank[4]}"]


def test_no_two_parties_get_one_address():
    addresses = processes._free_addresses(200)
    assert len(set(addresses)) == 200


# --- a job that fails --------------------------------------------------------------------------------------------

OWN = error_line(DataError("partner.csv, line 7: no number"))
ECHO = error_line(PeerFailed("partner gave up: partner.csv, line 7: no number"))
LOST = error_line(PeerUnreachable("partner was out of reach"))


@pytest.mark.parametrize("echo", [ECHO, LOST], ids=["PeerFailed", "PeerUnreachable"])
def test_a_partys_own_reason_goes_before_echoes_that_came_first(plan, echo):
    wrapper = programs(says(echo, then="sys.exit(1)"), says(OWN, then="sys.exit(1)", after=0.2))
    with pytest.raises(DataError, match=r"partner\.csv, line 7: no number"):
        run_parties(plan, wrapper=wrapper)


def test_an_echo_is_better_than_nothing(plan):
    with pytest.raises(PeerUnreachable, match="partner was out of reach"):
        run_parties(plan, wrapper=programs(says(LOST, then="sys.exit(4)"), "import sys; sys.exit(1)"))


def test_a_killed_process_goes_before_everything_that_was_said(plan):
    killed = says(enters(PARTNER, "train"), then="time.sleep(0.2); os.kill(os.getpid(), 9)")
    started = time.monotonic()
    with pytest.raises(PeerFailed) as failed:
        run_parties(plan, wrapper=programs(says(error_line(UsageError("odd")), then="sys.exit(2)"), killed))
    said = str(failed.value)
    assert said.startswith("the process of partner was killed (SIGKILL) in step train; nothing is lost: ")
    assert said.endswith(f"go on with `unseen resume {plan.out}`")
    assert time.monotonic() - started < 5


def test_once_a_process_is_killed_the_others_are_not_waited_for(plan):
    with pytest.raises(PeerFailed, match=r"bank was killed \(SIGTERM\) in step start"):
        run_parties(plan, wrapper=programs("import os; os.kill(os.getpid(), 15)", PATIENT))


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="the system has no real-time signals")
def test_a_signal_without_a_name_is_given_by_its_number(plan):
    number = signal.SIGRTMIN + 3
    with pytest.raises(PeerFailed, match=rf"bank was killed \(signal {number}\)"):
        run_parties(plan, wrapper=programs(f"import os; os.kill(os.getpid(), {number})", PATIENT))


def test_a_process_that_breaks_down_without_a_word_points_to_its_log(plan):
    (plan.out / "bank" / "log.txt").write_text("earlier\n")
    with pytest.raises(PeerFailed, match="the process of bank broke down; see ") as failed:
        run_parties(plan, wrapper=programs("raise SystemError('worn out')", PATIENT))
    log = (plan.out / "bank" / "log.txt").read_text()
    assert str(plan.out / "bank" / "log.txt") in str(failed.value)
    assert log.startswith("earlier\n")
    assert "worn out" in log


def test_notes_of_a_party_are_kept(plan):
    error = UsageError("no such column")
    error.add_note("at party bank, step read")
    with pytest.raises(UsageError) as failed:
        run_parties(plan, wrapper=programs(says(error_line(error), then="sys.exit(2)"), FINE))
    assert failed.value.__notes__ == ["at party bank, step read"]


# --- no orphans --------------------------------------------------------------------------------------------------


def test_a_party_that_cannot_be_started_leaves_no_other_behind(plan, started):
    wrapper = {**programs(PATIENT, FINE), PARTNER: (str(plan.out / "missing"),)}
    with pytest.raises(FileNotFoundError, match="missing"):
        run_parties(plan, wrapper=wrapper)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_reader_that_cannot_be_started_leaves_no_process_behind(plan, started, monkeypatch):
    def exhausted(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)
    with pytest.raises(RuntimeError, match="new thread"):
        run_parties(plan, wrapper=programs(PATIENT, PATIENT))
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_request_to_stop_ends_all_also_those_that_do_not_listen(plan, started):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + says(
        enters(BANK, "read"), then="time.sleep(60)"
    )
    cancel = threading.Event()
    with pytest.raises(Cancelled, match="go on with `unseen resume /"):
        run_parties(plan, observe=lambda _: cancel.set(), cancel=cancel, wrapper=programs(deaf, PATIENT))
    assert [process.returncode for process in started] == [-signal.SIGKILL, -signal.SIGTERM]


def test_an_observer_that_fails_leaves_nobody_behind(plan, started):
    def broken(_):
        raise ValueError("no screen")

    with pytest.raises(ValueError, match="no screen"):
        run_parties(plan, observe=broken, wrapper=programs(says(enters(BANK, "read"), then=PATIENT), PATIENT))
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2
