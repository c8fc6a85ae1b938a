"""Plays a learner's rounds in this process, one client after the other."""

import numpy as np

from unseen.ids import ClientId
from unseen.learners.horizontal.process import Assignment, Examples


def examples(inputs, labels):
    return Examples(np.asarray(inputs), np.asarray(labels))


def play(learner, clients, *, present=lambda round_, number: True, rounds=None):
    """Return the states after all rounds; ``clients`` are (inputs, labels)."""
    states = [learner.process.start(learner.trainer.initial(0))]
    while not learner.complete(states[-1]) and len(states) <= (rounds or learner.rounds):
        state = states[-1]
        broadcast = learner.process.distributor(state)
        updates = [
            learner.process.client_round(
                learner.trainer,
                Assignment(ClientId(f"c{number}"), broadcast, examples(*own), {}, np.random.default_rng(0)),
            )[0]
            for number, own in enumerate(clients)
            if present(state.round, number)
        ]
        states.append(learner.process.next(state, updates)[0])
    return states


def shared_out(inputs, labels, clients):
    """Return clients as unlike as can be: each has its own range of labels, then of the first column."""
    order = np.lexsort((inputs[:, 0], labels))
    return [(inputs[rows], labels[rows]) for rows in np.array_split(order, clients)]
