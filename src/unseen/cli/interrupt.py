"""Ctrl-C and SIGTERM end a job politely: it can be resumed, and nobody sees a traceback."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def cancel_on_signal() -> Iterator[threading.Event]:
    """Give a token that is set when the process is asked to stop; a second signal acts as it did before."""
    token = threading.Event()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(*_: object) -> None:
        token.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield token
    finally:
        restore()
