"""Finds out whether all parties of a meeting have been told the same at its beginning."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.dialogue import Dialogue, receive_all, send_all
from unseen.errors import RemoteProtocolError
from unseen.protocols.psi.port import Meeting


@message("psi_join/agreed")
class Agreed:
    """Digest of all that the sender was told at the beginning."""

    digest: Annotated[NDArray[np.uint8], Shape(32)]


def agree(joint: bytes, meeting: Meeting) -> Dialogue[None]:
    """Pass if three or more parties have been told the same: one that tells them different things makes them quarrel.

    Raises:
        RemoteProtocolError: They have not. It cannot be known by whom.
    """
    if len(meeting.peers) < 2:
        return
    yield from send_all(meeting.peers, Agreed(np.frombuffer(joint, np.uint8)))
    answers = yield from receive_all(meeting.peers, Agreed)
    differing = sorted(peer for peer, answer in answers.items() if answer.digest.tobytes() != joint)
    if differing:
        raise RemoteProtocolError(
            f"{', '.join(differing)} and this party were told different things at the beginning, by one of "
            f"{', '.join(meeting.peers)}: ask them to compare versions and settings"
        )
