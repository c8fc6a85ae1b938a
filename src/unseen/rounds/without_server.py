"""A program's run without a server, as one of its real parties: peers that take sums together, or nodes of gossip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unseen.dialogue import CancelToken
from unseen.errors import UsageError
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples, Process, Trainer
from unseen.learners.horizontal.topology import Topology
from unseen.rounds.neighbours import NeighbourSettings, exchange_models, neighbours_of
from unseen.rounds.peers import PeerSettings, take_part
from unseen.rounds.program import Program
from unseen.rounds.run import Round, Run
from unseen.rounds.sections import PEERS, TopologySection
from unseen.transport.channel import Channel

_DEGREE, _SUM = 4, "shares"


def graph_of(section: TopologySection, seed: int) -> Topology:
    """Return a program's graph of gossip."""
    return Topology(section.name, degree=section.degree or _DEGREE, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """What one party brings to a run without a server.

    Raises:
        UsageError: The program has a server, or this party is not among those of the run.
    """

    program: Program
    run: JobId
    me: PartyId
    everybody: Sequence[PartyId]
    """All parties, this one included, in any order."""
    rounds: int
    folder: Path | None = None
    patience: float = 600.0
    """Seconds for which a round waits for others."""
    test: Examples | None = field(default=None, repr=False)
    observe: Callable[[Round], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.program.topology is None:
            raise UsageError("topology: the program has a server, and names no topology without one")
        if self.me not in self.everybody or len(set(self.everybody)) != len(self.everybody):
            raise UsageError(
                f"run {self.run}: expected the names of all parties, each once, {self.me} among them; found "
                f"{', '.join(self.everybody)}"
            )

    @property
    def _settings(self) -> PeerSettings | NeighbourSettings:
        section, names = self.program.topology, tuple(sorted(self.everybody))
        if section is None or section.name == PEERS:
            return PeerSettings(
                self.run,
                names,
                self.rounds,
                scheme=_SUM if section is None or section.sum is None else section.sum,
                seed=self.program.seed,
                folder=self.folder,
                deadline=self.patience,
                evaluate_every=self.program.evaluate_every,
                test=self.test,
                observe=self.observe,
            )
        return NeighbourSettings(
            self.run,
            names,
            graph_of(section, self.program.seed),
            self.rounds,
            seed=self.program.seed,
            deadline=self.patience,
            folder=self.folder,
            evaluate_every=self.program.evaluate_every,
            test=self.test,
            observe=self.observe,
        )

    @property
    def linked(self) -> frozenset[PartyId]:
        """To whom this party needs a link."""
        settings = self._settings
        if isinstance(settings, NeighbourSettings):
            return neighbours_of(settings, self.me)
        return frozenset(settings.peers) - {self.me}

    def play(
        self,
        channel: Channel,
        process: Process,
        trainer: Trainer,
        examples: Examples,
        *,
        cancel: CancelToken | None = None,
    ) -> tuple[Run, dict[PartyId, str]]:
        """Return the run at its end, and what was wrong with neighbours; the channel is closed.

        Raises:
            UnseenError: As ``take_part`` and ``exchange_models``.
        """
        settings = self._settings
        if isinstance(settings, PeerSettings):
            return take_part(channel, process, trainer, examples, settings, cancel=cancel), {}
        done = exchange_models(channel, process, trainer, examples, settings, cancel=cancel)
        return done.run, done.troubles
