"""Runs one party's side of a job in a process of its own: reads its configuration and wires everything together.

::

    party: bank                       # who this is; must be the name in the certificate
    flow: flow.yaml                   # the same file at every party
    job: credit-1                     # the same name at every party; running it again resumes it
    workspace: workspace              # where results are kept
    identity: node                    # the node's folder, or one with certificate.pem, key.pem, authority.pem
    tables: {customers: bank.csv}     # this party's own data
    listen: 127.0.0.1:7001            # where peers dial in, if they do
    peers: {partner: null}            # host:port to dial, or null if the peer dials us
    connect_seconds: 30               # how long a peer may be out of reach before the job fails
    silence_seconds: 600              # how long a peer may be connected without anything moving

Paths are relative to the file. With a node's folder as identity, ``listen`` and those of ``peers`` that the file leaves
out are what the node knows: its port, and who was paired with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unseen.clock import SystemClock
from unseen.component import Source, installed_components
from unseen.dialogue import CancelToken, Observer
from unseen.errors import UsageError
from unseen.flow.executor import Seat, StepResult, noting_the_end, play
from unseen.flow.graph import Graph, build_graph
from unseen.flow.spec import problems_text, read_flow
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId, StepId
from unseen.node.folder import Node, is_node, load_identity
from unseen.transport.grpc import GrpcChannel
from unseen.transport.lines import Options
from unseen.transport.session import Session
from unseen.transport.tls import Identity


class PartyConfig(BaseModel):
    """Everything one party's process has to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    party: PartyId
    flow: Path
    job: JobId
    workspace: Path
    identity: Path
    tables: dict[str, Path] = Field(default_factory=dict)
    listen: str | None = None
    peers: dict[PartyId, str | None] = Field(default_factory=dict)
    connect_seconds: float = Field(default=30.0, gt=0)
    silence_seconds: float = Field(default=600.0, gt=0)

    @classmethod
    def read(cls, path: Path) -> PartyConfig:
        """Return the configuration in a YAML file, its paths made absolute.

        Raises:
            UsageError: The file cannot be read, or a setting is missing, unknown or malformed.
        """
        try:
            config = cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            problems = [f"{_place(item['loc'])}: {item['msg']}" for item in error.errors()]
            raise UsageError(problems_text(str(path), problems)) from error
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"cannot read the party's configuration {path}: {error}") from error
        home = path.resolve().parent
        places = {name: home / getattr(config, name) for name in ("flow", "workspace", "identity")}
        tables = {name: home / table for name, table in config.tables.items()}
        return config.model_copy(update={**places, "tables": tables})

    def reach(self, listen: str | None, peers: Mapping[PartyId, str]) -> PartyConfig:
        """Return the configuration with other addresses."""
        return self.model_copy(update={"listen": listen or self.listen, "peers": {**self.peers, **peers}})


def _place(keys: tuple[int | str, ...]) -> str:
    """Return where in the configuration a mistake is."""
    return ".".join(str(key) for key in keys if key != "[key]") or "configuration"


@dataclass(frozen=True, slots=True)
class PartyResult:
    """What a job left behind at this party."""

    graph: Graph
    workspace: Workspace
    steps: Mapping[StepId, StepResult]


def run_party(
    config: PartyConfig, *, observe: Observer | None = None, cancel: CancelToken | None = None
) -> PartyResult:
    """Run, or resume, one party's side of a job; return what it left behind.

    Raises:
        UsageError: The configuration does not fit the flow.
        TransportError: A peer cannot be reached or authenticated.
        PeerFailed: A peer gave up and said why.
        UnseenError: A step failed at this party; the peers are told.
    """
    config = completed(config)
    graph = _graph(config)
    identity = _identity(config)
    clock = SystemClock()
    workspace = Workspace(config.workspace)
    with workspace.locked():
        workspace.start_job(config.job, graph.spec, clock.now())
        sources = {name: Source(path) for name, path in config.tables.items()}
        seat = Seat(config.party, graph, config.job, workspace, sources, clock)
        steps = _drive(config, seat, identity, observe=observe, cancel=cancel)
    return PartyResult(graph, workspace, steps)


def completed(config: PartyConfig) -> PartyConfig:
    """Return the configuration with what the node's folder knows about the flow's other parties."""
    if not is_node(config.identity):
        return config
    node = Node(config.identity)
    known = node.partners.all()
    others = [party for party in read_flow(config.flow).parties if party != config.party and party in known]
    peers = {**{peer: known[peer].endpoint for peer in others}, **config.peers}
    dialled = None in peers.values()
    return config.model_copy(
        update={"peers": peers, "listen": config.listen or (node.config.listen if dialled else None)}
    )


def _graph(config: PartyConfig) -> Graph:
    spec = read_flow(config.flow)
    if config.party not in spec.parties:
        raise UsageError(f"{config.flow}: party {config.party} takes no part in this flow ({', '.join(spec.parties)})")
    missing = sorted(set(spec.parties) - {config.party} - set(config.peers))
    if missing:
        remedy = "; pair with them: `unseen node invite` at one side" if is_node(config.identity) else ""
        raise UsageError(f"party {config.party}: peers does not say how to reach {', '.join(missing)}{remedy}")
    strangers = sorted(set(config.peers) - set(spec.parties))
    if strangers:
        raise UsageError(f"party {config.party}: peers names {', '.join(strangers)}, which take no part in the flow")
    for name, path in config.tables.items():
        if not path.is_file():
            raise UsageError(f"party {config.party}: tables.{name} is {path}, where there is no file")
    return build_graph(spec, installed_components(), tables={config.party: set(config.tables)}, name=str(config.flow))


def _identity(config: PartyConfig) -> Identity:
    identity = load_identity(config.identity)
    if identity.party != config.party:
        raise UsageError(
            f"{config.identity} holds the certificate of {identity.party}, not of {config.party}: correct one of them"
        )
    return identity


def _drive(
    config: PartyConfig, seat: Seat, identity: Identity, *, observe: Observer | None, cancel: CancelToken | None
) -> dict[StepId, StepResult]:
    peers = {peer: config.peers[peer] for peer in seat.peers}
    options = Options(connect_grace=config.connect_seconds)
    with (
        noting_the_end([seat]),
        GrpcChannel(identity, peers, listen=config.listen, options=options) as channel,
        Session(
            channel,
            job=seat.job,
            checkpoints=seat.workspace.checkpoints(seat.job),
            observe=observe,
            cancel=cancel,
            silence=config.silence_seconds,
        ) as session,
    ):
        return session.run(play(seat))
