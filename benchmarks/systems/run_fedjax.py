"""FedJAX's federated averaging, its ``jit`` backend; needs ``fedjax``."""

from __future__ import annotations

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms.fed_avg import federated_averaging
from workload import Laps, Workload, given

Weights = list[jax.Array]
LINES = ("NHWC", "HWIO", "NHWC")


def outputs(weights: Weights, images: jax.Array) -> jax.Array:
    """Return the outputs of the benchmark's model, whose weights lie as in PyTorch."""
    x = images.astype(jnp.float32)[..., None] / 255
    if len(weights) > 2:
        kernel, bias, dense, dense_bias = weights[:4]
        x = jax.lax.conv_general_dilated(
            x, jnp.transpose(kernel, (2, 3, 1, 0)), (1, 1), "VALID", dimension_numbers=LINES
        )
        x = jax.nn.relu(x + bias).reshape(len(x), 13, 2, 13, 2, 32).max((2, 4))
        x = jax.nn.relu(jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1) @ dense.T + dense_bias)
    return x.reshape(len(x), -1) @ weights[-2].T + weights[-1]


def loss(weights: Weights, batch: dict[str, jax.Array], rng: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of a batch."""
    del rng
    logarithms = jax.nn.log_softmax(outputs(weights, batch["x"]))
    return -jnp.take_along_axis(logarithms, batch["y"][:, None], 1).mean()


def accuracy(weights: Weights, work: Workload) -> float:
    """Return the share of test images that are told right."""
    told = [jax.jit(outputs)(weights, part).argmax(1) for part in np.array_split(work.test_images, 10)]
    return float((np.concatenate(told) == work.test_labels).mean())


def main() -> None:
    """Run it."""
    work = given()
    batches = fedjax.ShuffleRepeatBatchHParams(batch_size=work.batch, num_epochs=work.epochs)
    optimisers = fedjax.optimizers.sgd(work.learning_rate), fedjax.optimizers.sgd(1.0)
    laps = Laps()
    with fedjax.for_each_client_backend("jit"):
        algorithm = federated_averaging(jax.grad(loss), *optimisers, batches)
        state = algorithm.init([jnp.asarray(weight) for weight in work.weights])
        for number, cohort in enumerate(work.cohorts):
            laps.begin()
            keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
            clients = []
            for client, key in zip(cohort, keys, strict=True):
                images, labels = work.client(client)
                held = fedjax.ClientDataset({"x": images, "y": labels.astype(np.int32)})
                clients.append((str(client).encode(), held, key))
            state, _ = algorithm.apply(state, clients)
            jax.block_until_ready(state.params)
            laps.end()
    laps.report(accuracy(state.params, work))


if __name__ == "__main__":
    main()
