"""What a node believes of an identity provider: good tokens of three kinds, and nothing that is forged or misplaced."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError
from tests.node.organisations import BANK, Clock

from unseen.clock import SystemClock
from unseen.errors import DeadlineExceeded, PeerUnreachable, RemoteProtocolError, UnseenError, UsageError
from unseen.node.folder import Node
from unseen.node.oidc import Attempt, NotBelieved, OidcConfig, Provider
from unseen.node.start import provider_of

ISSUER, CLIENT, SECRET = "https://idp.example/realm", "unseen & node", "a secret/of the client"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ATTEMPT = Attempt("state", "nonce", "verifier" * 8)
RSA, STRANGE = (rsa.generate_private_key(65537, 2048) for _ in range(2))
SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that is why
EC, OTHER_CURVE = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def published(key: object, name: str, **more: object) -> dict[str, object]:
    """The JWK of a key."""
    kind = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    known = next((found for private, found in kind.items() if isinstance(key, private)), OKPAlgorithm)
    return {**known.to_jwk(key.public_key(), as_dict=True), "kid": name, **more}


KEYS = [published(RSA, "rsa", use="sig", alg="RS256"), published(EC, "ec"), published(ED, "ed")]


def claims(**changes: object) -> dict[str, object]:
    now = int(NOW.timestamp())
    said = {"iss": ISSUER, "aud": CLIENT, "sub": "ann", "iat": now, "exp": now + 300, "nonce": "nonce", **changes}
    return {name: value for name, value in said.items() if value is not None}


def signed(key: object = RSA, algorithm: str = "RS256", name: str | None = "rsa", **changes: object) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": name} if name else None)


def streamed(answer: httpx2.Response) -> httpx2.Response:
    """The same, as it comes over a network."""
    return httpx2.Response(answer.status_code, headers=answer.headers, content=iter([answer.read()]))


@dataclass
class Idp:
    """A provider that answers as it is told, and remembers what it was asked."""

    token: object = field(default_factory=signed)
    keys: object = field(default_factory=lambda: {"keys": KEYS})
    changes: dict[str, object] = field(default_factory=dict)
    asked: list[httpx2.Request] = field(default_factory=list)
    answer: Callable[[httpx2.Request], httpx2.Response] | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        if self.answer is not None:
            return self.answer(request)
        found = {
            "/realm/.well-known/openid-configuration": {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": "https://keys.example/jwks",
                **self.changes,
            },
            "/realm/token": {"id_token": self.token, "access_token": "x"},
            "/jwks": self.keys,
        }
        return streamed(httpx2.Response(200, json=found[request.url.path]))

    def provider(self, *, clock: Clock | None = None, secret: str | None = SECRET) -> Provider:
        config = OidcConfig(issuer=ISSUER, client_id=CLIENT, url="https://node.bank.example:8700/")
        return Provider(config, secret, "/back", clock or Clock(NOW), transport=httpx2.MockTransport(self))


@pytest.mark.parametrize(
    ("key", "algorithm", "name"),
    [(RSA, "RS256", "rsa"), (RSA, "RS256", None), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")],
)
def test_tokens_of_each_kind_are_believed(key, algorithm, name):
    idp = Idp(signed(key, algorithm, name, aud=[CLIENT], azp=CLIENT))
    assert idp.provider().subject(ATTEMPT, "code") == "ann"


def test_the_code_goes_to_the_providers_address_with_the_verifier_and_the_clients_secret_apart():
    idp = Idp()
    provider = idp.provider()
    address = urlsplit(provider.address(ATTEMPT))
    asked = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{ISSUER}/authorize"
    assert asked["tenant"] == "1"
    assert asked["redirect_uri"] == "https://node.bank.example:8700/back"
    digest = hashlib.sha256(ATTEMPT.verifier.encode()).digest()
    assert base64.urlsafe_b64decode(asked["code_challenge"] + "=") == digest
    assert provider.subject(ATTEMPT, "c/1") == "ann"
    (token,) = [request for request in idp.asked if request.method == "POST"]
    sent = {name: values[0] for name, values in parse_qs(token.content.decode()).items()}
    assert (sent["code"], sent["code_verifier"], sent["redirect_uri"]) == (
        "c/1",
        ATTEMPT.verifier,
        asked["redirect_uri"],
    )
    user, _, password = base64.b64decode(token.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    assert (user, password) == ("unseen+%26+node", "a+secret%2Fof+the+client")
    assert "client_secret" not in sent
    assert [str(request.url) for request in idp.asked].count(f"{ISSUER}/.well-known/openid-configuration") == 1
    for secret in (SECRET, ATTEMPT.verifier, ATTEMPT.nonce):
        assert secret not in f"{provider!r} {ATTEMPT!r}"


def test_a_provider_that_wants_the_secret_in_the_body_has_it_there_and_a_public_client_has_none():
    for secret, methods in ((SECRET, ["client_secret_post"]), (None, ["none"])):
        idp = Idp(changes={"token_endpoint_auth_methods_supported": methods})
        assert idp.provider(secret=secret).subject(ATTEMPT, "code") == "ann"
        (token,) = [request for request in idp.asked if request.method == "POST"]
        assert "authorization" not in token.headers
        sent = parse_qs(token.content.decode())
        assert (sent["client_id"], sent.get("client_secret")) == ([CLIENT], [secret] if secret else None)


# --- what is not believed


def packed(part: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


def confused() -> str:
    """Signed by HMAC with the provider's public key as the secret, which the library refuses to do."""
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    said = b".".join((packed({"alg": "HS256", "kid": "rsa"}), packed(claims())))
    return (said + b"." + base64.urlsafe_b64encode(hmac.new(public, said, "sha256").digest()).rstrip(b"=")).decode()


def short() -> str:
    """Signed as it has to be, by a key that is too short, with which the library warns."""
    said = b".".join((packed({"alg": "RS256", "kid": "rsa"}), packed(claims())))
    mac = SHORT.sign(said, padding.PKCS1v15(), hashes.SHA256())
    return (said + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def edited() -> str:
    head, _, mac = signed().split(".")
    return ".".join((head, packed(claims(sub="root")).decode(), mac))


LONG_AGO = int((NOW - timedelta(minutes=10)).timestamp())
LATER = int((NOW + timedelta(minutes=10)).timestamp())
FORGED = {
    "another issuer": (signed(iss="https://evil.example"), "issuer"),
    "an issuer but for a slash": (signed(iss=f"{ISSUER}/"), "issuer"),
    "another audience": (signed(aud="other"), "[Aa]udience"),
    "others as well": (signed(aud=[CLIENT, "other"]), "others as well"),
    "to another party": (signed(azp="other"), "others as well"),
    "another nonce": (signed(nonce="other"), "another sign-in"),
    "a nonce that is no text": (signed(nonce=7), "another sign-in"),
    "a nonce of half a character": (signed(nonce="\ud800"), "another sign-in"),
    "expired": (signed(exp=LONG_AGO), "expired"),
    "a time that is none": (signed(exp=True), "expired"),
    "a time to come": (signed(iat=LATER, exp=LATER + 300), "to come"),
    "not valid yet": (signed(nbf=LATER), "to come"),
    "no signature": (jwt.encode(claims(), None, "none", headers={"kid": "rsa"}), "signed by none"),
    "HMAC by the public key": (confused(), "signed by HS256"),
    "another algorithm": (signed(RSA, "RS512"), "signed by RS512"),
    "another key": (signed(STRANGE), "[Ss]ignature"),
    "another claim": (edited(), "[Ss]ignature"),
    "a key that is not published": (signed(STRANGE, name="strange"), "0 of the provider's keys"),
    "a key of its own": (
        jwt.encode(claims(), STRANGE, "RS256", headers={"jwk": published(STRANGE, "rsa"), "kid": "rsa"}),
        "[Ss]ignature",
    ),
    "another kind of key": (signed(EC, "ES256", "rsa"), "0 of the provider's keys"),
    "an empty subject": (signed(sub=""), "names nobody"),
    "a long subject": (signed(sub="a" * 256), "names nobody"),
    "control characters": (signed(sub="ann\x1b[2J"), "names nobody"),
    "an extension that has to be understood": (
        jwt.encode(claims(), RSA, "RS256", headers={"kid": "rsa", "crit": ["exp"], "exp": 1}),
        "crit",
    ),
    "a time without end": (signed(iat=10**400), "to come"),
    "rubbish": ("a.b.c", "not good"),
    "nothing": ("", "not good"),
    **{f"no {name}": (signed(**{name: None}), name) for name in ("iss", "aud", "sub", "exp", "iat", "nonce")},
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_and_misplaced_tokens_prove_nothing(case):
    token, words = FORGED[case]
    with pytest.raises(NotBelieved, match=words):
        Idp(token).provider().subject(ATTEMPT, "code")


@pytest.mark.parametrize(
    ("keys", "token"),
    [
        ([{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}], signed()),
        ([published(RSA, "rsa", use="enc")], signed()),
        ([published(RSA, "rsa", alg="RS512")], signed()),
        ([published(RSA, "rsa"), published(STRANGE, "rsa")], signed()),
        ([published(RSA, "one"), published(STRANGE, "two")], signed(name=None)),
        ([published(SHORT, "rsa")], short()),
        ([published(OTHER_CURVE, "ec")], signed(EC, "ES256", "ec")),
        ([{"kty": "RSA", "kid": "rsa"}, "rubbish"], signed()),
        ([RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"kid": "rsa"}], signed()),
        ("rubbish", signed()),
    ],
    ids=("secret", "use", "algorithm", "twice", "which", "short", "curve", "broken", "private", "rubbish"),
)
def test_keys_that_may_not_or_cannot_sign_are_not_asked(keys, token):
    with pytest.raises(NotBelieved):
        Idp(token, {"keys": keys}).provider().subject(ATTEMPT, "code")


def test_time_is_that_of_the_node_with_a_minute_of_leeway():
    clock = Clock(NOW + timedelta(seconds=355))
    assert Idp(signed()).provider(clock=clock).subject(ATTEMPT, "code") == "ann"
    clock.time += timedelta(seconds=10)
    with pytest.raises(NotBelieved, match="expired"):
        Idp(signed()).provider(clock=clock).subject(ATTEMPT, "code")


# --- a provider that does not answer as one


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": f"{ISSUER}/"},
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://idp.example/token"},
        {"token_endpoint": "http://127.0.0.1:8700/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"jwks_uri": "https://user@idp.example/"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://[/"},
    ],
    ids=lambda changes: str(*changes.items()),
)
def test_addresses_are_those_of_the_issuer_over_tls_and_nothing_else_is_asked(changes):
    idp = Idp(changes=changes)
    with pytest.raises(RemoteProtocolError):
        idp.provider().address(ATTEMPT)
    assert len(idp.asked) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            lambda request: streamed(httpx2.Response(302, headers={"location": "https://169.254.169.254/"})),
            RemoteProtocolError,
        ),
        (lambda request: streamed(httpx2.Response(200, content=b"[]")), RemoteProtocolError),
        (lambda request: streamed(httpx2.Response(200, content=b"[" * 100_000)), RemoteProtocolError),
        (lambda request: streamed(httpx2.Response(500, json={})), RemoteProtocolError),
        (lambda request: (_ for _ in ()).throw(httpx2.ConnectError("refused")), PeerUnreachable),
        (lambda request: (_ for _ in ()).throw(httpx2.ReadTimeout("slow")), DeadlineExceeded),
    ],
    ids=("redirect", "list", "deep", "broken", "absent", "slow"),
)
def test_answers_are_bounded_and_redirects_lead_nowhere(answer, error):
    idp = Idp(answer=answer)
    with pytest.raises(error):
        idp.provider().address(ATTEMPT)
    assert len(idp.asked) == 1


def test_an_answer_that_does_not_end_is_not_read_to_its_end():
    read = []

    def endless():
        while True:
            read.append(1)
            yield b" " * (1 << 16)

    idp = Idp(answer=lambda request: httpx2.Response(200, content=endless()))
    with pytest.raises(RemoteProtocolError, match="more than 262144 bytes"):
        idp.provider().address(ATTEMPT)
    assert len(read) == 5


def test_an_answer_that_drips_is_ended():
    clock = Clock(NOW)
    ticking = iter(range(1000))
    clock.monotonic = lambda: 4.0 * next(ticking)
    idp = Idp(answer=lambda request: httpx2.Response(200, content=(b" " for _ in range(100))))
    with pytest.raises(DeadlineExceeded, match="come to an end"):
        idp.provider(clock=clock).address(ATTEMPT)


def test_a_code_that_the_provider_refuses_is_told_without_its_words(caplog):
    provider = Idp().provider()
    provider.address(ATTEMPT)
    provider._http = httpx2.Client(
        transport=httpx2.MockTransport(lambda request: streamed(httpx2.Response(400, content=b"invalid_grant\x1b[2J")))
    )
    with caplog.at_level(logging.WARNING), pytest.raises(NotBelieved, match="begin again") as told:
        provider.subject(ATTEMPT, "code")
    assert "invalid_grant" not in str(told.value)
    assert r"invalid_grant\x1b[2J" in caplog.text
    assert isinstance(told.value, UnseenError)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://idp.example"},
        {"issuer": "https://idp.example/?a=b"},
        {"issuer": "ftp://idp.example"},
        {"url": "http://node.bank.example"},
        {"url": "https://node.bank.example/path"},
        {"scopes": ["email"]},
        {"client_id": ""},
        {"secret": "in the clear"},
    ],
    ids=lambda changes: str(*changes.items()),
)
def test_settings_that_would_not_be_safe_are_refused(changes):
    with pytest.raises(ValidationError):
        OidcConfig.model_validate(
            {"issuer": ISSUER, "client_id": CLIENT, "url": "https://node.bank.example", **changes}
        )


def test_a_nodes_provider_has_its_secret_from_a_file_that_only_the_owner_reads(tmp_path):
    Node.create(tmp_path / "node", BANK, None, NOW)
    config, secret = tmp_path / "node" / "node.yaml", tmp_path / "node" / "oidc-secret"
    said = {
        "issuer": ISSUER,
        "client_id": CLIENT,
        "url": "https://node.bank.example",
        "client_secret_file": secret.name,
    }
    config.write_text(json.dumps({"name": "bank", "oidc": said}), encoding="utf-8")
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="others may read it"), provider_of(Node(tmp_path / "node"), SystemClock()):
        pass
    secret.chmod(0o600)
    node = Node(tmp_path / "node")
    with provider_of(node, SystemClock()) as provider:
        assert provider.issuer == ISSUER
        assert SECRET not in f"{provider!r} {node.config!r}"
    config.write_text(json.dumps({"name": "bank", "oidc": {**said, "client_secret": SECRET}}), encoding="utf-8")
    with pytest.raises(UsageError, match="client_secret") as told:
        Node(tmp_path / "node")
    assert SECRET not in str(told.value), "what stands in the wrong place is not printed either"


def test_http_is_for_a_provider_and_a_node_on_this_machine():
    assert OidcConfig(issuer="http://localhost:9400", client_id=CLIENT, url="http://127.0.0.1:8700")
