"""``unseen demo-nodes``: a project of two nodes, from pairing to revocation."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from unseen.cli.terminal import harmless
from unseen.demo.nodes import run_nodes
from unseen.errors import UsageError


def run(*, out: Path, rows: int | None) -> None:
    """Go through the project, and say what happens."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty, and nodes keep what they have: choose another folder with --out")
    console, began = Console(), time.monotonic()

    def say(text: str) -> None:
        line = f"{time.monotonic() - began:6.1f} s  {harmless(text)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    run_nodes(out.resolve(), say, rows=rows)
