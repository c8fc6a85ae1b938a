"""What both ends of a gRPC connection between parties have in common: TLS 1.3, names, limits and threads.

Requires that gRPC has not been imported before this module: it reads its TLS settings once, see ``_REFUSE_TLS_1_2``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Any

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.link import MAX_PACKET_BYTES
from unseen.transport.tls import Identity, host_name, party_named
from unseen.transport.visits import Complaints

# gRPC for Python has no setting for the lowest TLS version. Its list of cipher suites, though, concerns TLS 1.2 and
# below only, and with a single suite that needs a pre-shared key nobody can agree on anything but TLS 1.3.
_CIPHERS = "GRPC_SSL_CIPHER_SUITES"
_REFUSE_TLS_1_2 = "ECDHE-PSK-CHACHA20-POLY1305"
_TOO_LATE = "grpc" in sys.modules and os.environ.get(_CIPHERS) != _REFUSE_TLS_1_2
os.environ[_CIPHERS] = _REFUSE_TLS_1_2
# Its own words about failed handshakes go to stderr; `diagnosis` says it better.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402  # the two settings above are read when it is imported

SERVICE = "unseen.Link"
METHOD = "Stream"
FACTS = "Facts"
EXCHANGE = "Exchange"
PAIR = "Pair"


def refuse_old_tls() -> None:
    """Raise ``UsageError`` if gRPC was imported too early, so that it may accept TLS 1.2."""
    if _TOO_LATE:
        raise UsageError(
            "gRPC was imported before unseen.transport.grpc and may accept TLS 1.2: import this module first, or set "
            f"{_CIPHERS}={_REFUSE_TLS_1_2}"
        )


def dialled(endpoint: str, identity: Identity, peer: PartyId, trusted: bytes, keepalive: float = 10.0) -> Any:
    """Return a gRPC channel to ``peer``, whose certificate has to be ``trusted``, or issued by it."""
    credentials = grpc.ssl_channel_credentials(trusted, identity.key_pem, identity.certificate_pem)
    return grpc.secure_channel(endpoint, credentials, _dialer_options(keepalive, peer))


def caller(context: Any) -> tuple[list[str], PartyId | None]:
    """Return the names in a caller's certificate, and the party that they stand for."""
    found = context.auth_context().get("x509_subject_alternative_name", ())
    names = [name.decode("ascii", "replace") for name in found]
    return names, party_named(names)


def certificate_of(context: Any) -> bytes:
    """Return the certificate that a caller showed, PEM."""
    return b"".join(context.auth_context().get("x509_pem_cert", ()))


class Quiet:
    """Keeps errors of this node from its callers, to whom gRPC would tell their text."""

    def __init__(self, context: Any, complaints: Complaints) -> None:
        self._context = context
        self._complaints = complaints

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An RpcError: the caller has gone.
        if isinstance(error, Exception) and not isinstance(error, grpc.RpcError) and self._context.code() is None:
            names, peer = caller(self._context)
            self._complaints.say(peer or "", f"a call of {names} failed here: {type(error).__name__}", error)
            self._context.abort(grpc.StatusCode.INTERNAL, "an error at this node, which its log tells")


class DaemonThreads(Executor):
    """Runs every stream in a thread of its own that does not keep a process alive which forgot to close its channel."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start ``fn`` at once; the future only tells when it is over."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                fn(*args, **kwargs)
            finally:
                future.set_result(None)

        threading.Thread(target=run, name="serve a stream", daemon=True).start()
        return future


def connection_options(keepalive: float) -> list[tuple[str, int | str]]:
    """Return what both ends of a connection ask of gRPC; ``keepalive`` are seconds between probes of an idle one."""
    alive = int(1000 * keepalive)
    return [
        ("grpc.max_receive_message_length", MAX_PACKET_BYTES),
        ("grpc.max_send_message_length", MAX_PACKET_BYTES),
        ("grpc.keepalive_time_ms", alive),
        ("grpc.keepalive_timeout_ms", alive),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", alive // 2),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", alive // 2),
        ("grpc.http2.max_ping_strikes", 0),
        # Two processes on one port would each get half of the streams.
        ("grpc.so_reuseport", 0),
    ]


def _dialer_options(keepalive: float, peer: PartyId) -> list[tuple[str, int | str]]:
    return [
        *connection_options(keepalive),
        ("grpc.ssl_target_name_override", host_name(peer)),
        ("grpc.default_authority", host_name(peer)),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.enable_retries", 0),
        # Otherwise connections of different attempts share one back-off of gRPC's own.
        ("grpc.use_local_subchannel_pool", 1),
        # The endpoint is what was agreed; a proxy named in the environment was not.
        ("grpc.enable_http_proxy", 0),
    ]
