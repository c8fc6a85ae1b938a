"""Facts as lines of JSON: read strictly, or refused with the place of what is wrong."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from unseen.errors import DataError, UsageError

F = TypeVar("F")


def read_line(adapter: TypeAdapter[F], text: str | bytes, where: str, what: str) -> F:
    """Return the fact that a text says; ``where`` names its place and ``what`` what it should be, in messages.

    Raises:
        DataError: It is none: unknown or missing fields, wrong types, values that cannot be.
    """
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(f"{where} is not {what}: {place}: {first['msg']}") from error
    except UsageError as error:
        raise DataError(f"{where} is not {what}: {error}") from error
