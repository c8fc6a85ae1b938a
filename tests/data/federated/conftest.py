"""Writes small files in the formats in which federated data is published."""

import json
import sqlite3
import struct

import numpy as np
import pytest

TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    kind = TYPES[array.dtype.str[1:]]
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def image_example(pixels, label):
    """Return a tf.train.Example with a float list and an integer."""
    features = {
        "label": field(3, field(1, varint(label))),
        "pixels": field(2, field(1, np.asarray(pixels, "<f4").tobytes())),
    }
    return field(1, b"".join(field(1, field(1, name.encode()) + field(2, own)) for name, own in features.items()))


def write_sqlite(path, splits, *, index=True, counts=None):
    """Write a client file of TFF: ``splits`` has, by name and client, serialised examples."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
        database.execute("CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)")
        if index:
            database.execute("CREATE INDEX idx ON examples (split_name, client_id)")
        for split, clients in splits.items():
            for client, contents in clients.items():
                rows = [(split, client, content) for content in contents]
                database.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
                count = (counts or {}).get(client, len(contents))
                database.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, count))
    database.close()


@pytest.fixture
def formats():
    """The writers of this file, for tests to use."""
    return {"idx": idx_bytes, "field": field, "varint": varint, "image": image_example, "sqlite": write_sqlite}


@pytest.fixture
def writers():
    """Three writers with 2, 3 and 1 images of 28 × 28 and labels, by id; different in every pixel."""
    rng = np.random.default_rng(5)
    return {
        name: (rng.random((size, 28, 28), np.float32), rng.integers(0, 62, size))
        for name, size in (("f0000_14", 2), ("f0001_41", 3), ("f0002_07", 1))
    }


@pytest.fixture
def leaf_file():
    """Write a LEAF file of users with x and y."""

    def write(path, users, /, **changes):
        content = {
            "users": list(users),
            "num_samples": [len(own["y"]) for own in users.values()],
            "user_data": users,
            **changes,
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write
