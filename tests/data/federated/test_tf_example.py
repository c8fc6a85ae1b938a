import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.data.federated.tf_example import parse_example
from unseen.errors import DataError

# Written by protobuf 7.36.2 from TensorFlow's definitions, and by a copy of them whose numbers are not packed.
VECTORS = json.loads((Path(__file__).parent / "tf_example.json").read_text(encoding="utf-8"))
IMAGE = bytes.fromhex(VECTORS[0]["bytes"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
def test_what_protobuf_writes_is_read(vector):
    found = parse_example(bytes.fromhex(vector["bytes"]))
    assert found.keys() == vector["features"].keys()
    for name, expected in vector["features"].items():
        kinds = {"float": np.float32, "int64": np.int64}
        if expected["kind"] == "bytes":
            assert found[name] == tuple(text.encode() for text in expected["values"])
        else:
            assert found[name].dtype == kinds[expected["kind"]]
            assert found[name].tolist() == expected["values"]


@pytest.mark.parametrize("cut", range(1, len(IMAGE)))
def test_a_message_that_is_cut_off_is_refused(cut):
    with pytest.raises(DataError):
        parse_example(IMAGE[:cut])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1200", "a Example has a field 2"),
        ("0801", "field 1 of wire type 0"),
        ("0b", "wire type 3"),
        ("09" + "00" * 8, "wire type 1"),
        ("0aff", "does not end"),
        ("0a" + "ff" * 10 + "01", "does not end"),
        ("0a" + "ff" * 9 + "02", "more than 64 bits"),
        ("0a0a0a", "cut off after 1"),
        ("0a0712050a01610a00", "a Features has a field 2"),
        ("0a070a050a01611205", "cut off"),
        ("0a040a020a00", "not a key followed by a value"),
        ("0a070a0512000a0161", "not a key followed by a value"),
        ("0a070a050a01ff1200", "no UTF-8"),
        ("0a070a050a01611200", "'a' does not have one list"),
        ("0a090a070a016112022200", "list of unknown type 4"),
        ("0a0b0a090a016112041a000a00", "'a' does not have one list"),
        ("0a0c0a0a0a0161120512030a0101", "something else than 32-bit floats"),
        ("0a0b0a090a016112041a021001", "something else than 64-bit integers"),
        ("0a0b0a090a016112040a020801", "a BytesList has a field 1 of wire type 0"),
        ("0a120a070a016112021a000a070a016112021a00", "'a' is there twice"),
    ],
)
def test_anything_else_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        parse_example(bytes.fromhex(content))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, len(IMAGE) - 1), st.integers(0, 255))))
def test_any_bytes_give_features_or_a_data_error(change):
    content = change
    if isinstance(change, tuple):
        content = IMAGE[: change[0]] + bytes([change[1]]) + IMAGE[change[0] + 1 :]
    try:
        found = parse_example(content)
    except DataError:
        return
    assert all(isinstance(name, str) for name in found)
