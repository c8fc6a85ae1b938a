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
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, ValidationError, model_validator

from unseen.errors import UsageError
from unseen.flow.spec import Lines, canonical_json, line_of, problems_text, read_mapping

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]

TABLE_MODELS = ("horizontal_boosting", "horizontal_linear", "horizontal_logistic")
"""Models that are made of sums over clients' rows (``tables``)."""
_OF_NETWORKS = ("strategy", "robust", "compression", "privacy", "asynchronous")
"""Keys that they have no use for."""
_CLASHES: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "asynchronous": (
            ("privacy", "robust", "aggregation", "cohort"),
            "whose steps take whoever comes in first, and no cohort that is drawn, compared or summed up as a whole",
        )
    }
)
"""What a key does not go with, and why."""


def _absent(value: object) -> bool:
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
    label: str | None = Field(default=None, exclude_if=_absent, description="Of tables: the column to be predicted.")
    client: str | None = Field(
        default=None, exclude_if=_absent, description="Of a table: the column that says whose row it is."
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
        default=None, exclude_if=_absent, description="`adaptive`: part of the updates that is not shortened; 0.5."
    )
    count_noise: Positive | None = Field(
        default=None,
        exclude_if=_absent,
        description="`adaptive`: deviation of the noise on how many updates were shortened; a twentieth of a cohort.",
    )
    honest: Annotated[int, Field(ge=3)] | None = Field(
        default=None,
        exclude_if=_absent,
        description="`distributed`: whose noise is counted on; the sum of fewer is refused. Default: the whole cohort.",
    )
    bits: Annotated[int, Field(ge=2, le=24)] | None = Field(
        default=None, exclude_if=_absent, description="`distributed`: of a word of the sum; 20."
    )
    scheme: Literal["secagg_plus", "rlwe"] | None = Field(
        default=None, exclude_if=_absent, description="`distributed`: by which protocol the sum is taken; secagg_plus."
    )
    examples: Count | None = Field(
        default=None,
        exclude_if=_absent,
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


class Program(Section):
    """One federation's learning, as agreed by all who take part."""

    name: str = Field(min_length=1, max_length=80, description="What it is called in reports.")
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection
    strategy: Named | None = Field(
        default=None,
        exclude_if=_absent,
        description="How clients train and the server makes the next model of what they send; needed for networks.",
    )
    robust: Named | None = Field(default=None, description="A rule in place of the mean that bad clients cannot pull.")
    compression: CompressionSection | None = Field(
        default=None, exclude_if=_absent, description="A codec for updates, which then take fewer bytes."
    )
    aggregation: AggregationSection | None = Field(default=None, description="Secure aggregation.")
    privacy: PrivacySection | None = Field(default=None, description="Differential privacy.")
    cohort: CohortSection = Field(default_factory=CohortSection)
    asynchronous: AsynchronousSection | None = Field(
        default=None, exclude_if=_absent, description="Steps as soon as enough clients came in; simulations only."
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
        with program.located():
            program._check_whole()
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

    def _check_whole(self) -> None:
        """Pass if the parts go together, as far as that is known without building them."""
        if self.of_tables:
            self._check_tables()
        else:
            _ = self.training
            if self.data.label is not None or self.data.client is not None:
                raise UsageError(
                    f"data.label: rows of tables are for {', '.join(TABLE_MODELS)}, and not for {self.model.name}"
                )
        for key, (others, why) in _CLASHES.items():
            if self._gives(key) and (given := [other for other in others if self._gives(other)]):
                raise UsageError(f"{given[0]}: it does not go with {key}, {why}: leave one out")

    def _check_tables(self) -> None:
        name = self.model.name
        if self.model.augment:
            raise UsageError(f"model.augment: {name} learns from no pictures: leave it out")
        if given := [key for key in _OF_NETWORKS if self._gives(key)]:
            raise UsageError(
                f"{given[0]}: model {name} is made of sums over clients' rows, and this is for networks: leave it out"
            )

    def _gives(self, key: str) -> bool:
        """Return whether the program says something about a part."""
        section = getattr(self, key)
        if isinstance(section, CohortSection):
            return bool(section.model_fields_set)
        return section.secure if isinstance(section, AggregationSection) else section is not None

    @contextmanager
    def located(self) -> Iterator[None]:
        """Let errors that begin with a key of the program say in which file and line it stands."""
        try:
            yield
        except UsageError as error:
            key = str(error).partition(":")[0].split(".")
            if key[0] not in Program.model_fields:
                raise
            raise UsageError(f"{self._called}: {line_of(tuple(key), self._lines)}{error}") from error

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
