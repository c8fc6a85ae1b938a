"""An organisation's identity provider, as OpenID Connect Core 1.0 describes it: authorization code flow with PKCE.

The node reaches what is configured, the issuer's discovery document, and the addresses that this document names, over
HTTPS (over HTTP on the node's own machine only); no redirect is followed, answers are bounded in size and time. An ID
token is believed if its signature is of a key that the provider publishes, by an algorithm of the list below, and if
issuer, audience, times and nonce are right (section 3.1.3.7). The provider's client secret is in a file and in memory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unseen.clock import Clock
from unseen.codec import read_json, shown
from unseen.errors import DeadlineExceeded, PeerUnreachable, PermissionDenied, RemoteProtocolError

_log = logging.getLogger(__name__)

ALGORITHMS: Mapping[str, str] = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
"""Signatures that count, and the kind of key each takes: none that is shared, and none that is missing."""
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_BYTES = 1 << 18
_SECONDS = 5.0
"""Until a connection stands, and between two pieces of an answer."""
_WHOLE_SECONDS = 10.0
_FRESH = timedelta(hours=1)
"""How long a discovery document holds."""
_LEEWAY = timedelta(minutes=1)
_AT_ONCE = 4
_LEAST_RSA_BITS = 2048


class OidcConfig(BaseModel):
    """What ``oidc`` in ``node.yaml`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    issuer: str
    """Exactly as the provider's discovery document has it."""
    client_id: str = Field(min_length=1, max_length=255)
    url: str
    """Where browsers reach this node, without a path; the provider sends them to ``CALLBACK`` there, nowhere else."""
    client_secret_file: Path | None = None
    """Readable for its owner only; relative to the folder. Without, the node is a public client, with PKCE alone."""
    scopes: tuple[str, ...] = ("openid",)
    authority: Path | None = None
    """PEM file with the certificate behind the provider's HTTPS, if the system does not know it."""

    @field_validator("issuer", "url")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if not _is_safe(address, here=True) or urlsplit(address).query:
            raise ValueError("expected https://HOST, or http:// on this machine, without a query")
        return address

    @field_validator("url")
    @classmethod
    def _has_no_path(cls, url: str) -> str:
        if urlsplit(url).path.strip("/"):
            raise ValueError("expected https://HOST:PORT without a path")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _asks_who_it_is(self) -> OidcConfig:
        if "openid" not in self.scopes:
            raise ValueError("scopes: expected openid among them")
        return self


@dataclass(frozen=True, slots=True)
class Attempt:
    """What binds one sign-in together: secrets but for the state, which passes through the browser."""

    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    """Of PKCE (RFC 7636): whoever sees the code cannot use it."""

    @property
    def challenge(self) -> str:
        """The verifier's SHA-256, as PKCE's method S256 has it."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


class NotBelieved(PermissionDenied):
    """What came back from the provider proves nobody's identity."""


@dataclass(frozen=True, slots=True)
class _Found:
    authorize: str
    token: str
    keys: str
    by_post: bool
    """Whether the provider takes the client's secret in the body only."""
    at: datetime


class Provider:
    """The identity provider of an organisation.

    Args:
        config: Where it is, and as which client it knows this node.
        secret: The client's, if it has one.
        callback: The path at which this node takes people back.
        clock: What time it is.
        authority: File with the certificate behind its HTTPS, if the system does not know it.
        transport: How it is reached, if not over the network.
    """

    def __init__(
        self,
        config: OidcConfig,
        secret: str | None,
        callback: str,
        clock: Clock,
        *,
        authority: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._config, self._secret, self._clock = config, secret, clock
        self._callback = config.url + callback
        self._http = httpx2.Client(
            timeout=_SECONDS,
            verify=str(authority) if authority else True,
            follow_redirects=False,
            trust_env=not _is_here(config.issuer),
            transport=transport,
        )
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._found: _Found | None = None

    def __repr__(self) -> str:
        return f"Provider({self.issuer!r})"

    @property
    def issuer(self) -> str:
        """Its name."""
        return self._config.issuer

    def close(self) -> None:
        """Give connections back."""
        self._http.close()

    def address(self, attempt: Attempt) -> str:
        """Return where somebody signs in.

        Raises:
            TransportError: The provider cannot be reached.
            RemoteProtocolError: It does not answer as a provider does.
        """
        asked = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": self._callback,
            "scope": " ".join(self._config.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        place = self._discovered().authorize
        return f"{place}{'&' if urlsplit(place).query else '?'}{urlencode(asked)}"

    def subject(self, attempt: Attempt, code: str) -> str:
        """Return who signed in, as the provider names them.

        Raises:
            NotBelieved: The code or the token is not good.
            TransportError: The provider cannot be reached.
            RemoteProtocolError: It does not answer as a provider does.
        """
        found = self._discovered()
        answer = self._fetch("POST", found.token, **self._request(found, attempt, code))
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise RemoteProtocolError(f"{self.issuer}: its answer holds no ID token")
        return self._believed(token, self._fetch("GET", found.keys), attempt.nonce)

    # --- the ID token ------------------------------------------------------------------------------------------------

    def _believed(self, token: str, keys: Mapping[str, object], nonce: str) -> str:
        try:
            key = _key_for(jwt.get_unverified_header(token), keys)
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._config.client_id,
                issuer=self.issuer,
                # Times are compared below, by the node's own clock.
                options={
                    "require": ["iss", "aud", "sub", "exp", "iat", "nonce"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise NotBelieved(f"the ID token of {self.issuer} is not good: {shown(str(error), limit=200)}") from error
        if objection := self._objection(claims, nonce):
            raise NotBelieved(f"the ID token of {self.issuer} is not good: {objection}")
        return str(claims["sub"])

    def _objection(self, claims: Mapping[str, object], nonce: str) -> str:
        now = self._clock.now().timestamp()
        leeway = _LEEWAY.total_seconds()
        if not _moment(claims["exp"]) > now - leeway:
            return "it has expired"
        if not all(_moment(claims.get(name, now)) <= now + leeway for name in ("iat", "nbf")):
            return "it is of a time to come: compare the clocks"
        said = claims["nonce"]
        if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), nonce.encode()):
            return "it is the answer to another sign-in"
        audience, party = claims["aud"], claims.get("azp")
        if party != self._config.client_id and (party is not None or audience not in _only(self._config.client_id)):
            return "it was made for others as well"
        return "" if is_subject(claims["sub"]) else "it names nobody"

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _request(self, found: _Found, attempt: Attempt, code: str) -> dict[str, object]:
        body = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": attempt.verifier,
        }
        client, secret = self._config.client_id, self._secret
        if secret is None:
            return {"data": {**body, "client_id": client}}
        if found.by_post:
            return {"data": {**body, "client_id": client, "client_secret": secret}}
        return {"data": body, "auth": (quote_plus(client), quote_plus(secret))}  # RFC 6749, section 2.3.1

    def _discovered(self) -> _Found:
        now, found = self._clock.now(), self._found
        if found is None or not found.at <= now < found.at + _FRESH:
            found = self._found = self._read(self._fetch("GET", _discovery(self.issuer)), now)
        return found

    def _read(self, document: Mapping[str, object], now: datetime) -> _Found:
        if document.get("issuer") != self.issuer:
            raise RemoteProtocolError(
                f"{self.issuer}: its discovery document is of {shown(str(document.get('issuer')))}: write the issuer "
                "as the provider does, to the last slash"
            )
        return _Found(
            authorize=self._place(document.get("authorization_endpoint")),
            token=self._place(document.get("token_endpoint")),
            keys=self._place(document.get("jwks_uri")),
            by_post=_takes_secrets_by_post(document.get("token_endpoint_auth_methods_supported")),
            at=now,
        )

    def _place(self, address: object) -> str:
        if not isinstance(address, str) or not _is_safe(address, here=_is_here(self.issuer)):
            raise RemoteProtocolError(f"{self.issuer}: its discovery document lacks an address, or has one without TLS")
        return address

    def _fetch(self, method: str, url: str, **more: object) -> Mapping[str, object]:
        with self._turn(), self._reaching():
            status, body = self._exchange(method, url, **more)
        if 400 <= status < 500 and method == "POST":
            _log.warning("%s refused a code: %s", self.issuer, shown(body[:200].decode("utf-8", "replace")))
            raise NotBelieved(f"{self.issuer} does not know this sign-in, or not any more: begin again")
        try:
            answer = read_json(body)
        except ValueError:
            answer = None
        if status != 200 or not isinstance(answer, dict):
            raise RemoteProtocolError(f"{self.issuer}: answered {status}, and not as a provider does")
        return answer

    def _exchange(self, method: str, url: str, **more: object) -> tuple[int, bytes]:
        until, body = self._clock.monotonic() + _WHOLE_SECONDS, bytearray()
        # Plain: a packed answer could be any size.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        with self._http.stream(method, url, headers=headers, **more) as answer:  # type: ignore[arg-type]  # as above
            for piece in answer.iter_raw():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise RemoteProtocolError(f"{self.issuer}: an answer has more than {_MOST_BYTES} bytes")
                if self._clock.monotonic() > until:
                    raise DeadlineExceeded(f"the identity provider {self.issuer} does not come to an end")
        return answer.status_code, bytes(body)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise DeadlineExceeded("too many sign in at this moment: try again in some seconds")
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the identity provider {self.issuer} did not answer in time") from error
        except httpx2.HTTPError as error:
            raise PeerUnreachable(f"the identity provider {self.issuer} cannot be reached: {error}") from error


def is_subject(subject: object) -> bool:
    """Return whether something may be what a provider calls somebody."""
    return isinstance(subject, str) and 0 < len(subject) <= 255 and subject.isprintable()


def _takes_secrets_by_post(methods: object) -> bool:
    return isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods


def _discovery(issuer: str) -> str:
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def _key_for(header: Mapping[str, object], keys: Mapping[str, object]) -> jwt.PyJWK:
    """Return the one published key that may have signed; the header chooses among those, and brings none."""
    algorithm, known = header.get("alg"), keys.get("keys")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"it is signed by {algorithm}, expected one of {', '.join(ALGORITHMS)}")
    fitting = [key for key in known if _fits(key, algorithm, header.get("kid"))] if isinstance(known, list) else []
    if len(fitting) != 1:
        raise ValueError(f"{len(fitting)} of the provider's keys may have signed it, expected one")
    key = jwt.PyJWK(fitting[0], algorithm=algorithm)
    if not _is_strong(key.key):
        raise ValueError("the key is private, of another curve, or too short")
    return key


def _fits(key: object, algorithm: str, name: object) -> bool:
    return (
        isinstance(key, dict)
        and key.get("kty") == ALGORITHMS[algorithm]
        and key.get("use") in (None, "sig")
        and key.get("alg") in (None, algorithm)
        and (name is None or key.get("kid") == name)
    )


def _is_strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _LEAST_RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def _moment(value: object) -> float:
    """Return seconds since 1970, and what compares as false with everything if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _only(client: str) -> tuple[object, ...]:
    return (client, [client])


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in _HERE


def _is_safe(url: str, *, here: bool) -> bool:
    """Return whether a URL is one of HTTPS; of HTTP only on this machine, if ``here`` lets it."""
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and here and parts.hostname in _HERE)
    return safe and port_is_sound and bool(parts.hostname) and parts.username is None and not parts.fragment
