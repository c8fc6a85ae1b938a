"""ristretto255 against the vectors of RFC 9496 and RFC 9497, and what libsodium does not check itself."""

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rbcl
from numpy.typing import NDArray

from unseen.crypto import groups
from unseen.crypto.groups import ORDER, Scalar, check_points, hash_all, hash_to_group, multiply, multiply_all
from unseen.crypto.prg import Prg
from unseen.errors import UsageError

VECTORS = Path(__file__).parents[1] / "vectors"
GROUP = json.loads((VECTORS / "ristretto255.json").read_text())
OPRF = json.loads((VECTORS / "oprf_ristretto255_sha512.json").read_text())
MULTIPLES = [bytes.fromhex(text) for text in GROUP["multiples_of_the_generator"]]
GENERATOR = MULTIPLES[1]
INVALID = [(why, text) for why, texts in GROUP["invalid_encodings"].items() for text in texts]


def scalar(value: int) -> Scalar:
    return Scalar(value.to_bytes(32, "little"))


def rows(*points: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(points), np.uint8).reshape(len(points), -1)


def prg(name: str = "") -> Prg:
    return Prg(bytes(32)).derive(name)


@pytest.mark.parametrize("factor", range(1, 16))
def test_multiples_of_the_generator(factor: int) -> None:
    assert multiply(scalar(factor), GENERATOR) == MULTIPLES[factor]


def test_the_inverse_of_the_generator_comes_from_the_largest_scalar() -> None:
    opposite = multiply(scalar(ORDER - 1), GENERATOR)
    assert rbcl.crypto_core_ristretto255_add(opposite, GENERATOR) == bytes(32)


@pytest.mark.parametrize("case", GROUP["element_derivation"], ids=lambda case: case["uniform_bytes"][:8])
def test_elements_from_uniform_bytes(case: dict[str, str]) -> None:
    assert rbcl.crypto_core_ristretto255_from_hash(bytes.fromhex(case["uniform_bytes"])).hex() == case["element"]


@pytest.mark.parametrize("case", OPRF["tests"], ids=lambda case: case["input"])
def test_oprf_vectors(case: dict[str, Any]) -> None:
    element = hash_to_group(bytes.fromhex(case["input"]), bytes.fromhex(OPRF["dst_hex"]))
    blinded = multiply(Scalar(bytes.fromhex(case["blind"])), element)
    assert blinded.hex() == case["blinded_element"]
    assert multiply(Scalar(bytes.fromhex(OPRF["secret_key"])), blinded).hex() == case["evaluation_element"]


@pytest.mark.parametrize(("why", "encoding"), INVALID)
def test_invalid_encodings_are_refused(why: str, encoding: str) -> None:
    points = rows(GENERATOR, bytes.fromhex(encoding))
    with pytest.raises(UsageError, match="row 1 is not the canonical encoding"):
        check_points(points)
    with pytest.raises(UsageError, match="row 1 is not the canonical encoding"):
        multiply_all(scalar(2), points)


def test_only_the_unpacked_library_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    unpacked, other, installed = tmp_path / "tmpabc.so", tmp_path / "libsodium.so", tmp_path / "lib" / "tmp.so"
    installed.parent.mkdir()
    for path in (unpacked, other, installed):
        path.touch()
        groups._forget_unpacked_library(path)
    assert [unpacked.exists(), other.exists(), installed.exists()] == [False, True, True]


@pytest.mark.parametrize("point", MULTIPLES[1:])
def test_a_second_encoding_by_the_highest_bit_is_refused(point: bytes) -> None:
    twin = point[:31] + bytes([point[31] | 0x80])
    with pytest.raises(UsageError, match="row 0 is not the canonical encoding"):
        check_points(rows(twin))
    with pytest.raises(UsageError, match="row 0 is not the canonical encoding"):
        multiply(scalar(2), twin)


def test_the_identity_is_refused() -> None:
    with pytest.raises(UsageError, match="row 1 is the identity"):
        check_points(rows(GENERATOR, bytes(32)))
    with pytest.raises(UsageError, match="row 0 is the identity"):
        multiply(scalar(2), bytes(32))


@pytest.mark.parametrize(
    "points", [np.zeros((2, 31), np.uint8), np.zeros(32, np.uint8), np.ones((2, 32), np.int64)], ids=["31", "1d", "int"]
)
def test_arrays_of_another_form_are_refused(points: NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="points have shape"):
        multiply_all(scalar(2), points)


def test_blinding_commutes() -> None:
    one, other = Scalar.derive(prg("one")), Scalar.derive(prg("other"))
    points = hash_all([b"a", b"b", b""], b"tag")
    assert np.array_equal(
        multiply_all(one, multiply_all(other, points)), multiply_all(other, multiply_all(one, points))
    )


@pytest.mark.parametrize("count", [0, 1, 255, 511, 512, 777])
def test_a_batch_is_the_same_as_one_by_one(count: int) -> None:
    items = [str(number).encode() for number in range(count)]
    secret = Scalar.derive(prg())
    hashed = hash_all(items, b"tag")
    assert hashed.shape == (count, 32)
    assert [row.tobytes() for row in hashed] == [hash_to_group(item, b"tag") for item in items]
    some = slice(0, count, 50)
    product = multiply_all(secret, hashed)
    assert product.shape == (count, 32)
    assert [row.tobytes() for row in product[some]] == [multiply(secret, row.tobytes()) for row in hashed[some]]


def test_an_invalid_point_in_a_large_batch_is_named_by_its_row() -> None:
    points = hash_all([str(number).encode() for number in range(600)], b"tag")
    points = np.concatenate([points, rows(bytes.fromhex(INVALID[13][1]))])
    with pytest.raises(UsageError, match="row 600 "):
        multiply_all(scalar(3), points)


def test_messages_and_tags_separate() -> None:
    found = {hash_to_group(text, tag) for text in (b"", b"a", b"b") for tag in (b"x", b"y")}
    assert len(found) == 6


def test_scalars_follow_from_the_generator_of_randomness() -> None:
    one, same, other = (Scalar.derive(prg(name)) for name in ("a", "a", "b"))
    assert multiply(one, GENERATOR) == multiply(same, GENERATOR) != multiply(other, GENERATOR)


def test_scalars_are_reduced_from_64_bytes() -> None:
    wide = int.from_bytes(prg("a").bytes(64), "little")
    assert multiply(Scalar.derive(prg("a")), GENERATOR) == multiply(scalar(wide % ORDER), GENERATOR)


@pytest.mark.parametrize("value", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_scalars_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(UsageError, match="a scalar is 32 little-endian bytes"):
        scalar(value)


def test_scalars_of_another_length_are_refused() -> None:
    with pytest.raises(UsageError, match="a scalar is 32"):
        Scalar(b"\x01" * 31)


def test_a_scalar_cannot_be_printed_pickled_or_compared() -> None:
    secret = scalar(12345)
    assert repr(secret) == str(secret) == "Scalar(<secret>)"
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(secret)
    assert secret != scalar(12345)


def test_the_binding_leaves_no_file_behind() -> None:
    assert not Path(rbcl._sodium._name).exists()
