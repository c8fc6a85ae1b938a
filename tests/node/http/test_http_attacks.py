"""What hostile people and programs tried at the node's HTTP, and what they get for it now."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice

import pytest
from tests.node.http.conftest import PASSWORD
from tests.node.organisations import BANK, INSURER, agreement_text, small_flow
from tests.node.organisations import CREDIT as CREDIT_ID

from unseen.client import Client
from unseen.errors import PermissionDenied
from unseen.ids import JobId
from unseen.node.domain import Duty
from unseen.node.http import jobs as jobs_module
from unseen.node.http import serve as serve_module
from unseen.node.http.app import PREFIX, make_app
from unseen.node.http.guard import HttpSettings
from unseen.node.http.serve import serving
from unseen.node.usecases.brake import MOST_FAILURES, SignInRefused
from unseen.node.usecases.people import Crowded
from unseen.trust.agreement import ProjectId

PROJECTS = f"{PREFIX}/projects"
CREDIT = f"{PROJECTS}/credit"


def test_nobody_signs_what_was_not_read_with_the_digest_of_another_projects_agreement(staffed):
    analyst, approver = staffed.of(Duty.ANALYST), staffed.of(Duty.APPROVER)
    for name in ("credit", "other"):
        assert analyst.post(PROJECTS, json={**agreement_text(BANK, INSURER), "project": name}).status_code == 201
    digest = approver.get(f"{PROJECTS}/other").json()["waiting"]["digest"]
    refused = approver.post(f"{PROJECTS}/credit/signature", json={"digest": digest})
    assert (refused.status_code, "another one by now" in refused.json()["detail"]) == (422, True)
    assert approver.get(f"{PROJECTS}/credit").json()["waiting"]["missing"] == ["bank", "insurer"]


def test_nobody_signs_what_took_the_place_of_what_was_read_at_the_last_moment(staffed, monkeypatch):
    """A draft that comes between the look and the signature: both are one turn, so that there is no between."""
    analyst, approver = staffed.of(Duty.ANALYST), staffed.of(Duty.APPROVER)
    assert analyst.post(PROJECTS, json=agreement_text(BANK, INSURER)).status_code == 201
    digest = approver.get(f"{PROJECTS}/credit").json()["waiting"]["digest"]
    sign = staffed.bank.projects.sign

    def late(*arguments):
        changed = agreement_text(BANK, INSURER, purpose="everything")
        staffed.bank.projects.draft(changed, staffed.services.people.get("analyst"))
        return sign(*arguments)

    monkeypatch.setattr(staffed.bank.projects, "sign", late)
    assert approver.post(f"{PROJECTS}/credit/signature", json={"digest": digest}).status_code == 422
    assert "bank" in approver.get(f"{PROJECTS}/credit").json()["waiting"]["missing"]


# --- guessing passwords


def _guess(people, name: str) -> str:
    try:
        people.sign_in(name, "wrong wrong wrong")
    except (SignInRefused, Crowded) as error:
        return str(error)
    return "signed in"


def test_guesses_at_the_same_moment_are_no_more_than_guesses_one_after_the_other(staffed, monkeypatch):
    people, let, looked = staffed.services.people, threading.Event(), []

    def slow(hashed: str, password: str) -> bool:
        looked.append(password)
        assert let.wait(20)
        return False

    monkeypatch.setattr(people, "_verified", slow)
    with ThreadPoolExecutor(10) as pool:
        said = [pool.submit(_guess, people, "analyst") for _ in range(10)]
        refused = [one.result() for one in islice(as_completed(said, 20), 10 - MOST_FAILURES)]
        let.set()
    assert all("too many attempts" in words for words in refused)
    assert len(looked) == MOST_FAILURES


def test_a_flood_of_sign_ins_is_refused_at_once_and_whoever_is_signed_in_goes_on(staffed, monkeypatch):
    """Each of them would hold a thread of the server: forty of those were all that there are."""
    people, let, inside = staffed.services.people, threading.Event(), threading.Semaphore(0)
    analyst = staffed.of(Duty.ANALYST)

    def slow(hashed: str, password: str) -> bool:
        inside.release()
        return let.wait(20) and False

    monkeypatch.setattr(people, "_verified", slow)
    with ThreadPoolExecutor(12) as pool:
        held = [pool.submit(_guess, people, f"name{number}") for number in range(12)]
        for _ in held:
            assert inside.acquire(timeout=20)
        answer = staffed.client().post(f"{PREFIX}/session", json={"name": "admin", "password": PASSWORD})
        assert (answer.status_code, "try again" in answer.json()["detail"]) == (429, True)
        assert analyst.get(f"{PREFIX}/session").status_code == 200
        let.set()
        assert {one.result(20) for one in held} == {"name or password are wrong"}
    monkeypatch.undo()
    with pytest.raises(SignInRefused, match="are wrong"):
        people.sign_in("name99", PASSWORD)


@pytest.mark.parametrize("name", ["\0", "x' or 1=1 --", "A" * 256, "\U0001f600", ""])
def test_a_name_that_can_be_nobodys_reaches_no_database(staffed, name, monkeypatch):
    monkeypatch.setattr(staffed.services.people, "_store", None)
    assert _guess(staffed.services.people, name) == "name or password are wrong"


def test_an_analyst_is_told_what_is_missing_and_not_whether_it_is_there(staffed):
    analyst = staffed.of(Duty.ANALYST)
    for project in ("elsewhere", "nowhere"):
        told = analyst.get(f"{PROJECTS}/{project}")
        assert told.status_code == 403
        assert f"analyst does not work in project {project}; an admin adds it: unseen people" in told.json()["detail"]


# --- what broke the node down


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/metrics", {"authorization": b"Bearer \xe9"}, 401),
        ("/healthz", {"origin": "http://["}, 403),
        ("/healthz", {"origin": "http://[::1"}, 403),
        ("/healthz", {"host": "["}, 403),
    ],
)
def test_headers_that_are_none_are_refused_without_a_session(bare, path, headers, status):
    assert bare.client().get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    "more",
    [
        {"points": 2**63},
        {"points": 10**30},
        {"tables": {"customers": 10**30}},
        {"epsilon": float("inf")},
        {"epsilon": float("nan")},
        {"delta": float("nan")},
        {"hours": float("inf")},
    ],
)
def test_numbers_of_a_job_are_finite_and_no_larger_than_the_store_keeps(allied, more):
    content = json.dumps({"flow": small_flow(BANK, INSURER), **more})
    analyst = allied.of(Duty.ANALYST)
    answer = analyst.post(f"{CREDIT}/jobs", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert analyst.get(f"{PREFIX}/jobs").json() == []


def test_numbers_of_queries_and_headers_are_bounded(allied):
    analyst, huge = allied.of(Duty.ANALYST), "9" * 30
    for number in (huge, f"-{huge}", "9" * 5000):
        assert analyst.get(f"{PREFIX}/jobs", params={"before": number}).status_code == 422
    job = analyst.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    analyst.post(f"{CREDIT}/jobs/{job}/cancellation", json={"reason": "over"})
    events = analyst.get(f"{CREDIT}/jobs/{job}/events", headers={"last-event-id": "9" * 5000})
    assert events.status_code == 200


# --- watching jobs


@pytest.fixture
def watched(allied, monkeypatch):
    """The address of a server, and the analyst's token and job, which waits for approval."""
    monkeypatch.setattr(jobs_module, "_LOOK_SECONDS", 0.01)
    analyst = allied.of(Duty.ANALYST)
    job = analyst.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    with serving(allied.app, "127.0.0.1:0") as (host, port):
        yield f"http://{host}:{port}", analyst.headers["authorization"].partition(" ")[2], job


def test_whoever_loses_a_right_or_a_session_sees_nothing_more_of_a_job_that_they_watch(allied, watched):
    (url, token, job), people = watched, allied.services.people
    admin = people.get("admin")
    for take, give in (
        (
            lambda: people.change("analyst", admin, projects=()),
            lambda: people.change("analyst", admin, projects=[CREDIT_ID]),
        ),
        (lambda: people.sign_out(token), lambda: None),
    ):
        with Client(url, token) as client:
            events = client.events("credit", job)
            assert next(events)["state"] == "proposed"
            take()
            assert list(events) == []
        give()


def test_watchers_have_a_number_and_give_their_places_back(allied, watched):
    url, token, job = watched
    allied.app.state.watchers.most = 1
    with Client(url, token) as client, Client(url, token) as other:
        events = client.events("credit", job)
        next(events)
        with pytest.raises(PermissionDenied, match="too many watch"):
            next(other.events("credit", job))
        allied.of(Duty.ANALYST).post(f"{CREDIT}/jobs/{job}/cancellation", json={"reason": "over"})
        assert list(events)[-1]["state"] == "cancelled"
        assert next(other.events("credit", job))["state"] == "cancelled"


# --- slow ones, and many


def test_a_body_that_comes_too_slowly_is_ended_and_its_connection_too(bare):
    app = make_app(bare.services, HttpSettings(body_seconds=0.05))
    with serving(app, "127.0.0.1:0") as (host, port), socket.create_connection((host, port), timeout=20) as line:
        head = f"POST {PREFIX}/session HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        line.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"came too slowly" in answer


def test_connections_have_a_number_and_those_that_ask_for_nothing_are_ended(bare, monkeypatch):
    monkeypatch.setattr(serve_module, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(serve_module, "HEAD_SECONDS", 0.5)
    with serving(bare.app, "127.0.0.1:0") as (host, port), ExitStack() as open_lines:
        lines = [open_lines.enter_context(socket.create_connection((host, port), timeout=20)) for _ in range(3)]
        lines[0].sendall(b"GET /heal")
        assert lines[2].recv(1) == b"", "one too many"
        assert [line.recv(1) for line in lines[:2]] == [b"", b""], "nobody waits for ever"
        with Client(f"http://{host}:{port}") as client, pytest.raises(PermissionDenied, match="sign in first"):
            client.me()


# --- uploads


def test_plain_content_lies_in_the_nodes_own_folder_only_while_it_comes_in(staffed, tmp_path, monkeypatch):
    """What a process that is killed leaves there, the next one removes; the system's folder would keep it."""
    elsewhere = tmp_path / "system"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    add, seen = staffed.services.catalogue.add, []

    def look(*arguments):
        seen.extend(tmp_path.glob("scratch/*/*/upload"))
        return add(*arguments)

    monkeypatch.setattr(staffed.services.catalogue, "add", look)
    query, content = {"id": "phone", "lenient": True}, b"phone,income\n1,2\n1,3\n2,4\n"
    owner = staffed.of(Duty.DATA_OWNER)
    assert owner.post(f"{PREFIX}/tables/clients/versions", params=query, content=content).status_code == 201
    assert len(seen) == 1
    assert list(elsewhere.iterdir()) == []
    assert list(tmp_path.glob("scratch/*/*")) == []


def test_a_file_for_a_table_that_cannot_be_is_refused_before_it_comes_in_and_only_so_many_come_at_once(staffed):
    owner, path = staffed.of(Duty.DATA_OWNER), f"{PREFIX}/tables/{{}}/versions"
    too_much = bytes(300_000)
    assert owner.post(path.format("Clients"), content=too_much).status_code == 422, "not 413: nobody read it"
    staffed.app.state.uploads.most = 0
    assert owner.post(path.format("clients"), content=b"phone\n1\n").status_code == 429


def test_other_projects_jobs_do_not_hide_those_that_one_may_see(allied):
    analyst = allied.of(Duty.ANALYST)
    own = analyst.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    with allied.bank.store.begin() as kept:
        made = kept.jobs.get(JobId(own))
        for number in range(101):
            kept.jobs.add(replace(made, job=JobId(f"job-{number}"), project=ProjectId("other")))
    assert [one["job"] for one in analyst.get(f"{PREFIX}/jobs").json()] == [own]
    assert len(allied.of(Duty.AUDITOR).get(f"{PREFIX}/jobs").json()) == 100


def test_an_upload_that_is_cut_off_leaves_nothing_and_breaks_nothing_down(staffed, tmp_path, caplog):
    token = staffed.of(Duty.DATA_OWNER).headers["authorization"]
    head = f"POST {PREFIX}/tables/clients/versions?id=phone HTTP/1.1\r\nhost: localhost\r\nauthorization: {token}\r\n"
    ended, leave = threading.Event(), staffed.app.state.uploads.place

    @contextmanager
    def place():
        with leave():
            try:
                yield
            finally:
                ended.set()

    staffed.app.state.uploads.place = place
    with serving(staffed.app, "127.0.0.1:0") as (host, port):
        with socket.create_connection((host, port), timeout=20) as line:
            line.sendall(f"{head}content-length: 1000\r\n\r\nphone\n1\n".encode())
        assert ended.wait(20)
    assert list(tmp_path.glob("scratch/*/*")) == []
    assert [one.name for one in staffed.services.catalogue.all()] == ["customers"], "that of the setting"
    assert [record for record in caplog.records if record.exc_info] == []


# --- stolen sessions


def test_a_stolen_admins_token_gives_no_password_that_outlives_it(staffed):
    admin = staffed.of(Duty.ADMIN)
    refused = admin.put(f"{PREFIX}/people/admin/password", json={"password": "a new long password"})
    assert (refused.status_code, "the old one" in refused.json()["detail"]) == (403, True)
    assert staffed.services.people.sign_in("admin", PASSWORD)
