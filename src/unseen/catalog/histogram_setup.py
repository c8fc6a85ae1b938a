"""Set-ups of the encrypted histograms of boosting, as parties keep them from one training to the next."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.catalog.binned_table import BinnedTable
from unseen.catalog.schemes import KeptSetup, scheme_of
from unseen.codec import Shape, message
from unseen.component import Kind, Leak, Packed, Task
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.learners.vertical.boosting.setting import BoostingSetting
from unseen.learners.vertical.boosting.setup import ActiveSetUp, Layout, PassiveSetUp, set_up_active, set_up_passive

HISTOGRAM_SETUP = Kind("histogram_setup", Packed)
LAYOUT_LEAK = Leak(
    "active party",
    "how many columns each passive party has, in a random order; of each how many bins it has, whether they are "
    "categories, and whether values are missing; trainings with one kept set-up have one order, so that a column can "
    "be followed from one to the next, and their sums can be taken together",
)


@message("catalog/active-histogram-setup")
class KeptActive:
    """What the active party keeps: one layout and one set-up for each passive party."""

    rows: int
    bits: int
    peers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    setups: tuple[KeptSetup, ...]

    @classmethod
    def of(cls, scheme: str, value: ActiveSetUp) -> KeptActive:
        """Return the set-ups, encoded."""
        peers = tuple(sorted(value.setups))
        kept = tuple(KeptSetup.of(scheme, value.setups[peer]) for peer in peers)
        return cls(value.rows, value.bits, peers, tuple(value.layouts[peer] for peer in peers), kept)

    @property
    def value(self) -> ActiveSetUp:
        """The set-ups, as the learner takes them."""
        peers = [PartyId(peer) for peer in self.peers]
        setups = {peer: kept.vector_setup() for peer, kept in zip(peers, self.setups, strict=True)}
        return ActiveSetUp(self.rows, self.bits, dict(zip(peers, self.layouts, strict=True)), setups)


@message("catalog/passive-histogram-setup")
class KeptPassive:
    """What a passive party keeps; it holds a secret key, where the scheme has one."""

    order: Annotated[NDArray[np.int64], Shape(None)]
    setup: KeptSetup

    @classmethod
    def of(cls, scheme: str, value: PassiveSetUp) -> KeptPassive:
        """Return the set-up, encoded."""
        return cls(value.order, KeptSetup.of(scheme, value.setup))

    @property
    def value(self) -> PassiveSetUp:
        """The set-up, as the learner takes it."""
        return PassiveSetUp(self.order, self.setup.matrix_setup())


def boosting_setting(task: Task) -> BoostingSetting:
    """Return who takes part, and as what."""
    return BoostingSetting(me=task.me, active=task.active, passives=task.passives, prg=task.prg)


def make_active_setup(task: Task, table: BinnedTable, scheme: str) -> Dialogue[ActiveSetUp]:
    """Return the active party's set-up, made now together with the others."""
    linear_map = scheme_of(scheme, simulated=task.simulated)
    return (yield from set_up_active(table.codes.shape[1], linear_map, boosting_setting(task)))


def make_passive_setup(task: Task, table: BinnedTable, scheme: str) -> Dialogue[PassiveSetUp]:
    """Return a passive party's set-up, made now together with the active one."""
    linear_map = scheme_of(scheme, simulated=task.simulated)
    return (yield from set_up_passive(table.columns, linear_map, boosting_setting(task)))


def active_setup(task: Task, table: BinnedTable, scheme: str) -> Dialogue[ActiveSetUp]:
    """Return the set-up at the optional input ``setup``, or one that is made now."""
    if "setup" in task.inputs:
        return task.input("setup", Packed).unpack(KeptActive).value
    return (yield from make_active_setup(task, table, scheme))


def passive_setup(task: Task, table: BinnedTable, scheme: str) -> Dialogue[PassiveSetUp]:
    """Return the set-up at the optional input ``setup``, or one that is made now."""
    if "setup" in task.inputs:
        return task.input("setup", Packed).unpack(KeptPassive).value
    return (yield from make_passive_setup(task, table, scheme))
