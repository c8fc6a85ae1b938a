"""Names the cause of a link that does not come up: TCP, then TLS and its version, their certificate, and ours.

gRPC only says "handshake failed", and a gRPC server that refuses a client's certificate says nothing at all: it hangs
up (TLS 1.3 lets a client finish first). Here the same steps are walked once more, one by one, with Python's own TLS.
"""

from __future__ import annotations

import enum
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from unseen.codec import shown
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.tls import Identity, fingerprint, host_name, issued_by, names_in

_TIMEOUT = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

# OpenSSL's X509_V_ERR_* numbers.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME = 9, 10, 62

# What OpenSSL calls the alerts and failures that have one clear cause.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE"}
_OUR_CERTIFICATE = {
    "TLSV1_ALERT_UNKNOWN_CA": "they do not know its authority",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "they did not get it",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired, or the clock of one side is wrong",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "they cannot judge it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "they take it for malformed or forged",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "they do not support its kind",
    "TLSV1_ALERT_ACCESS_DENIED": "they do not admit this party",
}


class Cause(enum.Enum):
    """What a finding means for the dialer."""

    FINE = "fine"
    """Nothing is wrong (any more)."""
    AWAY = "away"
    """Not there, or not yet: trying again may help."""
    SUSPECT = "suspect"
    """Looks as if they refused our certificate; a cut connection looks the same."""
    REFUSED = "refused"
    """Trying again cannot help."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Cause and remedy of a broken link."""

    cause: Cause
    text: str


def diagnose(endpoint: str, identity: Identity, expected: PartyId) -> str:
    """Return a sentence that says what keeps ``identity`` from reaching ``expected``, and what to do."""
    return examine(endpoint, identity, expected).text


def examine(endpoint: str, identity: Identity, expected: PartyId) -> Finding:
    """Return what ``diagnose`` says, and whether trying again may help.

    Raises:
        UsageError: ``endpoint`` is not ``host:port``.
    """
    host, port = split_endpoint(endpoint)
    place = f"{expected} at {endpoint}"
    try:
        connection = socket.create_connection((host, port), timeout=_TIMEOUT)
    except socket.gaierror:
        return Finding(Cause.AWAY, f"{place}: the name {host!r} cannot be resolved; check the spelling and the DNS")
    except ConnectionRefusedError:
        return Finding(
            Cause.AWAY, f"{place}: connection refused; is the party's process running, and is the port right?"
        )
    except OSError as error:
        return Finding(Cause.AWAY, f"{place}: no TCP connection ({error}); check address, firewall and routing")
    with connection:
        return _examine_tls(connection, endpoint, identity, expected)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        UsageError: It is anything else.
    """
    host, _, port = endpoint.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    well_formed = bare and (bare == host) == (":" not in bare) and "/" not in bare and not bare.isspace()
    if not well_formed or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise UsageError(f"{endpoint!r} is not an endpoint: expected host:port, for example bank.example:7443")
    return bare, int(port)


def _examine_tls(connection: socket.socket, endpoint: str, identity: Identity, expected: PartyId) -> Finding:
    place = f"{expected} at {endpoint}"
    try:
        with _context(identity).wrap_socket(connection, server_hostname=host_name(expected)) as secured:
            return _examine_answer(secured, place, identity)
    except ssl.SSLCertVerificationError as error:
        return Finding(Cause.REFUSED, f"{place}: {_their_fault(error, endpoint, identity, expected)}")
    except ssl.SSLEOFError:
        return Finding(Cause.AWAY, f"{place}: the connection was cut during the TLS handshake; does it speak TLS 1.3?")
    except ssl.SSLError as error:
        return _alert(error, place, identity)
    except OSError as error:
        return Finding(Cause.AWAY, f"{place}: no answer to the TLS handshake ({error}); is it a TLS port?")


def _examine_answer(secured: ssl.SSLSocket, place: str, identity: Identity) -> Finding:
    """See whether the other side stays after it has seen our certificate."""
    try:
        answer = _first_bytes(secured)
    except (ssl.SSLEOFError, ConnectionError):
        answer = b""
    if answer:
        return Finding(Cause.FINE, f"{place}: TCP, TLS and both certificates are in order")
    own = _own_fault(identity)
    if own is not None:
        return Finding(Cause.REFUSED, f"{place}: {own}")
    return Finding(
        Cause.SUSPECT,
        f"{place}: they hung up after seeing the certificate of {identity.party}, which was issued by the authority "
        f"{fingerprint(identity.ca_pem)}: compare that with theirs, and the clocks of both sides",
    )


def _first_bytes(secured: ssl.SSLSocket) -> bytes:
    """Return the first bytes of the other side; if possible without writing, which could lose an alert of theirs."""
    secured.settimeout(_TIMEOUT / 2)
    try:
        return secured.recv(9)
    except TimeoutError:
        secured.sendall(_PREFACE)
        return secured.recv(9)


def _alert(error: ssl.SSLError, place: str, identity: Identity) -> Finding:
    reason = error.reason or ""
    if reason in _OUR_CERTIFICATE:
        cause = _own_fault(identity) or f"{_OUR_CERTIFICATE[reason]}; both sides need the same authority"
        return Finding(Cause.REFUSED, f"{place}: they refused the certificate of {identity.party}: {cause}")
    if reason in _OLD_TLS:
        return Finding(Cause.REFUSED, f"{place}: they do not speak TLS 1.3; update their side or the proxy between")
    if reason in _NOT_TLS:
        return Finding(Cause.REFUSED, f"{place}: this port does not speak TLS; is it the port of a party?")
    return Finding(Cause.AWAY, f"{place}: the TLS handshake failed ({reason or error})")


def _own_fault(identity: Identity) -> str | None:
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    outdated = _outdated(certificate)
    if outdated is not None:
        return f"the certificate of {identity.party} on this side {outdated}"
    if not issued_by(certificate, identity.ca_pem):
        return f"the certificate of {identity.party} on this side is not from the authority beside it; issue it anew"
    return None


def _their_fault(error: ssl.SSLCertVerificationError, endpoint: str, identity: Identity, expected: PartyId) -> str:
    certificate = _fetch(endpoint, identity)
    if certificate is None:
        return f"their certificate is not valid ({error.verify_message})"
    if error.verify_code == _WRONG_NAME:
        names = shown(", ".join(names_in(certificate))) or "nobody"
        return f"their certificate is for {names}, expected {host_name(expected)}; is it the right endpoint?"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return f"their certificate {_outdated(certificate) or 'has other dates than this clock'}"
    if not issued_by(certificate, identity.ca_pem):
        issuer = shown(certificate.issuer.rfc4514_string())
        ours = fingerprint(identity.ca_pem)
        return f"their certificate is from another authority ({issuer}), ours is {ours}; all need one authority"
    return f"their certificate is not valid ({error.verify_message})"


def _outdated(certificate: x509.Certificate) -> str | None:
    begin, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if begin <= now <= end:
        return None
    word = "expired" if now > end else "is not valid yet"
    return f"{word}: it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC; renew it, or set the clock"


def _fetch(endpoint: str, identity: Identity) -> x509.Certificate | None:
    """Return the certificate that the endpoint shows, trusting nothing in it."""
    context = _context(identity)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(split_endpoint(endpoint), timeout=_TIMEOUT) as connection,
            context.wrap_socket(connection) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    try:
        return x509.load_der_x509_certificate(der) if der else None
    except ValueError:  # OpenSSL lets pass what stricter readers refuse
        return None


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=identity.ca_pem.decode("ascii"))
        with _in_memory(identity.certificate_pem + identity.key_pem) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UsageError(f"the identity of {identity.party} cannot be used for TLS: {error}") from error
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Yield a path to ``content``: Python's TLS takes keys from files only, and the disk is not to see them."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
