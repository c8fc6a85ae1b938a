"""Horizontal learning in one place: the names that a program needs, loaded when they are first used.

Those of ``neural`` need the extra ``torch``; data, tables, rounds and evaluation do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unseen.data.federated.clients import FederatedData
    from unseen.data.federated.images import load_images
    from unseen.data.federated.partition import Dirichlet, Iid, Shards, deal
    from unseen.data.federated.sets import open_clients, open_dealt
    from unseen.data.federated.tables import read_tables, tables_from_frames
    from unseen.learners.horizontal.boosting.process import horizontal_boosting
    from unseen.learners.horizontal.boosting.setting import ForestPlan
    from unseen.learners.horizontal.linear.process import horizontal_linear, horizontal_logistic
    from unseen.learners.horizontal.neural.augment import Affine, Flip, Shift
    from unseen.learners.horizontal.neural.models import (
        bigger_cnn,
        logistic_regression,
        niid_cnn,
        perceptron,
        tutorial_cnn,
    )
    from unseen.learners.horizontal.neural.trainer import TorchTrainer
    from unseen.learners.horizontal.process import Examples, LocalPlan, Process, Trainer
    from unseen.learners.horizontal.robust import aggregator, robust
    from unseen.learners.horizontal.secure_mean import SecureMean, secure
    from unseen.learners.horizontal.strategies import strategy
    from unseen.learners.horizontal.strategies.clustered import clustered
    from unseen.learners.horizontal.strategies.ditto import ditto
    from unseen.learners.horizontal.strategies.fed_adagrad import fed_adagrad
    from unseen.learners.horizontal.strategies.fed_adam import fed_adam
    from unseen.learners.horizontal.strategies.fed_avg import fed_avg
    from unseen.learners.horizontal.strategies.fed_avg_m import fed_avg_m
    from unseen.learners.horizontal.strategies.fed_bn import fed_bn
    from unseen.learners.horizontal.strategies.fed_buff import fed_buff
    from unseen.learners.horizontal.strategies.fed_dyn import fed_dyn
    from unseen.learners.horizontal.strategies.fed_nova import fed_nova
    from unseen.learners.horizontal.strategies.fed_prox import fed_prox
    from unseen.learners.horizontal.strategies.fed_rep import fed_rep
    from unseen.learners.horizontal.strategies.fed_sgd import fed_sgd
    from unseen.learners.horizontal.strategies.fed_yogi import fed_yogi
    from unseen.learners.horizontal.strategies.scaffold import scaffold
    from unseen.learners.horizontal.topology import Topology
    from unseen.rounds.asynchronous import AsynchronousSimulation, Flight
    from unseen.rounds.attend import AttendSettings, attend
    from unseen.rounds.cohort import Poisson, Uniform, Weighted
    from unseen.rounds.evaluation import compare, per_client
    from unseen.rounds.gossip import Gossip, GossipSettings
    from unseen.rounds.logs import MlFlow, Progress, TensorBoard, told
    from unseen.rounds.pace import Faults, Pace
    from unseen.rounds.peers import PeerSettings, take_part
    from unseen.rounds.run import Round, Run
    from unseen.rounds.serve import Server, ServeSettings
    from unseen.rounds.simulate import Settings, Simulation

_HOME = {
    "Affine": "unseen.learners.horizontal.neural.augment",
    "AsynchronousSimulation": "unseen.rounds.asynchronous",
    "AttendSettings": "unseen.rounds.attend",
    "Dirichlet": "unseen.data.federated.partition",
    "Examples": "unseen.learners.horizontal.process",
    "Faults": "unseen.rounds.pace",
    "FederatedData": "unseen.data.federated.clients",
    "Flight": "unseen.rounds.asynchronous",
    "Flip": "unseen.learners.horizontal.neural.augment",
    "ForestPlan": "unseen.learners.horizontal.boosting.setting",
    "Gossip": "unseen.rounds.gossip",
    "GossipSettings": "unseen.rounds.gossip",
    "Iid": "unseen.data.federated.partition",
    "LocalPlan": "unseen.learners.horizontal.process",
    "MlFlow": "unseen.rounds.logs",
    "Pace": "unseen.rounds.pace",
    "PeerSettings": "unseen.rounds.peers",
    "Poisson": "unseen.rounds.cohort",
    "Process": "unseen.learners.horizontal.process",
    "Progress": "unseen.rounds.logs",
    "Round": "unseen.rounds.run",
    "Run": "unseen.rounds.run",
    "SecureMean": "unseen.learners.horizontal.secure_mean",
    "ServeSettings": "unseen.rounds.serve",
    "Server": "unseen.rounds.serve",
    "Settings": "unseen.rounds.simulate",
    "Shards": "unseen.data.federated.partition",
    "Shift": "unseen.learners.horizontal.neural.augment",
    "Simulation": "unseen.rounds.simulate",
    "TensorBoard": "unseen.rounds.logs",
    "Topology": "unseen.learners.horizontal.topology",
    "TorchTrainer": "unseen.learners.horizontal.neural.trainer",
    "Trainer": "unseen.learners.horizontal.process",
    "Uniform": "unseen.rounds.cohort",
    "Weighted": "unseen.rounds.cohort",
    "aggregator": "unseen.learners.horizontal.robust",
    "attend": "unseen.rounds.attend",
    "bigger_cnn": "unseen.learners.horizontal.neural.models",
    "clustered": "unseen.learners.horizontal.strategies.clustered",
    "compare": "unseen.rounds.evaluation",
    "deal": "unseen.data.federated.partition",
    "ditto": "unseen.learners.horizontal.strategies.ditto",
    "fed_adagrad": "unseen.learners.horizontal.strategies.fed_adagrad",
    "fed_adam": "unseen.learners.horizontal.strategies.fed_adam",
    "fed_avg": "unseen.learners.horizontal.strategies.fed_avg",
    "fed_avg_m": "unseen.learners.horizontal.strategies.fed_avg_m",
    "fed_bn": "unseen.learners.horizontal.strategies.fed_bn",
    "fed_buff": "unseen.learners.horizontal.strategies.fed_buff",
    "fed_dyn": "unseen.learners.horizontal.strategies.fed_dyn",
    "fed_nova": "unseen.learners.horizontal.strategies.fed_nova",
    "fed_prox": "unseen.learners.horizontal.strategies.fed_prox",
    "fed_rep": "unseen.learners.horizontal.strategies.fed_rep",
    "fed_sgd": "unseen.learners.horizontal.strategies.fed_sgd",
    "fed_yogi": "unseen.learners.horizontal.strategies.fed_yogi",
    "horizontal_boosting": "unseen.learners.horizontal.boosting.process",
    "horizontal_linear": "unseen.learners.horizontal.linear.process",
    "horizontal_logistic": "unseen.learners.horizontal.linear.process",
    "load_images": "unseen.data.federated.images",
    "logistic_regression": "unseen.learners.horizontal.neural.models",
    "niid_cnn": "unseen.learners.horizontal.neural.models",
    "open_clients": "unseen.data.federated.sets",
    "open_dealt": "unseen.data.federated.sets",
    "per_client": "unseen.rounds.evaluation",
    "perceptron": "unseen.learners.horizontal.neural.models",
    "read_tables": "unseen.data.federated.tables",
    "robust": "unseen.learners.horizontal.robust",
    "scaffold": "unseen.learners.horizontal.strategies.scaffold",
    "secure": "unseen.learners.horizontal.secure_mean",
    "strategy": "unseen.learners.horizontal.strategies",
    "tables_from_frames": "unseen.data.federated.tables",
    "take_part": "unseen.rounds.peers",
    "told": "unseen.rounds.logs",
    "tutorial_cnn": "unseen.learners.horizontal.neural.models",
}

__all__ = [
    "Affine",
    "AsynchronousSimulation",
    "AttendSettings",
    "Dirichlet",
    "Examples",
    "Faults",
    "FederatedData",
    "Flight",
    "Flip",
    "ForestPlan",
    "Gossip",
    "GossipSettings",
    "Iid",
    "LocalPlan",
    "MlFlow",
    "Pace",
    "PeerSettings",
    "Poisson",
    "Process",
    "Progress",
    "Round",
    "Run",
    "SecureMean",
    "ServeSettings",
    "Server",
    "Settings",
    "Shards",
    "Shift",
    "Simulation",
    "TensorBoard",
    "Topology",
    "TorchTrainer",
    "Trainer",
    "Uniform",
    "Weighted",
    "aggregator",
    "attend",
    "bigger_cnn",
    "clustered",
    "compare",
    "deal",
    "ditto",
    "fed_adagrad",
    "fed_adam",
    "fed_avg",
    "fed_avg_m",
    "fed_bn",
    "fed_buff",
    "fed_dyn",
    "fed_nova",
    "fed_prox",
    "fed_rep",
    "fed_sgd",
    "fed_yogi",
    "horizontal_boosting",
    "horizontal_linear",
    "horizontal_logistic",
    "load_images",
    "logistic_regression",
    "niid_cnn",
    "open_clients",
    "open_dealt",
    "per_client",
    "perceptron",
    "read_tables",
    "robust",
    "scaffold",
    "secure",
    "strategy",
    "tables_from_frames",
    "take_part",
    "told",
    "tutorial_cnn",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'unseen.horizontal' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
