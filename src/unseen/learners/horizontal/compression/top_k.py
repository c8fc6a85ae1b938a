"""Top-k: only the numbers of the greatest magnitude travel.

Source: S. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, definition 2.1: of d numbers k
are kept, and ‖x − top(x)‖² ≤ (1 − k/d)·‖x‖². It is biased: used without the memory of ``Compressed`` it need not reach
an optimum.

Message: ``numbers`` are those that are kept, in the order of their places; ``packed`` are the places
(``write_places``). Zeros do not travel. About 5 bytes a number that is kept, for one in a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.compression.encoded import Encoded, check
from unseen.learners.horizontal.compression.gaps import read_places, write_places
from unseen.learners.horizontal.process import Vector


@dataclass(frozen=True, slots=True)
class TopK:
    """Keeps this ``share`` of all numbers, at least one.

    Raises:
        UsageError: It is not above 0 and not above 1.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"top-k keeps a share above 0 and not above 1 of all numbers, found {self.share}")

    @property
    def scheme(self) -> str:
        """Name and parameters."""
        return f"top-k {self.share!r}"

    @property
    def unbiased(self) -> bool:
        """It is not."""
        return False

    def count(self, size: int) -> int:
        """Return how many of ``size`` numbers are kept."""
        return min(size, max(1, round(self.share * size)))

    def encode(self, vector: Vector, rng: np.random.Generator) -> Encoded:
        """Return the greatest numbers and their places; nothing is drawn."""
        del rng
        places = greatest(vector, self.count(len(vector)))
        return Encoded(self.scheme, len(vector), vector[places], write_places(places))

    def decode(self, encoded: Encoded, size: int) -> Vector:
        """Return the numbers at their places, and zeros elsewhere.

        Raises:
            RemoteProtocolError: The message is not one that ``encode`` makes.
        """
        check(encoded, self.scheme, size, None, None)
        places = read_places(encoded.packed, size)
        if len(places) != len(encoded.numbers) or len(places) > self.count(size):
            raise RemoteProtocolError(
                f"{self.scheme}: expected as many places as numbers and at most {self.count(size)}, found "
                f"{len(places)} places and {len(encoded.numbers)} numbers"
            )
        vector = np.zeros(size, np.float32)
        vector[places] = encoded.numbers
        return vector


def greatest(vector: Vector, count: int) -> NDArray[np.int64]:
    """Return the ascending places of the ``count`` greatest magnitudes; of equal ones the first, of zeros none."""
    magnitudes = np.abs(vector)
    least = np.partition(magnitudes, len(vector) - count)[len(vector) - count]
    above = np.flatnonzero(magnitudes > least)
    ties = np.flatnonzero(magnitudes == least)[: count - len(above)] if least > 0 else above[:0]
    return np.sort(np.concatenate([above, ties]))
