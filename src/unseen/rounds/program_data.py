"""Whose examples a program learns from: those of its own clients, or what one real client has in a file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseen.data.federated.clients import FederatedData
from unseen.data.federated.images import SETS, load_images
from unseen.data.federated.notation import parse_partitioner
from unseen.data.federated.partition import deal
from unseen.data.federated.sets import open_clients, open_dealt
from unseen.errors import DataError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Examples
from unseen.rounds.program import Program
from unseen.rounds.tables import read_clients, rows_in

_CLIENTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A program's clients: what they train on, what each has to test on, and examples for the model of all."""

    train: FederatedData
    local: FederatedData | None
    test: Examples | None
    columns: tuple[str, ...] | None = None
    """Of tables: the features."""


def read_data(program: Program) -> Held:
    """Return the clients of a program's own data.

    Raises:
        UsageError: It names none, or asks for what they do not allow.
        DataError: They cannot be read.
    """
    section = program.data
    if section.source is None:
        raise UsageError("data.source: the program names no data; give an image set or a file")
    columns = None
    if program.of_tables:
        tables = read_clients(program, section.source)
        columns, clients, test = tables.columns, tables.data, None
    else:
        clients, test = _clients(program, section.source)
    if section.clients is not None and section.clients != len(clients):
        raise UsageError(f"data.clients says {section.clients}, and {clients.name} has {len(clients)}")
    if not section.test:
        return Held(clients, None, test, columns)
    halves = clients.halves(section.test, section.seed)
    return Held(halves.train, halves.test, test or Examples(*halves.test.pooled()), columns)


def _clients(program: Program, source: str) -> tuple[FederatedData, Examples | None]:
    section = program.data
    if source in SETS:
        images, how, count = load_images(source), section.partition or "iid", section.clients or _CLIENTS
        if section.split is not None:
            raise UsageError("data.split: an image set is trained on its part train, and tested on its part test")
        dealt = deal(images.train, parse_partitioner(how), count, seed=section.seed, name=f"{source}, {how}")
        return dealt, Examples(*images.test)
    path = str(program.home / source)
    if section.partition is None:
        return open_clients(path, section.split), None
    count = section.clients or _CLIENTS
    return open_dealt(path, section.partition, count, seed=section.seed, split=section.split), None


def examples_in(program: Program, path: Path) -> Examples:
    """Return the examples in a file: a table, ``.npz`` with ``inputs`` and ``labels``, or all that another kind holds.

    Raises:
        UsageError: It is a file of an unknown kind.
        DataError: It is not there, or holds something else.
    """
    if program.of_tables:
        return Examples(*rows_in(program, path))
    if path.suffix != ".npz":
        return Examples(*open_clients(str(path)).pooled())
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            inputs, labels = file["inputs"], file["labels"]
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: expected the arrays inputs and labels in an .npz file: {error}") from error
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels) or not len(labels):
        raise DataError(f"{path}: inputs have shape {inputs.shape}, labels {labels.shape}; expected (n, …) and (n,)")
    return Examples(inputs, labels)


def own_examples(program: Program, what: str) -> Examples:
    """Return one client's examples: those of ``client:ID`` in the program's data, or of a file."""
    kind, colon, name = what.partition(":")
    if kind == "client" and colon:
        return Examples(*read_data(program).train.client(ClientId(name)))
    return examples_in(program, Path(what))
