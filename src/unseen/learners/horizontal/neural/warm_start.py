"""Models by the names of their parameters: a training that begins with weights from a file, and ends in one.

Files are those of safetensors (https://huggingface.co/docs/safetensors, "Format": eight bytes with the length of a JSON
header, the header, raw numbers), which cannot run code. What ``torch.save`` makes is a pickle, and is not read: twice
the restricted reader of PyTorch has let files run code or corrupt memory (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.codec import read_json
from unseen.data.atomic import whole_file
from unseen.errors import DataError
from unseen.learners.horizontal.process import Vector

Named = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]

_SUFFIX = ".safetensors"
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


def vector_of(shapes: Shapes, named: Named) -> Vector:
    """Return the flat vector of a model, laid out as ``TorchTrainer.shapes`` says.

    Raises:
        DataError: A name is missing or unknown, or a shape is another.
    """
    missing, unknown = [name for name in shapes if name not in named], sorted(set(named) - set(shapes))
    if missing or unknown:
        raise DataError(
            f"the weights are those of another model: missing are {', '.join(missing) or 'none'}; unknown are "
            f"{', '.join(unknown) or 'none'}"
        )
    for name, shape in shapes.items():
        if named[name].shape != shape:
            raise DataError(f"the weights of {name} have shape {named[name].shape}, the model expects {shape}")
    return np.concatenate([np.asarray(named[name], np.float32).ravel() for name in shapes])


def named_of(shapes: Shapes, model: Vector) -> dict[str, NDArray[np.float32]]:
    """Return the parameters and buffers of a flat vector by name, as views.

    Raises:
        DataError: The vector has another length.
    """
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    if model.shape != (int(ends[-1]),):
        raise DataError(f"the model has {ends[-1]} numbers, found a vector of shape {model.shape}")
    parts = np.split(model, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Return what a file of weights holds, ``*.safetensors``.

    Raises:
        DataError: The file cannot be read, or is not what its name says.
    """
    if path.suffix != _SUFFIX:
        raise DataError(
            f"{path}: expected weights in a file *{_SUFFIX}; where they were trained, write a state dict with "
            "safetensors.torch.save_file, not with torch.save, whose files can run code"
        )
    try:
        return _safetensors(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def write_weights(path: Path, named: Named) -> None:
    """Write 32-bit floats to a file of safetensors, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    header: dict[str, Any] = {}
    start = 0
    for name, values in named.items():
        stop = start + 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in named.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())


def _safetensors(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    begin = 8 + int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or begin > len(content):
            raise DataError(f"{path}: the header would end at byte {begin}, the file does at {len(content)}")
        header = read_json(content[8:begin])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _entry(path, name, entry, memoryview(content)[begin:]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of safetensors: {error}") from error


def _entry(path: Path, name: str, entry: Mapping[str, Any], content: memoryview) -> NDArray[Any]:
    kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in _TYPES:
        raise DataError(f"{path}: {name} is of type {kind}, expected one of {', '.join(_TYPES)}")
    expected = int(np.prod(shape)) * np.dtype(_TYPES[kind]).itemsize
    if not 0 <= start <= stop <= len(content) or stop - start != expected:
        raise DataError(f"{path}: {name} of shape {shape} takes {expected} bytes, found {start} to {stop}")
    values = np.frombuffer(content[start:stop], _TYPES[kind]).reshape(shape)
    return (values.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else values
