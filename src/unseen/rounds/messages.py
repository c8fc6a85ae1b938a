"""What a server and its clients say to each other in a deployed run, and what of it counts as an answer.

::

    client                                server
    Hello(run, process, model)   ──▶
                                 ◀──      Standing: you are expected; or Refusal
                                 ◀──      Assigned(round, attempt, broadcast)     if it is in the cohort
    Answer(round, attempt, …)    ──▶                                              or Failed(reason)
                                 ◀──      Assigned … or Standing, once an attempt
                                 ◀──      Finished

In a round whose aggregator is a sum no answer leaves its client. Those that have trained say so, and take the sum::

    Ready(round, attempt, layout) ──▶                                             in place of Answer
                                 ◀──      Summing(round, attempt, cohort)
    SumStep(keys)                ──▶                                              what is in a step is known to the
                                 ◀──      SumStep(roster)                         scheme alone
    …                            ──▶

Either side may repeat itself: whoever has a new connection begins with ``Hello`` again, and an assignment that comes
twice is answered twice, with the same bytes. Who speaks is known from the connection's certificate.

Rounds are counted as in ``State``: round r is played when r rounds have been finished.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Buffer, Shape, decode, encode, message, shown
from unseen.errors import DataError, RemoteProtocolError, UnseenError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.compression.encoded import Codec, Encoded
from unseen.learners.horizontal.process import HEAVIEST, Broadcast, Update, beyond
from unseen.learners.horizontal.sums import Layout
from unseen.rounds.checkpoint import NamedVector, pack, unpack

REASON_CHARACTERS = 500
_MOST_NAMES = 64
_MOST_EXTRA = 1 << 26
"""Numbers beside the model: an update of 256 MB more."""


# --- what a client says ------------------------------------------------------------------------------------------


@message("rounds/hello")
class Hello:
    """Begins a connection: which run the sender takes part in, and with what."""

    run: str
    process: str
    """``digest_of`` the process."""
    size: int
    """Numbers of the model."""


@message("rounds/metric")
class Metric:
    """A number and what it is called."""

    name: str
    value: float


@message("rounds/answer")
class Answer:
    """An update; ``delta`` is empty if it travels ``encoded``."""

    run: str
    round: int
    attempt: int
    client: str
    delta: Annotated[NDArray[np.float32], Shape(None)]
    encoded: Encoded | None
    weight: float
    extra: tuple[NamedVector, ...]
    metrics: tuple[Metric, ...]


@message("rounds/failed")
class Failed:
    """The sender cannot play this round."""

    run: str
    round: int
    attempt: int
    reason: str


@message("rounds/length")
class Length:
    """How long a vector is, and what it is called."""

    name: str
    length: int


@message("rounds/ready")
class Ready:
    """The sender has trained, and what its update consists of; what it says is not told."""

    run: str
    round: int
    attempt: int
    size: int
    extra: tuple[Length, ...]
    metrics: tuple[str, ...]
    summed: tuple[str, ...] = ()
    """With whom this update may have been added up already: it goes into no other sum."""


@message("rounds/sum-step")
class SumStep:
    """A message of the protocol that takes a sum, to or from the server."""

    run: str
    round: int
    attempt: int
    nonce: bytes
    """That of ``Summing``."""
    frame: Annotated[NDArray[np.uint8], Shape(None)]


@message("rounds/from-client", version=2)
class FromClient:
    """One of these."""

    hello: Hello | None = None
    answer: Answer | None = None
    failed: Failed | None = None
    ready: Ready | None = None
    step: SumStep | None = None

    def __post_init__(self) -> None:
        _only_one(self)


@message("rounds/kept-answer")
class KeptAnswer:
    """What a client keeps in a file: an answer, and the fingerprint of the assignment that it belongs to.

    In a secure round it never leaves that file but as part of a sum.
    """

    assigned: bytes
    answer: Answer


@message("rounds/kept-sum")
class KeptSum:
    """What a client keeps in a file: for which assignment it has begun sums."""

    round: int
    assigned: bytes
    clients: tuple[str, ...]
    """With whom it has consented that its answer is added up, itself included; nobody as long as it has not."""


class Diverged(DataError):
    """A training that went wrong, which the server may know."""


def what_to_tell(error: UnseenError) -> str:
    """Return what the server may know about a client's error: nothing of its data, nothing of its program."""
    if isinstance(error, Diverged):
        return "its training diverged: its update holds numbers that are not finite, or beyond 2^60"
    if isinstance(error, DataError):
        return "its examples do not fit; the details stay at that client"
    if isinstance(error, UsageError):
        return "what it was asked to do cannot be done there; the details stay at that client"
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]


# --- what the server says ----------------------------------------------------------------------------------------


@message("rounds/standing")
class Standing:
    """Where the run stands, for a client that has nothing to do."""

    run: str
    round: int
    attempt: int


@message("rounds/assigned")
class Assigned:
    """What every client of a cohort works on; the same bytes for all of them."""

    run: str
    round: int
    attempt: int
    model: Annotated[NDArray[np.float32], Shape(None)]
    extra: tuple[NamedVector, ...]


@message("rounds/summing")
class Summing:
    """A sum begins, over these clients."""

    run: str
    round: int
    attempt: int
    nonce: bytes
    """Names the sum: no two have the same."""
    clients: tuple[str, ...]


@message("rounds/refusal")
class Refusal:
    """What the client sent does not count; if ``final``, nothing else would either."""

    run: str
    reason: str
    final: bool


@message("rounds/finished")
class Finished:
    """The run is over after so many rounds."""

    run: str
    rounds: int


@message("rounds/from-server", version=2)
class FromServer:
    """One of these."""

    standing: Standing | None = None
    assigned: Assigned | None = None
    refusal: Refusal | None = None
    finished: Finished | None = None
    summing: Summing | None = None
    step: SumStep | None = None

    def __post_init__(self) -> None:
        _only_one(self)


ClientWord: TypeAlias = Hello | Answer | Failed | Ready | SumStep
ServerWord: TypeAlias = Standing | Assigned | Refusal | Finished | Summing | SumStep


def _only_one(word: Any) -> None:
    found = [field.name for field in fields(word) if getattr(word, field.name) is not None]
    if len(found) != 1:
        raise RemoteProtocolError(f"expected one word, found {', '.join(found) or 'none'}")


def said_by_client(word: ClientWord) -> list[Buffer]:
    """Return a client's word as buffers to be sent; arrays are not copied."""
    return encode(
        FromClient(
            hello=word if isinstance(word, Hello) else None,
            answer=word if isinstance(word, Answer) else None,
            failed=word if isinstance(word, Failed) else None,
            ready=word if isinstance(word, Ready) else None,
            step=word if isinstance(word, SumStep) else None,
        )
    )


def said_by_server(word: ServerWord) -> list[Buffer]:
    """Return a server's word as buffers to be sent; arrays are not copied."""
    return encode(
        FromServer(
            standing=word if isinstance(word, Standing) else None,
            assigned=word if isinstance(word, Assigned) else None,
            refusal=word if isinstance(word, Refusal) else None,
            finished=word if isinstance(word, Finished) else None,
            summing=word if isinstance(word, Summing) else None,
            step=word if isinstance(word, SumStep) else None,
        )
    )


def client_word(frame: Buffer, *, sender: str) -> ClientWord:
    """Return what a client says.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    found = decode(FromClient, frame, sender=sender)
    word = found.hello or found.answer or found.failed or found.ready or found.step
    if word is None:
        raise RemoteProtocolError(f"{sender}: an empty message")
    return word


def server_word(frame: Buffer, *, sender: str) -> ServerWord:
    """Return what the server says.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    found = decode(FromServer, frame, sender=sender)
    word = found.standing or found.assigned or found.refusal or found.finished or found.summing or found.step
    if word is None:
        raise RemoteProtocolError(f"{sender}: an empty message")
    return word


def printable(text: str) -> str:
    """Return what a peer wrote without control characters, and cut to a reasonable length."""
    return "".join(char for char in text[:REASON_CHARACTERS] if char.isprintable())


# --- assignments and answers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a run a message belongs."""

    run: str
    round: int
    attempt: int


def assigned(place: Place, broadcast: Broadcast) -> Assigned:
    """Return the message that carries a broadcast."""
    return Assigned(place.run, place.round, place.attempt, broadcast.model, pack(broadcast.extra))


def broadcast_in(word: Assigned) -> Broadcast:
    """Return what ``assigned`` took."""
    return Broadcast(word.round, word.model, unpack(word.extra))


def fingerprint(word: Assigned) -> bytes:
    """Return a hash of what has to be trained: of the round and the broadcast, whatever the attempt."""
    digest = hashlib.sha256(str(word.round).encode())
    for vector in (NamedVector("", word.model), *word.extra):
        digest.update(f"{len(vector.name.encode())} {len(vector.values)} {vector.name}".encode())
        digest.update(np.ascontiguousarray(vector.values).data)
    return digest.digest()


def answer_with(place: Place, client: ClientId, update: Update, encoded: Encoded | None) -> Answer:
    """Return the message that carries an update, its difference as a codec's message if there is one."""
    delta = update.delta if encoded is None else update.delta[:0]
    metrics = tuple(Metric(name, float(update.metrics[name])) for name in sorted(update.metrics))
    extra = pack(update.extra)
    return Answer(place.run, place.round, place.attempt, client, delta, encoded, float(update.weight), extra, metrics)


def update_in(answer: Answer, size: int, codec: Codec | None) -> Update:
    """Return the update of a client, once it is one that can be added up: ``Process.check_update`` may ask for more.

    Raises:
        RemoteProtocolError: It has another size, numbers or a weight out of bounds (``LARGEST``, ``HEAVIEST``), or does
            not travel as agreed; the message says how.
    """
    wanted = 0 if codec else size
    if len(answer.delta) != wanted or (answer.encoded is None) != (codec is None):
        way = "encoded" if codec else "as it is"
        raise RemoteProtocolError(
            f"its update has {len(answer.delta)} numbers: expected a model of {size}, sent {way}; both sides need the "
            "same model and process"
        )
    delta = answer.delta if codec is None or answer.encoded is None else codec.decode(answer.encoded, size)
    if not 1 / HEAVIEST <= answer.weight <= HEAVIEST:
        raise RemoteProtocolError(f"its update counts {answer.weight}: expected a number from 2^-40 to 2^40")
    named = len(answer.extra) + len(answer.metrics)
    if named > _MOST_NAMES or sum(len(vector.values) for vector in answer.extra) > _MOST_EXTRA:
        raise RemoteProtocolError(
            f"its update has {named} further vectors and metrics: expected at most {_MOST_NAMES}, with {_MOST_EXTRA:,} "
            "numbers in all"
        )
    extra, metrics = unpack(answer.extra), {metric.name: metric.value for metric in answer.metrics}
    if len(extra) != len(answer.extra) or len(metrics) != len(answer.metrics):
        raise RemoteProtocolError("it names two vectors or metrics of its update alike")
    update = Update(delta, answer.weight, extra, metrics)
    if bad := beyond(update):
        raise RemoteProtocolError(
            f"its update holds numbers that are not finite, or beyond 2^60, in {shown(', '.join(bad))}: its training "
            "diverged"
        )
    return update


def ready_with(place: Place, layout: Layout, summed: tuple[str, ...] = ()) -> Ready:
    """Return the message that says that an update of this layout is there, and with whom it may have been summed."""
    extra = tuple(Length(name, length) for name, length in layout.extra)
    return Ready(place.run, place.round, place.attempt, layout.size, extra, layout.metrics, summed)


def layout_in(ready: Ready, size: int) -> Layout:
    """Return the layout that a client states, once it is one of a model of ``size``.

    Raises:
        RemoteProtocolError: It is not.
    """
    layout = Layout(ready.size, tuple((each.name, each.length) for each in ready.extra), ready.metrics)
    names = [name for name, _ in layout.extra]
    if layout.size != size or len(names) + len(layout.metrics) > _MOST_NAMES:
        raise RemoteProtocolError(
            f"its update has {ready.size} numbers and {len(names) + len(layout.metrics)} further vectors and metrics: "
            f"expected a model of {size} and at most {_MOST_NAMES}; both sides need the same model and process"
        )
    sorted_once = names == sorted(set(names)) and list(layout.metrics) == sorted(set(layout.metrics))
    lengths = [length for _, length in layout.extra]
    if not sorted_once or min(lengths, default=0) < 0 or sum(lengths) > _MOST_EXTRA:
        raise RemoteProtocolError(
            f"its extra vectors and metrics are not in order, or have more than {_MOST_EXTRA:,} numbers in all"
        )
    return layout


def odd_ones(layouts: Mapping[ClientId, Hashable]) -> list[ClientId]:
    """Return the clients whose layouts are not that of the most others, so that updates cannot be added up.

    Of two halves, the one that has the first client is right.
    """
    counts = Counter(layouts.values())
    usual = max(counts, key=lambda layout: counts[layout], default=None)
    return [client for client, layout in layouts.items() if layout != usual]
