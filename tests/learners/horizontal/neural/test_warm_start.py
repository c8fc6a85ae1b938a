import json

import numpy as np
import pytest
import torch
from plain import SMALL, pictures

from unseen.errors import DataError
from unseen.learners.horizontal.neural import models
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.neural.warm_start import named_of, read_weights, vector_of, write_weights
from unseen.learners.horizontal.process import Correction, LocalPlan, stream


def build():
    return models.normalised_cnn(SMALL)


@pytest.fixture(scope="module")
def trainer():
    return TorchTrainer(build)


@pytest.fixture(scope="module")
def model(trainer):
    return trainer.fit(trainer.initial(0), pictures(), LocalPlan(), stream(0), Correction()).model


def test_weights_go_to_a_file_and_come_back(trainer, model, tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, named_of(trainer.shapes, model))
    assert (vector_of(trainer.shapes, read_weights(path)) == model).all()
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert size % 8 == 0
    assert header["head.bias"]["shape"] == [5]
    assert max(entry["data_offsets"][1] for entry in header.values()) == 4 * trainer.size


@pytest.mark.parametrize(("kind", "dtype"), [("F16", "<f2"), ("F64", "<f8"), ("I64", "<i8"), ("BF16", None)])
def test_other_types_of_numbers_are_read(kind, dtype, tmp_path):
    values = np.array([1.0, -2.0, 96.0])
    raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2") if dtype is None else values.astype(dtype)
    header = {"__metadata__": {"a": "b"}, "w": {"dtype": kind, "shape": [3], "data_offsets": [0, raw.nbytes]}}
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw.tobytes())
    assert vector_of({"w": (3,)}, read_weights(path)).tolist() == values.tolist()


def test_weights_of_another_model_are_refused(trainer, model):
    named = named_of(trainer.shapes, model)
    with pytest.raises(DataError, match=r"missing are head\.bias; unknown are tail"):
        vector_of(trainer.shapes, {"tail": named["head.bias"], **{k: v for k, v in named.items() if k != "head.bias"}})
    with pytest.raises(DataError, match=r"weights of head\.bias have shape \(4,\), the model expects \(5,\)"):
        vector_of(trainer.shapes, {**named, "head.bias": np.zeros(4)})
    with pytest.raises(DataError, match=r"found a vector of shape \(3,\)"):
        named_of(trainer.shapes, np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "header would end"),
        ((10**9).to_bytes(8, "little") + b"{}", "header would end"),
        ((2).to_bytes(8, "little") + b"{{", "not a file of safetensors"),
        ((2).to_bytes(8, "little") + b"[]", "not a file of safetensors"),
        (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "takes 8 bytes, found 0 to 8"),
        (b'{"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 0]}}', "takes -8 bytes"),
        (b'{"w": {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]}}', "of type C64"),
        (b'{"w": {"dtype": "F32", "shape": [0]}}', "not a file of safetensors"),
    ],
)
def test_damaged_files_are_refused(content, message, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content if content.startswith(b"{") else content)
    with pytest.raises(DataError, match=message):
        read_weights(path)


def test_files_that_could_run_code_or_are_not_there_are_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: expected weights in a file \*\.safetensors; .*save_file"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "w.pt").rename(tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="header would end"):
        read_weights(tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_weights(tmp_path / "missing.safetensors")
