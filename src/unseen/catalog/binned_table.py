"""Tables whose values are bins, as tree models are trained on them, and the bins themselves."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.component import Document, Kind, Packed
from unseen.data.table import Table
from unseen.errors import DataError
from unseen.learners.binning import BinnedColumns, Categories, ColumnBins, Values, transform


class Bins(Document):
    """The bins of one party's columns, learned from training rows."""

    columns: tuple[ColumnBins, ...]

    def apply(self, table: Table) -> BinnedColumns:
        """Return the bins of a table's rows.

        Raises:
            DataError: The table has other features, or a feature of another kind.
        """
        names = tuple(column.name for column in self.columns)
        if table.schema.feature_names != names:
            raise DataError(
                f"bins were made for columns {', '.join(names)}, the table has {', '.join(table.schema.feature_names)}"
            )
        values = [values_of(table, column.name, categorical=column.categorical) for column in self.columns]
        return transform(self.columns, values, table.rows)


@message("catalog/binned-table")
class BinnedTable:
    """Rows to train on: a bin for every value, with labels and weights where this party has them."""

    bins: str
    """``Bins`` as JSON."""
    codes: Annotated[NDArray[np.uint8], Shape(None, None)]
    """Shape (columns, rows)."""
    label: Annotated[NDArray[np.float64], Shape(None)] | None
    """NaN where it is missing."""
    weight: Annotated[NDArray[np.float64], Shape(None)] | None

    @classmethod
    def of(cls, table: Table, bins: Bins) -> Self:
        """Return a table's rows in bins."""
        label = None if table.schema.label is None else table.label()
        weight = None if table.schema.weight is None else table.weights()
        return cls(bins.model_dump_json(), bins.apply(table).codes, label, weight)

    @property
    def rules(self) -> Bins:
        """What the bins are."""
        return Bins.model_validate_json(self.bins)

    @property
    def columns(self) -> BinnedColumns:
        """The bins, as learners take them."""
        rules = self.rules.columns
        return BinnedColumns(
            self.codes,
            tuple(column.bins for column in rules),
            tuple(column.categorical for column in rules),
            tuple(column.missing for column in rules),
        )


BINS = Kind("bins", Bins)
BINNED_TABLE = Kind("binned_table", Packed)


def values_of(table: Table, name: str, *, categorical: bool) -> Values:
    """Return a column as bins are made of it: numbers with NaN for missing ones, or categories by their text."""
    if not categorical:
        return table.matrix([name])[:, 0]
    texts = table.frame()[name].cast(pl.String)
    places = texts.rank("dense").fill_null(0).to_numpy().astype(np.int64) - 1
    return Categories(places, tuple(texts.drop_nulls().unique().sort().to_list()))
