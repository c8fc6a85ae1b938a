"""What a party tells a peer's ``doctor`` about itself, on the same port and under the same certificates as a link."""

from __future__ import annotations

from datetime import UTC, datetime

from unseen.codec import encode_bytes, message, shown
from unseen.transport.link import FORMAT
from unseen.version import VERSION

MOST_SKEW = 60
"""By how many seconds two clocks may differ before people are told."""


@message("transport/facts")
class Facts:
    """How one side of a link sees itself."""

    version: str
    link: int
    """The format of packets."""
    now: int
    """Seconds since 1970, UTC."""
    objection: str
    """Why a link would be refused, or nothing."""


def facts(objection: str) -> bytes:
    """Return the facts about this process, encoded."""
    return encode_bytes(Facts(VERSION, FORMAT, int(datetime.now(UTC).timestamp()), objection[:500]))


def complaint(found: Facts, now: datetime) -> str | None:
    """Return what does not fit between the facts of a peer and this side, and what to do; ``None`` if all does."""
    if found.objection:
        return f"they refuse a link: {shown(found.objection, limit=500)}"
    if found.link != FORMAT:
        return (
            f"they run unseen {shown(found.version)}, whose links have format {found.link}; unseen {VERSION} here has "
            f"{FORMAT}: both sides need the same major version"
        )
    ahead = found.now - int(now.timestamp())
    if abs(ahead) > MOST_SKEW:
        word = "ahead of" if ahead > 0 else "behind"
        return f"their clock is {abs(ahead)} s {word} the one here; set both by a time server (NTP)"
    return None
