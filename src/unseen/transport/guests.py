"""Who may call at a node's port besides partners: guests, who were invited to become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol


class Guests(Protocol):
    """Receives guests; used from several threads."""

    def roots(self) -> Sequence[bytes]:
        """Return the roots, PEM, under which guests may come through the handshake now."""
        ...

    def receive(self, certificate_pem: bytes, packets: Iterator[bytes]) -> Iterator[bytes] | None:
        """Return what a guest under this certificate is told, while it says ``packets``; ``None`` if it is none."""
        ...
