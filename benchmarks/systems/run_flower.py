"""Flower's simulation engine, with an actor of Ray for each core; needs ``flwr[simulation]`` and ``torch``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", UNSEEN_WORKLOAD=os.path.abspath(sys.argv[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # where actors find the client

from flower_client import app, given
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_model import accuracy, module_of
from workload import Laps


class Timed(FedAvg):
    """FedAvg whose messages say which client to play, so that the cohorts are everyone's."""

    def __init__(self, cohorts: list[list[int]], laps: Laps) -> None:
        super().__init__(fraction_train=1e-9, min_train_nodes=len(cohorts[0]), fraction_evaluate=0.0)
        self._cohorts, self._laps = cohorts, laps

    def configure_train(self, server_round: int, *args: Any, **named: Any) -> Iterable[Message]:
        """Return the messages of a round."""
        self._laps.begin()
        messages = super().configure_train(server_round, *args, **named)
        return [_to(message, client) for message, client in zip(messages, self._cohorts[server_round - 1], strict=True)]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Return the round's model; a client that failed would make the round a cheaper one."""
        answers = list(replies)
        failed = [str(answer.error) for answer in answers if answer.has_error()]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(answers)} clients failed: {failed[0]}")
        found = super().aggregate_train(server_round, answers)
        self._laps.end()
        return found


def _to(message: Message, client: int) -> Message:
    content = message.content
    config = ConfigRecord({**content["config"], "client": client})
    told = RecordDict({"arrays": content["arrays"], "config": config})
    return Message(told, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type)


def main() -> None:
    """Run it."""
    work, server, found = given(), ServerApp(), []
    module, laps = module_of(work), Laps()

    @server.main()
    def play(grid: Grid, context: Context) -> None:
        del context
        start = ArrayRecord(module.state_dict())
        strategy = Timed(work.cohorts, laps)
        found.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=len(work.cohorts)).arrays)

    init: dict[str, Any] = {"num_cpus": os.cpu_count(), "logging_level": "ERROR", "include_dashboard": False}
    resources = {"client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}, "init_args": init}
    run_simulation(server, app, work.clients, backend_config=resources)
    module.load_state_dict(found[0].to_torch_state_dict())
    laps.report(accuracy(module, work))


if __name__ == "__main__":
    main()
