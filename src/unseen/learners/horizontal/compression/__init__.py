"""Compression of updates: fewer numbers, or fewer bits a number, with measured bytes and loss."""

from unseen.learners.horizontal.compression.compressed import Compressed, compressed
from unseen.learners.horizontal.compression.encoded import Codec, Encoded, wire_bytes
from unseen.learners.horizontal.compression.quantised import Quantised
from unseen.learners.horizontal.compression.top_k import TopK

__all__ = ["Codec", "Compressed", "Encoded", "Quantised", "TopK", "compressed", "wire_bytes"]
