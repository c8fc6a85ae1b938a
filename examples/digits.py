"""Handwritten digits of 300 clients with different mixes of digits: one network, trained by federated averaging.

``make digits`` fetches MNIST and runs it. Otherwise it needs the extra ``torch``, and the four files of MNIST where
``load_images`` finds them.
"""

from dataclasses import replace

from unseen.horizontal import (
    Dirichlet,
    Examples,
    LocalPlan,
    Settings,
    Shift,
    Simulation,
    TorchTrainer,
    Uniform,
    compare,
    deal,
    load_images,
    niid_cnn,
    strategy,
)

digits = load_images("mnist")
clients = deal(digits.train, Dirichlet(1.0), 300, seed=0)
plan = {"learning_rate": 0.05, "momentum": 0.9, "epochs": 4, "batch": 20, "decay": 0.985}
trainer = TorchTrainer(niid_cnn, augment=Shift(1))
settings = Settings(Uniform(30), evaluate_every=10)

if __name__ == "__main__":
    with Simulation(clients, trainer, strategy("fed_avg", **plan), settings, test=Examples(*digits.test)) as simulation:
        simulation.rounds(100, observe=lambda one: one.test and print(f"{one.number:3}  {one.test['accuracy']:.4f}"))
        local = LocalPlan(**plan)
        for name, metrics in compare(simulation, local, pooled=replace(local, learning_rate=0.01), alone=5).rows():
            print(f"{name:26} {metrics['accuracy']:.4f}")
