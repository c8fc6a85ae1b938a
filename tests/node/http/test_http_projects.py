"""Projects, jobs and trails over HTTP, between a bank and an insurer whose letters are handed over by the test."""

from __future__ import annotations

import base64
import json

import pytest
from starlette.testclient import TestClient
from tests.node.http.conftest import NAMES, PASSWORD
from tests.node.organisations import BANK, INSURER, agreement_text, deliver, site, small_flow

from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import JobId
from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX
from unseen.node.store.schema import lines as table
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import verify
from unseen.trust.envelope import read_envelope

PROJECTS = f"{PREFIX}/projects"
CREDIT = f"{PROJECTS}/credit"


def test_an_agreement_from_draft_to_revocation(staffed):
    nodes = (staffed.bank, staffed.insurer)
    analyst, approver, owner = (staffed.of(duty) for duty in (Duty.ANALYST, Duty.APPROVER, Duty.DATA_OWNER))
    text = agreement_text(BANK, INSURER)
    assert analyst.post(PROJECTS, json={**text, "members": ["bank", "stranger"]}).status_code == 422
    assert analyst.post(PROJECTS, json=text).json() == {"project": "credit"}
    deliver(nodes)
    shown = approver.get(CREDIT).json()
    assert (shown["standing"], shown["waiting"]["missing"]) == ("draft", ["bank", "insurer"])
    assert analyst.post(f"{CREDIT}/signature", json={"digest": shown["waiting"]["digest"]}).status_code == 403
    assert approver.post(f"{CREDIT}/signature", json={"digest": "0" * 64}).status_code == 422, "not what was read"
    signed = approver.post(f"{CREDIT}/signature", json={"digest": shown["waiting"]["digest"]}).json()
    assert signed["waiting"]["missing"] == ["insurer"]
    deliver(nodes)
    staffed.insurer.projects.sign(staffed.insurer.projects.all()[0], staffed.services.people.get(NAMES[Duty.APPROVER]))
    deliver(nodes)
    assert approver.get(CREDIT).json()["standing"] == "in-force"
    policy = site(BANK, INSURER).model_dump(mode="json")
    assert owner.put(f"{CREDIT}/policy", json={**policy, "max_points": -1}).status_code == 422
    assert owner.put(f"{CREDIT}/policy", json=policy).json()["policy"] == policy
    assert owner.delete(f"{CREDIT}/policy").json()["policy"] is None
    assert owner.post(f"{CREDIT}/revocation", json={"reason": ""}).status_code == 422
    over = owner.post(f"{CREDIT}/revocation", json={"reason": "the contract ended"}).json()
    assert (over["standing"], over["revoked_by"], over["reason"]) == ("revoked", "bank", "the contract ended")
    deliver(nodes)
    assert staffed.insurer.agreed().revoked is not None


def propose(allied, **changes):
    body = {"flow": small_flow(BANK, INSURER), **changes}
    return allied.of(Duty.ANALYST).post(f"{CREDIT}/jobs", json=body)


def test_a_job_waits_for_somebody_who_did_not_propose_it(allied):
    made = propose(allied)
    assert made.status_code == 201, made.text
    name = made.json()["job"]
    path = f"{CREDIT}/jobs/{name}"
    assert made.json()["state"] == "proposed"
    assert allied.of(Duty.ANALYST).post(f"{path}/approval").status_code == 403
    assert allied.of(Duty.APPROVER).post(f"{path}/approval").json()["state"] in {"granted", "ready"}
    deliver((allied.bank, allied.insurer))
    shown = allied.of(Duty.ANALYST).get(path).json()
    assert (shown["state"], shown["flow"]["name"]) == ("ready", "small")
    assert shown["tables"][0]["name"] == "customers"
    assert allied.insurer.jobs.get(JobId(name)).state == "ready"
    ended = allied.of(Duty.ADMIN).post(f"{path}/cancellation", json={"reason": "wrong flow"}).json()
    assert (ended["state"], "wrong flow" in ended["reason"]) == ("cancelled", True)
    deliver((allied.bank, allied.insurer))
    assert allied.insurer.jobs.get(JobId(name)).state == "cancelled"
    for what in ("results", "report"):
        assert allied.of(Duty.ANALYST).get(f"{path}/{what}").status_code == 422
    assert allied.of(Duty.ANALYST).get(f"{CREDIT}/models").json() == []


def test_a_job_can_be_refused_and_everybody_hears_why(allied):
    path = f"{CREDIT}/jobs/{propose(allied).json()['job']}"
    refused = allied.of(Duty.APPROVER).post(f"{path}/refusal", json={"reason": "not in this quarter"}).json()
    assert (refused["state"], "not in this quarter" in refused["reason"]) == ("refused", True)
    events = allied.of(Duty.ANALYST).get(f"{path}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(line[6:]) for line in events.text.splitlines() if line.startswith("data: ")]
    assert told[-1]["state"] == "refused"
    beyond = allied.of(Duty.ANALYST).get(f"{path}/events", params={"after": 10**30})
    assert beyond.status_code == 422, "no number that the store could have given"


def test_a_job_that_the_agreement_does_not_allow_is_refused_with_all_reasons(allied):
    flow = small_flow(BANK, INSURER)
    flow["steps"]["split"]["params"]["test"] = 0.9
    answer = propose(allied, flow=flow, points=1_000_000)
    assert answer.status_code == 403
    assert "split" in answer.json()["detail"]
    assert "points" in answer.json()["detail"]
    broken = propose(allied, flow={"name": "x"})
    assert (broken.status_code, "parties" in broken.json()["detail"]) == (422, True)


def test_an_analyst_sees_the_projects_that_were_assigned_and_no_other(allied):
    allied.services.people.add("eve", PASSWORD, {Duty.ANALYST}, None)
    eve, name = allied.client("eve"), propose(allied).json()["job"]
    assert eve.get(PROJECTS).json() == []
    assert eve.get(f"{PREFIX}/jobs").json() == []
    for path in (CREDIT, f"{CREDIT}/jobs/{name}", f"{CREDIT}/jobs/{name}/events", f"{CREDIT}/jobs/{name}/results"):
        assert eve.get(path).status_code == 403
    assert eve.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).status_code == 403
    assert eve.post(PROJECTS, json=agreement_text(BANK, INSURER)).status_code == 403
    other = eve.post(PROJECTS, json={**agreement_text(BANK, INSURER), "project": "own"})
    assert other.json() == {"project": "own"}
    assert eve.get(f"{PROJECTS}/own/jobs/{name}").status_code == 404, "a job of another project, by this one's path"
    assert [one["project"] for one in eve.get(PROJECTS).json()] == ["own"]


def test_the_trail_is_what_an_auditor_verifies(allied):
    propose(allied)
    auditor: TestClient = allied.of(Duty.AUDITOR)
    lines = auditor.get(f"{CREDIT}/trail").content.splitlines()
    assert verify(lines).count == len(lines) > 2
    state = auditor.get(f"{CREDIT}/trail/state").json()
    assert (state["whole"], state["count"], [head["party"] for head in state["heads"]]) == (
        True,
        len(lines),
        ["insurer"],
    )
    assert auditor.get(f"{CREDIT}/trail/records", params={"after": 1}).json()[0]["number"] == 2
    # The head that the insurer signed of its trail is good for checking the insurer's trail, wherever it is.
    (held,) = state["heads"]
    head = read_envelope(base64.b64decode(held["frame"]), sender="test")
    theirs = [bytes(line) for line in allied.insurer.audit.lines(ProjectId("credit"))]
    assert verify(theirs, [head]).vouched == held["count"]
    with pytest.raises(DataError, match="cut off"):
        verify(theirs[: held["count"] - 1], [head])
    with pytest.raises(RemoteProtocolError):
        verify(lines, [head])
    with allied.bank.store.begin() as kept:
        connection = kept.lines._connection
        connection.execute(table.update().where(table.c.number == 2, table.c.log == "trail/credit").values(line=b"{}"))
    broken = auditor.get(f"{CREDIT}/trail/state").json()
    assert (broken["whole"], "line 2" in broken["fault"]) == (False, True)
