"""An envelope: the bytes of one statement, what kind of statement they are, and signatures of one or more parties.

What is signed is DSSE's encoding of type and payload (Dead Simple Signing Envelope, protocol 1.0.0,
https://github.com/secure-systems-lab/dsse), so that a grant never passes for a receipt. There is no algorithm to
choose: signatures are Ed25519. The signed bytes are the bytes that are parsed, and only the one spelling of a statement
is taken: JSON with sorted keys and without spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from unseen.codec import decode, encode_bytes, message, shown
from unseen.errors import RemoteProtocolError, UnseenError, UsageError
from unseen.flow.spec import canonical_json
from unseen.trust.keys import SigningKey, is_signed, key_id

MAX_PAYLOAD = 1 << 18
NOTHING = "0" * 64
"""Stands where a first item would name the one before it."""


class Part(BaseModel):
    """Data of the kernel: immutable, strict about types, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def payload(self) -> bytes:
        """Return the one spelling."""
        return canonical_json(self.model_dump(mode="json")).encode()


class Statement(Part):
    """Something that parties sign."""

    kind: ClassVar[str]
    """What is signed together with it; ends in the version of its fields."""

    @property
    def digest(self) -> str:
        """SHA-256 of what is signed."""
        return hashlib.sha256(preauthentication(self.kind, self.payload())).hexdigest()


S = TypeVar("S", bound=Statement)


@message("trust/signature", version=1)
class Signature:
    """Who signed (a key's name) and the 64 bytes."""

    key: str
    value: bytes


@message("trust/envelope", version=1)
class Envelope:
    """A statement with its signatures, not yet verified."""

    kind: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of what is signed; the same whoever has signed so far."""
        return hashlib.sha256(preauthentication(self.kind, self.payload)).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the frame of the envelope."""
        return encode_bytes(self)


def preauthentication(kind: str, payload: bytes) -> bytes:
    """Return DSSE's PAE of type and payload."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def seal(statement: Statement, *keys: SigningKey) -> Envelope:
    """Return ``statement`` in an envelope with the signatures of ``keys``."""
    envelope = Envelope(statement.kind, statement.payload(), ())
    for key in keys:
        envelope = countersigned(envelope, key)
    return envelope


def countersigned(envelope: Envelope, key: SigningKey) -> Envelope:
    """Return the envelope with one more signature; what it says must have been read before.

    Raises:
        UsageError: The key has signed it.
    """
    if any(signature.key == key.id for signature in envelope.signatures):
        raise UsageError(f"key {key.id[:16]}… has signed this {envelope.kind}")
    value = key.sign(preauthentication(envelope.kind, envelope.payload))
    return Envelope(envelope.kind, envelope.payload, (*envelope.signatures, Signature(key.id, value)))


def read_envelope(frame: bytes, *, sender: str) -> Envelope:
    """Return the envelope in a frame, its signatures not yet verified.

    Raises:
        RemoteProtocolError: It is none, or longer than any statement is.
    """
    if len(frame) > 2 * MAX_PAYLOAD:
        raise RemoteProtocolError(f"{sender}: an envelope has {len(frame)} bytes, expected {2 * MAX_PAYLOAD} at most")
    return decode(Envelope, frame, sender=sender)


def read_statement(envelope: Envelope, kind: type[S], *, sender: str) -> S:
    """Return what an envelope says, **whoever signed it**; ``open_envelope`` is what to act upon.

    Raises:
        RemoteProtocolError: It is another kind of statement, or not in its one spelling.
    """
    if envelope.kind != kind.kind:
        raise RemoteProtocolError(f"{sender}: expected {kind.kind}, found {shown(envelope.kind)}")
    if len(envelope.payload) > MAX_PAYLOAD:
        raise RemoteProtocolError(f"{sender}: {kind.kind} has more than {MAX_PAYLOAD} bytes")
    try:
        statement = kind.model_validate_json(envelope.payload)
        spelling = statement.payload()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RemoteProtocolError(f"{sender}: not a {kind.kind}: {shown(place)}: {shown(first['msg'])}") from error
    except (UnseenError, ValueError) as error:
        raise RemoteProtocolError(f"{sender}: not a {kind.kind}: {shown(str(error))}") from error
    if spelling != envelope.payload:
        raise RemoteProtocolError(f"{sender}: {kind.kind} is not spelt as it has to be: sorted keys, no spaces")
    return statement


def open_envelope(envelope: Envelope, kind: type[S], signers: Iterable[str], *, sender: str) -> S:
    """Return what an envelope says if each of ``signers`` (public keys) has signed it, once, and nobody else has.

    Raises:
        RemoteProtocolError: Anything else.
    """
    wanted = {key_id(public): public for public in signers}
    if not wanted:
        raise RemoteProtocolError(f"{sender}: nobody is entitled to sign this {shown(envelope.kind)}")
    statement = read_statement(envelope, kind, sender=sender)
    _check_signers(envelope, wanted, sender)
    signed = preauthentication(envelope.kind, envelope.payload)
    for signature in envelope.signatures:
        if not is_signed(wanted[signature.key], signature.value, signed):
            raise RemoteProtocolError(f"{sender}: the signature of {signature.key[:16]}… on {kind.kind} is wrong")
    return statement


def _check_signers(envelope: Envelope, wanted: Mapping[str, str], sender: str) -> None:
    found = [signature.key for signature in envelope.signatures]
    if len(set(found)) < len(found):
        raise RemoteProtocolError(f"{sender}: somebody signed {envelope.kind} twice")
    if strangers := set(found) - set(wanted):
        raise RemoteProtocolError(f"{sender}: {envelope.kind} is signed by unknown keys: {shown(sorted(strangers)[0])}")
    if missing := set(wanted) - set(found):
        names = ", ".join(f"{name[:16]}…" for name in sorted(missing))
        raise RemoteProtocolError(f"{sender}: {envelope.kind} lacks the signature of {names}")
