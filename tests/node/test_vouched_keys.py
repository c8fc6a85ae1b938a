"""Vouchers between nodes that each have a root of their own: revoked certificates vouch for nothing."""

from __future__ import annotations

import pytest

from unseen.errors import UsageError
from unseen.node.rounds import read_roster, voucher

KEY, STOLEN = b"k" * 32, b"s" * 32


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "vouchers"
    made.mkdir()
    return made


def test_a_voucher_under_a_revoked_certificate_counts_nowhere(paired, folder, now):
    """Whoever stole the certificate's key would vouch for a key of its own."""
    bank, partner = paired
    place = folder / "partner.json"
    place.write_bytes(voucher(partner.folder, STOLEN)[1])
    assert read_roster(bank.folder, folder, now) == {"partner": STOLEN}
    partner.revoke(now)
    with pytest.raises(UsageError, match=r"the voucher of partner does not count: its certificate was revoked here"):
        read_roster(partner.folder, folder, now)
    bank.partners.learn(partner.name, partner.partners.own_list())
    with pytest.raises(
        UsageError, match=r"does not count: this certificate of partner was revoked .*has to vouch anew"
    ):
        read_roster(bank.folder, folder, now)
    place.write_bytes(voucher(partner.folder, KEY)[1])
    assert read_roster(bank.folder, folder, now) == read_roster(partner.folder, folder, now) == {"partner": KEY}


def test_a_voucher_of_one_that_is_no_partner_counts_for_nothing(paired, folder, now):
    bank, partner = paired
    (folder / "partner.json").write_bytes(voucher(partner.folder, KEY)[1])
    bank.partners.strike(partner.name, now)
    with pytest.raises(UsageError, match="does not count: partner was struck off"):
        read_roster(bank.folder, folder, now)
    (bank.folder / "partners.json").unlink()
    with pytest.raises(UsageError, match="partner is not a partner of the node"):
        read_roster(bank.folder, folder, now)
