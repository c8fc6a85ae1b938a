"""Every route answers as its description says, whatever is asked: requests made by schemathesis from our OpenAPI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from tests.node.http.conftest import NAMES, PASSWORD, Site
from tests.node.organisations import BANK, INSURER, small_flow

from unseen.node.domain import Duty
from unseen.node.http.app import OPEN, PREFIX

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
KNOWN = {"project": "credit", "name": "customers", "version": 1, "result": "read.table", "source": "crm"} | {
    "pairing": "0",
    "partner": "insurer",
}
ENDS_SESSIONS = {("DELETE", f"{PREFIX}/session"), ("PUT", f"{PREFIX}/session/password")}
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


def over(site: Site) -> str:
    """Return a job that is over, so that whoever watches it is not told more."""
    jobs = f"{PREFIX}/projects/credit/jobs"
    analyst = site.of(Duty.ANALYST)
    job = analyst.post(jobs, json={"flow": small_flow(BANK, INSURER), "hours": 1.0}).json()["job"]
    assert analyst.post(f"{jobs}/{job}/cancellation", json={"reason": "over"}).status_code == 200
    return str(job)


def bearer(site: Site, duty: Duty, route: tuple[str, str]) -> str:
    """Return what somebody of a duty shows; a session of its own where the route ends it."""
    if route not in ENDS_SESSIONS:
        return str(site.of(duty).headers["authorization"])
    site.bank.clock.time += timedelta(minutes=5)  # wrong passwords make people wait
    return f"Bearer {site.services.people.sign_in(NAMES[duty], PASSWORD).token}"


def operations(site: Site) -> Iterator[schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_dict(site.app.openapi())
    return (result.ok() for result in schema.get_all_operations())


def fuzz(site: Site, examples: int) -> Counter[int]:
    """Ask every route so many times with valid requests, and as often with invalid ones."""
    known, seen = {**KNOWN, "job": over(site)}, Counter[int]()
    client = site.client()
    for operation in operations(site):
        for mode in MODES:

            @seed(6)
            @settings(
                max_examples=examples, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=operation.as_strategy(mode), known_too=st.booleans(), duty=st.sampled_from(Duty))
            def ask(case: schemathesis.Case, known_too: bool, duty: Duty) -> None:
                if known_too:
                    case.path_parameters = {name: known[name] for name in case.path_parameters}
                asked = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
                asked.headers["authorization"] = bearer(site, duty, (case.method, case.path))
                answer = client.request(asked.method, asked.url, headers=dict(asked.headers), content=asked.body)
                seen[answer.status_code] += 1
                case.validate_response(answer, checks=CHECKS)

            with suppress(Unsatisfiable):  # where nothing can be wrong with a request
                ask()
    return seen


def check(site: Site, examples: int) -> int:
    seen = fuzz(site, examples)
    assert seen[200] + seen[201] + seen[204] > seen.total() // 20, "requests that are fine are among them"
    assert seen[422] > seen.total() // 20
    return seen.total()


def test_every_route_answers_as_it_is_described(allied: Site, record_count) -> None:
    record_count("requests made from the OpenAPI, answered as it says", check(allied, 2))


@pytest.mark.evidence
def test_every_route_answers_as_it_is_described_a_thousand_times(allied: Site, record_count) -> None:
    record_count("requests made from the OpenAPI, answered as it says", check(allied, 500))


def test_the_description_names_refusals_and_who_may_call(bare: Site) -> None:
    described = bare.client().get(f"{PREFIX}/openapi.json").json()
    open_routes = {
        (method.upper(), path)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if not operation["security"]
    }
    assert open_routes == set(OPEN)
    for methods in described["paths"].values():
        for operation in methods.values():
            assert operation["responses"]["4XX"] == {"$ref": "#/components/responses/Problem"}
            assert "422" not in operation["responses"]
    assert set(described["components"]["securitySchemes"]) == {"token", "cookie"}
