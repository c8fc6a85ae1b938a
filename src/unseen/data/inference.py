"""What the cells of a column hold: kinds are found by looking at all of them, and cells that do not fit are marked."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
from polars.datatypes import DataType

from unseen.data.import_report import Cause
from unseen.data.schema import Kind, Role
from unseen.data.table import DTYPES

# A column is numeric with faults, rather than text, if more than this part of its cells are numbers.
NUMERIC_PART = 0.5
_COMMA_NUMBER = r"^[+-]?\d+(,\d+)?$"
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Typed:
    """Values of a column, absent where a cell is missing or wrong; which cells are wrong; what is wrong with it all."""

    values: pl.Series
    kind: Kind
    wrong: dict[Cause, pl.Series] = field(default_factory=dict)
    fault: tuple[Cause, str] | None = None
    notes: tuple[str, ...] = ()


def type_column(cells: pl.Series, role: Role, declared: Kind | None = None) -> Typed:
    """Return a column of any type as values of one kind: the declared one, or the one that fits its cells."""
    dtype = cells.dtype
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration) or (role is Role.ID and _is_real(dtype)):
        fault = (Cause.UNSUPPORTED_TYPE, str(dtype))
        return Typed(pl.Series(cells.name, [None] * len(cells), dtype=pl.String), Kind.TEXT, fault=fault)
    if role is Role.ID:
        return _type_ids(cells, declared)
    if dtype == pl.Boolean or dtype.is_numeric() or dtype == pl.Null:
        return _type_values(cells, declared)
    # The format says that this is text; what a text file's columns stand for is found by type_text.
    return type_text(cells.cast(pl.String), role, declared or (Kind.REAL if role is Role.WEIGHT else Kind.TEXT))


def _is_real(dtype: DataType) -> bool:
    return dtype.is_float() or dtype.is_decimal()


def type_text(cells: pl.Series, role: Role, declared: Kind | None = None) -> Typed:
    """Return a column of text as values of one kind; a blank cell is a missing value."""
    if role is Role.ID:
        return _type_ids(cells, declared)
    trimmed = cells.str.strip_chars()
    trimmed = trimmed.set((trimmed == "").fill_null(False), None)
    kind = declared or guess_kind(trimmed)
    if role is Role.WEIGHT and kind not in (Kind.INTEGER, Kind.REAL):
        kind = Kind.REAL
    match kind:
        case Kind.TEXT:
            comma = declared is None and _decimal_comma(trimmed)
            fault = (Cause.DECIMAL_COMMA, str(trimmed.drop_nulls()[0])) if comma else None
            return Typed(cells.set(trimmed.is_null(), None), kind, fault=fault)
        case Kind.BOOLEAN:
            values = trimmed.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Boolean)
            return Typed(values, kind, {Cause.MIXED_TYPES: trimmed.is_not_null() & values.is_null()})
        case _:
            return _numbers(trimmed, kind)


def guess_kind(trimmed: pl.Series) -> Kind:
    """Return the kind that fits most cells of a column of text; missing cells are null and have no say."""
    present = trimmed.drop_nulls()
    numbers = present.cast(pl.Float64, strict=False)
    numeric = len(numbers) - numbers.null_count()
    if not len(present) or numeric > NUMERIC_PART * len(present):
        finite = present.filter(numbers.is_finite().fill_null(False))
        whole = len(finite) and not finite.cast(pl.Int64, strict=False).null_count()
        return Kind.INTEGER if whole else Kind.REAL
    truth = present.str.to_lowercase().is_in(["true", "false"]).all()
    return Kind.BOOLEAN if truth else Kind.TEXT


def _numbers(trimmed: pl.Series, kind: Kind) -> Typed:
    numbers = trimmed.cast(pl.Float64, strict=False)
    infinite = (~numbers.is_finite()).fill_null(False)
    values = trimmed.cast(DTYPES[kind], strict=False)
    values = values.set(infinite, None)
    mixed = trimmed.is_not_null() & values.is_null() & ~infinite
    return Typed(values, kind, {Cause.NOT_FINITE: infinite, Cause.MIXED_TYPES: mixed})


def _decimal_comma(trimmed: pl.Series) -> bool:
    present = trimmed.drop_nulls()
    return bool(present.str.contains(_COMMA_NUMBER).all() and present.str.contains(",", literal=True).any())


def _type_ids(cells: pl.Series, declared: Kind | None) -> Typed:
    """Return ids as they are written; as integers only if that keeps every character."""
    texts = cells.cast(pl.String)
    missing = (texts.str.strip_chars() == "").fill_null(True)
    texts = texts.set(missing, None)
    whole = texts.cast(pl.Int64, strict=False)
    padded = int((texts != texts.str.strip_chars()).sum())
    notes = (f"ids with blanks around them, which match only the same blanks elsewhere: {padded}",) if padded else ()
    wrong = {Cause.MISSING_ID: missing}
    exact = (whole.cast(pl.String) == texts).sum() == missing.len() - missing.sum() > 0
    if declared is Kind.INTEGER or (declared is None and exact):
        return Typed(whole, Kind.INTEGER, wrong | {Cause.MIXED_TYPES: whole.is_null() & ~missing}, notes=notes)
    return Typed(texts, Kind.TEXT, wrong, notes=notes)


def _type_values(cells: pl.Series, declared: Kind | None) -> Typed:
    """Return numbers and truth values that are typed already; NaN becomes missing."""
    if declared is Kind.TEXT:
        return Typed(cells.cast(pl.String), Kind.TEXT)
    kind = declared or _kind_of(cells)
    notes: tuple[str, ...] = ()
    infinite = pl.repeat(False, len(cells), eager=True)
    if cells.dtype.is_float():
        undefined = int(cells.is_nan().sum())
        notes = (f"NaN in column {cells.name} taken as missing values: {undefined}",) if undefined else ()
        cells = cells.fill_nan(None)
        infinite = cells.is_infinite().fill_null(False)
    values = cells.cast(DTYPES[kind], strict=False).set(infinite, None)
    # A cast that succeeds may still cut off fractions.
    same = (values.cast(pl.Float64) == cells.cast(pl.Float64, strict=False)).fill_null(False)
    mixed = cells.is_not_null() & ~same & ~infinite
    return Typed(values, kind, {Cause.NOT_FINITE: infinite, Cause.MIXED_TYPES: mixed}, notes=notes)


def _kind_of(cells: pl.Series) -> Kind:
    if cells.dtype == pl.Boolean:
        return Kind.BOOLEAN
    fits = cells.dtype.is_integer() and cells.cast(pl.Int64, strict=False).null_count() == cells.null_count()
    return Kind.INTEGER if fits else Kind.REAL
