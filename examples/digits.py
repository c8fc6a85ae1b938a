"""Handwritten digits of 300 clients with different mixes of digits: one network, trained by federated averaging.

``make digits`` fetches MNIST and runs it. Otherwise it needs the extra ``torch``, and the four files of MNIST where
``load_images`` finds them.
"""

from unseen.data.federated.images import load_images
from unseen.data.federated.partition import Dirichlet, deal
from unseen.learners.horizontal.neural.augment import Shift
from unseen.learners.horizontal.neural.models import niid_cnn
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Examples, LocalPlan
from unseen.learners.horizontal.strategies.fed_avg import fed_avg
from unseen.rounds.cohort import Uniform
from unseen.rounds.evaluation import compare
from unseen.rounds.simulate import Settings, Simulation

digits = load_images("mnist")
clients = deal(digits.train, Dirichlet(1.0), 300, seed=0)
plan = LocalPlan(learning_rate=0.05, momentum=0.9, epochs=4, batch=20, decay=0.985)
settings = Settings(Uniform(30), evaluate_every=10)

if __name__ == "__main__":
    trainer = TorchTrainer(niid_cnn, augment=Shift(1))
    with Simulation(clients, trainer, fed_avg(plan), settings, test=Examples(*digits.test)) as simulation:
        simulation.rounds(
            100, observe=lambda one: one.test and print(f"round {one.number:3}: {one.test['accuracy']:.4f}")
        )
        print("accuracy on 10,000 digits that no client has:")
        for name, metrics in compare(simulation, plan, alone=5).rows():
            print(f"{name:26} {metrics['accuracy']:.4f}")
