"""``secure``: a strategy whose mean is taken of a sum of words, so that a protocol can hide all but the sum.

Every number of an update is clipped, weighted, and rounded at random to a word (``fixed_point``); the sum over all
clients is exact, and the mean is that of the rounded numbers: unbiased, off by less than ``step``·√n / Σ weights in
the mean square. The server learns the mean of the differences, of every extra vector and of the metrics, the sum of the
weights, and who took part.

Rounding follows from a secret and the update: a client that encodes the same update again gets the same words, and no
two updates share their random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.compression.compressed import Compressed
from unseen.learners.horizontal.fixed_point import FixedPoint
from unseen.learners.horizontal.process import Aggregate, Process, Update, Vector
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.learners.horizontal.sums import SCHEMES, Layout, total_of
from unseen.protocols.secure_aggregation.port import MIN_CONTRIBUTORS, Contribution, Words, quorum_of


def _no_extras() -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureMean:
    """Σ weightᵢ·updateᵢ / Σ weightᵢ by way of a sum of words; a ``SumAggregator``.

    Raises:
        UsageError: A bound is none, or so many clients and weights leave no bits for the numbers.
    """

    clip: float
    """Numbers of a difference are clipped to [−clip, clip], each alone."""
    clients: int
    """At most so many are in one sum."""
    max_weight: int
    """A client with more examples counts as if it had so many."""
    extras: Mapping[str, float] = field(default_factory=_no_extras)
    """To what the numbers of extra vectors are clipped, by name; vectors that are not named are refused."""
    metrics_clip: float = 100.0
    """To what metrics, such as the loss, are clipped."""
    bits: int = 32
    """Of a word: 16 or fewer travel in 2 bytes, up to 32 in 4; fewer bits are a coarser step."""
    least: int | None = None
    """A sum over fewer is not revealed; ⌊2·clients/3⌋ + 1 if ``None``, 3 is the lowest."""
    scheme: str = SCHEMES[0]
    equal: bool = False
    """Whether every client counts the same."""
    prg: Prg | None = field(default=None, repr=False)
    """The client's secret for rounding; a deployed client without one keeps its own in its folder."""

    def __post_init__(self) -> None:
        if not MIN_CONTRIBUTORS <= self.fewest <= self.clients or self.scheme not in SCHEMES:
            raise UsageError(
                f"a secure mean is revealed of at least {MIN_CONTRIBUTORS} of its {self.clients} clients, by one of "
                f"the schemes {', '.join(SCHEMES)}; found {self.fewest} by {self.scheme!r}"
            )
        for clip in (self.clip, self.metrics_clip, *self.extras.values()):
            self._code(clip)

    @property
    def fewest(self) -> int:
        """How many clients a sum has at least."""
        return quorum_of(self.clients) if self.least is None else self.least

    @property
    def most(self) -> int:
        """How many clients a sum may have."""
        return self.clients

    @property
    def step(self) -> float:
        """The grid of a client's difference, times its weight: what 32-bit floats would lose is far less."""
        return self._code(self.clip).step

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the mean, as a protocol would give it.

        Raises:
            UsageError: There are too few or too many updates, or they have vectors without a bound.
            RemoteProtocolError: They do not fit each other.
        """
        return total_of(self, updates)

    def encode(self, update: Update, prg: Prg) -> Contribution:
        """Return the words of an update; see ``SumAggregator``.

        Raises:
            DataError: A number is NaN.
        """
        weight, layout = self._weight(update), Layout.of(update)
        metrics = np.array([update.metrics[name] for name in layout.metrics], np.float64)
        rest = [update.extra[name] for name, _ in layout.extra]
        digest = framed_digest(b"unseen/secure_mean/1", repr((layout, weight)).encode(), update.delta, *rest, metrics)
        rounding = (self.prg or prg).derive("secure_mean/rounding", digest)
        words = np.empty(layout.length, self._code(self.clip).dtype)
        numbers: list[NDArray[np.floating]] = [update.delta, *rest, metrics]
        for (name, place, clip), values in zip(self._parts(layout), numbers, strict=True):
            words[place] = self._code(clip).encode(values, weight, rounding.derive("part", name.encode()))
        return Contribution(words, weight)

    def decode(self, words: Words, weight: int, clients: int, layout: Layout) -> Aggregate:
        """Return the means; see ``SumAggregator``."""
        if not clients <= weight <= clients * self.max_weight:
            raise RemoteProtocolError(
                f"the weights of {clients} clients add up to {weight}, expected {clients} to "
                f"{clients * self.max_weight}: one of them cheats"
            )
        means = {name: self._code(clip).decode_mean(words[place], weight) for name, place, clip in self._parts(layout)}
        delta, *extra = (means[name].astype(np.float32) for name, _, _ in list(self._parts(layout))[:-1])
        named: dict[str, Vector] = {name: vector for (name, _), vector in zip(layout.extra, extra, strict=True)}
        metrics = dict(zip(layout.metrics, means["metrics"].tolist(), strict=True))
        return Aggregate(delta, clients, float(weight), named, metrics)

    def _weight(self, update: Update) -> int:
        """Return how much an update counts.

        Raises:
            UsageError: It is no whole number.
        """
        weight = 1.0 if self.equal else update.weight
        if not (1 <= weight < math.inf and weight == int(weight)):
            raise UsageError(
                f"an update counts {weight}: a secure mean takes whole numbers from 1 on, such as those of examples"
            )
        return min(int(weight), self.max_weight)

    def _parts(self, layout: Layout) -> Iterator[tuple[str, slice, float]]:
        """Yield the parts of a sum: a name of each, where its words are, and its bound."""
        missing = [name for name, _ in layout.extra if name not in self.extras]
        if missing:
            raise UsageError(
                f"updates carry {', '.join(missing)} beside the model's change, and it is not agreed how large their "
                f"numbers are: say so by extras={{{missing[0]!r}: …}}"
            )
        yield "delta", slice(layout.size), self.clip
        start = layout.size
        for name, length in layout.extra:
            yield f"extra {name}", slice(start, start + length), self.extras[name]
            start += length
        yield "metrics", slice(start, start + len(layout.metrics)), self.metrics_clip

    def _code(self, clip: float) -> FixedPoint:
        return FixedPoint(clip, self.clients, self.bits, self.max_weight)


def secure(process: Process, by: SecureMean) -> Process:
    """Return a strategy whose updates are seen by nobody but their client: the server gets the mean of a cohort.

    Raises:
        UsageError: The strategy's aggregator is no mean, or its updates are compressed, so that no sum of them can be
            taken.
    """
    mean = process.aggregator
    if not isinstance(mean, WeightedMean):
        raise UsageError(
            f"{process.name} aggregates by {type(mean).__name__}: secure aggregation gives means of clipped and "
            "rounded updates only; choose a strategy that takes the mean, or for privacy distributed noise"
        )
    if isinstance(process.work, Compressed):
        raise UsageError(
            f"{process.name} sends what its codec makes of an update, and such messages have no sum: choose either "
            "compression or secure aggregation (whose words are a quantisation with a common step)"
        )
    return replace(process, name=f"{process.name}, secure", aggregator=replace(by, equal=by.equal or mean.equal))
