"""Handwritten digits of 300 clients with different mixes of digits: one network, trained by federated averaging.

Needs the extra ``torch`` and the four files of MNIST in a folder that the environment variable ``UNSEEN_DATA`` names.
"""

from unseen.data.federated.images import load_images
from unseen.data.federated.partition import Dirichlet, deal
from unseen.learners.horizontal.neural.augment import Shift
from unseen.learners.horizontal.neural.models import bigger_cnn
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Examples, LocalPlan
from unseen.learners.horizontal.strategies.fed_avg import fed_avg
from unseen.rounds.cohort import Uniform
from unseen.rounds.simulate import Settings, Simulation

digits = load_images("mnist")
clients = deal(digits.train, Dirichlet(1.0), 300, seed=0)
process = fed_avg(LocalPlan(learning_rate=0.05, epochs=4, batch=20, momentum=0.9))
settings = Settings(Uniform(30), evaluate_every=5)

if __name__ == "__main__":
    trainer = TorchTrainer(bigger_cnn, augment=Shift(1))
    with Simulation(clients, trainer, process, settings, test=Examples(*digits.test)) as simulation:
        run = simulation.rounds(30, observe=lambda one: print(one.number, dict(one.training), dict(one.test)))
    print(f"accuracy on digits that no client has: {run.test['accuracy']:.4f}")
