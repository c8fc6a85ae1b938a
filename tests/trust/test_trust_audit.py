"""A trail that was changed in any way is found out: by its chain, or by the heads that others hold."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pytest
from pydantic import ValidationError
from trust_example import BANK, INSURER, KEYS, NOW, digest_of

from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import JobId
from unseen.trust.audit import Colleague, Event, Head, Record, Trail, check_head, check_heads, open_head, verify
from unseen.trust.envelope import seal

LENGTH = 1000
HEAD_EVERY = 20


def grown(lines: list[bytes], trail: Trail, count: int, name: str = "grant") -> Trail:
    for number in range(count):
        subject = KEYS[BANK].public if not trail.count else digest_of(f"{name} {number}")
        event, job = (Event.OPENED, None) if not trail.count else (Event.GRANT_ISSUED, JobId("job-1"))
        record = trail.record(event, NOW + timedelta(seconds=trail.count), party=BANK, subject=subject, job=job)
        lines.append(record.payload())
        trail = trail.after(lines[-1])
    return trail


def made(count: int = LENGTH) -> tuple[list[bytes], list[Trail]]:
    lines: list[bytes] = []
    states = [Trail()]
    for _ in range(count):
        states.append(grown(lines, states[-1], 1))
    return lines, states


LINES, STATES = made()


def head_at(count: int, **changes: object) -> Head:
    return STATES[count].head(BANK, NOW).model_copy(update=changes)


HEADS = {count: head_at(count) for count in range(HEAD_EVERY, LENGTH + 1, HEAD_EVERY)}


def chained(lines: list[bytes], trail: Trail) -> list[bytes]:
    """The same records with numbers and hashes made anew: what a forger with the file does."""
    forged = []
    for line in lines:
        record = Record.model_validate_json(line)
        forged.append(record.model_copy(update={"number": trail.count + 1, "previous": trail.digest}).payload())
        trail = trail.after(forged[-1])
    return forged


def found_from(at: int, lines: list[bytes], end: int) -> bool:
    """Whether verification, which is at record ``at`` (all before it is unchanged), objects to what follows.

    It goes on up to the next head that somebody holds; ``end`` is the length of the whole trail.
    """
    trail = STATES[at]
    for line in lines:
        try:
            trail = trail.after(line)
            if trail.count in HEADS:
                check_head(HEADS[trail.count], trail, lambda _, state=trail: state.digest)
        except DataError:
            return True
    last = HEADS[LENGTH]
    return end < last.count and _cut(last, end)


def _cut(head: Head, count: int) -> bool:
    with pytest.raises(DataError):
        check_head(head, Trail(count, STATES[count].digest, STATES[count].opened), lambda _: "")
    return True


def edited(line: bytes) -> bytes:
    return Record.model_validate_json(line).model_copy(update={"count": 7}).payload()


def test_each_of_seven_tamperings_at_each_of_a_thousand_records_is_found(record_count) -> None:
    found: Counter[str] = Counter()
    for at in range(LENGTH):
        next_head = min(LENGTH, (at // HEAD_EVERY + 1) * HEAD_EVERY)
        rest = LINES[at : next_head + 1]
        other = edited(LINES[at])
        found["edit"] += found_from(at, [other, *rest[1:]], LENGTH)
        found["delete"] += found_from(at, rest[1:], LENGTH - 1)
        found["insert"] += found_from(at, [rest[0], *rest], LENGTH + 1)
        swapped = [*rest[1:2], rest[0], *rest[2:]] if len(rest) > 1 else [LINES[at - 1], rest[0]]
        found["reorder"] += found_from(at, swapped, LENGTH)
        found["cut off"] += found_from(at, [], at)
        # A fork goes on differently from here, with a proper chain; a head that others hold contradicts it.
        fork: list[bytes] = []
        grown(fork, STATES[at], next_head - at, "fork")
        found["fork"] += found_from(at, fork, LENGTH)
        # A backup from here that went on for one record: shorter than what was signed.
        found["rollback"] += found_from(at, fork[:1], at + 1) if at + 1 < LENGTH else found_from(at, fork, LENGTH)
    assert found == dict.fromkeys(("edit", "delete", "insert", "reorder", "cut off", "fork", "rollback"), LENGTH)
    record_count(f"tamperings with a trail of {LENGTH:,} records, {len(found)} at each, all found", found.total())


def test_records_chained_anew_are_found_by_the_next_head() -> None:
    for at in range(1, LENGTH - 1, 37):
        next_head = min(LENGTH, (at // HEAD_EVERY + 1) * HEAD_EVERY)
        rest = LINES[at : next_head + 2]
        for changed in ([edited(rest[0]), *rest[1:]], rest[1:], [rest[0], *rest], [rest[1], rest[0], *rest[2:]]):
            assert found_from(at, chained(changed, STATES[at]), at + len(changed))


# --- the whole verification ------------------------------------------------------------------------------------------


def head_of(lines: list[bytes], count: int | None = None) -> object:
    trail = Trail()
    for line in lines[:count]:
        trail = trail.after(line)
    return seal(trail.head(BANK, NOW), KEYS[BANK])


def test_a_good_trail_passes_and_says_how_far_others_vouch_for_it() -> None:
    few = LINES[:50]
    known = verify(few, [head_of(few, 20), head_of(few, 40)])
    assert (known.party, known.key, known.count, known.heads, known.vouched) == (BANK, KEYS[BANK].public, 50, 2, 40)
    assert known.digest == STATES[50].digest
    assert verify(few).vouched == 0
    assert verify(few, [head_of(few)]).vouched == 50


def test_a_line_has_one_spelling_even_if_nobody_holds_a_head() -> None:
    with pytest.raises(DataError, match="not as it was written"):
        verify([*LINES[:9], LINES[9].replace(b",", b", ")])


FEW = LINES[:30]
WHOLE = {
    "edited": lambda: [*FEW[:9], edited(FEW[9]), *FEW[10:]],
    "the first one edited": lambda: [edited(FEW[0]), *FEW[1:]],
    "deleted": lambda: [*FEW[:9], *FEW[10:]],
    "the first one deleted": lambda: FEW[1:],
    "inserted": lambda: [*FEW[:9], FEW[9], *FEW[9:]],
    "moved": lambda: [*FEW[:9], FEW[10], FEW[9], *FEW[11:]],
    "cut off": lambda: FEW[:-1],
    "a fork": lambda: [*FEW[:9], *chained([edited(FEW[9]), *FEW[10:]], STATES[9])],
    "begun anew": lambda: chained([edited(FEW[0]), *FEW[1:]], Trail()),
    "empty": list,
    "no record": lambda: [*FEW, b"{}"],
    "another spelling": lambda: [*FEW[:-1], FEW[-1].replace(b",", b", ")],
}


@pytest.mark.parametrize("how", WHOLE)
def test_a_changed_trail_does_not_pass(how: str) -> None:
    with pytest.raises(DataError):
        verify(WHOLE[how](), [head_of(FEW)])


def test_a_trail_opens_once_and_says_whose_it_is() -> None:
    record = Trail().record(Event.GRANT_ISSUED, NOW)
    with pytest.raises(DataError, match="not as it was written"):
        Trail().after(record.payload())
    twice = STATES[3].record(Event.OPENED, NOW, party=BANK)
    with pytest.raises(DataError, match="not as it was written"):
        STATES[3].after(twice.payload())
    for fields in ({}, {"party": BANK}, {"subject": digest_of("key")}):
        with pytest.raises(DataError, match="whose it is"):
            verify([Trail().record(Event.OPENED, NOW, **fields).payload()])


def test_an_empty_trail_has_no_head() -> None:
    with pytest.raises(DataError, match="no head"):
        Trail().head(BANK, NOW)


def test_heads_that_the_trails_key_did_not_sign_are_refused() -> None:
    head = head_at(20)
    for envelope in (
        seal(head, KEYS[INSURER]),
        seal(head, KEYS[BANK], KEYS[INSURER]),
        seal(head),
        seal(head_at(20, party=INSURER), KEYS[BANK]),
    ):
        with pytest.raises(RemoteProtocolError):
            verify(FEW, [envelope])
    assert open_head(seal(head, KEYS[BANK]), BANK, KEYS[BANK].public).count == 20


def test_two_heads_tell_forks_and_rollbacks_without_the_trail() -> None:
    def check(one: Head, other: Head) -> None:
        check_heads(seal(one, KEYS[BANK]), seal(other, KEYS[BANK]), KEYS[BANK].public)

    check(head_at(20), head_at(20))
    check(head_at(20), head_at(21))
    for one, other, found in (
        (head_at(20), head_at(20, last=digest_of("x")), "two histories"),
        (head_at(20), head_at(21, opened=digest_of("x")), "two histories"),
        (head_at(21), head_at(20), "put back"),
    ):
        with pytest.raises(DataError, match=found):
            check(one, other)


def test_a_record_holds_no_free_text() -> None:
    for field, value in {
        "party": "Mr X",
        "job": "+49 123",
        "subject": "x" * 64,
        "event": "seen",
        "code": "why",
    }.items():
        with pytest.raises(ValueError, match=field):
            Trail().record(
                Event.GRANT_ISSUED if field != "event" else value, NOW, **({field: value} if field != "event" else {})
            )
    with pytest.raises(ValueError, match="rows"):
        Trail().record(Event.GRANT_ISSUED, NOW, rows="x")


# --- names of colleagues ---------------------------------------------------------------------------------------------


def test_records_of_before_there_were_people_in_trails_keep_their_one_spelling() -> None:
    line = Trail().record(Event.OPENED, NOW, party=BANK, subject=KEYS[BANK].public).payload()
    assert set(json.loads(line)) == {
        *("number", "previous", "at", "event", "code", "party", "project", "job", "step", "subject", "count")
    }
    padded = line.replace(b'"code":""', b'"by":null,"code":""')
    assert padded != line
    with pytest.raises(DataError, match="not as it was written"):
        Trail().after(padded)


def test_a_record_names_somebody_as_they_stood_and_no_text_passes_for_a_name() -> None:
    trail = grown([], Trail(), 1)
    eve = {"name": "eve", "duties": ("approver",), "projects": (), "active": True, "added": NOW, "changed": None}
    line = trail.record(Event.PERSON_ADDED, NOW, person=Colleague(**eve), by="root").payload()
    assert trail.after(line).count == 2
    assert Record.model_validate_json(line).person == Colleague(**eve)
    for changes in ({"name": "Eve Smith, 12 High Street"}, {"duties": ("a b",)}, {"added": NOW.replace(tzinfo=None)}):
        with pytest.raises(ValidationError):
            Colleague(**{**eve, **changes})
    with pytest.raises(ValidationError):
        trail.record(Event.PERSON_ADDED, NOW, by="free text")
