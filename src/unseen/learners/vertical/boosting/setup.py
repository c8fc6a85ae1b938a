"""The set-up of the linear maps between the active party and each passive one; it can be kept for later trainings.

A passive party's matrix are the indicators of the bins of its columns, which it puts into a random order first: the
active party knows them by their place in it, and of each its number of bins, whether these are categories, and whether
the last one is that of missing values. The passive party learns nothing. A kept set-up keeps that order: in all
trainings with it the active party knows a column by the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.binning import LARGEST_BINS, BinnedColumns
from unseen.learners.vertical.boosting.packing import LARGEST_BITS, bounds_for, capacity_bits
from unseen.learners.vertical.boosting.setting import BoostingSetting
from unseen.protocols.linear_map.matrices import BinnedMatrix
from unseen.protocols.linear_map.port import LinearMap, MatrixSetup, VectorSetup

LARGEST_WIDTH = 1 << 16
"""Columns that a party may have: a peer's announcement decides how much memory a linear map takes here."""
LARGEST_BIN_COUNT = 1 << 17
"""Bins that all columns of a party may have together, for the same reason."""


@message("vertical_boosting/layout")
class Layout:
    """A passive party's columns as the active one knows them, one entry a column."""

    bins: Annotated[NDArray[np.int64], Shape(None)]
    categorical: Annotated[NDArray[np.bool_], Shape(None)]
    missing: Annotated[NDArray[np.bool_], Shape(None)]

    @classmethod
    def of(cls, binned: BinnedColumns) -> Layout:
        """Return the layout of binned columns."""
        return cls(
            np.array(binned.bins, np.int64), np.array(binned.categorical, np.bool_), np.array(binned.missing, np.bool_)
        )


@dataclass(frozen=True, slots=True)
class ActiveSetUp:
    """The active party's set-ups towards all passive ones."""

    rows: int
    bits: int
    """Capacity of a word that all of them carry."""
    layouts: Mapping[PartyId, Layout]
    setups: Mapping[PartyId, VectorSetup]


@dataclass(frozen=True, slots=True, eq=False)
class PassiveSetUp:
    """A passive party's set-up: the order in which the active party knows its columns, and that of the linear map."""

    order: NDArray[np.int64] = field(repr=False)
    setup: MatrixSetup = field(repr=False)


def set_up_active(rows: int, scheme: LinearMap | None, setting: BoostingSetting) -> Dialogue[ActiveSetUp]:
    """Return the set-ups towards all passive parties, for tables of ``rows`` rows; ``scheme`` may be ``None`` alone.

    Raises:
        RemoteProtocolError: A peer announces impossible columns, or has other rows.
        UsageError: The scheme cannot carry so many rows.
    """
    setting.check_role(active=True)
    layouts: dict[PartyId, Layout] = {}
    setups: dict[PartyId, VectorSetup] = {}
    least = LARGEST_BITS
    for peer in setting.peers:
        layout = yield from receive(peer, Layout)
        _check_layout(peer, layout)
        columns = int(layout.bins.sum())
        mapping = _scheme(scheme)
        bits = capacity_bits(mapping, rows, columns)
        prg = setting.prg.derive("vertical_boosting/set-up", peer.encode())
        setups[peer] = yield from mapping.set_up_vectors(bounds_for(rows, columns, bits), peer=peer, prg=prg)
        layouts[peer], least = layout, min(least, bits)
    return ActiveSetUp(rows, least, layouts, setups)


def set_up_passive(binned: BinnedColumns, scheme: LinearMap, setting: BoostingSetting) -> Dialogue[PassiveSetUp]:
    """Return the set-up towards the active party.

    Raises:
        DataError: There are no columns, or too many bins.
        RemoteProtocolError: The active party has other rows.
        UsageError: The scheme cannot carry so many rows.
    """
    setting.check_role(active=False)
    if not binned.bins:
        raise DataError(f"{setting.me}: there are no columns to learn from; add some or stay out")
    if sum(binned.bins) > LARGEST_BIN_COUNT:
        raise DataError(
            f"{setting.me}: {sum(binned.bins)} bins of all columns are more than {LARGEST_BIN_COUNT}: use fewer bins"
        )
    order = setting.prg.derive("vertical_boosting/order").permutation(len(binned.bins))
    shown = binned.pick(order)
    yield from send(setting.active, Layout.of(shown))
    columns = sum(shown.bins)
    bounds = bounds_for(binned.rows, columns, capacity_bits(scheme, binned.rows, columns))
    prg = setting.prg.derive("vertical_boosting/set-up", setting.active.encode())
    matrix = BinnedMatrix(shown.codes, shown.bins)
    setup = yield from scheme.set_up_matrix(matrix, bounds, peer=setting.active, prg=prg)
    return PassiveSetUp(order, setup)


def _scheme(scheme: LinearMap | None) -> LinearMap:
    if scheme is None:
        raise UsageError("training with other parties needs a linear map scheme: lattice or paillier")
    return scheme


def _check_layout(peer: PartyId, layout: Layout) -> None:
    sizes = {len(layout.bins), len(layout.categorical), len(layout.missing)}
    if len(sizes) != 1 or not 1 <= len(layout.bins) <= LARGEST_WIDTH:
        raise RemoteProtocolError(f"{peer}: announces {len(layout.bins)} columns, 1 to {LARGEST_WIDTH} are taken")
    if layout.bins.min() < 1 or layout.bins.max() > LARGEST_BINS:
        raise RemoteProtocolError(f"{peer}: a column has 1 to {LARGEST_BINS} bins, announced are others")
    if (total := int(layout.bins.sum())) > LARGEST_BIN_COUNT:
        raise RemoteProtocolError(
            f"{peer}: announces {total} bins of all columns, at most {LARGEST_BIN_COUNT} are taken: use fewer bins"
        )
