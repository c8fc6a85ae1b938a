"""Rows of a pooled set: grouped, cut into sizes, drawn by label."""

from __future__ import annotations

import numpy as np

from unseen.data.federated.clients import Array, Rows


def by_label(labels: Array) -> list[Rows]:
    """Return the rows of every label, labels and rows in ascending order."""
    values, which = np.unique(labels, return_inverse=True)
    return grouped(which, len(values))


def grouped(owner: Array, count: int) -> list[Rows]:
    """Return the rows of every owner 0 … count - 1, in ascending order."""
    ends = np.cumsum(np.bincount(owner, minlength=count))
    return [rows.astype(np.int64) for rows in np.split(np.argsort(owner, kind="stable"), ends[:-1])]


def equal_sizes(total: int, parts: int) -> Rows:
    """Return sizes that add up to ``total`` and differ by one at most, larger ones first."""
    return np.full(parts, total // parts, np.int64) + (np.arange(parts) < total % parts)


def sizes_like(weights: Array, total: int) -> Rows:
    """Return sizes of one or more that add up to ``total``, the rest in proportion to weights (largest remainders)."""
    shares = weights / weights.sum() * (total - len(weights))
    sizes: Rows = np.floor(shares).astype(np.int64)
    most = np.argsort(sizes - shares, kind="stable")[: total - len(weights) - int(sizes.sum())]
    sizes[most] += 1
    sizes += 1
    return sizes


def random_cut(sizes: Rows, rng: np.random.Generator) -> list[Rows]:
    """Return random rows, as many for each client as ``sizes`` says."""
    return [np.sort(rows) for rows in np.split(rng.permutation(int(sizes.sum())), np.cumsum(sizes)[:-1])]


def draw_labels(prior: Array, left: Rows, size: int, rng: np.random.Generator) -> Rows:
    """Return how many of each label are drawn by a mix ~ Dirichlet(prior), never more than are ``left``.

    What is drawn of labels that ran out is drawn again from the others, by the same mix, or by a new one of the others
    if the mix has nothing of them.
    """
    mix, taken = rng.dirichlet(prior), np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        open_ = left > taken
        chances = np.where(open_, mix, 0.0)
        if not chances.sum() > 0:
            chances[open_] = rng.dirichlet(prior[open_])
        taken += np.minimum(rng.multinomial(missing, chances / chances.sum()), left - taken)
    return taken
