"""Who takes part in a vertical linear model, on what terms, and what each party ends up with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive_all, receive_array, send_all
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.port import LinearMap

Floats = NDArray[np.float64]
V = TypeVar("V", float, Floats)
N = TypeVar("N", np.uint64, np.float64)

LINEARISED = "linearised"
EXACT = "exact"
PRIVATE = "private"
LARGEST_WIDTH = 1 << 16
"""Whitened columns that a party may have: a peer's announcement decides how much memory a linear map takes here."""
NOTE_CHARACTERS = 200
DIVERGING = "a fault there, or a training that diverges; raise l2, drop collinear columns"
"""What to say where numbers get so large that a peer may have made them up, but need not."""
LARGEST_NUMBER = 2.0**100
"""No number of an honest training is larger; squares and sums of such ones, and their scores, cannot overflow."""


@dataclass(frozen=True, slots=True)
class LogisticParams:
    """What all parties of a logistic regression must agree on.

    The objective is mean log loss + ½ ``l2`` ‖w‖², the intercept free; scikit-learn's is the same for
    C = 1 / (rows · l2). ``tolerance`` bounds the gradient's norm at the end relative to that of the model that has
    only an intercept, measured in the whitened coordinates of ``whitening``.
    """

    mode: str = LINEARISED
    l2: float = 1e-3
    max_iterations: int = 50
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.mode not in (LINEARISED, EXACT, PRIVATE):
            raise UsageError(f"mode is 'linearised', 'exact' or 'private', found {self.mode!r}")
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise UsageError(f"l2 must be finite and at least 0, found {self.l2}")
        if self.max_iterations < 1:
            raise UsageError(f"max_iterations must be at least 1, found {self.max_iterations}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance lies between 0 and 1, found {self.tolerance}")


@dataclass(frozen=True, slots=True)
class Participants:
    """The parties of a training or scoring, seen from one of them (``me``), and its randomness."""

    me: PartyId
    active: PartyId
    passives: tuple[PartyId, ...]
    prg: Prg

    def __post_init__(self) -> None:
        if len(set(self.parties)) != len(self.parties):
            raise UsageError(f"a party appears twice among {', '.join(self.parties)}")
        if self.me not in self.parties:
            raise UsageError(f"{self.me} is none of the parties {', '.join(self.parties)}")

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """All parties, the active one first, then the passive ones in alphabetical order."""
        return (self.active, *sorted(self.passives))

    @property
    def peers(self) -> tuple[PartyId, ...]:
        """All parties but this one."""
        return tuple(party for party in self.parties if party != self.me)


@dataclass(frozen=True, slots=True)
class Setting(Participants):
    """Who takes part in a linear model, and how sums are protected.

    ``scheme`` may be ``None`` when there is no passive party, since then nothing is exchanged; scoring needs none.
    """

    scheme: LinearMap | None = None

    @property
    def others(self) -> str:
        """The peers' names, to say who is at fault; this party's if it has none."""
        return ", ".join(self.peers) or str(self.me)

    @property
    def is_active(self) -> bool:
        """Whether this party holds the label."""
        return self.me == self.active


@message("vertical_logistic/part")
class LinearPart:
    """One party's share of a trained linear model: its own coefficients, and how the training went.

    A row's score is the sum over the parties of features · ``coef_`` + ``intercept_``. A passive party's
    ``intercept_`` only undoes the centring of its columns: it is 0 up to rounding for standardised ones.
    """

    coef_: Annotated[Floats, Shape(None)]
    intercept_: float
    n_iterations: int
    converged: bool
    gradient_norms: Annotated[Floats, Shape(None)]
    """Norm of the whole gradient before each iteration."""
    losses: Annotated[Floats, Shape(None)]
    """Mean log loss on the training rows after each iteration: mode exact, active party only; otherwise empty."""
    note: str = ""
    """Why the training stopped early, if it did not converge."""


@message("vertical_logistic/hello")
class Hello:
    """What every party tells every other one before anything else."""

    active: str
    rows: int
    columns: int
    mode: str
    l2: float
    max_iterations: int
    tolerance: float


def agree(rows: int, columns: int, params: LogisticParams, setting: Setting) -> Dialogue[dict[PartyId, int]]:
    """Return the number of whitened columns of every party; make sure that all talk about the same training.

    Raises:
        RemoteProtocolError: A peer states other rows, parameters or another active party.
        UsageError: There are peers, but no scheme.
    """
    if setting.peers and setting.scheme is None:
        raise UsageError("training with other parties needs a linear map scheme: lattice or paillier")
    hello = Hello(setting.active, rows, columns, params.mode, params.l2, params.max_iterations, params.tolerance)
    yield from send_all(setting.peers, hello)
    answers = yield from receive_all(setting.peers, Hello)
    for peer, answer in answers.items():
        for name in ("active", "rows", "mode", "l2", "max_iterations", "tolerance"):
            compare(peer, name, getattr(hello, name), getattr(answer, name))
        if answer.columns < (0 if peer == setting.active else 1):
            raise RemoteProtocolError(f"{peer}: announces {answer.columns} columns")
        if answer.columns > LARGEST_WIDTH:
            raise RemoteProtocolError(f"{peer}: announces {answer.columns} columns, at most {LARGEST_WIDTH} are taken")
    return {setting.me: columns, **{peer: answer.columns for peer, answer in answers.items()}}


def check_role(setting: Setting, *, active: bool) -> None:
    """Raise ``UsageError`` unless this party is the active one, or is not, as ``active`` says."""
    if setting.is_active != active:
        wanted = "the active party" if active else "a passive party"
        raise UsageError(f"{setting.me} is not {wanted} here: {setting.active} holds the label")


def compare(peer: PartyId, what: str, ours: object, theirs: object) -> None:
    """Raise ``RemoteProtocolError`` unless ``peer`` states the same as this party."""
    if ours != theirs:
        raise RemoteProtocolError(
            f"{peer}: {what} is {repr(theirs)[:80]} there and {ours!r} here; all parties need the same"
        )


def receive_rows(peer: PartyId, dtype: type[N], rows: int, what: str) -> Dialogue[NDArray[N]]:
    """Return the array with one number for each of ``rows`` rows that ``peer`` sends; no more is ever held.

    Raises:
        RemoteProtocolError: It has another number of rows, or another dtype.
    """
    values = np.empty(rows, dtype)
    arrived = 0

    def take(first: int, piece: NDArray[N]) -> None:
        nonlocal arrived
        arrived = first + len(piece)
        if arrived > rows:
            raise RemoteProtocolError(f"{peer}: {what} {arrived} rows, expected {rows}")
        values[first:arrived] = piece

    yield from receive_array(peer, dtype, Shape(None), each=take)
    if arrived != rows:
        raise RemoteProtocolError(f"{peer}: {what} {arrived} rows, expected {rows}")
    return values


def told(note: str) -> str:
    """Return a peer's remark, fit for terminals and reports: printable, and of a decent length."""
    return "".join(char for char in note[:NOTE_CHARACTERS] if char.isprintable())


def finite(value: V, peer: str, what: str) -> V:
    """Return ``value``, which ``peer`` sent, or which follows from what it sent.

    Raises:
        RemoteProtocolError: It holds NaN, an infinity or a magnitude of more than 2^100.
    """
    if not np.isfinite(value).all():
        raise RemoteProtocolError(f"{peer}: {what} holds NaN or an infinity")
    if not (np.abs(value) <= LARGEST_NUMBER).all():
        largest = float(np.abs(value).max())
        raise RemoteProtocolError(f"{peer}: {what} holds {largest:.3g}, at most 2^100 is possible: {DIVERGING}")
    return value
