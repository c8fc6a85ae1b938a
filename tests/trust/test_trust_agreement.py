"""What an agreement has to be, who makes it valid, and what ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError
from trust_example import (
    BANK,
    BOTH,
    CREDIT,
    CUSTOMERS,
    INSURER,
    KEYS,
    MALLORY,
    NOW,
    agreed_table,
    agreement,
    allowance,
    component,
    digest_of,
    key_of,
    member,
    project,
)

from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.privacy.facts import Variant
from unseen.trust.agreement import (
    AgreedColumn,
    AgreedPoints,
    Agreement,
    ColumnRole,
    OneOf,
    Project,
    ProjectId,
    Range,
    Revocation,
    open_agreement,
    open_revocation,
    signers_of,
)
from unseen.trust.envelope import countersigned, seal

MADE = agreement()


def test_sets_have_one_spelling_in_every_process() -> None:
    """The order of a set of text is another one in every process, and two spellings would have two digests."""
    (entry, _) = MADE.points
    for variants in ({Variant.UNION, Variant.COUNT, Variant.SUM}, set(Variant)):
        made = entry.allowance.model_copy(update={"variants": frozenset(variants)})
        assert made.model_dump(mode="json")["variants"] == sorted(variants)


def test_an_agreement_is_valid_with_all_signatures_only() -> None:
    one = seal(MADE, KEYS[BANK])
    with pytest.raises(RemoteProtocolError, match="lacks the signature"):
        open_agreement(one, sender="bank")
    assert open_agreement(countersigned(one, KEYS[INSURER]), sender="bank") == MADE
    for keys in ((), (KEYS[INSURER],), (KEYS[BANK], KEYS[MALLORY]), (*map(KEYS.__getitem__, BOTH), KEYS[MALLORY])):
        with pytest.raises(RemoteProtocolError):
            open_agreement(seal(MADE, *keys), sender="bank")


WRONG = {
    "one member": {"members": (member(BANK),)},
    "a member twice": {"members": (member(BANK), member(BANK))},
    "a member twice with other keys": {
        "members": (member(BANK), member(INSURER).model_copy(update={"party": BANK})),
        "initiators": (),
        "tables": (),
        "components": (),
        "points": (),
        "epsilon": (),
    },
    "one key for two": {"members": (member(BANK), member(INSURER).model_copy(update={"key": KEYS[BANK].public}))},
    "one certificate for two": {
        "members": (member(BANK), member(INSURER).model_copy(update={"certificate": member(BANK).certificate}))
    },
    "a table twice": {"tables": (agreed_table(BANK), agreed_table(BANK))},
    "a stranger's table": {"tables": (agreed_table(MALLORY),)},
    "a stranger starts jobs": {"initiators": (MALLORY,)},
    "a component twice": {"components": (component("split"), component("split"))},
    "a stranger sees": {"components": (component("split").model_copy(update={"outputs": {"train": (MALLORY,)}}),)},
    "points of a stranger": {"points": (AgreedPoints(owner=MALLORY, allowance=allowance(BANK)),)},
    "points for a stranger": {"points": (AgreedPoints(owner=BANK, allowance=allowance(MALLORY)),)},
    "points twice": {"points": (AgreedPoints(owner=BANK, allowance=allowance(INSURER)),) * 2},
    "epsilon twice": {"epsilon": MADE.epsilon * 2},
    "epsilon for a stranger": {"epsilon": (MADE.epsilon[0].model_copy(update={"partner": MALLORY}),)},
    "epsilon of a stranger": {"epsilon": (MADE.epsilon[0].model_copy(update={"owner": MALLORY}),)},
    "the first one follows": {"previous": digest_of("x")},
    "the second one does not": {"version": 2},
    "no version": {"version": 0},
    "over before it begins": {"valid_until": MADE.valid_from},
    "no purpose": {"purpose": ""},
    "a time without zone": {"valid_until": MADE.valid_until.replace(tzinfo=None)},
}


@pytest.mark.parametrize("why", WRONG)
def test_contradictions_are_refused(why: str) -> None:
    with pytest.raises(ValidationError):
        agreement(**WRONG[why])


def test_the_same_points_of_two_owners_do_not_meet() -> None:
    third = PartyId("third")
    members = (
        *MADE.members,
        member(BANK).model_copy(
            update={"party": third, "key": key_of("third").public, "certificate": digest_of("third")}
        ),
    )
    pairs = ((INSURER, BANK), (third, BANK), (INSURER, third))
    points = tuple(AgreedPoints(owner=owner, allowance=allowance(partner)) for owner, partner in pairs)
    assert len(agreement(members=members, points=points).points) == 3


def test_weak_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="not a sound"):
        member(BANK).model_validate({**member(BANK).model_dump(), "key": "01" + "00" * 31})


def test_a_column_stands_once_and_may_do_nothing_unless_said() -> None:
    table = agreed_table(BANK)
    assert [table.role(name) for name in ("phone", "age", "name", "other")] == [
        ColumnRole.JOIN_KEY, ColumnRole.FEATURE, ColumnRole.NEVER, ColumnRole.NEVER,
    ]  # fmt: skip
    with pytest.raises(ValidationError, match="twice"):
        type(table).model_validate(
            {**table.model_dump(), "columns": (AgreedColumn(name="a", role=ColumnRole.LABEL),) * 2}
        )


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [
        (Range(low=1, high=3), [1, 3, 2.5], [0.999, 3.001, "2", True, None, [2], 10**400, float("nan")]),
        (OneOf(values=(1, "a", None)), [1, "a", None], [1.0, True, "1", 2, [1], "", {}]),
        (OneOf(values=({"b": 1, "a": [2]},)), [{"a": [2], "b": 1}], [{"a": [2]}, {"a": [2.0], "b": 1}]),
    ],
)
def test_bounds_of_parameters(bound: Range | OneOf, good: list[object], bad: list[object]) -> None:
    assert all(bound.admits(value) for value in good)
    assert not any(bound.admits(value) for value in bad)
    assert str(bound)


# --- versions and the end --------------------------------------------------------------------------------------------


def test_a_version_follows_the_one_before() -> None:
    made = project()
    second = agreement(version=2, previous=MADE.digest, purpose="more")
    keys = [KEYS[BANK], KEYS[INSURER]]
    for changes, found in (
        ({"previous": digest_of("x"), "version": 2}, "does not follow"),
        ({"previous": MADE.digest, "version": 3}, "does not follow"),
        ({"previous": MADE.digest, "version": 2, "project": ProjectId("other")}, "does not follow"),
        ({}, "does not follow"),
    ):
        with pytest.raises(RemoteProtocolError, match=found):
            made.supersede(seal(agreement(**changes), *keys))
    with pytest.raises(RemoteProtocolError, match="lacks"):
        made.supersede(seal(second, KEYS[BANK]))
    assert made.current == MADE
    assert made.supersede(seal(second, *keys)) == made.current == second
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        made.supersede(seal(agreement(version=2, previous=MADE.digest, purpose="else"), *keys))
    both = Project([seal(MADE, *keys), seal(second, *keys)])
    assert both.current == second
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        Project([seal(second, *keys)])
    with pytest.raises(RemoteProtocolError, match="no agreement"):
        Project([])


def test_a_version_that_changes_members_or_keys_needs_those_of_the_version_before() -> None:
    """Otherwise the bank alone could put a key of its own in the insurer's place, or leave it out."""
    foreign = member(INSURER).model_copy(update={"key": KEYS[MALLORY].public})
    without = {"tables": (), "components": (), "points": (), "epsilon": ()}
    follows = {"version": 2, "previous": MADE.digest}
    replaced = agreement(members=(member(BANK), foreign), **follows)
    dropped = agreement(members=(member(BANK), member(MALLORY)), **without, **follows)
    for new in (replaced, dropped):
        made = project()
        by_its_own = seal(new, KEYS[BANK], KEYS[MALLORY])
        with pytest.raises(RemoteProtocolError, match="lacks the signature"):
            made.supersede(by_its_own)
        with pytest.raises(RemoteProtocolError, match="lacks the signature"):
            Project([seal(MADE, KEYS[BANK], KEYS[INSURER]), by_its_own])
        assert made.current == MADE
        assert made.supersede(countersigned(by_its_own, KEYS[INSURER])) == new
    assert signers_of(replaced, MADE) == {
        KEYS[BANK].public: BANK,
        KEYS[INSURER].public: INSURER,
        KEYS[MALLORY].public: INSURER,
    }


def word(**changes: object) -> Revocation:
    fields = {"project": CREDIT, "agreement": MADE.digest, "by": BANK, "at": NOW, "reason": "doubts"}
    return Revocation(**{**fields, **changes})


def test_one_signature_ends_an_agreement() -> None:
    made = project()
    assert made.in_force(NOW)
    assert made.revoked is None
    made.revoke(seal(word(), KEYS[BANK]))
    made.revoke(seal(word(by=INSURER), KEYS[INSURER]))
    assert not made.in_force(NOW)
    assert made.revoked.by == BANK
    assert project(None, seal(word(), KEYS[BANK])).revoked is not None


@pytest.mark.parametrize(
    "envelope",
    [
        seal(word(), KEYS[INSURER]),
        seal(word(), KEYS[MALLORY]),
        seal(word(), KEYS[BANK], KEYS[INSURER]),
        seal(word()),
        seal(word(by=MALLORY), KEYS[MALLORY]),
        seal(word(agreement=digest_of("x")), KEYS[BANK]),
        seal(word(project=ProjectId("other")), KEYS[BANK]),
        seal(MADE, KEYS[BANK]),
    ],
)
def test_a_forged_revocation_ends_nothing(envelope) -> None:
    made = project()
    with pytest.raises(RemoteProtocolError):
        made.revoke(envelope)
    assert made.in_force(NOW)
    with pytest.raises(RemoteProtocolError):
        open_revocation(envelope, MADE, sender="peer")


def test_a_revocation_of_an_old_version_leaves_the_new_one() -> None:
    made = project()
    made.supersede(seal(agreement(version=2, previous=MADE.digest), KEYS[BANK], KEYS[INSURER]))
    made.revoke(seal(word(), KEYS[BANK]))
    assert made.in_force(NOW)


def test_an_agreement_is_in_force_from_its_beginning_until_before_its_end() -> None:
    made, tick = project(), timedelta(microseconds=1)
    assert not made.in_force(MADE.valid_from - tick)
    assert made.in_force(MADE.valid_from)
    assert made.in_force(MADE.valid_until - tick)
    assert not made.in_force(MADE.valid_until)


def test_things_are_found_by_name() -> None:
    assert MADE.member(MALLORY) is None
    assert MADE.table(BANK, "orders") is MADE.table(MALLORY, CUSTOMERS) is None
    assert MADE.component("train") is None
    assert MADE.allowances(BANK, BANK) == ()
    assert len(MADE.allowances(BANK, INSURER)) == 1
    assert isinstance(MADE, Agreement)
