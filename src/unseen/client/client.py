"""A client of one's own organisation's node.

::

    with Client("http://127.0.0.1:8700").sign_in("ada", password) as node:
        node.upload("customers", Path("customers.csv"), label="default")
        job = node.propose("credit", flow, points=50_000)
        node.wait(job["job"])

Answers are what the node sends, as mappings; its OpenAPI description (``/api/v1/openapi.json``) names their fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import httpx2

from unseen.codec import read_json
from unseen.data.atomic import whole_file
from unseen.errors import (
    DeadlineExceeded,
    PeerFailed,
    PeerUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    UnseenError,
    UsageError,
)

Json: TypeAlias = dict[str, Any]
PREFIX = "/api/v1"
_PIECE = 1 << 20
_OVER = frozenset({"finished", "failed", "cancelled", "refused"})
_POLL_SECONDS = 1.0
_IMPORT_SECONDS = 2 * 3600.0
"""As long as a node may read a source, and what the import itself takes."""
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class Client:
    """A node, as one of its people sees it.

    Args:
        url: Where its HTTP is, without a path.
        token: Of a session that was begun before; or ``sign_in``.
        timeout: Seconds for which an answer may take.
        authority: File with the certificate that signed the node's HTTPS certificate, if the system does not know it.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 60.0, authority: Path | None = None
    ) -> None:
        here = _is_here(url)
        if not here and not url.startswith("https://"):
            raise UsageError(f"{url}: passwords and tokens would go there in the clear: expected https://HOST:PORT")
        self.url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=self.url,
            timeout=timeout,
            verify=str(authority) if authority else True,
            follow_redirects=False,
            # No proxy that the environment names gets to see what stays on this machine.
            trust_env=not here,
        )
        self._token, self._device = token, ""

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back; the session stays."""
        self._http.close()

    # --- sessions and people

    @property
    def token(self) -> str | None:
        """The session's token: a secret."""
        return self._token

    @property
    def device(self) -> str:
        """What ``sign_in`` may be given the next time, if it was given something: a secret as well."""
        return self._device

    def set_up(self, token: str, name: str, password: str) -> Json:
        """Add the first person of a node, by the token that it printed."""
        return self._json("POST", "/setup", json={"token": token, "name": name, "password": password})

    def sign_in(self, name: str, password: str, device: str | None = None) -> Self:
        """Begin a session; ``device`` is that of an earlier one, so that nobody's guesses elsewhere count here.

        An empty one asks for one; without, as in scripts, this device is not remembered.
        """
        said = {"name": name, "password": password, "device": device}
        return self._begun(self._json("POST", "/session", json=said))

    def begin_sso(self) -> Json:
        """Begin to sign in by the organisation's identity provider: ``url`` is to be opened in a browser.

        Then ``finish_sso`` with ``secret``, which is for nobody else, and the code that the browser shows.
        """
        return self._json("POST", "/session/sso")

    def finish_sso(self, secret: str, code: str) -> Self:
        """Begin a session by the code that the browser shows."""
        return self._begun(self._json("POST", "/session/sso/code", json={"secret": secret, "code": code}))

    def _begun(self, session: Json) -> Self:
        self._token, self._device = str(session["token"]), str(session["device"])
        return self

    def sign_out(self) -> None:
        """End the session."""
        self._call("DELETE", "/session")
        self._token = None

    def me(self) -> Json:
        """Return who is signed in, and what they may do."""
        return self._json("GET", "/session")

    def node(self) -> str:
        """Return the name of the organisation whose node it is."""
        return str(self.me()["node"])

    def set_own_password(self, old: str, new: str) -> None:
        """Change one's own password; all sessions end."""
        self._call("PUT", "/session/password", json={"old": old, "password": new})

    def people(self) -> list[Json]:
        """Return all people of the node."""
        return self._list("/people")

    def add_person(self, name: str, password: str | None, duties: list[str], *, sso: str | None = None) -> Json:
        """Add somebody; ``sso`` is the subject as whom the identity provider knows them, if they come that way."""
        said = {"name": name, "password": password, "duties": duties, "sso": sso}
        return self._json("POST", "/people", json=said)

    def change_person(self, name: str, **changes: object) -> Json:
        """Change somebody's ``duties``, ``projects``, ``sso`` ("" for none), or whether they are ``active``."""
        return self._json("PATCH", f"/people/{_segment(name)}", json=changes)

    def set_password(self, name: str, password: str) -> None:
        """Give somebody another password; their sessions end."""
        self._call("PUT", f"/people/{_segment(name)}/password", json={"password": password})

    # --- tables

    def tables(self) -> list[Json]:
        """Return all versions of all tables."""
        return self._list("/tables")

    def upload(self, name: str, path: Path, **how: object) -> Json:
        """Import a CSV or Parquet file as the next version of a table.

        ``how``: names of the ``id``, ``label`` and ``weight`` columns, ``text`` and ``leave_out`` as lists of names,
        ``repeated_ids`` and ``lenient``.
        """
        try:
            with path.open("rb") as file:
                pieces = iter(lambda: file.read(_PIECE), b"")
                query = {"origin": path.name, **how}
                return self._json("POST", f"/tables/{_segment(name)}/versions", params=query, content=pieces)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error

    def sources(self) -> list[Json]:
        """Return the organisation's databases and buckets that this node may import from."""
        return self._list("/sources")

    def source_tables(self, source: str) -> list[Json]:
        """Return the tables of a source."""
        return self._list(f"/sources/{_segment(source)}/tables", timeout=_IMPORT_SECONDS)

    def import_table(self, name: str, source: str, table: str, **how: object) -> Json:
        """Import a table of a source as the next version of a table; this may take long.

        ``how``: as for ``upload``, and ``columns``, the names of those that are taken.
        """
        body, path = {"source": source, "table": table, **how}, f"/tables/{_segment(name)}/versions/from-source"
        return self._json("POST", path, json=body, timeout=_IMPORT_SECONDS)

    def profile(self, name: str, version: int) -> list[Json]:
        """Return figures of a table's columns."""
        return self._list(f"/tables/{_segment(name)}/versions/{version}/profile")

    def retire(self, name: str, version: int) -> Json:
        """Take a version out of use."""
        return self._json("DELETE", f"/tables/{_segment(name)}/versions/{version}")

    # --- projects

    def partners(self) -> list[Json]:
        """Return the organisations that the node was paired with."""
        return self._list("/partners")

    def invite(self, to: str | None = None, *, address: str | None = None, minutes: int = 60) -> Json:
        """Open an invitation at the node's port; ``line`` of the answer is for the partner, and is told this once."""
        return self._json("POST", "/partners/invitations", json={"to": to, "address": address, "minutes": minutes})

    def join(self, line: str) -> Json:
        """Let the node dial whoever made an invitation; ``read_out`` of the answer is the code to be read to them."""
        return self._json("POST", "/partners/joinings", json={"line": line})

    def pairings(self) -> list[Json]:
        """Return the pairings since the node was started."""
        return self._list("/partners/pairings")

    def pairing(self, pairing: str) -> Json:
        """Return one pairing, and how far it has come (``stage``)."""
        return self._json("GET", f"/partners/pairings/{_segment(pairing)}")

    def confirm(self, pairing: str, code: str) -> Json:
        """Say which code the other side's people have read."""
        return self._json("POST", f"/partners/pairings/{_segment(pairing)}/confirmation", json={"code": code})

    def take_back(self, pairing: str) -> Json:
        """Give a pairing up before it is confirmed."""
        return self._json("DELETE", f"/partners/pairings/{_segment(pairing)}")

    def strike(self, partner: str) -> None:
        """Let the node trust a partner no more."""
        self._call("DELETE", f"/partners/{_segment(partner)}")

    def projects(self) -> list[Json]:
        """Return the projects that one may see."""
        return self._list("/projects")

    def project(self, name: str) -> Json:
        """Return a project."""
        return self._json("GET", f"/projects/{_segment(name)}")

    def draft(self, agreement: Mapping[str, object]) -> Json:
        """Write an agreement, or its next version, and offer it to its members, who are given by name."""
        return self._json("POST", "/projects", json=agreement)

    def sign(self, project: str, digest: str) -> Json:
        """Sign the agreement that waits; ``digest`` says which one was read."""
        return self._json("POST", f"/projects/{_segment(project)}/signature", json={"digest": digest})

    def withdraw(self, project: str) -> Json:
        """Put the agreement that waits aside."""
        return self._json("DELETE", f"/projects/{_segment(project)}/signature")

    def revoke(self, project: str, reason: str) -> Json:
        """End an agreement, alone and for good."""
        return self._json("POST", f"/projects/{_segment(project)}/revocation", json={"reason": reason})

    def set_policy(self, project: str, policy: Mapping[str, object] | None) -> Json:
        """Say what this site lets a project do, at most; ``None``: nothing."""
        if policy is None:
            return self._json("DELETE", f"/projects/{_segment(project)}/policy")
        return self._json("PUT", f"/projects/{_segment(project)}/policy", json=policy)

    def audit(self, project: str) -> bytes:
        """Return the trail of a project, a record a line; see `unseen project trail`."""
        return self._call("GET", f"/projects/{_segment(project)}/trail").content

    def trail(self, project: str) -> Json:
        """Return whether the trail of a project is whole, and how far partners have signed that theirs had got."""
        return self._json("GET", f"/projects/{_segment(project)}/trail/state")

    def node_trail(self) -> bytes:
        """Return the node's own trail, a record a line: what was done to people, who approved and signed."""
        return self._call("GET", "/trail").content

    # --- jobs

    def jobs(self, project: str | None = None) -> list[Json]:
        """Return the newest jobs that one may see."""
        return self._list("/jobs", params={"project": project} if project else None)

    def job(self, project: str, name: str) -> Json:
        """Return a job."""
        return self._json("GET", _job(project, name))

    def propose(self, project: str, flow: Mapping[str, object], **terms: object) -> Json:
        """Ask for a job.

        ``terms``: ``points`` and ``epsilon`` to be spent, ``hours`` it may take, ``tables`` (table → own version).
        """
        return self._json("POST", f"/projects/{_segment(project)}/jobs", json={"flow": flow, **terms})

    def approve(self, project: str, job: str) -> Json:
        """Let a job that waits for somebody run."""
        return self._json("POST", f"{_job(project, job)}/approval", json={})

    def refuse(self, project: str, job: str, reason: str) -> Json:
        """Refuse a job that waits for somebody."""
        return self._json("POST", f"{_job(project, job)}/refusal", json={"reason": reason})

    def cancel(self, project: str, job: str, reason: str) -> Json:
        """End a job, at all parties."""
        return self._json("POST", f"{_job(project, job)}/cancellation", json={"reason": reason})

    def pause(self, project: str, job: str, reason: str) -> Json:
        """Let nobody work on a job, at no party, until this node lets it go on."""
        return self._json("POST", f"{_job(project, job)}/pause", json={"reason": reason})

    def resume(self, project: str, job: str) -> Json:
        """Let a job go on that this node paused."""
        return self._json("POST", f"{_job(project, job)}/resumption", json={})

    def events(self, project: str, job: str) -> Iterator[Json]:
        """Yield what happens to a job, from its beginning until it is over."""
        with self._stream(f"{_job(project, job)}/events", timeout=None) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield read_json(line[6:])

    def wait(
        self, project: str, job: str, *, seconds: float = 3600.0, observe: Callable[[Json], None] | None = None
    ) -> Json:
        """Return a job once it is finished.

        Raises:
            PeerFailed: It ended in another way; the message says why.
            DeadlineExceeded: It was not over in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = self.job(project, job)
            if observe is not None:
                observe(found)
            if found["state"] == "finished":
                return found
            if found["state"] in _OVER:
                raise PeerFailed(f"job {job} was {found['state']}: {found['reason']}")
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"job {job} is still {found['state']} after {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def results(self, project: str, job: str) -> list[Json]:
        """Return what a job left behind at this node."""
        return self._list(f"{_job(project, job)}/results")

    def report(self, project: str, job: str, path: Path) -> None:
        """Write a page about what a job left behind at this node to a file."""
        self._save(f"{_job(project, job)}/report", path)

    def models(self, project: str) -> list[Json]:
        """Return this node's parts of the models of a project, the newest first."""
        return self._list(f"/projects/{_segment(project)}/models")

    def download(self, project: str, job: str, result: str, path: Path) -> None:
        """Write a result to a file; ``result`` is STEP.PORT."""
        self._save(f"{_job(project, job)}/results/{_segment(result)}", path)

    # --- HTTP

    def _json(self, method: str, path: str, **more: Any) -> Json:
        body = self._body(method, path, **more)
        if not isinstance(body, dict):
            raise RemoteProtocolError(f"{self.url}{PREFIX}{path} did not answer as a node does")
        return body

    def _list(self, path: str, **more: Any) -> list[Json]:
        body = self._body("GET", path, **more)
        if not isinstance(body, list):
            raise RemoteProtocolError(f"{self.url}{PREFIX}{path} did not answer as a node does")
        return body

    def _body(self, method: str, path: str, **more: Any) -> object:
        try:
            return self._call(method, path, **more).json()
        except ValueError as error:
            raise RemoteProtocolError(f"{self.url}{PREFIX}{path} did not answer as a node does") from error

    def _call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        with self._reaching():
            response = self._http.request(method, PREFIX + path, headers=self._headers(), **more)
        if response.is_success:
            return response
        raise _error(response)

    @contextmanager
    def _stream(self, path: str, **more: Any) -> Iterator[httpx2.Response]:
        with self._reaching(), self._http.stream("GET", PREFIX + path, headers=self._headers(), **more) as answer:
            if not answer.is_success:
                answer.read()
                raise _error(answer)
            yield answer

    def _save(self, path: str, file: Path) -> None:
        """Write an answer to a file, which is there whole or not at all."""
        with self._stream(path) as answer, whole_file(file) as out:
            for piece in answer.iter_bytes():
                out.write(piece)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the node at {self.url} did not answer in time: is it busy?") from error
        except httpx2.TransportError as error:
            raise PeerUnreachable(
                f"there is no node at {self.url}: {error}; start it with `unseen node start`"
            ) from error


def _is_here(url: str) -> bool:
    """Return whether a URL is of this machine.

    Raises:
        UsageError: It is none of a node.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url!r} is not where a node is: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise UsageError(f"{url!r} is not where a node is: expected http://HOST:PORT or https://HOST:PORT")
    return parts.hostname in _HERE


def _error(response: httpx2.Response) -> UnseenError:
    """Return the error that an answer tells."""
    try:
        text = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        text = f"the node answered {response.status_code}, in words that are not a node's"
    kinds: Mapping[int, type[UnseenError]] = {401: PermissionDenied, 403: PermissionDenied, 429: PermissionDenied}
    usual = UsageError if response.status_code < 500 else PeerFailed
    return kinds.get(response.status_code, usual)(text)


def _segment(name: str) -> str:
    """Return a name that is safe in a path.

    Raises:
        UsageError: It is not.
    """
    if not name or not all(character.isalnum() or character in "_-." for character in name) or name.startswith("."):
        raise UsageError(f"{name!r} is not a name: expected letters, digits, _ and -")
    return name


def _job(project: str, job: str) -> str:
    return f"/projects/{_segment(project)}/jobs/{_segment(job)}"
