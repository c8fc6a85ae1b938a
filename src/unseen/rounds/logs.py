"""Who watches a run: a bar in the terminal, TensorBoard, MLflow. Each is given to ``rounds`` as ``observe``.

::

    with Progress(100) as bar, TensorBoard(Path("logs")) as board:
        simulation.rounds(100, observe=told(bar, board))

They hear of means over clients and of tests, never of one client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console

from unseen.errors import UsageError
from unseen.rounds.run import Round


def told(*watchers: Callable[[Round], None]) -> Callable[[Round], None]:
    """Return a watcher that tells several."""

    def tell(one: Round) -> None:
        for watcher in watchers:
            watcher(one)

    return tell


def figures(one: Round) -> Iterator[tuple[str, float]]:
    """Yield the names and values of what a round has to tell, in the order of its fields."""
    yield from ((f"training/{name}", value) for name, value in one.training.items())
    yield from ((f"test/{name}", value) for name, value in one.test.items())
    yield "clients/heard", one.cohort - one.dropped
    yield "seconds/real", one.seconds
    if one.clock:
        yield "seconds/simulated", one.clock


class Progress:
    """A bar with the last figures and the time that is left, for a run of ``rounds``."""

    def __init__(self, rounds: int, console: Console | None = None) -> None:
        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()
        self._bar = progress.Progress(
            *columns, progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[last]}"), console=console
        )
        self._task = self._bar.add_task("rounds", total=rounds, last="")
        self._tested = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, one: Round) -> None:
        """Show a finished round; the last test stays until the next one."""
        if one.test:
            self._tested = "  ".join(f"{name} {value:.4f}" for name, value in one.test.items())
        training = "  ".join(f"{name} {value:.4f}" for name, value in one.training.items())
        last = f"training: {training}" + (f"   test: {self._tested}" if self._tested else "")
        self._bar.update(self._task, completed=one.number, last=last)


class TensorBoard:
    """Writes every round's figures for TensorBoard into a folder.

    Raises:
        UsageError: The extra ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer: Any = _extra("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, one: Round) -> None:
        """Write a finished round."""
        for name, value in figures(one):
            self._writer.add_scalar(name, value, one.number)


class MlFlow:
    """Writes every round's figures as one run of MLflow; where to is said by its own settings (MLFLOW_TRACKING_URI).

    Raises:
        UsageError: The extra ``mlflow`` is not installed.
    """

    def __init__(self, experiment: str, run: str | None = None) -> None:
        self._mlflow: Any = _extra("mlflow", "mlflow")
        self._mlflow.set_experiment(experiment)
        self._name = run

    def __enter__(self) -> Self:
        self._mlflow.start_run(run_name=self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mlflow.end_run("FINISHED" if error is None else "FAILED")

    def __call__(self, one: Round) -> None:
        """Write a finished round."""
        self._mlflow.log_metrics(dict(figures(one)), step=one.number)


def _extra(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} is not installed: pip install 'unseen[{extra}]'") from error
