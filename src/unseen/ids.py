"""Typed identifiers: a party is never mistaken for a step."""

from __future__ import annotations

import re
from typing import ClassVar, NewType, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from unseen.errors import UsageError


class Identifier(str):
    """A name that is safe in file names, certificates and messages; each kind of thing has its own subclass.

    Raises:
        UsageError: The text does not match ``pattern``.
    """

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z][a-z0-9_-]{0,62}")
    rule: ClassVar[str] = "a lower-case letter, then at most 62 of a-z, 0-9, _ and -"

    def __new__(cls, text: str) -> Self:
        """Return ``text`` as an identifier of this kind."""
        if not isinstance(text, str) or not cls.pattern.fullmatch(text):
            raise UsageError(f"{text!r} is not a {cls.__name__}: expected {cls.rule}")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic models validate identifiers and describe them in their JSON Schema."""
        text = core_schema.str_schema(pattern=f"^{cls.pattern.pattern}$")
        return core_schema.no_info_after_validator_function(cls, text, serialization=core_schema.to_string_ser_schema())


class PartyId(Identifier):
    """One organisation or device in a federation."""

    __slots__ = ()


class StepId(Identifier):
    """One step of a flow."""

    __slots__ = ()


class JobId(Identifier):
    """One run of a flow."""

    __slots__ = ()


ClientId = NewType("ClientId", str)
"""One client of horizontal learning; any text, since data sets name their writers and users as they like."""
