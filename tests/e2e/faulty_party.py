"""``faulty_party.py N party …``: the command line of Unseen, killed at the N-th effect of its dialogue."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from unseen.cli.main import main
from unseen.dialogue import Desk

left = int(sys.argv.pop(1))


def dying(method: Any) -> Any:
    def counted(self: Desk, *arguments: Any) -> Any:
        global left  # noqa: PLW0603  # one counter for the process
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments)

    return counted


for name in ("sent", "received", "answer"):
    setattr(Desk, name, dying(getattr(Desk, name)))
main()
