from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import pytest
from cryptography import x509

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.tls import (
    Identity,
    certify,
    fingerprint,
    host_name,
    issue,
    issued_by,
    make_authority,
    party_in,
    party_named,
    request,
)

ALICE, BOB = PartyId("alice"), PartyId("bob")


def test_an_identity_survives_a_folder_and_its_key_is_private(identities, tmp_path):
    identities[ALICE].save(tmp_path / "a")
    identities[ALICE].save(tmp_path / "a")
    assert Identity.load(tmp_path / "a") == identities[ALICE]
    assert (tmp_path / "a" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_certificate_pins_party_dates_and_purposes(identities, authority, now):
    certificate = x509.load_pem_x509_certificate(identities[ALICE].certificate_pem)
    assert party_in(certificate) == ALICE
    assert host_name(ALICE) == "alice.party.unseen.internal"
    assert certificate.not_valid_after_utc == (now + timedelta(days=1)).replace(microsecond=0)
    assert issued_by(certificate, authority.certificate_pem)
    assert not issued_by(certificate, make_authority("Other", days=1, now=now).certificate_pem)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {purpose._name for purpose in purposes} == {"clientAuth", "serverAuth"}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_authority_certifies_a_key_it_never_sees(authority, now):
    asked = request(BOB)
    certificate = certify(authority, BOB, asked.request_pem, days=3, now=now)
    assert Identity(BOB, certificate, asked.key_pem, authority.certificate_pem).party == BOB
    with pytest.raises(UsageError, match="cannot be read"):
        certify(authority, BOB, b"nonsense", days=3, now=now)


def test_keys_neither_print_nor_pickle(identities, authority):
    for secret in (identities[ALICE], authority, request(BOB)):
        assert b"PRIVATE" in secret.key_pem
        assert "PRIVATE" not in repr(secret)
        assert "PRIVATE" not in str(secret)
        for leak in (pickle.dumps, copy.deepcopy):
            with pytest.raises(UsageError, match="private key"):
                leak(secret)


def test_parts_that_do_not_belong_together_are_refused(identities, authority, now):
    one, other = identities[ALICE], issue(authority, ALICE, days=1, now=now)
    with pytest.raises(UsageError, match="does not belong"):
        Identity(ALICE, one.certificate_pem, other.key_pem, one.ca_pem)
    with pytest.raises(UsageError, match="not one of bob"):
        Identity(BOB, one.certificate_pem, one.key_pem, one.ca_pem)
    with pytest.raises(UsageError, match="cannot be read"):
        Identity(ALICE, one.certificate_pem, b"?", one.ca_pem)
    assert len(fingerprint(one.ca_pem)) == 16


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"certificate\.pem cannot be read"):
        Identity.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "party"),
    [
        (["alice.party.unseen.internal"], ALICE),
        ([], None),
        (["alice"], None),
        (["alice.party.unseen.internal", "bob.party.unseen.internal"], None),
        (["*.party.unseen.internal"], None),
        (["alice.example.com"], None),
        (["x.alice.party.unseen.internal"], None),
    ],
)
def test_a_name_stands_for_one_party_or_none(names, party):
    assert party_named(names) == party
