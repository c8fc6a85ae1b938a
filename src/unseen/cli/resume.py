"""``unseen resume``: go on with whatever a folder holds."""

from __future__ import annotations

from pathlib import Path

from unseen.cli.demo import continue_demo
from unseen.cli.run import resume as resume_run


def run(*, folder: Path, quiet: bool) -> None:
    """Go on with a demo or a simulated run."""
    if (folder / "demo.json").exists():
        continue_demo(folder, quiet=quiet)
    else:
        resume_run(folder)
