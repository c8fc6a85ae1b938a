"""Make the credit data that the package ships; src/unseen/data/files/credit.md describes the source and each step.

Usage: python tools/make_demo_data.py UCI_Credit_Card.csv

Prints size and SHA-256 of the written file; the latter belongs into src/unseen/data/demo.py and credit.md.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import polars as pl

TARGET = Path(__file__).parents[1] / "src" / "unseen" / "data" / "files" / "credit.parquet"
MONTHS = (1, 2, 3, 4, 5, 6)
STATUS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
SMALL = ("SEX", "EDUCATION", "MARRIAGE", "AGE", *STATUS, "default")
AMOUNTS = ("LIMIT_BAL", *(f"BILL_AMT{month}" for month in MONTHS), *(f"PAY_AMT{month}" for month in MONTHS))
COLUMNS = ("LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", *STATUS, *AMOUNTS[1:], "default")
# Guards against another file of the same shape; sex is 1 for male and 2 for female, as in the original.
EXPECTED = {"SEX": {1: 11_888, 2: 18_112}, "default": {0: 23_364, 1: 6_636}}


def fold(frame: pl.DataFrame, name: str) -> pl.Expr:
    """Return the code that the one-hot columns ``name_<code>`` stand for."""
    flags = [column for column in frame.columns if column.startswith(f"{name}_")]
    if frame.select(pl.sum_horizontal(flags)).to_series().ne(1).any():
        sys.exit(f"{name}: a row has not exactly one of {', '.join(flags)}")
    return pl.sum_horizontal(pl.col(flag) * int(flag.removeprefix(f"{name}_")) for flag in flags).alias(name)


def restore(source: Path) -> pl.DataFrame:
    """Return the data with the columns and codes of the original, rows in the original order."""
    frame = pl.read_csv(source).sort("ID").rename({"default-payment-next-month": "default"})
    if frame["ID"].to_list() != list(range(1, 30_001)):
        sys.exit("expected the rows 1 to 30000, once each")
    # The source counts sex from 0.
    frame = frame.with_columns(fold(frame, "EDUCATION"), fold(frame, "MARRIAGE"), pl.col("SEX") + 1)
    for name, counts in EXPECTED.items():
        if dict(frame[name].value_counts().iter_rows()) != counts:
            sys.exit(f"{name}: expected the counts {counts}, found {frame[name].value_counts()}")
    whole = frame.select(pl.col(AMOUNTS) == pl.col(AMOUNTS).round()).min_horizontal()
    if not whole.all():
        sys.exit("expected whole amounts")
    return frame.select(COLUMNS).cast(dict.fromkeys(SMALL, pl.Int8) | dict.fromkeys(AMOUNTS, pl.Int32))


def main() -> None:
    """Write the file and say what was written."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    restore(Path(sys.argv[1])).write_parquet(TARGET, compression="zstd", compression_level=22, statistics=False)
    content = TARGET.read_bytes()
    sys.stdout.write(f"{TARGET.name}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}\n")


if __name__ == "__main__":
    main()
