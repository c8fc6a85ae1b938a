"""What stands against a job: every rule has a case that breaks it alone, and everything that is broken is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from trust_example import (
    BANK,
    CREDIT,
    CUSTOMERS,
    FLOW,
    INSURER,
    KEYS,
    MALLORY,
    NOW,
    agreed_table,
    agreement,
    ask,
    component,
    digest_of,
    member,
    policy,
    project,
    site,
    snapshot,
    use,
)

from unseen.component import installed_components
from unseen.data.schema import Role
from unseen.errors import UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.privacy.facts import TableId
from unseen.trust.agreement import OneOf, Range, Revocation
from unseen.trust.audit import Code
from unseen.trust.envelope import seal
from unseen.trust.policy import Allowed, Left, Refused, SitePolicy, decide

NONCE = "0f" * 16


def graph(**steps: dict[str, object]):
    """The example's flow with other steps."""
    content = FLOW.agreed()
    content["steps"] = {**content["steps"], **steps}
    return build_graph(FlowSpec.model_validate(content), installed_components())


def split(**params: object) -> dict[str, object]:
    return {"use": "split", "in": {"table": "align.table"}, "params": params}


def align(**params: object) -> dict[str, object]:
    return {"use": "psi_join", "in": {"table": "read.table"}, "params": params}


def without(name: str) -> dict[str, object]:
    return {"components": tuple(known for known in agreement().components if known.name != name)}


def changed(name: str, **changes: object) -> dict[str, object]:
    return {
        "components": tuple(
            known.model_copy(update=changes) if known.name == name else known for known in agreement().components
        )
    }


def decided(made: object = None, asked: dict[str, object] | None = None, at: dict[str, object] | None = None):
    return decide(ask(**(asked or {})), project(agreement(**(made or {}))), site(**(at or {})), NONCE)


def test_what_everybody_allows_is_granted() -> None:
    decision = decided()
    assert isinstance(decision, Allowed)
    grant = decision.grant
    assert (grant.issuer, grant.initiator, grant.agreement) == (INSURER, BANK, agreement().digest)
    assert (grant.id, grant.flow, grant.points) == (NONCE, FLOW.digest, 80_000)
    assert (grant.valid_from, grant.valid_until) == (NOW, NOW + timedelta(hours=2))
    assert [binding.party for binding in grant.bindings] == [BANK, INSURER]


AGREED = {
    "not a member": ({}, {"initiator": MALLORY}, {}, "party mallory: expected a member"),
    "may not start": ({}, {"initiator": INSURER}, {}, "initiator insurer: expected bank"),
    "nobody may start": ({"initiators": ()}, {}, {}, "initiator bank: expected nobody"),
    "a member less": ({}, {}, {"me": MALLORY}, "party mallory: expected a member"),
    "component not listed": (without("split"), {}, {}, "steps.split.use split: expected a component that is listed"),
    "another version": (changed("split", version=99), {}, {}, "version 1: expected version 99"),
    "out of bounds": ({}, {"graph": graph(split=split(test=0.6))}, {}, "params.test: expected 0.1 to 0.5"),
    "not one of": ({}, {"graph": graph(align=align(protocol="vole"))}, {}, 'protocol: expected "auto" or "ecdh"'),
    "no bounds": ({}, {"graph": graph(align=align(max_pairs=5))}, {}, "max_pairs: expected the component's default"),
    "default out of bounds": (
        changed("psi_join", bounds={"protocol": OneOf(values=("ecdh",))}),
        {},
        {},
        'protocol: expected "ecdh"',
    ),
    "output at nobody": (
        changed("split", outputs={"test": (BANK, INSURER)}),
        {},
        {},
        "output train at bank: expected nobody",
    ),
    "output at one": (
        changed("split", outputs={"train": (BANK, INSURER), "test": (BANK,)}),
        {},
        {},
        "output test at insurer: expected bank",
    ),
    "no points": ({"points": ()}, {}, {}, "intersect by bank: expected points that"),
    "another variant": (
        {
            "points": tuple(
                entry.model_copy(
                    update={"allowance": entry.allowance.model_copy(update={"variants": frozenset({"count"})})}
                )
                for entry in agreement().points
            )
        },
        {},
        {},
        "intersect by bank: expected points that",
    ),
    "too many points": (
        {},
        {"points": 80_001},
        {"policy": policy(max_points=90_000)},
        "points 80001: expected at most 80000 in a session",
    ),
    "table not listed": (
        {"tables": (agreed_table(INSURER),)},
        {},
        {},
        "table customers of bank: expected a table that is",
    ),
    "own table not listed": (
        {"tables": (agreed_table(BANK),)},
        {},
        {},
        "table customers of insurer: expected a table that is",
    ),
    "another schema": (
        {"tables": (agreed_table(BANK), agreed_table(INSURER).model_copy(update={"schema_digest": digest_of("x")}))},
        {},
        {},
        "columns of customers: expected those of the agreement",
    ),
    "never": (
        {},
        {},
        {"tables": (replace(use(INSURER), columns={"name": Role.FEATURE}),)},
        "customers.name as feature: expected never",
    ),
    "not in the table": (
        {},
        {},
        {"tables": (replace(use(INSURER), columns={"iban": Role.WEIGHT}),)},
        "customers.iban as feature: expected never",
    ),
    "a key as a feature": (
        {},
        {},
        {"tables": (replace(use(INSURER), columns={"phone": Role.FEATURE}),)},
        "phone as feature: expected join-key",
    ),
    "a feature as label": (
        {},
        {},
        {"tables": (replace(use(INSURER), columns={"age": Role.LABEL}),)},
        "age as label: expected feature",
    ),
    "a feature as key": (
        {},
        {},
        {"tables": (replace(use(INSURER), columns={"age": Role.ID}),)},
        "age as join-key: expected feature",
    ),
    "a snapshot twice": (
        {},
        {"snapshots": (snapshot(BANK), snapshot(INSURER), snapshot(BANK))},
        {},
        "tables: expected each once",
    ),
}
TABLES = {
    "a snapshot less": (
        {},
        {"snapshots": (snapshot(INSURER),)},
        {},
        "table customers of bank: expected the tables that",
    ),
    "own version": (
        {},
        {"snapshots": (snapshot(BANK), snapshot(INSURER).model_copy(update={"rows": 1}))},
        {},
        "version of customers: expected the one that is here",
    ),
    "no such table here": ({}, {}, {"tables": ()}, "tables of insurer: customers: expected a table that is here"),
    "another's table": (
        {},
        {},
        {"tables": (use(INSURER), use(BANK))},
        "customers of bank: expected own tables only",
    ),
    "only another's table": ({}, {}, {"tables": (use(BANK),)}, "customers: expected a table that is here"),
}
TIMES = {
    "over": ({"valid_until": NOW}, {}, {}, "the time"),
    "not yet": ({"valid_from": NOW + timedelta(microseconds=1)}, {}, {}, "the time"),
    "longer than the agreement": (
        {"valid_until": NOW + timedelta(hours=1)},
        {},
        {},
        "a time before the agreement ends",
    ),
    "in the past": ({}, {"valid_until": NOW}, {}, "a time before the agreement ends"),
    "too long": ({}, {"valid_until": NOW + timedelta(days=8)}, {}, "a time before the agreement ends"),
}
SITE = {
    "may not start": ({}, {}, {"policy": policy(initiators=())}, "initiator bank: expected nobody"),
    "table": ({}, {}, {"policy": policy(tables=())}, "table customers: expected none"),
    "component": ({}, {}, {"policy": policy(components={"split": {}, "psi_join": {}})}, "steps.read.use read_table"),
    "tighter": (
        {},
        {},
        {"policy": policy(components={"split": {"test": Range(low=0, high=0.2)}, "psi_join": {}, "read_table": {}})},
        "steps.split.params.test: expected 0 to 0.2",
    ),
    "points": ({}, {}, {"policy": policy(max_points=79_999)}, "points 80000: expected at most 79999"),
    "epsilon": ({}, {"epsilon": 1.5}, {"left": Left(80_000, 2.0)}, "epsilon 1.5: expected at most 1"),
    "hours": ({}, {"valid_until": NOW + timedelta(hours=25)}, {}, "expected within 24 hours"),
    "no policy": ({}, {}, {"policy": None}, "projects.credit: expected an entry"),
    "no project": ({}, {}, {"policy": SitePolicy()}, "projects.credit: expected an entry"),
}
BUDGET = {
    "points": ({}, {}, {"left": Left(79_999, 1.0)}, "points 80000: expected 0 to 79999"),
    "negative": ({}, {"points": -1}, {}, "points -1: expected 0 to 100000"),
    "epsilon": ({}, {"epsilon": 0.6}, {"left": Left(80_000, 0.5)}, "epsilon 0.6: expected 0 to 0.5"),
    "negative epsilon": ({}, {"epsilon": -0.1}, {}, "epsilon -0.1"),
    "infinite": ({}, {"epsilon": float("inf")}, {"left": Left(80_000, float("inf"))}, "budget of insurer: epsilon inf"),
    "no number": ({}, {"epsilon": float("nan")}, {}, "epsilon nan"),
    "delta": ({}, {"delta": 1.0}, {}, "delta 1: expected 0 to 1"),
    "negative delta": ({}, {"delta": -1e-9}, {}, "delta -1e-09: expected 0 to 1"),
}
CASES = {
    (code, why): case
    for code, cases in (
        (Code.AGREEMENT, AGREED),
        (Code.TIME, TIMES),
        (Code.SITE, SITE),
        (Code.BUDGET, BUDGET),
    )
    for why, case in cases.items()
}


@pytest.mark.parametrize(("code", "why"), CASES)
def test_each_rule_refuses(code: Code, why: str) -> None:
    made, asked, at, found = CASES[code, why]
    decision = decided(made, asked, at)
    assert isinstance(decision, Refused)
    assert [reason.code for reason in decision.reasons if found in str(reason)][:1] == [code], str(decision)


@pytest.mark.parametrize("why", TABLES)
def test_other_versions_of_tables_are_refused(why: str) -> None:
    made, asked, at, found = TABLES[why]
    decision = decided(made, asked, at)
    assert isinstance(decision, Refused)
    assert {Code.TABLES, Code.FLOW} & {reason.code for reason in decision.reasons if found in str(reason)}


def test_missing_agreements_mean_no() -> None:
    decision = decide(ask(), None, site(), NONCE)
    assert isinstance(decision, Refused)
    assert str(decision) == "agreement: project: expected one that all parties have signed"


def test_a_revoked_agreement_means_no() -> None:
    word = Revocation(project=CREDIT, agreement=agreement().digest, by=INSURER, at=NOW, reason="doubts")
    decision = decide(ask(), project(None, seal(word, KEYS[INSURER])), site(), NONCE)
    assert isinstance(decision, Refused)
    assert decision.reasons[0].code is Code.REVOKED


def test_everything_that_is_wrong_is_told_at_once() -> None:
    decision = decided(
        without("split"),
        {"points": 90_000, "graph": graph(align=align(protocol="vole"))},
        {"policy": policy(tables=()), "left": Left()},
    )
    assert isinstance(decision, Refused)
    assert {reason.code for reason in decision.reasons} == {Code.AGREEMENT, Code.SITE, Code.BUDGET}
    assert len(decision.reasons) == 6


@pytest.mark.parametrize(
    "at",
    [
        {"left": Left(80_000, 0.0)},
        {"policy": policy(max_points=80_000)},
        {"policy": policy(max_hours=2.0)},
        {"policy": policy(components={"read_table": {}, "psi_join": {}, "split": {"test": Range(low=0.3, high=0.3)}})},
    ],
)
def test_limits_are_part_of_what_is_allowed(at: dict[str, object]) -> None:
    assert isinstance(decided(at=at), Allowed)
    assert isinstance(decided({"valid_until": NOW + timedelta(hours=2)}, at=at), Allowed)
    assert isinstance(decided({"valid_from": NOW}, at=at), Allowed)


def test_epsilon_and_delta_up_to_what_is_left() -> None:
    asked = {"epsilon": 1.0, "delta": 1e-6}
    assert isinstance(decided({}, asked), Allowed)
    assert isinstance(
        decided({}, {"valid_until": NOW + timedelta(days=7)}, {"policy": policy(max_hours=168.0)}), Allowed
    )


def test_a_site_policy_cannot_widen() -> None:
    """Whatever the site allows, what the agreement does not stays refused, and the other way round."""
    wide = policy(
        initiators=(BANK, INSURER, MALLORY),
        tables=(CUSTOMERS, TableId("orders")),
        components={name: {} for name in installed_components()},
        max_points=10**9,
        max_epsilon=1e9,
        max_hours=168.0,
    )
    for why, (made, asked, at, found) in (AGREED | TIMES | BUDGET).items():
        decision = decided(made, asked, {**at, "policy": wide})
        assert isinstance(decision, Refused), why
        assert found in str(decision), why


def test_members_that_take_no_part_are_not_bound() -> None:
    third = member(MALLORY)
    decision = decided({"members": (*agreement().members, third)})
    assert isinstance(decision, Allowed)
    assert len(decision.grant.bindings) == 2


def test_an_output_at_one_role_need_not_be_allowed_at_the_other() -> None:
    train = {"use": "local_logistic_regression", "in": {"table": "split.train"}}
    at = {"policy": policy(components={name: {} for name in installed_components()})}
    for parties, good in (((BANK,), True), ((INSURER,), False)):
        local = component("local_logistic_regression").model_copy(update={"outputs": {"model": parties}})
        made = {"components": (*agreement().components, local)}
        assert isinstance(decided(made, {"graph": graph(train=train)}, at), Allowed) == good


def test_times_have_zones() -> None:
    with pytest.raises(UsageError, match="no time zone"):
        ask(valid_until=NOW.replace(tzinfo=None))
