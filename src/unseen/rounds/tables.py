"""Learners of tables that a program can name, and the tables themselves: one file for all clients, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import polars as pl

from unseen.data.federated.clients import FederatedData, Labelled
from unseen.data.federated.notation import parse_partitioner
from unseen.data.federated.partition import deal
from unseen.data.federated.tables import ClientTables, frame_rows, read_rows, read_tables, tables_from_frames
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.boosting.process import horizontal_boosting
from unseen.learners.horizontal.linear.process import horizontal_linear, horizontal_logistic
from unseen.learners.horizontal.process import Process, Trainer
from unseen.learners.vertical.boosting.setting import SQUARED
from unseen.rounds.parameters import construct
from unseen.rounds.program import TABLE_MODELS, Program

_CLIENTS = 10


class Learner(Protocol):
    """A process of sums over clients, the trainer that goes with it, and how many rounds to play."""

    @property
    def process(self) -> Process:
        """What server and clients do."""
        ...

    @property
    def trainer(self) -> Trainer:
        """What evaluates and predicts."""
        ...

    @property
    def rounds(self) -> int:
        """After how many rounds the model is found."""
        ...

    def secure(self, *, least: int, scheme: str) -> Learner:
        """Return the learner whose server sees sums over at least ``least`` clients."""
        ...


LEARNERS: Mapping[str, Callable[..., Learner]] = MappingProxyType(
    dict(zip(TABLE_MODELS, (horizontal_boosting, horizontal_linear, horizontal_logistic), strict=True))
)
"""Every learner of tables by its name."""


def learner_of(program: Program, columns: tuple[str, ...], counts: Mapping[str, int]) -> Learner:
    """Return the learner of a program for rows of these columns.

    ``counts`` say how many ``clients`` are in a round at most, and if they are drawn by coins the ``least`` of a sum.

    Raises:
        UsageError: A parameter is not what it has to be.
    """
    section = program.model
    if section.parameters.get("bin_noise"):
        raise UsageError(
            "model.bin_noise: it would hide rows in the bins and not in the trees, so that no ε could be stated: leave "
            "it out"
        )
    own, drawn = {"clients": counts["clients"]}, {key: counts[key] for key in counts if key != "clients"}
    given = {**own, **section.parameters, "columns": list(columns)}
    learner: Learner = construct(LEARNERS[section.name], given, "model")
    if program.aggregation is None or not program.aggregation.secure:
        return learner
    hidden: Learner = construct(learner.secure, {**drawn, **program.aggregation.parameters}, "aggregation")
    return hidden


def columns_of(program: Program) -> tuple[str, ...] | None:
    """Return the features that a program names.

    Raises:
        UsageError: They are no list of names.
    """
    named = program.model.parameters.get("columns")
    if named is None:
        return None
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise UsageError(f"model.columns: expected a list of names of columns, found {named!r}")
    return tuple(str(one) for one in named)


# --- rows --------------------------------------------------------------------------------------------------------


def read_clients(program: Program, source: str) -> ClientTables:
    """Return the clients of a program's own tables: a folder of files, or a file that is dealt out.

    Raises:
        UsageError: The program asks for what they do not allow.
        DataError: They cannot be read, or a client's rows are not what they have to be.
    """
    section, path, label = program.data, program.home / source, label_of(program)
    if section.split is not None:
        raise UsageError("data.split: tables have none: leave it out")
    if path.is_dir():
        if section.client is not None or section.partition is not None:
            raise UsageError("data.client: a folder has one file for each client: leave it and data.partition out")
        return _classes(program, read_tables(path, label=label, columns=columns_of(program)))
    frame = read_rows(path)
    if section.client is None:
        return _classes(program, _dealt(program, frame, source))
    if section.partition is not None:
        raise UsageError("data.partition: data.client says whose rows are whose: leave one out")
    frames = _by_client(frame, section.client, source)
    name = f"{source}, by {section.client}"
    return _classes(program, tables_from_frames(frames, label=label, columns=columns_of(program), name=name))


def rows_in(program: Program, path: Path) -> Labelled:
    """Return the rows of one real client, or those that a server tests on.

    Raises:
        UsageError: The program does not name the features.
        DataError: The file cannot be read, or its columns are not what they have to be.
    """
    columns = columns_of(program)
    if columns is None:
        raise UsageError(
            "model.columns: real clients and their server have to agree on the features: name them, such as "
            "[age, income]"
        )
    return frame_rows(read_rows(path), columns, label_of(program), client=path.stem)


def label_of(program: Program) -> str:
    """Return the column to be predicted; raises ``UsageError`` if the program does not say it."""
    if program.data.label is None:
        raise UsageError(f"data.label: model {program.model.name} needs the name of the column to be predicted")
    return program.data.label


def _by_client(frame: pl.DataFrame, column: str, source: str) -> dict[str, pl.DataFrame]:
    if column not in frame.columns:
        raise UsageError(f"data.client: {source} has no column {column!r}; it has {', '.join(frame.columns)}")
    if frame[column].null_count():
        row = int(frame[column].is_null().arg_max() or 0)
        raise DataError(f"{source}, row {row + 1}: column {column} says nobody whose row it is; fill it in")
    parts = frame.partition_by(column, maintain_order=True, include_key=False, as_dict=True)
    return {str(key[0]): part for key, part in sorted(parts.items(), key=lambda item: str(item[0][0]))}


def _dealt(program: Program, frame: pl.DataFrame, source: str) -> ClientTables:
    section, label = program.data, label_of(program)
    columns = columns_of(program) or tuple(name for name in frame.columns if name != label)
    how, count = section.partition or "iid", section.clients or _CLIENTS
    rows = frame_rows(frame, columns, label, client=source)
    partitioner = parse_partitioner(how)
    return ClientTables(columns, deal(rows, partitioner, count, seed=section.seed, name=f"{source}, {how}"))


def _classes(program: Program, tables: ClientTables) -> ClientTables:
    """Return tables whose labels are integers, if they are classes."""
    name, data = program.model.name, tables.data
    if name == TABLE_MODELS[1] or program.model.parameters.get("objective") == SQUARED:
        return tables
    clients = {str(client): data.client(client) for client in data.ids}
    if not all((np.mod(own.labels, 1) == 0).all() for own in clients.values()):
        return tables  # the learner says at which client
    whole = {client: Labelled(own.inputs, own.labels.astype(np.int64)) for client, own in clients.items()}
    return ClientTables(tables.columns, FederatedData.of(data.name, whole))
