"""``unseen demo``: the main job, one process per party."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from unseen.cli.board import watching
from unseen.cli.interrupt import cancel_on_signal
from unseen.demo.flow import Mode
from unseen.demo.prepare import JOB, DemoOptions, DemoPlan, prepare
from unseen.demo.processes import run_parties
from unseen.demo.results import DemoResults, build_report
from unseen.errors import UsageError
from unseen.flow.store import write_file
from unseen.report.console import comparison_table
from unseen.report.html import write

MODES: tuple[Mode, ...] = ("private", "linearised", "exact")
SCHEMES = ("lattice", "paillier")


def run(*, out: Path, data: Path | None, rows: int | None, mode: str | None, scheme: str, quiet: bool) -> None:
    """Lay the demo out, run it, and show what came out."""
    chosen = next((known for known in MODES if known == mode), None)
    if mode is not None and chosen is None:
        raise UsageError(f"--mode is one of {', '.join(MODES)}, found {mode}")
    if scheme not in SCHEMES:
        raise UsageError(f"--scheme is one of {', '.join(SCHEMES)}, found {scheme}")
    options = DemoOptions(out, data, rows, chosen, scheme)
    console = Console()
    plan = prepare(options)
    console.print(f"{len(plan.parties)} parties in {out}: {', '.join(plan.parties)}; {plan.active} holds the label")
    _perform(plan, console, quiet=quiet)


def continue_demo(folder: Path, *, quiet: bool) -> None:
    """Go on with a demo that was stopped or killed."""
    _perform(DemoPlan.read(folder), Console(), quiet=quiet)


def _perform(plan: DemoPlan, console: Console, *, quiet: bool) -> None:
    started = time.monotonic()
    steps = plan.workspace(plan.active).job(JOB).flow.steps
    with cancel_on_signal() as cancel:
        if quiet:
            run_parties(plan, cancel=cancel)
        else:
            with watching(console, steps, len(plan.parties)) as observe:
                run_parties(plan, observe=observe, cancel=cancel)
    results = DemoResults(plan)
    report = build_report(results, time.monotonic() - started)
    write_file(plan.out / "report.json", report.to_json().encode())
    path = write(report, plan.out / "report.html")
    console.print(comparison_table(report))
    for sentence in report.conclusion:
        console.print(sentence, highlight=False, markup=False)
    console.print("What the parties learned from each other in training:")
    for row in report.leakage:
        if row.step == "train":
            console.print(f"  {row.party}: {row.learns}", highlight=False, markup=False, soft_wrap=True)
    scores = plan.workspace(plan.active).table_path(results.record(plan.active, "score_new").outputs["scores"])
    console.print(
        f"scores of people without a label: {scores.resolve()}", highlight=False, markup=False, soft_wrap=True
    )
    console.print(f"report: {path.resolve()}", highlight=False, markup=False, soft_wrap=True)
