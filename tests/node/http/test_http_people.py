"""Signing in, sessions, and who may do what to whom."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sql
from argon2 import PasswordHasher, extract_parameters
from tests.node.http.conftest import NAMES, PASSWORD
from tests.node.organisations import BANK, INSURER, small_flow

from unseen.errors import UsageError
from unseen.node.domain import NO_LINK, Duty, Link
from unseen.node.http.app import PREFIX
from unseen.node.http.guard import COOKIE, DEVICE_COOKIE, REQUEST_HEADER
from unseen.node.usecases import people as people_module
from unseen.node.usecases.brake import MOST_FAILURES, PENALTY, SignInRefused
from unseen.node.usecases.people import DEVICE, SESSION
from unseen.trust.audit import verify

SESSION_PATH = f"{PREFIX}/session"


def test_the_first_person_comes_by_the_nodes_token_once(bare):
    client, body = bare.client(), {"name": "root", "password": PASSWORD}
    assert client.post(f"{PREFIX}/setup", json={**body, "token": "guess"}).status_code == 403
    made = client.post(f"{PREFIX}/setup", json={**body, "token": bare.set_up})
    assert (made.status_code, made.json()["duties"]) == (201, ["admin"])
    again = client.post(f"{PREFIX}/setup", json={**body, "name": "two", "token": bare.set_up})
    assert again.status_code == 403
    assert bare.client("root").get(f"{PREFIX}/people").json()[0]["name"] == "root"


def test_a_session_ends_when_it_is_ended_when_its_time_is_over_and_with_its_person(staffed):
    client, people = staffed.of(Duty.ANALYST), staffed.services.people
    assert client.get(SESSION_PATH).json()["person"]["name"] == "analyst"
    staffed.bank.clock.time += SESSION
    assert client.get(SESSION_PATH).status_code == 401
    staffed.clients.clear()
    client = staffed.of(Duty.ANALYST)
    assert client.delete(SESSION_PATH).status_code == 204
    assert client.get(SESSION_PATH).status_code == 401
    staffed.clients.clear()
    client = staffed.of(Duty.ANALYST)
    people.change("analyst", people.get("admin"), active=False)
    assert client.get(SESSION_PATH).status_code == 401
    assert staffed.client().post(SESSION_PATH, json={"name": "analyst", "password": PASSWORD}).status_code == 401


def test_wrong_names_and_wrong_passwords_are_refused_in_the_same_words(staffed):
    client = staffed.client()
    answers = [
        client.post(SESSION_PATH, json={"name": name, "password": password})
        for name, password in (("analyst", "wrong wrong wrong"), ("nobody", PASSWORD), ("", ""))
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert answers[0].headers["content-type"] == "application/problem+json"


def test_whoever_guesses_waits_and_others_do_not(staffed):
    people, clock = staffed.services.people, staffed.bank.clock
    for _ in range(MOST_FAILURES):
        with pytest.raises(SignInRefused, match="are wrong"):
            people.sign_in("analyst", "wrong wrong wrong")
    with pytest.raises(SignInRefused, match="wait 300 s"):
        people.sign_in("analyst", PASSWORD)
    assert people.sign_in("auditor", PASSWORD)
    clock.time += PENALTY
    assert people.sign_in("analyst", PASSWORD)


def lock_out(people, name: str = "analyst") -> None:
    for _ in range(MOST_FAILURES):
        with pytest.raises(SignInRefused, match="are wrong"):
            people.sign_in(name, "wrong wrong wrong")
    with pytest.raises(SignInRefused, match="too many"):
        people.sign_in(name, PASSWORD)


def test_a_device_that_has_signed_in_passes_while_others_guess_and_has_a_count_of_its_own(staffed):
    people, client = staffed.services.people, staffed.client()
    body = {"name": "analyst", "password": PASSWORD}
    assert client.post(SESSION_PATH, json=body).json()["device"] == "", "nobody asked to be remembered"
    signed = client.post(SESSION_PATH, json={**body, "device": ""})
    assert f"{DEVICE_COOKIE}=" in signed.headers["set-cookie"]
    device = signed.json()["device"]
    lock_out(people)
    assert client.post(SESSION_PATH, json=body).status_code == 201, "a browser has it as a cookie"
    program = staffed.client()
    assert program.post(SESSION_PATH, json={**body, "device": device}).json()["device"] == device
    others = [
        program.post(SESSION_PATH, json={**body, "device": name}).status_code
        for name in ("invented", people.sign_in("auditor", PASSWORD, "").device)
    ]
    assert others == [401, 401], "nobody's device, and somebody else's"
    for _ in range(MOST_FAILURES):
        assert "are wrong" in program.post(SESSION_PATH, json={**body, "password": "x", "device": device}).text
    assert "too many" in program.post(SESSION_PATH, json={**body, "device": device}).text, (
        "who stole it guesses no more"
    )
    with staffed.bank.store.snapshot() as kept:
        assert device not in str(kept.execute(sql.text("SELECT * FROM devices")).all())


def test_devices_have_a_number_run_out_and_end_with_the_trust_in_their_person(staffed):
    people, admin = staffed.services.people, staffed.services.people.get("admin")
    first, *_, last = [people.sign_in("analyst", PASSWORD, "").device for _ in range(11)]
    lock_out(people)
    assert people.sign_in("analyst", PASSWORD, last)
    with pytest.raises(SignInRefused):
        people.sign_in("analyst", PASSWORD, first)
    staffed.bank.clock.time += DEVICE
    lock_out(people)
    with pytest.raises(SignInRefused):
        people.sign_in("analyst", PASSWORD, last)
    staffed.bank.clock.time += PENALTY
    for end in (
        lambda: people.set_password("analyst", PASSWORD, admin),
        lambda: people.change("analyst", admin, active=False) and people.change("analyst", admin, active=True),
    ):
        staffed.bank.clock.time += PENALTY
        device = people.sign_in("analyst", PASSWORD, "").device
        end()
        lock_out(people)
        with pytest.raises(SignInRefused):
            people.sign_in("analyst", PASSWORD, device)


def test_a_password_that_is_changed_while_it_is_looked_at_begins_no_session(staffed, monkeypatch):
    people, admin = staffed.services.people, staffed.services.people.get("admin")
    verified = people._verified

    def late(hashed: str, password: str) -> bool:
        people.set_password("analyst", PASSWORD + "!", admin)
        return verified(hashed, password)

    monkeypatch.setattr(people, "_verified", late)
    with pytest.raises(SignInRefused, match="a moment ago"):
        people.sign_in("analyst", PASSWORD)


def test_who_is_signed_in_changes_their_password_while_others_guess(staffed):
    people, auditor = staffed.services.people, staffed.of(Duty.AUDITOR)
    device = people.sign_in("auditor", PASSWORD, "").device
    lock_out(people, "auditor")
    path = f"{SESSION_PATH}/password"
    for _ in range(MOST_FAILURES - 1):
        assert auditor.put(path, json={"old": "wrong wrong wrong", "password": PASSWORD + "!"}).status_code == 401
    assert auditor.put(path, json={"old": PASSWORD, "password": PASSWORD + "!"}).status_code == 204
    assert people.sign_in("auditor", PASSWORD + "!", device), "their own devices stay"


# --- who made whom


def test_what_is_done_to_people_and_who_approves_is_in_the_nodes_own_trail(allied):
    """An admin who makes a second person, to approve what the first one asked for, is seen."""
    admin, secret = allied.of(Duty.ADMIN), "a password of somebody"
    admin.post(f"{PREFIX}/people", json={"name": "eve", "password": secret, "duties": ["approver"]})
    allied.bank.clock.time += timedelta(hours=1)
    admin.patch(f"{PREFIX}/people/eve", json={"duties": ["approver", "analyst"], "projects": ["credit"]})
    admin.put(f"{PREFIX}/people/eve/password", json={"password": secret + "!"})
    project = f"{PREFIX}/projects/credit"
    job = allied.of(Duty.ANALYST).post(f"{project}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    session = allied.services.people.sign_in("eve", secret + "!")
    headers = {"authorization": f"Bearer {session.token}"}
    assert allied.client().post(f"{project}/jobs/{job}/approval", json={}, headers=headers).status_code == 200
    auditor = allied.of(Duty.AUDITOR)
    text = auditor.get(f"{PREFIX}/trail").content
    records = [json.loads(line) for line in text.splitlines()]
    assert verify(text.splitlines()).count == len(records)
    told = [(one["event"], one.get("by"), one["person"]["name"]) for one in records[-4:]]
    assert told == [
        ("person-added", "admin", "eve"),
        ("person-changed", "admin", "eve"),
        ("password-set", "admin", "eve"),
        ("job-approved", None, "eve"),
    ]
    assert (records[-3]["person"]["duties"], records[-3]["person"]["projects"]) == (["analyst", "approver"], ["credit"])
    approved = records[-1]
    assert (approved["job"], approved["project"]) == (job, "credit")
    age = datetime.fromisoformat(approved["at"]) - datetime.fromisoformat(approved["person"]["added"])
    assert timedelta(hours=1) < age < timedelta(hours=2), "a fresh pair of eyes"
    events = {one["event"] for one in records}
    assert {"agreement-signed", "policy-set"} <= events
    when = datetime.fromisoformat(approved["at"]) - datetime.fromisoformat(approved["person"]["changed"])
    assert when < timedelta(minutes=1), "nor does an old account that an admin has just given a password pass for old"
    assert secret not in text.decode()
    theirs = auditor.get(f"{project}/trail").text
    assert all(f'"{name}"' not in theirs for name in ("eve", "admin", "approver")), "partners see heads of this one"


def test_the_first_person_and_links_are_in_the_trail_and_a_refused_act_is_not(bare):
    people = bare.services.people
    root = people.add_first("root", PASSWORD)
    link = Link("https://idp.example", "ann@idp")
    people.add("ann", None, {Duty.ANALYST}, root, link=link)
    with pytest.raises(UsageError, match="linked to this subject already"):
        people.add("bob", PASSWORD, {Duty.ANALYST}, root, link=link)
    people.change("ann", root, link=NO_LINK)
    people.set_password("root", PASSWORD + "!", root)
    _, *records = bare.bank.audit.records(None)
    assert [(one.event, one.by, one.person.name, one.subject) for one in records] == [
        ("person-added", None, "root", None),
        ("person-added", "root", "ann", None),
        ("sign-on-linked", "root", "ann", link.digest),
        ("person-changed", "root", "ann", None),
        ("sign-on-linked", "root", "ann", None),
        ("password-set", "root", "root", None),
    ]
    bare.bank.start()
    assert len(bare.bank.audit.records(None)) == 7, "also after a restart"


def test_nobody_changes_what_they_may_do_themselves(staffed):
    admin = staffed.of(Duty.ADMIN)
    refused = admin.patch(f"{PREFIX}/people/admin", json={"duties": ["admin", "analyst"]})
    assert (refused.status_code, "themselves" in refused.json()["detail"]) == (403, True)
    given = admin.patch(f"{PREFIX}/people/analyst", json={"duties": ["auditor"], "projects": ["credit"]})
    assert given.json()["duties"] == ["auditor"]
    assert staffed.of(Duty.ANALYST).get(f"{PREFIX}/trail").status_code == 200, "it holds from the next request on"


def test_people_are_added_and_changed_by_an_admin_only_and_passwords_have_a_length(staffed):
    admin = staffed.of(Duty.ADMIN)
    body = {"name": "eve", "password": PASSWORD, "duties": ["analyst"]}
    for changes in ({"password": "short"}, {"duties": []}, {"name": "Eve!"}, {"duties": ["king"]}, {"more": 1}):
        assert admin.post(f"{PREFIX}/people", json={**body, **changes}).status_code == 422
    assert admin.post(f"{PREFIX}/people", json=body).status_code == 201
    assert admin.post(f"{PREFIX}/people", json=body).status_code == 422, "the name is taken"
    for path, call in (("nobody", {"active": False}), ("../eve", {})):
        assert admin.patch(f"{PREFIX}/people/{path}", json=call).status_code in {404, 405}
    assert admin.put(f"{PREFIX}/people/eve/password", json={"password": PASSWORD + "!"}).status_code == 204
    assert staffed.services.people.sign_in("eve", PASSWORD + "!")


def test_ones_own_password_takes_the_old_one_and_ends_all_sessions(staffed):
    client, path = staffed.of(Duty.AUDITOR), f"{SESSION_PATH}/password"
    assert client.put(path, json={"old": "wrong wrong wrong", "password": PASSWORD + "!"}).status_code == 401
    assert client.put(path, json={"old": PASSWORD, "password": PASSWORD + "!"}).status_code == 204
    assert client.get(SESSION_PATH).status_code == 401


# --- browsers


def test_a_cookie_alone_changes_nothing_and_other_sites_are_refused(staffed):
    client = staffed.client()
    signed = client.post(SESSION_PATH, json={"name": NAMES[Duty.ADMIN], "password": PASSWORD})
    cookie = signed.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get(SESSION_PATH).status_code == 200
    body = {"name": "eve", "password": PASSWORD, "duties": ["analyst"]}
    assert client.post(f"{PREFIX}/people", json=body).status_code == 403
    assert client.post(f"{PREFIX}/people", json=body, headers={REQUEST_HEADER: "1"}).status_code == 201
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"host": ""}):
        assert client.get(SESSION_PATH, headers=headers).status_code == 403
    assert client.get(SESSION_PATH, headers={"origin": "http://localhost:8700"}).status_code == 200
    client.cookies.set(COOKIE, "forged", domain="localhost.local")
    assert client.get("/healthz").headers["content-security-policy"].startswith("default-src 'none'")


def test_passwords_are_hashed_as_rfc_9106_says(monkeypatch, staffed):
    monkeypatch.undo()
    hasher = PasswordHasher.from_parameters(people_module.RFC_9106_LOW_MEMORY)
    found = extract_parameters(hasher.hash("x"))
    assert (found.type.name, found.memory_cost, found.time_cost, found.parallelism) == ("ID", 65_536, 3, 4)


def test_the_log_says_who_changed_whom_and_who_was_guessed_at_and_obeys_nobody(staffed, caplog):
    admin, secret = staffed.of(Duty.ADMIN), "a password of somebody"
    admin.post(f"{PREFIX}/people", json={"name": "eve", "password": secret, "duties": ["approver"]})
    admin.patch(f"{PREFIX}/people/eve", json={"active": False})
    admin.put(f"{PREFIX}/people/eve/password", json={"password": secret})
    for _ in range(MOST_FAILURES + 1):
        staffed.client().post(SESSION_PATH, json={"name": "x\nadmin added mallory\x1b", "password": secret})
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "admin added eve: approver",
        "admin changed eve: approver; projects: none, not active any more",
        "admin gave eve another password",
        r"sign-in as x\nadmin added mallory\x1b: too many attempts",
    ]
    assert secret not in caplog.text


def test_no_secret_is_in_a_repr(staffed):
    session = staffed.services.people.sign_in("analyst", PASSWORD)
    assert session.token not in repr(session)
    assert abs(session.until - staffed.bank.clock.now() - timedelta(hours=12)) < timedelta(seconds=1)
