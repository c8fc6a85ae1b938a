"""A small estimator for LWE with a uniform ternary secret, held against the homomorphic-encryption standard.

Primal attack: uSVP embedding with a rescaled secret (Bai, Galbraith 2014), success as in Alkim and others (2016).
Dual attack: distinguishing with a rescaled secret (Albrecht 2017), the vectors of one sieve used together.
Both with as many samples as they like, and costs 0.292 β + 16.4 + log2(8 d).
"""

import math

import pytest

from unseen.crypto.lattice_parameters import (
    INNER,
    OUTER,
    PRIMES,
    REQUIRED_BITS,
    ROUNDING_VARIANCE,
    SETS,
    SLOT_PRIMES,
    SLOTS,
    VECTOR_DEVIATION,
)

SECRET_DEVIATION = math.sqrt(2 / 3)


def log_delta(beta):
    return math.log2(beta / (2 * math.pi * math.e) * (math.pi * beta) ** (1 / beta)) / (2 * (beta - 1))


def cost(beta, dimension):
    return 0.292 * beta + 16.4 + math.log2(8 * dimension)


def primal(n, log_q, deviation):
    rescaling = math.log2(deviation / SECRET_DEVIATION)
    for beta in range(60, 2000):
        margins = [
            ((2 * beta - d) * log_delta(beta) + ((d - n - 1) * log_q + n * rescaling + math.log2(deviation)) / d, d)
            for d in range(n + n // 2, 4 * n, 32)
        ]
        margin, dimension = max(margins)
        if math.log2(deviation) + math.log2(beta) / 2 <= margin:
            return cost(beta, dimension)
    return math.inf


def dual(n, log_q, deviation):
    rescaling = math.log2(deviation / SECRET_DEVIATION)
    costs = []
    for beta in range(60, 2000, 2):
        dimension = min(5 * n, max(n + 64, math.sqrt(n * (log_q - rescaling) / log_delta(beta))))
        length = dimension * log_delta(beta) + n * (log_q - rescaling) / dimension
        log_advantage = -2 * math.pi**2 * 4 ** (length + math.log2(deviation) - log_q) / math.log(2)
        costs.append(cost(beta, dimension) + max(0, -2 * log_advantage - 0.2075 * beta))
    return min(costs)


@pytest.mark.parametrize(("n", "log_q"), [(1024, 27), (2048, 54), (4096, 109), (8192, 218)])
@pytest.mark.parametrize("attack", [primal, dual])
def test_the_estimator_agrees_with_the_standard(attack, n, log_q):
    assert 126.5 < attack(n, log_q, 3.2) < 132.5


@pytest.mark.parametrize("chosen", SETS, ids=lambda chosen: chosen.name)
def test_every_set_has_the_required_bits(chosen):
    log_q = math.log2(chosen.modulus)
    found = min(attack(chosen.dimension, log_q, chosen.deviation) for attack in (primal, dual))
    assert chosen.bits >= REQUIRED_BITS
    assert chosen.bits == math.floor(found)


def test_half_of_the_noise_of_a_vector_is_relied_upon():
    assert INNER.deviation == VECTOR_DEVIATION / 2
    assert INNER.dimension == 2560
    assert OUTER.modulus == PRIMES[0] * PRIMES[1] > 1 << 123


def test_slots_count_the_deviation_of_their_binomial_noise():
    assert SLOTS in SETS
    assert SLOTS.deviation == pytest.approx(10.5**0.5)
    assert SLOTS.modulus == SLOT_PRIMES[0] * SLOT_PRIMES[1] * SLOT_PRIMES[2]
    assert 1 << 185 < SLOTS.modulus < 1 << 186


def test_what_rounding_adds_is_sub_gaussian_with_its_variance():
    errors, chances = (-2, -1, 0, 1, 2), (1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8)
    moments = [sum(p * x**k for x, p in zip(errors, chances, strict=True)) for k in (1, 2)]
    assert moments == [0, ROUNDING_VARIANCE]
    for exponent in range(-40, 20):
        t = 2 ** (exponent / 4)
        bound = ROUNDING_VARIANCE * t**2 / 2
        assert math.log(sum(p * math.exp(x * t) for x, p in zip(errors, chances, strict=True))) <= bound * (1 + 1e-6)
