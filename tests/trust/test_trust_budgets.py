"""The ledger: never under-charged by a crash, a lost answer, a backup, or a partner that lies about receipts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trust_example import BANK, CREDIT, CUSTOMERS, INSURER, KEYS, MALLORY, NOW, agreement, allowance, digest_of

from unseen.errors import DataError, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import JobId, PartyId
from unseen.privacy.decisions import Allow, FromCache, Refuse, Release, Result
from unseen.privacy.epsilon import Limit
from unseen.privacy.events import Everyone, Gaussian, Relation, Spend, Unit
from unseen.privacy.facts import Ended, Request, SessionId, Variant
from unseen.privacy.limits import Limits
from unseen.trust.agreement import ProjectId
from unseen.trust.budgets import (
    Acknowledged,
    Charged,
    Dropped,
    Ledger,
    Noted,
    Parties,
    Receipt,
    Received,
    entry_line,
    epsilon_of,
    points_of,
    read_entry,
)
from unseen.trust.envelope import Envelope, countersigned, read_envelope, seal
from unseen.trust.grant import Binding, Grant, Snapshot

NAMES = (*map(str, range(40)), "more", "refilled", "other")
OWNER, PARTNER = KEYS[BANK], KEYS[INSURER]
PARTIES = Parties(CREDIT, BANK, INSURER, OWNER.public, PARTNER.public)
GRANT = Grant(
    id="0" * 32,
    issuer=BANK,
    project=CREDIT,
    agreement=digest_of("agreement"),
    flow=digest_of("flow"),
    job=JobId("job-1"),
    initiator=INSURER,
    tables=(
        Snapshot(owner=BANK, name=CUSTOMERS, digest=digest_of("own"), rows=100_000),
        *(Snapshot(owner=INSURER, name=CUSTOMERS, digest=digest_of(f"theirs {name}"), rows=1) for name in NAMES),
    ),
    points=1_000_000,
    epsilon=100.0,
    delta=1e-6,
    valid_from=NOW,
    valid_until=NOW + timedelta(hours=1),
    bindings=(Binding(party=BANK, certificate="0" * 64), Binding(party=INSURER, certificate="1" * 64)),
)
TOTAL = 240_000
LIMITS = Limits(allowances=(allowance(INSURER).model_copy(update={"concurrent": 1000, "min_partner_rows": 1}),))
LIMIT = Limit("customers", epsilon=3.0, delta=1e-6, unit=Unit.EXAMPLE)


def request(name: int | str, points: int = 80_000, **changes: object) -> Request:
    made = Request(
        partner=INSURER,
        session=SessionId(f"s-{name}"),
        at=NOW,
        table=CUSTOMERS,
        key_columns=("phone",),
        variant=Variant.INTERSECT,
        own_rows=100_000,
        partner_rows=points,
        own_snapshot=digest_of("own"),
        partner_snapshot=digest_of(f"theirs {name}"),
    )
    return replace(made, **changes)


def charged(ledger: Ledger, *names: int | str, points: int = 80_000) -> Ledger:
    for name in names:
        _, entries = ledger.charge_points(request(name, points), LIMITS, GRANT, OWNER)
        ledger = kept(ledger, *entries)
    return ledger


def kept(ledger: Ledger, *entries: object) -> Ledger:
    """The ledger with entries that went through a file."""
    for entry in entries:
        read = read_entry(entry_line(entry), "ledger")
        assert read == entry
        ledger = ledger.after(read)
    return ledger


def sent(entry: Charged) -> Envelope:
    return read_envelope(entry.envelope, sender="bank")


def spend(rounds: int, run: str = "r1", about: str = "customers") -> Spend:
    return Spend(
        run=run, about=about, mechanism=Gaussian(noise_multiplier=1.0), sampling=Everyone(), rounds=rounds,
        unit=Unit.EXAMPLE, relation=Relation.ADD_OR_REMOVE,
    )  # fmt: skip


def account(facts, delta: float) -> float:
    return 0.1 * sum(fact.rounds for fact in facts)


# --- charging --------------------------------------------------------------------------------------------------------


def test_a_session_is_charged_before_it_begins_and_the_budget_ends() -> None:
    ledger = Ledger(PARTIES)
    for name in range(3):
        decision, entries = ledger.charge_points(request(name), LIMITS, GRANT, OWNER)
        assert isinstance(decision, Allow)
        ledger = kept(ledger, *entries)
    decision, entries = ledger.charge_points(request("more", 1), LIMITS, GRANT, OWNER)
    assert isinstance(decision, Refuse)
    assert entries == ()
    assert [receipt.number for receipt in ledger.receipts] == [1, 2, 3]
    assert {receipt.grant for receipt in ledger.receipts} == {GRANT.digest}
    assert "ledger of bank for insurer in credit" in str(ledger)


def test_nobody_is_charged_for_another() -> None:
    with pytest.raises(PermissionDenied, match="another partner"):
        Ledger(PARTIES).charge_points(request(1, partner=MALLORY), LIMITS, GRANT, OWNER)


def test_no_result_leaves_before_its_charge_is_countersigned() -> None:
    ledger = charged(Ledger(PARTIES), 1)
    result = Result(NOW + timedelta(minutes=1), 30_000)
    with pytest.raises(PermissionDenied, match="1 receipts are not countersigned"):
        ledger.release(request(1), result, LIMITS)
    received, signed = Received(PARTIES).accept(sent_of(ledger, 1), PARTNER)
    ledger = kept(ledger, ledger.acknowledgement(signed))
    decision = ledger.release(request(1), result, LIMITS)
    assert isinstance(decision, Release)
    ledger = kept(ledger, *(Noted(fact=fact) for fact in decision.records))
    again, entries = ledger.charge_points(request(2, partner_snapshot=digest_of("theirs 1")), LIMITS, GRANT, OWNER)
    assert isinstance(again, FromCache)
    assert entries == ()
    assert len(received.envelopes) == 1


def sent_of(ledger: Ledger, number: int) -> Envelope:
    return seal(ledger.receipts[number - 1], OWNER)


def test_noise_is_charged_up_to_its_limit_and_repetitions_are_free() -> None:
    ledger = Ledger(PARTIES)
    ledger = kept(ledger, *ledger.charge_noise(spend(20), LIMIT, account, GRANT, NOW, OWNER))
    assert ledger.charge_noise(spend(20), LIMIT, account, GRANT, NOW, OWNER) == ()
    ledger = kept(
        ledger,
        *ledger.charge_noise(
            spend(500, about="orders"), replace(LIMIT, about="orders", epsilon=60.0), account, GRANT, NOW, OWNER
        ),
    )
    ledger = kept(ledger, *ledger.charge_noise(spend(9, run="r2"), LIMIT, account, GRANT, NOW, OWNER))
    with pytest.raises(PermissionDenied, match="would pass the limit"):
        ledger.charge_noise(spend(11, run="r2"), LIMIT, account, GRANT, NOW, OWNER)
    with pytest.raises(UsageError):
        ledger.charge_noise(spend(1, about="orders"), LIMIT, account, GRANT, NOW, OWNER)
    assert len(ledger.spends) == len(ledger.receipts) == 3


def regranted(**changes: object) -> Grant:
    return GRANT.model_copy(update=changes)


@pytest.mark.parametrize(
    ("grant", "changes", "found"),
    [
        (regranted(issuer=INSURER), {}, "the grant is one of insurer"),
        (regranted(project=ProjectId("other")), {}, "in other"),
        (regranted(valid_from=NOW + timedelta(seconds=1)), {}, "is not valid at"),
        (regranted(valid_until=NOW), {}, "is not valid at"),
        (regranted(points=79_999), {}, "used 0 of its 79999 points, and asks for 80000"),
        (GRANT, {"own_snapshot": digest_of("x")}, "this version of customers"),
        (GRANT, {"own_rows": 100_001}, "this version of customers"),
        (GRANT, {"partner_snapshot": digest_of("own")}, "another list"),
    ],
)
def test_a_grant_covers_what_it_names_only(grant: Grant, changes: dict[str, object], found: str) -> None:
    with pytest.raises(PermissionDenied, match=found):
        Ledger(PARTIES).charge_points(request(1, **changes), LIMITS, grant, OWNER)


def test_the_points_of_a_grant_are_used_up_by_the_sessions_of_its_job() -> None:
    tight = regranted(points=100_000)
    ledger = Ledger(PARTIES)
    for name, points in ((1, 60_000), (2, 40_000)):
        ledger = kept(ledger, *ledger.charge_points(request(name, points), LIMITS, tight, OWNER)[1])
    with pytest.raises(PermissionDenied, match=r"used 100000 of its 100000 points, and asks for 1$"):
        ledger.charge_points(request(3, 1), LIMITS, tight, OWNER)
    ledger.charge_points(request(3, 1), LIMITS, GRANT, OWNER)


def test_the_epsilon_of_a_grant_is_used_up_by_its_job() -> None:
    tight = regranted(epsilon=1.0)
    ledger = Ledger(PARTIES)
    ledger = kept(ledger, *ledger.charge_noise(spend(4), LIMIT, account, tight, NOW, OWNER))
    ledger = kept(ledger, *ledger.charge_noise(spend(8), LIMIT, account, tight, NOW, OWNER))
    ledger = kept(ledger, *ledger.charge_noise(spend(2, run="r2"), LIMIT, account, tight, NOW, OWNER))
    assert ledger.charge_noise(spend(8), LIMIT, account, tight, NOW, OWNER) == ()
    with pytest.raises(PermissionDenied, match="more noise than the ε = 1"):
        ledger.charge_noise(spend(3, run="r2"), LIMIT, account, tight, NOW, OWNER)
    orders = replace(LIMIT, about="orders")
    assert len(ledger.charge_noise(spend(9, about="orders"), orders, account, tight, NOW, OWNER)) == 1
    with pytest.raises(PermissionDenied, match="more noise"):
        ledger.charge_noise(spend(1, run="r3"), LIMIT, account, regranted(epsilon=0.0, delta=0.0), NOW, OWNER)
    with pytest.raises(PermissionDenied, match="not valid"):
        ledger.charge_noise(spend(1, run="r3"), LIMIT, account, tight, NOW - timedelta(seconds=1), OWNER)


def test_a_grant_does_not_make_its_epsilon_small_by_a_large_delta() -> None:
    """At δ near 1 an accountant finds ε near 0 for whatever noise."""
    ledger = Ledger(PARTIES)
    assert ledger.charge_noise(spend(1), LIMIT, account, regranted(delta=LIMIT.delta), NOW, OWNER)
    for delta in (LIMIT.delta * 1.001, 0.999):
        with pytest.raises(PermissionDenied, match=r"counts ε at δ = .*, allowed are 1e-06"):
            ledger.charge_noise(spend(1), LIMIT, account, regranted(delta=delta), NOW, OWNER)


def test_limits_are_those_of_the_agreement() -> None:
    made = agreement()
    assert points_of(made, BANK).allowances == (allowance(INSURER),)
    assert points_of(made, MALLORY).allowances == ()
    limit = epsilon_of(made, BANK, INSURER, CUSTOMERS)
    assert (limit.about, limit.epsilon, limit.delta) == ("customers", 3.0, 1e-6)
    for owner, partner, table in ((INSURER, BANK, CUSTOMERS), (BANK, INSURER, "orders"), (BANK, MALLORY, CUSTOMERS)):
        with pytest.raises(PermissionDenied, match="allows no noise"):
            epsilon_of(made, owner, partner, table)


def test_points_and_noise_stand_in_one_row_of_receipts() -> None:
    ledger = charged(Ledger(PARTIES), 1)
    ledger = kept(ledger, *ledger.charge_noise(spend(1), LIMIT, account, GRANT, NOW, OWNER))
    ledger = charged(ledger, 2)
    received = Received(PARTIES)
    for number in (1, 2, 3):
        received, _ = received.accept(sent_of(ledger, number), PARTNER)
    assert len(ledger.facts) == 4
    assert len(received.envelopes) == 3


# --- the partner -----------------------------------------------------------------------------------------------------


def test_a_receipt_that_is_held_is_countersigned_as_before() -> None:
    ledger = charged(Ledger(PARTIES), 1, 2)
    received, first = Received(PARTIES).accept(sent_of(ledger, 1), PARTNER)
    for _ in range(2):
        same, second = received.accept(sent_of(ledger, 1), PARTNER)
        assert same is received
        assert first.to_bytes() == second.to_bytes()
        received, _ = received.accept(sent_of(ledger, 2), PARTNER)


def test_only_what_is_not_countersigned_is_taken_back() -> None:
    ledger = charged(Ledger(PARTIES), 1, 2)
    ledger = kept(ledger, ledger.acknowledgement(seal(ledger.receipts[0], OWNER, PARTNER)))
    fact = Ended(partner=INSURER, session=SessionId("s-2"), at=NOW, how="failed")
    other = Ended(partner=INSURER, session=SessionId("s-1"), at=NOW, how="failed")
    ledger = kept(ledger, Noted(fact=fact), Noted(fact=other))
    left = kept(ledger, Dropped(number=2))
    assert left.receipts == ledger.receipts[:1]
    assert left.noted == (other,)
    assert left.settled
    with pytest.raises(DataError, match="not charged"):
        left.after(Noted(fact=fact))
    for number in (1, 3):
        with pytest.raises(DataError, match="cannot be taken back"):
            ledger.after(Dropped(number=number))
    with pytest.raises(RemoteProtocolError, match="countersigned receipt 1 twice"):
        ledger.missing([seal(charged(Ledger(PARTIES), "other").receipts[0], OWNER, PARTNER)])


def test_an_owner_with_an_old_backup_is_found_out_and_mended() -> None:
    backup = charged(Ledger(PARTIES), 1)
    ledger = charged(backup, 2, 3)
    received = Received(PARTIES)
    for number in (1, 2, 3):
        received, _ = received.accept(sent_of(ledger, number), PARTNER)

    # The owner is back at one charge, and would give away 160,000 points once more.
    refilled = charged(backup, "refilled")
    with pytest.raises(RemoteProtocolError, match="receipt 2 comes after receipt 3: its ledger was put back"):
        received.accept(sent_of(refilled, 2), PARTNER)
    with pytest.raises(RemoteProtocolError, match="receipt 2 comes after"):
        received.accept(sent_of(charged(backup, "refilled"), 2), PARTNER)

    entries = refilled.missing(received.envelopes)
    assert entries[0] == Dropped(number=2)
    assert kept(refilled, *entries).facts == ledger.facts
    mended = kept(backup, *backup.missing(received.envelopes))
    assert mended.facts == ledger.facts
    assert mended.missing(received.envelopes) == ()
    decision, _ = mended.charge_points(request("more", 1), LIMITS, GRANT, OWNER)
    assert isinstance(decision, Refuse)


def receipt(**changes: object) -> Receipt:
    made = charged(Ledger(PARTIES), 1).receipts[0]
    return made.model_copy(update=changes)


BAD_RECEIPTS = {
    "another project": receipt(project=ProjectId("other")),
    "another owner": receipt(owner=MALLORY),
    "another partner": receipt(partner=MALLORY),
    "another's charge": receipt(charge=request(1, partner=MALLORY)),
    "a number left out": receipt(number=2),
    "another one before": receipt(previous=digest_of("x")),
}


@pytest.mark.parametrize("why", BAD_RECEIPTS)
def test_a_receipt_that_does_not_fit_is_not_countersigned(why: str) -> None:
    envelope = seal(BAD_RECEIPTS[why], OWNER)
    with pytest.raises(RemoteProtocolError):
        Received(PARTIES).accept(envelope, PARTNER)
    with pytest.raises(DataError, match="does not follow"):
        Ledger(PARTIES).after(Charged.model_validate_json(_line(envelope, "charged")))
    with pytest.raises(RemoteProtocolError):
        Ledger(PARTIES).missing([countersigned(envelope, PARTNER)])
    with pytest.raises(DataError, match="damaged"):
        Received(PARTIES).after(countersigned(envelope, PARTNER))


def _line(envelope: Envelope, entry: str) -> str:
    import base64  # noqa: PLC0415  # here only

    return '{"entry":"%s","envelope":"%s"}' % (entry, base64.b64encode(envelope.to_bytes()).decode())  # noqa: UP031


def test_signatures_of_others_count_for_nothing() -> None:
    for keys in ((), (PARTNER,), (OWNER, PARTNER), (KEYS[MALLORY],)):
        with pytest.raises(RemoteProtocolError):
            Received(PARTIES).accept(seal(receipt(), *keys), PARTNER)
    ledger = charged(Ledger(PARTIES), 1)
    for keys in ((OWNER,), (PARTNER,), (OWNER, KEYS[MALLORY])):
        with pytest.raises(RemoteProtocolError):
            ledger.acknowledgement(seal(ledger.receipts[0], *keys))
    for keys in ((OWNER,), (PARTNER,)):
        with pytest.raises(DataError, match="damaged"):
            Received(PARTIES).after(seal(receipt(), *keys))


def test_acknowledgements_come_in_order_and_once() -> None:
    ledger = charged(Ledger(PARTIES), 1, 2)
    first, second = (seal(made, OWNER, PARTNER) for made in ledger.receipts)
    with pytest.raises(RemoteProtocolError, match="expected receipt 1, found 2"):
        ledger.acknowledgement(second)
    entry = ledger.acknowledgement(first)
    ledger = kept(ledger, entry)
    with pytest.raises(RemoteProtocolError, match="expected receipt 2"):
        ledger.acknowledgement(first)
    with pytest.raises(DataError, match="does not follow"):
        ledger.after(entry)
    ledger = kept(ledger, ledger.acknowledgement(second))
    with pytest.raises(RemoteProtocolError, match="expected receipt 3"):
        ledger.acknowledgement(second)
    received = Received(PARTIES).after(first).after(second)
    assert received.envelopes == (first, second)


def test_facts_about_sessions_that_were_not_charged_are_damage() -> None:
    ledger = charged(Ledger(PARTIES), 1)
    for partner, session in ((INSURER, "s-2"), (MALLORY, "s-1")):
        fact = Ended(partner=PartyId(partner), session=SessionId(session), at=NOW, how="failed")
        with pytest.raises(DataError, match="not charged"):
            ledger.after(Noted(fact=fact))
    fact = Ended(partner=INSURER, session=SessionId("s-1"), at=NOW, how="failed")
    assert fact in kept(ledger, Noted(fact=fact)).facts


def test_a_line_that_is_no_entry_is_damage() -> None:
    for line in (b"", b"{}", b'{"entry":"charged","envelope":"!"}', b'{"entry":"charged"}', b'{"entry":"x"}'):
        with pytest.raises(DataError, match="line 3 is not an entry of a ledger"):
            read_entry(line, "line 3")
    for kind in (Charged, Acknowledged):
        line = b'{"entry":"%b","envelope":"AAAA"}' % kind.model_fields["entry"].default.encode()
        with pytest.raises(DataError, match="does not follow"):
            Ledger(PARTIES).after(read_entry(line, "line 3"))


# --- against a model -------------------------------------------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Charges, crashes before and after keeping, lost answers and backups: the partner never gets more than is charged.

    The model is three numbers: what was evaluated, what the file says, and what the partner has receipts for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.file: list[bytes] = []
        self.backup: list[bytes] = []
        self.ledger = Ledger(PARTIES)
        self.received = Received(PARTIES)
        self.evaluated = 0
        self.names = 0
        self.stale = False

    def replay(self) -> None:
        self.ledger = Ledger(PARTIES)
        for line in self.file:
            self.ledger = self.ledger.after(read_entry(line, "file"))

    def keep(self, *entries: object) -> None:
        for entry in entries:
            self.file.append(entry_line(entry))
            self.ledger = self.ledger.after(entry)

    def points(self) -> int:
        return sum(made.charge.partner_rows for made in self.ledger.receipts)

    @rule(points=st.integers(1, 80_000), crash=st.sampled_from(["no", "before keeping", "after keeping", "no answer"]))
    def charge(self, points: int, crash: str) -> None:
        self.names += 1
        decision, entries = self.ledger.charge_points(request(self.names, points), LIMITS, GRANT, OWNER)
        assert isinstance(decision, Allow) == (self.points() + points <= TOTAL)
        if not entries or crash == "before keeping":
            return
        self.keep(*entries)
        if crash == "after keeping":
            self.replay()
            return
        if self._countersigned(answered=crash == "no"):
            self.evaluated += points

    def _countersigned(self, *, answered: bool) -> bool:
        """Send what the partner has not countersigned; a stale ledger is found out here, and mended."""
        for made in self.ledger.receipts[self.ledger.acknowledged :]:
            try:
                self.received, signed = self.received.accept(seal(made, OWNER), PARTNER)
            except RemoteProtocolError:
                assert self.stale
                self.keep(*self.ledger.missing(self.received.envelopes))
                self.stale = False
                return False
            if answered:
                self.keep(self.ledger.acknowledgement(signed))
        assert not answered or self.ledger.settled
        return answered

    @rule()
    def back_up(self) -> None:
        if not self.stale:
            self.backup = list(self.file)

    @precondition(lambda self: len(self.backup) < len(self.file))
    @rule()
    def put_back(self) -> None:
        self.file = list(self.backup)
        self.replay()
        self.stale = len(self.received.envelopes) > len(self.ledger.receipts)

    @invariant()
    def nothing_is_evaluated_that_is_not_charged(self) -> None:
        receipts = [Receipt.model_validate_json(made.payload).charge.partner_rows for made in self.received.envelopes]
        assert self.evaluated <= sum(receipts)
        if not self.stale:
            assert self.evaluated <= self.points() <= TOTAL


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=12, stateful_step_count=10, deadline=None)
