"""Solving with the quadratic model of the loss, Q = c·F'F/n + penalty, by conjugate directions that are kept.

Every party knows its own blocks of all vectors. Q's diagonal blocks are identities by the whitening, so that a product
Q·p takes one exchange of partial scores F_q·p_q through the linear map and nothing local but those scores. Directions
and their images are kept for all later right-hand sides: a new one is first projected on them (Saad, SIAM J. Sci.
Stat. Comput. 8, 1987; Erhel and Guyomarc'h, SIAM J. Matrix Anal. 21, 2000), and new directions are made conjugate to
all of them, which also repairs what fixed-point arithmetic does to conjugacy. There are at most as many directions as
the parties' columns have correlations, so that over a whole training solves become free of products.

Inner products are sums of one number from every party: ``settle`` brings them to the active party, which decides. In
full precision all learn the decisions: per right-hand side and round the steps along all directions, how much of each
the next one is to be rid of (``keeps``), and whether there is a next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, progress, receive, send, send_all
from unseen.errors import RemoteProtocolError
from unseen.learners.vertical.columns import Columns
from unseen.learners.vertical.residues import Maps
from unseen.learners.vertical.setting import Floats, Setting, finite

MAX_DIRECTIONS = 400
# A direction in which Q has less curvature than this (of at least 1 within a party) is a collinearity of parties.
_NULL = 1e-6


@message("vertical_glm/shares")
class Shares:
    """One party's parts of inner products."""

    values: Annotated[Floats, Shape(None)]


@message("vertical_glm/decision")
class Decision:
    """What the active party makes of the sums: coefficients of vectors that all hold, and flags."""

    values: Annotated[Floats, Shape(None)]


def settle(setting: Setting, shares: Floats, count: int, decide: Callable[[Floats], Floats]) -> Dialogue[Floats]:
    """Return ``decide(sum of all parties' shares)``, ``count`` numbers, which the active party works out.

    Raises:
        RemoteProtocolError: A peer sends another number of values, or some that are not possible.
    """
    if not setting.is_active:
        yield from send(setting.active, Shares(shares))
        answer = yield from receive(setting.active, Decision)
        if len(answer.values) != count:
            raise RemoteProtocolError(f"{setting.active}: expected {count} decisions, found {len(answer.values)}")
        return finite(answer.values, setting.active, "a decision")
    total = shares
    for peer in setting.peers:
        theirs = (yield from receive(peer, Shares)).values
        if theirs.shape != shares.shape:
            raise RemoteProtocolError(f"{peer}: expected {len(shares)} inner products, found {len(theirs)}")
        total = total + finite(theirs, peer, "the inner products")
    # Whatever peers make the sums, divisors of 0 among them, nothing but numbers may come of it.
    with np.errstate(all="ignore"):
        decision = finite(decide(total), setting.others, "what follows from the inner products")
    yield from send_all(setting.peers, Decision(decision))
    return decision


@message("vertical_glm/directions")
class Directions:
    """Conjugate directions and their images under Q, own blocks, one a row; scalars at the active party."""

    vectors: Annotated[Floats, Shape(None, None)]
    images: Annotated[Floats, Shape(None, None)]
    curvatures: Annotated[Floats, Shape(None)]
    gram: Annotated[Floats, Shape(None, None)]
    """Inner products of the images."""

    @classmethod
    def none(cls, width: int) -> Directions:
        """Return no directions."""
        return cls(np.empty((0, width)), np.empty((0, width)), np.empty(0), np.empty((0, 0)))


@dataclass(slots=True)
class Course:
    """How often the parties have exchanged vectors, and how often they will at most."""

    done: int
    total: int

    @classmethod
    def of(cls, max_iterations: int, width: int, peers_width: int) -> Course:
        """Return the beginning of a training: two directions for each column of the smaller side, and iterations."""
        return cls(0, max_iterations + min(2 * min(width, peers_width), MAX_DIRECTIONS))

    def tell(self, note: str) -> Dialogue[None]:
        """Tell people how far the training is."""
        yield from progress(self.done, max(self.total, self.done), note)

    def step(self, note: str) -> Dialogue[None]:
        """Tell people of one more exchange."""
        self.done += 1
        yield from self.tell(note)


class Quadratic:
    """The quadratic model during one training."""

    def __init__(self, columns: Columns, maps: Maps, setting: Setting, course: Course) -> None:
        self._columns, self._maps, self._setting = columns, maps, setting
        self.known = Directions.none(columns.width)
        self.course = course

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._columns.rows

    def product(self, point: Floats) -> Dialogue[Floats]:
        """Return this party's block of Q·point."""
        columns = self._columns
        received = yield from self._maps.products(columns.scores(point))
        # The own block of Q is the identity on whatever the whitening kept.
        return point + sum(received.values()) * (columns.curvature / columns.rows)

    def solve(self, target: Floats, tolerance: float) -> Dialogue[Floats]:
        """Return x with ‖Q·x − target‖ ≤ tolerance·‖target‖, or as close as collinearity lets it come."""
        solution, rest = np.zeros_like(target), target
        first: list[float] = []
        while True:
            vectors, images = self.known.vectors, self.known.images
            count = len(vectors)
            shares = np.concatenate([vectors @ rest, images @ rest, [rest @ rest], self._newest()])

            def decide(total: Floats, first: list[float] = first) -> Floats:
                return self._decide(total, first, tolerance)

            decision = yield from settle(self._setting, shares, 2 * count + 1, decide)
            steps, keeps, further = decision[:count], decision[count:-1], bool(decision[-1])
            solution = self._sound(solution + steps @ vectors)
            rest = self._sound(rest - steps @ images)
            if not further:
                return solution
            yield from self._add(self._sound(rest - keeps @ vectors))

    def _sound(self, vector: Floats) -> Floats:
        return finite(vector, self._setting.others, "a vector that follows from decisions")

    def _add(self, direction: Floats) -> Dialogue[None]:
        image = yield from self.product(direction)
        known = self.known
        self.known = Directions(
            np.vstack([known.vectors, direction]), np.vstack([known.images, image]), known.curvatures, known.gram
        )
        yield from self.course.step(f"direction {len(self.known.vectors)} of the quadratic model")

    def _newest(self) -> Floats:
        """Return shares of the newest direction's inner products, whose sums the active party may not have yet."""
        vectors, images = self.known.vectors, self.known.images
        if not len(vectors):
            return np.empty(0)
        return np.concatenate([images @ images[-1], [vectors[-1] @ images[-1], vectors[-1] @ vectors[-1]]])

    def _decide(self, total: Floats, first: list[float], tolerance: float) -> Floats:
        """Return steps along all directions, what the next one is to be rid of, and whether to go on."""
        count = len(self.known.vectors)
        along, against, size, newest = np.split(total, [count, 2 * count, 2 * count + 1])
        known = self.known = self._complete(newest)
        # Null directions have an infinite curvature here, so that no step goes along them.
        steps = along / known.curvatures
        left = float(size[0]) - 2 * float(steps @ against) + float(steps @ known.gram @ steps)
        first.append(float(size[0]))
        null = bool(len(known.curvatures) and np.isinf(known.curvatures[-1]) and len(first) > 1)
        further = left > tolerance**2 * first[0] and count < MAX_DIRECTIONS and not null
        keeps = (against - known.gram @ steps) / known.curvatures
        return np.concatenate([steps, keeps, [float(further)]])

    def _complete(self, newest: Floats) -> Directions:
        """Return the directions with the scalars of the newest one."""
        known, count = self.known, len(self.known.vectors)
        if len(known.curvatures) == count:
            return known
        row, curvature, square = newest[:-2], float(newest[-2]), float(newest[-1])
        gram = np.zeros((count, count))
        gram[:-1, :-1] = known.gram
        gram[-1], gram[:, -1] = row, row
        kept = curvature if curvature > _NULL * square else np.inf
        return Directions(known.vectors, known.images, np.append(known.curvatures, kept), gram)
