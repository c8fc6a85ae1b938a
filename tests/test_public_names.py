import subprocess
import sys
from importlib import import_module

import pytest

import unseen
from unseen import horizontal

NAMES = [
    "VERSION",
    "DataError",
    "Flow",
    "FlowSpec",
    "Options",
    "PartyId",
    "Role",
    "SimulationResult",
    "UnseenError",
    "UsageError",
    "simulate",
]


def isort_key(name):
    """Constants first, then classes, then functions, each in the order of the alphabet."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_the_public_names_are_these():
    """A promise to users: a name that is added or taken away changes this list, on purpose."""
    assert unseen.__all__ == NAMES
    assert sorted(NAMES, key=isort_key) == NAMES
    assert len(NAMES) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(unseen, name)
    assert value is not None
    if not isinstance(value, str):
        assert value.__doc__
        assert value.__module__.startswith("unseen.")


def test_every_place_of_a_name_is_promised():
    assert sorted(unseen._HOME) == sorted(NAMES)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'unseen' has no attribute 'Floe'"):
        _ = unseen.Floe


def test_the_import_loads_nothing_heavy():
    code = "import sys, unseen; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "unseen" in loaded
    assert not {"numpy", "polars", "numba", "grpc", "pydantic", "rich", "typer"} & set(loaded)


def test_every_name_of_horizontal_learning_is_there_and_nothing_else():
    pytest.importorskip("torch", reason="models are PyTorch's: pip install 'unseen[torch]'")
    assert sorted(horizontal.__all__) == sorted(horizontal._HOME)
    for name, home in horizontal._HOME.items():
        found = getattr(horizontal, name)
        assert found is getattr(import_module(home), name)
        assert found.__module__.startswith("unseen.")
    with pytest.raises(AttributeError, match=r"'unseen.horizontal' has no attribute 'Simulations'"):
        _ = horizontal.Simulations
