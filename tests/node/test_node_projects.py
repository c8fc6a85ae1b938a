"""Agreements between nodes: offered, signed by all, in force, replaced, revoked; and what must not get in."""

from __future__ import annotations

import json

import pytest
from organisations import (
    ANN,
    BANK,
    BEN,
    CREDIT,
    INSURER,
    MALLORY,
    SHOP,
    Organisation,
    acquainted,
    agreement_text,
    allied,
    deliver,
    key_of,
    propose,
    register,
    root_of,
)

from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.ids import PartyId
from unseen.node.domain import JobState
from unseen.node.letters import (
    AgreementOffered,
    AnyLetter,
    Card,
    HeadSigned,
    Revoked,
    TableHeld,
    TablesHeld,
    write_letter,
)
from unseen.node.usecases.asking import held_tables
from unseen.trust.agreement import Agreement, Member, Revocation
from unseen.trust.audit import Event
from unseen.trust.envelope import countersigned, read_envelope, read_statement, seal


def say(node: Organisation, peer: PartyId, letter: AnyLetter | bytes) -> list[str]:
    """Let a peer say something to a node; return the codes of the refusals that are new in its trails."""
    before = refusals(node)
    with node.books.turn() as turn:
        number = turn.kept.mail.received(peer) + 1
    node.mailroom.take(peer, number, letter if isinstance(letter, bytes) else write_letter(letter))
    return refusals(node)[len(before) :]


def refusals(node: Organisation) -> list[str]:
    records = [*node.audit.records(None), *(r for p in node.projects.all() for r in node.audit.records(p))]
    return [str(record.code) for record in records if record.event is Event.MESSAGE_REJECTED]


def pending(node: Organisation) -> Agreement:
    found = node.pending()
    assert found is not None
    return found.agreement


@pytest.mark.parametrize("names", [(BANK, INSURER), (BANK, INSURER, SHOP)], ids=["two", "three"])
def test_an_agreement_is_in_force_everywhere_once_all_have_signed(names, tmp_path) -> None:
    nodes = acquainted(tmp_path, *names)
    assert nodes[0].projects.draft(agreement_text(*names), ANN) == CREDIT
    deliver(nodes)
    for count, node in enumerate(nodes[::-1], 1):
        left = node.projects.sign(CREDIT, BEN)
        deliver(nodes)
        assert (left is None) == (count == len(nodes))
    digests = {node.agreed().current.digest for node in nodes}
    assert len(digests) == 1
    for node in nodes:
        assert node.agreed().in_force(node.clock.now())
        assert node.pending() is None
        assert Event.AGREEMENT in [record.event for record in node.audit.records(CREDIT)]
        assert {head.party for head in node.audit.heads(CREDIT)} == {*names} - {node.me}
        with node.books.turn() as turn:
            assert all(held_tables(turn, CREDIT, peer)["customers"].rows == 2000 for peer in node.partners)


def test_a_draft_takes_members_whose_keys_are_known_only(tmp_path) -> None:
    (bank, _) = acquainted(tmp_path, BANK, INSURER)
    with pytest.raises(UsageError, match="mallory is not a partner"):
        bank.projects.draft(agreement_text(BANK, MALLORY), ANN)
    bank.partners.add(SHOP)
    with pytest.raises(UsageError, match="shop has not introduced its key"):
        bank.projects.draft(agreement_text(BANK, SHOP), ANN)
    bank.partners.remove(INSURER)
    with pytest.raises(UsageError, match="insurer is not a partner"):
        bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    with pytest.raises(UsageError, match="purpose"):
        bank.projects.draft({**agreement_text(BANK, INSURER), "members": ["bank"], "purpose": ""}, ANN)
    assert bank.projects.all() == ()


def test_people_need_the_right_to_do_what_they_do(tmp_path) -> None:
    (bank, _) = acquainted(tmp_path, BANK, INSURER)
    with pytest.raises(PermissionDenied, match="ben may not"):
        bank.projects.draft(agreement_text(BANK, INSURER), BEN)
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    with pytest.raises(PermissionDenied, match="ann may not"):
        bank.projects.sign(CREDIT, ANN)


def test_nobody_else_gets_an_agreement_changed_or_completed(tmp_path) -> None:
    bank, insurer = acquainted(tmp_path, BANK, INSURER)
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    deliver((bank, insurer))
    made = pending(insurer)
    # Mallory is a partner of the insurer, and no member.
    insurer.partners.add(MALLORY)
    assert say(insurer, MALLORY, Card(key_of(MALLORY).public, root_of(MALLORY))) == []
    assert say(insurer, MALLORY, AgreementOffered(seal(made, key_of(BANK)).to_bytes())) == ["signature"]
    # A signature by somebody else, by the bank over something else, or cut: it counts for nothing.
    forged = countersigned(seal(made, key_of(MALLORY)), key_of(INSURER))
    say(insurer, BANK, AgreementOffered(forged.to_bytes()))
    other = made.model_copy(update={"purpose": "something else"})
    swapped = seal(made, key_of(INSURER))
    stolen = seal(other, key_of(BANK)).signatures
    say(insurer, BANK, AgreementOffered(type(swapped)(swapped.kind, swapped.payload, stolen).to_bytes()))
    assert insurer.pending().missing == (BANK, INSURER)  # type: ignore[union-attr]  # it waits
    assert insurer.projects.seen([CREDIT])[0].held is None


def test_an_agreement_that_names_other_keys_than_are_known_is_refused(tmp_path) -> None:
    bank, insurer = acquainted(tmp_path, BANK, INSURER)
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    made = pending(bank)
    for index, field in ((0, "key"), (0, "certificate"), (1, "key"), (1, "certificate")):
        value = key_of(MALLORY).public if field == "key" else root_of(MALLORY)
        members = list(made.members)
        members[index] = members[index].model_copy(update={field: value})
        forged = made.model_copy(update={"members": tuple(members)})
        assert say(insurer, BANK, AgreementOffered(seal(forged, key_of(BANK)).to_bytes())) == ["signature"]
    assert insurer.pending() is None


def test_a_card_under_another_root_than_was_paired_with_is_refused(tmp_path) -> None:
    (bank, _) = acquainted(tmp_path, BANK, INSURER)
    assert say(bank, INSURER, Card(key_of(MALLORY).public, root_of(MALLORY))) == ["signature"]
    assert say(bank, INSURER, Card("00" * 32, root_of(INSURER))) == ["signature"]
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    assert pending(bank).member(INSURER).key == key_of(INSURER).public  # type: ignore[union-attr]  # it is one


def test_a_new_version_takes_the_place_of_the_old_one_and_ends_its_jobs(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    job = propose(bank, BANK, INSURER)
    deliver(nodes)
    bank.projects.draft(agreement_text(BANK, INSURER, purpose="another one"), ANN)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, BEN)
    deliver(nodes)
    assert [node.agreed().current.version for node in nodes] == [2, 2]
    assert [node.jobs.get(job).state for node in nodes] == [JobState.FAILED] * 2
    # The old version once more, and one that leaves a version out.
    with bank.books.turn() as turn:
        first, second = turn.kept.projects.versions(CREDIT)
    assert say(insurer, BANK, AgreementOffered(first)) == []
    later = read_statement(read_envelope(second, sender="test"), Agreement, sender="test")
    skipped = later.model_copy(update={"version": 4, "previous": later.digest})
    assert say(insurer, BANK, AgreementOffered(seal(skipped, key_of(BANK)).to_bytes())) == ["signature"]
    assert [node.agreed().current.version for node in nodes] == [2, 2]


def test_a_node_signs_one_form_of_a_version_unless_it_withdraws(tmp_path) -> None:
    bank, insurer = nodes = acquainted(tmp_path, BANK, INSURER)
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    deliver(nodes)
    insurer.projects.sign(CREDIT, BEN)
    bank.projects.draft(agreement_text(BANK, INSURER, purpose="another"), ANN)
    deliver(nodes)
    assert pending(insurer).purpose == "one credit score"
    insurer.projects.withdraw(CREDIT, BEN)
    # Others have its signature still; here it does not count any more.
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    deliver(nodes)
    assert insurer.pending().missing == (BANK, INSURER)  # type: ignore[union-attr]  # it waits


@pytest.mark.parametrize("names", [(BANK, INSURER), (BANK, INSURER, SHOP)], ids=["two", "three"])
def test_one_side_revokes_at_once_and_for_good(names, tmp_path) -> None:
    nodes = allied(tmp_path, *names)
    job = propose(nodes[0], *names)
    deliver(nodes)
    assert nodes[0].jobs.admits(nodes[1].me, job)
    nodes[1].projects.revoke(CREDIT, "we stop", BEN)
    assert not nodes[1].jobs.admits(nodes[0].me, job)
    deliver(nodes)
    for node in nodes:
        assert node.agreed().revoked.by == INSURER  # type: ignore[union-attr]  # it is over
        assert node.jobs.get(job).state is JobState.FAILED
        assert "insurer revoked the agreement: we stop" in node.jobs.get(job).reason
        assert not any(node.jobs.admits(peer, job) for peer in node.partners)
        assert Event.REVOCATION in [record.event for record in node.audit.records(CREDIT)]
        node.start()
        assert node.agreed().revoked is not None
    with pytest.raises(PermissionDenied, match="revocation"):
        propose(nodes[0], *names)
    with pytest.raises(UsageError, match="revoked by insurer already"):
        nodes[0].projects.revoke(CREDIT, "so do we", BEN)


@pytest.mark.parametrize("row", ["revocations", "versions"])
def test_a_revocation_or_version_that_was_removed_from_the_store_is_missed(tmp_path, row) -> None:
    """Without it an administrator would make a project valid again; the partner would not be asked."""
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    if row == "versions":
        bank.projects.draft(agreement_text(BANK, INSURER, purpose="less than before"), ANN)
        deliver(nodes)
        for node in nodes:
            node.projects.sign(CREDIT, BEN)
        deliver(nodes)
    bank.projects.revoke(CREDIT, "we stop", BEN)
    deliver(nodes)
    bank.books.check()
    with bank.books.turn() as turn:
        turn.kept.lines._connection.exec_driver_sql("DELETE FROM revocations")
        if row == "versions":
            turn.kept.lines._connection.exec_driver_sql("DELETE FROM versions WHERE version = 2")
    bank.start()
    missed = "agreement" if row == "versions" else "revocation"
    with pytest.raises(DataError, match=rf"credit: the {missed} of .* was removed from the store"):
        bank.books.check()
    with pytest.raises(DataError, match="was removed from the store"):
        propose(bank, BANK, INSURER)
    # The partner remembers, whatever its trail's owner did; it says so to whoever asks.
    assert insurer.agreed().revoked is not None
    insurer.start()
    insurer.books.check()


def test_a_revocation_that_no_member_signed_is_refused(tmp_path) -> None:
    bank, _ = allied(tmp_path, BANK, INSURER)
    current = bank.agreed().current
    word = Revocation(project=CREDIT, agreement=current.digest, by=INSURER, at=bank.clock.now(), reason="no")
    assert say(bank, INSURER, Revoked(CREDIT, seal(word, key_of(MALLORY)).to_bytes())) == ["signature"]
    stranger = word.model_copy(update={"by": MALLORY})
    assert say(bank, INSURER, Revoked(CREDIT, seal(stranger, key_of(MALLORY)).to_bytes())) == ["signature"]
    other = word.model_copy(update={"agreement": "0" * 64})
    assert say(bank, INSURER, Revoked(CREDIT, seal(other, key_of(INSURER)).to_bytes())) == ["signature"]
    assert bank.agreed().revoked is None


def test_a_foreigner_and_one_who_was_struck_off_have_no_say(tmp_path) -> None:
    bank, _ = allied(tmp_path, BANK, INSURER)
    bank.partners.add(MALLORY)
    for letter in (
        TablesHeld(CREDIT, (TableHeld(MALLORY, "customers", "0" * 64, 5),)),
        TablesHeld("../credit", ()),
        HeadSigned(CREDIT, b""),
        b"no letter",
        b"",
    ):
        assert say(bank, MALLORY, letter) == ["signature"]
    refused = [record for record in bank.audit.records(None) if record.event is Event.MESSAGE_REJECTED]
    assert len(refused) == 5
    assert say(bank, INSURER, TablesHeld(CREDIT, (TableHeld(BANK, "customers", "0" * 64, 5),))) == ["signature"]
    bank.partners.remove(INSURER)
    assert say(bank, INSURER, TablesHeld(CREDIT, ())) == ["signature"]


def test_new_versions_of_tables_are_announced_once(tmp_path) -> None:
    bank, insurer = nodes = allied(tmp_path, BANK, INSURER)
    insurer.projects.announce_tables()
    assert deliver(nodes) == 0
    register(insurer, "second", rows=3000)
    insurer.projects.announce_tables()
    insurer.projects.announce_tables()
    assert deliver(nodes) == 1
    with bank.books.turn() as turn:
        assert held_tables(turn, CREDIT, INSURER)["customers"].rows == 3000


def test_a_head_of_another_history_is_refused_and_kept_in_the_trail(tmp_path) -> None:
    bank, _ = allied(tmp_path, BANK, INSURER)
    (held,) = bank.audit.heads(CREDIT)
    fork = held.head.model_copy(update={"last": "0" * 64})
    assert say(bank, INSURER, HeadSigned(CREDIT, seal(fork, key_of(INSURER)).to_bytes())) == ["signature"]
    back = held.head.model_copy(update={"count": held.head.count - 1})
    assert say(bank, INSURER, HeadSigned(CREDIT, seal(back, key_of(INSURER)).to_bytes())) == ["signature"]
    assert bank.audit.heads(CREDIT) == (held,)


def test_drafts_of_others_are_not_pushed_aside(tmp_path) -> None:
    """Mallory is a partner, and wants people to sign its form of somebody else's project."""
    bank, insurer, mallory = nodes = acquainted(tmp_path, BANK, INSURER, MALLORY)
    bank.projects.draft(agreement_text(BANK, INSURER), ANN)
    deliver((bank, insurer))
    mallory.projects.draft(agreement_text(MALLORY, INSURER, purpose="mine"), ANN)
    deliver(nodes)
    assert pending(insurer).purpose == "one credit score"
    for node in (bank, insurer):
        node.projects.sign(CREDIT, BEN)
    deliver(nodes)
    made = insurer.agreed().current
    stolen = agreement_text(MALLORY, INSURER)
    stolen |= {"members": [m.model_dump(mode="json") for m in (made.member(INSURER), member_of(MALLORY))]}
    forged = Agreement.model_validate_json(json.dumps({**stolen, "version": 2, "previous": made.digest}))
    assert say(insurer, MALLORY, AgreementOffered(seal(forged, key_of(MALLORY)).to_bytes())) == ["signature"]
    assert insurer.pending() is None


def member_of(party: PartyId) -> Member:
    return Member(party=party, key=key_of(party).public, certificate=root_of(party))


def test_a_key_stays_through_all_versions(tmp_path) -> None:
    bank, insurer = allied(tmp_path, BANK, INSURER)
    card = Card(key_of("another").public, root_of(INSURER))
    assert say(bank, INSURER, card) == []
    with pytest.raises(UsageError, match="insurer has another key than in version 1: a new key takes a new project"):
        bank.projects.draft(agreement_text(BANK, INSURER, purpose="another"), ANN)
    assert insurer.pending() is None
