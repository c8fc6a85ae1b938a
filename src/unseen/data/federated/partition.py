"""Deals a pooled set out to clients: alike, or as unlike as one wishes, always the same for the same seed.

A partitioner gets labels, a number of clients and a generator of random numbers, and returns the rows of every client.
All but ``DirichletWithOverlap`` deal every example to exactly one client, and at least one to every client.

==========================  =============================================  ==================  ========================
written as                  what differs between clients                   sizes               source
==========================  =============================================  ==================  ========================
``iid``                     nothing but chance                             equal               –
``dirichlet:0.5``           label mix, drawn for every client              equal               Hsu and others 2019
``dirichlet-per-label:0.5`` label mix; every label is divided by a draw    follow the mix      Yurochkin and others 2019
``shards:2``                labels: shards of the examples sorted by them  equal               McMahan and others 2017
``labels:2``                labels: each client has exactly so many        follow the labels   Li and others 2022
``power-law:1.2``           sizes, falling with rank as rank^-1.2          power law           –
``dirichlet-sizes:0.5``     sizes, one Dirichlet draw                      unlike              Li and others 2022
``overlap:1.0``             label mix, drawn with repetition from the set  80 to 120           the simulation benchmark
==========================  =============================================  ==================  ========================

"Equal" sizes differ by one example at most, whatever the numbers. Rows of a client are in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from unseen.data.federated.clients import Array, Dealt, FederatedData, Labelled, Rows, labelled
from unseen.data.federated.rows import by_label, draw_labels, equal_sizes, grouped, random_cut, sizes_like
from unseen.errors import DataError, UsageError
from unseen.ids import ClientId

_ATTEMPTS = 1000


class Partitioner(Protocol):
    """A way to deal examples out."""

    overlap: ClassVar[bool]
    """Whether an example may go to several clients, or to none."""

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client, for labels of shape (n,)."""
        ...


def deal(
    examples: tuple[Array, Array], how: Partitioner, clients: int, *, seed: int = 0, name: str = "examples"
) -> FederatedData:
    """Return as many clients, ``c0000``, ``c0001``, …, that share out the examples.

    Raises:
        UsageError: The numbers do not allow it, such as fewer examples than clients.
        DataError: Labels do not fit inputs, or a partitioner lost or repeated an example.
    """
    pooled = labelled(*examples, where=name)
    if clients < 1:
        raise UsageError(f"examples are dealt to one client or more, found {clients}")
    if clients > len(pooled.labels) and not how.overlap:
        raise UsageError(f"{len(pooled.labels)} examples are too few for {clients} clients: take fewer")
    found = how(pooled.labels, clients, np.random.default_rng(seed))
    _check(found, clients, len(pooled.labels), how)
    width = max(4, len(str(clients - 1)))
    rows = {ClientId(f"c{number:0{width}d}"): own for number, own in enumerate(found)}
    return _of_rows(name, pooled, rows)


def by_key(examples: tuple[Array, Array], keys: Array, *, name: str = "examples") -> FederatedData:
    """Return the natural partition: one client for each value of ``keys``, shape (n,), in ascending order.

    Raises:
        DataError: There is not one key for each example.
    """
    pooled = labelled(*examples, where=name)
    if keys.shape != pooled.labels.shape:
        raise DataError(f"{name}: keys have shape {keys.shape}, labels {pooled.labels.shape}; expected one key each")
    values, owner = np.unique(keys, return_inverse=True)
    return _of_rows(name, pooled, dict(zip(map(ClientId, map(str, values)), grouped(owner, len(values)), strict=True)))


def benchmark_partition(labels: Array, clients: int = 3383, alpha: float = 1.0, seed: int = 0) -> list[Rows]:
    """Return the partition of the simulation benchmark, bit for bit: 80 to 120 images each, in the order drawn.

    As many clients as federated EMNIST has writers; peers in ``benchmarks`` draw the same one by themselves.
    """
    return DirichletWithOverlap(alpha)(labels, clients, np.random.default_rng(seed))


def _of_rows(name: str, pooled: Labelled, rows: Mapping[ClientId, Rows]) -> FederatedData:
    return FederatedData(name, tuple(rows), tuple(map(len, rows.values())), Dealt(pooled, rows))


def _check(found: list[Rows], clients: int, examples: int, how: Partitioner) -> None:
    """Hold a partitioner, which may be a user's own, to its promise."""
    if len(found) != clients:
        raise DataError(f"{how!r} made {len(found)} clients, expected {clients}")
    times = np.bincount(np.concatenate(found), minlength=examples)
    if len(times) > examples:
        raise DataError(f"{how!r} dealt out example {len(times) - 1}, but there are only {examples}")
    if not how.overlap and (times != 1).any():
        wrong = int(np.flatnonzero(times != 1)[0])
        raise DataError(f"{how!r} dealt example {wrong} out {times[wrong]} times, expected once")


# --- alike -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Iid:
    """Every client a random sample; sizes differ by one at most."""

    overlap: ClassVar[bool] = False

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        return [np.sort(rows) for rows in np.array_split(rng.permutation(len(labels)), clients)]


# --- unlike in their labels --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Every client a label mix of its own ~ Dirichlet(alpha · K · p), with p the pooled mix of K labels; equal sizes.

    Equally frequent labels have the parameter ``alpha`` each, which is how it is mostly given; the source writes
    Dirichlet(alpha · p). A label that has run out is drawn no more: those who come last take what is left, and with a
    small ``alpha`` their mix is not their own. Source: T. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical
    Data Distribution for Federated Visual Classification" (2019), section 3.

    Raises:
        UsageError: ``alpha`` is not positive.
    """

    alpha: float
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        piles = [rng.permutation(pile) for pile in by_label(labels)]
        left = np.array([len(pile) for pile in piles])
        prior = self.alpha * len(piles) * left / left.sum()
        found = []
        for size in equal_sizes(len(labels), clients):
            taken = draw_labels(prior, left, size, rng)
            found.append(np.sort(np.concatenate([p[n - t : n] for p, n, t in zip(piles, left, taken, strict=True)])))
            left = left - taken
        return found


@dataclass(frozen=True, slots=True)
class DirichletPerLabel:
    """Every label divided among the clients by a draw of Dirichlet(alpha); sizes follow from the mixes.

    Whoever has reached n / clients examples gets none of further labels, and all is drawn anew until everybody has
    ``minimum`` of them, as the tables of NIID-Bench and Flower's niid_bench have it. Source: M. Yurochkin and others,
    "Bayesian Nonparametric Federated Learning of Neural Networks" (ICML 2019), section 4; Q. Li and others,
    "Federated Learning on Non-IID Data Silos" (ICDE 2022), section IV.

    Raises:
        UsageError: ``alpha`` is not positive, or no draw gives everybody enough.
    """

    alpha: float
    minimum: int = 10
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        piles = by_label(labels)
        for _ in range(_ATTEMPTS):
            owner = self._attempt(piles, clients, rng)
            if np.bincount(owner, minlength=clients).min() >= max(1, self.minimum):
                return grouped(owner, clients)
        raise UsageError(
            f"in {_ATTEMPTS} draws of Dirichlet({self.alpha}) never did all of {clients} clients get {self.minimum} of "
            f"{len(labels)} examples: take fewer clients, a larger alpha or a lower minimum"
        )

    def _attempt(self, piles: list[Rows], clients: int, rng: np.random.Generator) -> Rows:
        """Return the owner of every example."""
        owner = np.empty(sum(map(len, piles)), np.int64)
        sizes = np.zeros(clients, np.int64)
        for pile in piles:
            rows = rng.permutation(pile)
            parts = rng.dirichlet(np.full(clients, self.alpha)) * (sizes < len(owner) / clients)
            if not parts.sum() > 0:  # with a tiny alpha, all that is drawn may belong to those who have enough
                parts = (sizes < len(owner) / clients).astype(np.float64)
            ends = (np.cumsum(parts / parts.sum()) * len(rows)).astype(np.int64)[:-1]
            counts = np.diff(ends, prepend=0, append=len(rows))
            owner[rows] = np.repeat(np.arange(clients), counts)
            sizes += counts
        return owner


@dataclass(frozen=True, slots=True)
class Shards:
    """``per_client`` shards for everyone, of clients · per_client equal ones cut from the examples sorted by label.

    Source: B. McMahan and others, "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS
    2017), section 3: two shards of 300 for each of 100 clients.

    Raises:
        UsageError: ``per_client`` is not positive, or there are fewer examples than shards.
    """

    per_client: int = 2
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("shards a client", self.per_client)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        count = clients * self.per_client
        if count > len(labels):
            raise UsageError(f"{len(labels)} examples cannot be cut into {count} shards: take fewer clients or shards")
        shards = np.array_split(np.argsort(labels, kind="stable"), count)
        hands = rng.permutation(count).reshape(clients, self.per_client)
        return [np.sort(np.concatenate([shards[number] for number in hand])) for hand in hands]


@dataclass(frozen=True, slots=True)
class LabelsPerClient:
    """Exactly ``count`` labels for every client; examples of a label are divided equally among those who have it.

    Client i has label i modulo their number, and others by chance, those first that nobody has yet. Source: Q. Li and
    others, "Federated Learning on Non-IID Data Silos" (ICDE 2022), section IV, "#C = k".

    Raises:
        UsageError: There are not so many labels, more than all clients can have, or too few examples of one.
    """

    count: int = 2
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("labels a client", self.count)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        piles = by_label(labels)
        holds = self._choose(len(piles), clients, rng)
        owner = np.empty(len(labels), np.int64)
        for pile, who in zip(piles, holds.T, strict=True):
            holders = np.flatnonzero(who)
            if len(holders) > len(pile):
                raise UsageError(f"{len(holders)} clients share a label with {len(pile)} examples: take fewer clients")
            owner[rng.permutation(pile)] = np.repeat(holders, equal_sizes(len(pile), len(holders)))
        return grouped(owner, clients)

    def _choose(self, kinds: int, clients: int, rng: np.random.Generator) -> Array:
        """Return who has which label, shape (clients, kinds)."""
        if self.count > kinds:
            raise UsageError(f"clients cannot have {self.count} labels of {kinds}")
        if self.count * clients < kinds:
            raise UsageError(f"{clients} clients with {self.count} labels each cannot have all {kinds}: take more")
        holds = np.zeros((clients, kinds), np.bool_)
        holds[np.arange(clients), np.arange(clients) % kinds] = True
        for own in holds:
            for _ in range(self.count - 1):
                open_ = np.flatnonzero(~holds.any(axis=0))
                own[rng.choice(open_ if len(open_) else np.flatnonzero(~own))] = True
        return holds


@dataclass(frozen=True, slots=True)
class DirichletWithOverlap:
    """A size between ``smallest`` and ``largest`` and a mix ~ Dirichlet(alpha, …) each, drawn with repetition.

    An example may belong to several clients or to none, so there may be more clients than a set could feed otherwise.
    Rows stay in the order drawn.

    Raises:
        UsageError: ``alpha`` is not positive, or the sizes are no range.
    """

    alpha: float = 1.0
    smallest: int = 80
    largest: int = 120
    overlap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)
        if not 1 <= self.smallest <= self.largest:
            raise UsageError(f"sizes go from one upwards, found from {self.smallest} to {self.largest}")

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        piles = by_label(labels)
        counts = np.array([len(pile) for pile in piles])
        starts, rows = np.cumsum(counts) - counts, np.concatenate(piles)
        found = []
        for _ in range(clients):
            size = int(rng.integers(self.smallest, self.largest + 1))
            drawn = rng.choice(len(piles), size, p=rng.dirichlet([self.alpha] * len(piles)))
            found.append(rows[starts[drawn] + rng.integers(counts[drawn])])
        return found


# --- unlike in their sizes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Sizes in proportion to rank^-exponent, ranks given out by chance; labels as chance has it.

    Raises:
        UsageError: ``exponent`` is not positive.
    """

    exponent: float = 1.2
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("an exponent", self.exponent)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        weights = (1.0 + rng.permutation(clients)) ** -self.exponent
        return random_cut(sizes_like(weights, len(labels)), rng)


@dataclass(frozen=True, slots=True)
class DirichletSizes:
    """Sizes in proportion to one draw of Dirichlet(alpha); labels as chance has it.

    Source: Q. Li and others, "Federated Learning on Non-IID Data Silos" (ICDE 2022), section IV, "quantity skew".

    Raises:
        UsageError: ``alpha`` is not positive.
    """

    alpha: float
    overlap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every client."""
        return random_cut(sizes_like(rng.dirichlet(np.full(clients, self.alpha)), len(labels)), rng)


def _positive(what: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{what}: expected a number above 0, found {value}")
