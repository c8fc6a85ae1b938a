"""Whether somebody may do what they are about to do, asked once more where it is done; and how it is recorded."""

from __future__ import annotations

from unseen.errors import PermissionDenied
from unseen.node.domain import Person, Right
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Colleague


def demand(by: Person, right: Right, project: ProjectId | None = None) -> None:
    """Pass if somebody has a right, in a project if one is named.

    Raises:
        PermissionDenied: They have not.
    """
    if not (by.may(right) if project is None else by.may_in(right, project)):
        where = "" if project is None else f" in {project}"
        raise PermissionDenied(f"{by.name} may not do this{where}: it takes the right to {right}")


def colleague(person: Person) -> Colleague:
    """Return how this node's own trail names one of its people."""
    return Colleague(
        name=person.name,
        duties=tuple(sorted(person.duties)),
        projects=tuple(sorted(person.projects)),
        active=person.active,
        added=person.created,
        changed=person.changed,
    )
