"""A convex problem whose optimum is known: ridge regression, a few examples per client, as a ``Trainer`` in numpy.

Clients differ in their optimum, their curvature and, if asked for, their number of examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unseen.learners.horizontal.process import Assignment, Broadcast, Correction, Examples, Fit, Process, State, stream

EVERYTHING = 10**9
"""A batch that holds all examples: plain gradient descent."""


@dataclass
class Ridge:
    """½ · mean (x·w − y)² + l2/2 · ‖w‖², its numbers called by ``names``."""

    size: int
    l2: float = 0.0
    names: tuple[str, ...] = ()

    def settle(self):
        pass

    def initial(self, seed):
        return stream(seed, "initial").standard_normal(self.size, np.float32)

    def fit(self, model, examples, plan, rng, correction):
        w, velocity, losses, steps = model.astype(np.float64), np.zeros(self.size), [], 0
        limit = plan.steps if plan.steps is not None else np.inf
        for _ in range(plan.epochs):
            order = rng.permutation(len(examples))
            for start in range(0, len(order), plan.batch):
                if steps == limit:
                    break
                rows = order[start : start + plan.batch]
                batch = Examples(examples.inputs[rows], examples.labels[rows])
                gradient, loss = self._gradient(w, batch)
                velocity = plan.momentum * velocity + self._corrected(gradient, w, plan, correction)
                w = w - plan.learning_rate * velocity
                losses.append(loss)
                steps += 1
        return Fit(w.astype(np.float32), steps, float(np.mean(losses)))

    def gradient(self, model, examples):
        gradient, loss = self._gradient(model.astype(np.float64), examples)
        return gradient.astype(np.float32), loss

    def evaluate(self, model, examples):
        return {"loss": self._gradient(model.astype(np.float64), examples)[1]}

    def part(self, *names):
        return np.array([place for place, name in enumerate(self.names) if name.startswith(names)], np.int64)

    def _gradient(self, w, examples):
        residual = examples.inputs @ w - examples.labels
        loss = 0.5 * float(np.mean(residual**2)) + 0.5 * self.l2 * float(w @ w)
        return examples.inputs.T @ residual / len(examples) + self.l2 * w, loss

    @staticmethod
    def _corrected(gradient, w, plan, correction: Correction):
        gradient = gradient + plan.weight_decay * w
        if correction.anchor is not None:
            gradient = gradient + correction.pull * (w - correction.anchor)
        return gradient if correction.drift is None else gradient + correction.drift


def clients_of(count, size, *, seed=0, apart=1.0, curvature=2.0, sizes=None, noise=0.1):
    """Return clients whose optima lie ``apart`` and whose curvatures along the axes differ by up to ``curvature``²."""
    rng, clients = np.random.default_rng(seed), {}
    for number in range(count):
        examples = 20 if sizes is None else sizes[number]
        scale = curvature ** rng.uniform(-1, 1, size)
        inputs = rng.standard_normal((examples, size)) * scale
        target = 1.0 + apart * rng.standard_normal(size)
        labels = inputs @ target + noise * rng.standard_normal(examples)
        clients[f"client-{number}"] = Examples(inputs, labels)
    return clients


def optimum(clients, *, weights=None, l2=0.0):
    """Return the minimum of Σ weightᵢ·Fᵢ / Σ weightᵢ; by default every client counts by its examples."""
    weights = [len(examples) for examples in clients.values()] if weights is None else weights
    hessian, target = 0.0, 0.0
    for weight, one in zip(np.asarray(weights) / np.sum(weights), clients.values(), strict=True):
        hessian = hessian + weight * one.inputs.T @ one.inputs / len(one)
        target = target + weight * one.inputs.T @ one.labels / len(one)
    return np.linalg.solve(hessian + l2 * np.eye(len(target)), target)


@dataclass
class Federation:
    """Plays rounds in one thread; keeps the memories and the last aggregate."""

    process: Process
    trainer: Ridge
    clients: dict
    seed: int = 0
    cohort: int | None = None
    state: State | None = None
    memories: dict = field(default_factory=dict)
    aggregate: object = None

    def assignment(self, name, broadcast: Broadcast, round_number=0):
        rng = stream(self.seed, round_number, name, "work")
        return Assignment(name, broadcast, self.clients[name], self.memories.get(name, {}), rng)

    def begin(self):
        return self.process.start(self.trainer.initial(self.seed))

    def play(self, rounds, attack=None):
        """Return the model after so many further rounds; ``attack`` may change the list of updates."""
        for _ in range(rounds):
            state = self.begin() if self.state is None else self.state
            broadcast, names = self.process.distributor(state), sorted(self.clients)
            if self.cohort is not None:
                names = stream(self.seed, state.round, "cohort").choice(names, self.cohort, replace=False).tolist()
            updates = []
            for name in names:
                task = self.assignment(name, broadcast, state.round)
                update, self.memories[name] = self.process.client_round(self.trainer, task)
                updates.append(update)
            updates = updates if attack is None else attack(updates)
            self.state, self.aggregate = self.process.next(state, updates)
        return self.state.model


def distance(model, target):
    """Return ‖model − target‖."""
    return float(np.linalg.norm(np.asarray(model, np.float64) - target))
