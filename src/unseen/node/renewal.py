"""Lets a node that runs go on with the certificate that another process has put into its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable

from unseen.errors import UnseenError
from unseen.node.folder import Node
from unseen.transport.tls import Identity

_log = logging.getLogger(__name__)


class Renewal:
    """A chore that notices ``unseen node renew`` and ``revoke``.

    Args:
        node: Whose certificate is looked at.
        show: Is called with every new identity; those that cannot be used are logged, and the one before stays.
    """

    def __init__(self, node: Node, show: Callable[[Identity], None]) -> None:
        self._node, self._show = node, show
        self._seen = node.identity_mark()

    def __call__(self) -> None:
        """Look once."""
        mark = self._node.identity_mark()
        if mark == self._seen:
            return
        try:
            self._show(self._node.identity())
        except UnseenError as error:
            _log.error("the certificate in %s cannot be taken up: %s", self._node.folder, error)
        else:
            _log.info("the node goes on with a renewed certificate")
        self._seen = mark
