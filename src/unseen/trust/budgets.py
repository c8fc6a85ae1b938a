"""The ledger of what an owner has let a partner have, debited before anything leaves, receipted by the partner.

What a charge means is ``privacy``'s business: points are decided by ``enumeration.before`` and ``after``, ε by
``epsilon.Budget``. Here charges become durable, ordered, and known to both sides:

* Each charge is a **receipt**: numbered, naming the digest of the one before, signed by the owner, and kept. The
  partner checks that it follows the last one it has, keeps it and **countersigns**.
* Only when the ledger is *settled*, that is all receipts are countersigned, points are evaluated, noise is drawn,
  results leave. A crash leaves a charge for nothing, never the reverse.
* An owner whose ledger comes from an old backup issues a number that the partner has already seen. The partner refuses
  and sends what it holds; ``missing`` puts it back, so that the budget is what it was. A partner that would rather
  keep silent gains nothing from that alone: the owner's trail says how many charges there were, and all other members
  hold heads of it (``audit``).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AwareDatetime, Base64Bytes, Field, TypeAdapter

from unseen.errors import DataError, PermissionDenied, RemoteProtocolError, UnseenError
from unseen.flow.spec import canonical_json
from unseen.ids import PartyId
from unseen.privacy.decisions import Allow, Freeze, FromCache, Refuse, Release, Result, Withhold
from unseen.privacy.enumeration import after, before
from unseen.privacy.epsilon import Account, Budget, Limit
from unseen.privacy.events import Spend, covered
from unseen.privacy.facts import Began, Ended, Fact, Froze, Released, Request, Seen, SessionId, Thawed
from unseen.privacy.limits import Limits
from unseen.privacy.lines import read_line
from unseen.trust.agreement import Agreement, ProjectId
from unseen.trust.envelope import NOTHING, Envelope, Part, Statement, countersigned, open_envelope, read_envelope, seal
from unseen.trust.grant import Grant
from unseen.trust.keys import Digest, SigningKey, key_id

MAX_CHARGES = 1_000_000


class Receipt(Statement):
    """One charge: a session of intersection, or noise that is spent."""

    kind: ClassVar[str] = "application/vnd.unseen.receipt.v1+json"

    project: ProjectId
    owner: PartyId
    partner: PartyId
    number: Annotated[int, Field(ge=1, le=MAX_CHARGES)]
    previous: Digest
    """Of the receipt before; zeros for the first one."""
    grant: Digest
    """Under which it is charged."""
    at: AwareDatetime
    charge: Annotated[Request | Spend, Field(discriminator="fact")]


class Charged(Part):
    """The ledger's line for a charge: the receipt in its envelope, as the owner signed it."""

    entry: Literal["charged"] = "charged"
    envelope: Base64Bytes


class Acknowledged(Part):
    """The same receipt with both signatures, as the partner returned it."""

    entry: Literal["acknowledged"] = "acknowledged"
    envelope: Base64Bytes


class Dropped(Part):
    """Charges from this one on are taken back: none was countersigned, and the partner holds others in their place."""

    entry: Literal["dropped"] = "dropped"
    number: Annotated[int, Field(ge=1, le=MAX_CHARGES)]


class Noted(Part):
    """What became of a session that was charged."""

    entry: Literal["noted"] = "noted"
    fact: Annotated[Seen | Released | Ended | Froze | Thawed, Field(discriminator="fact")]


Entry: TypeAlias = Charged | Acknowledged | Dropped | Noted
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="entry")])


def entry_line(entry: Entry) -> bytes:
    """Return a line for a store; ``read_entry`` gives it back."""
    return entry.payload()


def read_entry(line: bytes, where: str) -> Entry:
    """Return the entry in a line; ``where`` names it in messages.

    Raises:
        DataError: It is none.
    """
    entry = read_line(_ENTRY, line, where, "an entry of a ledger")
    if entry.payload() != line:
        raise DataError(f"{where} is not an entry of a ledger: it is not spelt as it was written")
    return entry


def points_of(agreement: Agreement, owner: PartyId) -> Limits:
    """Return what ``owner`` lets others intersect; nothing, if the agreement does not say it."""
    return Limits(allowances=tuple(entry.allowance for entry in agreement.points if entry.owner == owner))


def epsilon_of(agreement: Agreement, owner: PartyId, partner: PartyId, table: str) -> Limit:
    """Return how much differential privacy of a table ``owner`` lets be spent towards ``partner``.

    Raises:
        PermissionDenied: The agreement does not say it.
    """
    for entry in agreement.epsilon:
        if (entry.owner, entry.partner, entry.table) == (owner, partner, table):
            return Limit(entry.table, entry.epsilon, entry.delta, entry.unit, entry.relation)
    raise PermissionDenied(f"{agreement} allows no noise on {table} of {owner} towards {partner}")


@dataclass(frozen=True, slots=True)
class Parties:
    """Whose ledger it is: project, owner and partner, and the public keys of the two."""

    project: ProjectId
    owner: PartyId
    partner: PartyId
    owner_key: str
    partner_key: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """An owner's account of one partner in one project: a value, to which entries are added."""

    parties: Parties
    receipts: tuple[Receipt, ...] = ()
    acknowledged: int = 0
    """How many receipts the partner has countersigned."""
    noted: tuple[Fact, ...] = ()
    _charged: frozenset[SessionId] = field(default=frozenset(), repr=False)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts about sessions; each charge is a request that began."""
        requests = [receipt.charge for receipt in self.receipts if isinstance(receipt.charge, Request)]
        began = [Began(partner=asked.partner, session=asked.session, at=asked.at) for asked in requests]
        return (*requests, *began, *self.noted)

    @property
    def spends(self) -> tuple[Spend, ...]:
        """All noise that was spent."""
        return tuple(receipt.charge for receipt in self.receipts if isinstance(receipt.charge, Spend))

    @property
    def settled(self) -> bool:
        """Whether the partner has countersigned all; before that, nothing is evaluated, drawn or released."""
        return self.acknowledged == len(self.receipts)

    def has_settled(self, request: Request) -> bool:
        """Return whether a session's receipt is countersigned, whatever was charged since; or else all receipts are."""
        return self.settled or any(receipt.charge == request for receipt in self.receipts[: self.acknowledged])

    @property
    def head(self) -> str:
        """Digest of the last receipt."""
        return self.receipts[-1].digest if self.receipts else NOTHING

    def after(self, entry: Entry) -> Ledger:
        """Return the ledger with one more entry.

        Raises:
            DataError: It does not follow: the file is damaged, or not this ledger's.
        """
        try:
            if isinstance(entry, Charged):
                return self._with_charge(read_envelope(entry.envelope, sender="ledger"))
            if isinstance(entry, Acknowledged):
                return self._with_acknowledgement(read_envelope(entry.envelope, sender="ledger"))
        except RemoteProtocolError as error:
            raise DataError(f"{self}: entry {len(self.receipts) + 1} does not follow: {error}; restore it") from error
        if isinstance(entry, Dropped):
            return self._without_from(entry.number)
        if entry.fact.partner != self.parties.partner or entry.fact.session not in self._charged:
            raise DataError(f"{self}: a fact about session {entry.fact.session}, which was not charged; restore it")
        return replace(self, noted=(*self.noted, entry.fact))

    def _with_charge(self, envelope: Envelope) -> Ledger:
        receipt = open_envelope(envelope, Receipt, (self.parties.owner_key,), sender=self.parties.owner)
        _check_place(receipt, self.parties, len(self.receipts), self.head)
        charged = self._charged | {receipt.charge.session} if isinstance(receipt.charge, Request) else self._charged
        return replace(self, receipts=(*self.receipts, receipt), _charged=charged)

    def _without_from(self, number: int) -> Ledger:
        if not self.acknowledged < number <= len(self.receipts):
            raise DataError(f"{self}: receipt {number} cannot be taken back: it is countersigned, or not there")
        receipts = self.receipts[: number - 1]
        charged = frozenset(made.charge.session for made in receipts if isinstance(made.charge, Request))
        noted = tuple(fact for fact in self.noted if fact.session in charged)
        return replace(self, receipts=receipts, noted=noted, _charged=charged)

    def _with_acknowledgement(self, envelope: Envelope) -> Ledger:
        number = self.acknowledged + 1
        keys = (self.parties.owner_key, self.parties.partner_key)
        receipt = open_envelope(envelope, Receipt, keys, sender=self.parties.partner)
        if number > len(self.receipts) or receipt.digest != self.receipts[number - 1].digest:
            raise RemoteProtocolError(f"{self.parties.partner}: expected receipt {number}, found {receipt.number}")
        return replace(self, acknowledged=number)

    def __str__(self) -> str:
        return f"ledger of {self.parties.owner} for {self.parties.partner} in {self.parties.project}"

    # --- charging --------------------------------------------------------------------------------------------------

    def charge_points(
        self,
        request: Request,
        limits: Limits,
        grant: Grant,
        key: SigningKey,
        same: Collection[SessionId] | None = None,
    ) -> tuple[Allow | FromCache | Refuse, tuple[Charged, ...]]:
        """Return whether a session may begin, and the entry to keep before its first point is evaluated.

        ``same`` is as in ``enumeration.before``: the sessions whose result can be given again.

        Raises:
            DataError: The facts contradict each other; nothing may go out before they are restored.
            PermissionDenied: The request is another partner's, or the grant does not cover it.
        """
        if request.partner != self.parties.partner:
            raise PermissionDenied(f"{self}: {request.partner} asks for points of another partner")
        self._check_grant(grant, request.at)
        self._check_tables(request, grant)
        decision = before(request, self.facts, limits, same)
        if not isinstance(decision, Allow):
            return decision, ()
        used = sum(charge.partner_rows for charge in self._under(grant) if isinstance(charge, Request))
        if used + request.partner_rows > grant.points:
            raise PermissionDenied(
                f"{self}: job {grant.job} has used {used} of its {grant.points} points, and asks for "
                f"{request.partner_rows}"
            )
        return decision, (self._charged_with(request, grant, request.at, key),)

    def charge_noise(
        self, spend: Spend, limit: Limit, account: Account, grant: Grant, at: datetime, key: SigningKey
    ) -> tuple[Charged, ...]:
        """Return the entry to keep before noise is drawn; none, if an earlier one covers it.

        Raises:
            PermissionDenied: It would pass the limit, or what the grant gives to its job; or the grant counts ε at a
                larger δ than the limit, at which any ε is small.
            UsageError: It is about other data, another unit or another relation than the limit.
        """
        self._check_grant(grant, at)
        if grant.delta > limit.delta:
            raise PermissionDenied(
                f"{self}: the grant of job {grant.job} counts ε at δ = {grant.delta:g}, allowed are {limit.delta:g}"
            )
        kept: list[Charged] = []
        facts = [fact for fact in self.spends if fact.about == limit.about]
        budget = Budget(
            limit, account, facts=facts, keep=lambda fact: kept.append(self._charged_with(fact, grant, at, key))
        )
        if any(fact.kind == spend.kind and fact.rounds >= spend.rounds for fact in facts):
            return ()  # a job that is resumed sends the same bits again
        budget.spend(spend)
        spent = [charge for charge in self._under(grant) if isinstance(charge, Spend) and charge.about == spend.about]
        if kept and not (grant.epsilon > 0 and account(covered([*spent, spend]), grant.delta) <= grant.epsilon):
            raise PermissionDenied(f"{self}: more noise than the ε = {grant.epsilon:g} that job {grant.job} may spend")
        return tuple(kept)

    def _under(self, grant: Grant) -> list[Request | Spend]:
        return [receipt.charge for receipt in self.receipts if receipt.grant == grant.digest]

    def _check_grant(self, grant: Grant, at: datetime) -> None:
        if (grant.issuer, grant.project) != (self.parties.owner, self.parties.project):
            raise PermissionDenied(f"{self}: the grant is one of {grant.issuer} in {grant.project}")
        if not grant.valid_from <= at < grant.valid_until:
            raise PermissionDenied(f"{self}: the grant of job {grant.job} is not valid at {at.isoformat()}")

    def _check_tables(self, request: Request, grant: Grant) -> None:
        own = (self.parties.owner, request.table, request.own_snapshot, request.own_rows)
        if own not in {(known.owner, known.name, known.digest, known.rows) for known in grant.tables}:
            raise PermissionDenied(f"{self}: job {grant.job} has no grant for this version of {request.table}")
        if request.partner_snapshot not in {known.digest for known in grant.tables if known.owner == request.partner}:
            raise PermissionDenied(f"{self}: {request.partner} brings another list than the grant of {grant.job} names")

    def _charged_with(self, charge: Request | Spend, grant: Grant, at: datetime, key: SigningKey) -> Charged:
        receipt = Receipt(
            project=self.parties.project,
            owner=self.parties.owner,
            partner=self.parties.partner,
            number=len(self.receipts) + 1,
            previous=self.head,
            grant=grant.digest,
            at=at,
            charge=charge,
        )
        return _charged(seal(receipt, key))

    def acknowledgement(self, envelope: Envelope) -> Acknowledged:
        """Return the entry for a countersigned receipt.

        Raises:
            RemoteProtocolError: It is not the next receipt with both signatures.
        """
        self._with_acknowledgement(envelope)
        return Acknowledged.model_validate_json(_line("acknowledged", envelope))

    def release(self, request: Request, result: Result, limits: Limits) -> Release | Withhold | Freeze:
        """Return whether the result of a charged session may go out; its records are to be kept first (``Noted``).

        Raises:
            PermissionDenied: The partner has not countersigned the session's receipt, and so all before it.
            DataError: The facts contradict each other.
        """
        if not self.has_settled(request):
            raise PermissionDenied(
                f"{self}: {len(self.receipts) - self.acknowledged} receipts are not countersigned; nothing leaves "
                f"before {self.parties.partner} has done that"
            )
        return after(request, result, self.facts, limits)

    def missing(self, held: Sequence[Envelope]) -> tuple[Charged | Dropped, ...]:
        """Return the entries that a partner's receipts show to be lost here: keep them, and go on from there.

        What was charged here in their place, and not countersigned, is taken back.

        Raises:
            RemoteProtocolError: They are not this owner's, or contradict what the partner itself has countersigned.
        """
        found: list[Charged | Dropped] = []
        ledger = self
        for envelope in held:
            single = _without(envelope, self.parties.partner_key)
            receipt = open_envelope(single, Receipt, (self.parties.owner_key,), sender=self.parties.partner)
            if receipt.number <= len(ledger.receipts):
                if receipt.digest == ledger.receipts[receipt.number - 1].digest:
                    continue
                if receipt.number <= ledger.acknowledged:
                    raise RemoteProtocolError(f"{self}: {receipt.partner} countersigned receipt {receipt.number} twice")
                ledger = ledger._without_from(receipt.number)  # another value of this class
                found.append(Dropped(number=receipt.number))
            ledger = ledger._with_charge(single)  # another value of this class
            found.append(_charged(single))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Received:
    """A partner's side: the receipts that it has countersigned for one owner."""

    parties: Parties
    envelopes: tuple[Envelope, ...] = ()

    @property
    def _head(self) -> str:
        return self.envelopes[-1].digest if self.envelopes else NOTHING

    def accept(self, envelope: Envelope, key: SigningKey) -> tuple[Received, Envelope]:
        """Return the receipts with one more, and it countersigned: to be kept before it is sent back.

        One that it holds already is answered as before, since the answer may have been lost.

        Raises:
            RemoteProtocolError: It does not follow the last one: the owner's ledger lost charges, or has two histories.
        """
        receipt = open_envelope(envelope, Receipt, (self.parties.owner_key,), sender=self.parties.owner)
        if receipt.number <= len(self.envelopes) and self.envelopes[receipt.number - 1].digest == envelope.digest:
            return self, self.envelopes[receipt.number - 1]
        _check_place(receipt, self.parties, len(self.envelopes), self._head)
        signed = countersigned(envelope, key)
        return replace(self, envelopes=(*self.envelopes, signed)), signed

    def after(self, signed: Envelope) -> Received:
        """Return the receipts with one that was kept.

        Raises:
            DataError: It does not follow: the file is damaged.
        """
        keys = (self.parties.owner_key, self.parties.partner_key)
        try:
            _check_place(
                open_envelope(signed, Receipt, keys, sender="receipts"), self.parties, len(self.envelopes), self._head
            )
        except UnseenError as error:
            raise DataError(f"receipts of {self.parties.owner}: damaged: {error}") from error
        return replace(self, envelopes=(*self.envelopes, signed))


def _check_place(receipt: Receipt, parties: Parties, count: int, head: str) -> None:
    if (receipt.project, receipt.owner, receipt.partner) != (parties.project, parties.owner, parties.partner):
        raise RemoteProtocolError(f"{receipt.owner}: a receipt for {receipt.partner} in {receipt.project} is not ours")
    if isinstance(receipt.charge, Request) and receipt.charge.partner != parties.partner:
        raise RemoteProtocolError(f"{receipt.owner}: a receipt for {receipt.partner} charges {receipt.charge.partner}")
    if receipt.number <= count:
        raise RemoteProtocolError(
            f"{receipt.owner}: receipt {receipt.number} comes after receipt {count}: its ledger was put back; "
            "send it what it lost"
        )
    if (receipt.number, receipt.previous) != (count + 1, head):
        raise RemoteProtocolError(f"{receipt.owner}: receipt {receipt.number} does not follow receipt {count}")


def _charged(envelope: Envelope) -> Charged:
    return Charged.model_validate_json(_line("charged", envelope))


def _line(entry: str, envelope: Envelope) -> str:
    # Bytes stand in Base64 in JSON only, so that a line is the way to make one.
    return canonical_json({"entry": entry, "envelope": base64.b64encode(envelope.to_bytes()).decode()})


def _without(envelope: Envelope, key: str) -> Envelope:
    kept = tuple(signature for signature in envelope.signatures if signature.key != key_id(key))
    return Envelope(envelope.kind, envelope.payload, kept)
