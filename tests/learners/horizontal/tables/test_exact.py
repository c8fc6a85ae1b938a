"""Integers in limbs add up exactly, whether somebody adds, averages or encodes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.fixed_point import FixedPoint
from unseen.learners.horizontal.process import Aggregate
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.learners.horizontal.tables.exact import (
    ExactSum,
    Limbs,
    Summed,
    answer,
    head_size,
    mark,
    to_floats,
    to_integers,
    to_reals,
)

NAMES = [ClientId(f"client {number}") for number in range(300)]


@st.composite
def sums(draw):
    """Return limbs, and integers of some clients, (clients, 3), whose sums fit."""
    clients, bits = draw(st.integers(1, 300)), draw(st.integers(2, 62))
    limbs = Limbs(clients, bits)
    most = ((1 << (limbs.room - 1)) - 1) // clients
    seed = draw(st.integers(0, 1 << 32))
    own = np.random.default_rng(seed).integers(-most, most, (draw(st.integers(1, clients)), 3), endpoint=True)
    return limbs, own


@settings(deadline=None, max_examples=60, derandomize=True)
@given(sums())
def test_sums_means_and_secure_sums_of_limbs_are_exact(case):
    limbs, own = case
    clients = limbs.clients
    updates = [answer(clients, name, 1 << 20, limbs.encode(values)) for name, values in zip(NAMES, own, strict=False)]
    exact = own.sum(axis=0)
    for aggregate in (ExactSum(clients)(updates), WeightedMean()(updates)):
        found = Summed.of(aggregate, clients)
        np.testing.assert_array_equal(found.integers(limbs, 3), exact)
        assert found.rows == len(own) << 20
        assert found.mark == sum(mark(name) for name in NAMES[: len(own)])
    code = FixedPoint(clip=float(1 << limbs.width), clients=clients)
    words = sum(code.encode(update.extra["sums"], 1, Prg(bytes(32))).astype(np.uint64) for update in updates)
    decoded = code.decode_sum((words & np.uint64(0xFFFFFFFF)).astype("<u4"))
    np.testing.assert_array_equal(limbs.decode(decoded), exact)


def test_limbs_of_one_client_stay_below_their_bound():
    for clients in (1, 2, 3, 10, 1000, 1 << 15):
        limbs = Limbs(clients, 62)
        encoded = limbs.encode(np.array([-1, 2**61 - 1, -(2**61)]))
        assert encoded.max() < 1 << limbs.width
        assert clients * ((1 << limbs.width) - 1) < 1 << 23
        np.testing.assert_array_equal(limbs.decode(encoded), [-1, 2**61 - 1, -(2**61)])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_64_bit_numbers_survive_as_floats(values):
    kept = to_floats(np.array(values, np.int64))
    assert np.isfinite(kept).all()
    np.testing.assert_array_equal(to_integers(kept), np.array(values, np.int64))


def test_reals_survive_with_every_bit():
    values = np.array([0.1, -0.0, np.nan, np.inf, 5e-324, 1.7e308])
    assert to_reals(to_floats(values)).tobytes() == values.tobytes()


@pytest.mark.parametrize("bad", [[0.5, 0, 0], [-1, 0, 0], [1 << 22, 0, 0], [1, 2]])
def test_other_floats_are_refused(bad):
    with pytest.raises(RemoteProtocolError, match="22 bits"):
        to_integers(np.array(bad, np.float32))


@pytest.mark.parametrize("lie", [0.5, -1.0, float(1 << 22), np.nan])
def test_an_update_that_holds_no_limbs_is_named(lie):
    limbs = Limbs(3, 40)
    updates = [answer(3, name, 5, limbs.encode(np.arange(4))) for name in NAMES[:3]]
    updates[1].extra["sums"][2] = lie
    with pytest.raises(RemoteProtocolError, match="update 2 of 3"):
        ExactSum(3)(updates)


def test_more_clients_than_agreed_and_other_shapes_are_refused():
    updates = [answer(2, name, 5, np.zeros(4, np.float32)) for name in NAMES[:3]]
    with pytest.raises(RemoteProtocolError, match="made for 2"):
        ExactSum(2)(updates)
    found = ExactSum(2)(updates[:2])
    with pytest.raises(RemoteProtocolError, match="expected sums of 7 integers"):
        Summed.of(found, 2).integers(Limbs(2, 40), 7)
    with pytest.raises(RemoteProtocolError, match="head"):
        Summed.of(Aggregate(np.ones(head_size(2) + 1, np.float32), 2, 2.0), 2)


@pytest.mark.parametrize(("clients", "bits"), [(0, 8), ((1 << 15) + 1, 8), (3, 1), (3, 63)])
def test_impossible_limbs_are_refused(clients, bits):
    with pytest.raises(UsageError, match="sums are over"):
        Limbs(clients, bits)
