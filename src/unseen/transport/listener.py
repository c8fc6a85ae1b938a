"""The gRPC server at a node's port, which another one replaces when what it shows, or whom it lets in, has changed.

gRPC's own way, credentials that are asked for at every handshake, is not used: with grpcio 1.85 a handshake under them
that times out may crash the process, and anybody can begin one.
"""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import SERVICE, DaemonThreads, connection_options

import grpc  # isort: skip

import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.diagnosis import split_endpoint

# Strangers can have connections, but neither for long nor so many that files of the node could not be opened.
_HANDSHAKE_MS = 10_000
_MOST_CONNECTIONS = 12_288
# For everything else: the store, workers, people over HTTP, tables.
_OTHER_FILES = 1024
_MOST_CALLS = 128
# For how long calls that began before a change may go on.
_DRAIN = 3600.0
_REBIND = 5.0
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server shows in a handshake, and the roots of whom it lets through one; PEM."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    roots_pem: bytes


def most_connections() -> int:
    """Return how many connections a port may have at once, after asking for as many open files as the process may have.

    A quarter of the files is left to all else, at most 1,024: whoever opens connections cannot keep the node from its
    store and its workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, allowed) and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    files = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(files - min(_OTHER_FILES, files // 4), 16)


class Listener:
    """Serves methods at one port; it listens from the beginning and answers from ``start`` on.

    Args:
        party: Whose port it is.
        listen: ``host:port``, port 0 for any.
        methods: gRPC's handlers by name.
        credentials: What to begin with.
        keepalive: Seconds between probes of an idle connection.

    Raises:
        UsageError: The port is not free, or the address is none.
    """

    def __init__(
        self, party: PartyId, listen: str, methods: Mapping[str, Any], credentials: Credentials, *, keepalive: float
    ) -> None:
        host, _ = split_endpoint(listen)
        self._party = party
        self._methods = methods
        self._keepalive = keepalive
        self._shown = credentials
        self._leaving: list[tuple[Any, threading.Event]] = []
        self._server, self.port = self._bind(listen)
        self._listen = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def show(self, credentials: Credentials) -> None:
        """Go on with these credentials, if they are others; calls on their way end at the server before.

        Raises:
            UsageError: The port was taken meanwhile; the next attempt may succeed.
        """
        if credentials == self._shown and self._server is not None:
            return
        if self._server is not None:
            gone = [(server, ended) for server, ended in self._leaving if not ended.is_set()]
            self._leaving = [*gone, (self._server, self._server.stop(_DRAIN))]
            self._server = None
        self._shown = credentials
        deadline = time.monotonic() + _REBIND
        while self._server is None:
            try:
                self._server, _ = self._bind(self._listen)
            except UsageError:  # the server before may not have left the port yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
        self._server.start()

    def close(self, grace: float, deadline: float) -> None:
        """End all calls after ``grace`` seconds, and wait for their threads until ``deadline`` (monotonic)."""
        servers = [server for server, _ in self._leaving]
        if self._server is not None:
            servers.append(self._server)
        for ended in [server.stop(grace) for server in servers]:
            ended.wait(max(deadline - time.monotonic(), 0))

    def _bind(self, listen: str) -> tuple[Any, int]:
        server = grpc.server(
            DaemonThreads(),
            handlers=[grpc.method_handlers_generic_handler(SERVICE, self._methods)],
            options=[
                *connection_options(self._keepalive),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_allowed_incoming_connections", most_connections()),
                ("grpc.max_concurrent_streams", _MOST_CALLS),
            ],
        )
        shown = self._shown
        credentials = grpc.ssl_server_credentials(
            [(shown.key_pem, shown.certificate_pem)], shown.roots_pem, require_client_auth=True
        )
        try:
            return server, server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise UsageError(
                f"{self._party} cannot listen at {listen}: another process uses the port, or the address is not of "
                "this machine; choose another one"
            ) from error
