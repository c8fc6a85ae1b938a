"""Sums of words, as a protocol takes them, are the sums of limbs."""

from dataclasses import dataclass

import numpy as np
import pytest

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.tables.exact import ExactSum, Limbs, answer
from unseen.learners.horizontal.tables.secure import SecureExactSum


@dataclass
class Layout:
    size: int
    extra: tuple


LIMBS = Limbs(5, 62)
UPDATES = [
    answer(5, ClientId(f"c{number}"), 10 + number, LIMBS.encode(np.array([-(2**50), number, 7]))) for number in range(4)
]
LAYOUT = Layout(len(UPDATES[0].delta), (("sums", len(UPDATES[0].extra["sums"])),))


def summed(aggregator, updates):
    """Return the words and weights that a protocol ends with."""
    found = [aggregator.encode(update, Prg(bytes(32))) for update in updates]
    modulus = np.uint32((1 << aggregator.bits) - 1)
    return sum(one.words for one in found) & modulus, sum(one.weight for one in found)


def test_a_protocol_ends_with_the_sums_of_a_simulation():
    aggregator = SecureExactSum(5)
    words, weight = summed(aggregator, UPDATES)
    assert words.dtype == np.uint32
    found, expected = aggregator.decode(words, weight, 4, LAYOUT), ExactSum(5)(UPDATES)
    np.testing.assert_array_equal(found.delta, expected.delta)
    np.testing.assert_array_equal(found.extra["sums"], expected.extra["sums"])
    assert LIMBS.decode(found.extra["sums"]).tolist() == [-(2**52), 6, 28]
    assert (found.clients, found.weight, found.metrics) == (expected.clients, expected.weight, {})
    np.testing.assert_array_equal(aggregator(UPDATES).delta, expected.delta)


@pytest.mark.parametrize("place", [0, 5])
def test_words_that_are_no_limbs_are_noticed_in_the_sum(place):
    aggregator = SecureExactSum(5)
    words, weight = summed(aggregator, UPDATES)
    words[place] = (1 << 24) - 1
    with pytest.raises(RemoteProtocolError, match="cheats"):
        aggregator.decode(words, weight, 4, LAYOUT)


def test_sums_over_too_few_are_refused():
    with pytest.raises(UsageError, match="least"):
        SecureExactSum(5)(UPDATES[:2])
    for clients, least in ((2, 2), (5, 2), (5, 6)):
        with pytest.raises(UsageError, match="at least 3"):
            SecureExactSum(clients, least)
