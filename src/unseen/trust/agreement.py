"""The agreement behind a project: who, for what, until when, with which columns, steps, recipients and budgets.

It is valid only with the signatures of all its members. A change is a new version that names the digest of the one
before, signed by all members of both, each by the key that it has there: otherwise some of them could put another key,
or nobody, in the place of the rest. Any member revokes alone: one signature, and the agreement is over for whoever sees
it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable, Iterable
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints, field_validator, model_validator

from unseen.errors import RemoteProtocolError
from unseen.flow.spec import canonical_json
from unseen.ids import Identifier, PartyId
from unseen.privacy.events import Relation, Unit
from unseen.privacy.facts import TableId
from unseen.privacy.limits import Allowance
from unseen.trust.envelope import Envelope, Part, Statement, open_envelope, read_statement
from unseen.trust.keys import Digest, is_sound

Words = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ProjectId(Identifier):
    """What parties do together, through all versions of their agreement."""

    __slots__ = ()


class ColumnRole(enum.StrEnum):
    """What a column may be used for."""

    JOIN_KEY = "join-key"
    FEATURE = "feature"
    LABEL = "label"
    NEVER = "never"
    """Named so that everybody sees that it stays unused."""


class Member(Part):
    """A party, its key for statements, and that of its certificate: whoever speaks for it has to have both."""

    party: PartyId
    key: Digest
    """The 32 bytes of an Ed25519 public key."""
    certificate: Digest
    """SHA-256 of the SubjectPublicKeyInfo of its certificate; of a node, of the root that issues its certificates."""

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: str) -> str:
        if not is_sound(key):
            raise ValueError("not a sound Ed25519 public key")
        return key


class AgreedColumn(Part):
    """A column of a table and what it may be used for."""

    name: Name
    role: ColumnRole


class AgreedTable(Part):
    """A table through all its versions; its columns, and the digest of their names, roles and kinds."""

    owner: PartyId
    name: TableId
    schema_digest: Digest
    columns: Annotated[tuple[AgreedColumn, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _unique("columns", (column.name for column in self.columns))
        return self

    def role(self, column: str) -> ColumnRole:
        """Return what a column may be used for: never, unless the agreement says something else."""
        return next((known.role for known in self.columns if known.name == column), ColumnRole.NEVER)


class Range(Part):
    """A number within bounds, both included."""

    bound: Literal["range"] = "range"
    low: float
    high: float

    def admits(self, value: JsonValue) -> bool:
        """Return whether a parameter may have this value."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class OneOf(Part):
    """One of these values; of one value, that value."""

    bound: Literal["one-of"] = "one-of"
    values: Annotated[tuple[JsonValue, ...], Field(min_length=1)]

    def admits(self, value: JsonValue) -> bool:
        """Return whether a parameter may have this value; 1 is not true, and not 1.0."""
        return canonical_json(value) in map(canonical_json, self.values)

    def __str__(self) -> str:
        return " or ".join(map(canonical_json, self.values))


Bound = Annotated[Range | OneOf, Field(discriminator="bound")]


class AgreedComponent(Part):
    """A kind of step that flows may use.

    A parameter without bounds has to be what the component's own default is. An output that is not listed may be at
    nobody's.
    """

    name: Name
    version: Annotated[int, Field(ge=1)]
    bounds: dict[Name, Bound] = Field(default_factory=dict)
    outputs: dict[Name, tuple[PartyId, ...]] = Field(default_factory=dict)
    """Port → who may have it."""


class AgreedPoints(Part):
    """How many points an owner lets a partner have; what variants of intersection are allowed at all is said here."""

    owner: PartyId
    allowance: Allowance


class AgreedEpsilon(Part):
    """How much differential privacy of a table may be spent towards a partner, ever."""

    owner: PartyId
    partner: PartyId
    table: TableId
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: Unit
    relation: Relation


class Agreement(Statement):
    """What the members of a project allow each other; what is not said is refused.

    Raises:
        ValidationError: A field is missing, unknown or malformed, or something is said about a stranger, or twice.
    """

    kind: ClassVar[str] = "application/vnd.unseen.agreement.v1+json"

    project: ProjectId
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    previous: Digest | None
    """Of the version before; ``None`` for the first one."""
    purpose: Words
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=64)]
    initiators: tuple[PartyId, ...]
    """Who may ask for jobs."""
    tables: tuple[AgreedTable, ...]
    components: tuple[AgreedComponent, ...]
    points: tuple[AgreedPoints, ...] = ()
    epsilon: tuple[AgreedEpsilon, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.version == 1) != (self.previous is None):
            raise ValueError("previous: the first version has none, every later one has one")
        if self.valid_until <= self.valid_from:
            raise ValueError("valid_until has to be later than valid_from")
        self._check_uniqueness()
        self._check_strangers()
        return self

    def _check_uniqueness(self) -> None:
        _unique("members", (member.party for member in self.members))
        _unique("keys of members", (member.key for member in self.members))
        _unique("certificates of members", (member.certificate for member in self.members))
        _unique("tables", ((table.owner, table.name) for table in self.tables))
        _unique("components", (component.name for component in self.components))
        _unique("epsilon", ((limit.owner, limit.partner, limit.table) for limit in self.epsilon))
        for index, entry in enumerate(self.points):
            for earlier in self.points[:index]:
                if entry.owner == earlier.owner and entry.allowance.meets(earlier.allowance):
                    raise ValueError("points: two allowances cover the same requests")

    def _check_strangers(self) -> None:
        named = {
            *self.initiators,
            *(table.owner for table in self.tables),
            *(party for component in self.components for at in component.outputs.values() for party in at),
            *(party for entry in self.points for party in (entry.owner, entry.allowance.partner)),
            *(party for limit in self.epsilon for party in (limit.owner, limit.partner)),
        }
        if strangers := named - {member.party for member in self.members}:
            raise ValueError(f"{sorted(strangers)[0]} is named, and no member")

    def member(self, party: PartyId) -> Member | None:
        """Return a member by name."""
        return next((member for member in self.members if member.party == party), None)

    def table(self, owner: PartyId, name: str) -> AgreedTable | None:
        """Return a table by owner and name."""
        return next((table for table in self.tables if (table.owner, table.name) == (owner, name)), None)

    def component(self, name: str) -> AgreedComponent | None:
        """Return a kind of step by name."""
        return next((component for component in self.components if component.name == name), None)

    def allowances(self, owner: PartyId, partner: PartyId) -> tuple[Allowance, ...]:
        """Return what ``owner`` lets ``partner`` intersect."""
        return tuple(e.allowance for e in self.points if e.owner == owner and e.allowance.partner == partner)

    def __str__(self) -> str:
        return f"agreement {self.project} version {self.version}"


class Revocation(Statement):
    """A member's word that an agreement is over; it needs nobody's consent, and nothing takes it back."""

    kind: ClassVar[str] = "application/vnd.unseen.revocation.v1+json"

    project: ProjectId
    agreement: Digest
    by: PartyId
    at: AwareDatetime
    reason: Words


def open_agreement(envelope: Envelope, *, sender: str, after: Agreement | None = None) -> Agreement:
    """Return an agreement that all its members have signed, those of the version before as well, and nobody else.

    Raises:
        RemoteProtocolError: It is not one.
    """
    named = read_statement(envelope, Agreement, sender=sender)
    return open_envelope(envelope, Agreement, signers_of(named, after), sender=sender)


def signers_of(agreement: Agreement, after: Agreement | None) -> dict[str, PartyId]:
    """Return the keys that have to sign an agreement, and whose they are: of its members and of those before it."""
    before = after.members if after is not None else ()
    return {member.key: member.party for member in (*before, *agreement.members)}


def open_revocation(envelope: Envelope, agreement: Agreement, *, sender: str) -> Revocation:
    """Return the revocation of ``agreement`` that one of its members signed.

    Raises:
        RemoteProtocolError: It is not one.
    """
    named = read_statement(envelope, Revocation, sender=sender)
    member = agreement.member(named.by)
    if member is None or (named.project, named.agreement) != (agreement.project, agreement.digest):
        raise RemoteProtocolError(f"{sender}: a revocation by {named.by} is not one of {agreement} by a member")
    return open_envelope(envelope, Revocation, (member.key,), sender=sender)


class Project:
    """An agreement through its versions, and whether it stands: what a node keeps of a project.

    Args:
        envelopes: All versions, the first one first.
        revocations: What was received; each has to be good for one of the versions.

    Raises:
        RemoteProtocolError: A version is not signed by all who have to, does not follow the one before, or a revocation
            is forged.
    """

    def __init__(self, envelopes: Iterable[Envelope], revocations: Iterable[Envelope] = ()) -> None:
        self._versions: list[Agreement] = []
        self._revocations: dict[str, Revocation] = {}
        for envelope in envelopes:
            self.supersede(envelope)
        if not self._versions:
            raise RemoteProtocolError("a project has no agreement")
        for envelope in revocations:
            self.revoke(envelope)

    @property
    def current(self) -> Agreement:
        """The newest version; those before it are over."""
        return self._versions[-1]

    @property
    def revoked(self) -> Revocation | None:
        """Why the current version is over, if it is."""
        return self._revocations.get(self.current.digest)

    def has(self, digest: str) -> bool:
        """Return whether a version with this digest is there."""
        return any(version.digest == digest for version in self._versions)

    def has_revoked(self, digest: str) -> bool:
        """Return whether the version with this digest was revoked."""
        return digest in self._revocations

    def supersede(self, envelope: Envelope) -> Agreement:
        """Put a new version in place of the current one.

        Raises:
            RemoteProtocolError: It is not signed by all members of both, or does not follow the current one.
        """
        last = self._versions[-1] if self._versions else None
        new = open_agreement(envelope, sender="agreement", after=last)
        expected = (last.project, last.version + 1, last.digest) if last else (new.project, 1, None)
        if (new.project, new.version, new.previous) != expected:
            raise RemoteProtocolError(
                f"{new} does not follow: expected {expected[0]} version {expected[1]} after {expected[2]}"
            )
        self._versions.append(new)
        return new

    def revoke(self, envelope: Envelope) -> Revocation:
        """Take note of a revocation.

        Raises:
            RemoteProtocolError: No member of the version that it names signed it.
        """
        named = read_statement(envelope, Revocation, sender="revocation")
        version = next((known for known in self._versions if known.digest == named.agreement), self.current)
        word = open_revocation(envelope, version, sender="revocation")
        self._revocations.setdefault(word.agreement, word)
        return word

    def in_force(self, now: datetime) -> bool:
        """Return whether the current version holds at this moment."""
        return self.revoked is None and self.current.valid_from <= now < self.current.valid_until


def _unique(what: str, items: Iterable[Hashable]) -> None:
    twice = [item for item, count in Counter(items).items() if count > 1]
    if twice:
        raise ValueError(f"{what}: something stands twice")
