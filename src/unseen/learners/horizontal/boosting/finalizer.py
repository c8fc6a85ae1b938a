"""The server's side of horizontal boosting: what it sends, and what it makes of the sums.

Between rounds a state holds: the phase and the scale, and by phase the ranges of the sketch, or the tree that grows
with the sums by bin that are still needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.boosting.forest import Bins, Floats, Forest
from unseen.learners.horizontal.boosting.growth import Grower, Growth
from unseen.learners.horizontal.boosting.setting import (
    COUNTS,
    Phase,
    Scale,
    Setting,
    control,
    label_bound,
    read_control,
)
from unseen.learners.horizontal.process import Aggregate, Broadcast, State, Vector, stream
from unseen.learners.horizontal.tables.exact import Integers, Limbs, Summed
from unseen.learners.horizontal.tables.noise import THRESHOLD, CountNoise
from unseen.learners.horizontal.tables.sketch import Ranges, numbers, pack, unpack
from unseen.learners.vertical.boosting.setting import BINARY, SQUARED

CONTROL, RANGES, COUNTED, GROWTH, SUMS = "control", "ranges", "counted", "growth", "sums"
FOREST, ASKED = "forest", "asked"
_START = Scale(0, 0)


@dataclass(frozen=True, slots=True)
class SendForest:
    """A distributor: the control numbers in the model's place, and beside them what the phase needs."""

    setting: Setting

    @staticmethod
    def phase(state: State) -> Phase:
        """Return what the next round is for."""
        return read_control(state.extra[CONTROL])[0] if CONTROL in state.extra else Phase.BINS

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        size = self.setting.head
        found = state.extra.get(CONTROL)
        sent = control(Phase.BINS, _START, size) if found is None else found
        return Broadcast(state.round, sent, self._extra(state))

    def _extra(self, state: State) -> Mapping[str, Vector]:
        phase = self.phase(state)
        if phase is Phase.BINS:
            ranges = pack([one.question() for one in _ranges(state, self.setting)])
            return {FOREST: state.model, RANGES: ranges}
        if phase is Phase.NODES:
            growth = Growth.unpack(state.extra[GROWTH])
            return {FOREST: state.model, GROWTH: growth.shape(), ASKED: np.array(growth.asked, np.float32)}
        return {FOREST: state.model}


@dataclass(frozen=True, slots=True)
class GrowForest:
    """A finalizer: the next phase, level or tree.

    Raises:
        RemoteProtocolError: The aggregate holds other sums than were asked for.
        DataError: All labels are equal, or there are no rows.
        PermissionDenied: Bins have noise, and a round would pass its budget; nothing is released.
        UsageError: Bins have noise, and this server has not been given it.
    """

    setting: Setting
    noise: CountNoise | None = field(default=None, repr=False)
    """The server's alone."""

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round; a round with nobody changes nothing but its number."""
        phase = SendForest.phase(state)
        if not aggregate.clients or phase is Phase.DONE:
            return State(state.round + 1, state.model, state.extra)
        summed = Summed.of(aggregate, self.setting.clients)
        if not summed.rows:
            raise DataError(f"round {state.round + 1}: the clients of its cohort have no rows")
        after = {Phase.BINS: self._bins, Phase.BASE: self._base, Phase.NODES: self._nodes}[phase]
        return replace(after(state, summed), round=state.round + 1)

    # --- bins

    def _bins(self, state: State, summed: Summed) -> State:
        setting = self.setting
        before = _ranges(state, setting)
        done = int(state.extra[COUNTED][0]) if COUNTED in state.extra else 0
        asked = [one.asked for one in before]
        counts = np.split(summed.integers(Limbs(setting.clients, COUNTS), sum(asked)), np.cumsum(asked)[:-1])
        if setting.bin_noise:
            counts = self._noisy(counts, done)
        refined = [one.refined(own) for one, own in zip(before, counts, strict=True)]
        least = 2 * THRESHOLD * setting.bin_noise
        ranges = [one.planned(setting.bins, setting.sketch_width, least) for one in refined]
        bound = 0
        if setting.params.objective == SQUARED:
            bound = read_control(state.extra[CONTROL])[1].bound if done else _label_bound(ranges[-1])
            ranges[-1] = replace(ranges[-1], split=0 * ranges[-1].split)  # its magnitude is enough
        scale = Scale.of(summed.rows, bound)
        if done + 1 < setting.sketch_rounds:
            extra = {RANGES: pack(ranges), COUNTED: np.array([done + 1], np.float32)}
            return self._at(state, Phase.BINS, scale, extra)
        found = [one.bins(setting.bins) for one in ranges[: len(setting.columns)]]
        edges, missing, typical = zip(*found, strict=True)
        forest = Forest.empty(np.zeros(setting.outputs), Bins(edges, missing, typical))
        return self._at(replace(state, model=forest.vector()), Phase.BASE, scale, {})

    def _noisy(self, counts: list[Integers], done: int) -> list[Integers]:
        if self.noise is None:
            raise UsageError("bins are to have noise: give the server its secret and its budget with `with_bin_noise`")
        return self.noise.noisy(counts, self.setting.bin_noise, done)

    # --- base scores

    def _base(self, state: State, summed: Summed) -> State:
        setting, scale = self.setting, read_control(state.extra[CONTROL])[1]
        if not scale.holds(summed.rows):
            return self._at(state, Phase.BASE, replace(Scale.of(summed.rows, 0), bound=scale.bound), {})
        found = summed.integers(Limbs(setting.clients, 62), setting.outputs)
        forest = replace(Forest.of(state.model), base=self._scores(found, summed.rows, scale))
        return self._begin(replace(state, model=forest.vector()), Scale.of(summed.rows, scale.bound))

    def _scores(self, found: Integers, rows: int, scale: Scale) -> Floats:
        """Return the best constant scores."""
        if self.setting.params.objective == SQUARED:
            return found / scale.labels(self.setting.clients) / rows
        shares = found / rows
        if self.setting.params.objective == BINARY:
            if not 0 < shares[0] < 1:
                raise DataError(f"all labels are {shares[0]:g}: there is nothing to tell apart")
            return np.array([math.log(shares[0] / (1 - shares[0]))])
        if not shares.min() > 0:
            raise DataError(f"no client has label {int(shares.argmin())}: there is nothing to learn about it")
        return np.log(shares)

    # --- trees

    def _begin(self, state: State, scale: Scale) -> State:
        """Return the state from which the next tree grows, if one is left."""
        if Forest.of(state.model).trees >= self.setting.trees:
            return self._at(state, Phase.DONE, scale, {})
        return self._grow(state, scale, Growth())

    def _grow(self, state: State, scale: Scale, growth: Growth) -> State:
        nodes, sums = growth.pack()
        return self._at(state, Phase.NODES, scale, {GROWTH: nodes, SUMS: sums})

    def _nodes(self, state: State, summed: Summed) -> State:
        setting, scale = self.setting, read_control(state.extra[CONTROL])[1]
        if not scale.holds(summed.rows):
            return self._grow(state, replace(Scale.of(summed.rows, 0), bound=scale.bound), Growth())
        forest = Forest.of(state.model)
        columns = int(forest.bins.offsets[-1])
        growth = Growth.unpack(state.extra[GROWTH], state.extra[SUMS], columns)
        limbs, asked = scale.limbs(setting.clients), len(growth.pairs)
        found = summed.integers(limbs, asked * (1 + 2 * columns)).reshape(asked, -1)
        grower = self._grower(forest, scale)
        if not grower.heard(growth, summed.mark, found):
            return self._grow(state, scale, growth)
        tree = grower.finish(growth, forest.base)
        if setting.outputs == 1 and tree.leaves == [1] and setting.params.row_rate == setting.params.column_rate == 1:
            return self._at(state, Phase.DONE, scale, {})  # nothing can be split, now or ever
        return self._begin(replace(state, model=forest.planted(tree).vector()), scale)

    def _grower(self, forest: Forest, scale: Scale) -> Grower:
        setting = self.setting
        count = len(setting.columns)
        allowed = np.ones(count, np.bool_)
        if setting.params.column_rate < 1:
            order = stream(setting.seed, forest.trees, "columns").permutation(count)
            allowed[order[max(1, math.ceil(count * setting.params.column_rate)) :]] = False
        clients = setting.clients
        return Grower(setting.params, forest.bins, scale.gradients(clients), scale.hessians(clients), allowed)

    def _at(self, state: State, phase: Phase, scale: Scale, extra: Mapping[str, Vector]) -> State:
        return replace(state, extra={CONTROL: control(phase, scale, self.setting.head), **extra})


def _ranges(state: State, setting: Setting) -> list[Ranges]:
    return unpack(state.extra[RANGES]) if RANGES in state.extra else [Ranges.everything()] * setting.counted


def _label_bound(ranges: Ranges) -> int:
    if not len(ranges.rows):
        return label_bound(0.0)
    last = ranges.start[-1] + ((np.uint64(1) << np.uint64(ranges.shift[-1])) - np.uint64(1))
    largest = float(np.abs(numbers(np.array([ranges.start[0], last]))).max())
    if not math.isfinite(largest):
        raise DataError("a label is infinite, or too large to be summed")
    return label_bound(largest)
