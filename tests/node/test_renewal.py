"""A node that runs goes on with what ``unseen node renew`` and ``revoke`` have put into its folder."""

from __future__ import annotations

import pytest

from unseen.errors import UsageError
from unseen.node.folder import Node
from unseen.node.renewal import Renewal


def test_a_renewed_certificate_is_shown_once_and_a_revoked_one_is_replaced(bank, now):
    shown = []
    renewal = Renewal(bank, shown.append)
    renewal()
    assert shown == []
    for change in (Node.renew, Node.revoke):
        change(Node(bank.folder), now)
        renewal()
        renewal()
        assert shown[-1].certificate_pem == bank.identity().certificate_pem
    assert len({identity.certificate_pem for identity in shown}) == len(shown) == 2


def test_what_cannot_be_used_is_logged_once_and_the_certificate_before_stays(bank, now, caplog):
    shown = []
    renewal = Renewal(bank, shown.append)
    path = bank.folder / "node.pem"
    good = path.read_bytes()
    path.unlink()
    renewal()
    path.write_bytes(b"damaged")
    path.chmod(0o600)
    renewal()
    renewal()
    assert shown == []
    assert caplog.text.count("cannot be taken up") == 2
    with pytest.raises(UsageError):
        bank.identity()
    path.write_bytes(good)
    renewal()
    assert [identity.certificate_pem for identity in shown] == [bank.identity().certificate_pem]
