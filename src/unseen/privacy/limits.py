"""What the owner of a table allows a partner, session by session and in all; what is not declared is refused.

Budgets have no defaults: whoever shares a table says how many points a partner may ever have evaluated. Tripwires have
defaults; ``docs/security/enumeration.md`` says why these.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.privacy.facts import MAX_ROWS, Request, TableId, Variant

Rows = Annotated[int, Field(ge=0, le=MAX_ROWS)]
Share = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Base of limits: immutable, strict about types and unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Allowance(Frozen):
    """What one partner may ask of one table by one set of key columns.

    Raises:
        ValidationError: A field is missing, unknown or out of range, or fields contradict each other.
    """

    partner: PartyId
    table: TableId
    key_columns: Annotated[tuple[str, ...], Field(min_length=1)]
    variants: Annotated[frozenset[Variant], Field(min_length=1)]
    valid_from: AwareDatetime
    valid_until: AwareDatetime

    points_per_session: Rows
    """At most as many rows as the partner registered."""
    points_total: Rows
    """Ever, over all versions of the table and all sessions that share a key column, whatever became of them."""
    new_points_total: Rows | None = None
    """Of these, how many may be points that no earlier session had. Only for partners that keep one key per project:
    with a fresh key, or unseen, every point is new."""

    sessions_per_day: Annotated[int, Field(ge=0)] = 10
    """Begun within the last 24 hours."""
    concurrent: Annotated[int, Field(ge=0)] = 1
    max_ratio: Annotated[float, Field(gt=0)] = 10.0
    """The partner's rows for each own row."""
    min_own_rows: Rows = 1_000
    min_partner_rows: Rows = 1_000
    unknown_size: bool = False
    """Whether results may go out whose size the owner does not learn: no tripwire below sees them."""

    min_intersection: Rows = 50
    max_own_share: Share = 1.0
    """The largest part of the own rows that one result may cover."""
    probes_judged: Rows = 100_000
    """Past so many points, since the last freeze was lifted, the rate of hits is judged."""
    min_hit_rate: Share = 0.01
    short_list: Rows = 10_000
    """Lists up to this length may not consist of hits only."""
    max_hit_rate: Share = 0.95
    differencing_points: Annotated[int, Field(ge=0)] = 10
    """Lists that differ by no more are near-identical; 0 turns this tripwire off."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.key_columns)) < len(self.key_columns):
            raise ValueError(f"key_columns: each may stand once, found {list(self.key_columns)}")
        if self.valid_until <= self.valid_from:
            raise ValueError(f"valid_until has to be later than valid_from, found {self.valid_until}")
        if self.points_per_session > self.points_total:
            raise ValueError(f"points_per_session has to be at most points_total, found {self.points_per_session}")
        return self

    @field_serializer("variants")
    def _in_order(self, variants: frozenset[Variant]) -> list[str]:
        """Return variants in one order, so that equal allowances have one spelling."""
        return sorted(variants)

    def covers(self, request: Request) -> bool:
        """Return whether this is the allowance under which ``request`` falls; the order of columns does not matter."""
        return self._place == (request.partner, request.table, frozenset(request.key_columns)) and (
            request.variant in self.variants
        )

    def meets(self, other: Allowance) -> bool:
        """Return whether some request falls under both."""
        return self._place == other._place and not self.variants.isdisjoint(other.variants)

    @property
    def _place(self) -> tuple[PartyId, TableId, frozenset[str]]:
        return self.partner, self.table, frozenset(self.key_columns)


class Limits(Frozen):
    """All allowances of one owner; without any, everything is refused.

    Raises:
        ValidationError: Two allowances cover the same requests.
    """

    allowances: tuple[Allowance, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for index, allowance in enumerate(self.allowances):
            for earlier in self.allowances[:index]:
                if allowance.meets(earlier):
                    where = f"{allowance.partner}, {allowance.table} ({', '.join(allowance.key_columns)})"
                    raise ValueError(f"two allowances cover the same requests of {where}: keep one")
        return self

    def allowance(self, request: Request) -> Allowance | None:
        """Return the one allowance that covers ``request``, or ``None``: it is not allowed."""
        return next((allowance for allowance in self.allowances if allowance.covers(request)), None)


def read_limits(text: str | bytes, where: str) -> Limits:
    """Return the limits that a JSON text declares; ``where`` names the place of the text in messages.

    Raises:
        UsageError: Fields are missing, unknown, of the wrong type, or contradict each other.
    """
    try:
        return Limits.model_validate_json(text)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{where} does not declare limits: {'; '.join(problems)}") from error
