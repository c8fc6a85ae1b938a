"""What a node's own programs are started with."""

from __future__ import annotations

import os

_KEPT = frozenset({"PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ"})
_KEPT_PREFIXES = ("BLIS_", "MKL_", "NUMBA_", "OMP_", "OPENBLAS_", "POLARS_")
"""Of what tells libraries how to compute: a worker's last bits are to be those of any other process here."""


def bare_environment() -> dict[str, str]:
    """Return this process's environment without anything that may be a secret."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
