"""LEAF's JSON files: users, how many examples each has, and their examples.

Source: S. Caldas and others, "LEAF: A Benchmark for Federated Settings" (2018). A set is a folder of files, each an
object with ``users`` (ids), ``num_samples`` (one number each) and ``user_data`` (by id: ``x`` and ``y``, lists of one
length), sometimes with ``hierarchies``, which is not used. A user may be in one file only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unseen.codec import read_json
from unseen.data.federated.clients import Array, FederatedData, Halves, Held, Labelled, labelled
from unseen.errors import DataError
from unseen.ids import ClientId


def read_leaf(path: Path, *, shape: tuple[int, ...] | None = None) -> FederatedData:
    """Return the users of a JSON file, or of all JSON files in a folder, in the order of files and of users in them.

    JSON has no way to find one user without reading all, so everything is read at once and kept as arrays: numbers as
    32-bit floats, integers as 64-bit ones, text as text.

    Args:
        path: A file or a folder.
        shape: Of one input, if lists are flat: (28, 28) for FEMNIST's 784 pixels.

    Raises:
        DataError: A file cannot be read or is not as LEAF writes it; it says where.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} has no JSON file: expected those that LEAF's preprocess.sh writes")
    held: dict[ClientId, Labelled] = {}
    for file in files:
        for client, examples in _users(file, shape).items():
            if client in held:
                raise DataError(f"{file}: user {client!r} is in an earlier file already")
            held[client] = examples
    sizes = tuple(len(examples.labels) for examples in held.values())
    return FederatedData(path.stem, tuple(held), sizes, Held(held))


def read_leaf_halves(folder: Path, *, shape: tuple[int, ...] | None = None) -> Halves:
    """Return the folders ``train`` and ``test`` that LEAF's split by examples makes; raises as ``read_leaf`` does."""
    return Halves(read_leaf(folder / "train", shape=shape), read_leaf(folder / "test", shape=shape))


def _users(file: Path, shape: tuple[int, ...] | None) -> dict[ClientId, Labelled]:
    content = _content(file)
    users, counts, data = (content.get(name) for name in ("users", "num_samples", "user_data"))
    if not isinstance(users, list) or not isinstance(counts, list) or not isinstance(data, dict):
        raise DataError(
            f"{file}: expected lists users and num_samples and an object user_data, found {', '.join(content)}"
        )
    if len(users) != len(counts) or sorted(users, key=str) != sorted(data):
        raise DataError(
            f"{file}: {len(users)} users, {len(counts)} num_samples and {len(data)} user_data do not fit each other"
        )
    found = {}
    for user, count in zip(users, counts, strict=True):
        where = f"{file}, user {user}"
        found[ClientId(user)] = examples = _examples(data[user], shape, where)
        if len(examples.labels) != count:
            raise DataError(f"{where}: {len(examples.labels)} examples, but num_samples says {count}")
    return found


def _content(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected an object with users, num_samples and user_data")
    return content


def _examples(own: object, shape: tuple[int, ...] | None, where: str) -> Labelled:
    if not isinstance(own, dict) or not {"x", "y"} <= own.keys():
        raise DataError(f"{where}: expected an object with x and y")
    if not own["y"]:
        raise DataError(f"{where}: there are no examples; leave such users out (LEAF's option -k)")
    inputs, labels = _array(own["x"], f"{where}, x"), _array(own["y"], f"{where}, y")
    if shape is not None:
        try:
            inputs = inputs.reshape(len(inputs), *shape)
        except ValueError as error:
            raise DataError(f"{where}: inputs have shape {inputs.shape[1:]}, which is not one of {shape}") from error
    return labelled(inputs, labels, where=where)


def _array(values: object, where: str) -> Array:
    """Return a list of numbers, texts or equally long lists as an array."""
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list")
    try:
        found = np.array(values)
    except ValueError as error:
        raise DataError(f"{where}: lists differ in length, so they are no array") from error
    if found.dtype.kind not in "fiuU" or (found.dtype.kind == "U" and _has_numbers(values)):
        raise DataError(f"{where}: expected numbers or text, all of one kind")
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def _has_numbers(values: list[Any]) -> bool:
    """Return whether a list that became text has something else in it."""
    return any(_has_numbers(value) if isinstance(value, list) else not isinstance(value, str) for value in values)
