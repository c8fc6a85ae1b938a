"""Serves a node's HTTP in a thread: loopback by default; anywhere else over TLS only."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from unseen.errors import UsageError
from unseen.transport.diagnosis import split_endpoint

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
MOST_CONNECTIONS = 256
HEAD_SECONDS = 20.0
"""For the head of a connection's first request."""


def check_address(listen: str, certificate: Path | None) -> tuple[str, int]:
    """Return host and port.

    Raises:
        UsageError: It is no address, or one that others reach without TLS.
    """
    host, port = split_endpoint(listen)
    if certificate is None and host not in _LOOPBACK:
        raise UsageError(
            f"http: {listen} is reached from other machines, and passwords would go there in the clear: give "
            "http_certificate and http_key, or listen at 127.0.0.1"
        )
    return host, port


@contextmanager
def serving(
    app: FastAPI, listen: str, *, certificate: Path | None = None, key: Path | None = None
) -> Iterator[tuple[str, int]]:
    """Serve until the block ends; yield host and port, which is a free one if 0 was asked for.

    Raises:
        UsageError: The address cannot be used, or the certificate cannot be read.
    """
    host, port = check_address(listen, certificate)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(_STOP_SECONDS),
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
    )
    server = _Server(config)
    app.state.stopping.clear()
    try:
        config.load()
        listener = _bound(host, port)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"http: nobody can be served at {listen}: {error.strerror or error}") from error
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield host, listener.getsockname()[1]
    finally:
        # First: streams end by themselves, before whatever is left is cut off.
        app.state.stopping.set()
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        listener.close()


class _Patient(H11Protocol):
    """A connection; not one too many, and not of somebody who asks for nothing: files are needed for jobs as well."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, or hang up."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
        else:
            self.loop.call_later(HEAD_SECONDS, self._look)

    def _look(self) -> None:
        begun = cast("RequestResponseCycle | None", self.cycle)
        if begun is None and not self.transport.is_closing():
            self.transport.close()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that says that it is TCP's: else asyncio leaves Nagle's algorithm on, and answers wait 40 ms."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """A server whose process handles signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: this is not the main thread."""
        yield
