"""Sections of a program's file: every key that it may have, with what it means."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]

PEERS = "peers"
"""The topology in which all take sums together."""


def absent(value: object) -> bool:
    """Say that a key leaves no trace unless it is given: what was begun before there was such a key is the same run."""
    return value is None


class Section(BaseModel):
    """A part of the file, in which every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Named(BaseModel):
    """Something by its name, with parameters of its own."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, JsonValue]

    name: str

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """All that stands beside the name."""
        return dict(self.__pydantic_extra__)


class DataSection(Section):
    """Whose examples: all clients of a simulation, or what is rehearsed before real clients have theirs."""

    source: str | None = Field(
        default=None,
        description="An image set (digits, fashion-mnist, mnist), or a file: LEAF's JSON or its folder, TFF's HDF5 or "
        "SQLite; for tables a CSV or Parquet file, or a folder with one for each client; relative to the program. Real "
        "clients need none.",
    )
    label: str | None = Field(default=None, exclude_if=absent, description="Of tables: the column to be predicted.")
    client: str | None = Field(
        default=None, exclude_if=absent, description="Of a table: the column that says whose row it is."
    )
    partition: str | None = Field(
        default=None,
        description="How to deal the examples out anew, as `unseen clients --partition` takes it. Default: a file's "
        "own clients, iid for an image set and for a table without `client`.",
    )
    clients: Count | None = Field(default=None, description="How many clients there are; a file's own by default.")
    seed: Seed = Field(default=0, description="Of the partition, and of what is kept for testing.")
    split: str | None = Field(default=None, description="Part of a SQLite file, or of an image set.")
    test: Share = Field(
        default=0.1, description="Part of every client's examples that it keeps for testing; 0 for an image set's own."
    )


class ModelSection(Named):
    """What is trained: a network of `unseen.learners.horizontal.neural.models`, or a learner of tables."""

    augment: dict[str, float | dict[str, float]] = Field(
        default_factory=dict,
        description="Random changes of pictures in training: `{shift: 1}`, `{affine: {degrees: 5}}`.",
    )


class PrivacySection(Section):
    """Differential privacy: in which mode, and how much may be told."""

    mode: Literal["central", "adaptive", "ftrl", "distributed", "local", "dp_sgd"] = Field(
        default="central",
        description="Who is trusted, and what is hidden: the guide has a table. All but `dp_sgd` hide a client.",
    )
    clip: Positive = Field(
        description="The longest update that is not shortened (L2); the first one of `adaptive`, of an example's "
        "gradient with `dp_sgd`."
    )
    epsilon: Positive = Field(description="The run refuses the round that would pass this ε.")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(description="δ: far below one over the number of clients.")
    noise_multiplier: Positive | None = Field(
        default=None, description="Deviation of the noise over `clip`; by default as much as ε and all rounds need."
    )
    target: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, exclude_if=absent, description="`adaptive`: part of the updates that is not shortened; 0.5."
    )
    count_noise: Positive | None = Field(
        default=None,
        exclude_if=absent,
        description="`adaptive`: deviation of the noise on how many updates were shortened; a twentieth of a cohort.",
    )
    honest: Annotated[int, Field(ge=3)] | None = Field(
        default=None,
        exclude_if=absent,
        description="`distributed`: whose noise is counted on; the sum of fewer is refused. Default: the whole cohort; "
        "of peers, all others.",
    )
    bits: Annotated[int, Field(ge=2, le=24)] | None = Field(
        default=None, exclude_if=absent, description="`distributed`: of a word of the sum; 20."
    )
    scheme: Literal["secagg_plus", "rlwe"] | None = Field(
        default=None, exclude_if=absent, description="`distributed`: by which protocol the sum is taken; secagg_plus."
    )
    examples: Count | None = Field(
        default=None,
        exclude_if=absent,
        description="`dp_sgd`: how many examples a client is taken to have. A step draws `strategy.batch` of them, and "
        "there are as many steps as `strategy.epochs` or `strategy.steps` say.",
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        for mode, keys in _KEYS_OF.items():
            given = [key for key in keys if getattr(self, key) is not None]
            if given and mode != self.mode:
                raise ValueError(f"{given[0]} goes with mode {mode}, and this one is {self.mode}")
        return self


_KEYS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"adaptive": ("target", "count_noise"), "distributed": ("honest", "bits", "scheme"), "dp_sgd": ("examples",)}
)
"""Keys of a mode's own."""


class CompressionSection(Named):
    """How updates travel in fewer bytes: a codec."""

    feedback: bool | None = Field(
        default=None,
        description="Whether a client keeps what a message leaves out, and adds it to its next one; by default if the "
        "codec is biased.",
    )


class AggregationSection(BaseModel):
    """How updates are added up; with `secure`, the other keys are the parameters of a secure mean."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, JsonValue]

    secure: bool = Field(description="Hide every update from the server, which gets a cohort's mean alone.")

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """All that stands beside it."""
        return dict(self.__pydantic_extra__)


class CohortSection(Section):
    """Who takes part in a round: `size` clients, or each with probability `rate`."""

    size: Count | None = Field(
        default=None, description="So many clients; 10, or all, if nothing is said; all for a learner of tables."
    )
    weighted: bool = Field(default=False, description="Draw clients in proportion to their numbers of examples.")
    rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Every client by a coin of its own: what differential privacy counts on."
    )


class AsynchronousSection(Section):
    """Nobody waits for anybody: whoever comes in is replaced at once. A round is a step of the server."""

    at_once: Count | None = Field(default=None, description="Clients under way at any time; 100, or all.")
    buffer: Count = Field(default=10, description="Updates that make a step.")
    seconds: Positive = Field(default=1.0, description="Simulated seconds of a training.")
    seconds_per_example: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="What each example adds to them."
    )
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="They are multiplied by e^(spread · z), z normal."
    )


class TopologySection(Section):
    """Who exchanges what when there is no server: all peers take sums, or neighbours exchange models (gossip)."""

    name: Literal["peers", "complete", "exponential", "one_peer", "random_regular", "ring", "torus"] = Field(
        description="`peers`: all take sums together, and have one state. The others are graphs of gossip."
    )
    sum: Literal["shares", "ring"] | None = Field(
        default=None, description="`peers`: few rounds and a committee of three, or the least traffic; shares."
    )
    degree: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="`random_regular`: how many neighbours a node has; 4."
    )
    drop: Share = Field(default=0.0, description="Graphs: with what probability a simulated node is down in a round.")

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        wrong = {
            "sum goes with peers": self.sum is not None and self.name != PEERS,
            "degree goes with random_regular": self.degree is not None and self.name != "random_regular",
            "drop goes with graphs; a run of peers stops with any of them": self.drop > 0 and self.name == PEERS,
        }
        if found := [why for why, present in wrong.items() if present]:
            raise ValueError(f"{found[0]}, and this is {self.name}")
        return self
