"""Every grant and every message that is not exactly right is refused, and the refusal stands in the trail."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from trust_example import (
    BANK,
    CREDIT,
    GRAPH,
    INSURER,
    KEYS,
    MALLORY,
    NOW,
    Clock,
    Node,
    agreement,
    ask,
    digest_of,
    key_of,
    member,
    project,
)

from unseen.component import installed_components
from unseen.errors import DataError, PermissionDenied
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.ids import JobId, PartyId
from unseen.trust.agreement import Project, ProjectId, Revocation
from unseen.trust.audit import Code, Event, Record, verify
from unseen.trust.checks import check_grant
from unseen.trust.envelope import Envelope, Signature, seal
from unseen.trust.gate import Gate, Memory
from unseen.trust.grant import Grant, Proof
from unseen.trust.policy import Objection, Refused

GRANT = Node(INSURER).issue()
FRAME = GRANT.to_bytes()
MADE = Grant.model_validate_json(GRANT.payload)


def signed(*keys, **changes) -> bytes:
    return seal(MADE.model_copy(update=changes), *(keys or (KEYS[INSURER],))).to_bytes()


# --- forged grants ---------------------------------------------------------------------------------------------------


def malformed() -> Iterator[tuple[str, bytes]]:
    for bit in range(0, 8 * len(FRAME), 11):
        flipped = bytearray(FRAME)
        flipped[bit // 8] ^= 1 << bit % 8
        yield "a bit flipped", bytes(flipped)
    for bit in range(512):  # every bit of the signature
        (good,) = GRANT.signatures
        value = (int.from_bytes(good.value) ^ 1 << bit).to_bytes(64)
        yield (
            "a bit of the signature flipped",
            Envelope(GRANT.kind, GRANT.payload, (Signature(good.key, value),)).to_bytes(),
        )
    for size in range(0, len(FRAME), 5):
        yield "truncated", FRAME[:size]
    for size in (1, 8, 4096, 1 << 20):
        yield "followed by more", FRAME + bytes(size)
    for junk in (b"", b"UN", b"\0" * 64, b"{}", GRANT.payload, FRAME[::-1]):
        yield "no envelope", junk


def badly_signed() -> Iterator[tuple[str, bytes]]:
    (good,) = GRANT.signatures
    for value in (b"", bytes(64), b"\xff" * 64, good.value[::-1], good.value[:63], good.value + b"\0"):
        yield "no signature of ours", Envelope(GRANT.kind, GRANT.payload, (Signature(good.key, value),)).to_bytes()
    for signatures in ((), (good, good), (good,) * 100):
        yield "stripped, or twice", Envelope(GRANT.kind, GRANT.payload, signatures).to_bytes()
    for name in range(50):
        yield "a stranger's", signed(key_of(f"stranger {name}"))
        (strange,) = seal(MADE, key_of(f"stranger {name}")).signatures
        yield "a stranger's beside it", Envelope(GRANT.kind, GRANT.payload, (good, strange)).to_bytes()
        yield (
            "a stranger's under our name",
            Envelope(GRANT.kind, GRANT.payload, (Signature(good.key, strange.value),)).to_bytes(),
        )
    yield "the other party's", signed(KEYS[BANK])
    yield "both parties'", signed(KEYS[INSURER], KEYS[BANK])
    for kind in ("", "application/vnd.unseen.grant.v2+json", "application/vnd.unseen.receipt.v1+json", "é\x1b[2J"):
        data = b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(GRANT.payload), GRANT.payload)
        signature = Signature(good.key, KEYS[INSURER].sign(data))
        yield "another type", Envelope(kind, GRANT.payload, (signature,)).to_bytes()
    text = GRANT.payload.decode()
    for spelt in (
        text.replace(",", ", "),
        " " + text,
        text + "\n",
        text.replace('"points":', '"points":1,"points":'),
        text.replace("}", ',"z":0}'),
        text.replace("80000", "80000.0"),
        text.replace("80000", '"80000"'),
        text.replace("80000", "true"),
        text.replace("0.0", "NaN"),
        text.replace("0.0", "1e999"),
        text.replace('"bank"', '"\\u0062ank"'),
        text.replace('"initiator":"bank",', ""),
    ):
        data = b"DSSEv1 %d %b %d %b" % (len(GRANT.kind), GRANT.kind.encode(), len(spelt.encode()), spelt.encode())
        yield (
            "another spelling, well signed",
            Envelope(GRANT.kind, spelt.encode(), (Signature(good.key, KEYS[INSURER].sign(data)),)).to_bytes(),
        )


def for_something_else() -> Iterator[tuple[str, bytes]]:
    """Grants that their issuer signed, for another job than this one."""
    bank, insurer = MADE.tables
    for number in range(40):
        yield "another agreement", signed(agreement=digest_of(f"agreement {number}"))
        yield "another flow", signed(flow=digest_of(f"flow {number}"))
        yield "another job", signed(job=JobId(f"job-{number + 2}"))
        yield "another project", signed(project=ProjectId(f"project-{number}"))
        yield "another initiator", signed(initiator=PartyId(f"party-{number}"))
        yield "another issuer", signed(issuer=PartyId(f"party-{number}"))
        yield (
            "another version of a table",
            signed(tables=(bank.model_copy(update={"digest": digest_of(f"rows {number}")}), insurer)),
        )
        yield "another number of rows", signed(tables=(bank, insurer.model_copy(update={"rows": 100_001 + number})))
        yield "another budget", signed(points=80_001 + number)
        yield "another budget", signed(points=number)
        yield "another epsilon", signed(epsilon=0.1 + number)
        yield "another delta", signed(delta=0.001 + number / 1000)
        yield "another end", signed(valid_until=MADE.valid_until + timedelta(seconds=number + 1))
        yield "expired", signed(valid_from=NOW - timedelta(days=2), valid_until=NOW - timedelta(seconds=number))
        yield (
            "of the future",
            signed(valid_from=NOW + timedelta(seconds=61 + number), valid_until=NOW + timedelta(days=1)),
        )
        yield (
            "another certificate",
            signed(
                bindings=(
                    MADE.bindings[0].model_copy(update={"certificate": digest_of(f"c {number}")}),
                    MADE.bindings[1],
                )
            ),
        )
    yield "tables swapped", signed(tables=(insurer, bank))
    yield (
        "owners swapped",
        signed(tables=(bank.model_copy(update={"owner": INSURER}), insurer.model_copy(update={"owner": BANK}))),
    )
    yield "a table less", signed(tables=(bank,))
    yield "a table twice", signed(tables=(bank, insurer, insurer))
    yield "bindings swapped", signed(bindings=MADE.bindings[::-1])
    yield "a stranger bound", signed(bindings=(*MADE.bindings, MADE.bindings[0].model_copy(update={"party": MALLORY})))
    for statement in (
        agreement(),
        Revocation(project=CREDIT, agreement=MADE.agreement, by=INSURER, at=NOW, reason="-"),
    ):
        yield "another statement", seal(statement, KEYS[INSURER]).to_bytes()


def test_of_two_thousand_bad_grants_each_is_refused_and_in_the_trail(bank: Node, record_count) -> None:
    tried: Counter[str] = Counter()
    for why, frame in (*malformed(), *badly_signed(), *for_something_else()):
        if frame == FRAME:
            continue
        before = len(bank.trail)
        with pytest.raises(PermissionDenied, match="job job-1: "):
            bank.gate.take(frame, INSURER, ask())
        assert len(bank.trail) == before + 1, why
        assert Record.model_validate_json(bank.trail[-1]).event == "grant-rejected"
        tried[why] += 1
    assert verify(bank.trail).count == tried.total() + 1
    assert tried.total() >= 2000
    bank.gate.take(FRAME, INSURER, ask())
    record_count(f"bad grants of {len(tried)} kinds, each refused and in the trail", tried.total())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"issuer": BANK}, Code.SIGNATURE),
        ({"project": ProjectId("other")}, Code.AGREEMENT),
        ({"agreement": digest_of("other")}, Code.AGREEMENT),
        ({"flow": digest_of("other")}, Code.FLOW),
        ({"job": JobId("job-2")}, Code.FLOW),
        ({"initiator": INSURER}, Code.FLOW),
        ({"tables": MADE.tables[:1]}, Code.TABLES),
        ({"points": 1}, Code.BUDGET),
        ({"epsilon": 0.5}, Code.BUDGET),
        ({"delta": 0.5}, Code.BUDGET),
        ({"valid_until": MADE.valid_until - timedelta(seconds=1)}, Code.TIME),
        ({"bindings": MADE.bindings[::-1]}, Code.BINDING),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_grant_says_otherwise_is_named_with_its_code(bank: Node, change: dict[str, object], code: Code) -> None:
    (name,) = change
    refused = check_grant(signed(**change), INSURER, bank.of, ask(), NOW)
    assert isinstance(refused, Refused)
    assert Objection(code, "grant of insurer", name, "what this job is") in refused.reasons
    more = {"agreement": "the version in force"}
    assert {reason.expected for reason in refused.reasons} == {"what this job is", more.get(name, "what this job is")}


def test_why_a_grant_is_refused_is_told_in_full() -> None:
    of, rule = project(), "agreement credit version 1"

    def reasons(frame: bytes = FRAME, issuer: PartyId = INSURER, late: int = 0) -> tuple[Objection, ...]:
        refused = check_grant(frame, issuer, of, ask(), NOW + timedelta(seconds=late))
        assert isinstance(refused, Refused)
        return refused.reasons

    assert reasons(issuer=MALLORY) == (Objection(Code.AGREEMENT, rule, "issuer mallory", "a member"),)
    (unread,) = reasons(b"")
    assert (unread.code, unread.rule, unread.expected) == (Code.SIGNATURE, "grant of insurer", "a grant that it signed")
    window = f"{MADE.valid_from.isoformat()} to {MADE.valid_until.isoformat()}"
    at = (NOW + timedelta(seconds=7200)).isoformat()
    assert reasons(late=7200) == (Objection(Code.TIME, "grant of insurer", f"the time {at}", window),)
    of.revoke(revocation())
    assert reasons() == (
        Objection(Code.REVOKED, "revocation", rule, "an agreement that stands"),
        Objection(Code.AGREEMENT, "grant of insurer", rule, "the version in force"),
    )


@pytest.mark.parametrize(
    ("late", "good"),
    [(-61, False), (-60, True), (0, True), (7199, True), (7200, False), (86_400, False)],
)
def test_a_grant_is_good_from_a_minute_before_it_was_made_until_its_end(late: int, good: bool) -> None:
    node = Node(BANK, clock=Clock(NOW + timedelta(seconds=late)))
    if good:
        assert node.gate.take(FRAME, INSURER, ask()) == MADE
    else:
        with pytest.raises(PermissionDenied, match="the time"):
            node.gate.take(FRAME, INSURER, ask())


@pytest.mark.parametrize(
    ("lasts", "good"),
    [(timedelta(0), False), (timedelta(seconds=-1), False), (timedelta(days=7), True), (timedelta(days=7.001), False)],
)
def test_a_grant_lasts_seven_days_at_most(lasts: timedelta, good: bool) -> None:
    fields = {**MADE.model_dump(), "valid_until": NOW + lasts}
    if good:
        assert Grant.model_validate(fields).valid_until == NOW + lasts
    else:
        with pytest.raises(ValueError, match="at most 7 days"):
            Grant.model_validate(fields)


def test_a_grant_of_a_superseded_agreement_is_refused(bank: Node) -> None:
    new = agreement(version=2, previous=agreement().digest, purpose="less")
    bank.of.supersede(seal(new, KEYS[BANK], KEYS[INSURER]))
    with pytest.raises(PermissionDenied, match="the version in force"):
        bank.gate.take(FRAME, INSURER, ask())


def test_a_grant_of_another_project_with_the_same_words_is_refused() -> None:
    node = Node(BANK, of=project(agreement(project=ProjectId("credit-2"))))
    with pytest.raises(PermissionDenied, match="project: expected what this job is"):
        node.gate.take(FRAME, INSURER, ask())


def test_a_grant_of_a_stranger_is_refused(bank: Node) -> None:
    with pytest.raises(PermissionDenied, match="issuer mallory: expected a member"):
        bank.gate.take(signed(KEYS[MALLORY], issuer=MALLORY), MALLORY, ask())


def revocation(by: PartyId = INSURER, key: PartyId | None = None, **changes):
    made = Revocation(project=CREDIT, agreement=agreement().digest, by=by, at=NOW, reason="we have doubts")
    return seal(made.model_copy(update=changes), KEYS[key or by])


@pytest.mark.parametrize("by", [BANK, INSURER])
def test_either_side_revokes_alone_and_at_once(bank: Node, by: PartyId) -> None:
    bank.gate.take(FRAME, INSURER, ask())
    bank.of.revoke(revocation(by))
    for do in (lambda: bank.gate.take(FRAME, INSURER, ask()), bank.issue, lambda: bank.gate.admit(*message())):
        with pytest.raises(PermissionDenied, match="revocation: "):
            do()
        assert Record.model_validate_json(bank.trail[-1]).code is Code.REVOKED


# --- one grant for one job -------------------------------------------------------------------------------------------


def test_the_same_grant_again_is_the_same_also_after_a_restart(bank: Node) -> None:
    bank.gate.take(FRAME, INSURER, ask())
    lines = list(bank.trail)
    bank.gate.take(FRAME, INSURER, ask())
    bank.start()
    bank.gate.take(FRAME, INSURER, ask())
    assert bank.trail == lines


def test_a_second_grant_for_a_job_is_refused_also_after_a_restart(bank: Node) -> None:
    bank.gate.take(FRAME, INSURER, ask())
    for _ in range(2):
        with pytest.raises(PermissionDenied, match="one grant, while it runs"):
            bank.gate.take(signed(id="1" * 32), INSURER, ask())
        assert Record.model_validate_json(bank.trail[-1]).code is Code.REPLAY
        bank.start()


def test_a_node_issues_one_grant_for_a_job_and_knows_it_after_a_restart(insurer: Node) -> None:
    issued = insurer.issue()
    insurer.start()
    with pytest.raises(PermissionDenied, match="one grant, while it runs"):
        insurer.issue(nonce="2" * 32)
    assert insurer.gate.take(issued.to_bytes(), INSURER, ask()) == MADE


def test_grants_of_a_job_that_is_over_are_good_for_nothing(bank: Node) -> None:
    bank.gate.take(FRAME, INSURER, ask())
    bank.gate.end(JobId("job-1"), Code.DONE)
    for _ in range(2):
        with pytest.raises(PermissionDenied, match="one grant, while it runs"):
            bank.gate.take(FRAME, INSURER, ask())
        with pytest.raises(PermissionDenied, match="a grant of a job that runs"):
            bank.gate.admit(*message())
        bank.start()


def test_what_is_refused_to_be_issued_is_in_the_trail_without_words(insurer: Node) -> None:
    with pytest.raises(PermissionDenied, match="points 80001: expected at most 80000"):
        insurer.issue(ask(points=80_001))
    record = Record.model_validate_json(insurer.trail[-1])
    assert (record.event, record.code, record.party) == ("grant-refused", Code.AGREEMENT, BANK)
    assert record.count == 2
    assert b"80001" not in insurer.trail[-1]


# --- messages --------------------------------------------------------------------------------------------------------

BODY = b"masked numbers"
CERTIFICATE = member(INSURER).certificate


def proof(**changes: object) -> Proof:
    fields = {
        "grant": MADE.digest,
        "session": "s-1",
        "step": "align",
        "sender": INSURER,
        "recipient": BANK,
        "sequence": 1,
        "attempt": 1,
    }
    changes["body"] = hashlib.sha256(changes.get("body", BODY)).hexdigest()
    return Proof.model_validate({**fields, **changes}, strict=False)


def message(*keys, body: bytes = BODY, certificate: str = CERTIFICATE, **changes: object) -> tuple[bytes, bytes, str]:
    signed_body = changes.pop("body_signed", body)
    return seal(proof(body=signed_body, **changes), *(keys or (KEYS[INSURER],))).to_bytes(), body, certificate


@pytest.fixture
def running(bank: Node) -> Node:
    bank.gate.take(FRAME, INSURER, ask())
    return bank


def test_messages_are_taken_once_and_in_order(running: Node) -> None:
    running.gate.admit(*message())
    running.gate.admit(*message(sequence=2))
    running.gate.admit(*message(step="split"))
    running.gate.admit(*message(session="s-2"))
    running.gate.admit(*message(attempt=3))
    before = len(running.trail)
    for repeated in (
        {"attempt": 3, "body": b"other", "sequence": 1},
        {"attempt": 3, "sequence": 3},
        {"attempt": 2},
        {"sequence": 3},
        {"sequence": 2},
        {"attempt": 4, "sequence": 2},
        {"session": "s-2", "attempt": 2, "sequence": 2},
        {"session": "s-2", "sequence": 3},
    ):
        with pytest.raises(PermissionDenied, match="it is a repetition, or some are missing"):
            running.gate.admit(*message(**repeated))
    assert len(running.trail) == before + 8
    record = Record.model_validate_json(running.trail[-1])
    assert (record.event, record.code, record.party) == ("message-rejected", Code.REPLAY, INSURER)
    assert (record.job, record.step) == ("job-1", "align")
    marks = list(running.marks)
    running.gate.admit(*message(attempt=3))  # the last one once more, since its answer may have been lost
    assert running.marks == marks


def test_a_message_is_not_taken_again_after_a_restart(running: Node) -> None:
    running.gate.admit(*message(sequence=1, body=b"first"))
    running.gate.admit(*message(sequence=2))
    running.start()
    running.gate.take(FRAME, INSURER, ask())
    running.gate.admit(*message(sequence=2))
    with pytest.raises(PermissionDenied, match="repetition"):
        running.gate.admit(*message(body=b"first"))
    running.gate.admit(*message(sequence=3))


def test_marks_that_are_damaged_stop_the_gate(running: Node) -> None:
    for line in (b"", b"{}", b'{"grant":1}'):
        running.marks[:] = [line]
        with pytest.raises(DataError, match="the file of marks is not a mark"):
            running.start()


def test_a_message_that_could_not_be_marked_is_not_taken(running: Node) -> None:
    def full(line: bytes) -> None:
        raise OSError(line)

    kept = running.gate._memory
    running.gate._memory = replace(kept, keep_mark=full)
    with pytest.raises(OSError, match="sequence"):
        running.gate.admit(*message())
    running.gate._memory = kept
    running.gate.admit(*message())


BAD_MESSAGES = {
    "another grant": ({"grant": digest_of("grant")}, Code.REPLAY),
    "no step of the flow": ({"step": "train"}, Code.FLOW),
    "to somebody else": ({"recipient": MALLORY}, Code.BINDING),
    "sent back": ({"sender": BANK, "recipient": INSURER}, Code.BINDING),
    "from ourselves": ({"sender": BANK, "certificate": member(BANK).certificate}, Code.BINDING),
    "from a stranger": ({"sender": MALLORY}, Code.BINDING),
    "from a stranger without a certificate": ({"sender": MALLORY, "certificate": ""}, Code.BINDING),
    "over another connection": ({"certificate": member(BANK).certificate}, Code.BINDING),
    "another body": ({"body_signed": b"other numbers"}, Code.SIGNATURE),
}


@pytest.mark.parametrize("why", BAD_MESSAGES)
def test_a_message_out_of_place_is_refused_and_in_the_trail(running: Node, why: str) -> None:
    changes, code = BAD_MESSAGES[why]
    sent = dict(changes)
    frame, body, certificate = message(certificate=sent.pop("certificate", CERTIFICATE), **sent)
    with pytest.raises(PermissionDenied, match="message refused: "):
        running.gate.admit(frame, body, certificate)
    assert Record.model_validate_json(running.trail[-1]).code is code
    running.gate.admit(*message())


def test_a_message_signed_by_somebody_else_or_not_readable_is_refused(running: Node) -> None:
    good, body, certificate = message()
    frames = [message(KEYS[BANK])[0], message(KEYS[INSURER], KEYS[BANK])[0], good[:-1], b"", FRAME]
    frames += [bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]]) for at in range(0, len(good), 3)]
    for frame in frames:
        with pytest.raises(PermissionDenied, match="message refused: "):
            running.gate.admit(frame, body, certificate)
    assert len(running.trail) == 2 + len(frames)
    running.gate.admit(*message())


THREE = agreement(members=(member(BANK), member(INSURER), member(MALLORY)))


def test_a_member_that_takes_no_part_in_a_job_sends_no_messages_of_it() -> None:
    """Not even over a connection of which nobody knows the certificate."""
    grant = Node(INSURER, of=project(THREE)).issue()
    node = Node(BANK, of=project(THREE))
    node.gate.take(grant.to_bytes(), INSURER, ask())
    for certificate in ("", member(MALLORY).certificate, "é"):
        sent = message(KEYS[MALLORY], certificate=certificate, sender=MALLORY, grant=grant.digest)
        with pytest.raises(PermissionDenied, match="expected that of mallory"):
            node.gate.admit(*sent)
    assert not node.marks


def test_the_trail_names_whose_connection_a_bad_message_came_over_and_not_whom_it_names() -> None:
    """Otherwise a member could fill the trails of others with the faults of a third one."""
    grant = Node(INSURER, of=project(THREE)).issue()
    node = Node(BANK, of=project(THREE))
    node.gate.take(grant.to_bytes(), INSURER, ask())
    for certificate, party in ((member(MALLORY).certificate, MALLORY), (digest_of("unknown"), None)):
        for frame in (message(KEYS[MALLORY], sender=INSURER, grant=grant.digest)[0], b"nonsense"):
            with pytest.raises(PermissionDenied):
                node.gate.admit(frame, BODY, certificate)
            assert Record.model_validate_json(node.trail[-1]).party == party


def test_nothing_is_granted_or_taken_under_an_agreement_that_names_another_key_for_this_node() -> None:
    """Whoever put it together signed for this node with a key of its own."""
    foreign = member(INSURER).model_copy(update={"key": KEYS[MALLORY].public})
    made = agreement(members=(member(BANK), foreign))
    forged = Project([seal(made, KEYS[BANK], KEYS[MALLORY])])
    node = Node(INSURER, of=forged)
    with pytest.raises(PermissionDenied, match="key of insurer, for job job-1: expected the one with which this node"):
        node.issue()
    granted = Node(BANK, of=forged).issue(ask())
    with pytest.raises(PermissionDenied, match="key of insurer"):
        node.gate.take(granted.to_bytes(), BANK, ask())
    assert [Record.model_validate_json(line).event for line in node.trail] == [
        "opened",
        "grant-refused",
        "grant-rejected",
    ]


def test_the_trail_of_somebody_else_or_of_another_key_is_not_gone_on_with(bank: Node) -> None:
    node = Node(INSURER)
    with pytest.raises(DataError, match="opened by bank, or with another key"):
        Gate(INSURER, KEYS[INSURER], node.of, Memory(bank.trail, (), print, print), node.clock)
    with pytest.raises(DataError, match="opened by bank, or with another key"):
        Gate(BANK, KEYS[MALLORY], node.of, Memory(bank.trail, (), print, print), node.clock)


def test_a_grant_that_expires_stops_the_messages_of_its_job(running: Node) -> None:
    running.gate.admit(*message())
    running.clock.time = NOW + timedelta(hours=2)
    with pytest.raises(PermissionDenied, match="the time"):
        running.gate.admit(*message(sequence=2))


def test_one_flow_does_not_pass_for_another(bank: Node) -> None:
    spec = FlowSpec.model_validate({**GRAPH.spec.agreed(), "name": "another"})
    with pytest.raises(PermissionDenied, match="flow: expected what this job is"):
        bank.gate.take(FRAME, INSURER, ask(graph=build_graph(spec, installed_components())))


@pytest.mark.parametrize("event", [Event.AGREEMENT, Event.REVOCATION])
def test_a_gate_does_not_open_with_less_than_its_trail_tells_of(event: Event) -> None:
    node = Node(INSURER)
    digest = node.of.current.digest
    node.gate.note(Event.AGREEMENT, subject=digest)
    node.of.revoke(revocation())
    node.gate.note(Event.REVOCATION, subject=digest)
    node.start()
    node.gate.note(event, subject="5" * 64)
    with pytest.raises(DataError, match=f"the {event} of .* was removed"):
        node.start()
