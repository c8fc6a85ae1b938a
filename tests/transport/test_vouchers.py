from __future__ import annotations

import json
from datetime import timedelta

import pytest

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.tls import issue, make_authority
from unseen.transport.vouchers import vouch, vouched

ALICE, BOB = PartyId("alice"), PartyId("bob")


def test_a_certificate_vouches_for_another_key_of_its_party(identities, authority, now):
    voucher = vouch(identities[ALICE], b"k" * 32)
    assert vouched(voucher, identities[BOB], now) == (ALICE, b"k" * 32)
    fields = json.loads(voucher)
    other = make_authority("Other", days=1, now=now)
    for wrong, complaint in (
        (fields | {"key": (b"m" * 32).hex()}, "not signed by the key"),
        (fields | {"certificate": identities[BOB].certificate_pem.decode()}, "voucher of bob is not signed"),
        (fields | {"certificate": "nonsense"}, "cannot be read"),
        ({"key": "00"}, "cannot be read"),
        ([], "cannot be read"),
    ):
        with pytest.raises(UsageError, match=complaint):
            vouched(json.dumps(wrong).encode(), identities[BOB], now)
    with pytest.raises(UsageError, match="is not of this federation"):
        vouched(voucher, issue(other, BOB, days=1, now=now), now)
    with pytest.raises(UsageError, match="not valid now"):
        vouched(voucher, identities[BOB], now + timedelta(days=2))
