"""The client of ``run_flower``, in a module of its own: Ray's actors import it and keep the data between rounds."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch_model import module_of, tensor_of
from workload import Workload

if TYPE_CHECKING:
    from flwr.app import Context

app = ClientApp()


@cache
def given() -> Workload:
    """Return what ``run_flower`` was given; an actor reads it once."""
    return Workload(os.environ["UNSEEN_WORKLOAD"])


@cache
def _module() -> nn.Module:
    torch.set_num_threads(1)  # each actor has one core
    return module_of(given())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the client whose number the message tells."""
    del context
    work, module = given(), _module()
    images, labels = work.client(int(message.content["config"]["client"]))
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(module.parameters(), lr=work.learning_rate)
    x, y = tensor_of(images), torch.from_numpy(labels)
    for _ in range(work.epochs):
        for rows in torch.randperm(len(y)).split(work.batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    counted = MetricRecord({"num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": counted}), reply_to=message)
