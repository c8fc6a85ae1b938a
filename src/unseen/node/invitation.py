"""An invitation to pair on one line, and the door that it opens once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

from unseen.errors import PermissionDenied, UsageError
from unseen.ids import PartyId
from unseen.transport.diagnosis import split_endpoint
from unseen.transport.tls import Authority, Identity, issue, make_authority

SECRET_BYTES = 16
MOST_ANSWERS = 5
"""How many joiners an invitation answers: each answer shows a nonce, and with it one more code to choose from."""

_PREFIX = "unseen-"
_FORMAT = 1
_FIXED = struct.Struct(f">BQ32s{SECRET_BYTES}s")
_CHECK_BYTES = 4
# An invitation is good for a day at most.
_GUEST_DAYS = 2
# Of the curve P-256 (SP 800-186, 3.2.1.3).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the inviter hands to the joiner on one line; the secret in it is good for one pairing."""

    endpoint: str
    inviter: PartyId
    joiner: PartyId | None
    """Who may join, or ``None`` for whoever holds the line."""
    root: bytes
    """SHA-256 of the inviter's root, DER."""
    expires: datetime
    secret: bytes = field(repr=False)

    def line(self) -> str:
        """Return the one line, with a checksum against bad copies."""
        content = self._content()
        return _PREFIX + base64.urlsafe_b64encode(content + _checksum(content)).rstrip(b"=").decode("ascii")

    def digest(self) -> bytes:
        """Return a hash of all that the line says."""
        return hashlib.sha256(b"unseen invitation" + self._content()).digest()

    def guest(self, now: datetime) -> Identity:
        """Return what the joiner shows at the port of a node that runs: whoever knows the secret can make it.

        It names the inviter, who is nobody's partner at its own port, so that it opens nothing but a pairing.
        """
        return issue(self.guest_root(now), self.inviter, days=_GUEST_DAYS, now=now)

    def guest_root(self, now: datetime) -> Authority:
        """Return the authority under which ``guest`` is; each side makes it with the same key, from the secret."""
        spread = hmac.new(self.secret, b"unseen pairing guest key", hashlib.sha512).digest()
        key = ec.derive_private_key(1 + int.from_bytes(spread, "big") % (_ORDER - 1), ec.SECP256R1())
        name = f"Unseen guest {self.digest().hex()[:16]}"
        return make_authority(name, days=_GUEST_DAYS, now=now, party=self.inviter, key=key)

    def _content(self) -> bytes:
        texts = (self.endpoint, self.inviter, self.joiner or "")
        fixed = _FIXED.pack(_FORMAT, int(self.expires.timestamp()), self.root, self.secret)
        return fixed + b"".join(bytes([len(text)]) + text.encode("ascii") for text in texts)

    @classmethod
    def read(cls, line: str) -> Invitation:
        """Return the invitation on a line.

        Raises:
            UsageError: It is none, or was not copied as a whole.
        """
        text = "".join(line.split())
        if not text.startswith(_PREFIX):
            raise UsageError(f"this is not an invitation: expected a line that begins with {_PREFIX}")
        encoded = text.removeprefix(_PREFIX)
        try:
            content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            content = b""
        content, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
        if len(content) <= _FIXED.size or check != _checksum(content):
            raise UsageError("the invitation is damaged, its checksum does not fit: copy the whole line again")
        return cls._parse(content)

    @classmethod
    def _parse(cls, content: bytes) -> Invitation:
        form, expires, root, secret = _FIXED.unpack_from(content)
        if form != _FORMAT:
            raise UsageError(f"the invitation has format {form}, this version knows {_FORMAT}: update the older side")
        texts, rest = [], content[_FIXED.size :]
        for _ in range(3):
            size = rest[0] if rest else 0
            texts.append(rest[1 : 1 + size].decode("ascii", "replace"))
            rest = rest[1 + size :]
        endpoint, inviter, joiner = texts
        split_endpoint(endpoint)
        when = datetime.fromtimestamp(min(expires, 1 << 36), UTC)
        found = cls(endpoint, PartyId(inviter), PartyId(joiner) if joiner else None, root, when, secret)
        if not (endpoint.isascii() and endpoint.isprintable()) or found._content() != content:
            raise UsageError("the invitation is not as an inviter writes one: ask for a new one")
        return found

    def __reduce__(self) -> NoReturn:
        raise UsageError("an invitation holds a secret and cannot be pickled")


class Door:
    """Whether an invitation is still open: it serves one joiner, for a time, and answers few. Thread-safe.

    Whoever knows the invitation knows the code of a connection as soon as it has the inviter's nonce, and can leave
    without a trace if the code does not suit it. So nonces are what is counted, when they are handed out.
    """

    def __init__(self, invitation: Invitation) -> None:
        self.invitation = invitation
        self.answered = 0
        """How many nonces were handed out."""
        self.talking = 0
        """How many of those conversations are not over."""
        self.taken = False
        """Whether the one joiner has come."""
        self._lock = threading.Lock()

    def closed(self, now: datetime) -> str | None:
        """Return why nobody is answered any more, or ``None``."""
        if self.answered >= MOST_ANSWERS and not self.taken:
            return f"the invitation has ended: it answers {MOST_ANSWERS} joiners at most, and so many came"
        return self._over(now)

    def _over(self, now: datetime) -> str | None:
        if self.taken:
            return "the invitation has been used; it works once"
        if now > self.invitation.expires:
            return f"the invitation expired at {self.invitation.expires:%Y-%m-%d %H:%M} UTC"
        return None

    def answer(self, now: datetime) -> None:
        """Count a nonce, before a joiner is shown it; ``leave`` ends the conversation that begins with it.

        Raises:
            PermissionDenied: The invitation is over, or has answered as many as it may.
        """
        with self._lock:
            reason = self.closed(now)
            if reason is None:
                self.answered += 1
                self.talking += 1
                return
        raise _denied(reason)

    def leave(self) -> None:
        """End a conversation, whatever came of it; its nonce stays counted."""
        with self._lock:
            self.talking -= 1

    def take(self, right: bool, now: datetime) -> None:
        """Let the one joiner in who knew the secret.

        Raises:
            PermissionDenied: The secret was wrong, or somebody else was first.
        """
        with self._lock:
            reason = self._over(now)
            if reason is None and right:
                self.taken = True
                return
        raise _denied(reason or "the secret is not that of the invitation")


def _denied(reason: str) -> PermissionDenied:
    return PermissionDenied(f"{reason}; make a new one with `unseen node invite`")


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"unseen invitation checksum" + content).digest()[:_CHECK_BYTES]
