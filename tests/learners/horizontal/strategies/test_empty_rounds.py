"""A round in which nobody was heard does not stop any strategy; under differential privacy it must not even show."""

import numpy as np
import pytest

from unseen.learners.horizontal.strategies.registry import STRATEGIES, parameters, strategy

NEEDED = {"clients": 10, "local": ("norm",), "head": ("head",)}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_nobody_is_heard(name):
    process = strategy(name, **{key: value for key, value in NEEDED.items() if key in parameters(name)})
    state = process.start(np.ones(6, np.float32))
    for number in (1, 2):
        state, aggregate = process.next(state, [])
        assert (state.round, aggregate.clients) == (number, 0)
        np.testing.assert_array_equal(state.model, np.ones(6, np.float32))
