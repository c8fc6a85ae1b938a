"""``Program``: what is learnt, by whom and how, as a file that simulations and real processes read alike.

::

    name: digits
    data: {source: mnist, partition: "dirichlet:1.0", clients: 300}
    model: {name: niid_cnn, augment: {shift: 1}}
    strategy: {name: fed_avg, learning_rate: 0.05, momentum: 0.9, epochs: 4, decay: 0.985}
    robust: {name: trimmed_mean, byzantine: 3}
    compression: {name: quantised, bits: 8}
    cohort: {size: 30}
    rounds: 100
    evaluate_every: 10

Parameters of models, strategies, robust rules and codecs are those of their constructors;
``docs/reference/program.md`` lists everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from unseen.errors import UsageError
from unseen.flow.spec import Lines, canonical_json, line_of, problems_text, read_mapping
from unseen.rounds.sections import (
    PEERS,
    AggregationSection,
    AsynchronousSection,
    CohortSection,
    CompressionSection,
    Count,
    DataSection,
    ModelSection,
    Named,
    PrivacySection,
    Section,
    Seed,
    TopologySection,
    absent,
)

TABLE_MODELS = ("horizontal_boosting", "horizontal_linear", "horizontal_logistic")
"""Models that are made of sums over clients' rows (``tables``)."""
_OF_NETWORKS = ("strategy", "robust", "compression", "asynchronous")
"""Keys that they have no use for."""
_OPEN_TABLES: Mapping[str, str] = MappingProxyType(
    {
        TABLE_MODELS[0]: "a row is in a bin of every column, of every level of every tree",
        TABLE_MODELS[1]: "columns have no bounds, so that one row can move a sum by any amount",
        TABLE_MODELS[2]: "columns have no bounds, so that one row can move a sum by any amount",
    }
)
"""Why no noise is stated that would hide a row in their sums."""
_CLASHES: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "asynchronous": (
            ("privacy", "robust", "aggregation", "cohort", "topology"),
            "whose steps take whoever comes in first, and no cohort that is drawn, compared or summed up as a whole",
        ),
        "topology": (
            ("robust", "compression", "cohort"),
            "where everybody is in every round, and nobody sees all updates",
        ),
        "privacy": (("compression",), "which clips and adds noise last"),
        "aggregation": (
            ("robust", "privacy", "compression"),
            "whose server sees no single update to compare, clip or decode (privacy of mode distributed takes a secure "
            "sum of its own, and aggregation.bits = 16 halves the words)",
        ),
    }
)
"""What a key does not go with, and why."""


class Program(Section):
    """One federation's learning, as agreed by all who take part."""

    name: str = Field(min_length=1, max_length=80, description="What it is called in reports.")
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection
    strategy: Named | None = Field(
        default=None,
        exclude_if=absent,
        description="How clients train and the server makes the next model of what they send; needed for networks.",
    )
    robust: Named | None = Field(default=None, description="A rule in place of the mean that bad clients cannot pull.")
    compression: CompressionSection | None = Field(
        default=None, exclude_if=absent, description="A codec for updates, which then take fewer bytes."
    )
    aggregation: AggregationSection | None = Field(default=None, description="Secure aggregation.")
    privacy: PrivacySection | None = Field(default=None, description="Differential privacy.")
    cohort: CohortSection = Field(default_factory=CohortSection)
    asynchronous: AsynchronousSection | None = Field(
        default=None, exclude_if=absent, description="Steps as soon as enough clients came in; simulations only."
    )
    topology: TopologySection | None = Field(
        default=None, exclude_if=absent, description="Learning without a server; everybody is in every round."
    )
    rounds: Count = Field(
        default=10, description="How many rounds are played in all; by default as many as a learner of tables needs."
    )
    evaluate_every: Count = Field(default=1, description="Rounds from one evaluation to the next.")
    seed: Seed = Field(default=0, description="Of the model's beginning, cohorts and training; noise has a secret one.")

    _home: Path = PrivateAttr(default_factory=Path)
    _text: str | None = PrivateAttr(default=None)
    _called: str = PrivateAttr(default="program")
    _lines: Lines = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the program in a YAML or JSON file.

        Raises:
            UsageError: The file cannot be read or is no program; every problem is listed with its line.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the program {path}: {error}") from error
        return cls.parse(text, name=str(path), home=path.resolve().parent)

    @classmethod
    def parse(cls, text: str, *, name: str = "program", home: Path | None = None) -> Self:
        """Return the program in YAML or JSON text; ``name`` is what errors call it.

        Paths in it are relative to ``home``, by default the working directory.

        Raises:
            UsageError: It is no program; every problem is listed with its line.
        """
        data, lines = read_mapping(text, name=name, what="a program: expected a mapping with name and model")
        try:
            program = cls.model_validate_json(json.dumps(data, allow_nan=False))
        except ValidationError as error:
            problems = [f"{line_of(_place(item), lines)}{_problem(item)}" for item in error.errors()]
            raise UsageError(problems_text(name, problems)) from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: values are numbers, texts, truth values, lists and mappings: {error}") from error
        program._home, program._text, program._called, program._lines = home or Path(), text, name, lines
        program.check()
        return program

    @property
    def of_tables(self) -> bool:
        """Whether a learner of tables is trained, not a network."""
        return self.model.name in TABLE_MODELS

    @property
    def training(self) -> Named:
        """The strategy of a network; raises ``UsageError`` if there is none."""
        if self.strategy is None:
            raise UsageError(f"strategy: model {self.model.name} needs one, such as {{name: fed_avg}}")
        return self.strategy

    def check(self) -> None:
        """Pass if the parts go together, as far as that is known without building them.

        Raises:
            UsageError: They do not; the message says where.
        """
        with self.located():
            self._check_whole()

    def _check_whole(self) -> None:
        if self.of_tables:
            self._check_tables()
        else:
            _ = self.training
            if self.data.label is not None or self.data.client is not None:
                raise UsageError(
                    f"data.label: rows of tables are for {', '.join(TABLE_MODELS)}, and not for {self.model.name}"
                )
        self._check_topology()
        for key, (others, why) in _CLASHES.items():
            if self._gives(key) and (given := [other for other in others if self._gives(other)]):
                raise UsageError(f"{given[0]}: it does not go with {key}, {why}: leave one out")

    def _check_tables(self) -> None:
        name = self.model.name
        if self.model.augment:
            raise UsageError(f"model.augment: {name} learns from no pictures: leave it out")
        if self.privacy is not None:
            raise UsageError(
                f"privacy: no ε is stated for the sums of {name}: {_OPEN_TABLES[name]}, and clipping a client's sums "
                "would make another model of them. aggregation: {secure: true} hides every client's sums; for an ε "
                "train a network on the rows in Python, such as a linear one with private.Central or private.DpSgd"
            )
        if given := [key for key in _OF_NETWORKS if self._gives(key)]:
            raise UsageError(
                f"{given[0]}: model {name} is made of sums over clients' rows, and this is for networks: leave it out"
            )

    def _check_topology(self) -> None:
        if self.topology is None:
            return
        peers, secure = self.topology.name == PEERS, self._gives("aggregation")
        if self.privacy is not None:
            self._check_private_topology(self.privacy, peers=peers)
        elif peers and not secure:
            raise UsageError(
                "aggregation: peers take secure sums: say how numbers are clipped, such as {secure: true, clip: 1.0, "
                "max_weight: 100}; of a learner of tables, {secure: true}"
            )
        if not peers and (secure or self.of_tables):
            key = "aggregation" if secure else "model.name"
            raise UsageError(
                f"{key}: neighbours of topology {self.topology.name} exchange models of networks, and take no sums; "
                "those of {name: peers} do"
            )

    @staticmethod
    def _check_private_topology(section: PrivacySection, *, peers: bool) -> None:
        mode = section.mode
        if section.scheme is not None:
            raise UsageError("privacy.scheme: peers take sums as topology.sum says: leave it out")
        if peers and mode != "distributed":
            raise UsageError(
                f"privacy.mode: {mode} needs a server, or more noise: peers all see the sum of their updates, which "
                "the noise of each of them hides from the others by mode distributed"
            )
        if not peers and mode != "local":
            raise UsageError(
                f"privacy.mode: {mode} needs a server or a sum: neighbours see each other's models, which each node "
                "hides by noise of its own by mode local"
            )

    def _gives(self, key: str) -> bool:
        """Return whether the program says something about a part."""
        section = getattr(self, key)
        if isinstance(section, CohortSection):
            return bool(section.model_fields_set)
        return section.secure if isinstance(section, AggregationSection) else section is not None

    @contextmanager
    def located(self, about: str | None = None) -> Iterator[None]:
        """Let errors about a key of the program say in which file and line it stands.

        It is the key that they begin with, or else the one that the block is ``about``.
        """
        try:
            yield
        except UsageError as error:
            text = str(error)
            if text.partition(":")[0].split(".")[0] not in Program.model_fields:
                if about is None or text.startswith(f"{self._called}:"):
                    raise
                text = f"{about}: {text}"
            place = tuple(text.partition(":")[0].split("."))
            raise UsageError(f"{self._called}: {line_of(place, self._lines)}{text}") from error

    @property
    def home(self) -> Path:
        """The folder that paths of the program are relative to."""
        return self._home

    @property
    def text(self) -> str:
        """The text that it was read from; JSON if it was made otherwise."""
        return self.model_dump_json(indent=1) if self._text is None else self._text

    @property
    def digest(self) -> str:
        """SHA-256 of the whole program."""
        return _digest(self.model_dump(mode="json"))

    def agreed(self) -> dict[str, Any]:
        """Return what a run's server and clients have to agree on: all but the data and how long it goes on.

        Of the data it is what the model takes a pixel for: those of ``digits`` go to 16, others to 255. Of tables it is
        the label.
        """
        said = self.model_dump(mode="json", exclude={"data", "rounds", "evaluate_every"})
        if self.of_tables:
            return {**said, "label": self.data.label}
        return {**said, "pixels": "digits" if self.data.source == "digits" else "bytes"}

    @property
    def agreement(self) -> str:
        """SHA-256 of what is agreed."""
        return _digest(self.agreed())


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _place(item: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in item["loc"] if part != "[key]")


def _problem(item: Any) -> str:
    place = _place(item)
    if item["type"] != "extra_forbidden":
        return f"{'.'.join(place) or 'program'}: {item['msg']}"
    kind: type[BaseModel] = Program
    for part in place[:-1]:
        hint = kind.model_fields[part].annotation
        kind = next(one for one in (hint, *getattr(hint, "__args__", ())) if isinstance(one, type))
    return f"{'.'.join(place)}: there is no such key; there are {', '.join(kind.model_fields)}"
