"""Projects: an agreement from its draft to all signatures, its versions, and its end; what this site lets it do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue, ValidationError

from unseen.codec import read_json, shown
from unseen.errors import RemoteProtocolError, UsageError
from unseen.flow.spec import problems_text
from unseen.ids import PartyId
from unseen.node.books import Books, Turn
from unseen.node.domain import Person, Right
from unseen.node.letters import AgreementOffered, Card, Revoked, TableHeld, TablesHeld, snapshot_of
from unseen.node.usecases.endings import end_jobs, sign_head
from unseen.node.usecases.rights import colleague, demand
from unseen.node.usecases.signatures import check_members, membership, merged, missing, without
from unseen.trust.agreement import Agreement, Project, ProjectId, Revocation, open_revocation
from unseen.trust.audit import Code, Event
from unseen.trust.envelope import Envelope, countersigned, read_envelope, read_statement, seal
from unseen.trust.keys import Digest, is_sound
from unseen.trust.policy import SiteProject


@dataclass(frozen=True, slots=True)
class Pending:
    """An agreement that not all have signed."""

    agreement: Agreement
    missing: tuple[PartyId, ...]
    """Whose signatures are not here."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that there is to see of a project at one moment."""

    project: ProjectId
    held: Project | None
    """What all have signed."""
    pending: Pending | None
    policy: SiteProject | None
    """What this site lets it do; nothing, if nobody has said."""


class Projects:
    """What people and partners do with agreements."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._introduced: Mapping[PartyId, str] = {}

    # --- looking -----------------------------------------------------------------------------------------------------

    def all(self) -> tuple[ProjectId, ...]:
        """Return the names of all projects, those with a draft only among them."""
        with self._books.look() as kept:
            return tuple(kept.projects.all())

    def seen(self, wanted: Iterable[ProjectId]) -> tuple[Seen, ...]:
        """Return what there is to see of some projects, all in one turn."""
        with self._books.turn() as turn:
            return tuple(_seen(turn, project) for project in wanted)

    # --- what people do ----------------------------------------------------------------------------------------------

    def draft(self, text: Mapping[str, JsonValue], by: Person) -> ProjectId:
        """Write an agreement, or its next version, and offer it to its members; nobody has signed it yet.

        ``text`` has the fields of an agreement; ``members`` are names, whose keys this node knows. Version and the
        version before are filled in.

        Raises:
            UsageError: It is no agreement, this node is not among its members, or a member's keys are not known yet.
        """
        demand(by, Right.DRAFT_AGREEMENTS)
        with self._books.turn() as turn:
            made = _agreement(turn, text)
            if made.member(turn.me) is None:
                raise UsageError(f"{made}: {turn.me} is not among its members")
            _check_keys(turn, made)
            envelope = seal(made)
            _check_replaceable(turn, envelope)
            _keep_pending(turn, made, envelope)
            _offer(turn, made, envelope)
            return made.project

    def sign(self, project: ProjectId, by: Person, read: Digest | None = None) -> Pending | None:
        """Sign the agreement that waits; return it, or ``None`` if all have signed now.

        ``read`` is the digest of the one that ``by`` has read: a partner may have put another one in its place since.

        Raises:
            UsageError: None waits, or another one than was read, or this node has signed it.
        """
        demand(by, Right.SIGN_AGREEMENTS, project)
        with self._books.turn() as turn:
            frame = turn.kept.projects.pending(project)
            if frame is None:
                raise UsageError(f"{project}: no agreement waits for signatures")
            envelope = countersigned(read_envelope(frame, sender="store"), turn.owner.key)
            made = read_statement(envelope, Agreement, sender="store")
            if read not in (None, made.digest):
                raise UsageError(f"{project}: the agreement that waits is another one by now: read it again")
            turn.note(Event.AGREEMENT_SIGNED, project=project, subject=made.digest, person=colleague(by))
            if not missing(made, envelope):
                _complete(turn, made, envelope)
                return None
            _keep_pending(turn, made, envelope)
            _offer(turn, made, envelope)
            return _pending(envelope)

    def withdraw(self, project: ProjectId, by: Person) -> None:
        """Put the agreement that waits aside, signed here or not, so that another one can be signed.

        Others who have this node's signature may think that it holds; here it does not, and no job gets a grant.

        Raises:
            UsageError: None waits.
        """
        demand(by, Right.SIGN_AGREEMENTS, project)
        with self._books.turn() as turn:
            if turn.kept.projects.pending(project) is None:
                raise UsageError(f"{project}: no agreement waits for signatures")
            turn.kept.projects.set_pending(project, None)

    def revoke(self, project: ProjectId, reason: str, by: Person) -> None:
        """End the agreement, at once and for good; its jobs end with it.

        Raises:
            UsageError: There is none, it is over already, or the reason is empty or too long.
        """
        demand(by, Right.REVOKE_AGREEMENTS, project)
        with self._books.turn() as turn:
            of = turn.gate(project).project
            if of.revoked is not None:
                raise UsageError(f"{of.current} was revoked by {of.revoked.by} already")
            try:
                word = Revocation(project=project, agreement=of.current.digest, by=turn.me, at=turn.now, reason=reason)
            except ValidationError as error:
                raise UsageError(f"a reason has 1 to 1000 characters, found {len(reason)}") from error
            envelope = seal(word, turn.owner.key)
            for peer in _others(turn, of.current):
                turn.post(peer, Revoked(project, envelope.to_bytes()))
            turn.kept.projects.set_pending(project, None)
            _revoked(turn, envelope, word)

    def set_policy(self, project: ProjectId, policy: SiteProject | None, by: Person) -> None:
        """Say what this site lets a project do, at most; ``None``: nothing."""
        demand(by, Right.SET_POLICY, project)
        with self._books.turn() as turn:
            text = None if policy is None else policy.payload()
            turn.kept.projects.set_policy(project, None if text is None else text.decode())
            subject = None if text is None else hashlib.sha256(text).hexdigest()
            turn.note(Event.POLICY_SET, project=project, subject=subject, person=colleague(by))

    def announce_tables(self) -> None:
        """Tell members of all projects about new versions of this node's tables, if there are any."""
        with self._books.turn() as turn:
            for project in turn.kept.projects.all():
                _announce(turn, project)

    def send_cards(self, partners: Mapping[PartyId, str]) -> None:
        """Introduce this node's key to partners (→ their pinned root) that have not got it."""
        if partners == self._introduced:
            return
        with self._books.turn() as turn:
            for peer, root in partners.items():
                sent = b"\n".join((turn.owner.key.public.encode(), turn.owner.certificate.encode(), root.encode()))
                if turn.kept.lines.last(f"cards-sent/{peer}") != sent:
                    turn.kept.lines.append(f"cards-sent/{peer}", sent)
                    turn.post(peer, Card(turn.owner.key.public, turn.owner.certificate))
        self._introduced = dict(partners)

    # --- what partners say; each of these is called within the turn that takes the letter ----------------------------

    def take_card(self, turn: Turn, peer: PartyId, card: Card) -> None:
        """Note a partner's key.

        Raises:
            RemoteProtocolError: It is none, or the root is not the one that was pinned.
        """
        if len(card.key) != 64 or not set(card.key) <= set("0123456789abcdef") or not is_sound(card.key):
            raise RemoteProtocolError(f"{peer}: introduces {shown(card.key)}, expected a key in hexadecimal")
        if card.certificate != turn.root(peer):
            raise RemoteProtocolError(f"{peer}: introduces itself with another root than was paired with")
        line = json.dumps({"key": card.key, "certificate": card.certificate}).encode()
        if turn.kept.lines.last(f"cards/{peer}") != line:
            turn.kept.lines.append(f"cards/{peer}", line)

    def take_offer(self, turn: Turn, peer: PartyId, letter: AgreementOffered) -> None:
        """Note an agreement, or signatures under it, that a member sent; once all have signed, it holds.

        Raises:
            RemoteProtocolError: It is none, names other keys than are known, or does not follow the present version.
        """
        envelope = read_envelope(letter.frame, sender=peer)
        made = read_statement(envelope, Agreement, sender=peer)
        check_members(made, peer, turn.owner, turn.root, lambda party: _card(turn, party))
        if _is_known(turn, made):
            return
        _check_follows(turn, made, peer)
        _check_keys(turn, made)
        frame = turn.kept.projects.pending(made.project)
        pending = read_envelope(frame, sender="store") if frame is not None else None
        same = pending is not None and pending.digest == envelope.digest
        # This node's own signature counts where this node has kept it: what was withdrawn stays withdrawn.
        envelope = merged(made, without(envelope, turn.owner.key.id), pending if same else None)
        if not missing(made, envelope):
            _complete(turn, made, envelope)
            return
        if not same:
            _check_say(pending, peer)
            _check_replaceable(turn, envelope)
        _keep_pending(turn, made, envelope)

    def take_revocation(self, turn: Turn, peer: PartyId, letter: Revoked) -> None:
        """End an agreement on a member's word.

        Raises:
            RemoteProtocolError: No member signed it, or it is about another agreement than the present one.
        """
        of = membership(turn, peer, letter.project)
        envelope = read_envelope(letter.frame, sender=peer)
        word = open_revocation(envelope, of.current, sender=peer)
        if of.revoked is None:
            _revoked(turn, envelope, word)

    def take_tables(self, turn: Turn, peer: PartyId, letter: TablesHeld) -> None:
        """Note which versions of tables a member holds.

        Raises:
            RemoteProtocolError: It takes no part, or they are not its own or not agreed on.
        """
        of = membership(turn, peer, letter.project)
        for table in letter.tables:
            if table.owner != peer or of.current.table(peer, table.name) is None:
                raise RemoteProtocolError(f"{peer}: {shown(table.name)} is no table of its own in {of.current}")
        try:
            tables = [snapshot_of(table).model_dump(mode="json") for table in letter.tables]
        except ValueError as error:
            raise RemoteProtocolError(f"{peer}: a table of {of.current} has no sound digest or size") from error
        line = json.dumps(tables).encode()
        if turn.kept.lines.last(f"held/{letter.project}/{peer}") != line:
            turn.kept.lines.append(f"held/{letter.project}/{peer}", line)


def _seen(turn: Turn, project: ProjectId) -> Seen:
    frame = turn.kept.projects.pending(project)
    pending = None if frame is None else _pending(read_envelope(frame, sender="store"))
    return Seen(project, turn.project(project), pending, site_policy(turn, project))


def site_policy(turn: Turn, project: ProjectId) -> SiteProject | None:
    """Return what this site lets a project do."""
    text = turn.kept.projects.policy(project)
    return None if text is None else SiteProject.model_validate_json(text)


# --- agreements -----------------------------------------------------------------------------------------------------


def _agreement(turn: Turn, text: Mapping[str, JsonValue]) -> Agreement:
    """Return the agreement that a text describes, with members' keys and its place among the versions."""
    fields = dict(text)
    names = fields.get("members")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError("members: expected a list of names; their keys are known here")
    project = fields.get("project")
    known = turn.project(ProjectId(project)) if isinstance(project, str) else None
    fields["members"] = [_member(turn, PartyId(str(name))) for name in names]
    fields["version"] = known.current.version + 1 if known else 1
    fields["previous"] = known.current.digest if known else None
    try:
        return Agreement.model_validate_json(json.dumps(fields, default=_moment))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors()]
        raise UsageError(problems_text("agreement", problems)) from error


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise UsageError(f"{value!r} cannot stand in an agreement")


def _member(turn: Turn, party: PartyId) -> dict[str, JsonValue]:
    if party == turn.me:
        return {"party": party, "key": turn.owner.key.public, "certificate": turn.owner.certificate}
    card, root = _card(turn, party), turn.root(party)
    if root is None:
        raise UsageError(f"members: {party} is not a partner of this node: pair with it first")
    if card is None:
        raise UsageError(f"members: {party} has not introduced its key yet: it does once the two nodes are connected")
    return {"party": party, "key": card, "certificate": root}


def _card(turn: Turn, party: PartyId) -> str | None:
    """Return the key that a partner introduced, if that was with the root that is pinned now."""
    line = turn.kept.lines.last(f"cards/{party}")
    card = read_json(line) if line is not None else None
    return str(card["key"]) if card is not None and card["certificate"] == turn.root(party) else None


def _pending(envelope: Envelope) -> Pending:
    made = read_statement(envelope, Agreement, sender="store")
    return Pending(made, missing(made, envelope))


def _keep_pending(turn: Turn, made: Agreement, envelope: Envelope) -> None:
    turn.kept.projects.set_pending(made.project, envelope.to_bytes())


def _check_replaceable(turn: Turn, envelope: Envelope) -> None:
    """Refuse another draft while this node has signed the one that waits: two agreements could come to hold."""
    made = read_statement(envelope, Agreement, sender="agreement")
    frame = turn.kept.projects.pending(made.project)
    if frame is None:
        return
    waiting = read_envelope(frame, sender="store")
    if waiting.digest != envelope.digest and turn.me not in missing(
        read_statement(waiting, Agreement, sender="store"), waiting
    ):
        raise UsageError(f"{made} waits with this node's signature in another form: withdraw that first")


def _check_say(pending: Envelope | None, peer: PartyId) -> None:
    """Pass if a peer may put a draft in place of the one that waits: its members may, nobody else."""
    if pending is not None:
        waiting = read_statement(pending, Agreement, sender="store")
        if waiting.member(peer) is None:
            raise RemoteProtocolError(f"{peer}: offers another {waiting}, whose draft waits here without it")


def _check_keys(turn: Turn, made: Agreement) -> None:
    """Refuse another key of a party than it had in an earlier version: receipts of the project are signed with it.

    Raises:
        UsageError: A party has another one.
    """
    for frame in turn.kept.projects.versions(made.project):
        earlier = read_statement(read_envelope(frame, sender="store"), Agreement, sender="store")
        for member in earlier.members:
            now = made.member(member.party)
            if now is not None and now.key != member.key:
                raise UsageError(
                    f"{made}: {member.party} has another key than in version {earlier.version}: a new key takes a new "
                    "project"
                )


def _is_known(turn: Turn, made: Agreement) -> bool:
    frames = turn.kept.projects.versions(made.project)
    return made.digest in {read_envelope(frame, sender="store").digest for frame in frames}


def _check_follows(turn: Turn, made: Agreement, peer: PartyId) -> None:
    known = turn.project(made.project)
    if known is not None and known.current.member(peer) is None:
        raise RemoteProtocolError(f"{peer}: offers {made}, and is no member of the version that is here")
    expected = (known.current.version + 1, known.current.digest) if known else (1, None)
    if (made.version, made.previous) != expected:
        raise RemoteProtocolError(f"{peer}: {made} does not follow version {expected[0] - 1}, which is here")


def _others(turn: Turn, made: Agreement) -> list[PartyId]:
    return [member.party for member in made.members if member.party != turn.me]


def _offer(turn: Turn, made: Agreement, envelope: Envelope) -> None:
    for peer in _others(turn, made):
        turn.post(peer, AgreementOffered(envelope.to_bytes()))


def _complete(turn: Turn, made: Agreement, envelope: Envelope) -> None:
    """Put an agreement into force that all have signed; jobs under the version before are over."""
    turn.touched = True
    of = turn.project(made.project)
    if of is not None:
        end_jobs(turn, made.project, Code.AGREEMENT, f"{made} has taken the place of the version before")
        of.supersede(envelope)
    turn.kept.projects.add_version(made.project, made.version, envelope.to_bytes())
    turn.kept.projects.set_pending(made.project, None)
    turn.gate(made.project).note(
        Event.AGREEMENT, project=made.project, subject=made.digest, count=made.version, code=Code.DONE
    )
    # Before anything else is said under it: whoever lacks a signature yet has them all then.
    _offer(turn, made, envelope)
    _announce(turn, made.project, again=True)
    sign_head(turn, made.project)


def _revoked(turn: Turn, envelope: Envelope, word: Revocation) -> None:
    turn.touched = True
    gate = turn.gate(word.project)
    gate.project.revoke(envelope)
    turn.kept.projects.add_revocation(word.project, envelope.to_bytes())
    gate.note(Event.REVOCATION, code=Code.REVOKED, party=word.by, project=word.project, subject=word.agreement)
    end_jobs(turn, word.project, Code.REVOKED, f"{word.by} revoked the agreement: {shown(word.reason, limit=200)}")
    sign_head(turn, word.project)


def _announce(turn: Turn, project: ProjectId, *, again: bool = False) -> None:
    of = turn.project(project)
    if of is None or of.revoked is not None or of.current.member(turn.me) is None:
        return
    agreed = [table.name for table in of.current.tables if table.owner == turn.me]
    held = [entry for name in agreed if (entry := turn.kept.tables.newest(name)) is not None]
    tables = tuple(TableHeld(turn.me, entry.name, entry.digest, entry.rows) for entry in held)
    line = "\n".join(f"{table.name} {table.digest}" for table in tables).encode()
    if again or turn.kept.lines.last(f"announced/{project}") != line:
        turn.kept.lines.append(f"announced/{project}", line)
        for peer in _others(turn, of.current):
            turn.post(peer, TablesHeld(project, tables))
