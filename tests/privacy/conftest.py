"""A bank that owns a table of customers, and a partner that asks for sessions with it."""

from datetime import UTC, datetime, timedelta

import pytest

from unseen.ids import PartyId
from unseen.privacy.facts import Began, Ended, Released, Request, Seen, SessionId, TableId, Variant
from unseen.privacy.limits import Allowance, Limits

PARTNER, OTHER = PartyId("partner"), PartyId("other")
TABLE = TableId("customers")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class World:
    """Makes requests, facts and limits that differ from the usual ones only in what is said."""

    noon, partner, other, table = NOON, PARTNER, OTHER, TABLE

    def asked(self, session="s-1", **changes):
        fields = {
            "partner": PARTNER,
            "session": SessionId(session),
            "at": NOON,
            "table": TABLE,
            "key_columns": ("phone",),
            "variant": Variant.INTERSECT,
            "own_rows": 10_000,
            "partner_rows": 2_000,
            "own_snapshot": "0a" * 32,
            "partner_snapshot": "0b" * 32,
        }
        return Request(**(fields | changes))

    def began(self, request):
        return [request, Began(partner=request.partner, session=request.session, at=request.at)]

    def released(self, request, size=500):
        return [*self.began(request), Released(**self._end(request), size=size)]

    def failed(self, request, size=None):
        return [*self.began(request), Ended(**self._end(request), how="failed", size=size)]

    def seen(self, request, fingerprints):
        return Seen(partner=request.partner, session=request.session, at=request.at, fingerprints=fingerprints)

    def _end(self, request):
        return {"partner": request.partner, "session": request.session, "at": request.at + timedelta(minutes=5)}

    def allowance(self, **changes):
        fields = {
            "partner": PARTNER,
            "table": TABLE,
            "key_columns": ("phone",),
            "variants": frozenset(Variant),
            "valid_from": NOON - timedelta(days=30),
            "valid_until": NOON + timedelta(days=300),
            "points_per_session": 2_000,
            "points_total": 6_000,
        }
        return Allowance(**(fields | changes))

    def limits(self, **changes):
        return Limits(allowances=(self.allowance(**changes),))


@pytest.fixture(scope="session")
def world():
    return World()
