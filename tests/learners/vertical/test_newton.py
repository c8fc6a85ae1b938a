"""Newton's method on what peers may have contributed to."""

import numpy as np
import pytest

from unseen.learners.vertical.newton import Problem, minimise
from unseen.learners.vertical.setting import NOTE_CHARACTERS, told


@pytest.mark.parametrize("penalty", [-1e-13, -1.0, 1e100])
def test_a_hostile_penalty_ends_the_minimisation_and_nothing_else(penalty):
    """With -1e-13 the ridge is cancelled and the Hessian exactly singular, which raised LinAlgError."""
    design = np.column_stack([np.ones(100), np.zeros(100)])
    problem = Problem(design, np.arange(100) % 2.0, np.diag([0.0, penalty]))
    fit = minimise(problem, np.array([0.1, 0.1]), 1e-9)
    assert fit.coefficients.shape == (2,)


def test_a_remark_of_a_peer_is_printable_and_short():
    assert told("\x1b]0;owned\x07done") == "]0;owneddone"
    assert len(told("x" * 10**6)) == NOTE_CHARACTERS
