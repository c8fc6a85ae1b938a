"""Every route × every duty × one's own and foreign objects; every answer to a refusal is a problem that says why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from tests.node.http.conftest import NAMES, PASSWORD

from unseen.node.domain import RIGHTS, Duty, Right
from unseen.node.http import services as services_module
from unseen.node.http.app import OPEN, PREFIX, check_guarded
from unseen.node.http.guard import Needs, signed_in

FILL = {
    "project": "credit",
    "job": "job-1",
    "name": "customers",
    "version": "1",
    "result": "read.table",
    "pairing": "1",
    "partner": "bank",
    "source": "crm",
}
FOREIGN = {**FILL, "project": "other"}


def routes(app) -> Iterator[tuple[str, APIRoute]]:
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                yield method, route


def needed(route: APIRoute) -> Right | None:
    calls = [dependency.call for dependency in route.dependant.dependencies]
    return next((call.right for call in calls if isinstance(call, Needs)), None)


def ask(client: TestClient, method: str, path: str, fill: dict[str, str]) -> int:
    answer = client.request(method, path.format(**fill), json={})
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", path
        assert answer.json()["status"] == answer.status_code
    return answer.status_code


def test_every_route_of_every_duty_answers_as_the_matrix_says(allied, record_count):
    cells = 0
    for method, route in routes(allied.app):
        right = needed(route)
        if right is None:
            continue
        for duty in Duty:
            for fill in (FILL, FOREIGN):
                status = ask(allied.of(duty), method, route.path, fill)
                in_project = "{project}" in route.path
                allowed = right in RIGHTS[duty] and not (in_project and fill is FOREIGN and duty is Duty.ANALYST)
                assert (status == 403) is not allowed or status in {404, 422}, (method, route.path, duty, fill, status)
                if not allowed:
                    assert status == 403, (method, route.path, duty, status)
                assert status < 500, (method, route.path, duty, status)
                cells += 1
    record_count("cells of routes × duties × own and foreign objects, as the matrix says", cells)
    assert cells >= 200


def test_without_a_session_every_route_but_the_open_ones_is_closed(allied):
    nobody, forged = allied.client(), allied.client()
    forged.headers["authorization"] = "Bearer forged"
    for method, route in routes(allied.app):
        if (method, route.path) not in OPEN:
            for client in (nobody, forged):
                assert ask(client, method, route.path, FILL) == 401, (method, route.path)


def test_open_routes_are_those_that_are_listed_and_a_route_that_nobody_guards_stops_the_node(bare):
    found = {(method, route.path) for method, route in routes(bare.app)}
    assert set(OPEN) <= found
    guarded = [
        route
        for method, route in routes(bare.app)
        if (method, route.path) not in OPEN
        and needed(route) is None
        and all(dependency.call is not signed_in for dependency in route.dependant.dependencies)
    ]
    assert guarded == []
    bare.app.get("/api/v1/forgotten")(lambda: None)
    with pytest.raises(RuntimeError, match="GET /api/v1/forgotten is open to everybody"):
        check_guarded(bare.app)


def test_nobody_has_two_keys_to_one_lock():
    assert not RIGHTS[Duty.ANALYST] & {Right.APPROVE_JOBS, Right.SIGN_AGREEMENTS, Right.SET_POLICY}
    assert not RIGHTS[Duty.ADMIN] & {Right.SEE_RESULTS, Right.MANAGE_TABLES, Right.SEE_AUDIT, Right.APPROVE_JOBS}
    assert [duty for duty in Duty if Right.MANAGE_PARTNERS in RIGHTS[duty]] == [Duty.ADMIN]
    assert not RIGHTS[Duty.AUDITOR] & {Right.SEE_RESULTS, Right.CANCEL_JOBS}


def test_health_needs_nobody_and_metrics_a_token(bare):
    client = bare.client()
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer scrape"}).status_code == 200
    assert client.get("/api/v1/openapi.json").json()["info"]["title"] == "Unseen node bank"
    assert client.get("/nowhere").headers["content-type"] == "application/problem+json"
    assert client.put(f"{PREFIX}/people").status_code == 405


def test_a_node_whose_database_fails_is_alive_and_not_ready(bare, tmp_path):
    bare.bank.store.close()
    for left in tmp_path.glob("bank.db*"):
        left.unlink()
    (tmp_path / "bank.db").write_bytes(b"no database" * 100)
    client = bare.client()
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"status": "not ready", "store": "fails", "disk": "ok", "certificate": "ok"},
    )


def test_a_node_without_room_or_with_a_certificate_that_is_over_is_not_ready(bare, monkeypatch):
    monkeypatch.setattr(services_module, "LEAST_FREE", 1 << 62)
    bare.bank.clock.time += timedelta(days=91)
    answer = bare.client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "store": "ok", "disk": "full", "certificate": "expired"}


def test_malformed_requests_are_told_where_and_quote_nothing(staffed):
    secret = "hunter2hunter2"
    admin = staffed.of(Duty.ADMIN)
    answer = admin.post(f"{PREFIX}/people", json={"name": "eve", "password": {"x": secret}, "duties": ["analyst"]})
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["where"] == "body.password"
    assert secret not in answer.text
    broken = admin.post(f"{PREFIX}/people", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 422
    assert NAMES[Duty.ADMIN] == "admin"
    assert PASSWORD not in answer.text
