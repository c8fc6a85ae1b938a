"""Who exchanges models with whom when there is no server: graphs, and the weights of one exchange.

Column j of the mixing matrix W says how node j divides what it has, so that columns sum to 1 and nothing is lost or
made. If rows do, too, nodes move towards the plain mean of all, and what keeps them from it shrinks by
σ₂ = ‖W − 11ᵀ/n‖₂ at least in each exchange; 1 − σ₂ is the *spectral gap*. Weights of undirected graphs are those of
Metropolis and Hastings: Wᵢⱼ = 1 / (1 + max(dᵢ, dⱼ)) for neighbours, the rest stays (L. Xiao, S. Boyd, S. Lall,
"Distributed average consensus with least-mean-square deviation", JPDC 2007, section 2).

==================  =================================================  =============  ============================
graph               neighbours                                         spectral gap   source
==================  =================================================  =============  ============================
``ring``            the one before and the one after                   O(1/n²)
``torus``           four, on a grid as square as n allows              O(1/n)
``random_regular``  ``degree``, drawn by the seed                      constant       J. Friedman, 2008 (gap)
``exponential``     to those 1, 2, 4, … further; directed              O(1/log n)     Assran et al., 2019, app. A
``one_peer``        to one of these, in turn; directed, changes        (all rounds)   Assran et al., 2019, app. A
``complete``        all                                                1
==================  =================================================  =============  ============================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.learners.horizontal.process import stream

_TRIES = 200
_DENSE = 4096
"""Up to so many nodes the gap is computed from the whole matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """One exchange: row i has what node i takes in; the sparse matrix W in rows of equal length."""

    sources: NDArray[np.int64] = field(repr=False)
    """Shape (n, k): from whom, itself first; places that are not needed name the node itself."""
    weights: NDArray[np.float64] = field(repr=False)
    """Shape (n, k): Wᵢⱼ; 0 where a place is not needed."""

    def __len__(self) -> int:
        return len(self.sources)

    def sent_to(self, node: int) -> dict[int, float]:
        """Return from whom a node takes in what share, itself not counted."""
        pairs = zip(self.sources[node].tolist(), self.weights[node].tolist(), strict=True)
        return {source: weight for source, weight in pairs if weight and source != node}

    def sent_by(self, node: int) -> dict[int, float]:
        """Return to whom a node gives what share, itself not counted."""
        found = np.argwhere((self.sources == node) & (self.weights > 0))
        return {i: float(self.weights[i, k]) for i, k in found.tolist() if i != node}

    def dense(self) -> NDArray[np.float64]:
        """Return W, shape (n, n)."""
        matrix = np.zeros((len(self), len(self)))
        np.add.at(matrix, (np.arange(len(self))[:, None], self.sources), self.weights)
        return matrix

    def without(self, down: NDArray[np.bool_]) -> Mixing:
        """Return the exchange when nodes are ``down``: what would have gone to them or come from them stays at home.

        Columns still sum to 1, so that the mean is kept; rows need not.
        """
        rows = np.arange(len(self))[:, None]
        away = (self.sources != rows) & (self.weights > 0) & (down[self.sources] | down[:, None])
        weights = np.where(away, 0.0, self.weights)
        np.add.at(weights, (self.sources[away], 0), self.weights[away])
        return Mixing(self.sources, weights)


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph by name, for as many nodes as there are.

    Raises:
        UsageError: There is no such graph.
    """

    name: str
    """One of ``GRAPHS``."""
    degree: int = 4
    """Of ``random_regular``."""
    seed: int = 0
    """Of ``random_regular``; the same at all nodes."""

    def __post_init__(self) -> None:
        if self.name not in GRAPHS:
            raise UsageError(f"there is no topology {self.name!r}; there are {', '.join(sorted(GRAPHS))}")

    def period(self, nodes: int) -> int:
        """Return after how many rounds the exchanges repeat."""
        return max(1, math.ceil(math.log2(nodes))) if self.name == "one_peer" else 1

    def mixing(self, nodes: int, round_number: int = 0) -> Mixing:
        """Return the exchange of a round.

        Raises:
            UsageError: There are too few nodes for the graph, or none of this degree.
        """
        if nodes < 2:
            raise UsageError(f"an exchange needs at least two nodes, found {nodes}")
        return GRAPHS[self.name](self, nodes, round_number)

    def spectral_gap(self, nodes: int) -> float:
        """Return 1 − σ₂ of one exchange; of ``one_peer``, 1 − σ₂ of a whole period.

        Raises:
            UsageError: There are more than 4,096 nodes.
        """
        if nodes > _DENSE:
            raise UsageError(f"the spectral gap is computed for at most {_DENSE} nodes, found {nodes}")
        product = np.eye(nodes)
        for number in range(self.period(nodes)):
            product = self.mixing(nodes, number).dense() @ product
        rest = product - 1 / nodes
        if np.allclose(rest, rest.T, atol=1e-12):
            return 1.0 - float(np.abs(np.linalg.eigvalsh(rest)).max())
        return 1.0 - float(np.linalg.norm(rest, 2))


# --- undirected graphs -------------------------------------------------------------------------------------------


def _metropolis(neighbours: list[list[int]]) -> Mixing:
    """Return the exchange over an undirected graph, of which neighbours are given in ascending order."""
    degrees = [len(others) for others in neighbours]
    width = 1 + max(degrees)
    sources = np.repeat(np.arange(len(neighbours))[:, None], width, axis=1)
    weights = np.zeros(sources.shape)
    for node, others in enumerate(neighbours):
        sources[node, 1 : 1 + len(others)] = others
        weights[node, 1 : 1 + len(others)] = [1 / (1 + max(degrees[node], degrees[other])) for other in others]
    weights[:, 0] = 1 - weights.sum(axis=1)
    return Mixing(sources, weights)


def _ring(_topology: Topology, nodes: int, _round: int) -> Mixing:
    return _metropolis([sorted({(i - 1) % nodes, (i + 1) % nodes} - {i}) for i in range(nodes)])


def _torus(_topology: Topology, nodes: int, _round: int) -> Mixing:
    height = next(h for h in range(math.isqrt(nodes), 0, -1) if nodes % h == 0)
    width = nodes // height
    if height < 2:
        raise UsageError(f"{nodes} nodes make no grid of two rows or more: take another number, or a ring")
    found = []
    for i in range(nodes):
        row, column = divmod(i, width)
        around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        found.append(sorted({r % height * width + c % width for r, c in around} - {i}))
    return _metropolis(found)


def _complete(_topology: Topology, nodes: int, _round: int) -> Mixing:
    return _metropolis([[j for j in range(nodes) if j != i] for i in range(nodes)])


def _random_regular(topology: Topology, nodes: int, _round: int) -> Mixing:
    """Draw a graph: circles through all nodes in random order, and a random matching if the degree is odd.

    Unions of random circles have the gap of random regular graphs (N. Wormald, "Models of random regular graphs",
    1999, section 4.3); those with an edge twice are drawn again.
    """
    degree = topology.degree
    if not 2 <= degree < nodes or nodes * degree % 2:
        raise UsageError(
            f"there is no graph of {nodes} nodes with {degree} neighbours each: the degree is 2 at least and below the "
            "number of nodes, and one of both is even"
        )
    rng = stream(topology.seed, "topology", nodes, degree)
    neighbours: list[set[int]] = [set() for _ in range(nodes)]
    for part in range((degree + 1) // 2):
        _add_part(neighbours, rng, matching=part == degree // 2)
    return _metropolis([sorted(others) for others in neighbours])


def _add_part(neighbours: list[set[int]], rng: np.random.Generator, *, matching: bool) -> None:
    """Add a circle through all nodes, or a matching of all, that has no edge of those before."""
    nodes = len(neighbours)
    order = rng.permutation(nodes)
    for _ in range(_TRIES * nodes):
        follower = np.roll(order, -1)
        pairs = list(zip(order.tolist(), follower.tolist(), strict=True))
        if matching:
            pairs = pairs[::2]
        clash = [place for place, (a, b) in enumerate(pairs) if b in neighbours[a]]
        if not clash:
            for a, b in pairs:
                neighbours[a].add(b)
                neighbours[b].add(a)
            return
        # Exchange one end of a clash with any other node.
        here, there = clash[0] * (2 if matching else 1), int(rng.integers(nodes))
        order[here], order[there] = order[there], order[here]
    raise UsageError(f"no further neighbours were found for {nodes} nodes: choose a smaller degree, or ``complete``")


# --- directed graphs ---------------------------------------------------------------------------------------------


def _hops(nodes: int) -> list[int]:
    return [1 << power for power in range(max(1, math.ceil(math.log2(nodes))))]


def _pushed(nodes: int, hops: list[int]) -> Mixing:
    here = np.arange(nodes)
    sources = np.stack([here, *((here - hop) % nodes for hop in hops)], axis=1)
    return Mixing(sources, np.full(sources.shape, 1 / sources.shape[1]))


def _exponential(_topology: Topology, nodes: int, _round: int) -> Mixing:
    return _pushed(nodes, _hops(nodes))


def _one_peer(_topology: Topology, nodes: int, round_number: int) -> Mixing:
    hops = _hops(nodes)
    return _pushed(nodes, [hops[round_number % len(hops)]])


GRAPHS: Mapping[str, Callable[[Topology, int, int], Mixing]] = {
    "complete": _complete,
    "exponential": _exponential,
    "one_peer": _one_peer,
    "random_regular": _random_regular,
    "ring": _ring,
    "torus": _torus,
}
"""Every graph by its name."""
