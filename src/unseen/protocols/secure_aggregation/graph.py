"""Who shares masks with whom: a complete graph, or a sparse random one, and how many shares open a secret.

J. Bell, K. Bonawitz, A. Gascón, T. Lepoint, M. Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead" (CCS 2020), section 3: the clients stand on a circle in random order, and each has the k nearest as its
neighbours (a Harary graph). K = k + 1 clients, itself and its neighbours, hold the shares of its secrets, of which
t = ⌊2K/3⌋ + 1 open one.

Unlike there, the *clients* make the order, from a hash of all signed keys, and the server may be malicious and choose
who drops out once it knows the order. So the bounds are stricter than those of Theorem 3.10. With k = 6r (then
t = 4r + 1) they are

* *security*: no 3r successive clients hold r corrupt ones or more. Then a client has at most 2r − 2 corrupt neighbours,
  and honest survivors whose secrets can be opened are always connected (``docs/security/secure_aggregation.md``). It
  fails with probability at most n·P[Hypergeometric(n, corrupt, 3r) ≥ r], and an adversary that tries 2^g rosters until
  the hash suits it multiplies that by 2^g;
* *correctness*: with drop-outs that do not depend on the order, no client has 2r dropped neighbours or more. It fails
  with probability at most n·P[Hypergeometric(n − 1, dropped, 6r) ≥ 2r].

The least r for which both hold is taken; if k reaches n − 1, or n ≤ 50, the graph is complete, nothing can fail, and t
is the quorum of the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

from unseen.crypto.prg import Prg
from unseen.errors import UsageError

COMPLETE_UP_TO = 50


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a sparse graph is made for; with complete ones, only that less than a third is corrupt.

    Raises:
        UsageError: A third or more are corrupt or drop out.
    """

    corrupt: float = 0.1
    """Fraction of the cohort that may be in league with the server, chosen before the keys are known."""
    dropouts: float = 0.1
    """Fraction of the cohort that drops out, for correctness."""
    security_bits: int = 40
    correctness_bits: int = 40
    grinding_bits: int = 60
    """log2 of the rosters that an adversary may try out."""

    def __post_init__(self) -> None:
        if not (0 <= self.corrupt < 1 / 3 and 0 <= self.dropouts < 1 / 3):
            raise UsageError(f"less than a third may be corrupt, and less than a third drop out, found {self}")
        if min(self.security_bits, self.correctness_bits) < 1 or self.grinding_bits < 0:
            raise UsageError(f"probabilities are given by positive numbers of bits, found {self}")


@dataclass(frozen=True, slots=True)
class Graph:
    """The neighbours of every client of a roster, by their places 0 … n − 1 in it."""

    order: tuple[int, ...]
    """The clients around the circle."""
    places: tuple[int, ...]
    """Where on the circle each client stands."""
    degree: int
    threshold: int
    """Shares that open a secret."""

    def neighbours(self, client: int) -> list[int]:
        """Return a client's neighbours, ascending."""
        count, place = len(self.order), self.places[client]
        if self.degree == count - 1:
            return [other for other in range(count) if other != client]
        steps = range(1, self.degree // 2 + 1)
        return sorted(self.order[(place + sign * step) % count] for step in steps for sign in (1, -1))

    def holders(self, client: int) -> list[int]:
        """Return who holds shares of a client's secrets: its neighbours and itself, ascending."""
        return sorted([client, *self.neighbours(client)])


def draw(seed: bytes, members: int, cohort: int, assumptions: Assumptions) -> Graph:
    """Return the graph that a public seed gives for ``members`` clients, what is left of a cohort."""
    degree, threshold = choose(members, cohort, assumptions)
    order = [int(client) for client in Prg(seed).derive("secagg_plus/graph").permutation(members)]
    return Graph(tuple(order), tuple(inverted(order)), degree, threshold)


@lru_cache(maxsize=64)
def choose(members: int, cohort: int, assumptions: Assumptions) -> tuple[int, int]:
    """Return degree and threshold for ``members`` clients, what is left of a cohort."""
    complete = members - 1, 2 * cohort // 3 + 1
    if members <= COMPLETE_UP_TO:
        return complete
    corrupt, dropped = (int(share * cohort) for share in (assumptions.corrupt, assumptions.dropouts))
    low, high = 0, (members - 1) // 6 + 1  # the least r that suffices lies in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle, members, corrupt, dropped, assumptions):
            high = middle
        else:
            low = middle
    return (6 * high, 4 * high + 1) if 6 * high < members - 1 else complete


def suffices(radius: int, members: int, corrupt: int, dropped: int, assumptions: Assumptions) -> bool:
    """Return whether k = 6·``radius`` satisfies both bounds of this module's head; exact."""
    security = assumptions.security_bits + assumptions.grinding_bits
    return rare(members, members, corrupt, (3 * radius, radius), security) and rare(
        members, members - 1, dropped, (6 * radius, 2 * radius), assumptions.correctness_bits
    )


def rare(times: int, population: int, marked: int, sample: tuple[int, int], bits: int) -> bool:
    """Return whether ``times``·P[size drawn of a population hold ``least`` marked or more] ≤ 2^−``bits``; exact.

    ``sample`` is (size, least).
    """
    size, least = sample
    most = min(size, marked)
    tail = sum(comb(marked, k) * comb(population - marked, size - k) for k in range(least, most + 1))
    return times * tail << bits <= comb(population, size)


def inverted(order: Sequence[int]) -> list[int]:
    """Return the inverse of a permutation."""
    places = [0] * len(order)
    for place, client in enumerate(order):
        places[client] = place
    return places
