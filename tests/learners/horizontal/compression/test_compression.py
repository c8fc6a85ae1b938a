"""Compressed updates: what travels, what is lost, and that error feedback brings it back."""

import dataclasses
import struct

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import decode, encode_bytes
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.learners.horizontal.compression import Encoded, Quantised, TopK, compressed, wire_bytes
from unseen.learners.horizontal.compression.compressed import lost
from unseen.learners.horizontal.compression.gaps import read_places, write_places
from unseen.learners.horizontal.compression.quantised import pack, unpack
from unseen.learners.horizontal.compression.top_k import greatest
from unseen.learners.horizontal.process import Fit, stream
from unseen.learners.horizontal.robust import ClipNorm
from unseen.learners.horizontal.strategies import STRATEGIES, strategy
from unseen.learners.horizontal.strategies.parts import personal_model

CODECS = [
    TopK(0.01),
    TopK(0.3),
    TopK(1.0),
    *(Quantised(bits) for bits in range(2, 9)),
    Quantised(5, 7, stochastic=False),
]
vectors = st.tuples(st.integers(1, 3000), st.integers(-30, 30), st.integers(0, 2**32)).map(
    lambda given: (np.random.default_rng(given[2]).standard_normal(given[0]) * 10.0 ** given[1]).astype(np.float32)
)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@given(vector=vectors)
@settings(max_examples=8, deadline=None)
def test_what_is_read_is_what_was_written_over_the_wire(codec, vector):
    message = codec.encode(vector, stream(0))
    frame = encode_bytes(message)
    assert len(frame) == wire_bytes(message)
    found = codec.decode(decode(Encoded, frame), len(vector))
    assert found.dtype == np.float32
    assert np.array_equal(found, codec.decode(message, len(vector)))
    if isinstance(codec, TopK):
        places = greatest(vector, codec.count(len(vector)))
        assert np.array_equal(found[places], vector[places])
        assert np.count_nonzero(found) == len(places)
    else:
        step = np.abs(vector).max() / codec.levels
        assert np.abs(found - vector).max() <= step * (1 + 1e-6)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_zeros_stay_zeros(codec):
    nothing = np.zeros(1000, np.float32)
    assert np.array_equal(codec.decode(codec.encode(nothing, stream(0)), 1000), nothing)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_numbers_at_the_edges_of_their_type_survive(codec):
    edges = np.array([3.4e38, -3.4e38, 1e-45, -1e-45, 0.0, 1e-38], np.float32)
    found = codec.decode(codec.encode(edges, stream(0)), len(edges))
    assert np.isfinite(found).all()
    if not isinstance(codec, TopK) or codec.share > 0.2:
        assert found[0] == edges[0]


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "saving"),
    [
        (TopK(0.001), 600),
        (TopK(0.01), 70),
        (TopK(0.1), 7.9),
        (Quantised(8), 3.9),
        (Quantised(4), 7.8),
        (Quantised(2), 15),
    ],
    ids=repr,
)
def test_messages_are_as_small_as_promised(codec, saving):
    size = 200_000
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    assert 4 * size / wire_bytes(codec.encode(vector, stream(0))) > saving


def test_the_wire_format_of_top_k_is_pinned():
    vector = np.zeros(400, np.float32)
    vector[[3, 4, 300]] = [1.0, -2.0, 0.5]
    message = TopK(0.01).encode(vector, stream(0))
    assert message.scheme == "top-k 0.01"
    assert message.numbers.tolist() == [1.0, -2.0, 0.5]
    # Gaps 3, 0 and 295 = 2·128 + 39.
    assert message.packed.tobytes() == bytes([3, 0, 0x80 | 39, 2])


def test_the_wire_format_of_levels_is_pinned():
    message = Quantised(4, bucket=4, stochastic=False).encode(np.array([7, -7, 0, 1, 14], np.float32), stream(0))
    assert message.scheme == "quantised 4 4"
    assert message.numbers.tolist() == [7.0, 14.0]
    assert message.packed.tobytes() == bytes([0xE0, 0x78, 0xE0])


@given(st.sets(st.integers(0, 5_000_000), max_size=60))
@settings(max_examples=60, deadline=None)
def test_places_are_read_as_written(places):
    ascending = np.array(sorted(places), np.int64)
    assert np.array_equal(read_places(write_places(ascending), 5_000_001), ascending)


@given(st.binary(max_size=12), st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_places_written_the_one_way_or_refused(data, size):
    try:
        places = read_places(np.frombuffer(data, np.uint8), size)
    except RemoteProtocolError:
        return
    assert write_places(places).tobytes() == data
    assert (np.diff(places) > 0).all()
    assert (places < size).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_are_read_as_written(bits, monkeypatch):
    monkeypatch.setattr("unseen.learners.horizontal.compression.quantised._WORK", 16)
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 101).astype(np.uint8)
    packed = pack(codes, bits)
    assert len(packed) == (101 * bits + 7) // 8
    assert np.array_equal(unpack(packed, bits, 101), codes)


# --- what is lost ----------------------------------------------------------------------------------------------------


@given(vectors, st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_top_k_loses_no_more_than_its_share_says(vector, share):
    """Stich et al., definition 2.1: ‖x − C(x)‖² ≤ (1 − k/d)·‖x‖²."""
    codec = TopK(share)
    found = codec.decode(codec.encode(vector, stream(0)), len(vector))
    assert lost(vector, found) <= 1 - codec.count(len(vector)) / len(vector) + 1e-6


def test_of_equal_magnitudes_the_first_are_kept():
    assert greatest(np.array([1, -2, 2, -1, 2, 0], np.float32), 2).tolist() == [1, 2]
    assert greatest(np.array([2, 2, 3, -2], np.float32), 2).tolist() == [0, 2]
    assert greatest(np.array([0, 1, 0], np.float32), 3).tolist() == [1]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_stochastic_levels_are_right_on_average_with_the_variance_of_the_paper(bits):
    codec, draws = Quantised(bits, bucket=50), 4000
    vector = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    found = np.stack([codec.decode(codec.encode(vector, stream(0, n)), 50) for n in range(draws)]).astype(np.float64)
    step = float(np.abs(vector).max()) / codec.levels
    assert np.abs(found.mean(axis=0) - vector).max() < 4.5 * step / 2 / np.sqrt(draws)
    assert found.var(axis=0).max() <= step**2 / 4 * 1.01
    fraction = np.abs(vector) / step % 1
    np.testing.assert_allclose(found.var(axis=0), step**2 * fraction * (1 - fraction), atol=0.03 * step**2)


def test_nearest_levels_are_nearest():
    codec = Quantised(3, bucket=4, stochastic=False)
    found = codec.decode(codec.encode(np.array([3, 1.4, 1.6, -2.6], np.float32), stream(0)), 4)
    assert found.tolist() == [3, 1, 2, -3]
    assert not codec.unbiased


def test_the_draws_belong_to_the_generator_that_is_given():
    vector = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    one, same, other = (encode_bytes(Quantised(4).encode(vector, stream(seed))) for seed in (1, 1, 2))
    assert one == same != other


# --- messages that are none ------------------------------------------------------------------------------------------

GOOD = {
    "sparse": (TopK(0.3), TopK(0.3).encode(np.arange(1, 11, dtype=np.float32), stream(0))),
    "levels": (Quantised(4, 8), Quantised(4, 8).encode(np.arange(1, 12, dtype=np.float32), stream(0))),
}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("sparse", {"scheme": "top-k 0.5"}, "expected 10 numbers encoded by top-k 0.3, found 10 by 'top-k 0.5'"),
        ("sparse", {"size": 11}, "expected 10 numbers encoded by top-k 0.3, found 11"),
        ("sparse", {"numbers": np.ones(2, np.float32)}, "found 3 places and 2 numbers"),
        ("sparse", {"numbers": np.ones(4, np.float32), "packed": np.zeros(4, np.uint8)}, "at most 3, found 4 places"),
        ("sparse", {"numbers": np.array([1, np.nan, 1], np.float32)}, "expected finite numbers"),
        ("sparse", {"packed": np.array([7, 0, 3], np.uint8)}, "expected places below 10"),
        ("sparse", {"packed": np.array([7, 0, 131], np.uint8)}, "breaks off"),
        ("sparse", {"packed": np.array([7, 128, 0], np.uint8)}, "longer than it has to be"),
        ("levels", {"numbers": np.ones(3, np.float32)}, "expected 2 numbers, found 3"),
        ("levels", {"packed": np.zeros(5, np.uint8)}, "expected 6 packed bytes, found 5"),
        ("levels", {"numbers": np.array([1, np.inf], np.float32)}, "expected finite numbers"),
        ("levels", {"numbers": np.array([1, -1], np.float32)}, "scales from 0 on"),
        ("levels", {"packed": np.full(6, 0xF0, np.uint8)}, "expected levels to 14"),
        ("levels", {"packed": np.full(6, 0x11, np.uint8)}, "not filled with zeros"),
    ],
)
def test_a_message_that_no_client_writes_is_refused(kind, change, message):
    codec, good = GOOD[kind]
    codec.decode(good, good.size)
    fields = {field.name: getattr(good, field.name) for field in dataclasses.fields(good)}
    with pytest.raises(RemoteProtocolError, match=message):
        codec.decode(Encoded(**{**fields, **change}), good.size)


@pytest.mark.parametrize("kind", GOOD)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_frame_is_read_or_refused_and_nothing_else(kind, data):
    codec, good = GOOD[kind]
    frame = bytearray(encode_bytes(good))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = codec.decode(decode(Encoded, bytes(frame)), good.size)
    except RemoteProtocolError:
        return
    assert found.shape == (good.size,)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "wrong", [lambda: TopK(0.0), lambda: TopK(1.1), lambda: Quantised(1), lambda: Quantised(9), lambda: Quantised(8, 0)]
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="found"):
        wrong()


# --- learning --------------------------------------------------------------------------------------------------------

SIZE = 20
PEOPLE = clients_of(5, SIZE, seed=3, sizes=[40] * 5)
TRAINER, BEST = Ridge(SIZE), optimum(PEOPLE)
PLAN = {"learning_rate": 0.05, "epochs": 1, "batch": EVERYTHING}


def end(codec, rounds=200, feedback=None, name="fed_avg", **parameters):
    process = compressed(strategy(name, **PLAN, **parameters), codec, feedback=feedback)
    federation = Federation(process, TRAINER, PEOPLE)
    return federation, federation.play(rounds)


def test_error_feedback_reaches_the_optimum_that_top_k_alone_misses():
    """Karimireddy et al., ICML 2019: clients differ, so their largest numbers at the optimum never cancel out."""
    found = {}
    for rate, rounds in ((0.05, 100), (0.0125, 400)):
        for feedback in (False, True):
            process = compressed(strategy("fed_avg", **{**PLAN, "learning_rate": rate}), TopK(0.1), feedback=feedback)
            found[rate, feedback] = distance(Federation(process, TRAINER, PEOPLE).play(rounds), BEST)
    # What is left of the error with feedback is of the order of the step; without, it is not.
    assert found[0.05, True] < 0.5
    assert found[0.0125, True] < 0.15
    assert found[0.05, False] > 2
    assert found[0.0125, False] > 2


def test_what_was_left_out_and_what_was_sent_make_up_what_was_meant():
    whole = Federation(strategy("fed_avg", **PLAN), TRAINER, PEOPLE)
    process = compressed(whole.process, TopK(0.1))
    federation = Federation(process, TRAINER, PEOPLE)
    broadcast = process.distributor(federation.begin())
    for name in PEOPLE:
        plain, _ = whole.process.client_round(TRAINER, whole.assignment(name, broadcast))
        task = federation.assignment(name, broadcast)
        sent, kept = process.client_round(TRAINER, task)
        assert np.array_equal(sent.delta + kept["residual"], plain.delta)
        again, _ = process.client_round(TRAINER, dataclasses.replace(task, memory=kept, rng=stream(0)))
        assert np.count_nonzero(again.delta) <= 2


def test_eight_bits_learn_as_well_as_thirty_two():
    federation, found = end(Quantised(8))
    assert distance(found, BEST) < 0.01
    assert federation.memories["client-0"] == {}


def test_keeping_everything_is_the_strategy_itself_bit_for_bit():
    plain = Federation(strategy("fed_avg", **PLAN), TRAINER, PEOPLE).play(20)
    _, found = end(TopK(1.0), rounds=20, feedback=False)
    assert np.array_equal(found, plain)


def test_bytes_and_loss_are_measured():
    federation, _ = end(TopK(0.1), rounds=1)
    metrics = federation.aggregate.metrics
    message = federation.process.work.encoded(
        TRAINER, federation.assignment("client-0", federation.process.distributor(federation.begin()))
    )[2]
    assert metrics["upload_bytes"] == wire_bytes(message)
    assert 0 < metrics["lost"] < 1
    assert lost(np.zeros(3, np.float32), np.zeros(3, np.float32)) == 0
    assert lost(np.array([3, 4], np.float32), np.array([0, 4], np.float32)) == pytest.approx(9 / 25)


def test_the_message_is_what_the_server_reads():
    federation, _ = end(Quantised(3), rounds=1)
    task = federation.assignment("client-1", federation.process.distributor(federation.begin()))
    update, _, message = federation.process.work.encoded(TRAINER, task)
    assert np.array_equal(federation.process.work.codec.decode(message, SIZE), update.delta)


def test_compression_comes_after_clipping():
    process = dataclasses.replace(strategy("fed_avg", **PLAN), postprocessors=(ClipNorm(0.01),))
    process = compressed(process, TopK(1.0), feedback=False)
    assert process.postprocessors == ()
    federation = Federation(process, TRAINER, PEOPLE)
    update, _ = process.client_round(
        TRAINER, federation.assignment("client-0", process.distributor(federation.begin()))
    )
    assert np.linalg.norm(update.delta) == pytest.approx(0.01, rel=1e-5)
    assert update.metrics["clipped"] == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_be_compressed_and_keeps_its_own_memory(name):
    needed = {
        "fed_bn": {"local": ("b",)},
        "fed_rep": {"head": ("b",)},
        "scaffold": {"clients": 3},
        "fed_dyn": {"clients": 3},
    }
    people, trainer = clients_of(3, 4), Ridge(4, names=("a", "a", "a", "b"))
    plain = strategy(name, **needed.get(name, {}))
    process = compressed(plain, TopK(0.5))
    assert process.name == f"{plain.name}, top-k 0.5"
    one, other = (Federation(each, trainer, people) for each in (plain, process))
    one.play(3)
    other.play(3)
    assert set(other.memories["client-0"]) == {*one.memories["client-0"], "residual"}
    task = other.assignment("client-0", process.distributor(other.state))
    assert personal_model(process, trainer, task).shape == (4,)
    if name == "ditto":
        assert np.array_equal(personal_model(process, trainer, task), other.memories["client-0"]["personal"])


def test_scaffold_with_eight_bits_still_reaches_the_optimum_with_many_steps():
    process = compressed(strategy("scaffold", clients=5, **{**PLAN, "epochs": 10}), Quantised(8))
    assert distance(Federation(process, TRAINER, PEOPLE).play(60), BEST) < 0.01


def test_what_is_compressed_is_not_compressed_again():
    once = compressed(strategy("fed_avg"), TopK())
    with pytest.raises(UsageError, match=r"compressed already, by top-k 0.01"):
        compressed(once, Quantised())


def test_an_update_that_is_not_finite_is_refused_before_a_codec_hides_it():
    class Diverging(Ridge):
        def fit(self, model, examples, plan, rng, correction):
            return Fit(np.full(self.size, np.nan, np.float32), 1, 0.0)

    process = compressed(strategy("fed_avg"), TopK())
    with pytest.raises(DataError, match="client client-0 holds numbers that are not finite"):
        Federation(process, Diverging(SIZE), PEOPLE).play(1)


def test_a_scheme_names_all_that_its_reader_needs():
    assert struct.calcsize("f") == 4
    assert TopK(0.25).scheme == "top-k 0.25"
    assert Quantised(3, 64).scheme == Quantised(3, 64, stochastic=False).scheme == "quantised 3 64"
