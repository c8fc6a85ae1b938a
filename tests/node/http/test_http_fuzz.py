"""No request breaks the node down: every route, with good bodies of which one place is hostile."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from urllib.parse import quote

from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from tests.node.http.conftest import PASSWORD
from tests.node.organisations import BANK, INSURER, agreement_text, site, small_flow

from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX

REQUESTS = 400
NESTED = json.loads("[" * 150 + "]" * 150)
TEXTS = (
    "",
    "\0",
    "\ud800",
    "é" * 300,
    "../../etc/passwd",
    "a" * 3000,
    "\x1b[2J\r\n",
    "١",
    "9" * 5000,
    "NaN",
    "{0}%s",
    "'--",
)
NUMBERS = (-1, 0, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), -0.0, 5e-324)
HOSTILE = (None, True, [], {}, NESTED, [None], {"": {}}, *TEXTS, *NUMBERS)
HEADERS = (
    "origin",
    "cookie",
    "last-event-id",
    "content-type",
    "content-length",
    "authorization",
    "host",
    "range",
    "x-unseen-request",
)
KEEPS_SESSIONS = {("DELETE", f"{PREFIX}/session"), ("PATCH", f"{PREFIX}/people/{{name}}")}
CSV = b"phone,income\n1,2\n3,4\n"


def bodies() -> dict[str, object]:
    """A good body for each path that takes one."""
    job = {"flow": small_flow(BANK, INSURER), "points": 2000, "epsilon": 0.0, "delta": 0.0, "hours": 1.0, "tables": {}}
    person = {"name": "eve", "password": PASSWORD, "duties": ["analyst"]}
    one = "/projects/{project}"
    return {
        "/setup": {"name": "root", "password": PASSWORD, "token": "x"},
        "/session": {"name": "nobody", "password": PASSWORD},
        "/session/sso/code": {"secret": "x", "code": "ABCD-2345"},
        "/session/password": {"old": "wrong wrong wrong", "password": PASSWORD},
        "/people": person,
        "/people/{name}/password": {"password": PASSWORD},
        "/projects": {**agreement_text(BANK, INSURER), "project": "new"},
        "/tables/{name}/versions/from-source": {"source": "crm", "table": "public.customers", "columns": ["id"]},
        f"{one}/signature": {"digest": "0" * 64},
        f"{one}/revocation": {"reason": "x"},
        f"{one}/policy": site(BANK, INSURER).model_dump(mode="json"),
        f"{one}/jobs": job,
        f"{one}/jobs/{{job}}/refusal": {"reason": "x"},
        f"{one}/jobs/{{job}}/cancellation": {"reason": "x"},
        f"{one}/jobs/{{job}}/pause": {"reason": "x"},
        "/partners/pairings/{pairing}/confirmation": {"code": "ABCD-EFGH"},
    }


def spoiled(body: object, draw: random.Random) -> object:
    """A body of which one place is something else, is gone, or is one more."""
    whole: list[object] = [copy.deepcopy(body)]
    at: list[object] | dict[str, object] = whole
    key: int | str = 0
    while isinstance(inner := at[key], dict | list) and inner and draw.random() < 0.8:
        at = inner
        key = draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
    fate = draw.random()
    if fate < 0.7:
        at[key] = draw.choice(HOSTILE)
    elif fate < 0.85 and isinstance(at, dict):
        at[draw.choice(TEXTS)] = draw.choice(HOSTILE)
    else:
        del at[key]
    return whole[0] if whole else None


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:200]


def headers_of(client: TestClient, draw: random.Random) -> list[tuple[bytes, bytes]]:
    given = {"authorization": client.headers["authorization"], "content-type": "application/json"}
    if draw.random() < 0.3:
        given[draw.choice(HEADERS)] = draw.choice(
            ["http://[", "\x80", "bytes=9-1", "-1", "9" * 5000, "unseen_session=\xff"]
        )
    return [(name.encode(), value.encode("latin-1")) for name, value in given.items()]


def address(path: str, job: str, draw: random.Random) -> str:
    good = {"project": "credit", "job": job, "name": "eve", "version": "1", "result": "read.table"} | {
        "pairing": "0",
        "partner": "insurer",
        "source": "crm",
    }
    fill = {name: text_of(draw.choice(HOSTILE)) if draw.random() < 0.15 else value for name, value in good.items()}
    filled = path.format(**{name: quote(value, safe="", errors="replace") for name, value in fill.items()})
    if draw.random() < 0.5:
        return filled
    asked = draw.choice(["before", "after", "project", "state", "id", "label", "text", "lenient", "origin", "zz"])
    return f"{filled}?{asked}={quote(text_of(draw.choice(HOSTILE)), errors='replace')}"


def test_no_request_breaks_the_node_down_or_is_told_where_anything_lies(allied, tmp_path, record_count):
    draw, good, seen = random.Random(0), bodies(), Counter[int]()
    job = (
        allied.of(Duty.ANALYST)
        .post(f"{PREFIX}/projects/credit/jobs", json=good["/projects/{project}/jobs"])
        .json()["job"]
    )
    allied.of(Duty.ANALYST).post(f"{PREFIX}/projects/credit/jobs/{job}/cancellation", json={"reason": "over"})
    routes = [
        (method, route.path)
        for route in allied.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        if (method, route.path) not in KEEPS_SESSIONS
    ]
    asking = TestClient(allied.app, base_url="http://localhost", raise_server_exceptions=False)
    for number in range(REQUESTS):
        method, path = routes[number % len(routes)]
        client, body = allied.of(draw.choice(list(Duty))), good.get(path.removeprefix(PREFIX), {})
        content = (
            CSV[: draw.randrange(len(CSV))] if path.endswith("/versions") else json.dumps(spoiled(body, draw)).encode()
        )
        asking.cookies.clear()
        where, headers = address(path, job, draw), headers_of(client, draw)
        answer = asking.request(method, where, content=content, headers=headers)
        seen[answer.status_code] += 1
        assert answer.status_code < 500, (method, where[:200], headers, content[:500])
        assert str(tmp_path) not in answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", (method, where)
    record_count("hostile HTTP requests, each answered", seen.total())
    assert seen[422] > REQUESTS // 10
    assert seen[200] + seen[201] + seen[204] > REQUESTS // 50
