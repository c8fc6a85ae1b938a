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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, ValidationError

from unseen.errors import UsageError
from unseen.flow.spec import Lines, canonical_json, line_of, problems_text, read_mapping

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]


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
        "SQLite; relative to the program. Real clients need none.",
    )
    partition: str | None = Field(
        default=None,
        description="How to deal the examples out anew, as `unseen clients --partition` takes it. Default: a file's "
        "own clients, iid for an image set.",
    )
    clients: Count | None = Field(default=None, description="How many clients there are; a file's own by default.")
    seed: Seed = Field(default=0, description="Of the partition, and of what is kept for testing.")
    split: str | None = Field(default=None, description="Part of a SQLite file, or of an image set.")
    test: Share = Field(
        default=0.1, description="Part of every client's examples that it keeps for testing; 0 for an image set's own."
    )


class ModelSection(Named):
    """What is trained: a network of `unseen.learners.horizontal.neural.models`."""

    augment: dict[str, float | dict[str, float]] = Field(
        default_factory=dict,
        description="Random changes of pictures in training: `{shift: 1}`, `{affine: {degrees: 5}}`.",
    )


class PrivacySection(Section):
    """Differential privacy for clients: a trusted server clips, adds up, and adds noise."""

    mode: Literal["central"] = "central"
    clip: Positive = Field(description="The longest update that is not shortened (L2).")
    epsilon: Positive = Field(description="The run refuses the round that would pass this ε.")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(description="δ: far below one over the number of clients.")
    noise_multiplier: Positive | None = Field(
        default=None, description="Deviation of the noise over `clip`; by default as much as ε and all rounds need."
    )


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

    size: Count | None = Field(default=None, description="So many clients; 10, or all, if nothing is said.")
    weighted: bool = Field(default=False, description="Draw clients in proportion to their numbers of examples.")
    rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Every client by a coin of its own: what differential privacy counts on."
    )


class Program(Section):
    """One federation's learning, as agreed by all who take part."""

    name: str = Field(min_length=1, max_length=80, description="What it is called in reports.")
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection
    strategy: Named = Field(description="How clients train and the server makes the next model of what they send.")
    robust: Named | None = Field(default=None, description="A rule in place of the mean that bad clients cannot pull.")
    compression: CompressionSection | None = Field(
        default=None, exclude_if=_absent, description="A codec for updates, which then take fewer bytes."
    )
    aggregation: AggregationSection | None = Field(default=None, description="Secure aggregation.")
    privacy: PrivacySection | None = Field(default=None, description="Differential privacy.")
    cohort: CohortSection = Field(default_factory=CohortSection)
    rounds: Count = Field(default=10, description="How many rounds are played in all.")
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
        data, lines = read_mapping(text, name=name, what="a program: expected a mapping with name, model and strategy")
        try:
            program = cls.model_validate_json(json.dumps(data, allow_nan=False))
        except ValidationError as error:
            problems = [f"{line_of(_place(item), lines)}{_problem(item)}" for item in error.errors()]
            raise UsageError(problems_text(name, problems)) from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: values are numbers, texts, truth values, lists and mappings: {error}") from error
        program._home, program._text, program._called, program._lines = home or Path(), text, name, lines
        return program

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

        Of the data it is what the model takes a pixel for: those of ``digits`` go to 16, others to 255.
        """
        said = self.model_dump(mode="json", exclude={"data", "rounds", "evaluate_every"})
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
