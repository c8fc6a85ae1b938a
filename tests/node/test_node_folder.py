"""A node in its folder: made, renewed, revoked, and never with a key that others can read."""

from __future__ import annotations

import json
import ssl
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import DataError, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.folder import Node, load_identity
from unseen.transport import tls
from unseen.transport.revocation import check_root, leaf_problem, make_list, read_leaf, read_list
from unseen.transport.tls import Authority, Identity, host_name, issue, make_authority, read_certificate

BANK, PARTNER = PartyId("bank"), PartyId("partner")

NOW = datetime.now(UTC)
ROOT = make_authority("Unseen node bank", days=9, now=NOW, party=BANK)


def leaf(node):
    return read_certificate(node.identity().certificate_pem)


def authority(node):
    return Authority((node.folder / "root.pem").read_bytes(), (node.folder / "root-key.pem").read_bytes())


def der(pem):
    return read_certificate(pem).public_bytes(serialization.Encoding.DER)


READERS = (
    (der(ROOT.certificate_pem), lambda data: check_root(data, BANK, now=NOW)),
    (
        der(issue(ROOT, BANK, days=9, now=NOW).certificate_pem),
        lambda data: leaf_problem(read_leaf(data, BANK), ROOT.certificate_pem, BANK, now=NOW),
    ),
    (make_list(ROOT, 5, {3: NOW}, now=NOW), lambda data: read_list(data, ROOT.certificate_pem, sender="bank")),
)


def test_a_new_node_has_a_root_for_itself_alone_a_short_certificate_and_tight_rights(bank, now):
    identity = bank.identity()
    assert (identity.party, bank.config.listen) == (BANK, bank.config.listen)
    assert check_root(der(identity.ca_pem), BANK, now=now)
    assert timedelta(days=89) < leaf(bank).not_valid_after_utc - now <= timedelta(days=90)
    assert bank.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in bank.folder.iterdir()} == {0o600}
    assert "PRIVATE" not in repr(identity)


def test_a_folder_with_something_in_it_is_left_alone(bank, tmp_path, now):
    with pytest.raises(UsageError, match="holds something already"):
        Node.create(bank.folder, BANK, None, now)
    with pytest.raises(UsageError, match=r"there is no node in .*: make one with `unseen node init`"):
        Node(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="expected host:port"):
        Node.create(tmp_path / "new", BANK, "7443", now)
    assert not (tmp_path / "new").exists()


def test_a_name_of_any_length_makes_a_node_and_nothing_is_left_beside_it(tmp_path, now):
    (tmp_path / "n").mkdir()
    assert Node.create(tmp_path / "n", PartyId("a" * 63), None, now).identity().party == "a" * 63
    assert [path.name for path in tmp_path.iterdir()] == ["n"]


def test_a_key_that_others_can_read_is_refused_with_the_remedy(bank):
    (bank.folder / "node.pem").chmod(0o640)
    with pytest.raises(UsageError, match=r"node\.pem holds a private key, and others may read it: chmod 600"):
        bank.identity()


@pytest.mark.parametrize("text", ["", "name: Bank", "name: bank\nlisetn: x:1", "[", "name: [bank]"])
def test_a_configuration_that_is_wrong_is_refused(bank, text):
    (bank.folder / "node.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"node\.yaml[:,] "):
        Node(bank.folder)


def test_renewal_makes_a_new_key_under_the_same_root_and_leaves_the_old_one_valid(paired, now):
    bank, partner = paired
    before = bank.identity()
    until = bank.renew(now, days=30)
    after = bank.identity()
    assert timedelta(days=29) < until - now <= timedelta(days=30)
    assert after.key_pem != before.key_pem
    assert after.ca_pem == before.ca_pem
    for identity in (before, after):
        assert partner.identity().objection(BANK, identity.certificate_pem) is None
    for days in (0, 91):
        with pytest.raises(UsageError, match="valid for 1 to 90 days"):
            bank.renew(now, days=days)


def test_the_roots_key_may_lie_elsewhere(bank, partner, tmp_path, now):
    key = (bank.folder / "root-key.pem").rename(tmp_path / "safe.pem")
    assert bank.identity().party == BANK
    for act in (bank.renew, bank.revoke):
        with pytest.raises(UsageError, match=r"the key of the root is not at .*--root-key FILE"):
            act(now)
        with pytest.raises(UsageError, match="is not the key of the root of"):
            act(now, root_key=partner.folder / "root-key.pem")
    assert bank.renew(now, root_key=key) > now
    assert not bank.status().root_key_here


def test_revocation_takes_all_earlier_certificates_back_and_partners_believe_the_list(paired, now):
    bank, partner = paired
    first = bank.identity()
    bank.renew(now)
    second = bank.identity()
    assert bank.revoke(now) == 2
    third, trust = bank.identity(), partner.identity()
    assert trust.objection(BANK, first.certificate_pem) is None, "the partner has not heard of it yet"
    partner.partners.learn(BANK, bank.partners.own_list())
    for revoked in (first, second):
        assert "this certificate of bank was revoked by bank on" in trust.objection(BANK, revoked.certificate_pem)
    assert trust.objection(BANK, third.certificate_pem) is None
    status = bank.status()
    assert (status.revocations, status.revoked, status.serial) == (2, False, leaf(bank).serial_number)


def test_a_node_that_was_killed_while_revoking_says_what_is_left_to_do(bank, now):
    before = (bank.folder / "node.pem").read_bytes()
    bank.revoke(now)
    (bank.folder / "node.pem").write_bytes(before)
    assert bank.status().revoked
    with pytest.raises(UsageError, match="was revoked by this node: unseen node renew"):
        bank.identity()
    bank.renew(now)
    assert bank.identity().party == BANK


def test_lists_only_grow(paired, now):
    bank, partner = paired
    bank.revoke(now)
    old = bank.partners.own_list()
    register = (bank.folder / "issued.json").read_bytes()
    victim = bank.identity()
    bank.revoke(now + timedelta(seconds=5))
    partner.partners.learn(BANK, bank.partners.own_list())
    partner.partners.learn(BANK, old)
    assert partner.identity().objection(BANK, victim.certificate_pem) is not None
    # A node that was brought back from a copy does not repeat a number.
    (bank.folder / "issued.json").write_bytes(register)
    bank.revoke(now + timedelta(seconds=9))
    numbers = [read_list(der, bank.identity().ca_pem, sender="bank").number for der in (old, bank.partners.own_list())]
    assert numbers == [int(now.timestamp()), int(now.timestamp()) + 9]


def test_certificates_that_ran_out_are_forgotten(bank, now):
    bank.renew(now, days=1)
    bank.revoke(now + timedelta(days=4))
    assert len(read_list(bank.partners.own_list(), bank.identity().ca_pem, sender="bank").revoked) == 1
    bank.renew(now + timedelta(days=200))
    assert len(json.loads((bank.folder / "issued.json").read_text())["issued"]) == 1


def forged(bank, partner, now):
    return make_list(authority(partner), 1 << 40, {}, now=now)


@pytest.mark.parametrize(
    "make",
    [
        forged,
        lambda bank, partner, now: b"",
        lambda bank, partner, now: b"0" * 70_000,
        lambda bank, partner, now: make_list(authority(bank), 9, {}, now=now)[:-1] + b"\0",
        lambda bank, partner, now: (bank.folder / "root.pem").read_bytes(),
    ],
    ids=["of-another-root", "empty", "long", "tampered", "no-list"],
)
def test_a_list_that_the_partner_did_not_sign_is_refused(paired, make, now):
    bank, partner = paired
    with pytest.raises(RemoteProtocolError, match="bank: its revocation list is malformed, or not signed by its root"):
        partner.partners.learn(BANK, make(bank, partner, now))


def test_a_certificate_with_names_of_a_kind_that_nobody_reads_is_refused(paired, now):
    """An x400Address (tag 3) in place of the DNS name (tag 2): the library does not know it."""
    bank, partner = paired
    shown, root = (der(getattr(bank.identity(), name)) for name in ("certificate_pem", "ca_pem"))
    odd, odd_root = (content.replace(b"\x82\x1abank.", b"\xa3\x1abank.") for content in (shown, root))
    assert odd != shown
    assert odd_root != root
    with pytest.raises(RemoteProtocolError, match="the certificate of bank cannot be read"):
        read_leaf(odd, BANK)
    with pytest.raises(RemoteProtocolError, match="the root of bank cannot be read"):
        check_root(odd_root, BANK, now=now)
    pem = ssl.DER_cert_to_PEM_cert(odd).encode()
    assert partner.identity().objection(BANK, pem) == "its certificate cannot be read"


def test_who_does_not_stand_for_a_partner(paired, now):
    bank, partner = paired
    trust, root = partner.identity(), authority(bank)
    stranger = make_authority("Unseen node bank", days=9, now=now, party=BANK)
    long = issue(root, BANK, days=91, now=now)
    cases = {
        "is not from the root that was agreed when pairing": issue(stranger, BANK, days=9, now=now),
        "has expired: it is valid from": issue(root, BANK, days=2, now=now - timedelta(days=5)),
        "is not valid yet: it is valid from": issue(root, BANK, days=2, now=now + timedelta(days=5)),
        "is valid for 91 days, allowed are 90": long,
        "is not one of bank": issue(root, PARTNER, days=9, now=now),
    }
    for complaint, identity in cases.items():
        assert complaint in trust.objection(BANK, identity.certificate_pem)
    assert "cannot be read" in trust.objection(BANK, b"?")
    telco = PartyId("telco")
    assert trust.objection(telco, bank.identity().certificate_pem) == "telco is not a partner of this node"
    with pytest.raises(UsageError, match=r"telco is not a partner of the node in .*: it was paired with bank"):
        trust.authority_of(telco)
    partner.partners.strike(BANK, now)
    assert "struck off the partner list" in trust.objection(BANK, bank.identity().certificate_pem)


def test_a_partner_keeps_its_root_until_it_is_struck_off(paired, now):
    bank, partner = paired
    other = make_authority("Unseen node bank", days=9, now=now, party=BANK).certificate_pem
    with pytest.raises(PermissionDenied, match=r"with another root; .*unseen node revoke .* --partner bank"):
        partner.partners.add(BANK, other, None, now)
    partner.partners.add(BANK, bank.identity().ca_pem, "elsewhere:1", now)
    assert partner.partners.get(BANK).endpoint == "elsewhere:1"
    partner.partners.strike(BANK, now)
    partner.partners.add(BANK, other, None, now)
    assert partner.partners.get(BANK).struck is None


@pytest.mark.parametrize(
    "make",
    [
        lambda now: make_authority("any", days=9, now=now),
        lambda now: make_authority("other", days=9, now=now, party=PARTNER),
        lambda now: make_authority("old", days=1, now=now - timedelta(days=9), party=BANK),
        lambda now: Authority(issue(make_authority("x", days=9, now=now), BANK, days=9, now=now).certificate_pem, b""),
    ],
    ids=["of-everybody", "of-another", "expired", "a-leaf"],
)
def test_a_root_that_could_certify_others_is_refused(make, now):
    with pytest.raises(RemoteProtocolError, match="the root of bank "):
        check_root(der(make(now).certificate_pem), BANK, now=now)


@pytest.mark.parametrize(
    ("key", "good"),
    [
        (ec.generate_private_key(ec.SECP192R1()), False),
        (ec.generate_private_key(ec.SECP224R1()), False),
        (ec.generate_private_key(ec.SECP256R1()), True),
        (ec.generate_private_key(ec.SECP384R1()), True),
        (ed25519.Ed25519PrivateKey.generate(), False),
    ],
    ids=["p192", "p224", "p256", "p384", "ed25519"],
)
def test_keys_of_roots_and_certificates_are_of_curves_that_hold(key, good, now):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank")])

    def signed(ca, *more):
        builder = tls._builder(name, name, key.public_key(), days=9, now=now).add_extension(
            x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True
        )
        builder = builder.add_extension(tls._usage(signs_certificates=ca), critical=True)
        for extension in more:
            builder = builder.add_extension(extension, critical=True)
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, algorithm)

    bank = x509.DNSName(host_name(BANK))
    root = signed(True, x509.NameConstraints([bank], None))
    content = root.public_bytes(serialization.Encoding.DER)
    leaf = signed(False, x509.SubjectAlternativeName([bank]))
    problem = leaf_problem(leaf, root.public_bytes(serialization.Encoding.PEM), BANK, now=now)
    if good:
        assert check_root(content, BANK, now=now) == root
        assert problem is None
        return
    with pytest.raises(RemoteProtocolError, match="not signed by an elliptic-curve key of its own, of 256 bits"):
        check_root(content, BANK, now=now)
    assert problem == "the certificate is not one of bank"


def test_a_damaged_partner_list_is_an_error_and_not_an_empty_list(bank):
    (bank.folder / "partners.json").write_text('{"partners": {"x')
    with pytest.raises(DataError, match=r"partners\.json is missing or damaged"):
        bank.partners.all()


def test_both_kinds_of_folders_are_loaded(bank, tmp_path, now):
    assert load_identity(bank.folder) == bank.identity()
    plain = issue(make_authority("x", days=9, now=now), BANK, days=9, now=now)
    plain.save(tmp_path / "plain")
    assert load_identity(tmp_path / "plain") == plain
    assert isinstance(plain, Identity)
    assert plain.trust is None


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 700), byte=st.integers(0, 255), cut=st.integers(0, 4))
def test_no_change_of_a_certificate_or_list_does_more_than_be_refused(place, byte, cut):
    for der_bytes, read in READERS:
        at = place % len(der_bytes)
        changed = der_bytes[:at] + bytes([byte]) + der_bytes[at + 1 + cut :]
        if changed == der_bytes:
            continue
        with warnings.catch_warnings():
            # The library warns of serial numbers that are not positive.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            try:
                problem = read(changed)
            except RemoteProtocolError as error:
                problem = str(error)
        assert isinstance(problem, str)
