"""Signing in by an identity provider: a real one over HTTP, terminals and browsers, and those who stand between."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from starlette.testclient import TestClient
from tests.node.http.conftest import PASSWORD, Site

from unseen.cli import session as sessions
from unseen.client import Client
from unseen.errors import DeadlineExceeded, UsageError
from unseen.node.domain import NO_LINK, Duty
from unseen.node.http.app import PREFIX, make_app
from unseen.node.http.guard import HttpSettings
from unseen.node.http.serve import serving
from unseen.node.http.sign_on import CALLBACK
from unseen.node.oidc import OidcConfig, Provider
from unseen.node.usecases import sign_on as sign_on_module
from unseen.node.usecases.people import SESSION
from unseen.node.usecases.sign_on import MOST_TRIES, PATIENCE, SignOn

SSO = f"{PREFIX}/session/sso"
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")  # the provider's, not ours


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A real provider, in a thread."""
    with warnings.catch_warnings(record=True):  # of its use of a library, not of ours
        server = import_module("oidc_provider_mock").run_server_in_thread(require_nonce=True)
    with server as running:
        yield f"http://localhost:{running.server_port}"


@dataclass
class Browser:
    """Somebody's browser, signed in at the provider as ``subject``."""

    node: TestClient
    subject: str

    def answer(self, url: str) -> str:
        """Return where the provider sends it."""
        answer = httpx2.post(url, data={"sub": self.subject}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def open(self, url: str) -> httpx2.Response:
        """Return the node's page."""
        back = urlsplit(self.answer(url))
        assert back.path == CALLBACK
        return self.node.get(f"{back.path}?{back.query}")


@pytest.fixture
def linked(staffed: Site, issuer: str) -> Iterator[Site]:
    """The node with that provider, which knows the analyst as ``ann@idp``."""
    staffed.bank.clock.time = datetime.now(UTC)
    config = OidcConfig(issuer=issuer, client_id="node", url="http://localhost:8700")
    people = staffed.services.people
    with closing(Provider(config, "secret & more", CALLBACK, staffed.bank.clock)) as provider:
        sign_on = SignOn(people, provider, staffed.bank.clock)
        staffed.services = replace(staffed.services, sign_on=sign_on)
        staffed.app = make_app(staffed.services, HttpSettings())
        people.change("analyst", people.get("admin"), link=sign_on.link("ann@idp"))
        yield staffed


def code_of(page: httpx2.Response) -> str:
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/html")
    return page.text.partition("<h1>")[2].partition("</h1>")[0]


def test_a_person_signs_in_by_the_provider_and_has_a_session_like_any_other(linked):
    terminal, browser = linked.client(), Browser(linked.client(), "ann@idp")
    begun = terminal.post(SSO).json()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun["url"]).query).items()}
    assert (asked["response_type"], asked["code_challenge_method"], asked["scope"]) == ("code", "S256", "openid")
    assert asked["redirect_uri"] == f"http://localhost:8700{CALLBACK}"
    assert begun["secret"] not in begun["url"]
    typed = code_of(browser.open(begun["url"])).lower().replace("-", " ")
    session = terminal.post(f"{SSO}/code", json={"secret": begun["secret"], "code": typed})
    assert (session.status_code, session.json()["person"]["name"]) == (201, "analyst")
    terminal.cookies.clear()
    terminal.headers["authorization"] = f"Bearer {session.json()['token']}"
    assert terminal.get(f"{PREFIX}/session").json()["person"]["name"] == "analyst"
    assert terminal.get(f"{PREFIX}/people").status_code == 403
    linked.bank.clock.time += SESSION
    assert terminal.get(f"{PREFIX}/session").status_code == 401
    again = linked.client().post(f"{SSO}/code", json={"secret": begun["secret"], "code": typed})
    assert again.status_code == 401, "once"


def test_neither_the_secret_nor_the_code_alone_gives_a_session(linked):
    """Whoever talks a colleague into opening their address has the secret; whoever looks over a shoulder, the code."""
    terminal, thief = linked.client(), linked.client()
    begun, other = terminal.post(SSO).json(), thief.post(SSO).json()
    early = thief.post(f"{SSO}/code", json={"secret": begun["secret"], "code": "AAAA-AAAA"})
    assert (early.status_code, "not come back yet" in early.json()["detail"]) == (401, True)
    typed = code_of(Browser(linked.client(), "ann@idp").open(begun["url"]))
    assert thief.post(f"{SSO}/code", json={"secret": other["secret"], "code": typed}).status_code == 401
    for _ in range(MOST_TRIES):
        assert thief.post(f"{SSO}/code", json={"secret": begun["secret"], "code": "AAAA-AAAA"}).status_code == 401
    late = terminal.post(f"{SSO}/code", json={"secret": begun["secret"], "code": typed})
    assert late.status_code == 401, "guessed at too often"


def test_states_and_codes_are_good_once_and_for_those_who_began(linked):
    browser, node = Browser(linked.client(), "ann@idp"), linked.client()
    back = urlsplit(browser.answer(node.post(SSO).json()["url"]))
    assert node.get(f"{CALLBACK}?{back.query}").status_code == 200
    assert node.get(f"{CALLBACK}?{back.query}").status_code == 401, "the same answer once more"
    code = parse_qs(back.query)["code"][0]
    fresh = parse_qs(urlsplit(node.post(SSO).json()["url"]).query)["state"][0]
    used = node.get(CALLBACK, params={"state": fresh, "code": code})
    assert (used.status_code, "begin again" in used.json()["detail"]) == (401, True), "an old code, a new state"
    theirs = urlsplit(browser.answer(node.post(SSO).json()["url"]))
    fresh = parse_qs(urlsplit(node.post(SSO).json()["url"]).query)["state"][0]
    mixed = node.get(CALLBACK, params={"state": fresh, "code": parse_qs(theirs.query)["code"][0]})
    assert (mixed.status_code, "another sign-in" in mixed.json()["detail"]) == (401, True), "another's code: nonce"
    assert node.get(CALLBACK, params={"state": "invented", "code": code}).status_code == 401
    said_no = node.get(CALLBACK, params={"state": fresh, "error": "access_denied\n<b>"})
    assert (said_no.status_code, r"access_denied\n<b>" in said_no.json()["detail"]) == (401, True)


def test_a_provider_that_is_busy_uses_nobodys_sign_in_up(linked, monkeypatch):
    browser, node = Browser(linked.client(), "ann@idp"), linked.client()
    back = urlsplit(browser.answer(node.post(SSO).json()["url"]))

    def busy(*_):
        raise DeadlineExceeded("too many sign in at this moment")

    with monkeypatch.context() as patch:
        patch.setattr(Provider, "subject", busy)
        assert node.get(f"{CALLBACK}?{back.query}").status_code >= 400
    assert node.get(f"{CALLBACK}?{back.query}").status_code == 200


def test_who_takes_too_long_begins_again_and_those_who_wait_have_a_number(linked, monkeypatch):
    browser, node = Browser(linked.client(), "ann@idp"), linked.client()
    begun = node.post(SSO).json()
    back = urlsplit(browser.answer(begun["url"]))
    linked.bank.clock.time += PATIENCE
    assert node.get(f"{CALLBACK}?{back.query}").status_code == 401
    monkeypatch.setattr(sign_on_module, "MOST_WAITING", 2)
    first, *_, last = [node.post(SSO).json() for _ in range(3)]
    assert browser.open(first["url"]).status_code == 401, "the oldest gave its place"
    assert browser.open(last["url"]).status_code == 200


def test_nobody_is_added_by_signing_in_and_whoever_left_stays_out(linked, caplog):
    people, admin = linked.services.people, linked.services.people.get("admin")
    stranger = Browser(linked.client(), "mallory@idp").open(linked.client().post(SSO).json()["url"])
    assert (stranger.status_code, "mallory@idp, and nobody" in stranger.json()["detail"]) == (401, True)
    assert [one.name for one in people.all()] == ["admin", "analyst", "approver", "auditor", "dataowner"]
    assert "subject mallory@idp is nobody here" in caplog.text
    begun = linked.client().post(SSO).json()
    typed = code_of(Browser(linked.client(), "ann@idp").open(begun["url"]))
    people.change("analyst", admin, link=NO_LINK)
    left = linked.client().post(f"{SSO}/code", json={"secret": begun["secret"], "code": typed})
    assert left.status_code == 401, "unlinked between the browser and the terminal"
    people.change("analyst", admin, active=False, link=linked.services.sign_on.link("ann@idp"))
    assert Browser(linked.client(), "ann@idp").open(linked.client().post(SSO).json()["url"]).status_code == 401


def test_links_are_made_by_admins_to_one_person_each_and_end_sessions(linked):
    admin, people = linked.of(Duty.ADMIN), linked.services.people
    assert {one["name"]: one["sso"] for one in admin.get(f"{PREFIX}/people").json()}["analyst"] == "ann@idp"
    path = f"{PREFIX}/people"
    body = {"name": "eve", "duties": ["approver"]}
    assert admin.post(path, json=body).status_code == 422, "no way to sign in"
    taken = admin.post(path, json={**body, "sso": "ann@idp"})
    assert (taken.status_code, "analyst is linked" in taken.json()["detail"]) == (422, True)
    assert [one.name for one in people.all() if one.name == "eve"] == [], "nothing of it was kept"
    for subject in ("\0", "a" * 256, "ann\n"):
        assert admin.patch(f"{path}/analyst", json={"sso": subject}).status_code == 422
    assert admin.post(path, json={**body, "sso": "eve@idp"}).json()["sso"] == "eve@idp"
    assert linked.client().post(f"{PREFIX}/session", json={"name": "eve", "password": ""}).status_code == 401
    analyst = linked.of(Duty.ANALYST)
    assert admin.patch(f"{path}/analyst", json={"sso": "new@idp"}).json()["sso"] == "new@idp"
    assert analyst.get(f"{PREFIX}/session").status_code == 401, "a session of the one before is over"
    assert admin.patch(f"{path}/eve", json={"sso": ""}).json()["sso"] is None
    assert admin.patch(f"{path}/admin", json={"sso": "root@idp"}).status_code == 403
    assert linked.of(Duty.AUDITOR).patch(f"{path}/eve", json={"sso": "sam@idp"}).status_code == 403


def test_the_command_line_signs_in_with_a_browser_elsewhere(linked, tmp_path, monkeypatch, capsys):
    browser, said = Browser(linked.client(), "ann@idp"), []

    def look(what: str, variable: str, *, hidden: bool = False) -> str:
        said.append((what, variable))
        return code_of(browser.open(capsys.readouterr().out.split()[-1]))

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sessions, "_asked", look)
    with serving(linked.app, "127.0.0.1:0") as (host, port):
        url = f"http://{host}:{port}"
        sessions.login(url=url, name=None, set_up=False, sso=True, authority=None)
        assert said == [("code that the browser shows", "UNSEEN_SSO_CODE")]
        assert f"signed in at {url} as analyst: analyst" in capsys.readouterr().out
        session = tmp_path / "config" / "unseen" / "session.json"
        with Client(url, json.loads(session.read_text(encoding="utf-8"))["token"]) as client:
            assert client.me()["person"]["name"] == "analyst"
        for wrong in ({"name": "ann", "sso": True}, {"name": None, "sso": False}):
            with pytest.raises(UsageError, match="--sso"):
                sessions.login(url=url, set_up=False, authority=None, **wrong)


def test_a_node_without_a_provider_says_so(staffed):
    for answer in (
        staffed.client().post(SSO),
        staffed.client().get(CALLBACK, params={"state": "x", "code": "y"}),
        staffed.of(Duty.ADMIN).patch(f"{PREFIX}/people/analyst", json={"sso": "ann@idp"}),
    ):
        assert (answer.status_code, "no identity provider" in answer.json()["detail"]) == (422, True), answer.text
    assert staffed.client().post(f"{SSO}/code", json={"secret": "x", "code": PASSWORD}).status_code == 401
