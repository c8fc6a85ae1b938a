"""``FederatedData``: clients in one order, each with its own inputs and labels, which are read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError
from unseen.ids import ClientId

Array = NDArray[Any]
Rows = NDArray[np.int64]
"""Numbers of examples in a pooled set, counted from 0."""


class Labelled(NamedTuple):
    """Examples: inputs of shape (n, …) and labels of shape (n,)."""

    inputs: Array
    labels: Array


class Source(Protocol):
    """Where the examples of clients lie; it is shared by forked workers, so it keeps no file open."""

    def read(self, client: ClientId) -> Labelled:
        """Return one client's examples."""
        ...

    def labels(self, client: ClientId) -> Array:
        """Return one client's labels alone, by less work if there is a way."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Who has how many examples of which label."""

    ids: tuple[ClientId, ...]
    labels: tuple[str, ...]
    """As text, in the order of their values."""
    counts: NDArray[np.int64]
    """Shape (clients, labels)."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each client, shape (clients,)."""
        sizes: NDArray[np.int64] = self.counts.sum(axis=1)
        return sizes

    @property
    def held(self) -> NDArray[np.int64]:
        """How many different labels each client has, shape (clients,)."""
        held: NDArray[np.int64] = np.count_nonzero(self.counts, axis=1)
        return held

    @property
    def distances(self) -> NDArray[np.float64]:
        """How far the clients' label mixes are from the pooled one, shape (clients,); 0 for clients without examples.

        Total variation: 0 where both are alike, 1 where nothing is in common.
        """
        pooled = self.counts.sum(axis=0) / max(1, self.counts.sum())
        own = self.counts / np.maximum(1, self.sizes)[:, None]
        distances: NDArray[np.float64] = np.abs(own - pooled).sum(axis=1) / 2
        return np.where(self.sizes > 0, distances, 0.0)


class Halves(NamedTuple):
    """The same clients' examples to train on, and others to test on."""

    train: FederatedData
    test: FederatedData


@dataclass(frozen=True, slots=True, eq=False)
class FederatedData:
    """Clients and their examples.

    Raises:
        DataError: There is no client, or one twice, or not one size for each.
    """

    name: str
    """What it is, for titles and messages: ``mnist, dirichlet:0.5``."""
    ids: tuple[ClientId, ...]
    sizes: tuple[int, ...]
    """How many examples each has."""
    source: Source = field(repr=False)
    _place: Mapping[ClientId, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = {client: number for number, client in enumerate(self.ids)}
        if not self.ids:
            raise DataError(f"{self.name}: there are no clients")
        if len(place) != len(self.ids):
            twice = next(client for number, client in enumerate(self.ids) if place[client] != number)
            raise DataError(f"{self.name}: client {twice!r} is there twice; ids of clients are unique")
        if len(self.sizes) != len(self.ids):
            raise DataError(f"{self.name}: {len(self.ids)} clients have {len(self.sizes)} sizes, expected one each")
        object.__setattr__(self, "_place", place)

    @classmethod
    def of(cls, name: str, clients: Mapping[str, tuple[Array, Array]]) -> Self:
        """Return the clients of a mapping from their ids to inputs and labels.

        Raises:
            DataError: A client's labels do not fit its inputs.
        """
        held = {
            ClientId(client): labelled(*examples, where=f"{name}, client {client}")
            for client, examples in clients.items()
        }
        return cls(name, tuple(held), tuple(len(own.labels) for own in held.values()), Held(held))

    def __len__(self) -> int:
        return len(self.ids)

    def client(self, name: ClientId) -> Labelled:
        """Return one client's inputs and labels.

        Raises:
            UsageError: There is no such client.
            DataError: Its examples cannot be read, or are not as many as they were.
        """
        examples = self.source.read(self._known(name))
        self._check(name, examples.labels)
        return examples

    def labels(self, name: ClientId) -> Array:
        """Return one client's labels; raises as ``client`` does."""
        found = self.source.labels(self._known(name))
        self._check(name, found)
        return found

    def spread(self) -> Spread:
        """Return who has how many examples of which label.

        Raises:
            DataError: Labels are not classes (integers, truth values or text).
        """
        own = [np.unique(self.labels(client), return_counts=True) for client in self.ids]
        kinds = {values.dtype.kind for values, _ in own if len(values)}
        if not (kinds <= set("iub") or kinds == {"U"}):
            found = ", ".join(sorted({str(values.dtype) for values, _ in own}))
            raise DataError(f"{self.name}: labels are {found}; a spread is counted for classes: integers, or text")
        classes = np.unique(np.concatenate([values for values, _ in own]))
        counts = np.zeros((len(own), len(classes)), np.int64)
        for row, (values, times) in zip(counts, own, strict=True):
            row[np.searchsorted(classes, values)] = times
        return Spread(self.ids, tuple(str(value) for value in classes.tolist()), counts)

    def pooled(self) -> Labelled:
        """Return the examples of all clients, one client after the other; they are copied.

        Raises:
            DataError: Inputs of two clients differ in shape.
        """
        first = self.client(self.ids[0])
        inputs = np.empty((sum(self.sizes), *first.inputs.shape[1:]), first.inputs.dtype)
        end, labels = 0, []
        for client in self.ids:
            own = self.client(client)
            if own.inputs.shape[1:] != inputs.shape[1:]:
                raise DataError(
                    f"{self.name}: inputs of client {client} have shape {own.inputs.shape[1:]}, those of "
                    f"{self.ids[0]} {inputs.shape[1:]}; only inputs of one shape can be pooled"
                )
            if not np.can_cast(own.inputs.dtype, inputs.dtype, "safe"):  # longer texts, finer numbers
                inputs = inputs.astype(np.promote_types(inputs.dtype, own.inputs.dtype))
            begin, end = end, end + len(own.labels)
            inputs[begin:end] = own.inputs
            labels.append(own.labels)
        return Labelled(inputs, np.concatenate(labels))

    def subset(self, ids: Iterable[ClientId]) -> FederatedData:
        """Return some of the clients, in the order given.

        Raises:
            UsageError: One of them is not there.
        """
        chosen = tuple(ids)
        sizes = tuple(self.sizes[self._place[self._known(client)]] for client in chosen)
        return FederatedData(self.name, chosen, sizes, self.source)

    def mapped(self, change: Callable[[Array], Array]) -> FederatedData:
        """Return the same clients with inputs changed when they are read; ``change`` keeps their number."""
        return FederatedData(self.name, self.ids, self.sizes, Mapped(self.source, change))

    def halves(self, test: float, seed: int = 0) -> Halves:
        """Return every client's examples split in two, ``test`` of them (rounded) for testing.

        Whoever has two examples or more has one at least in each half; a single example is trained on. A client's
        split depends on the seed, its id and its size alone.

        Raises:
            UsageError: ``test`` is not between 0 and 1.
        """
        if not 0 < test < 1:
            raise UsageError(f"the part to test on lies between 0 and 1, found {test}")
        sizes = dict(zip(self.ids, self.sizes, strict=True))
        counts = {client: min(max(1, round(test * size)), size - 1) if size else 0 for client, size in sizes.items()}
        orders = {client: _order(seed, client, size) for client, size in sizes.items()}
        chosen = {client: np.sort(orders[client][: counts[client]]) for client in self.ids}
        others = {client: np.sort(orders[client][counts[client] :]) for client in self.ids}
        return Halves(self._picked(others, "train"), self._picked(chosen, "test"))

    def _picked(self, rows: Mapping[ClientId, Rows], half: str) -> FederatedData:
        sizes = tuple(len(rows[client]) for client in self.ids)
        return FederatedData(f"{self.name}, {half}", self.ids, sizes, Picked(self.source, rows))

    def _known(self, name: ClientId) -> ClientId:
        if name not in self._place:
            raise UsageError(f"{self.name} has no client {name!r}; its {len(self)} clients are in `ids`")
        return name

    def _check(self, name: ClientId, labels: Array) -> None:
        expected = self.sizes[self._place[name]]
        if len(labels) != expected:
            raise DataError(
                f"{self.name}: client {name} has {len(labels)} examples, expected {expected}; the file has changed, or "
                "a function given to `mapped` does not keep their number"
            )


def labelled(inputs: Array, labels: Array, *, where: str) -> Labelled:
    """Return inputs and labels that belong together.

    Raises:
        DataError: They do not: their numbers differ, or labels have more than one dimension.
    """
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels):
        raise DataError(
            f"{where}: inputs have shape {inputs.shape} and labels {labels.shape}; expected (n, …) and (n,)"
        )
    return Labelled(inputs, labels)


def _order(seed: int, client: ClientId, size: int) -> Rows:
    """Return a client's examples in an order that belongs to the seed and to the client."""
    digest = hashlib.sha256(f"{seed}\0{client}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little")).permutation(size).astype(np.int64)


# --- sources -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Examples in memory, by client."""

    clients: Mapping[ClientId, Labelled]

    def read(self, client: ClientId) -> Labelled:
        """Return one client's examples."""
        return self.clients[client]

    def labels(self, client: ClientId) -> Array:
        """Return one client's labels."""
        return self.clients[client].labels


@dataclass(frozen=True, slots=True, eq=False)
class Dealt:
    """Examples of a pooled set in memory, of which every client has some rows; they are copied when they are read."""

    pooled: Labelled
    rows: Mapping[ClientId, Rows]

    def read(self, client: ClientId) -> Labelled:
        """Return one client's examples."""
        rows = self.rows[client]
        # Taking whole rows is a copy of blocks, where an index of arrays would go cell by cell.
        return Labelled(self.pooled.inputs.take(rows, axis=0), self.pooled.labels[rows])

    def labels(self, client: ClientId) -> Array:
        """Return one client's labels."""
        return self.pooled.labels[self.rows[client]]


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Some of every client's examples, by their place among its own."""

    source: Source
    rows: Mapping[ClientId, Rows]

    def read(self, client: ClientId) -> Labelled:
        """Return one client's chosen examples."""
        inputs, labels = self.source.read(client)
        return Labelled(inputs[self.rows[client]], labels[self.rows[client]])

    def labels(self, client: ClientId) -> Array:
        """Return their labels."""
        return self.source.labels(client)[self.rows[client]]


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """Examples with changed inputs."""

    source: Source
    change: Callable[[Array], Array]

    def read(self, client: ClientId) -> Labelled:
        """Return one client's examples after the change."""
        inputs, labels = self.source.read(client)
        return labelled(self.change(inputs), labels, where=f"client {client}, after a change of its inputs")

    def labels(self, client: ClientId) -> Array:
        """Return its labels, which do not change."""
        return self.source.labels(client)
