"""The schemes of the linear map by their names in flows, and their set-ups as parts of packed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, decode, encode, message
from unseen.errors import DataError, RemoteProtocolError
from unseen.protocols.linear_map.lattice import Lattice, LatticeMatrixSetup, LatticeVectorSetup
from unseen.protocols.linear_map.paillier import Paillier, PaillierMatrixSetup, PaillierVectorSetup
from unseen.protocols.linear_map.plain import Plain, PlainMatrixSetup, PlainVectorSetup
from unseen.protocols.linear_map.port import LinearMap, MatrixSetup, VectorSetup

S = TypeVar("S")

SchemeName: TypeAlias = Literal["lattice", "paillier", "plain"]

MATRIX_SETUPS: Mapping[str, type[MatrixSetup]] = {
    "lattice": LatticeMatrixSetup,
    "paillier": PaillierMatrixSetup,
    "plain": PlainMatrixSetup,
}
VECTOR_SETUPS: Mapping[str, type[VectorSetup]] = {
    "lattice": LatticeVectorSetup,
    "paillier": PaillierVectorSetup,
    "plain": PlainVectorSetup,
}


def scheme_of(name: str, *, simulated: bool) -> LinearMap:
    """Return the linear map scheme called ``name``.

    Raises:
        UsageError: It is ``plain``, and this is no simulation.
    """
    if name == "lattice":
        return Lattice()
    return Paillier() if name == "paillier" else Plain(simulation=simulated)


@message("catalog/kept-setup")
class KeptSetup:
    """One side's set-up of a linear map, encoded, so that messages of several schemes can stand in one field."""

    scheme: str
    frame: Annotated[NDArray[np.uint8], Shape(None)]

    @classmethod
    def of(cls, scheme: str, setup: MatrixSetup | VectorSetup) -> KeptSetup:
        """Return a set-up, encoded."""
        parts = [np.frombuffer(part, np.uint8) for part in encode(setup)]
        return cls(scheme, np.concatenate(parts))

    def matrix_setup(self) -> MatrixSetup:
        """Return the matrix holder's set-up."""
        return self._decoded(MATRIX_SETUPS)

    def vector_setup(self) -> VectorSetup:
        """Return the vector holder's set-up."""
        return self._decoded(VECTOR_SETUPS)

    def _decoded(self, kinds: Mapping[str, type[S]]) -> S:
        try:
            return decode(kinds[self.scheme], self.frame.data, sender="a kept set-up")
        except (RemoteProtocolError, KeyError) as error:
            raise DataError(f"the set-up is not of this version ({error}): run the step again that made it") from error
