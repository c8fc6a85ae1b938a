"""Join keys: the byte strings by which parties find the people they share, made from a table's columns in bulk.

A key is the text of one column, or of several, each preceded by its length in bytes and a colon, as netstrings are: so
``("ab", "c")`` and ``("a", "bc")`` differ. Integers are written in decimal, so that 17 here matches "17" at another
party. Nothing else is unified but by rules, which are applied column by column in the order in which they are given.
A row whose key lacks a value, or has an empty one in any column, matches nobody.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.data.schema import Kind, Role
from unseen.data.table import Table, may_repeat, text_buffer
from unseen.errors import DataError, UsageError

MAX_NAMED = 5
"""How many rows an error names."""


class Rule(enum.StrEnum):
    """One way to write values that mean the same in the same form."""

    TRIM = "trim"
    """Blanks at both ends go."""
    NFC = "nfc"
    """Unicode normalisation form C: é is one character, whether it was typed as one or as e and an accent."""
    CASEFOLD = "casefold"
    """Lower case by Unicode's full mappings, so that STRASSE, straße and Straße are alike; ı becomes i."""
    DIGITS = "digits"
    """Only the digits 0 to 9 stay."""
    STRIP_ZEROS = "strip_zeros"
    """Leading zeros go; of a value that is all zeros the last one stays."""
    E164 = "e164"
    """Telephone numbers with country code, as +491701234567 (ITU-T E.164); what is none is left out.

    Blanks, hyphens, brackets, dots and slashes go, and so does a bracketed zero after a country code; a leading 00
    becomes +; in a number without +, the trunk prefix becomes the default country code, if there is one. What then is
    not + and 7 to 15 digits, the first of them no zero, is no telephone number.
    """


class Missing(enum.StrEnum):
    """What becomes of rows whose key lacks a value."""

    REFUSE = "refuse"
    LEAVE_OUT = "leave_out"


class Duplicates(enum.StrEnum):
    """What becomes of rows that share a key."""

    REFUSE = "refuse"
    FIRST = "first"
    """The first row of each key stays, the others are left out."""
    ALL_PAIRS = "all_pairs"
    """All stay: every row meets every row of the others with the same key, as when databases join."""


class Cause(enum.StrEnum):
    """Why a row was left out."""

    MISSING = "missing_key"
    NO_PHONE = "no_phone_number"
    DUPLICATE = "duplicate_key"


@dataclass(frozen=True, slots=True)
class Dialling:
    """How people at home write the telephone numbers of their country."""

    country_code: str = ""
    """The code that stands for a missing one, without +; none if empty."""
    trunk_prefix: str = "0"
    """What stands in front of a number without country code; empty where nothing does, as in Spain."""


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of a key, and what is done to its values, in order."""

    name: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of rows that cannot take part as they are."""

    missing: Missing = Missing.REFUSE
    duplicates: Duplicates = Duplicates.REFUSE


@dataclass(frozen=True, slots=True, eq=False)
class JoinKeys:
    """The distinct keys of a table, and the rows that have each of them."""

    content: NDArray[np.uint8] = field(repr=False)
    """The bytes of all keys, one after the other."""
    offsets: NDArray[np.int64] = field(repr=False)
    """Key k is ``content[offsets[k] : offsets[k + 1]]``."""
    rows: NDArray[np.int64] = field(repr=False)
    """The rows of key 0 in the table's order, then those of key 1, …"""
    starts: NDArray[np.int64] = field(repr=False)
    """Those of key k are ``rows[starts[k] : starts[k + 1]]``."""
    changed: Mapping[str, Mapping[Rule, int]]
    """Column → rule → how many values it changed."""
    left_out: Mapping[Cause, int]
    """Cause → how many rows were left out; only causes that occurred."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many rows have each key."""
        return np.diff(self.starts)

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The first row of each key."""
        return self.rows[self.starts[:-1]]


def join_keys(
    table: Table, columns: Sequence[KeyColumn], *, policy: Policy | None = None, dialling: Dialling | None = None
) -> JoinKeys:
    """Return the keys that ``columns`` make of the table's rows.

    Raises:
        UsageError: There is no such column, it cannot be part of a key, or one is named twice.
        DataError: Keys are missing or duplicates, and the policy refuses that; values are not quoted.
    """
    policy = policy or Policy()
    _check_columns(table, columns)
    cleaned = [_clean(table, column, dialling or Dialling()) for column in columns]
    complete, left_out = _complete(cleaned, policy.missing)
    rows = complete.arg_true()
    whole = len(rows) == table.rows
    texts = _joined([values if whole else values.filter(complete) for values in (part.values for part in cleaned)])
    keys, kept, starts = _distinct(texts, rows.to_numpy().astype(np.int64, copy=False), policy.duplicates)
    dropped = len(rows) - len(kept)
    if dropped:
        left_out = {**left_out, Cause.DUPLICATE: dropped}
    changed = {column.name: part.changed for column, part in zip(columns, cleaned, strict=True)}
    return JoinKeys(*text_buffer(keys), kept, starts, changed, left_out)


def _check_columns(table: Table, columns: Sequence[KeyColumn]) -> None:
    names = [column.name for column in columns]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"a key is made of columns, each named once, found {', '.join(names) or 'none'}")
    for column in table.schema.pick(names):
        if column.kind not in (Kind.TEXT, Kind.INTEGER) or column.role not in (Role.ID, Role.FEATURE):
            raise UsageError(
                f"column {column.name} is a {column.role} and holds {column.kind}: "
                "a key is made of ids and features that are text or integer"
            )
    for part in columns:
        if Rule.E164 in part.rules and table.schema.column(part.name).kind is Kind.INTEGER:
            raise UsageError(
                f"column {part.name} was read as integers, so that zeros in front are lost, and cannot be made "
                "telephone numbers: read it as text (in read_table: kinds)"
            )


# --- one column --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """The texts of one column after all rules, absent where there is none, and how often which rule did something."""

    values: pl.Series
    changed: Mapping[Rule, int]
    no_phone: pl.Series


def _clean(table: Table, column: KeyColumn, dialling: Dialling) -> _Cleaned:
    values = table.texts(column.name)
    changed: dict[Rule, int] = {}
    no_phone = pl.repeat(False, len(values), eager=True)
    for rule in column.rules:
        before, values = values, apply_rule(rule, values, dialling)
        changed[rule] = changed.get(rule, 0) + int((before != values).sum())
        if rule is Rule.E164:
            no_phone = no_phone | (_present(before) & values.is_null())
    return _Cleaned(values, changed, no_phone)


def _present(values: pl.Series) -> pl.Series:
    return (values != "").fill_null(False)


def apply_rule(rule: Rule, values: pl.Series, dialling: Dialling) -> pl.Series:
    """Return texts as the rule writes them; absent ones stay absent."""
    match rule:
        case Rule.TRIM:
            return values.str.strip_chars()
        case Rule.NFC:
            return values if _is_ascii(values) else values.str.normalize("NFC")
        case Rule.CASEFOLD:
            lower = values.str.to_lowercase()
            # By way of upper case, which writes ß as SS and has one sigma only; ẞ gets there by lower case.
            return lower if _is_ascii(values) else lower.str.to_uppercase().str.to_lowercase()
        case Rule.DIGITS:
            return values.str.replace_all(r"[^0-9]+", "")
        case Rule.STRIP_ZEROS:
            return values.str.replace(r"(?s)^0+(.)", "${1}")
        case Rule.E164:
            return _phone_numbers(values, dialling)


def _is_ascii(values: pl.Series) -> bool:
    return bool((values.str.len_bytes() == values.str.len_chars()).all())


def _phone_numbers(values: pl.Series, dialling: Dialling) -> pl.Series:
    bare = values.str.replace(r"^(\s*(?:\+|00)[^(]*)\(0\)", "${1}").str.replace_all(r"[\s()./\p{Pd}]+", "")
    full = bare.str.replace(r"^00", "+")
    if dialling.country_code:
        full = full.str.replace(f"^{re.escape(dialling.trunk_prefix)}([0-9])", f"+{dialling.country_code}${{1}}")
    return full.set(~full.str.contains(r"^\+[1-9][0-9]{6,14}$"), None)


# --- all columns -------------------------------------------------------------------------------------------------


def _complete(cleaned: Sequence[_Cleaned], policy: Missing) -> tuple[pl.Series, dict[Cause, int]]:
    """Return which rows have a whole key, and how many have none for which cause."""
    complete, no_phone = _present(cleaned[0].values), cleaned[0].no_phone
    for part in cleaned[1:]:
        complete, no_phone = complete & _present(part.values), no_phone | part.no_phone
    lacking = {Cause.MISSING: ~complete & ~no_phone, Cause.NO_PHONE: no_phone}
    found = {cause: int(rows.sum()) for cause, rows in lacking.items() if rows.any()}
    if found and policy is Missing.REFUSE:
        told = "; ".join(f"{cause} at {_rows_text(lacking[cause])}" for cause in found)
        raise DataError(f"rows without a key: {told}: complete them, or leave them out (missing: leave_out)")
    return complete, found


def _rows_text(marked: pl.Series) -> str:
    """Return which rows are marked, for people."""
    rows = marked.arg_true().to_list()
    return f"rows {', '.join(map(str, rows[:MAX_NAMED]))}{', …' * (len(rows) > MAX_NAMED)} (from 0; {len(rows)} in all)"


def _joined(texts: Sequence[pl.Series]) -> pl.Series:
    """Return the keys of rows that lack nothing: the text itself, or all texts as netstrings."""
    if len(texts) == 1:
        return texts[0]
    frame = pl.DataFrame([values.alias(str(place)) for place, values in enumerate(texts)])
    parts = [(pl.col(name).str.len_bytes().cast(pl.String), pl.lit(":"), pl.col(name)) for name in frame.columns]
    return frame.select(pl.concat_str([piece for part in parts for piece in part])).to_series()


def _distinct(
    texts: pl.Series, rows: NDArray[np.int64], policy: Duplicates
) -> tuple[pl.Series, NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct keys in the order of their first rows, the rows of each, and where those begin."""
    first = texts.is_first_distinct() if may_repeat(texts) else None
    if first is None or first.all():
        return texts, rows, np.arange(len(rows) + 1)
    match policy:
        case Duplicates.REFUSE:
            raise DataError(_duplicates_text(texts, ~first, rows))
        case Duplicates.FIRST:
            kept = rows[first.to_numpy()]
            return texts.filter(first), kept, np.arange(len(kept) + 1)
        case Duplicates.ALL_PAIRS:
            grouped = pl.DataFrame({"key": texts, "row": rows}).group_by("key", maintain_order=True).agg("row")
            starts = np.zeros(len(grouped) + 1, np.int64)
            np.cumsum(grouped["row"].list.len().to_numpy(), out=starts[1:])
            return grouped["key"], grouped["row"].explode().to_numpy(), starts


def _duplicates_text(texts: pl.Series, again: pl.Series, rows: NDArray[np.int64]) -> str:
    second = int(again.arg_true()[0])
    first = int((texts == texts[second]).arg_true()[0])
    return (
        f"{again.sum()} of {len(texts)} rows have the key of an earlier row, first rows {rows[first]} and "
        f"{rows[second]} (from 0): remove them, join on more columns, or say what becomes of them (duplicates: first, "
        "or all_pairs)"
    )
