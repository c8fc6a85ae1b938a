"""Trails of decisions: what is in them, heads of others, and whether all fits together."""

from __future__ import annotations

from dataclasses import dataclass

from unseen.codec import shown
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.books import NODE_TRAIL, Books, Turn
from unseen.node.letters import HeadSigned
from unseen.node.usecases.signatures import membership
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code, Event, Head, Record, Verified, check_heads, open_head, verify
from unseen.trust.envelope import read_envelope


@dataclass(frozen=True, slots=True)
class HeldHead:
    """How far a member's trail had got when it signed that."""

    party: PartyId
    head: Head
    frame: bytes
    """In its envelope, to be shown to others."""


class Audit:
    """What auditors ask."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def records(self, project: ProjectId | None, after: int = 0, limit: int = 1000) -> tuple[Record, ...]:
        """Return records of a project's trail, or of what could not be told to any, after a number."""
        lines = self.lines(project)[after : after + limit]
        return tuple(Record.model_validate_json(line) for line in lines)

    def lines(self, project: ProjectId | None) -> tuple[bytes, ...]:
        """Return a whole trail, for ``unseen audit verify``."""
        with self._books.turn() as turn:
            return tuple(turn.kept.lines.read(NODE_TRAIL if project is None else f"trail/{project}"))

    def heads(self, project: ProjectId) -> tuple[HeldHead, ...]:
        """Return the newest head of each other member's trail."""
        with self._books.turn() as turn:
            members = turn.gate(project).project.current.members
            held = [(member, _last_head(turn, project, member.party)) for member in members]
            return tuple(
                HeldHead(
                    member.party,
                    open_head(read_envelope(frame, sender="store"), member.party, member.key),
                    frame,
                )
                for member, frame in held
                if frame is not None
            )

    def verify(self, project: ProjectId) -> Verified:
        """Return what this node's own trail of a project is, if its records follow each other.

        Raises:
            DataError: It was edited or cut.
        """
        return verify(self.lines(project))


def take_head(turn: Turn, peer: PartyId, letter: HeadSigned) -> None:
    """Keep the head of a member's trail, if it goes on from the last one; if not, that is kept in this node's trail.

    Raises:
        RemoteProtocolError: It is not signed by that member, or shows another history than an earlier one.
    """
    of = membership(turn, peer, letter.project)
    project, member = of.current.project, of.current.member(peer)
    if member is None:
        raise RemoteProtocolError(f"{peer} takes no part in {of.current}")
    envelope = read_envelope(letter.frame, sender=peer)
    head = open_head(envelope, peer, member.key)
    earlier = _last_head(turn, project, peer)
    if earlier is not None:
        try:
            check_heads(read_envelope(earlier, sender="store"), envelope, member.key)
        except DataError as error:
            raise RemoteProtocolError(f"{peer}: {shown(str(error), limit=300)}") from error
    turn.kept.lines.append(f"heads/{project}/{peer}", letter.frame)
    turn.gate(project).note(
        Event.HEAD_RECEIVED, code=Code.NONE, party=peer, project=project, subject=head.last, count=head.count
    )


def _last_head(turn: Turn, project: ProjectId, party: PartyId) -> bytes | None:
    return turn.kept.lines.last(f"heads/{project}/{party}")
