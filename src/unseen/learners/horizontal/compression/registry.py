"""Every codec by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from unseen.learners.horizontal.compression.encoded import Codec
from unseen.learners.horizontal.compression.quantised import Quantised
from unseen.learners.horizontal.compression.top_k import TopK

CODECS: Mapping[str, Callable[..., Codec]] = MappingProxyType({"quantised": Quantised, "top_k": TopK})
"""``compressed`` sends through one of them."""
