"""What schemes for secure aggregation offer: the values that go in and come out, the same for all of them.

Every client brings a vector of words modulo 2^b and a weight. What comes out is the exact sum modulo 2^b of the vectors
of those that stayed, the sum of their weights modulo 2^64, and who they were.

==============  ==========================================  =====================  ============================
scheme          who learns the total                        clients may drop out   what it cannot stand
==============  ==========================================  =====================  ============================
``plain``       the server, and every single vector         yes                    (**nothing is protected**)
``secagg_plus`` the server                                  less than a third      a third of them is corrupt
``rlwe``        the server                                  before the key         the server deviates
``shares``      every peer                                  no                     the whole committee colludes
``ring``        every peer                                  no                     wrong sums, if a peer lies
==============  ==========================================  =====================  ============================

Schemes with a server are two plain machines without I/O: a ``ClientRole`` answers the server's messages one by one, a
``ServerRole`` collects the clients' messages phase by phase. Who is late is decided by whoever drives them (deadlines
are the transport's): it calls ``advance`` when everybody is there or when time is up, and the protocol says whether
enough are left. Schemes without a server are dialogues.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId

Words = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

MIN_CONTRIBUTORS = 3
"""A sum of fewer vectors says too much about each of them."""
WEIGHT_MODULUS = 1 << 64
MAX_CLIENTS = 1 << 14


def quorum_of(clients: int) -> int:
    """Return ⌊2n/3⌋ + 1: two sets of so many share more than a third of n clients, one of them honest at least."""
    return 2 * clients // 3 + 1


def word_type(bits: int) -> np.dtype[Any]:
    """Return the type of words modulo 2^bits: of 16 bits if they fit, else of 32 or 64."""
    return np.dtype("<u2" if bits <= 16 else "<u4" if bits <= 32 else "<u8")


def reduce_modulo(words: Words, bits: int) -> None:
    """Reduce words modulo 2^bits, in place."""
    if bits < 8 * words.itemsize:
        np.bitwise_and(words, words.dtype.type((1 << bits) - 1), out=words)


@dataclass(frozen=True, slots=True)
class Setting:
    """One sum that is to be taken, the same at everybody who takes part.

    Raises:
        UsageError: There are fewer than three clients, one is named twice, or a size cannot be.
    """

    clients: tuple[PartyId, ...]
    """The cohort: everybody who was asked, in ascending order."""
    length: int
    """Words of every vector."""
    bits: int = 32
    """Sums are taken modulo 2^bits; 1 to 64."""
    session: bytes = b""
    """Names job, round and attempt: every attempt at a sum has a name of its own."""
    model: bytes = b""
    """Digest of what the clients got from the server, such as the model they trained; other values do not add up."""
    least: int = MIN_CONTRIBUTORS
    """A sum of fewer vectors is given up before anything is revealed; 3 at least.

    Who names ``clients`` does not choose this: it is agreed before, for the largest cohort (``quorum_of``).
    """

    def __post_init__(self) -> None:
        if list(self.clients) != sorted(set(self.clients)):
            raise UsageError("the clients of a sum are named in ascending order, each once")
        if not MIN_CONTRIBUTORS <= len(self.clients) <= MAX_CLIENTS:
            raise UsageError(
                f"a sum is taken over {MIN_CONTRIBUTORS} to {MAX_CLIENTS} clients, found {len(self.clients)}"
            )
        if not MIN_CONTRIBUTORS <= self.least <= len(self.clients):
            raise UsageError(
                f"a sum of {len(self.clients)} clients is revealed of {MIN_CONTRIBUTORS} to as many at least, found "
                f"{self.least}"
            )
        if self.length < 1 or not 1 <= self.bits <= 64:
            raise UsageError(f"vectors have words of 1 to 64 bits, one or more, found {self.length} of {self.bits}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the words."""
        return word_type(self.bits)

    @property
    def modulus_mask(self) -> int:
        """2^bits − 1."""
        return (1 << self.bits) - 1

    @property
    def quorum(self) -> int:
        """The greater of ⌊2n/3⌋ + 1 and ``least``: clients which have to stay to the end."""
        return max(quorum_of(len(self.clients)), self.least)

    @property
    def context(self) -> bytes:
        """Digest of all of the above (32 bytes)."""
        sizes = struct.pack("<4Q", len(self.clients), self.length, self.bits, self.least)
        names = [client.encode() for client in self.clients]
        return framed_digest(b"unseen/secure_aggregation/1", sizes, self.session, self.model, *names)


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What one client brings: a secret, so that it does not print."""

    words: Words = field(repr=False)
    """Shape (length,), each below 2^bits; only read."""
    weight: int = field(default=1, repr=False)
    """How much it counts, 0 ≤ weight < 2^64, for means: usually its number of examples."""

    def checked(self, setting: Setting) -> Contribution:
        """Return this contribution if it suits ``setting``.

        Raises:
            UsageError: It has another length or type, a word or the weight is too large.
        """
        if self.words.shape != (setting.length,) or self.words.dtype != setting.dtype:
            raise UsageError(
                f"expected a vector of {setting.length} words of type {setting.dtype}, "
                f"found {self.words.dtype} of shape {self.words.shape}"
            )
        if not 0 <= self.weight < WEIGHT_MODULUS:
            raise UsageError(f"a weight is a word of 64 bits, found {self.weight}")
        if setting.bits < 8 * self.words.itemsize and int(self.words.max()) > setting.modulus_mask:
            raise UsageError(f"a vector holds words of more than {setting.bits} bits: reduce them modulo 2^bits first")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Total:
    """The exact sum over the clients that stayed."""

    words: Words = field(repr=False)
    """Shape (length,), modulo 2^bits."""
    weight: int
    """Sum of their weights modulo 2^64."""
    clients: tuple[PartyId, ...]
    """Whose contributions are in it, in ascending order."""


# --- words on the wire -------------------------------------------------------------------------------------------


def to_bytes(words: Words) -> NDArray[np.uint8]:
    """Return the bytes of contiguous words; nothing is copied."""
    return words.view(np.uint8)


def from_bytes(data: NDArray[np.uint8], setting: Setting, sender: PartyId) -> Words:
    """Return the words that a peer sent; nothing is copied.

    Raises:
        RemoteProtocolError: Their number is not that of ``setting``, or one is too large.
    """
    expected = setting.length * setting.dtype.itemsize
    if data.nbytes != expected:
        raise RemoteProtocolError(f"{sender}: expected a vector of {expected} bytes, found {data.nbytes}")
    words: Words = data.view(setting.dtype)
    if setting.bits < 8 * words.itemsize and int(words.max()) > setting.modulus_mask:
        raise RemoteProtocolError(f"{sender}: a vector holds words of more than {setting.bits} bits")
    return words


def reduce_words(words: Words, setting: Setting) -> None:
    """Reduce words modulo 2^bits, in place."""
    reduce_modulo(words, setting.bits)


# --- the ports ---------------------------------------------------------------------------------------------------


class ClientRole(Protocol):
    """One client of one sum. It speaks first, then answers each message of the server, each kind once and in order."""

    @property
    def hears(self) -> type[Any] | None:
        """The kind of message it waits for; ``None`` when its part is over."""
        ...

    def begin(self) -> object:
        """Return the first message to the server."""
        ...

    def answer(self, message: object) -> object:
        """Return the answer to the server's next message.

        Raises:
            RemoteProtocolError: The server broke the rules. This client is out: it answers nothing any more.
        """
        ...


class ServerRole(Protocol):
    """The server of one sum, phase by phase: messages by client go in, messages by client come out."""

    @property
    def expects(self) -> type[Any] | None:
        """The kind of message that clients send in this phase; ``None`` when the sum is known."""
        ...

    @property
    def waiting(self) -> frozenset[PartyId]:
        """Who may still send one."""
        ...

    def accept(self, client: PartyId, message: object) -> None:
        """Take a client's message of this phase.

        Raises:
            RemoteProtocolError: It is late, a duplicate or malformed; the message names the client. Nothing has
                changed, and the others can go on: the driver may close its link.
        """
        ...

    def advance(self) -> Mapping[PartyId, object]:
        """End the phase, whoever is missing; return what to send to whom.

        Raises:
            PeerUnreachable: Too few clients are left. Nothing has been revealed; begin again with fresh keys.
            RemoteProtocolError: What the clients sent does not fit together.
        """
        ...

    def total(self) -> Total:
        """Return the sum.

        Raises:
            LocalProtocolError: It is not known yet.
        """
        ...


class PeerSum(Protocol):
    """One scheme without a server, as one of its peers runs it; ``setting.clients`` are the peers."""

    def __call__(self, me: PartyId, contribution: Contribution, setting: Setting, prg: Prg) -> Dialogue[Total]:
        """Return the total over all peers.

        Raises:
            RemoteProtocolError: A peer broke the rules, or takes another sum.
        """
        ...
