"""Pairing of two nodes: four messages under an invitation, and a short code that two people compare.

==========  =========  =========================================================================================
message     direction  carries
==========  =========  =========================================================================================
Commitment  J → I      joiner's name, root, certificate; SHA-256 of its nonce
Answer      I → J      inviter's name, root, nonce
Opening     J → I      joiner's nonce; proof that it knows the secret; signature by its certificate's key
Welcome     I → J      the inviter's proof
==========  =========  =========================================================================================

The messages travel in TLS 1.3, in which the inviter shows its node certificate; the joiner accepts it only under the
root whose fingerprint is in the invitation. Proofs are HMAC-SHA256 under the invitation's secret; proofs, signature and
code are about the same *transcript*: both names, roots, certificates and nonces, and the whole invitation. The joiner
is bound to its nonce before it sees the inviter's, and the inviter to its own before the joiner's is opened (Vaudenay
2005; ZRTP, RFC 6189, 4.4.1.1): nobody between can look for nonces that give two connections one code. It could still
collect nonces of the inviter until one suits it; so ``Door`` counts them, and each side goes through its messages once.

Here is no I/O: ``unseen.node.meeting`` carries the bytes. ``docs/security/pairing.md`` has the argument.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from unseen.codec import decode, encode_bytes, message, shown
from unseen.errors import HandshakeRefused, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.invitation import Door, Invitation
from unseen.transport.revocation import check_root, leaf_problem, read_leaf
from unseen.transport.tls import Identity, read_certificate, read_key

NONCE_BYTES = 32
CODE_CHARACTERS = 6
"""Of 5 bits each, read in each direction."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford: no I, L, O, U
_ALIKE = str.maketrans("OIL", "011", "- \t\r\n")


@message("node/pairing/commitment")
class Commitment:
    """What the joiner says first."""

    name: str
    root: bytes
    certificate: bytes
    nonce_hash: bytes


@message("node/pairing/answer")
class Answer:
    """What the inviter answers; its certificate is that of the TLS connection."""

    name: str
    root: bytes
    nonce: bytes


@message("node/pairing/opening")
class Opening:
    """What binds the joiner to all that was said."""

    nonce: bytes
    proof: bytes
    signature: bytes


@message("node/pairing/welcome")
class Welcome:
    """What shows the joiner that the inviter knows the secret too."""

    proof: bytes


@message("node/pairing/transcript")
class _Transcript:
    invitation: bytes
    inviter: str
    inviter_root: bytes
    inviter_certificate: bytes
    inviter_nonce: bytes
    joiner: str
    joiner_root: bytes
    joiner_certificate: bytes
    joiner_nonce: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """Who is at the other end, as far as machines can tell, and the code by which people tell the rest."""

    peer: PartyId
    root_pem: bytes
    read_out: str
    """What the person here reads to the other one."""
    hear: str
    """What the other one reads, if nobody sits between."""

    def is_heard(self, text: str) -> bool:
        """Return whether somebody typed what the other side has to read."""
        return hmac.compare_digest(plain_code(text).encode(), self.hear.encode())


def plain_code(text: str) -> str:
    """Return a code as it is compared: upper case, without hyphens, with letters that look alike made equal."""
    return text.upper().translate(_ALIKE)


def grouped(code: str) -> str:
    """Return a code as it is read to somebody: in two halves."""
    return f"{code[: CODE_CHARACTERS // 2]}-{code[CODE_CHARACTERS // 2 :]}"


class Inviter:
    """The inviter's side of one connection, good for one conversation; leaving the block ends it."""

    def __init__(self, door: Door, identity: Identity, nonce: bytes) -> None:
        self._door = door
        self._identity = identity
        self._nonce = nonce
        self._answered = False
        self._commitment: Commitment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._answered:
            self._door.leave()

    def answer(self, data: bytes, now: datetime) -> bytes:
        """Return the ``Answer`` to a ``Commitment``; the nonce in it is counted.

        Raises:
            PermissionDenied: The invitation is over, for somebody else, or has answered as many as it may.
            RemoteProtocolError: The joiner's root or certificate is not what it has to be, or it was answered before.
        """
        if self._answered:
            raise RemoteProtocolError("the joiner: a second commitment, after it has seen the nonce here")
        said = decode(Commitment, data, sender="the joiner")
        name = _name(said.name)
        allowed = self._door.invitation.joiner
        if name == self._identity.party or allowed not in (None, name):
            raise PermissionDenied(f"the invitation is not for {name}, but for {allowed or 'another organisation'}")
        _check_identity(name, said.root, said.certificate, now)
        if len(said.nonce_hash) != hashlib.sha256().digest_size:
            raise RemoteProtocolError(f"{name}: its commitment has {len(said.nonce_hash)} bytes, expected 32")
        self._door.answer(now)
        self._answered, self._commitment = True, said
        return encode_bytes(Answer(self._identity.party, _der(self._identity.ca_pem), self._nonce))

    def welcome(self, data: bytes, now: datetime) -> tuple[bytes, Found]:
        """Return the ``Welcome`` for an ``Opening``, and who was found; the invitation is used up by that.

        Raises:
            PermissionDenied: The joiner does not know the secret, or the invitation is over.
            RemoteProtocolError: The joiner is not bound to what it said before.
        """
        said, self._commitment = self._commitment, None  # one opening, right or wrong
        if said is None:
            raise RemoteProtocolError("the joiner: its opening came before its commitment, or a second time")
        opening = decode(Opening, data, sender=said.name)
        if not hmac.compare_digest(_commit(opening.nonce), said.nonce_hash) or len(opening.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"{said.name}: its nonce is not the one that it was bound to")
        own = self._identity
        transcript = _digest(
            _Transcript(
                invitation=self._door.invitation.digest(),
                inviter=own.party,
                inviter_root=_der(own.ca_pem),
                inviter_certificate=_der(own.certificate_pem),
                inviter_nonce=self._nonce,
                joiner=said.name,
                joiner_root=said.root,
                joiner_certificate=said.certificate,
                joiner_nonce=opening.nonce,
            )
        )
        secret = self._door.invitation.secret
        self._door.take(hmac.compare_digest(_proof(secret, b"joiner", transcript), opening.proof), now)
        name = _name(said.name)
        _check_signature(name, said.certificate, opening.signature, transcript)
        to_inviter, to_joiner = _codes(transcript)
        found = Found(name, _pem(said.root), read_out=to_joiner, hear=to_inviter)
        return encode_bytes(Welcome(_proof(secret, b"inviter", transcript))), found


class Joiner:
    """The joiner's side of one connection, good for one conversation."""

    def __init__(self, invitation: Invitation, identity: Identity, nonce: bytes) -> None:
        self._invitation = invitation
        self._identity = identity
        self._nonce = nonce
        self._transcript = b""
        self._root_pem = b""

    def commitment(self, now: datetime) -> bytes:
        """Return the first message.

        Raises:
            PermissionDenied: The invitation is for somebody else, or has expired.
        """
        party, invitation = self._identity.party, self._invitation
        if invitation.joiner not in (None, party) or invitation.inviter == party:
            raise PermissionDenied(f"the invitation is not for {party}, but for {invitation.joiner or 'a partner'}")
        if now > invitation.expires:
            raise PermissionDenied(
                f"the invitation expired at {invitation.expires:%Y-%m-%d %H:%M} UTC, and the clock here says "
                f"{now:%Y-%m-%d %H:%M}; ask {invitation.inviter} for a new one"
            )
        certificate, root = _der(self._identity.certificate_pem), _der(self._identity.ca_pem)
        return encode_bytes(Commitment(party, root, certificate, _commit(self._nonce)))

    def opening(self, data: bytes, shown_certificate: bytes, now: datetime) -> bytes:
        """Return the ``Opening`` to an ``Answer`` that came over TLS from whoever showed a certificate (DER).

        Raises:
            HandshakeRefused: That is not the inviter.
            RemoteProtocolError: Its root or certificate is not what it has to be, or this is its second answer.
        """
        if self._transcript:
            raise RemoteProtocolError(f"{self._invitation.inviter}: a second answer, after it has seen the nonce here")
        invitation, own = self._invitation, self._identity
        answer = decode(Answer, data, sender=invitation.inviter)
        if answer.name != invitation.inviter or hashlib.sha256(answer.root).digest() != invitation.root:
            raise HandshakeRefused(
                f"{invitation.endpoint} is not the {invitation.inviter} that made the invitation: its root is another "
                "one. Somebody may be between; ask for a new invitation, on another way"
            )
        _check_identity(invitation.inviter, answer.root, shown_certificate, now)
        if len(answer.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"{invitation.inviter}: its nonce has {len(answer.nonce)} bytes")
        self._root_pem = _pem(answer.root)
        self._transcript = _digest(
            _Transcript(
                invitation=invitation.digest(),
                inviter=invitation.inviter,
                inviter_root=answer.root,
                inviter_certificate=shown_certificate,
                inviter_nonce=answer.nonce,
                joiner=own.party,
                joiner_root=_der(own.ca_pem),
                joiner_certificate=_der(own.certificate_pem),
                joiner_nonce=self._nonce,
            )
        )
        signature = read_key(own.key_pem).sign(_signed(self._transcript), ec.ECDSA(hashes.SHA256()))
        proof = _proof(invitation.secret, b"joiner", self._transcript)
        return encode_bytes(Opening(self._nonce, proof, signature))

    def found(self, data: bytes) -> Found:
        """Return who was found, after a ``Welcome``.

        Raises:
            HandshakeRefused: The other side does not know the secret.
        """
        inviter = self._invitation.inviter
        proof = decode(Welcome, data, sender=inviter).proof
        if not hmac.compare_digest(_proof(self._invitation.secret, b"inviter", self._transcript), proof):
            raise HandshakeRefused(f"{inviter} does not know the secret of the invitation: nothing was kept")
        to_inviter, to_joiner = _codes(self._transcript)
        return Found(inviter, self._root_pem, read_out=to_inviter, hear=to_joiner)


def _name(text: str) -> PartyId:
    try:
        return PartyId(text)
    except UsageError as error:
        raise RemoteProtocolError(f"the joiner calls itself '{shown(text)}': expected {PartyId.rule}") from error


def _check_identity(party: PartyId, root_der: bytes, certificate_der: bytes, now: datetime) -> None:
    check_root(root_der, party, now=now)
    problem = leaf_problem(read_leaf(certificate_der, party), _pem(root_der), party, now=now)
    if problem is not None:
        raise RemoteProtocolError(f"{problem}; renew it with `unseen node renew` there, or set the clocks")


def _check_signature(party: PartyId, certificate_der: bytes, signature: bytes, transcript: bytes) -> None:
    key = read_leaf(certificate_der, party).public_key()
    bad = RemoteProtocolError(f"{party} does not hold the key of the certificate that it showed")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise bad
    try:
        key.verify(signature, _signed(transcript), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise bad from error


def _signed(transcript: bytes) -> bytes:
    return b"unseen pairing, the joiner holds its key" + transcript


def _commit(nonce: bytes) -> bytes:
    return hashlib.sha256(b"unseen pairing commitment" + nonce).digest()


def _digest(transcript: _Transcript) -> bytes:
    return hashlib.sha256(encode_bytes(transcript)).digest()


def _proof(secret: bytes, role: bytes, transcript: bytes) -> bytes:
    return hmac.new(secret, b"unseen pairing proof, " + role + transcript, hashlib.sha256).digest()


def _codes(transcript: bytes) -> tuple[str, str]:
    """Return what is read to the inviter, and what is read to the joiner."""
    number = int.from_bytes(hashlib.sha256(b"unseen pairing code" + transcript).digest()[:8], "big")
    letters = "".join(_ALPHABET[number >> 5 * place & 31] for place in range(2 * CODE_CHARACTERS))
    return letters[:CODE_CHARACTERS], letters[CODE_CHARACTERS:]


def _der(pem: bytes) -> bytes:
    return read_certificate(pem).public_bytes(serialization.Encoding.DER)


def _pem(der: bytes) -> bytes:
    """Return the one way to write a certificate that was read before."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
