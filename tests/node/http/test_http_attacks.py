"""What hostile people and programs tried at the node's HTTP, and what they get for it now."""

from __future__ import annotations

from tests.node.organisations import BANK, INSURER, agreement_text

from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX

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
