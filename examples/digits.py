"""Handwritten digits of 300 clients with different mixes of digits: one network, trained by federated averaging.

``make digits`` fetches MNIST and runs it. Otherwise it needs the extra ``torch``, and the four files of MNIST where
``load_images`` finds them.
"""

from dataclasses import replace

from unseen import horizontal as hz

digits = hz.load_images("mnist")
clients = hz.deal(digits.train, hz.Dirichlet(1.0), 300, seed=0)
plan = hz.LocalPlan(learning_rate=0.05, momentum=0.9, epochs=4, batch=20, decay=0.985)
trainer, test = hz.TorchTrainer(hz.niid_cnn, augment=hz.Shift(1)), hz.Examples(*digits.test)
settings = hz.Settings(hz.Uniform(30), evaluate_every=20)

if __name__ == "__main__":
    with hz.Simulation(clients, trainer, hz.fed_avg(plan), settings, test=test) as simulation:
        simulation.rounds(100, observe=lambda one: one.test and print(one.number, one.test))
        for name, metrics in hz.compare(simulation, plan, pooled=replace(plan, learning_rate=0.01)).rows():
            print(f"{name:27} {metrics['accuracy']:.4f}")
