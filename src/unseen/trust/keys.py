"""Keys that sign statements: Ed25519 (RFC 8032), named by the SHA-256 of their SubjectPublicKeyInfo (RFC 7469, 2.4).

A node has two keys. That of its certificate secures connections and is ECDSA; this one signs what has to be shown to
others later. An agreement names both, so that neither stands for a party alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import StringConstraints

from unseen.data.atomic import whole_file
from unseen.errors import UsageError

SIGNING_KEY_FILE = "signing.pem"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, or a public key, in hexadecimal."""

_HEADER = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, 4)."""
_P = 2**255 - 19
_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y of points of orders 4, 1, 2 and 8: a signature under such a key says nothing about what was signed.
_WEAK = frozenset({0, 1, _P - 1, _EIGHT, _P - _EIGHT})


class SigningKey:
    """A node's key for statements; secret."""

    __slots__ = ("_key", "id", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()
        self.id = key_id(self.public)

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a fresh key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, folder: Path) -> SigningKey:
        """Return the key that ``save`` put into ``folder``.

        Raises:
            UsageError: It is not there, not an Ed25519 key, or others may read it.
        """
        path = folder / SIGNING_KEY_FILE
        try:
            if path.stat().st_mode & 0o077:
                raise UsageError(f"{path} holds a private key, and others may read it: chmod 600 {path}")
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}; make it with `unseen agreement key`") from error
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is no private key: expected PEM, PKCS #8, without password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{path} holds a {type(key).__name__}: expected an Ed25519 key")
        return cls(key)

    def save(self, folder: Path) -> None:
        """Write the key, readable by its owner only, into ``folder``.

        Raises:
            UsageError: There is one already: agreements name it.
        """
        path = folder / SIGNING_KEY_FILE
        if path.exists():
            raise UsageError(f"{path} is there already, and agreements may name it: move it away to make another")
        with whole_file(path) as file:
            file.write(
                self._key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature; the same data give the same ones."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey({self.id[:16]}…)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a signing key is secret and cannot be pickled")


def key_id(public: str) -> str:
    """Return the name of a public key: SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(_HEADER + bytes.fromhex(public)).hexdigest()


def is_sound(public: str) -> bool:
    """Return whether 32 bytes are neither a second spelling of a point nor one of the few points of small order.

    Whether there is such a point at all, a signature shows.
    """
    y = int.from_bytes(bytes.fromhex(public), "little") & ((1 << 255) - 1)
    return y < _P and y not in _WEAK


def is_signed(public: str, signature: bytes, data: bytes) -> bool:
    """Return whether ``signature`` is one of ``data`` by the key."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def certificate_fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo: it stays when the certificate is renewed.

    Raises:
        UsageError: It is no certificate.
    """
    try:
        key = x509.load_pem_x509_certificate(pem).public_key()
    except ValueError as error:
        raise UsageError(f"a certificate cannot be read: {error}") from error
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()
