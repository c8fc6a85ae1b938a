"""Ephemeral keys of one sum: signed by identities, agreed pairwise, used to seal shares and to expand masks.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF with SHA-256 (RFC 5869), AES-256 in GCM (NIST SP 800-38D); all from
``cryptography``. Every derived key is bound to the context of the sum, to what both ends know by then (``bound``), and
to its purpose, so that ends that were told different things get unrelated keys.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEAL_BYTES = 16
_NONCE = bytes(12)


class EphemeralKey:
    """An X25519 key for one sum; it does not print and cannot be pickled."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def draw(cls, prg: Prg) -> EphemeralKey:
        """Return the key at the beginning of a generator that serves for nothing else."""
        return cls(prg.bytes(KEY_BYTES))

    def secret(self) -> bytes:
        """Return the secret scalar's 32 bytes, to be shared."""
        return self._key.private_bytes_raw()

    def agree(self, peer: bytes, owner: str) -> bytes:
        """Return what this key and the public key of ``owner`` agree on.

        Raises:
            RemoteProtocolError: The public key is of low order (RFC 7748, section 6.1).
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise RemoteProtocolError(f"{owner}: its key is of low order: nothing can be agreed on with it") from error

    def __repr__(self) -> str:
        return "EphemeralKey(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("an ephemeral key cannot be pickled")


def derive_key(agreed: bytes, context: bytes, purpose: bytes, *bound: bytes) -> bytes:
    """Return the key of 32 bytes for one purpose, by HKDF-SHA256 with the context as its salt."""
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=framed_digest(purpose, *bound)).derive(agreed)


def seal(key: bytes, plain: bytes) -> bytes:
    """Return ``plain`` encrypted and authenticated, 16 bytes longer; a key seals one message only."""
    return AESGCM(key).encrypt(_NONCE, plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """Return what was sealed, or ``None`` if this key did not seal it."""
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        return None


def sign(identity: Ed25519PrivateKey, purpose: bytes, *parts: bytes) -> bytes:
    """Return the signature of parts for one purpose."""
    return identity.sign(purpose + framed_digest(purpose, *parts))


def is_signed(public: bytes, signature: bytes, purpose: bytes, *parts: bytes) -> bool:
    """Return whether ``sign`` made this signature with the key that belongs to ``public``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, purpose + framed_digest(purpose, *parts))
    except (InvalidSignature, ValueError):
        return False
    return True
