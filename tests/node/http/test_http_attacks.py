"""What hostile people and programs tried at the node's HTTP, and what they get for it now."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import pytest
from tests.node.http.conftest import PASSWORD
from tests.node.organisations import BANK, INSURER, agreement_text

from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX
from unseen.node.usecases.people import MOST_FAILURES, Crowded, SignInRefused

PROJECTS = f"{PREFIX}/projects"


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
