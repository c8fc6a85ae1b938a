"""``unseen node``: an organisation's own root and certificate, and pairing with partners."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.errors import UnseenError, UsageError
from unseen.ids import PartyId
from unseen.node.checkup import Patient, examine_peer
from unseen.node.folder import RENEW_DAYS, ROOT_KEY_FILE, Node, Status, is_node
from unseen.node.invitation import Invitation
from unseen.node.meeting import Encounter, Host
from unseen.node.meeting import join as dial_inviter
from unseen.node.pairing import CODE_CHARACTERS, grouped, plain_code
from unseen.node.partners import LIST_FILE

_CHANCES = 3


def init(*, folder: Path, name: str, listen: str | None, http: str | None = None) -> None:
    """Make the node, and say what to do next."""
    node = Node.create(folder, PartyId(name), listen, datetime.now(UTC), http=http)
    status = node.status()
    _say(f"{name}: a node in {folder}, certificate valid until {_day(status.until)}, root {status.root}")
    _say(f"{folder / ROOT_KEY_FILE} is needed to renew and to revoke only: keep it on another medium if you can")
    if listen is None:
        _say("the node listens nowhere: it can join others, not invite")


def status(*, folder: Path, as_json: bool) -> None:
    """Print what there is to know about the node."""
    found, now = Node(folder).status(), datetime.now(UTC)
    if as_json:
        sys.stdout.write(_status_json(found, now) + "\n")
        return
    _say(f"name         {found.name}")
    _say(f"listens at   {found.listen or 'nowhere: it dials its partners'}")
    _say(f"root         {found.root}, until {_day(found.root_until)}, {_key_place(found)}")
    _say(f"certificate  until {_day(found.until)}: {_judged(found, now, folder)}")
    _say(f"revoked      {found.revocations} of its own certificates")
    for peer, partner in sorted(found.partners.items()):
        revoked = partner.revocations(peer)
        notes = [f"root {partner.fingerprint}", f"at {partner.endpoint}" if partner.endpoint else "dials this node"]
        notes += [f"since {_day(partner.since)}"]
        notes += [f"has revoked {len(revoked.revoked)}"] if revoked is not None else []
        notes += [f"STRUCK OFF on {_day(partner.struck)}"] if partner.struck is not None else []
        _say(f"partner      {peer}: {', '.join(notes)}")


def _status_json(found: Status, now: datetime) -> str:
    partners = {
        peer: {
            "root": partner.fingerprint,
            "endpoint": partner.endpoint,
            "since": partner.since.isoformat(),
            "struck": partner.struck.isoformat() if partner.struck is not None else None,
        }
        for peer, partner in sorted(found.partners.items())
    }
    facts = {
        "name": found.name,
        "listen": found.listen,
        "root": found.root,
        "root_until": found.root_until.isoformat(),
        "root_key_here": found.root_key_here,
        "until": found.until.isoformat(),
        "days_left": found.days_left(now),
        "revoked": found.revoked,
        "revocations": found.revocations,
        "partners": partners,
    }
    return json.dumps(facts, indent=2)


def renew(*, folder: Path, days: int, root_key: Path | None) -> None:
    """Put a new key and certificate in place."""
    until = Node(folder).renew(datetime.now(UTC), days=days, root_key=root_key)
    _say(f"new key and certificate, valid until {_day(until)}; a node that runs takes them up within seconds")


def revoke(*, folder: Path, partner: str | None, take: Path | None, root_key: Path | None) -> None:
    """Revoke this node's certificates, strike a partner off, or take a partner's list."""
    if partner is not None and take is not None:
        raise UsageError("--partner strikes a partner off, --take takes a partner's list: give one of them")
    node, now = Node(folder), datetime.now(UTC)
    if partner is not None:
        node.partners.strike(PartyId(partner), now)
        _say(f"{partner} is refused from now on; links that are up end within seconds")
    elif take is not None:
        _take(node, take)
    else:
        count = node.revoke(now, root_key=root_key)
        _say(
            f"{count} certificate(s) revoked; a new key and certificate are in place; a node that runs takes them up "
            "within seconds"
        )
        _hand_over(node)


def _take(node: Node, path: Path) -> None:
    """Keep a list, under whichever partner's root it is signed."""
    content = path.read_bytes()
    for peer in node.partners.all():
        try:
            node.partners.learn(peer, content)
        except UnseenError:
            continue
        _say(f"{path} is a list of {peer}: kept, unless a newer one was known")
        return
    raise UsageError(f"{path} is not the revocation list of any partner of {node.name}")


def _hand_over(node: Node) -> None:
    """Tell those partners who can be reached; all others hear it at the next link."""
    patient = Patient.at(node.folder)
    for peer, partner in sorted(node.partners.all().items()):
        if partner.struck is not None:
            continue
        told = partner.endpoint is not None and examine_peer(patient, peer).fine
        later = f"will be told at the next link; or send {node.folder / LIST_FILE}, for `unseen node revoke --take`"
        _say(f"{peer}: {'has the list' if told else later}")


def invite(*, folder: Path, to: str | None, address: str | None, minutes: int) -> None:
    """Print an invitation and wait for the one who joins."""
    node = Node(folder)
    joiner = PartyId(to) if to is not None else None
    with Host(node, lifetime=timedelta(minutes=minutes), joiner=joiner, address=address) as host:
        until = f"{host.invitation.expires:%H:%M} UTC"
        _say(f"Send this line to {to or 'the partner'}; it works once, until {until}, while this command waits:")
        _say(host.invitation.line())
        with host.wait() as encounter:
            _compare(encounter)
    _say(f"{encounter.found.peer} is a partner: it dials this node")


def join(*, line: str, folder: Path, name: str | None, http: str | None = None) -> None:
    """Dial the inviter; without a node in the folder, make one first."""
    invitation = Invitation.read(_line(line))
    node = _own_node(folder, name, http, invitation)
    with dial_inviter(node, invitation) as encounter:
        _compare(encounter)
    _say(f"{invitation.inviter} is a partner: this node dials it at {invitation.endpoint}")


def _own_node(folder: Path, name: str | None, http: str | None, invitation: Invitation) -> Node:
    if is_node(folder):
        node = Node(folder)
        if name not in (None, node.name):
            raise UsageError(f"the node in {folder} is {node.name}, not {name}")
        return node
    own = name or invitation.joiner
    if own is None:
        raise UsageError(f"there is no node in {folder} yet: say --name, so that one can be made")
    if PartyId(own) == invitation.inviter or invitation.joiner not in (None, own):
        raise UsageError(f"the invitation is not for {own}, but for {invitation.joiner or 'a partner'}")
    init(folder=folder, name=own, listen=None, http=http)
    return Node(folder)


def _line(line: str) -> str:
    """Return the invitation; ``-`` keeps it out of the list of processes."""
    return input("invitation: ") if line == "-" else line


def _compare(encounter: Encounter) -> None:
    """Let people compare the code; a misheard one may be typed again."""
    found = encounter.found
    _say(f"{found.peer} has answered. Call the people there, by a number that you know already, and compare:")
    _say(f"  read to them   {grouped(found.read_out)}")
    heard = ""
    for _ in range(_CHANCES):
        heard = _asked()
        if found.is_heard(heard) or not heard:
            break
        _say("  that is not the code; listen again")
    encounter.conclude(heard)


def _asked() -> str:
    """Return a code that somebody typed, or nothing if nobody does."""
    try:
        text = input("  type what they read: ")
    except EOFError:
        return ""
    return text if len(plain_code(text)) == CODE_CHARACTERS else (text and "?")


def _key_place(status: Status) -> str:
    return f"its key is here ({ROOT_KEY_FILE})" if status.root_key_here else "its key is elsewhere"


def _judged(status: Status, now: datetime, folder: Path) -> str:
    left, remedy = status.days_left(now), f"unseen node renew {folder}"
    if status.revoked:
        return f"REVOKED: {remedy}"
    if left < 0:
        return f"EXPIRED: {remedy}"
    return f"{left} days left" + (f": {remedy}" if left < RENEW_DAYS else "")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _say(text: str) -> None:
    Console().print(Text(harmless(text)), soft_wrap=True)
