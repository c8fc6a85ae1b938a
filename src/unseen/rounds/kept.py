"""What the folder of a run says about itself, for whoever reads it: the program, whom it is with, what came of it.

::

    program.yaml    the program's text, as it was when the run was last begun or gone on with
    about.json      who and what: written when a run begins
    state.bin       the state after the last finished round, with all rounds (``checkpoint``)
    spent.jsonl     what privacy was spent (``spending``)
    outcome.json    figures over clients, and beside pooled and local training: written when a run ends

Reading changes nothing, so that it may be done while the run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from unseen.data.atomic import whole_file
from unseen.data.federated.clients import Spread
from unseen.errors import DataError, UsageError
from unseen.ids import ClientId
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.program import Program
from unseen.rounds.run import Round

PROGRAM = "program.yaml"
_ABOUT, _OUTCOME = "about.json", "outcome.json"


class Kept(BaseModel):
    """One JSON file of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


class Labels(Kept):
    """Who has how many examples of which label, as ``Spread``."""

    clients: tuple[str, ...]
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, spread: Spread) -> Labels:
        """Return a spread as it is kept."""
        return cls(clients=spread.ids, labels=spread.labels, counts=tuple(map(tuple, spread.counts.tolist())))

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if {len(row) for row in self.counts} - {len(self.labels)} or len(self.counts) != len(self.clients):
            raise ValueError(f"expected {len(self.clients)} rows of {len(self.labels)} counts")
        return self

    def spread(self) -> Spread:
        """Return what ``of`` took."""
        counts = np.array(self.counts, np.int64).reshape(len(self.clients), len(self.labels))
        return Spread(tuple(map(ClientId, self.clients)), self.labels, counts)


class About(Kept):
    """What is known of a run before its first round."""

    process: str
    data: str
    """What the examples are, in a few words."""
    clients: int
    real: bool
    """Whether they are processes of their own, or simulated."""
    rounds: int
    """How many are to be played in all."""
    model: str
    """What is trained, in a few words."""
    versions: str
    learned: tuple[tuple[str, str], ...]
    """Who learns what."""
    labels: Labels | None = None


class Outcome(Kept):
    """What was found after the last round of a call."""

    round: int
    accuracy: dict[str, tuple[float, ...]] = {}
    """Of a kind of model at every client that tests."""
    comparison: tuple[tuple[str, dict[str, float]], ...] = ()
    """Metrics of federated, pooled and local training."""


@dataclass(frozen=True, slots=True, eq=False)
class RunFolder:
    """All that a folder says."""

    path: Path
    program: Program
    about: About
    history: tuple[Round, ...]
    outcome: Outcome | None

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """Return what is in a folder.

        Raises:
            UsageError: No run was begun in it.
            DataError: A file of it is damaged.
        """
        if not holds_run(path):
            raise UsageError(f"{path} holds no run: expected the --folder of `unseen learn` or `unseen serve`")
        about = _read(About, path / _ABOUT)
        if about is None:
            raise UsageError(f"{path} holds a run that has not begun yet: try again after its first round")
        kept = Checkpoints(path).load()
        history = () if kept is None else tuple(Round(**fields) for fields in kept[1])
        return cls(path, Program.load(path / PROGRAM), about, history, _read(Outcome, path / _OUTCOME))


def holds_run(path: Path) -> bool:
    """Return whether a folder is that of a program's run."""
    return (path / PROGRAM).is_file()


def keep_text(path: Path, program: Program) -> None:
    """Keep the program's text in a folder."""
    with whole_file(path / PROGRAM) as file:
        file.write(program.text.encode())


def keep(path: Path, found: About | Outcome) -> None:
    """Keep what is known before, or was found after, in a folder."""
    with whole_file(path / (_ABOUT if isinstance(found, About) else _OUTCOME)) as file:
        file.write(found.model_dump_json(indent=1).encode())


KeptT = TypeVar("KeptT", bound=Kept)


def _read(kind: type[KeptT], path: Path) -> KeptT | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} cannot be read: {error}; what the run itself needs is in other files") from error
