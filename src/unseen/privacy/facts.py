"""Facts about sessions of private set intersection, as the owner of a table writes them down: added, never changed.

A fact says what happened, not what it means; budgets and what is left of them are views over the facts (``ledger``).

============  =================================================================================================
``Request``   a partner asked for a session with a table of ours; costs nothing by itself
``Began``     the session was charged with all its points: written before the first of them is evaluated
``Seen``      fingerprints of the blinded points that the partner sent: written when they arrive
``Released``  the result was let go: written before it leaves
``Ended``     the session failed, or its result was withheld; it stays charged
``Froze``     its result stopped all further sessions of this partner with this table
``Thawed``    the owner lifted that freeze
============  =================================================================================================

Every fact names the partner and the session. A session has at most one fact of each kind: the same fact twice is one
fact, and two that differ are damage. Since a charge comes before what it pays for, a crash may leave a session charged
for nothing, but never points evaluated for free.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter

from unseen.errors import UsageError
from unseen.ids import Identifier, PartyId
from unseen.privacy.lines import read_line

STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, ser_json_bytes="base64", val_json_bytes="base64")
MAX_ROWS = 1 << 40
"""More rows than any list has; keeps sums of charges far from overflow wherever facts are kept."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class SessionId(Identifier):
    """One session of private set intersection; the owner's node makes these names, one for every request."""

    __slots__ = ()


class TableId(Identifier):
    """A table of the owner through all its versions: a new version does not refill a budget."""

    __slots__ = ()


class Variant(enum.StrEnum):
    """What is to be learnt about two lists."""

    INTERSECT = "intersect"
    """Which of its own rows the others have too."""
    COUNT = "count"
    """How many rows are shared."""
    SUM = "sum"
    """Sums of numbers over the shared rows."""
    UNION = "union"
    """A place for every row of either list; its size tells how many are shared."""
    LOOKUP = "lookup"
    """Whether, and with what values, single rows are there."""


AGGREGATES = frozenset({Variant.COUNT, Variant.SUM, Variant.UNION})
"""Variants that tell numbers only, so that two near-identical lists tell what one of them does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A partner asked for a session with a table of ours; one of several partners is asked for once for each.

    Raises:
        UsageError: A number, digest, column or time is not what it has to be.
    """

    __pydantic_config__ = STRICT

    fact: Literal["asked"] = "asked"
    partner: PartyId
    session: SessionId
    at: datetime
    """By the owner's own clock, never as told by the partner."""
    table: TableId
    key_columns: tuple[str, ...]
    value_columns: tuple[str, ...] = ()
    """Whose sums or values are asked for, at whichever party they are."""
    variant: Variant
    own_rows: int
    partner_rows: int
    """How many points of the partner the owner is to evaluate."""
    own_snapshot: str
    """SHA-256 of the version of the own table, in hexadecimal."""
    partner_snapshot: str
    """The same of the partner's, as it says itself: nobody can check it."""
    owner_learns: bool = True
    """Whether this party gets the result, or at least how many rows are shared."""
    partner_learns: bool = True

    def __post_init__(self) -> None:
        _check_time(self)
        who = f"{self.partner}, session {self.session}"
        for side, rows in (("own", self.own_rows), ("partner", self.partner_rows)):
            if not 0 <= rows <= MAX_ROWS:
                raise UsageError(f"{who}: {side}_rows is {rows}, expected 0 to {MAX_ROWS}")
        for side, digest in (("own", self.own_snapshot), ("partner", self.partner_snapshot)):
            if not _DIGEST.fullmatch(digest):
                raise UsageError(f"{who}: {side}_snapshot is {digest!r}, expected 64 digits of hexadecimal")
        if not self.key_columns or len(set(self.key_columns)) < len(self.key_columns):
            raise UsageError(f"{who}: expected key columns, each once, found {list(self.key_columns)}")

    @property
    def what(self) -> str:
        """The table and its key columns, in words."""
        return f"{self.table} ({', '.join(self.key_columns)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """The session was charged with ``partner_rows`` of its request, before the first point was evaluated."""

    __pydantic_config__ = STRICT

    fact: Literal["began"] = "began"
    partner: PartyId
    session: SessionId
    at: datetime

    def __post_init__(self) -> None:
        _check_time(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the partner's blinded points looked like; comparable between sessions in which it used the same key.

    Raises:
        UsageError: ``fingerprints`` is not as ``differencing.fingerprints`` makes it.
    """

    __pydantic_config__ = STRICT

    fact: Literal["seen"] = "seen"
    partner: PartyId
    session: SessionId
    at: datetime
    fingerprints: bytes = field(repr=False)
    """Different 64-bit words in rising order, little-endian."""

    def __post_init__(self) -> None:
        _check_time(self)
        words = np.frombuffer(self.fingerprints, "<u8") if len(self.fingerprints) % 8 == 0 else None
        if words is None or not (words[1:] > words[:-1]).all():
            raise UsageError(f"{self.partner}, session {self.session}: fingerprints are not rising words of 8 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The result was let go."""

    __pydantic_config__ = STRICT

    fact: Literal["released"] = "released"
    partner: PartyId
    session: SessionId
    at: datetime
    size: int | None = None
    """How many rows are shared, where this party knows it."""

    def __post_init__(self) -> None:
        _check_time(self)
        _check_size(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The session is over without a result; what it was charged stays charged."""

    __pydantic_config__ = STRICT

    fact: Literal["ended"] = "ended"
    partner: PartyId
    session: SessionId
    at: datetime
    how: Literal["failed", "withheld"]
    size: int | None = None
    """How many rows are shared, where this party knows it."""

    def __post_init__(self) -> None:
        _check_time(self)
        _check_size(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Froze:
    """The session's result stopped all further sessions of this partner with this table."""

    __pydantic_config__ = STRICT

    fact: Literal["froze"] = "froze"
    partner: PartyId
    session: SessionId
    at: datetime

    def __post_init__(self) -> None:
        _check_time(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed:
    """The owner lifted the freeze that ``session`` brought about, and no other.

    Raises:
        UsageError: Nobody answers for it.
    """

    __pydantic_config__ = STRICT

    fact: Literal["thawed"] = "thawed"
    partner: PartyId
    session: SessionId
    at: datetime
    by: str
    """The person who decided."""

    def __post_init__(self) -> None:
        _check_time(self)
        if not self.by.strip():
            raise UsageError(f"{self.partner}, session {self.session}: say who lifts the freeze")


Fact = Request | Began | Seen | Released | Ended | Froze | Thawed
_FACT: TypeAdapter[Fact] = TypeAdapter(Annotated[Fact, Field(discriminator="fact")])


def to_json(fact: Fact) -> str:
    """Return the fact as one line of JSON; ``read_fact`` gives it back."""
    return _FACT.dump_json(fact).decode()


def read_fact(text: str | bytes, where: str) -> Fact:
    """Return the fact that a text says; ``where`` names the place of the text in messages.

    Raises:
        DataError: It is none: unknown or missing fields, wrong types, values that cannot be.
    """
    return read_line(_FACT, text, where, "a fact about a session")


def _check_time(fact: Fact) -> None:
    if fact.at.tzinfo is None or fact.at.utcoffset() is None:
        raise UsageError(f"{fact.partner}, session {fact.session}: {fact.at} has no time zone")


def _check_size(fact: Released | Ended) -> None:
    if fact.size is not None and not 0 <= fact.size <= MAX_ROWS:
        raise UsageError(f"{fact.partner}, session {fact.session}: size is {fact.size}, expected 0 to {MAX_ROWS}")
