"""The loop of trees after Goldreich, Goldwasser and Micali: from the nodes of one level to those of the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled

Words = NDArray[np.uint64]


@compiled
def children(parents: Words, left: Words, right: Words, skipped: NDArray[np.int64], nodes: Words, sums: Words) -> None:
    """Write the children of all nodes of one level, and the sums of the left and of the right ones of each tree.

    ``parents``, ``left`` and ``right`` have shape (trees, p, 2): the nodes, and what a permutation makes of them for
    each side. ``nodes``, shape (trees, c, at least 2) with c = 2p or 2p − 1, takes the children, ``sums``, shape
    (trees, 2, 2), the sums. The children of node ``skipped[tree]`` are unknown: they are zero, and in no sum.
    """
    count = nodes.shape[1]
    for tree in range(len(parents)):
        sums[tree] = np.uint64(0)
        for parent in range(parents.shape[1]):
            child = 2 * parent
            if parent == skipped[tree]:
                nodes[tree, child : child + 2, :2] = np.uint64(0)
                continue
            low, high = parents[tree, parent, 0], parents[tree, parent, 1]
            a, b = left[tree, parent, 0] ^ low, left[tree, parent, 1] ^ high
            nodes[tree, child, 0], nodes[tree, child, 1] = a, b
            sums[tree, 0, 0] ^= a
            sums[tree, 0, 1] ^= b
            if child + 1 < count:
                a, b = right[tree, parent, 0] ^ low, right[tree, parent, 1] ^ high
                nodes[tree, child + 1, 0], nodes[tree, child + 1, 1] = a, b
                sums[tree, 1, 0] ^= a
                sums[tree, 1, 1] ^= b
