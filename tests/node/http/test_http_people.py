"""Signing in, sessions, and who may do what to whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
from argon2 import PasswordHasher, extract_parameters
from tests.node.http.conftest import NAMES, PASSWORD

from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX
from unseen.node.http.guard import COOKIE, REQUEST_HEADER
from unseen.node.usecases import people as people_module
from unseen.node.usecases.brake import MOST_FAILURES, PENALTY, SignInRefused
from unseen.node.usecases.people import SESSION

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
    assert [record.getMessage() for record in caplog.records if record.name.startswith("unseen")] == [
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
