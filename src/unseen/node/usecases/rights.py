"""Whether somebody may do what they are about to do; asked once more where it is done."""

from __future__ import annotations

from unseen.errors import PermissionDenied
from unseen.node.domain import Person, Right
from unseen.trust.agreement import ProjectId


def demand(by: Person, right: Right, project: ProjectId | None = None) -> None:
    """Pass if somebody has a right, in a project if one is named.

    Raises:
        PermissionDenied: They have not.
    """
    if not (by.may(right) if project is None else by.may_in(right, project)):
        where = "" if project is None else f" in {project}"
        raise PermissionDenied(f"{by.name} may not do this{where}: it takes the right to {right}")
