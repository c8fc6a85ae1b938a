"""What the columns of a table are called, what they hold, and what they are for."""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unseen.codec import read_json
from unseen.errors import DataError, UsageError

MAX_NAME_BYTES = 256


class Role(enum.StrEnum):
    """What a column is for."""

    ID = "id"
    LABEL = "label"
    FEATURE = "feature"
    WEIGHT = "weight"


class Kind(enum.StrEnum):
    """What a column holds: 64-bit integers, 64-bit floats, UTF-8 text, or truth values; each may be missing."""

    INTEGER = "integer"
    REAL = "real"
    TEXT = "text"
    BOOLEAN = "boolean"


_ALLOWED = {
    Role.ID: frozenset({Kind.INTEGER, Kind.TEXT}),
    Role.LABEL: frozenset(Kind),
    Role.FEATURE: frozenset(Kind),
    Role.WEIGHT: frozenset({Kind.INTEGER, Kind.REAL}),
}


def name_fault(name: str) -> str | None:
    """Return why ``name`` cannot name a column, or ``None`` if it can."""
    if not name or name != name.strip():
        return "it is empty or starts or ends with a blank"
    if not name.isprintable():
        return "it holds a character that cannot be printed"
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    return None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its role and the kind of its values.

    Raises:
        UsageError: The name cannot be a column's name, or the role cannot have values of this kind.
    """

    name: str
    role: Role
    kind: Kind

    def __post_init__(self) -> None:
        fault = name_fault(self.name)
        if fault:
            raise UsageError(f"{self.name!r} cannot name a column: {fault}")
        allowed = _ALLOWED[self.role]
        if self.kind not in allowed:
            raise UsageError(
                f"column {self.name} is the {self.role} and so has to be {' or '.join(sorted(allowed))}, "
                f"found {self.kind}"
            )


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table in order: exactly one id, at most one label and one weight, any number of features.

    Raises:
        UsageError: Two columns share a name, or a role is taken by too many or too few columns.
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise UsageError(f"every column needs a name of its own, found more than one {', '.join(repeated)}")
        for role, least, most in ((Role.ID, 1, 1), (Role.LABEL, 0, 1), (Role.WEIGHT, 0, 1)):
            found = [column.name for column in self.columns if column.role is role]
            if not least <= len(found) <= most:
                wanted = "exactly one" if least else "at most one"
                raise UsageError(f"a table has {wanted} {role} column, found {', '.join(found) or 'none'}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def id(self) -> Column:
        """The column that says who a row is about."""
        return next(column for column in self.columns if column.role is Role.ID)

    @property
    def label(self) -> Column | None:
        """The column to be predicted, if the table has one."""
        return self._only(Role.LABEL)

    @property
    def weight(self) -> Column | None:
        """The column of row weights, if the table has one."""
        return self._only(Role.WEIGHT)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that a model may use, in order."""
        return tuple(column for column in self.columns if column.role is Role.FEATURE)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(column.name for column in self.features)

    def _only(self, role: Role) -> Column | None:
        return next((column for column in self.columns if column.role is role), None)

    def column(self, name: str) -> Column:
        """Return the column called ``name``.

        Raises:
            UsageError: There is none.
        """
        return self.pick([name])[0]

    def pick(self, names: Iterable[str]) -> tuple[Column, ...]:
        """Return the columns called ``names``, in that order.

        Raises:
            UsageError: There is no such column.
        """
        known = {column.name: column for column in self.columns}
        try:
            return tuple(known[name] for name in names)
        except KeyError as error:
            raise UsageError(f"there is no column {error.args[0]}: the table has {', '.join(known)}") from error

    def keep(self, names: Iterable[str]) -> Schema:
        """Return the schema of the columns in ``names``, in the order they have here."""
        kept = set(names)
        return Schema(tuple(column for column in self.columns if column.name in kept))

    def to_json(self) -> str:
        """Return the schema as JSON text; equal schemas give equal text."""
        columns = [{"name": c.name, "role": c.role.value, "kind": c.kind.value} for c in self.columns]
        return json.dumps({"columns": columns}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Schema:
        """Return the schema that ``to_json`` wrote.

        Raises:
            DataError: The text is not JSON, or does not describe a schema.
        """
        try:
            entries = read_json(text)["columns"]
            return cls(tuple(_column(entry) for entry in entries))
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise DataError(f"this does not describe the columns of a table: {error}") from error


def _column(entry: Mapping[str, str]) -> Column:
    if set(entry) != {"name", "role", "kind"} or not isinstance(entry["name"], str):
        raise ValueError("a column is described by its name, role and kind")
    return Column(entry["name"], Role(entry["role"]), Kind(entry["kind"]))
