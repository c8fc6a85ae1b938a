"""Which rows go left: one bit a row, packed, at the splits of one party."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unseen.learners.binning import BinnedColumns
from unseen.learners.vertical.boosting.splits import goes_left

Bools = NDArray[np.bool_]
Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rows:
    """One party's binned rows, in parts that follow each other: training rows, validation rows."""

    parts: tuple[BinnedColumns, ...]

    @property
    def count(self) -> int:
        """Number of rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes that hold one bit a row."""
        return -(-self.count // 8)

    def left(self, column: int, mask: NDArray[np.uint8]) -> Bools:
        """Return for every row whether it goes left where ``column`` decides by the packed bins ``mask``."""
        return np.concatenate([goes_left(part.codes[column], mask) for part in self.parts])


@dataclass(slots=True)
class Reach:
    """The bits of one tree's splits at a passive party, blank where its own splits above keep a row away.

    A row that the party itself knows never to come to a split has the bit 0 there, whichever its value: the active
    party needs no more, and learns no more.
    """

    rows: Rows
    known: dict[int, tuple[Bits, Bits]] = field(default_factory=dict)
    """Of each split the rows that may come to it, and those that go left."""

    def bits(self, split: int, column: int, mask: NDArray[np.uint8], above: tuple[int, bool]) -> Bits:
        """Return the packed bits of ``split``; ``above`` is the nearest own split, or −1, and whether on its left."""
        parent, side = above
        if parent < 0:
            inside = np.full(self.rows.bytes, 255, np.uint8)
        else:
            came, went = self.known[parent]
            inside = came & went if side else came & ~went
        left = np.packbits(self.rows.left(column, mask))
        self.known[split] = inside, left
        answer: Bits = left & inside
        return answer


def unpacked(bits: Bits, count: int) -> Bools:
    """Return the first ``count`` packed bits as truth values."""
    return np.unpackbits(bits, count=count).view(np.bool_)
