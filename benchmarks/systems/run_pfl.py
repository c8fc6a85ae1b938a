"""Apple's pfl-research, simulated in one process with a module of PyTorch; needs ``pfl[pytorch]``."""

from __future__ import annotations

import os
from itertools import chain, cycle
from typing import Any

os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch_model import accuracy, module_of, tensor_of
from workload import Laps, Workload, given


class Model(nn.Module):
    """The benchmark's module, with the two functions that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        found: Tensor = self.inner(x)
        return found

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:  # pfl's own names
        """Return the loss of a batch."""
        del eval
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = True) -> dict[str, Weighted]:
        """Return no metric worth computing: no round is evaluated."""
        del x, y, eval
        return {"loss": Weighted(0.0, 1)}


class Clock(TrainingProcessCallback):
    """Ends a round, and begins the next."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Begin the first round."""
        del model
        self._laps.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """End a round, and begin the next."""
        del aggregate_metrics, model, central_iteration
        self._laps.end()
        self._laps.begin()
        return False, Metrics()


def _data(work: Workload) -> FederatedDataset:
    def read(number: int) -> Dataset:
        images, labels = work.client(number)
        order = torch.randperm(len(labels))
        return Dataset([tensor_of(images)[order], torch.from_numpy(labels)[order]], user_id=str(number))

    return FederatedDataset(read, cycle(chain.from_iterable(work.cohorts)).__next__)


def main() -> None:
    """Run it."""
    work = given()
    module, data, laps = Model(module_of(work)), _data(work), Laps()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=len(work.cohorts),
            evaluation_frequency=10**6,
            train_cohort_size=len(work.cohorts[0]),
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), 1.0)),
        NNTrainHyperParams(
            local_learning_rate=work.learning_rate, local_num_epochs=work.epochs, local_batch_size=work.batch
        ),
        NNEvalHyperParams(local_batch_size=1000),
        callbacks=[Clock(laps)],
    )
    laps.report(accuracy(module, work))


if __name__ == "__main__":
    main()
