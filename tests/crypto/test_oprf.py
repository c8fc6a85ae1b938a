"""The oblivious pseudo-random function against the vectors of RFC 9497, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unseen.crypto import oprf
from unseen.crypto.groups import ORDER, Scalar, hash_all, invert_all, multiply_all, multiply_each
from unseen.crypto.oprf import blind, blind_evaluate, draw_blinds, evaluate, finalise
from unseen.crypto.prg import Prg
from unseen.errors import UsageError

OPRF = json.loads((Path(__file__).parents[1] / "vectors" / "oprf_ristretto255_sha512.json").read_text())
KEY = Scalar(bytes.fromhex(OPRF["secret_key"]))
SOME = [b"", b"a", b"\0", b"\0\0", "名前".encode(), b"x" * 65535]


def prg(name: str = "") -> Prg:
    return Prg(bytes(32)).derive(name)


def hexes(rows: NDArray[np.uint8]) -> list[str]:
    return [row.tobytes().hex() for row in rows]


@pytest.mark.parametrize("case", OPRF["tests"], ids=lambda case: case["input"])
def test_the_vectors_of_the_rfc(case: dict[str, Any]) -> None:
    inputs, blinds = [bytes.fromhex(case["input"])], [Scalar(bytes.fromhex(case["blind"]))]
    blinded = blind(inputs, blinds)
    assert hexes(blinded) == [case["blinded_element"]]
    evaluated = blind_evaluate(KEY, blinded)
    assert hexes(evaluated) == [case["evaluation_element"]]
    assert hexes(finalise(inputs, blinds, evaluated)) == hexes(evaluate(KEY, inputs)) == [case["output"]]


def test_the_domain_separation_tag_is_that_of_the_rfc() -> None:
    assert OPRF["dst_hex"] == oprf.DST.hex()


def test_all_vectors_at_once() -> None:
    cases = OPRF["tests"]
    inputs = [bytes.fromhex(case["input"]) for case in cases]
    blinds = [Scalar(bytes.fromhex(case["blind"])) for case in cases]
    answers = blind_evaluate(KEY, blind(inputs, blinds))
    assert hexes(finalise(inputs, blinds, answers)) == [case["output"] for case in cases]


def test_asking_gives_what_the_holder_of_the_key_computes() -> None:
    inputs = [*SOME, *(b"person-%d" % number for number in range(600))]
    blinds = draw_blinds(prg(), len(inputs))
    outputs = finalise(inputs, blinds, blind_evaluate(KEY, blind(inputs, blinds)))
    assert outputs.shape == (len(inputs), 64)
    assert np.array_equal(outputs, evaluate(KEY, inputs))
    assert len(set(hexes(outputs))) == len(inputs)


def test_another_key_gives_other_values() -> None:
    other = Scalar.derive(prg("other"))
    assert not set(hexes(evaluate(KEY, SOME))) & set(hexes(evaluate(other, SOME)))


def test_a_wrong_blind_gives_another_value() -> None:
    blinds = draw_blinds(prg(), 2)
    answers = blind_evaluate(KEY, blind([b"a", b"b"], blinds))
    assert not set(hexes(finalise([b"a", b"b"], blinds[::-1], answers))) & set(hexes(evaluate(KEY, [b"a", b"b"])))


def test_equal_inputs_are_blinded_differently() -> None:
    blinded = blind([b"a"] * 50, draw_blinds(prg(), 50))
    assert len(set(hexes(blinded))) == 50
    assert len(set(hexes(finalise([b"a"] * 50, draw_blinds(prg(), 50), blind_evaluate(KEY, blinded))))) == 1


def test_nothing_in_nothing_out() -> None:
    assert evaluate(KEY, []).shape == (0, 64)
    assert blind([], []).shape == (0, 32)
    assert finalise([], [], np.empty((0, 32), np.uint8)).shape == (0, 64)


@pytest.mark.parametrize(
    "work", [lambda text: evaluate(KEY, [text]), lambda text: blind([text], draw_blinds(prg(), 1))]
)
def test_longer_inputs_are_refused(work: Any) -> None:
    with pytest.raises(UsageError, match="at most 65535 bytes, found 65536"):
        work(b"x" * 65536)


def test_every_input_needs_a_blind_and_an_answer() -> None:
    blinds = draw_blinds(prg(), 3)
    with pytest.raises(UsageError, match="found 3 for 2"):
        blind([b"a", b"b"], blinds)
    with pytest.raises(UsageError, match="found 3 for 2"):
        finalise([b"a", b"b", b"c"], blinds, hash_all([b"a", b"b"], b"t"))


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32], ids=["identity", "negative", "high"])
def test_points_that_are_none_are_refused_by_both_sides(point: bytes) -> None:
    points = hash_all([b"a", b"b"], b"t").copy()
    points[1] = np.frombuffer(point, np.uint8)
    with pytest.raises(UsageError, match="row 1 is"):
        blind_evaluate(KEY, points)
    with pytest.raises(UsageError, match="row 1 is"):
        finalise([b"a", b"b"], draw_blinds(prg(), 2), points)


# --- what the function needs of the group ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_inverses_undo_multiplication(count: int) -> None:
    scalars, points = draw_blinds(prg(), count), hash_all([b"%d" % number for number in range(count)], b"t")
    assert np.array_equal(multiply_each(invert_all(scalars), multiply_each(scalars, points)), points)


@pytest.mark.parametrize("value", [1, 2, ORDER - 1])
def test_inverses_are_those_of_arithmetic(value: int) -> None:
    (inverse,) = invert_all([Scalar(value.to_bytes(32, "little"))])
    point = hash_all([b"a"], b"t")
    expected = Scalar(pow(value, -1, ORDER).to_bytes(32, "little"))
    assert np.array_equal(multiply_all(inverse, point), multiply_all(expected, point))


@pytest.mark.parametrize("threads", ["1", "3"])
def test_scalars_of_a_batch_meet_their_points_in_any_number_of_threads(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSEEN_THREADS", threads)
    scalars, points = draw_blinds(prg(), 777), hash_all([b"%d" % number for number in range(777)], b"t")
    products = multiply_each(scalars, points)
    for row in range(0, 777, 97):
        assert np.array_equal(products[row : row + 1], multiply_all(scalars[row], points[row : row + 1]))


def test_points_may_lie_anywhere_in_memory() -> None:
    points = hash_all([b"%d" % number for number in range(20)], b"t")
    assert np.array_equal(multiply_all(KEY, points[::-2]), multiply_all(KEY, points)[::-2])
