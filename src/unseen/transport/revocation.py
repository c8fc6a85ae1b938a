"""An organisation's own authority: what its root has to look like, and the list of certificates that it took back.

The list is an X.509 CRL (RFC 5280, section 5), signed by the root. Its number only grows, so that an older list cannot
undo a newer one. A certificate that has run out need not be on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from unseen.codec import shown
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.transport.tls import (
    UNREADABLE,
    Authority,
    host_name,
    issued_by,
    parse_certificate,
    party_in,
    read_certificate,
    read_key,
)

LEAF_DAYS = 90
"""For how long a node's certificate is valid at most."""
CERTIFICATE_BYTES = 4096
LIST_BYTES = 1 << 16
# Of a curve; cryptography reads curves of 163 bits as well.
_LEAST_BITS = 256
# How much longer than LEAF_DAYS a certificate may be valid: its beginning lies in the past, for clocks that differ.
_SLACK = timedelta(hours=2)
# A list does not run out before the certificates on it.
_LIST_DAYS = 2 * LEAF_DAYS


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What an authority took back, by serial number, and when."""

    number: int
    revoked: Mapping[int, datetime]


def make_list(authority: Authority, number: int, revoked: Mapping[int, datetime], *, now: datetime) -> bytes:
    """Return the signed list of ``revoked`` serial numbers, DER."""
    key = read_key(authority.key_pem)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(read_certificate(authority.certificate_pem).subject)
        .last_update(now)
        .next_update(now + timedelta(days=_LIST_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial, when in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_list(der: bytes, root_pem: bytes, *, sender: str) -> RevocationList:
    """Return what is on a list that was signed by a root.

    Raises:
        RemoteProtocolError: It is malformed, or not signed by that root.
    """
    root = read_certificate(root_pem)
    key = root.public_key()
    bad = RemoteProtocolError(f"{sender}: its revocation list is malformed, or not signed by its root; it was ignored")
    if len(der) > LIST_BYTES or not isinstance(key, ec.EllipticCurvePublicKey):
        raise bad
    try:
        found = x509.load_der_x509_crl(der)
        if found.issuer != root.subject or not found.is_signature_valid(key):
            raise bad
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return RevocationList(number, {entry.serial_number: entry.revocation_date_utc for entry in found})
    except (ValueError, TypeError, x509.ExtensionNotFound, *UNREADABLE) as error:
        raise bad from error


def check_root(root_der: bytes, party: PartyId, *, now: datetime) -> x509.Certificate:
    """Return the root of an organisation, which can certify ``party`` and nobody else.

    Raises:
        RemoteProtocolError: It is anything else; the message says what.
    """
    root = _read(root_der, f"the root of {party}")
    problem = _root_problem(root, party, now)
    if problem is not None:
        raise RemoteProtocolError(f"the root of {party} {problem}; make the node anew with `unseen node init`")
    return root


def leaf_problem(leaf: x509.Certificate, root_pem: bytes, party: PartyId, *, now: datetime) -> str | None:
    """Return what keeps a certificate from being one of ``party`` under its root at this time, or ``None``."""
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not issued_by(leaf, root_pem):
        return f"the certificate of {party} is not from the root that was agreed when pairing"
    if party_in(leaf) != party or not _is_strong(leaf):
        return f"the certificate is not one of {party}"
    if not begin <= now <= end:
        word = "has expired" if now > end else "is not valid yet"
        return f"the certificate of {party} {word}: it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    if end - begin > timedelta(days=LEAF_DAYS) + _SLACK:
        return f"the certificate of {party} is valid for {(end - begin).days} days, allowed are {LEAF_DAYS}"
    return None


def read_leaf(leaf_der: bytes, party: PartyId) -> x509.Certificate:
    """Return a node's certificate as it came from a peer.

    Raises:
        RemoteProtocolError: It cannot be read.
    """
    return _read(leaf_der, f"the certificate of {party}")


def _read(der: bytes, what: str) -> x509.Certificate:
    if len(der) > CERTIFICATE_BYTES:
        raise RemoteProtocolError(f"{what} has {len(der)} bytes, allowed are {CERTIFICATE_BYTES}")
    try:
        return parse_certificate(der)
    except ValueError as error:
        raise RemoteProtocolError(f"{what} cannot be read: {shown(str(error))}") from error


def _is_strong(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= _LEAST_BITS


def _root_problem(root: x509.Certificate, party: PartyId, now: datetime) -> str | None:
    try:
        basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
        names = root.extensions.get_extension_for_class(x509.NameConstraints)
        usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return "is not a root of a node: extensions are missing"
    if not basic.critical or not basic.value.ca or basic.value.path_length != 0 or not usage.value.key_cert_sign:
        return "is not a root of a node: it may sign too much or nothing"
    allowed = [x509.DNSName(host_name(party))]
    if not names.critical or names.value.permitted_subtrees != allowed or names.value.excluded_subtrees:
        return f"may certify others than {party}"
    if not _is_strong(root) or not issued_by(root, root.public_bytes(serialization.Encoding.PEM)):
        return f"is not signed by an elliptic-curve key of its own, of {_LEAST_BITS} bits or more"
    if not root.not_valid_before_utc <= now <= root.not_valid_after_utc:
        return "has expired, or is not valid yet (is a clock wrong?)"
    return None
