"""Signing in by the organisation's identity provider, from a terminal that may be far from the browser.

1. A terminal begins: it gets a secret of its own and an address, which its user opens in any browser.
2. The provider sends the browser back to the node, whose page shows a short code.
3. The user types the code into that terminal, which shows its secret and the code, and gets a session.

Whoever talks a colleague into opening an address that they began themselves gets no session by it: the code is in the
colleague's browser. Whoever sees the code cannot use it: the secret is in the terminal. Nobody is added by signing in:
an admin has linked the provider's subject to a person before. E-mail addresses and other claims are not looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from unseen.clock import Clock
from unseen.codec import shown
from unseen.errors import TransportError, UsageError
from unseen.node.domain import NO_LINK, Link
from unseen.node.oidc import Attempt, Provider, is_subject
from unseen.node.usecases.brake import SignInRefused
from unseen.node.usecases.people import People, Session

_log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=10)
MOST_WAITING = 4096
MOST_TRIES = 3
_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_CODE_LENGTH = 8
"""40 bits, three tries, and the secret is needed as well."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the terminal that began gets."""

    secret: str = field(repr=False)
    url: str
    until: datetime


@dataclass(slots=True)
class _Waiting:
    attempt: Attempt
    until: datetime
    returned: bool = False
    """Whether a browser has come back with this state: it does once."""
    link: Link = NO_LINK
    """Who it was, once it is known."""
    code: str = field(default="", repr=False)
    tries: int = 0


class SignOn:
    """Those who are on their way; in memory, bounded in number and time.

    Args:
        people: Know who is linked to whom, and begin sessions.
        provider: The organisation's; ``None`` if it has none.
        clock: What time it is.
    """

    def __init__(self, people: People, provider: Provider | None, clock: Clock) -> None:
        self._people, self._provider, self._clock = people, provider, clock
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}

    @property
    def provider(self) -> Provider:
        """The identity provider.

        Raises:
            UsageError: There is none.
        """
        if self._provider is None:
            raise UsageError("this node has no identity provider: sign in by a password, or say `oidc` in node.yaml")
        return self._provider

    def link(self, subject: str) -> Link:
        """Return how a subject of the provider is kept.

        Raises:
            UsageError: There is no provider, or the subject can be nobody's.
        """
        issuer = self.provider.issuer
        if not is_subject(subject):
            raise UsageError("a subject has 1 to 255 characters that can be printed: take it from the provider")
        return Link(issuer, subject)

    def begin(self) -> Begun:
        """Begin to sign in.

        Raises:
            UsageError: There is no provider.
            TransportError: It cannot be reached.
            RemoteProtocolError: It does not answer as a provider does.
        """
        secret, until = secrets.token_urlsafe(32), self._clock.now() + PATIENCE
        attempt = Attempt(_state(secret), secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        url = self.provider.address(attempt)
        with self._lock:
            self._forget()
            while len(self._waiting) >= MOST_WAITING:
                # Not the newest: whoever fills the places would keep everybody out with one request in ten minutes.
                self._waiting.pop(next(iter(self._waiting)))
            self._waiting[attempt.state] = _Waiting(attempt, until)
        return Begun(secret, url, until)

    def returned(self, state: str, code: str) -> tuple[str, str]:
        """Return whom the browser that came back with a code belongs to, and what to type into the terminal.

        Raises:
            SignInRefused: Nobody began this, a browser came back with it before, or the subject is nobody here.
            NotBelieved: The provider's answer is not good.
            TransportError: The provider cannot be reached.
            RemoteProtocolError: It does not answer as a provider does.
        """
        with self._lock:
            self._forget()
            waiting = self._waiting.get(state)
            if waiting is None or waiting.returned:
                raise SignInRefused("nobody waits for this sign-in, or not any more: begin again")
            waiting.returned = True
        try:
            subject = self.provider.subject(waiting.attempt, code)
        except TransportError:
            waiting.returned = False  # whoever keeps the provider busy does not use others' sign-ins up
            raise
        link = self.link(subject)
        person = self._people.linked(link)
        if person is None:
            _log.warning("sign-in by the identity provider: subject %s is nobody here", shown(subject))
            raise SignInRefused(
                f"you are signed in at the provider, as {shown(subject)}, and nobody here is linked to that: an admin "
                "does it by `unseen people change NAME --sso SUBJECT`"
            )
        shown_code = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
        with self._lock:
            waiting.link, waiting.code = link, shown_code
        return person.name, f"{shown_code[:4]}-{shown_code[4:]}"

    def finish(self, secret: str, code: str) -> Session:
        """Begin the session of whoever the browser belongs to that showed this code.

        Raises:
            SignInRefused: Secret or code are wrong, or it took too long.
        """
        state, typed = _state(secret), code.upper().replace("-", "").replace(" ", "")
        with self._lock:
            self._forget()
            waiting = self._waiting.get(state)
            if waiting is None or not waiting.code:
                raise SignInRefused("the browser has not come back yet, or this took too long: begin again")
            waiting.tries += 1
            right = hmac.compare_digest(waiting.code.encode(), typed.encode())
            if right or waiting.tries >= MOST_TRIES:
                del self._waiting[state]
        if not right:
            raise SignInRefused("this is not the code that the browser shows")
        return self._people.sign_in_by(waiting.link)

    def _forget(self) -> None:
        """Forget those who took too long; they are in the order in which they began."""
        now = self._clock.now()
        while self._waiting and (oldest := next(iter(self._waiting.values()))).until <= now:
            del self._waiting[oldest.attempt.state]


def _state(secret: str) -> str:
    """Return what stands for a secret where others see it."""
    return hashlib.sha256(b"unseen sign-on 1\n" + secret.encode()).hexdigest()
