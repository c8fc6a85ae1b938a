"""Real credit data, and the story of two parties that know different things about the same people.

A bank knows limits, bills, payments and who defaulted; a partner knows demographics and repayment status. Each knows
four fifths of the people, in an order of its own, some values are missing, and for some people the bank wants a
prediction. Source, licence and recipe of the data are in ``files/credit.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from unseen.crypto.prg import Prg
from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError

CREDIT_SHA256 = "8d1053a3c10f99db697117c74a0e708ed14c8c875750129f3eb46b1d1311a305"
BANK, PARTNER = "bank", "partner"

_MONTHS = ("sep", "aug", "jul", "jun", "may", "apr")
_BANK_COLUMNS = {
    "default": "y",
    "LIMIT_BAL": "limit",
    **{f"BILL_AMT{number}": f"bill_{month}" for number, month in enumerate(_MONTHS, start=1)},
    **{f"PAY_AMT{number}": f"payment_{month}" for number, month in enumerate(_MONTHS, start=1)},
}
_PARTNER_COLUMNS = {
    "SEX": "sex",
    "EDUCATION": "education",
    "MARRIAGE": "marriage",
    "AGE": "age",
    **{f"PAY_{number}": f"status_{month}" for number, month in zip((0, 2, 3, 4, 5, 6), _MONTHS, strict=True)},
}
# A fifth of the people is unknown to each party, so that 64 % are known to both.
_KNOWN = 0.8
_MISSING = 0.02
_UNLABELLED = 0.03
_BANK_GAPS = ("limit", "bill_sep", "bill_jun", "payment_sep", "payment_may")
_PARTNER_GAPS = ("education", "marriage", "age", "status_jul")
_ID_BOUND = 10**8


def load_credit() -> pl.DataFrame:
    """Return the "default of credit card clients": 30,000 rows, 23 features and ``default``, as small integers.

    Raises:
        DataError: The file in the package is not the one that was shipped.
    """
    content = resources.files("unseen.data").joinpath("files", "credit.parquet").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != CREDIT_SHA256:
        raise DataError(f"credit.parquet has SHA-256 {found}, shipped was {CREDIT_SHA256}: reinstall the package")
    return pl.read_parquet(BytesIO(content))


def make_parties(seed: int = 0, rows: int | None = None) -> dict[str, pl.DataFrame]:
    """Return what ``bank`` and ``partner`` know about ``rows`` people, by default all 30,000.

    Both have a text ``id``; the bank has the label ``y``, empty for 3 % of its people, and 13 features, the partner 10.
    The same seed and number give the same people.

    Raises:
        UsageError: There are not that many people, or the seed is negative.
    """
    credit = load_credit()
    count = credit.height if rows is None else rows
    if not 2 <= count <= credit.height:
        raise UsageError(f"the data has {credit.height} people, asked for {count}")
    if seed < 0:
        raise UsageError(f"a seed is not negative, found {seed}")
    # Reproducible on purpose: these people are invented, and every run of the demo is to tell the same story.
    prg = Prg(hashlib.sha256(f"unseen/demo/{seed}".encode()).digest())
    people = credit[prg.derive("people").permutation(credit.height)[:count]]
    people = people.with_columns(_ids(count, prg.derive("ids")))
    bank = _party(people, _BANK_COLUMNS, _BANK_GAPS, prg.derive(BANK))
    partner = _party(people, _PARTNER_COLUMNS, _PARTNER_GAPS, prg.derive(PARTNER))
    return {BANK: _blank(bank, "y", _UNLABELLED, prg.derive("unlabelled")), PARTNER: partner}


def write_parties(directory: Path, seed: int = 0, rows: int | None = None) -> dict[str, Path]:
    """Write ``bank.csv`` and ``partner.csv`` into a directory, which is made if need be; return their paths.

    Raises:
        DataError: The files cannot be written.
        UsageError: As ``make_parties``.
    """
    written = {}
    for party, frame in make_parties(seed, rows).items():
        written[party] = directory / f"{party}.csv"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{directory} cannot be made: {error.strerror}") from error
        with whole_file(written[party]) as file:
            frame.write_csv(file)
    return written


def _ids(count: int, prg: Prg) -> pl.Series:
    """Return that many different ids, which tell nothing about the order of the rows."""
    numbers = pl.Series(prg.below(_ID_BOUND, 2 * count)).unique(maintain_order=True).head(count)
    return ("C" + numbers.cast(pl.String).str.zfill(8)).alias("id")


def _party(people: pl.DataFrame, columns: dict[str, str], gaps: Sequence[str], prg: Prg) -> pl.DataFrame:
    """Return some of the people in a new order, with one party's columns and gaps in some of them."""
    known = prg.derive("known").permutation(people.height)[: round(_KNOWN * people.height)]
    frame = people[known].select("id", *columns).rename(columns)
    for name in gaps:
        frame = _blank(frame, name, _MISSING, prg.derive("gaps", name.encode()))
    return frame


def _blank(frame: pl.DataFrame, name: str, part: float, prg: Prg) -> pl.DataFrame:
    """Return the frame with this part of a column's values missing."""
    chosen = prg.permutation(frame.height)[: round(part * frame.height)]
    empty = np.zeros(frame.height, np.bool_)
    empty[chosen] = True
    return frame.with_columns(pl.when(~pl.Series(empty)).then(pl.col(name)).alias(name))
