"""Certificates of a federation: an authority's, one certificate a party, the party's id pinned in its name.

All parties have one authority, or each party has its own, which can certify nobody else (``make_authority`` with a
``party``); then a ``Trust`` says which authority a partner has and what that has taken back.

A party ``bank`` is the DNS name ``bank.party.unseen.internal`` in the subject alternative name (RFC 5280, 4.2.1.6), and
nothing else in a certificate says who it is. Keys are ECDSA P-256, since TLS stacks without Ed25519 are still common.
A party makes its key itself (``request``) and the authority sees only the signing request (``certify``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from unseen.errors import UsageError
from unseen.ids import PartyId

DOMAIN = "party.unseen.internal"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
AUTHORITY_FILE = "authority.pem"

UNREADABLE = (x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
"""What reading a certificate raises besides ``ValueError``."""

# Clocks of two organisations differ; a certificate is valid a little before it was made.
_CLOCK_SKEW = timedelta(hours=1)


def host_name(party: PartyId) -> str:
    """Return the DNS name that stands for ``party`` in certificates."""
    return f"{party}.{DOMAIN}"


def party_named(names: Iterable[str]) -> PartyId | None:
    """Return the party that a certificate's DNS names stand for, or ``None`` unless it is exactly one."""
    found = list(names)
    if len(found) != 1 or not found[0].endswith(f".{DOMAIN}"):
        return None
    label = found[0].removesuffix(f".{DOMAIN}")
    return PartyId(label) if PartyId.pattern.fullmatch(label) else None


class Trust(Protocol):
    """By what a party with partners of several authorities judges them; asked anew at every handshake."""

    def authority_of(self, peer: PartyId) -> bytes:
        """Return the certificate of a partner's authority, PEM.

        Raises:
            UsageError: There is no such partner.
        """
        ...

    def objection(self, peer: PartyId, certificate: x509.Certificate) -> str | None:
        """Return why a certificate does not stand for ``peer`` (any more), or ``None`` if it does."""
        ...

    def own_list(self) -> bytes:
        """Return the revocation list that this party hands to its partners, DER, or nothing."""
        ...

    def learn(self, peer: PartyId, revoked: bytes) -> None:
        """Keep a revocation list of a partner, unless a newer one is known.

        Raises:
            RemoteProtocolError: It is not a list of the partner's authority.
        """
        ...


@dataclass(frozen=True, slots=True)
class Authority:
    """The key that signs a federation's certificates; secret."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise UsageError("an authority holds a private key and cannot be pickled")


@dataclass(frozen=True, slots=True)
class Request:
    """A party's fresh key (secret, stays here) and the signing request for it (goes to the authority)."""

    party: PartyId
    request_pem: bytes
    key_pem: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise UsageError("a request holds a private key and cannot be pickled")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a party shows to prove who it is, and by what it judges others; the key is secret.

    ``ca_pem`` is the party's own authority; without ``trust`` it is everybody's.

    Raises:
        UsageError: The certificate is not this party's, or the key is not the certificate's.
    """

    party: PartyId
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes
    trust: Trust | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        certificate = read_certificate(self.certificate_pem)
        if party_in(certificate) != self.party:
            raise UsageError(f"the certificate is not one of {self.party}: it names {names_in(certificate)}")
        if read_key(self.key_pem).public_key() != certificate.public_key():
            raise UsageError(f"the private key of {self.party} does not belong to its certificate")

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Return the identity that ``save`` put into ``folder``."""
        certificate_pem, key_pem, ca_pem = (
            _read_file(folder / name) for name in (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE)
        )
        party = party_in(read_certificate(certificate_pem))
        if party is None:
            raise UsageError(f"{folder / CERTIFICATE_FILE}: the certificate names no party of a federation")
        return cls(party, certificate_pem, key_pem, ca_pem)

    def save(self, folder: Path) -> None:
        """Write certificate, key (readable by its owner only) and authority into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CERTIFICATE_FILE).write_bytes(self.certificate_pem)
        (folder / AUTHORITY_FILE).write_bytes(self.ca_pem)
        write_secret(folder / KEY_FILE, self.key_pem)

    def authority_of(self, peer: PartyId) -> bytes:
        """Return the certificate of the authority that certifies ``peer``, PEM.

        Raises:
            UsageError: ``peer`` is not a partner.
        """
        return self.ca_pem if self.trust is None else self.trust.authority_of(peer)

    def objection(self, peer: PartyId, certificate_pem: bytes) -> str | None:
        """Return why ``peer`` must not be let in with a certificate that TLS has found in order, or ``None``."""
        if self.trust is None:
            return None
        try:
            certificate = parse_certificate(certificate_pem)
        except ValueError:
            return "its certificate cannot be read"
        return self.trust.objection(peer, certificate)

    def __reduce__(self) -> NoReturn:
        raise UsageError("an identity holds a private key and cannot be pickled")


def make_authority(
    name: str,
    *,
    days: int,
    now: datetime,
    party: PartyId | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """Return a new authority called ``name``, with this key or a fresh one.

    It can sign nothing but certificates of parties, or of one ``party``.

    What it may sign is a critical name constraint (RFC 5280, 4.2.1.10): every TLS library refuses anything else.
    """
    domain = DOMAIN if party is None else host_name(party)
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, subject, key.public_key(), days=days, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(domain)], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(_certificate_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def request(party: PartyId) -> Request:
    """Return a fresh key for ``party`` and the request to certify it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return Request(party, signed.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def certify(authority: Authority, party: PartyId, request_pem: bytes, *, days: int, now: datetime) -> bytes:
    """Return a certificate for ``party``, valid for ``days``; only the public key is taken from the request.

    Raises:
        UsageError: The request is malformed, or not signed by the key it asks for.
    """
    try:
        asked = x509.load_pem_x509_csr(request_pem)
    except ValueError as error:
        raise UsageError(f"the signing request of {party} cannot be read: {error}") from error
    public_key = asked.public_key()
    if not asked.is_signature_valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise UsageError(f"the signing request of {party} is not signed by an elliptic-curve key of its own")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    signing_key = read_key(authority.key_pem)
    issuer = read_certificate(authority.certificate_pem).subject
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(subject, issuer, public_key, days=days, now=now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(party))]), critical=False)
        .add_extension(issuer_key_id, critical=False)
    )
    return _certificate_pem(builder.sign(signing_key, hashes.SHA256()))


def issue(authority: Authority, party: PartyId, *, days: int, now: datetime) -> Identity:
    """Return a complete identity: ``request`` and ``certify`` in one process."""
    asked = request(party)
    certificate_pem = certify(authority, party, asked.request_pem, days=days, now=now)
    return Identity(party, certificate_pem, asked.key_pem, authority.certificate_pem)


def names_in(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError, *UNREADABLE):
        return []  # a certificate that cannot be read names nobody
    return names.get_values_for_type(x509.DNSName)


def party_in(certificate: x509.Certificate) -> PartyId | None:
    """Return the party that a certificate was issued for, or ``None``."""
    return party_named(names_in(certificate))


def issued_by(certificate: x509.Certificate, ca_pem: bytes) -> bool:
    """Return whether an authority's key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(read_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def fingerprint(certificate_pem: bytes) -> str:
    """Return the first 16 hexadecimal digits of a certificate's SHA-256, for people to compare."""
    return read_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()[:16]


def parse_certificate(data: bytes) -> x509.Certificate:
    """Return a certificate from a peer, PEM or DER, whose key and extensions can be read as well.

    Raises:
        ValueError: Something in it is malformed or unknown.
    """
    try:
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        found = load(data)
        found.public_key()
        _ = found.extensions
    except (TypeError, *UNREADABLE) as error:
        raise ValueError(str(error)) from error
    return found


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate in PEM, or raise ``UsageError``."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise UsageError(f"a certificate cannot be read: {error}") from error


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key in PEM, or raise ``UsageError``."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError("a private key cannot be read: expected PEM, PKCS #8, without password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"a private key is {type(key).__name__}: expected an elliptic-curve key")
    return key


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; make its certificate first") from error
