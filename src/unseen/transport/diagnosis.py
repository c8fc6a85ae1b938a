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
from unseen.transport.tls import Identity, fingerprint, host_name, issued_by, names_in, parse_certificate

_TIMEOUT = 5.0
_PROTOCOL = "h2"
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


class Stage(enum.IntEnum):
    """How far a link came, in the order in which it comes up."""

    NAME = 1
    """The name of the endpoint becomes an address."""
    CONNECTION = 2
    """A TCP connection is accepted."""
    ENCRYPTION = 3
    """Both sides speak TLS 1.3."""
    THEIR_CERTIFICATE = 4
    """Theirs stands for the party that was expected."""
    OUR_CERTIFICATE = 5
    """They let ours in."""
    LINK = 6
    """They speak this protocol in this version, and their clock agrees with ours."""


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
    stage: Stage
    """Where the link ends; all earlier stages are in order."""


def diagnose(endpoint: str, identity: Identity, expected: PartyId) -> str:
    """Return a sentence that says what keeps ``identity`` from reaching ``expected``, and what to do."""
    return examine(endpoint, identity, expected).text


def examine(endpoint: str, identity: Identity, expected: PartyId) -> Finding:
    """Return what ``diagnose`` says, and whether trying again may help.

    Raises:
        UsageError: ``endpoint`` is not ``host:port``.
    """
    connection = connect(endpoint, expected)
    if isinstance(connection, Finding):
        return connection
    with connection:
        return _examine_tls(connection, endpoint, identity, expected)


def connect(endpoint: str, expected: PartyId) -> socket.socket | Finding:
    """Return a TCP connection to an endpoint, or what keeps it from coming up.

    Raises:
        UsageError: ``endpoint`` is not ``host:port``.
    """
    host, port = split_endpoint(endpoint)
    stage = Stage.CONNECTION
    try:
        return socket.create_connection((host, port), timeout=_TIMEOUT)
    except socket.gaierror:
        stage, text = Stage.NAME, f"the name {host!r} cannot be resolved; check the spelling and the DNS"
    except ConnectionRefusedError:
        text = "connection refused; is the party's process running, and is the port right?"
    except TimeoutError:
        text = (
            f"no answer within {_TIMEOUT:g} s: a firewall drops the connection, or nobody has this address; ask their "
            "network people to let this machine in"
        )
    except OSError as error:
        text = f"no TCP connection ({error}); check address, firewall and routing"
    return Finding(Cause.AWAY, f"{expected} at {endpoint}: {text}", stage)


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


def pinned(endpoint: str, identity: Identity, peer: PartyId) -> bytes | None:
    """Return the certificate that ``peer`` shows at the endpoint, PEM, if TLS and ``identity`` have no objection.

    gRPC tells a dialer nothing about the certificate of the other side. Whoever trusts this certificate alone, in
    place of the authority that issued it, knows which one it was.
    """
    try:
        with (
            socket.create_connection(split_endpoint(endpoint), timeout=_TIMEOUT) as connection,
            _secured(connection, _context(identity, peer), peer) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    pem = ssl.DER_cert_to_PEM_cert(der or b"").encode()
    return pem if identity.objection(peer, pem) is None else None


def _examine_tls(connection: socket.socket, endpoint: str, identity: Identity, expected: PartyId) -> Finding:
    place = f"{expected} at {endpoint}"
    try:
        with _secured(connection, _context(identity, expected), expected) as secured:
            return _examine_certificate(secured, place, identity, expected)
    except ssl.SSLCertVerificationError as error:
        text = _their_fault(error, endpoint, identity, expected)
        return Finding(Cause.REFUSED, f"{place}: {text}", Stage.THEIR_CERTIFICATE)
    except ssl.SSLEOFError:
        text = "the connection was cut during the TLS handshake; does it speak TLS 1.3?"
        return Finding(Cause.AWAY, f"{place}: {text}", Stage.ENCRYPTION)
    except ssl.SSLError as error:
        return _alert(error, place, identity)
    except TimeoutError:
        text = (
            f"it accepts connections and says nothing for {_TIMEOUT:g} s: a firewall or proxy between holds them, or "
            "the process there hangs; look whether it runs, and whether the port is passed on to it"
        )
        return Finding(Cause.AWAY, f"{place}: {text}", Stage.ENCRYPTION)
    except OSError as error:
        text = f"no answer to the TLS handshake ({error}); is it a TLS port?"
        return Finding(Cause.AWAY, f"{place}: {text}", Stage.ENCRYPTION)


def _examine_certificate(secured: ssl.SSLSocket, place: str, identity: Identity, expected: PartyId) -> Finding:
    pem = ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"").encode()
    objection = identity.objection(expected, pem)
    if objection is not None:
        return Finding(Cause.REFUSED, f"{place}: {objection}", Stage.THEIR_CERTIFICATE)
    if secured.selected_alpn_protocol() != _PROTOCOL:
        text = (
            "it has their certificate, and does not speak the protocol of a link (HTTP/2): a much older version, "
            "another program, or an invitation that waits there; start the party's process"
        )
        return Finding(Cause.AWAY, f"{place}: {text}", Stage.LINK)
    return _examine_answer(secured, place, identity)


def _examine_answer(secured: ssl.SSLSocket, place: str, identity: Identity) -> Finding:
    """See whether the other side stays after it has seen our certificate."""
    try:
        answer = _first_bytes(secured)
    except (ssl.SSLEOFError, ConnectionError):
        answer = b""
    if answer:
        return Finding(Cause.FINE, f"{place}: TCP, TLS and both certificates are in order", Stage.LINK)
    own = own_fault(identity)
    if own is not None:
        return Finding(Cause.REFUSED, f"{place}: {own}", Stage.OUR_CERTIFICATE)
    text = (
        f"they hung up after seeing the certificate of {identity.party}, which was issued by the authority "
        f"{fingerprint(identity.ca_pem)}: compare that with theirs, and the clocks of both sides"
    )
    return Finding(Cause.SUSPECT, f"{place}: {text}", Stage.OUR_CERTIFICATE)


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
        cause = own_fault(identity) or f"{_OUR_CERTIFICATE[reason]}; each side has to know the other's authority"
        text = f"they refused the certificate of {identity.party}: {cause}"
        return Finding(Cause.REFUSED, f"{place}: {text}", Stage.OUR_CERTIFICATE)
    if reason in _OLD_TLS:
        text = "they do not speak TLS 1.3; update their side or the proxy between"
        return Finding(Cause.REFUSED, f"{place}: {text}", Stage.ENCRYPTION)
    if reason in _NOT_TLS:
        text = "this port does not speak TLS; is it the port of a party?"
        return Finding(Cause.REFUSED, f"{place}: {text}", Stage.ENCRYPTION)
    return Finding(Cause.AWAY, f"{place}: the TLS handshake failed ({reason or error})", Stage.ENCRYPTION)


def own_fault(identity: Identity) -> str | None:
    """Return what is wrong with the certificate of this side, or ``None``."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    outdated = _outdated(certificate)
    if outdated is not None:
        return f"the certificate of {identity.party} on this side {outdated}"
    if not issued_by(certificate, identity.ca_pem):
        return f"the certificate of {identity.party} on this side is not from the authority beside it; issue it anew"
    return None


def _their_fault(error: ssl.SSLCertVerificationError, endpoint: str, identity: Identity, expected: PartyId) -> str:
    certificate = _fetch(endpoint, identity, expected)
    if certificate is None:
        return f"their certificate is not valid ({error.verify_message})"
    if error.verify_code == _WRONG_NAME:
        names = shown(", ".join(names_in(certificate))) or "nobody"
        return f"their certificate is for {names}, expected {host_name(expected)}; is it the right endpoint?"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return f"their certificate {_outdated(certificate) or 'has other dates than this clock'}"
    authority = identity.authority_of(expected)
    if not issued_by(certificate, authority):
        issuer, known = shown(certificate.issuer.rfc4514_string()), fingerprint(authority)
        if identity.trust is None:
            return f"their certificate is from another authority ({issuer}), ours is {known}; all need one authority"
        return (
            f"their certificate is from another authority ({issuer}) than the one agreed when pairing, {known}: did "
            "they make their node anew? Then strike them off and pair again"
        )
    return f"their certificate is not valid ({error.verify_message})"


def _outdated(certificate: x509.Certificate) -> str | None:
    begin, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if begin <= now <= end:
        return None
    word = "expired" if now > end else "is not valid yet"
    dates = f"it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    return f"{word}: {dates}, and the clock here says {now:%Y-%m-%d %H:%M}; renew it, or set the clock"


def _fetch(endpoint: str, identity: Identity, expected: PartyId) -> x509.Certificate | None:
    """Return the certificate that the endpoint shows, trusting nothing in it."""
    context = _context(identity, expected)
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
        return parse_certificate(der) if der else None
    except ValueError:  # OpenSSL lets pass what stricter readers refuse
        return None


def _context(identity: Identity, peer: PartyId) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([_PROTOCOL])
    try:
        context.load_verify_locations(cadata=identity.authority_of(peer).decode("ascii"))
        with in_memory(identity.certificate_pem + identity.key_pem) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UsageError(f"the identity of {identity.party} cannot be used for TLS: {error}") from error
    return context


def _secured(connection: socket.socket, context: ssl.SSLContext, peer: PartyId) -> ssl.SSLSocket:
    # Raises if the other side has hung up already, for which Python's TLS would not close its socket.
    connection.getpeername()
    return context.wrap_socket(connection, server_hostname=host_name(peer))


@contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """Yield a path to ``content``: Python's TLS takes keys from files only, and the disk is not to see them."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
